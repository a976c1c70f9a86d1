"""Events and scans -> inbox: mounts, sources, and the watcher over real folders."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
from watchdog.observers.inotify_c import InotifyConstants

from benchd.folder.folder import Folder
from benchd.inbox import Inbox
from benchd.settings.keys import FolderSettings
from benchd.trail.trail import Trail, TrailFile
from benchd.watching import Watcher, inotify, open_reader, sources
from benchd.watching.inotify import InotifyReader, InotifySource
from benchd.watching.lock import LOCK_NAME, FolderLock, Occupied
from benchd.watching.mounts import is_remote
from benchd.watching.observer import ObserverSource
from daemon import audit, until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify")


MOUNTINFO = r"""20 1 8:1 / / rw - ext4 /dev/sda1 rw
21 20 0:40 / /srv/nfs rw shared:1 - nfs4 host:/x rw
22 21 8:2 / /srv/nfs/local rw - xfs /dev/sdb rw
23 20 0:41 / /srv/two\040words rw - fuse.sshfs host: rw
24 20 0:42 / /srv/ntfs rw - fuseblk /dev/sdc rw
25 20 0:43 / /srv/lxc rw - fuse.lxcfs lxcfs rw
26 20 8:3 / /srv/over rw - cifs //a/b rw
27 20 8:3 / /srv/over rw - ext4 /dev/sdd rw
broken line
28 20 - short
"""


class Listening:
    """Keeps all that a source tells."""

    def __init__(self) -> None:
        self.files: list[tuple[str, str]] = []
        self.lost: list[str] = []
        self.roots = 0
        self.problems: list[str] = []

    def file(self, relative: str, trigger: str) -> None:
        self.files.append((relative, trigger))

    def lost_events(self, reason: str) -> None:
        self.lost.append(reason)

    def root_changed(self) -> None:
        self.roots += 1

    def problem(self, reason: str) -> None:
        self.problems.append(reason)


class TestMounts:
    @pytest.fixture
    def mountinfo(self, tmp_path: Path) -> Callable[[str], bool]:
        def is_remote_under(path: str) -> bool:
            table = tmp_path / "mountinfo"
            table.write_text(
                MOUNTINFO,
                encoding="utf-8",
            )
            return is_remote(path, mountinfo=str(table))

        return is_remote_under

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("/home/x", False),
            ("/srv/nfs", True),
            ("/srv/nfs/deep/er", True),
            ("/srv/nfsx", False),
            ("/srv/nfs/local/x", False),
            ("/srv/two words/x", True),
            ("/srv/ntfs", False),
            ("/srv/lxc", False),
            ("/srv/over", False),
        ],
    )
    def test_is_remote(self, mountinfo: Callable[[str], bool], path: str, expected: bool):
        """The deepest, latest mount that holds the path decides."""
        assert mountinfo(path) is expected

    def test_no_table(self, tmp_path: Path):
        """Where the system doesn't tell, the path is taken for local."""
        assert not is_remote(str(tmp_path), mountinfo=str(tmp_path / "missing"))

    def test_real_table(self, tmp_path: Path):
        """The system's own table can be read."""
        assert is_remote(str(tmp_path)) in {True, False}


@pytest.fixture
def reader() -> Iterator[InotifyReader]:
    reader = open_reader(lambda: None)
    assert reader is not None
    reader.start()
    yield reader
    reader.stop()
    reader.join(5)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "inbox").mkdir()
    return Folder(FolderSettings(path=str(tmp_path / "inbox"), poll_interval=0.05), max_bytes=10**6)


class TestSources:
    @pytest.mark.parametrize(
        ("backend", "remote", "expected"),
        [
            ("auto", False, "inotify"),
            ("auto", True, "polling"),
            ("inotify", True, "inotify"),
            ("polling", False, "polling"),
        ],
    )
    def test_choice(
        self, reader: InotifyReader, backend: Any, remote: bool, expected: str, monkeypatch: pytest.MonkeyPatch
    ):
        """Network file systems are polled, others watched, unless the settings know better."""
        monkeypatch.setattr(sources, "is_remote", lambda _: remote)
        settings = FolderSettings(path="/x", backend=backend)
        assert sources.source_for(settings, Listening(), reader).backend == expected

    def test_without_a_reader(self, reader: InotifyReader):
        """Without inotify, or after its reader has failed, there is polling."""
        settings = FolderSettings(path="/x", backend="inotify")
        assert sources.source_for(settings, Listening(), None).backend == "polling"
        reader.failure = KeyError("x")
        assert sources.source_for(settings, Listening(), reader).backend == "polling"


class TestInotify:
    @pytest.fixture
    def heard(self) -> Listening:
        return Listening()

    def test_lends_its_thread(self, folder: Folder, heard: Listening):
        """After what it read, and before a directory that may take long, the thread is lent; again when that is due."""
        lent: list[int] = []

        def after() -> float | None:
            lent.append(len(heard.files))
            return 0.01 if len(lent) < 5 else None

        reader = open_reader(after)
        assert reader is not None
        InotifySource(reader, heard).start(folder)
        inbox = Path(folder.path)
        (inbox / "a.json").write_bytes(b"{}")
        (inbox / "below").mkdir()
        (inbox / "below" / "b.json").write_bytes(b"{}")
        reader.start()
        until(lambda: len(lent) == 5)
        assert lent[:2] == [0, 1]
        assert lent[-1] >= 2
        reader.stop()
        reader.join(5)

    def test_is_woken(self):
        """Whoever wakes it has its thread lent again, though nothing happens; a stopped one is not to be woken."""
        lent: list[int] = []
        reader = open_reader(lambda: lent.append(1))
        assert reader is not None
        reader.start()
        until(lambda: lent == [1])
        reader.wake()
        until(lambda: lent == [1, 1])
        reader.stop()
        reader.join(5)
        reader.wake()
        assert not reader.is_alive()

    def test_created_and_closed_is_closed(self, folder: Folder):
        """Of a file that was created and closed by the time it is read, the end is told; what came after it, too."""
        reader = open_reader(lambda: None)
        assert reader is not None
        inbox = Path(folder.path)
        reader.watch(os.fsencode(inbox), InotifySource(reader, Listening()))
        (inbox / "a.json").write_bytes(b"{}")
        (inbox / "b.json").write_bytes(b"{}")
        (inbox / "a.json").unlink()
        with (inbox / "a.json").open("wb"):
            masks = [(event.name, event.mask) for event in reader.read_events()]
        create, closed = int(InotifyConstants.IN_CREATE), int(InotifyConstants.IN_CLOSE_WRITE)
        assert masks == [(b"a.json", closed), (b"b.json", closed), (b"a.json", create)]
        reader.stop()

    @pytest.fixture
    def source(self, reader: InotifyReader, folder: Folder, heard: Listening) -> InotifySource:
        source = InotifySource(reader, heard)
        source.start(folder)
        return source

    def test_files(self, source: InotifySource, folder: Folder, heard: Listening, tmp_path: Path):
        """A close, a move and a link are told apart; hidden files and our own are not told at all."""
        inbox = Path(folder.path)
        for name in (".hidden.json", "a.bench.json", "a.bench-error.json"):
            (inbox / name).write_bytes(b"x")
        (tmp_path / "x").write_bytes(b"x")
        os.link(tmp_path / "x", inbox / "linked")
        os.rename(tmp_path / "x", inbox / "moved")
        (inbox / "written").write_bytes(b"x")
        until(lambda: ("written", "closed") in heard.files)
        told = [
            event for event in heard.files if event != ("written", "created")
        ]  # which is told if it is read in time
        assert told == [("linked", "created"), ("moved", "moved"), ("written", "closed")]

    def test_new_directories(self, source: InotifySource, folder: Folder, heard: Listening, tmp_path: Path):
        """A tree that appears is watched, and what it holds already is told."""
        tree = tmp_path / "tree"
        (tree / "deep").mkdir(parents=True)
        (tree / ".hidden").mkdir()
        (tree / "deep" / "a").touch()
        (tree / ".hidden" / "b").touch()
        os.rename(tree, Path(folder.path) / "tree")
        until(lambda: heard.files == [("tree/deep/a", "scan")])
        (Path(folder.path) / "tree" / "deep" / "c").touch()
        until(lambda: ("tree/deep/c", "closed") in heard.files)

    def test_root_deleted(self, source: InotifySource, folder: Folder, heard: Listening):
        """The end of the root is told, and stopping afterwards is safe."""
        os.rmdir(folder.path)
        until(lambda: heard.roots)
        source.stop()
        source.stop()

    def test_root_moved(self, source: InotifySource, folder: Folder, heard: Listening):
        """So is its move."""
        os.rename(folder.path, folder.path + ".old")
        until(lambda: heard.roots)

    def test_moved_directory(self, source: InotifySource, folder: Folder, heard: Listening):
        """Files in a directory that was moved within the folder are told by their new path."""
        inbox = Path(folder.path)
        (inbox / "old").mkdir()
        until(lambda: len(source._directories) == 2)
        os.rename(inbox / "old", inbox / "new")
        until(lambda: ("new", 0) in source._directories.values())
        (inbox / "new" / "a").touch()
        until(lambda: ("new/a", "closed") in heard.files)

    def test_directory_moved_away(self, source: InotifySource, folder: Folder, heard: Listening, tmp_path: Path):
        """What is moved out of the folder is not told any more, nor what is below it."""
        inbox = Path(folder.path)
        (inbox / "sub" / "deep").mkdir(parents=True)
        until(lambda: len(source._directories) == 3)
        os.rename(inbox / "sub", tmp_path / "away")
        until(lambda: len(source._directories) == 1)
        (tmp_path / "away" / "deep" / "a").touch()
        (inbox / "b").touch()
        until(lambda: ("b", "closed") in heard.files)
        assert [name for name, _ in heard.files if name.endswith("a")] == []

    def test_scan_renews(self, source: InotifySource, folder: Folder):
        """A scan watches what it enters, and what it did not enter is forgotten."""
        inbox = Path(folder.path)
        (inbox / "sub").mkdir()
        until(lambda: len(source._directories) == 2)
        descriptor = folder.open()
        source.scanned()
        source.enter("", descriptor)
        source.scanned()
        os.close(descriptor)
        assert [place for place, _ in source._directories.values()] == [""]

    def test_no_more_watches(
        self, source: InotifySource, folder: Folder, heard: Listening, monkeypatch: pytest.MonkeyPatch
    ):
        """At the system's limit it says so once, and what can't be watched otherwise is an error."""

        def refuse(number: int) -> Callable[..., int]:
            def refusing(*_: object) -> int:
                raise OSError(number, os.strerror(number))

            return refusing

        descriptor = folder.open()
        monkeypatch.setattr(source._reader, "watch", refuse(errno.ENOSPC))
        source.enter("a", descriptor)
        source.enter("b", descriptor)
        assert len(heard.problems) == 1
        assert "max_user_watches" in heard.problems[0]
        monkeypatch.setattr(source._reader, "watch", refuse(errno.EACCES))
        with pytest.raises(PermissionError):
            source.enter("a", descriptor)
        os.mkdir(os.path.join(folder.path, "sub"))
        until(lambda: len(heard.problems) == 2)
        assert "can't watch" in heard.problems[1]
        os.close(descriptor)

    def test_overflow(self, source: InotifySource, heard: Listening):
        """A full kernel queue is told as lost events."""
        source.on_queue_overflow()
        assert heard.lost == ["the kernel's event queue overflowed"]

    def test_reader_fails(
        self, source: InotifySource, folder: Folder, heard: Listening, monkeypatch: pytest.MonkeyPatch
    ):
        """A reader that dies takes nobody by surprise: every folder hears of it, and the source is not alive."""
        assert source.alive

        def fail(*_: object) -> None:
            raise KeyError("a bug")

        monkeypatch.setattr(source, "on_event", fail)
        (Path(folder.path) / "a").touch()
        until(lambda: heard.lost)
        assert "KeyError" in heard.lost[0]
        assert not source.alive

    def test_missing_folder(self, reader: InotifyReader, tmp_path: Path, heard: Listening):
        """A folder that is not there can't be watched."""
        with pytest.raises(FileNotFoundError):
            InotifySource(reader, heard).start(Folder(FolderSettings(path=str(tmp_path / "no")), max_bytes=1))

    def test_closed_reader(self, folder: Folder, heard: Listening):
        """A reader that was stopped takes no more watches."""
        reader = open_reader(lambda: None)
        assert reader is not None
        reader.start()
        reader.stop()
        reader.join(5)
        with pytest.raises(OSError, match="Bad file descriptor"):
            InotifySource(reader, heard).start(folder)


class TestObserver:
    @pytest.fixture
    def heard(self) -> Listening:
        return Listening()

    @pytest.fixture
    def source(self, folder: Folder, heard: Listening) -> Iterator[ObserverSource]:
        source = ObserverSource(heard, polling=True, interval=0.05)
        source.start(folder)
        yield source
        source.stop()

    def test_files(self, source: ObserverSource, folder: Folder, heard: Listening):
        """New and changed files are told; links are not followed."""
        inbox = Path(folder.path)
        (inbox / "loop").symlink_to(inbox)
        (inbox / "sub").mkdir()
        (inbox / "sub" / "a").write_bytes(b"1")
        until(lambda: ("sub/a", "poll") in heard.files)
        heard.files.clear()
        (inbox / "sub" / "a").write_bytes(b"22")
        until(lambda: ("sub/a", "poll") in heard.files)
        assert not [name for name, _ in heard.files if name.startswith("loop/")]
        assert source.alive

    def test_root_deleted(self, source: ObserverSource, folder: Folder, heard: Listening):
        """A root that is gone is told, or the source is known to be dead."""
        shutil.rmtree(folder.path)
        until(lambda: heard.roots or not source.alive)

    def test_stopped(self, source: ObserverSource, heard: Listening, folder: Folder):
        """After `stop` nothing is told any more."""
        source.stop()
        source.stop()
        source.dispatch(FileCreatedEvent(os.path.join(folder.path, "a")))
        assert heard.files == []
        assert not source.alive

    def test_missing_folder(self, heard: Listening, tmp_path: Path):
        """A folder that is not there can't be watched: the observers would say nothing."""
        source = ObserverSource(heard, polling=True, interval=0.05)
        assert not source.alive
        with pytest.raises(FileNotFoundError):
            source.start(Folder(FolderSettings(path=str(tmp_path / "no")), max_bytes=1))

    def test_events(self, source: ObserverSource, heard: Listening, folder: Folder):
        """What each event of watchdog's means to the folder."""
        root = folder.path
        for event in (FileModifiedEvent(f"{root}/a"), FileClosedEvent(f"{root}/b"), FileMovedEvent("/x", f"{root}/c")):
            source.dispatch(event)
        assert [name for name, _ in heard.files] == ["a", "b", "c"]
        for event in (FileDeletedEvent(f"{root}/a"), DirCreatedEvent(f"{root}/d"), DirCreatedEvent(root)):
            source.dispatch(event)
        assert (len(heard.files), heard.roots, heard.lost) == (3, 0, [])
        source.dispatch(DirMovedEvent(f"{root}/d", f"{root}/e"))
        assert heard.lost == ["a directory was moved"]
        source.dispatch(DirDeletedEvent(root))
        assert heard.roots == 1


class Watching:
    """A watcher over a real folder, its inbox and its trail."""

    def __init__(self, home: Path, folder: Folder, reader: InotifyReader | None, rescan_interval: float) -> None:
        self.path = Path(folder.path)
        self.inbox = Inbox()
        self._trail_path = home / "trail.jsonl"
        trail = Trail(TrailFile(str(self._trail_path)), level="debug")
        self.watcher = Watcher(folder, self.inbox, trail, reader=reader, rescan_interval=rescan_interval)

    def records(self, event: str) -> list[dict[str, Any]]:
        if not self._trail_path.exists():
            return []
        every = [json.loads(line) for line in self._trail_path.read_bytes().splitlines()]
        return [record for record in every if record["event"] == event]

    def taken(self) -> list[str]:
        """What is in the inbox by now; done with it."""
        works = self.inbox.take(100, timeout=0)
        for work in works:
            self.inbox.done(work)
        return [work.relative for work in works]


@pytest.fixture
def watch(tmp_path: Path, folder: Folder, reader: InotifyReader) -> Iterator[Callable[..., Watching]]:
    """Starts a watcher over `folder`."""
    every: list[Watching] = []

    def start(*, rescan_interval: float = 60.0, reader: InotifyReader | None = reader) -> Watching:
        watching = Watching(tmp_path, folder, reader, rescan_interval)
        every.append(watching)
        watching.watcher.claim()
        watching.watcher.start()
        assert watching.watcher.watched.wait(5)
        return watching

    yield start
    for watching in every:
        watching.inbox.close()
        watching.watcher.stop()
        watching.watcher.thread.join(5)
        assert not watching.watcher.thread.is_alive()


class TestWatcher:
    def test_finds_what_is_there_and_what_comes(self, watch: Callable[..., Watching], folder: Folder):
        """The first scan queues what is there; events bring the rest; what no audit could be is left out."""
        (Path(folder.path) / "old.json").touch()
        watching = watch()
        until(lambda: watching.taken() == ["old.json"])
        [scan] = until(lambda: watching.records("scan.finished"))
        (watching.path / "new.json").touch()
        (watching.path / "new.txt").touch()
        until(lambda: watching.taken() == ["new.json"])
        assert (scan["cause"], scan["found"], scan["queued"]) == ("start", 1, 1)
        assert watching.watcher.present

    def test_rescans(self, watch: Callable[..., Watching]):
        """Every `rescan_interval` it looks again, whatever the events said."""
        watching = watch(rescan_interval=0.1)
        (watching.path / "a.json").touch()
        until(watching.taken)
        until(lambda: watching.taken() == ["a.json"], what="unanswered, it is found again")
        # The scan is recorded when it ends, which may be after its find was taken.
        until(lambda: watching.records("scan.finished")[-1]["cause"] == "rescan")

    def test_lost_events(self, watch: Callable[..., Watching]):
        """Lost events are recorded and make it scan at once."""
        watching = watch()
        until(lambda: watching.records("scan.finished"))
        watching.watcher.lost_events("the queue was full")
        until(lambda: len(watching.records("scan.finished")) == 2)
        assert watching.records("watch.overflow")[0]["reason"] == "the queue was full"
        assert watching.records("scan.finished")[1]["cause"] == "overflow"

    def test_problem(self, watch: Callable[..., Watching]):
        """What can't be watched is polled by scans from then on."""
        watching = watch()
        watching.watcher.problem("no more watches")
        until(lambda: len(watching.records("scan.finished")) >= 4)
        assert len(watching.records("watch.degraded")) == 1

    def test_root_gone_and_back(self, watch: Callable[..., Watching]):
        """A lost root is recorded once, and so is its return."""
        watching = watch()
        shutil.rmtree(watching.path)
        until(lambda: watching.records("watch.root_lost"))
        assert not watching.watcher.present
        watching.path.mkdir()
        (watching.path / "a.json").touch()
        until(lambda: watching.taken() == ["a.json"])
        assert len(watching.records("watch.root_lost")) == len(watching.records("watch.root_restored")) == 1
        assert (watching.path / LOCK_NAME).exists()

    def test_source_dies(self, watch: Callable[..., Watching], reader: InotifyReader):
        """When the reader of events fails the folder is polled instead."""
        watching = watch()
        until(lambda: watching.records("scan.finished"))
        reader.failure = KeyError("x")
        watching.watcher.lost_events("the reader failed")
        until(lambda: watching.records("watch.started")[1:])
        assert watching.records("watch.started")[1]["backend"] == "polling"
        (watching.path / "a.json").touch()
        until(lambda: "a.json" in watching.taken())

    def test_inotify_refuses(self, watch: Callable[..., Watching], monkeypatch: pytest.MonkeyPatch):
        """Where the kernel gives no watch the folder is polled."""

        def refuse(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(inotify.InotifySource, "start", refuse)
        watching = watch()
        assert watching.records("watch.started")[0]["backend"] == "polling"
        assert "inotify refused" in watching.records("watch.degraded")[0]["reason"]

    def test_unlocked(self, watch: Callable[..., Watching], folder: Folder):
        """A folder that can't be claimed is watched all the same, and that is said."""
        (Path(folder.path) / LOCK_NAME).mkdir()
        watching = watch()
        assert watching.records("watch.degraded")[0]["instead"] == "watching without a lock"
        assert watching.watcher.present

    def test_occupied_when_it_comes_back(self, watch: Callable[..., Watching], monkeypatch: pytest.MonkeyPatch):
        """A folder that another benchd has taken meanwhile is left to that, until it ends."""
        watching = watch()
        taken = [True]
        real = FolderLock.acquire

        def acquire(lock: FolderLock) -> str | None:
            if taken:
                raise Occupied(str(watching.path), 4711)
            return real(lock)

        monkeypatch.setattr(FolderLock, "acquire", acquire)
        os.rename(watching.path, f"{watching.path}.old")
        watching.path.mkdir()
        until(lambda: any("pid 4711" in record["reason"] for record in watching.records("watch.root_lost")))
        taken.clear()
        until(lambda: watching.records("watch.root_restored"))

    def test_survives_a_bug(self, watch: Callable[..., Watching], monkeypatch: pytest.MonkeyPatch):
        """Whatever goes wrong in a round is recorded, and the folder is watched anew."""
        watching = watch()
        until(lambda: watching.records("scan.finished"))
        bugs = [ValueError("a bug")]
        real = watching.watcher._scan

        def scan(cause: str) -> float:
            if bugs:
                raise bugs.pop()
            return real(cause)

        monkeypatch.setattr(watching.watcher, "_scan", scan)
        watching.watcher.request_scan("test")
        until(lambda: watching.records("service.thread_failed"))
        assert "a bug" in watching.records("service.thread_failed")[0]["error"]
        (watching.path / "a.json").touch()
        until(lambda: "a.json" in watching.taken())

    def test_directory_that_can_not_be_read(self, watch: Callable[..., Watching]):
        """It is said once for each, and only of the root that it is gone."""
        watching = watch()
        for _ in range(2):
            watching.watcher._cannot_read("sub", PermissionError(errno.EACCES, "Permission denied"))
        [record] = watching.records("watch.degraded")
        assert f"uid {os.geteuid()}" in record["reason"]

    def test_stops_while_the_inbox_is_full(self, tmp_path: Path, folder: Folder, reader: InotifyReader):
        """A scan that waits for room ends with the inbox."""
        for number in range(20):
            (Path(folder.path) / f"{number}.json").write_bytes(audit(number))
        watching = Watching(tmp_path, folder, reader, 60.0)
        watching.watcher._inbox = watching.inbox = Inbox(capacity=4)
        watching.watcher.start()
        until(lambda: len(watching.inbox) == 2)
        watching.inbox.close()
        watching.watcher.stop()
        watching.watcher.thread.join(5)
        assert not watching.watcher.thread.is_alive()
        assert not (watching.path / LOCK_NAME).exists()
        assert threading.active_count() < 20
