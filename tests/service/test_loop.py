"""The threads that answer: the loop, and the lane for large files."""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from benchd.answering.batch import Answering
from benchd.answering.outcome import Outcome, Result
from benchd.folder.folder import Folder
from benchd.inbox import Inbox, Ticket
from benchd.service.loop import Counts, LargeLane, Loop
from benchd.settings.keys import FolderSettings
from benchd.trail.sinks import TrailFile
from benchd.trail.trail import Trail
from daemon import answers, audit, until


class Scripted(Answering):
    """Answers with a function of one ticket."""

    def __init__(self, trail: Trail, script: Callable[[Ticket], Result]) -> None:
        super().__init__(trail)
        self._script = script
        self.batches: list[list[str]] = []

    def answer(self, tickets: list[Ticket], *, may_take_long: bool = True) -> list[Result]:
        self.batches.append([ticket.relative for ticket in tickets])
        if not may_take_long:
            large = [ticket for ticket in tickets if ticket.relative.startswith("large")]
            small = [ticket for ticket in tickets if ticket not in large]
            return [*(Result(ticket, Outcome.LEFT) for ticket in large), *map(self._script, small)]
        return list(map(self._script, tickets))


class Bell:
    """A reader of an eventfd, which calls `act` for each read."""

    def __init__(self, act: Callable[[], None] = lambda: None) -> None:
        self._act = act
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.reads = 0
        self.errors: list[Exception] = []
        #: The thread that has closed the reader.
        self.closed_by: threading.Thread | None = None

    def ring(self) -> None:
        os.eventfd_write(self._descriptor, 1)

    def fileno(self) -> int:
        return self._descriptor

    def read(self) -> None:
        os.eventfd_read(self._descriptor)
        self.reads += 1
        self._act()

    def failed(self, error: Exception) -> None:
        self.errors.append(error)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
            self.closed_by = threading.current_thread()


class Desk:
    """A loop and a lane for one folder."""

    def __init__(self, home: Path) -> None:
        self.path = home / "inbox"
        self.path.mkdir()
        self._trail_path = home / "trail.jsonl"
        self.trail = Trail(TrailFile(str(self._trail_path)), level="debug")
        self.folder = Folder(FolderSettings(path=str(self.path)), max_bytes=10**7)
        self.counts = Counts()
        self._loop: Loop | None = None
        self._lane: LargeLane | None = None

    def start(self, answering: Answering | None = None) -> Loop:
        answering = answering or Answering(self.trail, settle=0.0)
        self._lane = LargeLane(answering, self.counts, self.trail)
        self._loop = Loop("the loop", answering, self._lane, self.counts, self.trail)
        self._lane.thread.start()
        self._loop.thread.start()
        return self._loop

    @property
    def lane(self) -> LargeLane:
        assert self._lane is not None
        return self._lane

    def put(self, *names: str) -> None:
        assert self._loop is not None
        assert self._loop.inbox.put(self.folder, [(name, "closed") for name in names])

    def drop(self, name: str, content: bytes) -> Path:
        path = self.path / name
        path.write_bytes(content)
        self.put(name)
        return path

    def records(self, event: str) -> list[dict[str, Any]]:
        every = [json.loads(line) for line in self._trail_path.read_bytes().splitlines()]
        return [record for record in every if record["event"] == event]

    def stop(self) -> None:
        for part in (self._loop, self._lane):
            if part is not None:
                part.stop()
                part.thread.join(5)
                assert not part.thread.is_alive()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.stop()


class Interrupting:
    """Calls `act` just before a thread runs line `at` of the loop's module."""

    def __init__(self, at: int = -1, act: Callable[[], object] = lambda: None) -> None:
        self.at = at
        self._act = act
        self.lines = 0

    def start(self, thread: threading.Thread) -> None:
        before = threading.gettrace()
        threading.settrace(self._trace)
        try:
            thread.start()
        finally:
            threading.settrace(before)

    def _trace(self, frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        if frame.f_code.co_filename != sys.modules[Loop.__module__].__file__:
            return None
        if event == "line":
            self.lines += 1
            if self.lines - 1 == self.at:
                self._act()
        return self._trace


def done(ticket: Ticket) -> Result:
    """Return a final result for any ticket."""
    return Result(ticket, Outcome.SELECTED)


class TestLoop:
    def test_answers_and_counts(self, desk: Desk):
        """Every ticket is answered, and counted by its outcome."""
        loop = desk.start()
        good = [desk.drop(f"{number}.json", audit(number)) for number in range(40)]
        desk.drop("bad.json", b"{")
        until(lambda: len(loop.inbox) == 0)
        assert all(answers(path) for path in good)
        assert (desk.counts.answered, desk.counts.rejected, desk.counts.total) == (40, 1, 41)
        last = desk.counts.last_answer
        assert last is not None
        assert last.startswith(str(desk.path))

    def test_batches(self, desk: Desk):
        """A batch has at most 32 audits."""
        answering = Scripted(desk.trail, done)
        begin = threading.Event()
        reader = Bell(lambda: begin.wait(10) and desk.put(*map(str, range(50))))
        loop = desk.start(answering)
        loop.add(reader)
        reader.ring()
        begin.set()
        until(lambda: desk.counts.total == 50)
        assert [len(batch) for batch in answering.batches] == [32, 18]

    def test_reads(self, desk: Desk):
        """A reader is called on the loop's thread for each event, and its hints are answered."""
        threads: list[threading.Thread] = []
        loop = desk.start(Scripted(desk.trail, done))

        def put() -> None:
            threads.append(threading.current_thread())
            desk.put("a")

        reader = Bell(put)
        loop.add(reader)
        for number in range(1, 4):
            reader.ring()
            until(lambda number=number: desk.counts.total == number)
        assert (reader.reads, set(threads)) == (3, {loop.thread})

    def test_busy_reader_delays_no_answer(self, desk: Desk):
        """A reader that always has more events does not prevent answers."""
        loop = desk.start(Scripted(desk.trail, done))

        def ring_again() -> None:
            reader.ring()

        reader = Bell(ring_again)
        loop.add(reader)
        reader.ring()
        desk.put(*map(str, range(100)))
        until(lambda: desk.counts.total == 100)
        until(lambda: reader.reads > 1000)
        loop.remove(reader)

    def test_failing_reader(self, desk: Desk):
        """A reader that fails gets its error and is not read again, and the loop continues and closes it on removal."""

        def fail() -> None:
            raise ValueError("a bug")

        loop = desk.start(Scripted(desk.trail, done))
        bad, good = Bell(fail), Bell()
        for reader in (bad, good):
            loop.add(reader)
            reader.ring()
        until(lambda: bad.errors and good.reads)
        assert [str(error) for error in bad.errors] == ["a bug"]
        bad.ring()
        good.ring()
        until(lambda: good.reads == 2)
        desk.put("a")
        until(lambda: desk.counts.total == 1)
        assert bad.reads == 1
        assert bad.closed_by is None
        loop.remove(bad)
        until(lambda: bad.closed_by)

    def test_answering_fails(self, desk: Desk):
        """A bug in answering is recorded, the thread continues, and the audits of the batch are tried again."""
        bugs = [ValueError("a bug")]

        def script(ticket: Ticket) -> Result:
            if bugs:
                raise bugs.pop()
            return done(ticket)

        loop = desk.start(Scripted(desk.trail, script))
        desk.put("a")
        until(lambda: desk.counts.answered == 1)
        assert desk.counts.total == 2
        assert loop.thread.is_alive()
        [record] = desk.records("service.thread_failed")
        assert (record["thread"], record["error"]) == ("the loop", "ValueError: a bug")

    def test_retries(self, desk: Desk):
        """An audit is tried again when its wait is over, without any event."""
        triggers: list[str] = []

        def script(ticket: Ticket) -> Result:
            triggers.append(ticket.trigger)
            return Result(ticket, Outcome.DEFERRED, retry_in=0.02 if len(triggers) < 3 else None)

        loop = desk.start(Scripted(desk.trail, script))
        desk.put("a")
        until(lambda: len(loop.inbox) == 0)
        assert triggers == ["closed", "retry", "retry"]

    def test_is_busy(self, desk: Desk):
        """`busy_since` is set during a batch, and the loop ends after that batch."""
        release = threading.Event()

        def script(ticket: Ticket) -> Result:
            release.wait(10)
            return done(ticket)

        loop = desk.start(Scripted(desk.trail, script))
        assert loop.busy_since is None
        began = time.monotonic()
        desk.put("a")
        since = until(lambda: loop.busy_since)
        assert began <= since <= time.monotonic()
        loop.stop()
        assert loop.thread.is_alive()
        release.set()
        loop.thread.join(5)
        assert not loop.thread.is_alive()
        assert loop.busy_since is None

    def test_stop_closes_readers(self, desk: Desk):
        """The loop closes all readers at the end, including removed ones, and may be woken or stopped again."""
        loop = desk.start(Scripted(desk.trail, done))
        readers = [Bell(), Bell()]
        for reader in readers:
            loop.add(reader)
        loop.stop()
        loop.remove(readers[0])
        loop.thread.join(5)
        assert [reader.closed_by for reader in readers] == [loop.thread] * 2
        loop.wake()
        loop.stop()

    def test_no_lost_wake_up(self, desk: Desk):
        """At any line of the loop, it notices tickets and removed readers of other threads without a later event."""

        def run(at: int, act: Callable[[Loop, Bell], object], is_done: Callable[[Loop, Bell], object]) -> bool:
            """Act before line `at`, and wait until it was noticed. Return False if the loop sleeps before."""
            answering = Scripted(desk.trail, done)
            lane = LargeLane(answering, desk.counts, desk.trail)
            loop, reader = Loop("the loop", answering, lane, desk.counts, desk.trail), Bell()
            loop.add(reader)
            loop.inbox.put(desk.folder, [("first", "closed")])
            acted: list[object] = []
            interrupting = Interrupting(at, lambda: acted.append(act(loop, reader)))
            interrupting.start(loop.thread)
            lines = [-2, -1]
            until(
                lambda: acted or (len(loop.inbox) == 0 and lines.append(interrupting.lines)) or lines[-1] == lines[-2]
            )
            if acted:
                until(lambda: is_done(loop, reader), 5, f"what came at line {at} was noticed")
            interrupting.at = -1
            loop.stop()
            loop.thread.join(5)
            assert not loop.thread.is_alive()
            return bool(acted)

        def put(loop: Loop, _: Bell) -> object:
            return loop.inbox.put(desk.folder, [("second", "closed")])

        def is_answered(loop: Loop, _: Bell) -> bool:
            return len(loop.inbox) == 0

        def remove(loop: Loop, reader: Bell) -> None:
            loop.remove(reader)

        def is_closed(_: Loop, reader: Bell) -> bool:
            return reader.closed_by is not None

        for act, is_done in ((put, is_answered), (remove, is_closed)):
            lines = next(at for at in itertools.count() if not run(at, act, is_done))
            assert lines > 20

    def test_many_threads_put(self, desk: Desk):
        """No ticket is lost when many threads put at the same time."""
        loop = desk.start(Scripted(desk.trail, done))

        def put(thread: int) -> None:
            for number in range(200):
                desk.put(f"{thread} {number}")

        threads = [threading.Thread(target=put, args=[number]) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        until(lambda: len(loop.inbox) == 0)
        assert desk.counts.total == 600


class TestLargeLane:
    def test_delays_no_other_file(self, desk: Desk):
        """A large file goes to the lane and stays taken, and the loop answers the other files meanwhile."""
        release, begun = threading.Event(), threading.Event()

        def script(ticket: Ticket) -> Result:
            if ticket.relative.startswith("large"):
                begun.set()
                release.wait(10)
            return done(ticket)

        loop = desk.start(Scripted(desk.trail, script))
        desk.put("large")
        assert begun.wait(5)
        desk.put("a", "b")
        until(lambda: desk.counts.answered == 2)
        assert loop.inbox.counts() == (1, 0)
        assert loop.inbox.await_idle(desk.folder, 0.0)
        assert until(lambda: desk.lane.busy_since) <= time.monotonic()
        release.set()
        until(lambda: len(loop.inbox) == 0)
        until(lambda: desk.lane.busy_since is None)
        assert desk.counts.answered == 3

    def test_real_large_file(self, desk: Desk):
        """A file that the answering leaves is answered by the lane."""
        loop = desk.start()
        content = json.loads(audit(1))
        path = desk.drop("a.json", json.dumps({**content, "notes": "x" * 2**20}).encode())
        until(lambda: len(loop.inbox) == 0)
        assert answers(path)
        assert (desk.counts.answered, desk.counts.total) == (1, 2)

    def test_survives_a_bug(self, desk: Desk):
        """A bug in the lane is recorded, and the loop tries the audit again."""
        bugs = [ValueError("a bug")]

        def script(ticket: Ticket) -> Result:
            if bugs:
                raise bugs.pop()
            return done(ticket)

        loop = desk.start(Scripted(desk.trail, script))
        desk.put("large")
        until(lambda: desk.counts.answered == 1)
        until(lambda: len(loop.inbox) == 0)
        [record] = desk.records("service.thread_failed")
        assert record["thread"] == "benchd-large"

    def test_dropped_folder(self, desk: Desk):
        """A large file of a folder that is no longer watched is not answered."""
        answering = Scripted(desk.trail, done)
        inbox = Inbox()
        lane = LargeLane(answering, desk.counts, desk.trail)
        inbox.put(desk.folder, [("large", "closed"), ("large too", "closed")])
        tickets, _ = inbox.take(2)
        for ticket in tickets:
            inbox.set_aside(ticket)
            lane.put(ticket, inbox)
        inbox.drop(desk.folder)
        lane.thread.start()
        until(lambda: len(inbox) == 0)
        lane.stop()
        lane.thread.join(5)
        assert answering.batches == []
