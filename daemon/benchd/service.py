"""The life of the daemon: start, ready, stop. Owns the process: its signals, its threads, its exit.

Everything else is owned elsewhere; this module only connects the rooms and waits.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any, Final

import msgspec

from benchd import __version__
from benchd.answering import Answering, Outcome
from benchd.folder import Folder
from benchd.inbox import Inbox
from benchd.settings import FolderSettings, Settings
from benchd.trail import Trail
from benchd.watching import Watcher, open_reader
from benchd.workers import Workers

__all__ = ["Service", "block_signals", "changed_settings"]

_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})

#: What is in flight gets this long to end after a signal.
_GRACE_SECONDS: Final = 0.8


def block_signals() -> None:
    """Keep the signals of the service for its main thread. Call before any thread starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def changed_settings(settings: Settings) -> dict[str, Any]:
    """The settings that are not the default, by dotted key, and the watched folders."""
    changed: dict[str, Any] = {"watch": [folder.path for folder in settings.watch]}
    for section in ("watching", "selection", "bench", "trail"):
        values = getattr(settings, section)
        defaults = type(values)()
        for key, value in msgspec.structs.asdict(values).items():
            if value != getattr(defaults, key):
                changed[f"{section}.{key}"] = value
    return changed


class Service:
    """One daemon over any number of folders."""

    def __init__(self, settings: Settings, trail: Trail) -> None:
        self._settings = settings
        self._trail = trail
        self._started = time.monotonic()
        self._failure: str | None = None
        self._inbox = Inbox(on_refused=self._rescan)
        try:
            self._reader = open_reader()
        except OSError as error:
            self._reader = None
            reason = f"no inotify: {error.strerror}; raise it: sysctl fs.inotify.max_user_instances"
            trail.watch_degraded("", reason, instead="polling")
        self._answering = Answering(trail, settle=settings.watching.settle)
        self._workers = Workers(
            self._inbox,
            self._answering,
            trail,
            count=settings.watching.workers,
            durable=any(folder.bench.durable for folder in settings.watch),
        )
        self._watchers = [self._watcher(folder) for folder in settings.watch]

    def _watcher(self, settings: FolderSettings) -> Watcher:
        prefix = os.path.join(settings.path, "")
        nested = frozenset(
            other.path.removeprefix(prefix) for other in self._settings.watch if other.path.startswith(prefix)
        )
        folder = Folder(settings, max_bytes=self._settings.watching.max_bytes, nested=nested)
        return Watcher(
            folder,
            self._inbox,
            self._trail,
            reader=self._reader,
            rescan_interval=self._settings.watching.rescan_interval,
        )

    def claim(self) -> None:
        """Take all folders. Raises `Occupied` if another benchd has one."""
        for watcher in self._watchers:
            watcher.claim()

    def run(self) -> int:
        """Watch and answer until a signal comes. Returns the exit code: 0, or 1 after a failure of our own."""
        threading.excepthook = self._thread_died
        self._trail.started(version=__version__, pid=os.getpid(), settings=changed_settings(self._settings))
        if self._reader is not None:
            self._reader.start()
        self._workers.start()
        for watcher in self._watchers:
            watcher.start()
        for watcher in self._watchers:
            watcher.watched.wait()
        self._trail.ready(
            roots=[watcher.folder.path for watcher in self._watchers if watcher.present],
            duration_ms=(time.monotonic() - self._started) * 1000,
        )
        received = signal.sigwait(_SIGNALS)
        self._stop(signal.Signals(received).name)
        return 1 if self._failure else 0

    def _stop(self, cause: str) -> None:
        self._trail.stopping(signal=self._failure or cause)
        deadline = time.monotonic() + _GRACE_SECONDS
        waiting = len(self._inbox)
        self._inbox.close()
        for watcher in self._watchers:
            watcher.stop()
        self._workers.join(_GRACE_SECONDS)
        for watcher in self._watchers:
            watcher.thread.join(max(0.05, deadline - time.monotonic()))
        if self._reader is not None:
            self._reader.stop()
        counts = self._workers.counts
        self._trail.stopped(
            answered=counts[Outcome.SELECTED],
            rejected=counts[Outcome.REJECTED],
            waiting=max(0, waiting - sum(1 for since in self._workers.busy_since.values() if since is not None)),
        )

    def _rescan(self, folder: Folder) -> None:
        """The inbox had to drop something of `folder`: only a full scan finds it again."""
        folder.forget_scans()
        for watcher in self._watchers:
            if watcher.folder is folder:
                watcher.request_scan("inbox full")

    def _thread_died(self, arguments: threading.ExceptHookArgs) -> None:
        """A thread of ours or of a library ended by an exception: record it, and end the process so that all see it."""
        name = arguments.thread.name if arguments.thread else "?"
        self._failure = f"thread {name} died of {arguments.exc_type.__name__}: {arguments.exc_value}"
        self._trail.thread_failed(name, self._failure, recovery="benchd stops, to be started again")
        os.kill(os.getpid(), signal.SIGTERM)
