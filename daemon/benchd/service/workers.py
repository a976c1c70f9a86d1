"""Assign each folder to the loop that answers it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from benchd.answering.batch import Answering
from benchd.answering.processes import count_workers
from benchd.folder.flushing import Flusher
from benchd.folder.folder import Folder
from benchd.inbox import Inbox
from benchd.service.loop import Counts, LargeLane, Loop
from benchd.settings.keys import FolderSettings, WatchingSettings
from benchd.trail.records import Degraded
from benchd.trail.trail import Trail
from benchd.watching.sources import open_instances, wants_polling

if TYPE_CHECKING:
    from benchd.watching.inotify import Instances

__all__ = ["Workers"]

#: With the GIL one thread runs at a time, so more loops would not be faster.
_HAS_GIL: Final = getattr(sys, "_is_gil_enabled", lambda: True)()


class Workers:
    """The loops of a service, and the lane for large files.

    Folders on inotify share one loop, or with a free-threaded Python as many loops as `watching.workers` says. Each
    polled folder has a separate loop, so that a slow file server does not delay other folders. `has_gil` and
    `open_instances` are for tests.
    """

    def __init__(
        self,
        settings: WatchingSettings,
        trail: Trail,
        counts: Counts,
        *,
        on_refused: Callable[[Folder], None] = lambda _: None,
        has_gil: bool = _HAS_GIL,
        open_instances: Callable[[Loop], Instances | None] = open_instances,
    ) -> None:
        self._trail = trail
        self._counts = counts
        self._on_refused = on_refused
        workers = count_workers(settings.workers)
        self._answering = Answering(trail, settle=settings.settle, flusher=Flusher(workers))
        self._most_shared = 1 if has_gil else workers
        self.large = LargeLane(self._answering, counts, trail)
        self._shared: list[tuple[Loop, Instances | None]] = []
        self._own: list[Loop] = []
        self._assigned = 0
        self._is_started = False
        self._open_instances = open_instances
        #: The record to write at the start if watchdog lacks a function for inotify.
        self._degraded: Degraded | None = None

    @property
    def loops(self) -> list[Loop]:
        """Return all loops."""
        return [*(loop for loop, _ in self._shared), *self._own]

    @property
    def threads(self) -> list[threading.Thread]:
        """Return all threads that answer."""
        return [*(loop.thread for loop in self.loops), self.large.thread]

    def loop_for(self, settings: FolderSettings) -> tuple[Loop, Instances | None]:
        """Return the loop that answers a folder, and the object that opens its inotify instances. Raises OSError."""
        if wants_polling(settings):
            loop = self._make(f"benchd-loop {settings.path}")
            self._own.append(loop)
            return loop, None
        if len(self._shared) < self._most_shared:
            loop = self._make(f"benchd-loop-{len(self._shared)}")
            self._shared.append((loop, self._instances_of(loop)))
        chosen = self._shared[self._assigned % len(self._shared)]
        self._assigned += 1
        return chosen

    def _instances_of(self, loop: Loop) -> Instances | None:
        try:
            return self._open_instances(loop)
        except (ImportError, AttributeError) as error:  # watchdog lacks a function, or a constant of a class
            if self._degraded is None:
                reason = f"this version of watchdog can't be used for inotify: {error}"
                self._degraded = Degraded(root="", reason=reason, instead="watchdog's observer")
                if self._is_started:
                    self._trail.write(self._degraded)
            return None

    def _make(self, name: str) -> Loop:
        loop = Loop(name, self._answering, self.large, self._counts, self._trail, on_refused=self._on_refused)
        if self._is_started:
            loop.thread.start()
        return loop

    def release(self, inbox: Inbox) -> None:
        """Stop the loop that `inbox` belongs to, if it is that of a polled folder; a shared one stays."""
        for loop in self._own:
            if loop.inbox is inbox:
                self._own.remove(loop)
                loop.stop()
                break

    def start(self) -> None:
        """Start all threads. Loops that are created later start at once."""
        self._is_started = True
        if self._degraded is not None:
            self._trail.write(self._degraded)
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """Ask all threads to end after their present batch. Return at once."""
        self.large.stop()
        for loop in self.loops:
            loop.stop()

    def join(self, seconds: float) -> bool:
        """Wait up to `seconds` until all threads have ended. Return whether they have."""
        deadline = time.monotonic() + seconds
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self.threads)

    def waiting(self) -> tuple[int, int]:
        """Return the number of audits that are ready or taken, and the number of those that are delayed."""
        counts = [loop.inbox.counts() for loop in self.loops]
        return sum(ready for ready, _ in counts), sum(delayed for _, delayed in counts)
