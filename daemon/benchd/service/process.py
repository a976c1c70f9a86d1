"""Run the daemon from start to exit: signals, readiness, reload, stop.

Other packages own everything else. This module connects them, waits for signals, and notifies systemd.
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

#: Options of mallopt(3), with their numbers from malloc.h, and their values.
_HEAP: Final = (
    (-8, 1),  # M_ARENA_MAX: one heap
    (-3, 2**20),  # M_MMAP_THRESHOLD, bytes: larger blocks get a separate mapping, so they leave no holes in the heap
    (-1, 4 * 2**20),  # M_TRIM_THRESHOLD, bytes: keep this much free memory instead of returning it and asking again
)

_STOPPING: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_SIGNALS: Final = _STOPPING | {signal.SIGHUP}

#: Seconds. The service becomes ready without a folder that takes longer to open, for example on a slow file server.
_READY_SECONDS: Final = 30.0

#: Seconds that the threads get to finish after a signal.
_GRACE_SECONDS: Final = 0.8

#: Seconds that the old watcher of a changed folder gets to finish.
_HANDOVER_SECONDS: Final = 10.0


def block_signals() -> None:
    """Block the service's signals, so that only its main thread receives them. Call it before any thread starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def changed_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings that differ from their defaults, by dotted key, and the watched folders."""
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
    """Runs one daemon for any number of folders.

    `reread` returns the new settings after SIGHUP, or raises `SettingsError`. The main thread calls it. `make_lock` is
    for tests.
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
        """Lock all folders. If another benchd has one of them, lock none and raise `Occupied`."""
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
        """Watch and answer until a signal comes. Return the exit code: 0, or 1 after a failure of benchd."""
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
        gc.freeze()  # all present objects live until the end, so the collector can skip them
        notify(READY="1", STATUS=self._status())
        while (received := self._await_signal()) == signal.SIGHUP:
            self._reload()
        self._stop(signal.Signals(received).name)
        return 1 if self._failure else 0

    @staticmethod
    def _await_watched(watchers: list[Watcher]) -> None:
        """Wait until each folder is watched or known to be missing, but stop at a deadline or a signal."""
        deadline = time.monotonic() + _READY_SECONDS
        for watcher in watchers:
            while not watcher.watched.wait(0.05):
                if time.monotonic() > deadline or signal.sigpending() & _STOPPING:
                    return

    def _await_signal(self) -> int:
        """Return the next signal. Meanwhile notify systemd's watchdog, if there is one, as long as all is well."""
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
                notify(STATUS=f"{trouble}; benchd no longer notifies the watchdog")

    def _status(self) -> str:
        """Return the status line for systemd."""
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
            self._apply(settings)
        except SettingsError as error:
            self._complaint = f"reload failed: {error.problems[0]}"
            self._trail.write(ReloadFailed(problems=error.problems))
        else:
            self._complaint = ""
            self._trail.write(Reloaded(settings=changed_settings(settings)))
        notify(READY="1", STATUS=self._status())

    def _apply(self, settings: Settings) -> None:
        """Apply new settings. The first scan of the new watchers finds the drops that arrive meanwhile.

        Raises `SettingsError`, and leaves everything as it was, if the process can't open what they need.
        """
        before, workers = self._settings, self._workers
        kept = {
            path: watcher
            for path, watcher in self._watchers.items()
            if before.watching == settings.watching
            and _nested(path, before) == _nested(path, settings)
            and any(_same(watcher.folder.settings, folder) for folder in settings.watch)
        }
        retired = [watcher for path, watcher in self._watchers.items() if path not in kept]
        fresh: dict[str, Watcher] = {}
        self._settings = settings
        if before.watching != settings.watching:
            self._workers = self._make_workers()
        try:
            for folder in settings.watch:
                if folder.path not in kept:
                    fresh[folder.path] = self._make_watcher(folder)
        except OSError as error:
            self._discard(list(fresh.values()), workers)
            self._settings, self._workers = before, workers
            raise SettingsError([f"benchd watch: {error.strerror}; the old settings stay active"]) from None
        self._trail.reopen(settings.trail, console=self._console)
        for watcher in retired:
            watcher.stop()
            # An answer with the old settings must not replace one with the new settings. This also ends a scan that
            # waits for room in the inbox.
            watcher.inbox.drop(watcher.folder)
        for watcher in retired:
            watcher.thread.join(_HANDOVER_SECONDS)
            watcher.inbox.await_idle(watcher.folder, _HANDOVER_SECONDS)
            workers.release(watcher.inbox)
        if self._workers is not workers:
            workers.stop()
            self._workers.start()
        self._watchers = {folder.path: kept.get(folder.path) or fresh[folder.path] for folder in settings.watch}
        for watcher in fresh.values():
            watcher.start()
        self._await_watched(list(fresh.values()))

    def _discard(self, watchers: list[Watcher], running: Workers) -> None:
        """Close what watchers that were not started have opened, and the workers, unless they are those `running`."""
        if self._workers is running:
            for watcher in watchers:
                running.release(watcher.inbox)
        else:
            self._workers.start()  # each thread closes its own descriptors as it ends
            self._workers.stop()

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
        """Request a full scan of `folder`, because the inbox has refused hints about it."""
        folder.forget_scans()
        watcher = self._watchers.get(folder.path)
        if watcher is not None and watcher.folder is folder:
            watcher.request_scan("inbox full")

    def _thread_died(self, arguments: threading.ExceptHookArgs) -> None:
        """Record that an exception ended a thread of benchd or of a library, and end the process."""
        name = arguments.thread.name if arguments.thread else "?"
        self._failure = f"thread {name} died of {arguments.exc_type.__name__}: {arguments.exc_value}"
        self._trail.write(ThreadFailed(thread=name, error=self._failure, recovery="benchd stops and must be restarted"))
        os.kill(os.getpid(), signal.SIGTERM)

    def _unraisable(self, arguments: sys.UnraisableHookArgs) -> None:
        """Record an exception that Python can't raise, for example from a finalizer."""
        error = f"{arguments.exc_type.__name__}: {arguments.exc_value} in {arguments.object!r}"
        name = threading.current_thread().name
        self._trail.write(ThreadFailed(thread=name, error=error, recovery="none needed; the thread continues"))


def _same(one: FolderSettings, other: FolderSettings) -> bool:
    """Return whether both settings give the same answers. `==` ignores the order of a base's keys, which counts."""
    return one == other and base_digest(one.bench.base) == base_digest(other.bench.base)


def _nested(path: str, settings: Settings) -> frozenset[str]:
    """Return the watched folders inside `path`, relative to it. Each has a separate watcher."""
    prefix = os.path.join(path, "")
    return frozenset(other.path.removeprefix(prefix) for other in settings.watch if other.path.startswith(prefix))


def _tell_of_library_logs(trail: Trail) -> None:
    """Write the warnings and errors that libraries log to the trail, which keeps standard error free of other text."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            trail.write(Degraded(root="", reason=f"{record.name}: {record.getMessage()}"))

    logging.getLogger().addHandler(Handler(logging.WARNING))


def _share_one_heap() -> None:
    """Make all threads use one heap, if the C library is glibc.

    By default glibc gives new threads separate heaps, up to eight for each core. Each heap keeps the memory that one
    large file needed once. The GIL lets one thread allocate at a time anyway.
    """
    with contextlib.suppress(OSError, AttributeError):
        for option, value in _HEAP:
            ctypes.CDLL(None).mallopt(option, value)
