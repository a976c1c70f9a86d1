"""The threads that answer: take from the inbox, answer, give back; whatever happens.

The thread that reads the events lends a hand (`Workers.attend`): what has just been dropped it answers itself, which
is sooner done than another thread is woken, and cheaper. Where Python's lock lets one thread work at a time it answers
everything but large files, if it can be woken: several threads would hand that lock to each other all the time. The
others have what else there is, and whatever takes long.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, Literal

from benchd.answering.batch import Answering, Outcome, Result, give_back
from benchd.answering.processes import count_workers
from benchd.inbox import Inbox, Work
from benchd.trail.records import ThreadFailed
from benchd.trail.trail import Trail

__all__ = ["Counts", "Workers", "count_threads", "count_workers"]


#: Python's lock lets one thread work at a time; more of them take turns at a price.
_ONE_AT_A_TIME: Final = getattr(sys, "_is_gil_enabled", lambda: True)()

#: When a batch has taken so long, the reader of events leaves answering to the workers for a while: it is needed.
_LONG: Final = 0.1
_FOR_A_WHILE: Final = 5.0

#: Answers of a batch share what they cost, and their waits for the disk.
_BATCH: Final = 32


def count_threads(setting: int | Literal["auto"], *, waits: bool) -> int:
    """How many threads it asks for: one, where more would only take turns; not where some wait while others work."""
    return 1 if setting == "auto" and _ONE_AT_A_TIME and not waits else count_workers(setting)


class Counts:
    """What has become of the audits of this process. Survives a change of workers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: Counter[Outcome] = Counter()
        self.last_answer: str | None = None

    def add(self, result: Result) -> None:
        """Count one result."""
        with self._lock:
            self._outcomes[result.outcome] += 1
            if result.outcome in {Outcome.SELECTED, Outcome.REJECTED}:
                self.last_answer = result.work.folder.shown(result.work.relative)

    @property
    def answered(self) -> int:
        """How many configs were written."""
        return self._outcomes[Outcome.SELECTED]

    @property
    def rejected(self) -> int:
        """How many files were rejected."""
        return self._outcomes[Outcome.REJECTED]

    @property
    def total(self) -> int:
        """How many results there were, of any kind: it grows while work moves."""
        return self._outcomes.total()


class Workers:
    """A fixed number of answering threads over one inbox, and one more for large files."""

    def __init__(
        self,
        inbox: Inbox,
        answering: Answering,
        trail: Trail,
        counts: Counts,
        *,
        count: int | Literal["auto"],
        waits: bool,
        wake: Callable[[], None] | None = None,
    ) -> None:
        """`waits` says whether answers wait: for the disk, or for a file server; `wake` wakes who calls `attend`.

        Without `wake` it is given only what it has put: what others have may be on a file server that is slow.
        """
        self._inbox = inbox
        self._answering = answering
        self._trail = trail
        number = count_threads(count, waits=waits)
        #: Until then (monotonic) the reader of events only reads.
        self._reads_only_until = 0.0
        #: What wakes who takes all, if one does; else others take what is more than a batch.
        self._wake = wake if _ONE_AT_A_TIME else None
        self._retired = threading.Event()
        self._counts = counts
        #: Since when (monotonic) each thread has been busy with the same batch, that for large files and the reader
        #: of events among them; None while it waits.
        self.busy_since: dict[int, float | None] = dict.fromkeys(range(number + 2))
        self.threads = [
            threading.Thread(target=self._run, args=(index, False), name=f"benchd-worker-{index}", daemon=True)
            for index in range(number)
        ]
        self.threads.append(
            threading.Thread(target=self._run, args=(number, True), name="benchd-worker-large", daemon=True)
        )

    def start(self) -> None:
        """Start all threads."""
        for thread in self.threads:
            thread.start()

    def retire(self) -> None:
        """Ask all threads to end after the batch they are at. Returns at once; `join` waits."""
        self._retired.set()
        self._inbox.wake()

    def join(self, seconds: float) -> bool:
        """Wait until all threads have ended, at most `seconds`; whether they have.

        Retire them, or close the inbox, first.
        """
        deadline = time.monotonic() + seconds
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self.threads)

    def attend(self) -> float | None:
        """Answer what has just come, on the calling thread. Seconds until there may be more; None if events will tell.

        For the one thread that reads the events, whenever it has read some.
        """
        started = time.monotonic()
        if started < self._reads_only_until or self._retired.is_set():
            self._inbox.unattend()
            return None
        batch = self._inbox.attend(_BATCH, wake=self._wake)
        if batch:
            if self._wake is None and self._inbox.until_next() == 0:
                self._inbox.wake()
            index = len(self.threads)
            self.busy_since[index] = started
            self._answer(batch, large=False)
            self.busy_since[index] = None
            if time.monotonic() - started > _LONG:
                self._reads_only_until = time.monotonic() + _FOR_A_WHILE
                self._inbox.unattend()
                return None
        return self._inbox.until_next()

    def _run(self, index: int, large: bool) -> None:  # noqa: FBT001
        most = 1 if large else _BATCH
        while not self._inbox.closed and not self._retired.is_set():
            batch = self._inbox.take(most, unless=self._retired, large=large)
            self.busy_since[index] = time.monotonic()
            self._answer(batch, large=large)
            self.busy_since[index] = None

    def _answer(self, batch: list[Work], *, large: bool) -> None:
        waiting = {id(work): work for work in batch}
        try:
            for result in self._answering.answer(batch, large=large):
                del waiting[id(result.work)]
                self._counts.add(result)
                give_back(self._inbox, result)
        except Exception as error:  # noqa: BLE001 - a worker survives anything, and says so
            name = threading.current_thread().name
            failure = f"{type(error).__name__}: {error}"
            self._trail.write(ThreadFailed(thread=name, error=failure, recovery="its audits are tried again"))
            for work in waiting.values():
                self._inbox.again(work, 1.0)
