"""Check that the daemon's threads run and that its work makes progress."""

from __future__ import annotations

import time
from collections.abc import Iterable
from threading import Thread

from benchd.service.loop import Counts
from benchd.service.workers import Workers

__all__ = ["Health"]


class Health:
    """Checks threads and progress. Not thread-safe."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        #: The number of results at the last progress, and its time (monotonic, seconds).
        self._moved = (0, time.monotonic())

    def trouble(self, workers: Workers, watchers: Iterable[Thread], *, limit: float) -> str | None:
        """Return the problem, or None. Work without progress for `limit` seconds is stuck."""
        now = time.monotonic()
        dead = [thread.name for thread in [*workers.threads, *watchers] if not thread.is_alive()]
        if dead:
            return f"thread {dead[0]} is dead"
        busy = [(loop.thread, loop.busy_since) for loop in workers.loops]
        for thread, since in [*busy, (workers.large.thread, workers.large.busy_since)]:
            if since is not None and now - since > limit:
                return f"thread {thread.name} is stuck"
        ready, _ = workers.waiting()
        if not ready or self._counts.total != self._moved[0]:
            self._moved = (self._counts.total, now)
        elif now - self._moved[1] > limit:
            return f"{ready} audits wait, but none is being answered"
        return None
