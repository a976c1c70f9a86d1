"""The threads that answer: the loop, and the lane for large files."""

from __future__ import annotations

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
    """Answers by a function of one ticket."""

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
    """A reader over an eventfd, which does `act` for each read."""

    def __init__(self, act: Callable[[], None] = lambda: None) -> None:
        self._act = act
        self._descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.reads = 0
        self.errors: list[Exception] = []
        #: The thread that has closed it.
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
        os.close(descriptor)
        self.closed_by = threading.current_thread()


class Desk:
    """A loop and a lane over one folder."""

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
    """Calls `act` once, just before the loop runs line number `at` of its module, or when the loop waits before that.

    How many lines it runs depends on the time that its batch took.
    """

    def __init__(self, loop: Loop, at: int = -1, act: Callable[[], object] = lambda: None) -> None:
        self._loop = loop
        self._at = at
        self._act = act
        self._acting = threading.Lock()
        self._has_acted = False
        self._seen = -1
        self.lines = 0

    def run(self) -> None:
        """Start the loop, and return when `act` was called."""
        before = threading.gettrace()
        threading.settrace(self._trace)
        try:
            self._loop.thread.start()
        finally:
            threading.settrace(before)
        until(lambda: self._has_acted or (len(self._loop.inbox) == 0 and self._is_still()), what="the loop waits")
        self._act_once()

    def _is_still(self) -> bool:
        before, self._seen = self._seen, self.lines
        return before == self._seen

    def _act_once(self) -> None:
        with self._acting:
            if not self._has_acted:
                self._act()
            self._has_acted = True

    def _trace(self, frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        if frame.f_code.co_filename != sys.modules[Loop.__module__].__file__:
            return None
        if event == "line":
            self.lines += 1
            if self.lines - 1 == self._at:
                self._act_once()
        return self._trace


def done(ticket: Ticket) -> Result:
    """Answer anything at once."""
    return Result(ticket, Outcome.SELECTED)


class TestLoop:
    def test_answers_and_counts(self, desk: Desk):
        """All that is put is answered, and counted by its outcome."""
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
        """A reader is called for each event, on the loop's thread, and what it puts is answered."""
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

    def test_busy_reader_holds_up_no_answer(self, desk: Desk):
        """A reader that has always more to read does not keep the loop from answering."""
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
        """A reader that fails gets its error and is read no more. The loop lives, and closes it once it is removed."""

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
        """A bug in answering is recorded; the thread lives on and tries the audits of the batch again."""
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
        """A loop in a batch is busy since then, and ends after that batch."""
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
        """The loop closes its readers at the end, also those just removed; to wake or stop it then is safe."""
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
        """Wherever the loop is, what others put or remove at that moment is noticed without any later event."""

        def make() -> Loop:
            answering = Scripted(desk.trail, done)
            lane = LargeLane(answering, desk.counts, desk.trail)
            loop = Loop("the loop", answering, lane, desk.counts, desk.trail)
            assert loop.inbox.put(desk.folder, [("first", "closed")])
            return loop

        def stop(loop: Loop) -> None:
            loop.stop()
            loop.thread.join(5)

        def lines_of_one_audit() -> int:
            loop = make()
            counting = Interrupting(loop)
            counting.run()
            seen = counting.lines
            stop(loop)
            return seen

        for at in range(lines_of_one_audit()):
            loop = make()
            loop.add(Bell())
            Interrupting(loop, at, lambda loop=loop: loop.inbox.put(desk.folder, [("second", "closed")])).run()
            until(lambda loop=loop: len(loop.inbox) == 0, 5, f"a put at line {at}")
            stop(loop)

            loop, reader = make(), Bell()
            loop.add(reader)
            Interrupting(loop, at, lambda loop=loop, reader=reader: loop.remove(reader)).run()
            until(lambda reader=reader: reader.closed_by, 5, f"a removal at line {at}")
            stop(loop)

    def test_many_threads_put(self, desk: Desk):
        """Threads that put at the same time lose nothing."""
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
    def test_holds_up_nobody(self, desk: Desk):
        """A large file goes to the lane and stays taken meanwhile; the loop answers the others."""
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
        """A file that the answering leaves to the lane is answered there."""
        loop = desk.start()
        content = json.loads(audit(1))
        path = desk.drop("a.json", json.dumps({**content, "notes": "x" * 2**20}).encode())
        until(lambda: len(loop.inbox) == 0)
        assert answers(path)
        assert (desk.counts.answered, desk.counts.total) == (1, 2)

    def test_survives_a_bug(self, desk: Desk):
        """A bug in the lane is recorded, and the audit is tried again by the loop."""
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
