"""Run the threads that answer: a loop that reads events and answers due audits, and a lane for large files."""

from __future__ import annotations

import os
import queue
import select
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from benchd.answering.batch import Answering
from benchd.answering.outcome import Outcome, Result
from benchd.folder.folder import Folder
from benchd.inbox import Inbox, Ticket
from benchd.trail.records import ThreadFailed
from benchd.trail.trail import Trail
from benchd.watching.events import Reader

__all__ = ["Counts", "LargeLane", "Loop"]

#: Audits in a batch. They share costs and the waits for the disk.
_BATCH: Final = 32

#: Seconds until benchd retries the audits of a batch that failed as a whole.
_RETRY: Final = 1.0


class Counts:
    """Counts the outcomes of this process, also across reloads. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: Counter[Outcome] = Counter()
        self._last: Ticket | None = None

    def add(self, results: list[Result]) -> None:
        """Count the results of one batch."""
        with self._lock:
            for result in results:
                self._outcomes[result.outcome] += 1
                if result.outcome in {Outcome.SELECTED, Outcome.REJECTED}:
                    self._last = result.ticket

    @property
    def last_answer(self) -> str | None:
        """Return the path of the last answered file, or None."""
        return self._last.folder.shown(self._last.relative) if self._last else None

    @property
    def answered(self) -> int:
        """Return the number of written configs."""
        return self._outcomes[Outcome.SELECTED]

    @property
    def rejected(self) -> int:
        """Return the number of rejected files."""
        return self._outcomes[Outcome.REJECTED]

    @property
    def total(self) -> int:
        """Return the number of results of any kind, which grows while work makes progress."""
        return self._outcomes.total()


class LargeLane:
    """Runs one thread for files that may take long. Their tickets stay taken in their inboxes meanwhile."""

    def __init__(self, answering: Answering, counts: Counts, trail: Trail) -> None:
        self._answering = answering
        self._counts = counts
        self._trail = trail
        self._waiting: queue.SimpleQueue[tuple[Ticket, Inbox] | None] = queue.SimpleQueue()
        self._is_stopping = False
        #: The time (monotonic, seconds) at which the present file was started; None while the thread waits.
        self.busy_since: float | None = None
        self.thread = threading.Thread(target=self._run, name="benchd-large", daemon=True)

    def put(self, ticket: Ticket, inbox: Inbox) -> None:
        """Have the thread answer a taken ticket and give it back to its inbox."""
        self._waiting.put((ticket, inbox))

    def stop(self) -> None:
        """Ask the thread to end after its present file. Return at once."""
        self._is_stopping = True
        self._waiting.put(None)

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None and not self._is_stopping:
            ticket, inbox = item
            self.busy_since = time.monotonic()
            results: list[Result] = []
            if inbox.wants(ticket.folder):
                results = answer(self._answering, [ticket], self._trail, may_take_long=True)
            self._counts.add(results)
            inbox.give_back([(ticket, result.retry_in) for result in results] or [(ticket, None)])
            self.busy_since = None


def answer(answering: Answering, batch: list[Ticket], trail: Trail, *, may_take_long: bool) -> list[Result]:
    """Return a result for each ticket of `batch`, even after an unexpected failure."""
    try:
        return answering.answer(batch, may_take_long=may_take_long)
    except Exception as error:  # noqa: BLE001 - the thread must survive any error, and records it
        name, failure = threading.current_thread().name, f"{type(error).__name__}: {error}"
        trail.write(ThreadFailed(thread=name, error=failure, recovery="trying its audits again"))
        return [Result(ticket, Outcome.FAILED, error=failure, retry_in=_RETRY) for ticket in batch]


class Loop:
    """Runs one thread that reads the events of its folders and answers due audits. Owns an inbox.

    With the GIL one thread runs at a time, so handing an audit to another thread costs as much as answering it. The
    inbox calls `on_refused` with the folder of hints that it refuses.
    """

    def __init__(
        self,
        name: str,
        answering: Answering,
        large: LargeLane,
        counts: Counts,
        trail: Trail,
        *,
        on_refused: Callable[[Folder], None] = lambda _: None,
    ) -> None:
        self.inbox = Inbox(self.wake, on_refused=on_refused)
        self._answering = answering
        self._large = large
        self._counts = counts
        self._trail = trail
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._bell, select.EPOLLIN)
        #: After the loop has ended, the descriptor may be that of another file. The lock prevents writing to it.
        self._bell_lock = threading.Lock()
        self._readers: dict[int, Reader] = {}
        self._removed: deque[Reader] = deque()
        self._is_stopping = False
        #: The time (monotonic, seconds) at which the present batch was started; None while the loop waits.
        self.busy_since: float | None = None
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    # --- from any thread -----------------------------------------------------------------------------------

    def wake(self) -> None:
        """Make the loop call `take` again, if it sleeps or is about to."""
        self.inbox.is_awaited = False  # one wake-up is enough
        with self._bell_lock:
            if self._bell >= 0:
                os.eventfd_write(self._bell, 1)

    def add(self, reader: Reader) -> None:
        """Call `reader.read` on the loop's thread whenever its descriptor is readable."""
        self._readers[reader.fileno()] = reader
        self._epoll.register(reader.fileno(), select.EPOLLIN)

    def remove(self, reader: Reader) -> None:
        """Stop calling `reader`, and close it on the loop's thread."""
        self._removed.append(reader)
        self.wake()

    def stop(self) -> None:
        """Ask the thread to end after its present batch. Return at once."""
        self._is_stopping = True
        self.inbox.close()

    # --- the thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_stopping:
            self.inbox.is_awaited = True
            if self._removed:
                self._close_removed()
            batch, wait = self.inbox.take(_BATCH)
            if batch:
                self.inbox.is_awaited = False
                self._read_for(self._answer(batch))
            elif not self._is_stopping:
                self._read(wait)
                self.inbox.is_awaited = False
        self._close_removed()
        self._removed.extend(self._readers.values())
        self._close_removed()
        self._epoll.close()
        with self._bell_lock:
            bell, self._bell = self._bell, -1
        os.close(bell)

    def _answer(self, batch: list[Ticket]) -> float:
        """Answer a batch and give it back. Return the seconds that it took."""
        self.busy_since = started = time.monotonic()
        results = answer(self._answering, batch, self._trail, may_take_long=False)
        self._counts.add(results)
        done = []
        for result in results:
            if result.outcome is Outcome.LEFT:
                self.inbox.set_aside(result.ticket)
                self._large.put(result.ticket, self.inbox)
            else:
                done.append((result.ticket, result.retry_in))
        self.inbox.give_back(done)
        self.busy_since = None
        return time.monotonic() - started

    def _read_for(self, seconds: float) -> None:
        """Read events until there are none, but at most for `seconds`: answering has let the kernel's queues fill."""
        deadline = time.monotonic() + seconds
        while self._read(0.0):
            if time.monotonic() >= deadline:
                break

    def _read(self, wait: float | None) -> bool:
        """Wait up to `wait` seconds for events (None: without limit) and read them. Return whether there were any."""
        ready = self._epoll.poll(wait)
        self.inbox.is_awaited = False
        for descriptor, _ in ready:
            if descriptor == self._bell:
                os.eventfd_read(self._bell)
                continue
            reader = self._readers[descriptor]
            try:
                reader.read()
            except Exception as error:  # noqa: BLE001 - the loop continues, and the reader informs its folders
                self._drop(reader)
                reader.failed(error)
        return bool(ready)

    def _close_removed(self) -> None:
        while self._removed:
            reader = self._removed.popleft()
            self._drop(reader)
            reader.close()

    def _drop(self, reader: Reader) -> None:
        if self._readers.pop(reader.fileno(), None) is not None:
            self._epoll.unregister(reader.fileno())
