"""What waits to be answered: one inbox for each loop; in it a queue, a capacity and turns for each folder.

The inbox is the only owner of that state. It can lose everything without losing an answer: the folder is the truth.
What it has to refuse it reports, so that the folder is scanned again.
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

#: What happened to a file. "created" says nothing about its content: `cp` creates a file before it writes, `ln` creates
#: it whole. If nothing else happens, the file counts as moved in.
Hint = Trigger | Literal["created"]

#: Seconds that the writer of a file that was only created gets to close it.
CREATED_DELAY: Final = 0.05

#: These hints say that the content is whole.
_WHOLE: Final = frozenset({"closed", "moved"})

#: Of so many tickets of a folder that are taken, one comes from its backlog first.
_BACKLOG_TURN: Final = 8

_READY: Final = 0
_DELAYED: Final = 1
_TAKEN: Final = 2
_SET_ASIDE: Final = 3


class Ticket:
    """One audit to answer. Written by its inbox, and by the thread that has taken it."""

    __slots__ = ("closed", "due", "folder", "history", "queue", "relative", "state", "trigger", "wanted_again")

    def __init__(self, folder: Folder, relative: str, hint: Hint, queue: _Queue | None = None) -> None:
        self.folder = folder
        self.relative = relative
        self.trigger: Trigger = "moved" if hint == "created" else hint
        #: True if its writer closed it or moved it in whole.
        self.closed = hint in _WHOLE
        #: What earlier attempts saw; owned by the answering side.
        self.history: Any = None
        #: The best hint that came while it was taken.
        self.wanted_again: Hint | None = None
        self.queue = queue
        self.state = _READY
        self.due = 0.0

    def renew(self, hint: Hint) -> None:
        """Note that `hint` is the reason for the next attempt."""
        self.trigger = "moved" if hint == "created" else hint
        self.closed = hint in _WHOLE


class _Queue:
    """The tickets of one folder. Guarded by the inbox's lock."""

    __slots__ = ("backlog", "folder", "fresh", "is_active", "tickets", "turns")

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.tickets: dict[str, Ticket] = {}
        self.fresh: deque[Ticket] = deque()
        self.backlog: deque[Ticket] = deque()
        self.is_active = False
        self.turns = 0

    def pop(self, most: int, batch: list[Ticket]) -> None:
        """Move up to `most` tickets into `batch`: fresh drops first, but in every eighth turn the backlog."""
        end = len(batch) + most
        while len(batch) < end and (self.fresh or self.backlog):
            self.turns += 1
            of_backlog = self.backlog and (not self.fresh or self.turns % _BACKLOG_TURN == 0)
            ticket = (self.backlog if of_backlog else self.fresh).popleft()
            if ticket.state == _READY:  # else an event has moved it from the backlog to the fresh ones
                ticket.state = _TAKEN
                batch.append(ticket)


class Inbox:
    """Tickets by folder and path: each audit waits once, and is taken by one thread at a time. Thread-safe.

    `wake` is called when something is put while `is_awaited`; it must not block. `capacity` bounds the tickets of each
    folder. Beyond it hints are refused (`on_refused` gets the folder) and scans wait.
    """

    def __init__(
        self,
        wake: Callable[[], None] = lambda: None,
        *,
        capacity: int = 50_000,
        on_refused: Callable[[Folder], None] = lambda _: None,
    ) -> None:
        self._wake = wake
        #: True while the thread that takes may sleep. It sets this before it calls `take`, so that no ticket is put
        #: unnoticed between `take` and the sleep.
        self.is_awaited = True
        self._capacity = capacity
        self._on_refused = on_refused
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._queues: dict[int, _Queue] = {}
        #: The queues with ready tickets, in the order of their turns.
        self._active: deque[_Queue] = deque()
        self._delayed: list[tuple[float, int, Ticket]] = []
        self._numbers = itertools.count()
        self._closed = False
        #: Folders that are no longer watched: their tickets don't come back.
        self._dropped: WeakSet[Folder] = WeakSet()

    def __len__(self) -> int:
        with self._lock:
            return sum(len(queue.tickets) for queue in self._queues.values())

    def put(self, folder: Folder, hints: Iterable[tuple[str, Hint]]) -> bool:
        """Note hints about files of `folder`, by relative path. Never block; return False if some were refused."""
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
        """Note what a scan found; wait while the folder's queue is half full. Return whether it is new here."""
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
            # A scan counts too: it may have seen a change whose event was lost. But any event counts for more.
            if ticket.wanted_again is None or hint not in {"created", "scan"}:
                ticket.wanted_again = hint
        elif hint in _WHOLE:
            if ticket.state == _DELAYED or ticket.trigger == "scan":  # out of the backlog it moves up
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
        """Return up to `most` tickets that are due, and the seconds until more may be; None means until a hint comes.

        The folders take turns. Whatever is taken must come back through `give_back`.
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
        """Make ready what is due; return the seconds until the next one."""
        while self._delayed:
            due, _, ticket = self._delayed[0]
            if ticket.state == _DELAYED and ticket.due == due:  # else an event was quicker
                wait = due - time.monotonic()
                if wait > 0:
                    return wait
                if ticket.queue is not None:
                    self._make_ready(ticket, ticket.queue)
            heapq.heappop(self._delayed)
        return None

    def give_back(self, results: Iterable[tuple[Ticket, float | None]]) -> None:
        """Return taken tickets, each with the seconds until the next attempt, or None if it is done.

        A ticket that got a hint meanwhile is ready at once. A full queue keeps no retries: it reports a refusal.
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
                elif hint not in {None, "scan"}:  # a scan must not hurry what waits for its next attempt
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
        """Note that another lane answers a taken ticket, which may take long: `await_idle` does not wait for it."""
        with self._lock:
            ticket.state = _SET_ASIDE
            self._room.notify_all()

    def wants(self, folder: Folder) -> bool:
        """Return whether answers for `folder` are still wanted."""
        return not self._closed and folder not in self._dropped

    def drop(self, folder: Folder) -> None:
        """Forget what waits for `folder`, which is no longer watched. Taken tickets may still be given back."""
        with self._lock:
            self._dropped.add(folder)
            queue = self._queues.pop(id(folder), None)
            if queue is not None:
                queue.fresh.clear()
                queue.backlog.clear()
                for ticket in list(queue.tickets.values()):
                    if ticket.state in {_READY, _DELAYED}:
                        ticket.state = _TAKEN  # its entry among the delayed ones is stale now
                        del queue.tickets[ticket.relative]
                if queue.tickets:
                    self._queues[id(folder)] = queue  # `await_idle` waits until the last one is given back
            self._room.notify_all()

    def await_idle(self, folder: Folder, seconds: float) -> bool:
        """Wait up to `seconds` until no ticket of `folder` waits or is taken; return whether that is so.

        Tickets set aside don't count: publishing checks that the config's place is as it was, so a late answer to
        content that has been answered meanwhile is thrown away.
        """

        def is_idle() -> bool:
            queue = self._queues.get(id(folder))
            return queue is None or all(ticket.state == _SET_ASIDE for ticket in queue.tickets.values())

        with self._lock:
            return self._room.wait_for(is_idle, timeout=seconds)

    def counts(self) -> tuple[int, int]:
        """Return how many audits are ready or taken, and how many wait for a later moment."""
        with self._lock:
            tickets = [ticket for queue in self._queues.values() for ticket in queue.tickets.values()]
        delayed = sum(ticket.state == _DELAYED for ticket in tickets)
        return len(tickets) - delayed, delayed

    def close(self) -> None:
        """Take no more tickets, and give none: waiting scans return at once."""
        with self._lock:
            self._closed = True
            self._room.notify_all()
        self._wake()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed
