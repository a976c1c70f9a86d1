"""Health: whether the daemon's threads run and make progress."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchd.answering.outcome import Outcome, Result
from benchd.folder.folder import Folder
from benchd.inbox import Inbox
from benchd.service.health import Health
from benchd.service.loop import Counts
from benchd.service.workers import Workers
from benchd.settings.keys import FolderSettings, WatchingSettings
from benchd.trail.sinks import TrailFile
from benchd.trail.trail import Trail
from daemon import audit, until


class Hanging(Folder):
    """A folder that can't be opened before `release` is set."""

    def __init__(self, path: Path) -> None:
        super().__init__(FolderSettings(path=str(path), backend="inotify"), max_bytes=2**20)
        self.release = threading.Event()

    def open(self, relative: str = "") -> int:
        self.release.wait(20)
        return super().open(relative)


@pytest.fixture
def counts() -> Counts:
    return Counts()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Hanging]:
    folder = Hanging(tmp_path)
    yield folder
    folder.release.set()


@pytest.fixture
def workers(tmp_path: Path, folder: Hanging, counts: Counts) -> Iterator[Workers]:
    workers = Workers(WatchingSettings(settle=0.0), Trail(TrailFile(str(tmp_path / "trail"))), counts)
    yield workers
    folder.release.set()
    workers.stop()
    if workers.large.thread.ident is not None:
        assert workers.join(5)


def test_stuck(workers: Workers, folder: Hanging, counts: Counts, tmp_path: Path):
    """A loop that works on one batch for longer than the limit is stuck until the batch ends."""
    health = Health(counts)
    loop, _ = workers.loop_for(folder.settings)
    workers.start()
    assert health.trouble(workers, [], limit=0.1) is None
    (tmp_path / "a.json").write_bytes(audit())
    loop.inbox.put(folder, [("a.json", "closed"), ("b.json", "closed")])
    until(lambda: health.trouble(workers, [], limit=0.1) == "thread benchd-loop-0 is stuck")
    assert health.trouble(workers, [], limit=60) is None
    folder.release.set()
    until(lambda: counts.total == 2)
    until(lambda: health.trouble(workers, [], limit=0.1) is None)


def test_stuck_in_a_large_file(workers: Workers, folder: Hanging, counts: Counts):
    """The lane for large files can be stuck, too."""
    health = Health(counts)
    workers.start()
    inbox = Inbox()
    inbox.put(folder, [("a.json", "closed")])
    [ticket], _ = inbox.take(1)
    inbox.set_aside(ticket)
    workers.large.put(ticket, inbox)
    until(lambda: health.trouble(workers, [], limit=0.1) == "thread benchd-large is stuck")


def test_dead(workers: Workers, folder: Hanging, counts: Counts):
    """A thread that has ended is reported, whether it answers or watches."""
    health = Health(counts)
    loop, _ = workers.loop_for(folder.settings)
    workers.start()
    watcher = threading.Thread(target=lambda: None, name="a watcher")
    watcher.start()
    watcher.join()
    assert health.trouble(workers, [watcher], limit=60) == "thread a watcher is dead"
    assert health.trouble(workers, [], limit=60) is None
    loop.stop()
    loop.thread.join(5)
    assert health.trouble(workers, [], limit=60) == "thread benchd-loop-0 is dead"


def test_no_progress(workers: Workers, folder: Hanging, counts: Counts):
    """Waiting audits without any answer are reported, but a delayed retry is not."""
    health = Health(counts)
    loop, _ = workers.loop_for(folder.settings)
    loop.inbox.put(folder, [("a.json", "closed")])
    [ticket], _ = loop.inbox.take(1)  # by a thread that does not answer it
    workers.start()
    assert health.trouble(workers, [], limit=0.1) is None
    until(lambda: health.trouble(workers, [], limit=0.1) == "1 audits wait, but none is being answered")
    assert health.trouble(workers, [], limit=60) is None
    counts.add([Result(ticket, Outcome.KEPT)])
    assert health.trouble(workers, [], limit=0.0) is None
    loop.inbox.give_back([(ticket, 60.0)])
    for _ in range(2):
        assert health.trouble(workers, [], limit=0.0) is None
