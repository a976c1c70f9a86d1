"""What waits to be answered: no duplicates in flight, due times, retries, back-pressure.

The only owner of that state. Everything in it can be lost at any time without losing an answer: the folder
is the truth, and whatever the inbox has to drop it reports, so that the folder is scanned again.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal
from weakref import WeakSet

if TYPE_CHECKING:
    from benchd.audit.refusals import AuditError
    from benchd.folder.folder import Folder

__all__ = ["Inbox", "Trigger", "Work"]

Trigger = Literal["closed", "moved", "created", "scan", "poll", "retry", "command"]

_READY: Final = 0
_DELAYED: Final = 1
_IN_FLIGHT: Final = 2

#: A file that was only created may be about to be written (`cp`) or be whole already (`ln`): its writer gets this
#: long to close it before it is looked at.
CREATED_DELAY: Final = 0.05


#: What tells of a drop as it happens.
_EVENTS: Final = frozenset({"closed", "moved", "created"})

#: Every so manieth look is at the backlog first.
_BACKLOG_TURN: Final = 8


class Work:
    """One audit to answer, and what is known of its earlier attempts. Written by the inbox and its one taker."""

    __slots__ = (
        "attempts",
        "closed",
        "digest",
        "due",
        "failures",
        "folder",
        "large",
        "relative",
        "seen",
        "settles_from",
        "state",
        "told",
        "trigger",
        "verdict",
        "wanted_again",
    )

    def __init__(self, folder: Folder, relative: str, trigger: Trigger) -> None:
        self.folder = folder
        self.relative = relative
        self.trigger: Trigger = trigger
        #: Its writer was seen to close it, or it was moved in whole.
        self.closed = trigger in {"closed", "moved"}
        self.attempts = 0
        self.failures = 0
        #: The (inode, size, mtime, ctime) of the last attempt, what was wrong with it, and since when (monotonic) it
        #: has been that.
        self.seen: tuple[int, int, int, int] | None = None
        self.verdict: AuditError | None = None
        self.digest: str | None = None
        self.settles_from = 0.0
        #: Its waiting has been recorded.
        self.told = False
        #: It belongs to the lane of large files.
        self.large = False
        self.due = 0.0
        self.state = _READY
        self.wanted_again: Trigger | None = None


class Inbox:
    """A queue of audits by (folder, path). Thread-safe.

    Fresh drops go before the backlog of a scan; large files have a lane of their own, so that the others need not wait
    for them. `capacity` bounds the memory: beyond it events are refused
    (`on_refused` is told the folder) and scans wait.
    """

    def __init__(self, *, capacity: int = 50_000, on_refused: Callable[[Folder], None] = lambda _: None) -> None:
        self._capacity = capacity
        self._on_refused = on_refused
        self._changed = threading.Condition()
        self._large_changed = threading.Condition(self._changed._lock)  # type: ignore[attr-defined]  # noqa: SLF001
        self._room = threading.Condition(self._changed._lock)  # type: ignore[attr-defined]  # noqa: SLF001
        self._work: dict[tuple[int, str], Work] = {}
        self._fresh: deque[Work] = deque()
        self._backlog: deque[Work] = deque()
        self._large: deque[Work] = deque()
        self._delayed: list[tuple[float, int, Work]] = []
        self._numbers = itertools.count()
        self._turns = 0
        self._waiting_takers = 0
        #: The thread that takes what it has put (`attend`), and so need not wake another for it; and that.
        self._attendant: int | None = None
        self._attended: deque[Work] = deque()
        #: Where the attendant takes everything, what wakes it; and whether it may be asleep.
        self._wake_attendant: Callable[[], None] | None = None
        self._attendant_idle = False
        self._closed = False
        #: Folders that are not watched any more: what of theirs was in flight does not come back.
        self._dropped: WeakSet[Folder] = WeakSet()

    def __len__(self) -> int:
        return len(self._work)

    def put(self, folder: Folder, relative: str, trigger: Trigger) -> bool:
        """An event's hint. Never blocks; False if it was refused because the inbox is full or closed."""
        with self._changed:
            refused = self._closed or not self._put(folder, relative, trigger)
        if refused and not self._closed:
            self._on_refused(folder)
        return not refused

    def put_scanned(self, folder: Folder, relative: str) -> bool:
        """A scan's find: waits for room. Whether it is news: False if it waits here already, or the inbox is closed."""
        with self._changed:
            while len(self._work) >= self._capacity // 2 and not self._closed:
                self._room.wait()
            known = (id(folder), relative) in self._work
            return not self._closed and self._put(folder, relative, "scan") and not known

    def _put(self, folder: Folder, relative: str, trigger: Trigger) -> bool:
        key = (id(folder), relative)
        work = self._work.get(key)
        if work is None:
            if len(self._work) >= self._capacity:
                return False
            work = self._work[key] = Work(folder, relative, trigger)
            if trigger == "created":
                self._delay(work, CREATED_DELAY)
            else:
                self._make_ready(work)
            return True
        whole = trigger in {"closed", "moved"}
        if work.state == _IN_FLIGHT:
            # A scan too: it may have seen a change whose event is lost.
            if not work.wanted_again or trigger not in {"created", "scan"}:
                work.wanted_again = trigger
        elif whole:
            work.closed = True
            if work.state == _DELAYED or work.trigger == "scan":
                # From the backlog it moves up: what is left of it there is passed over.
                work.trigger = trigger
                self._make_ready(work)
        elif work.state == _DELAYED and trigger == "poll":
            work.trigger = trigger
            self._make_ready(work)
        return True

    def _make_ready(self, work: Work) -> None:
        work.state = _READY
        if work.large:
            self._large.append(work)
            self._large_changed.notify()
            return
        if work.trigger in _EVENTS and threading.get_ident() == self._attendant:
            self._attended.append(work)
            return
        (self._backlog if work.trigger == "scan" else self._fresh).append(work)
        self._tell_somebody()

    def _delay(self, work: Work, seconds: float) -> None:
        work.state = _DELAYED
        work.due = time.monotonic() + seconds
        heapq.heappush(self._delayed, (work.due, next(self._numbers), work))
        if self._delayed[0][2] is work and threading.get_ident() != self._attendant:
            self._tell_somebody()

    def _tell_somebody(self) -> None:
        if self._wake_attendant is None:
            if self._waiting_takers:
                self._changed.notify()
        elif self._attendant_idle:
            self._attendant_idle = False
            self._wake_attendant()

    def take(
        self, most: int = 1, timeout: float | None = None, *, unless: threading.Event | None = None, large: bool = False
    ) -> list[Work]:
        """Up to `most` audits that are due, of those that are `large` or of the others; waits for the first.

        Empty once the inbox is closed, after `timeout`, or when `unless` is set (and `wake` called).

        Whatever is taken must be given back through `done`, `again` or `to_large`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._closed and not (unless and unless.is_set()):
                mine = large or self._wake_attendant is None
                if mine:
                    self._wake_delayed()
                    taken = self._pop(most, (self._large,) if large else self._in_turn())
                    if taken:
                        return taken
                if deadline is not None and time.monotonic() >= deadline:
                    return []
                if large:
                    # Whoever waits for the others wakes what is delayed, too.
                    self._large_changed.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
                    continue
                self._waiting_takers += 1
                try:
                    self._changed.wait(self._until_next(deadline, delayed=mine))
                finally:
                    self._waiting_takers -= 1
            return []

    def attend(self, most: int, *, wake: Callable[[], None] | None = None) -> list[Work]:
        """Up to `most` drops that this thread has put, without waiting; from now on others are not woken for them.

        With `wake`, which wakes this thread, it is given what anybody has put, but for large files, and nobody else is.
        It must come back after `until_next` seconds, when it is woken, or `unattend`.
        """
        with self._changed:
            if self._closed:
                return []
            self._attendant = threading.get_ident()
            self._attendant_idle = False
            if self._wake_attendant is not None and wake is None:
                self._changed.notify_all()
            self._wake_attendant = wake
            self._wake_delayed()
            return self._pop(most, (self._attended,) if wake is None else self._in_turn())

    def unattend(self) -> None:
        """Leave what waits to the others again."""
        with self._changed:
            if self._attendant is not None:
                self._attendant = self._wake_attendant = None
                self._fresh.extend(self._attended)
                self._attended.clear()
                self._changed.notify_all()

    def until_next(self) -> float | None:
        """Seconds until there is something to attend to, or something delayed is due; None if only events can tell."""
        with self._changed:
            if self._closed:
                return None
            if self._attended or (self._wake_attendant is not None and (self._fresh or self._backlog)):
                return 0.0
            self._attendant_idle = True
            return self._until_next(None)

    @staticmethod
    def _pop(most: int, queues: tuple[deque[Work], ...]) -> list[Work]:
        taken: list[Work] = []
        for queue in queues:
            while queue and len(taken) < most:
                work = queue.popleft()
                if work.state == _READY:
                    work.state = _IN_FLIGHT
                    taken.append(work)
        return taken

    def _in_turn(self) -> tuple[deque[Work], ...]:
        """Fresh drops before the backlog; now and then the other way round: a stream of drops starves nobody."""
        self._turns += 1
        if self._turns % _BACKLOG_TURN:
            return (self._fresh, self._attended, self._backlog)
        return (self._backlog, self._fresh, self._attended)

    def _wake_delayed(self) -> None:
        now = time.monotonic()
        while self._delayed and self._delayed[0][0] <= now:
            item = heapq.heappop(self._delayed)
            if self._is_delayed(item):
                self._make_ready(item[2])

    def _until_next(self, deadline: float | None, *, delayed: bool = True) -> float | None:
        while self._delayed and not self._is_delayed(self._delayed[0]):
            heapq.heappop(self._delayed)
        due = self._delayed[0][0] if self._delayed and delayed else None
        moments = [moment for moment in (deadline, due) if moment is not None]
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    @staticmethod
    def _is_delayed(item: tuple[float, int, Work]) -> bool:
        # An event may have made it ready, and another attempt delayed it again, since this was pushed.
        due, _, work = item
        return work.state == _DELAYED and work.due == due

    def done(self, work: Work) -> None:
        """`work` is dealt with, unless it changed meanwhile: then it is due again, as new."""
        with self._changed:
            key = (id(work.folder), work.relative)
            trigger = work.wanted_again
            del self._work[key]
            if trigger is not None and not self._closed and work.folder not in self._dropped:
                self._put(work.folder, work.relative, trigger)
            self._room.notify_all()

    def again(self, work: Work, seconds: float, trigger: Trigger = "retry") -> None:
        """Try `work` again in `seconds`; at once if an event told of a change. A full inbox leaves it to a scan."""
        with self._changed:
            if work.folder in self._dropped:
                del self._work[id(work.folder), work.relative]
                self._room.notify_all()
                return
            if work.wanted_again == "scan":
                work.wanted_again = None  # it will be looked at again as it is; scans must not hurry what is delayed
            if work.wanted_again is not None:
                work.closed = work.wanted_again in {"closed", "moved"}
                work.trigger, work.wanted_again = work.wanted_again, None
                self._make_ready(work)
                return
            dropped = len(self._work) >= self._capacity
            if dropped:
                del self._work[id(work.folder), work.relative]
                self._room.notify()
            else:
                work.trigger = trigger
                self._delay(work, seconds)
        if dropped:
            self._on_refused(work.folder)

    def to_large(self, work: Work) -> None:
        """Give `work` back for whoever takes large files; what has changed meanwhile is looked at there."""
        with self._changed:
            if work.folder in self._dropped or self._closed:
                del self._work[id(work.folder), work.relative]
                self._room.notify_all()
                return
            if work.wanted_again is not None:
                work.closed = work.closed or work.wanted_again in {"closed", "moved"}
                work.trigger, work.wanted_again = work.wanted_again, None
            work.large = True
            self._make_ready(work)

    def drop_folder(self, folder: Folder) -> None:
        """Forget what waits for `folder`, which is not watched any more."""
        with self._changed:
            self._dropped.add(folder)
            for queue in (self._fresh, self._attended, self._backlog, self._large):
                kept = [work for work in queue if work.folder is not folder]
                queue.clear()
                queue.extend(kept)
            self._delayed = [item for item in self._delayed if item[2].folder is not folder]
            heapq.heapify(self._delayed)
            for key, work in list(self._work.items()):
                if work.folder is folder and work.state != _IN_FLIGHT:
                    del self._work[key]
            self._room.notify_all()

    def await_idle(self, folder: Folder, seconds: float) -> bool:
        """Wait until there is nothing of `folder` here, waiting or in flight, at most `seconds`; whether that is so.

        Large files are not waited for: they can take long, and an answer to one that has been answered meanwhile is
        thrown away, because another config stands in its place than the one that it looked at.
        """
        with self._changed:
            return self._room.wait_for(
                lambda: not any(work.folder is folder and not work.large for work in self._work.values()),
                timeout=seconds,
            )

    def counts(self) -> tuple[int, int]:
        """How many audits are ready or in flight, and how many wait for a later moment."""
        with self._changed:
            delayed = sum(1 for work in self._work.values() if work.state == _DELAYED)
            return len(self._work) - delayed, delayed

    def wake(self) -> None:
        """Make every taker look around, and who takes everything."""
        with self._changed:
            self._changed.notify_all()
            self._large_changed.notify_all()
            if self._wake_attendant is not None:
                self._wake_attendant()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """No more work: takers and waiting scans return at once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._large_changed.notify_all()
            self._room.notify_all()
