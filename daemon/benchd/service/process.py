"""The life of the daemon: start, ready, reload, stop. Owns the process: its signals, its threads, its exit.

Everything else is owned elsewhere; this module only connects the rooms, waits for signals, and tells systemd.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from benchd import __version__
from benchd.folder.folder import Folder
from benchd.service.health import Health
from benchd.service.loop import Counts
from benchd.service.systemd import notify, reloading, watchdog_seconds
from benchd.service.workers import Workers
from benchd.settings.base import base_digest
from benchd.settings.keys import SECTIONS, FolderSettings, Settings
from benchd.settings.reading import SettingsError
from benchd.trail.lines import Render
from benchd.trail.records import Degraded, Ready, Reloaded, ReloadFailed, Started, Stopped, Stopping, ThreadFailed
from benchd.trail.trail import Trail
from benchd.watching.lock import FolderLock, Occupied
from benchd.watching.watcher import Watcher

__all__ = ["Service", "block_signals", "changed_settings"]

#: malloc.h: options of mallopt(3), and what they are set to.
_HEAP: Final = (
    (-8, 1),  # M_ARENA_MAX: one heap
    (-3, 2**20),  # M_MMAP_THRESHOLD: what is larger has a mapping of its own, and leaves no hole that the next misses
    (-1, 4 * 2**20),  # M_TRIM_THRESHOLD: so much is kept at the end, not given back and asked for again all the time
)

_STOPPING: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_SIGNALS: Final = _STOPPING | {signal.SIGHUP}

#: A folder that takes longer than this to open (a file server that is slow to answer) does not keep the others waiting.
_READY_SECONDS: Final = 30.0

#: What is in flight gets this long to end after a signal.
_GRACE_SECONDS: Final = 0.8

#: And this long before a changed folder is watched with its new settings.
_HANDOVER_SECONDS: Final = 10.0


def block_signals() -> None:
    """Keep the signals of the service for its main thread. Call before any thread starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def changed_settings(settings: Settings) -> dict[str, Any]:
    """The settings that are not the default, by dotted key, and the watched folders."""
    changed: dict[str, Any] = {"watch": [folder.path for folder in settings.watch]}
    for section, shape in SECTIONS.items():
        changed.update(_differences(section, getattr(settings, section), shape()))
    for index, folder in enumerate(settings.watch):
        general = FolderSettings(path=folder.path, selection=settings.selection, bench=settings.bench)
        changed.update(_differences(f"watch[{index}]", folder, general))
    return changed


def _differences(where: str, values: msgspec.Struct, general: msgspec.Struct) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in msgspec.structs.asdict(values).items():
        other = getattr(general, key)
        if isinstance(value, msgspec.Struct):
            found.update(_differences(f"{where}.{key}", value, other))
        elif value != other:
            found[f"{where}.{key}"] = value
    return found


class Service:
    """One daemon over any number of folders.

    `reread` gives the settings anew, or raises `SettingsError`; it is called on SIGHUP, on the main thread. `make_lock`
    is for tests.
    """

    def __init__(
        self,
        settings: Settings,
        trail: Trail,
        *,
        reread: Callable[[], Settings] | None = None,
        console: Render | None = None,
        make_lock: Callable[[str], FolderLock] = FolderLock,
    ) -> None:
        self._settings = settings
        self._trail = trail
        self._reread = reread or (lambda: settings)
        self._console = console
        self._make_lock = make_lock
        self._started = time.monotonic()
        self._failure: str | None = None
        self._complaint = ""
        self._counts = Counts()
        self._health = Health(self._counts)
        self._workers = self._make_workers()
        self._watchers = {folder.path: self._make_watcher(folder) for folder in settings.watch}

    def _make_workers(self) -> Workers:
        return Workers(self._settings.watching, self._trail, self._counts, on_refused=self._rescan)

    def _make_watcher(self, settings: FolderSettings) -> Watcher:
        watching = self._settings.watching
        folder = Folder(settings, max_bytes=watching.max_bytes, nested=_nested(settings.path, self._settings))
        loop, instances = self._workers.loop_for(settings)
        return Watcher(
            folder,
            loop.inbox,
            self._trail,
            instances=instances,
            rescan_interval=watching.rescan_interval,
            lock=self._make_lock(folder.path),
        )

    def claim(self) -> None:
        """Take all folders. Raises `Occupied` if another benchd has one; then none is taken."""
        watchers = list(self._watchers.values())
        for index, watcher in enumerate(watchers):
            try:
                watcher.claim()
            except Occupied:
                for claimed in watchers[:index]:
                    claimed.unclaim()
                raise

    # --- the main thread -----------------------------------------------------------------------------------

    def run(self) -> int:
        """Watch and answer until a signal comes. Returns the exit code: 0, or 1 after a failure of our own."""
        _share_one_heap()
        _tell_of_library_logs(self._trail)
        threading.excepthook = self._thread_died
        sys.unraisablehook = self._unraisable
        self._trail.write(Started(version=__version__, pid=os.getpid(), settings=changed_settings(self._settings)))
        self._workers.start()
        for watcher in self._watchers.values():
            watcher.start()
        self._await_watched(list(self._watchers.values()))
        roots = [path for path, watcher in self._watchers.items() if watcher.present]
        self._trail.write(Ready(roots=roots, duration_ms=round((time.monotonic() - self._started) * 1000, 3)))
        gc.freeze()  # all that is there now is there for good: no collection need look at it again
        notify(READY="1", STATUS=self._status())
        while (received := self._await_signal()) == signal.SIGHUP:
            self._reload()
        self._stop(signal.Signals(received).name)
        return 1 if self._failure else 0

    @staticmethod
    def _await_watched(watchers: list[Watcher]) -> None:
        """Wait until each folder is watched or known to be missing; not for ever, and not against a signal to stop."""
        deadline = time.monotonic() + _READY_SECONDS
        for watcher in watchers:
            while not watcher.watched.wait(0.05):
                if time.monotonic() > deadline or signal.sigpending() & _STOPPING:
                    return

    def _await_signal(self) -> int:
        """The next signal. Meanwhile systemd's watchdog, if there is one, hears from us while all is well."""
        interval = watchdog_seconds()
        if interval is None or not hasattr(signal, "sigtimedwait"):
            return signal.sigwait(_SIGNALS)
        while True:
            received = signal.sigtimedwait(_SIGNALS, interval / 3)
            if received is not None:
                return received.si_signo
            trouble = self._health.trouble(
                self._workers, [watcher.thread for watcher in self._watchers.values()], limit=interval
            )
            if trouble is None:
                notify(WATCHDOG="1", STATUS=self._status())
            else:
                notify(STATUS=f"{trouble}; no longer telling the watchdog that all is well")

    def _status(self) -> str:
        """What matters, in one line."""
        missing = [path for path, watcher in self._watchers.items() if not watcher.present]
        ready, delayed = self._workers.waiting()
        parts = [
            f"{len(self._watchers)} folder{'' if len(self._watchers) == 1 else 's'}",
            *(f"waiting for {path}" for path in missing),
            f"{self._counts.answered} answered",
            f"{self._counts.rejected} rejected",
            f"{ready + delayed} waiting",
        ]
        if self._counts.last_answer:
            parts.append(f"last: {self._counts.last_answer}")
        if self._complaint:
            parts.append(self._complaint)
        return ", ".join(parts)

    def _reload(self) -> None:
        reloading()
        try:
            settings = self._reread()
        except SettingsError as error:
            self._complaint = f"reload failed: {error.problems[0]}"
            self._trail.write(ReloadFailed(problems=error.problems))
        else:
            self._complaint = ""
            self._apply(settings)
            self._trail.write(Reloaded(settings=changed_settings(settings)))
        notify(READY="1", STATUS=self._status())

    def _apply(self, settings: Settings) -> None:
        """Put new settings in force. No drop is lost: what happens meanwhile, the new watchers' first scan finds."""
        before, self._settings = self._settings, settings
        self._trail.reopen(settings.trail, console=self._console)
        kept = {
            path: watcher
            for path, watcher in self._watchers.items()
            if before.watching == settings.watching
            and _nested(path, before) == _nested(path, settings)
            and any(_same(watcher.folder.settings, folder) for folder in settings.watch)
        }
        retired = [watcher for path, watcher in self._watchers.items() if path not in kept]
        for watcher in retired:
            watcher.stop()
        for watcher in retired:
            watcher.thread.join(_HANDOVER_SECONDS)
            # An answer by the old settings must not come after one by the new.
            watcher.inbox.drop(watcher.folder)
            watcher.inbox.await_idle(watcher.folder, _HANDOVER_SECONDS)
            self._workers.release(watcher.folder.settings)
        if before.watching != settings.watching:
            self._workers.stop()
            self._workers = self._make_workers()
            self._workers.start()
        self._watchers = {folder.path: kept.get(folder.path) or self._make_watcher(folder) for folder in settings.watch}
        fresh = [watcher for path, watcher in self._watchers.items() if path not in kept]
        for watcher in fresh:
            watcher.start()
        self._await_watched(fresh)

    def _stop(self, cause: str) -> None:
        notify(STOPPING="1")
        self._trail.write(Stopping(signal=self._failure or cause))
        deadline = time.monotonic() + _GRACE_SECONDS
        for watcher in self._watchers.values():
            watcher.stop()
        self._workers.stop()
        self._workers.join(_GRACE_SECONDS)
        for watcher in self._watchers.values():
            watcher.thread.join(max(0.05, deadline - time.monotonic()))
        counts = self._counts
        self._trail.write(
            Stopped(answered=counts.answered, rejected=counts.rejected, waiting=sum(self._workers.waiting()))
        )

    # --- other threads -------------------------------------------------------------------------------------

    def _rescan(self, folder: Folder) -> None:
        """The inbox had to drop something of `folder`: only a full scan finds it again."""
        folder.forget_scans()
        watcher = self._watchers.get(folder.path)
        if watcher is not None and watcher.folder is folder:
            watcher.request_scan("inbox full")

    def _thread_died(self, arguments: threading.ExceptHookArgs) -> None:
        """A thread of ours or of a library ended by an exception: record it, and end the process so that all see it."""
        name = arguments.thread.name if arguments.thread else "?"
        self._failure = f"thread {name} died of {arguments.exc_type.__name__}: {arguments.exc_value}"
        self._trail.write(ThreadFailed(thread=name, error=self._failure, recovery="benchd stops, to be started again"))
        os.kill(os.getpid(), signal.SIGTERM)

    def _unraisable(self, arguments: sys.UnraisableHookArgs) -> None:
        """An exception where Python can't raise one, as in a finalizer: recorded, for nobody else would hear of it."""
        error = f"{arguments.exc_type.__name__}: {arguments.exc_value} in {arguments.object!r}"
        name = threading.current_thread().name
        self._trail.write(ThreadFailed(thread=name, error=error, recovery="none is needed: it goes on"))


def _same(one: FolderSettings, other: FolderSettings) -> bool:
    """Return whether both give the same answers. The order of a base's keys counts, and `==` ignores it."""
    return one == other and base_digest(one.bench.base) == base_digest(other.bench.base)


def _nested(path: str, settings: Settings) -> frozenset[str]:
    """The watched folders inside `path`, relative to it: each belongs to its own watcher alone."""
    prefix = os.path.join(path, "")
    return frozenset(other.path.removeprefix(prefix) for other in settings.watch if other.path.startswith(prefix))


def _tell_of_library_logs(trail: Trail) -> None:
    """Have what libraries log as a warning, or worse, in the trail: on standard error it would be a line of text."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            trail.write(Degraded(root="", reason=f"{record.name}: {record.getMessage()}"))

    logging.getLogger().addHandler(Handler(logging.WARNING))


def _share_one_heap() -> None:
    """Have all threads take their memory from one place, where the C library is glibc.

    It gives each new thread a heap of its own, up to eight a core, and each keeps what one large file took there once.
    Python's own lock lets one thread allocate at a time anyway.
    """
    with contextlib.suppress(OSError, AttributeError):
        for option, value in _HEAP:
            ctypes.CDLL(None).mallopt(option, value)
