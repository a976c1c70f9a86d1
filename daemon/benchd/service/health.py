"""Whether the daemon's threads live, and whether its work moves."""

from __future__ import annotations

import time
from collections.abc import Iterable
from threading import Thread

from benchd.service.loop import Counts
from benchd.service.workers import Workers

__all__ = ["Health"]


class Health:
    """Checks threads and progress. Only one thread may use it."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        #: The number of results when work last moved, and when (monotonic) that was.
        self._moved = (0, time.monotonic())

    def trouble(self, workers: Workers, watchers: Iterable[Thread], *, limit: float) -> str | None:
        """Return what is wrong, or None. Work that has not moved for `limit` seconds is stuck."""
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
            return f"{ready} audits wait and none is answered"
        return None
