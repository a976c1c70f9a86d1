"""The threads that answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchd.answering.batch import Answering, Outcome, Result
from benchd.folder.folder import Folder
from benchd.inbox import Inbox, Work
from benchd.service import workers as module
from benchd.service.workers import Counts, Workers, count_threads
from benchd.settings.keys import FolderSettings
from benchd.trail.trail import Trail, TrailFile
from daemon import answers, audit, until


class Desk:
    """An inbox over a folder, with workers that may be given another way of answering."""

    def __init__(self, home: Path) -> None:
        self.path = home / "inbox"
        self.path.mkdir()
        self.trail_path = home / "trail.jsonl"
        self.trail = Trail(TrailFile(str(self.trail_path)), level="debug")
        self.inbox = Inbox()
        self.folder = Folder(FolderSettings(path=str(self.path)), max_bytes=10**6)
        self.counts = Counts()
        self.answering = Answering(self.trail, settle=0.0)

    def workers(self, count: int = 2, *, waits: bool = True) -> Workers:
        return Workers(self.inbox, self.answering, self.trail, self.counts, count=count, waits=waits)

    def drop(self, name: str, content: bytes) -> Path:
        path = self.path / name
        path.write_bytes(content)
        self.inbox.put(self.folder, name, "closed")
        return path


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.inbox.close()


def test_answer_and_count(desk: Desk):
    """All that is in the inbox is answered, and counted by what became of it."""
    workers = desk.workers()
    workers.start()
    good = [desk.drop(f"{number}.json", audit(number)) for number in range(40)]
    desk.drop("bad.json", b"{")
    until(lambda: len(desk.inbox) == 0)
    assert all(answers(path) for path in good)
    assert (desk.counts.answered, desk.counts.rejected, desk.counts.total) == (40, 1, 41)
    last = desk.counts.last_answer
    assert last is not None
    assert last.startswith(str(desk.path))
    desk.inbox.close()
    assert workers.join(5)


@pytest.mark.parametrize("waits", [True, False])
def test_batches(desk: Desk, waits: bool):
    """Answers share what they cost, but not more than a few of them."""
    sizes: list[int] = []

    def answer(batch: list[Work], *, large: bool) -> list[Result]:
        sizes.append(len(batch))
        return [Result(work, Outcome.SELECTED) for work in batch]

    desk.answering.answer = answer  # type: ignore[method-assign]
    for number in range(50):
        desk.inbox.put(desk.folder, str(number), "closed")
    desk.workers(1, waits=waits).start()
    until(lambda: len(desk.inbox) == 0)
    assert max(sizes) == 32
    assert sum(sizes) >= 50


def test_survives_anything(desk: Desk):
    """A bug in answering is recorded; the thread lives on and tries its audits again."""
    real: Callable[..., Any] = desk.answering.answer
    bugs = [ValueError("a bug")]

    def answer(batch: list[Work], *, large: bool) -> list[Result]:
        if batch and bugs:
            raise bugs.pop()
        return real(batch, large=large)

    desk.answering.answer = answer  # type: ignore[method-assign]
    workers = desk.workers(1)
    workers.start()
    path = desk.drop("a.json", audit(1))
    until(lambda: answers(path))
    assert all(thread.is_alive() for thread in workers.threads)
    content = desk.trail_path.read_text(encoding="utf-8")
    assert '"service.thread_failed"' in content
    assert "ValueError: a bug" in content


def test_tells_what_hangs(desk: Desk):
    """A thread that is stuck in a batch is busy since then, and is not waited for too long."""
    release = threading.Event()

    def answer(batch: list[Work], *, large: bool) -> list[Result]:
        release.wait(10)
        return [Result(work, Outcome.GONE) for work in batch]

    desk.answering.answer = answer  # type: ignore[method-assign]
    workers = desk.workers(1)
    assert list(workers.busy_since.values()) == [None, None, None]
    workers.start()
    desk.inbox.put(desk.folder, "a", "closed")
    until(lambda: workers.busy_since[0] is not None)
    desk.inbox.close()
    assert not workers.join(0.01)
    release.set()
    assert workers.join(5)
    assert workers.busy_since[0] is None


def test_retire(desk: Desk):
    """Retired workers end though the inbox stays open; the work is left to others."""
    workers = desk.workers()
    workers.start()
    until(lambda: desk.inbox._waiting_takers == 2)
    workers.retire()
    assert workers.join(5)
    path = desk.drop("a.json", audit(1))
    desk.workers().start()
    until(lambda: answers(path))


def test_auto(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    """`auto` is a few threads where they work at the same time or wait for the disk, else one; a number is a number."""
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr(module, "_ONE_AT_A_TIME", True)
    assert [count_threads("auto", waits=waits) for waits in (False, True)] == [1, 4]
    monkeypatch.setattr(module, "_ONE_AT_A_TIME", False)
    assert [count_threads("auto", waits=waits) for waits in (False, True)] == [4, 4]
    assert count_threads(3, waits=False) == 3
    workers = Workers(desk.inbox, desk.answering, desk.trail, desk.counts, count="auto", waits=True)
    assert len(workers.threads) == 5  # and one for large files


class TestAttend:
    @pytest.mark.parametrize("waits", [False, True])
    def test_answers(self, desk: Desk, waits: bool):
        """What has just come is answered on the calling thread, a few at a time; nobody else need run."""
        workers = desk.workers(1, waits=waits)
        assert workers.attend() is None
        paths = [desk.drop(f"{number}.json", audit(number)) for number in range(40)]
        assert workers.attend() == 0
        assert 0 < sum(map(answers, paths)) < 40
        assert workers.attend() is None
        assert all(map(answers, paths))
        assert desk.counts.answered == 40

    def test_what_takes_long_is_left_to_others(self, desk: Desk, monkeypatch: pytest.MonkeyPatch):
        """After a batch that took long the workers answer, and are woken for what comes."""
        monkeypatch.setattr(module, "_LONG", 0.0)
        workers = desk.workers(1, waits=False)
        workers.attend()
        first = desk.drop("a.json", audit(1))
        assert workers.attend() is None
        assert answers(first)
        second = desk.drop("b.json", audit(2))
        assert workers.attend() is None
        assert not answers(second)
        workers.start()
        until(lambda: answers(second))

    @pytest.mark.parametrize(("waits", "lock"), [(False, False), (True, True)])
    def test_the_others_help_where_they_can(self, desk: Desk, waits: bool, lock: bool, monkeypatch: pytest.MonkeyPatch):
        """Without Python's lock, or where the disk is waited for, others answer what is more than a batch."""
        monkeypatch.setattr(module, "_ONE_AT_A_TIME", lock)
        workers = desk.workers(1, waits=waits)
        workers.start()
        until(lambda: desk.inbox._waiting_takers == 1)
        workers.attend()
        paths = [desk.drop(f"{number}.json", audit(number)) for number in range(40)]
        workers.attend()
        until(lambda: all(map(answers, paths)))

    @pytest.mark.parametrize("lock", [True, False])
    def test_takes_all_where_one_works_at_a_time(self, desk: Desk, lock: bool, monkeypatch: pytest.MonkeyPatch):
        """With Python's lock whoever attends answers what scans find, if it can be woken; else the others do."""
        monkeypatch.setattr(module, "_ONE_AT_A_TIME", lock)
        woken: list[int] = []
        workers = Workers(
            desk.inbox, desk.answering, desk.trail, desk.counts, count=1, waits=True, wake=lambda: woken.append(1)
        )
        workers.attend()
        path = desk.path / "a.json"
        path.write_bytes(audit(1))
        desk.inbox.put(desk.folder, "a.json", "scan")
        workers.attend()
        assert answers(path) is lock
        assert woken == [1] * lock
        workers.start()
        until(lambda: answers(path))

    def test_retired(self, desk: Desk):
        """Retired workers take nothing more."""
        workers = desk.workers(1, waits=False)
        desk.drop("a.json", audit(1))
        workers.retire()
        assert workers.attend() is None
        assert len(desk.inbox) == 1
