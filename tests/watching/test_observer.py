"""The sources of events that use watchdog's observers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
)

from benchd.folder.folder import Folder
from benchd.settings.keys import FolderSettings
from benchd.watching.observer import ObserverSource
from daemon import until
from listening import Listening


@pytest.fixture(params=[True, False], ids=["polling", "observer"])
def source(folder: Folder, heard: Listening, request: pytest.FixtureRequest) -> Iterator[ObserverSource]:
    source = ObserverSource(heard, polling=request.param, interval=0.05)
    source.start(folder)
    yield source
    source.stop()


def test_files(source: ObserverSource, folder: Folder, heard: Listening):
    """New and changed files give hints, and links are not followed."""
    inbox = Path(folder.path)
    (inbox / "loop").symlink_to(inbox)
    (inbox / "sub").mkdir()
    (inbox / "sub" / "a").write_bytes(b"1")
    until(lambda: ("sub/a", "poll") in heard.hints)
    heard.hints.clear()
    (inbox / "sub" / "a").write_bytes(b"22")
    until(lambda: ("sub/a", "poll") in heard.hints)
    assert not [name for name, _ in heard.hints if name.startswith("loop/")]
    assert source.alive


def test_root_deleted(source: ObserverSource, folder: Folder, heard: Listening):
    """The deletion of the folder is reported, or the source is not alive."""
    shutil.rmtree(folder.path)
    until(lambda: heard.roots or not source.alive)


def test_stopped(source: ObserverSource, heard: Listening, folder: Folder):
    """After `stop`, which may be called twice, there are no hints."""
    source.stop()
    source.stop()
    source.dispatch(FileCreatedEvent(os.path.join(folder.path, "a")))
    assert heard.hints == []
    assert not source.alive


def test_scans_are_not_its_business(source: ObserverSource, folder: Folder, heard: Listening):
    """Entering a directory has no effect, because observers find directories themselves."""
    descriptor = folder.open()
    source.enter("", descriptor)
    source.recheck(1, "a")
    source.scanned()
    os.close(descriptor)
    assert source.alive
    assert heard.lost == []


@pytest.mark.parametrize("polling", [True, False])
def test_missing_folder(heard: Listening, tmp_path: Path, polling: bool):
    """A missing folder raises an error, because observers do not report it."""
    source = ObserverSource(heard, polling=polling, interval=0.05)
    assert not source.alive
    with pytest.raises(FileNotFoundError):
        source.start(Folder(FolderSettings(path=str(tmp_path / "no")), max_bytes=1))


@pytest.fixture
def quiet(folder: Folder, heard: Listening) -> Iterator[ObserverSource]:
    """Return a source that does not poll during the test."""
    source = ObserverSource(heard, polling=True, interval=1000)
    source.start(folder)
    yield source
    source.stop()


def test_events(quiet: ObserverSource, heard: Listening, folder: Folder):
    """Each event of watchdog has one meaning for the folder."""
    root = folder.path
    for event in (FileModifiedEvent(f"{root}/a"), FileClosedEvent(f"{root}/b"), FileMovedEvent("/x", f"{root}/c")):
        quiet.dispatch(event)
    assert heard.hints == [("a", "poll"), ("b", "poll"), ("c", "poll")]
    for event in (FileDeletedEvent(f"{root}/a"), DirCreatedEvent(f"{root}/d"), DirCreatedEvent(root)):
        quiet.dispatch(event)
    assert (len(heard.hints), heard.roots, heard.lost) == (3, 0, [])
    quiet.dispatch(DirMovedEvent(f"{root}/d", f"{root}/e"))
    assert heard.lost == ["a directory was moved"]
    quiet.dispatch(DirDeletedEvent(root))
    assert heard.roots == 1


class Failing(Listening):
    def files(self, hints: object) -> None:
        raise ValueError("a bug")


def test_an_event_that_can_not_be_handled(folder: Folder):
    """An exception counts as lost events, and does not reach watchdog's dispatcher."""
    heard = Failing()
    source = ObserverSource(heard, polling=True, interval=1000)
    source.start(folder)
    source.dispatch(FileCreatedEvent(os.path.join(folder.path, "a")))
    source.stop()
    assert heard.lost == ["an event could not be handled: ValueError: a bug"]
