"""Hold the tickets of audits that wait for an answer, with a queue and turns for each folder.

Each loop has one inbox. Only the inbox changes this state. Losing the state loses no answer, because the folder is
the truth. The inbox reports the hints that it refuses, so that the folder is scanned again.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Literal
from weakref import WeakSet

from benchd.trail.records import Trigger

if TYPE_CHECKING:
    from benchd.folder.folder import Folder

__all__ = ["CREATED_DELAY", "Hint", "Inbox", "Ticket"]

#: What happened to a file. "created" says nothing about its content: `cp` creates a file and then writes it, `ln`
#: creates a complete file. If no other event follows, the file counts as moved in.
Hint = Trigger | Literal["created"]

#: Seconds that a writer has to close a file that was only created.
CREATED_DELAY: Final = 0.05

#: Hints after which the content is complete.
_WHOLE: Final = frozenset({"closed", "moved"})

#: Every eighth ticket of a folder comes from its backlog first.
_BACKLOG_TURN: Final = 8

_READY: Final = 0
_DELAYED: Final = 1
_TAKEN: Final = 2
_SET_ASIDE: Final = 3


class Ticket:
    """One audit to answer. Its inbox writes it, and the thread that has taken it."""

    __slots__ = ("closed", "due", "folder", "history", "queue", "relative", "state", "trigger", "wanted_again")

    def __init__(self, folder: Folder, relative: str, hint: Hint, queue: _Queue | None = None) -> None:
        self.folder = folder
        self.relative = relative
        self.trigger: Trigger = "moved" if hint == "created" else hint
        #: True if the writer closed the file or moved it in.
        self.closed = hint in _WHOLE
        #: The observations of earlier attempts. Only the answering side writes it.
        self.history: Any = None
        #: The best hint that arrived while the ticket was taken.
        self.wanted_again: Hint | None = None
        self.queue = queue
        self.state = _READY
        self.due = 0.0

    def renew(self, hint: Hint) -> None:
        """Record that `hint` is the reason for the next attempt."""
        self.trigger = "moved" if hint == "created" else hint
        self.closed = hint in _WHOLE


class _Queue:
    """The tickets of one folder. The inbox's lock guards them."""

    __slots__ = ("backlog", "folder", "fresh", "is_active", "tickets", "turns")

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.tickets: dict[str, Ticket] = {}
        self.fresh: deque[Ticket] = deque()
        self.backlog: deque[Ticket] = deque()
        self.is_active = False
        self.turns = 0

    def pop(self, most: int, batch: list[Ticket]) -> None:
        """Move up to `most` tickets into `batch`: fresh drops first, and the backlog in every eighth turn."""
        end = len(batch) + most
        while len(batch) < end and (self.fresh or self.backlog):
            self.turns += 1
            of_backlog = self.backlog and (not self.fresh or self.turns % _BACKLOG_TURN == 0)
            ticket = (self.backlog if of_backlog else self.fresh).popleft()
            if ticket.state == _READY:  # else an event has moved it from the backlog to the fresh tickets
                ticket.state = _TAKEN
                batch.append(ticket)


class Inbox:
    """Store tickets by folder and path. Each audit waits once, and one thread takes it at a time. Thread-safe.

    The inbox calls `wake`, which must not block, when a hint arrives while `is_awaited`. `capacity` is the maximum
    number of tickets of each folder. Beyond it the inbox refuses hints and calls `on_refused` with the folder, and
    scans wait.
    """

    def __init__(
        self,
        wake: Callable[[], None] = lambda: None,
        *,
        capacity: int = 50_000,
        on_refused: Callable[[Folder], None] = lambda _: None,
    ) -> None:
        self._wake = wake
        #: True while the taking thread may sleep. The thread sets it before it calls `take`, so that it notices
        #: every ticket that arrives between `take` and the sleep.
        self.is_awaited = True
        self._capacity = capacity
        self._on_refused = on_refused
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._queues: dict[int, _Queue] = {}
        #: The queues with ready tickets, in the order in which they are served.
        self._active: deque[_Queue] = deque()
        self._delayed: list[tuple[float, int, Ticket]] = []
        self._numbers = itertools.count()
        self._closed = False
        #: Folders that are no longer watched. Their tickets are not queued again.
        self._dropped: WeakSet[Folder] = WeakSet()

    def __len__(self) -> int:
        with self._lock:
            return sum(len(queue.tickets) for queue in self._queues.values())

    def put(self, folder: Folder, hints: Iterable[tuple[str, Hint]]) -> bool:
        """Record hints about files of `folder`, by relative path. Never block. Return False if some were refused."""
        with self._lock:
            if self._closed or folder in self._dropped:
                return False
            queue = self._queue(folder)
            accepted = True
            for relative, hint in hints:
                accepted &= self._note(queue, relative, hint)
        if not accepted:
            self._on_refused(folder)
        if self.is_awaited:
            self._wake()
        return accepted

    def put_scanned(self, folder: Folder, relative: str) -> bool:
        """Queue a file that a scan found. Wait while the folder's queue is half full. Return whether it is new."""
        with self._lock:
            while self._is_half_full(folder):
                self._room.wait()
            if self._closed or folder in self._dropped:
                return False
            queue = self._queue(folder)
            is_new = relative not in queue.tickets
            self._note(queue, relative, "scan")
        if self.is_awaited:
            self._wake()
        return is_new

    def _is_half_full(self, folder: Folder) -> bool:
        queue = self._queues.get(id(folder))
        if queue is None or self._closed or folder in self._dropped:
            return False
        return len(queue.tickets) >= self._capacity // 2

    def _queue(self, folder: Folder) -> _Queue:
        queue = self._queues.get(id(folder))
        if queue is None:
            queue = self._queues[id(folder)] = _Queue(folder)
        return queue

    def _note(self, queue: _Queue, relative: str, hint: Hint) -> bool:
        ticket = queue.tickets.get(relative)
        if ticket is None:
            if len(queue.tickets) >= self._capacity:
                return False
            ticket = queue.tickets[relative] = Ticket(queue.folder, relative, hint, queue)
            if hint == "created":
                self._delay(ticket, CREATED_DELAY)
            else:
                self._make_ready(ticket, queue)
        elif ticket.state in {_TAKEN, _SET_ASIDE}:
            # A scan counts too: it may have seen a change whose event was lost. An event has priority over it.
            if ticket.wanted_again is None or hint not in {"created", "scan"}:
                ticket.wanted_again = hint
        elif hint in _WHOLE:
            if ticket.state == _DELAYED or ticket.trigger == "scan":  # move it out of the backlog
                ticket.renew(hint)
                self._make_ready(ticket, queue)
            ticket.closed = True
        elif hint == "poll" and ticket.state == _DELAYED:
            ticket.trigger = hint
            self._make_ready(ticket, queue)
        return True

    def _make_ready(self, ticket: Ticket, queue: _Queue) -> None:
        ticket.state = _READY
        (queue.backlog if ticket.trigger == "scan" else queue.fresh).append(ticket)
        if not queue.is_active:
            queue.is_active = True
            self._active.append(queue)

    def _delay(self, ticket: Ticket, seconds: float) -> None:
        ticket.state = _DELAYED
        ticket.due = time.monotonic() + seconds
        heapq.heappush(self._delayed, (ticket.due, next(self._numbers), ticket))

    def take(self, most: int) -> tuple[list[Ticket], float | None]:
        """Return up to `most` due tickets, and the poll timeout in seconds. A timeout of None means wait for a hint.

        The folders take turns. The caller must give back every ticket through `give_back`.
        """
        with self._lock:
            batch: list[Ticket] = []
            if self._closed:
                return batch, None
            wait = self._wake_due()
            share = max(1, most // len(self._active)) if self._active else 0
            while self._active and len(batch) < most:
                queue = self._active.popleft()
                queue.pop(min(share, most - len(batch)), batch)
                queue.is_active = bool(queue.fresh or queue.backlog)
                if queue.is_active:
                    self._active.append(queue)
            return batch, 0.0 if self._active else wait

    def _wake_due(self) -> float | None:
        """Make the due tickets ready. Return the seconds until the next one is due, or None."""
        while self._delayed:
            due, _, ticket = self._delayed[0]
            if ticket.state == _DELAYED and ticket.due == due:  # else an event has made it ready earlier
                wait = due - time.monotonic()
                if wait > 0:
                    return wait
                if ticket.queue is not None:
                    self._make_ready(ticket, ticket.queue)
            heapq.heappop(self._delayed)
        return None

    def give_back(self, results: Iterable[tuple[Ticket, float | None]]) -> None:
        """Return taken tickets, each with the seconds until the next attempt, or None if it is done.

        A ticket that got a hint meanwhile is ready at once. A full queue drops retries and reports a refusal.
        """
        refused: set[Folder] = set()
        needs_wake = False
        with self._lock:
            for ticket, retry_in in results:
                queue = ticket.queue
                if queue is None:
                    continue
                hint, ticket.wanted_again = ticket.wanted_again, None
                if self._closed or ticket.folder in self._dropped:
                    self._forget(queue, ticket)
                elif retry_in is None:
                    del queue.tickets[ticket.relative]
                    if hint is not None:
                        needs_wake = self._note(queue, ticket.relative, hint)
                elif hint not in {None, "scan"}:  # a scan must not shorten the wait of a retry
                    ticket.renew(hint)
                    self._make_ready(ticket, queue)
                    needs_wake = True
                elif len(queue.tickets) >= self._capacity:
                    del queue.tickets[ticket.relative]
                    refused.add(ticket.folder)
                else:
                    ticket.trigger = "retry"
                    self._delay(ticket, retry_in)
                    needs_wake = True
            self._room.notify_all()
        for folder in refused:
            self._on_refused(folder)
        if needs_wake and self.is_awaited:
            self._wake()

    def _forget(self, queue: _Queue, ticket: Ticket) -> None:
        del queue.tickets[ticket.relative]
        if not queue.tickets:
            self._queues.pop(id(queue.folder), None)

    def set_aside(self, ticket: Ticket) -> None:
        """Mark a taken ticket that the lane for large files answers. `await_idle` does not wait for it."""
        with self._lock:
            ticket.state = _SET_ASIDE
            self._room.notify_all()

    def wants(self, folder: Folder) -> bool:
        """Return whether answers for `folder` are still wanted."""
        return not self._closed and folder not in self._dropped

    def drop(self, folder: Folder) -> None:
        """Drop the waiting tickets of `folder`, which is no longer watched. Taken tickets may still be given back."""
        with self._lock:
            self._dropped.add(folder)
            queue = self._queues.pop(id(folder), None)
            if queue is not None:
                queue.fresh.clear()
                queue.backlog.clear()
                for ticket in list(queue.tickets.values()):
                    if ticket.state in {_READY, _DELAYED}:
                        ticket.state = _TAKEN  # makes its entry in `_delayed` stale
                        del queue.tickets[ticket.relative]
                if queue.tickets:
                    self._queues[id(folder)] = queue  # `await_idle` waits until the last one is given back
            self._room.notify_all()

    def await_idle(self, folder: Folder, seconds: float) -> bool:
        """Wait up to `seconds` until no ticket of `folder` waits or is taken. Return False after a timeout.

        Tickets that were set aside don't count. Their answers may come late, but publishing checks that the sidecar is
        unchanged, so it discards an answer to content that another thread has answered meanwhile.
        """

        def is_idle() -> bool:
            queue = self._queues.get(id(folder))
            return queue is None or all(ticket.state == _SET_ASIDE for ticket in queue.tickets.values())

        with self._lock:
            return self._room.wait_for(is_idle, timeout=seconds)

    def counts(self) -> tuple[int, int]:
        """Return the number of audits that are ready or taken, and the number of those that are delayed."""
        with self._lock:
            tickets = [ticket for queue in self._queues.values() for ticket in queue.tickets.values()]
        delayed = sum(ticket.state == _DELAYED for ticket in tickets)
        return len(tickets) - delayed, delayed

    def close(self) -> None:
        """Accept no more tickets and hand out none. Waiting scans return at once."""
        with self._lock:
            self._closed = True
            self._room.notify_all()
        self._wake()

    @property
    def closed(self) -> bool:
        """Return whether `close` was called."""
        return self._closed
