"""The watcher of real folders."""

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

from benchd.folder.folder import Folder
from benchd.inbox import Inbox
from benchd.settings.keys import FolderSettings
from benchd.trail.sinks import TrailFile
from benchd.trail.trail import Trail
from benchd.watching.inotify import Inotify, InotifySource, Instances
from benchd.watching.lock import LOCK_NAME, FolderLock, Occupied
from benchd.watching.watcher import Watcher
from daemon import audit, until
from listening import Reading, ReadingThread

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify")


@pytest.fixture
def reading() -> Iterator[ReadingThread]:
    """Return a loop that reads all the time."""
    reading = ReadingThread()
    yield reading
    reading.stop()
    assert reading.readers == [], "every watcher has given its instance back"


class Watching:
    """A watcher over a real folder, its inbox and its trail."""

    def __init__(
        self,
        home: Path,
        folder: Folder,
        instances: Instances | None,
        *,
        rescan_interval: float = 60.0,
        lock: FolderLock | None = None,
        inbox: Inbox | None = None,
    ) -> None:
        self.path = Path(folder.path)
        self.inbox = Inbox() if inbox is None else inbox
        self._trail_path = home / "trail.jsonl"
        trail = Trail(TrailFile(str(self._trail_path)), level="debug")
        self.watcher = Watcher(
            folder, self.inbox, trail, instances=instances, rescan_interval=rescan_interval, lock=lock
        )

    def records(self, event: str) -> list[dict[str, Any]]:
        if not self._trail_path.exists():
            return []
        content = self._trail_path.read_bytes()
        every = [json.loads(line) for line in content[: content.rfind(b"\n") + 1].splitlines()]
        return [
            record for record in every if record["event"] == event and record.get("root", "") in ("", str(self.path))
        ]

    def taken(self) -> list[str]:
        """Take the due tickets, mark them as done, and return their paths."""
        tickets, _ = self.inbox.take(100)
        self.inbox.give_back((ticket, None) for ticket in tickets)
        return [ticket.relative for ticket in tickets]

    def until_taken(self, *names: str) -> set[str]:
        """Take what is due until all of `names` have come; return everything that came."""
        came: set[str] = set()
        until(lambda: came.update(self.taken()) or came >= set(names), what=f"{names} came")
        return came


@pytest.fixture
def watch(tmp_path: Path, folder: Folder, instances: Instances) -> Iterator[Callable[..., Watching]]:
    """Return a function that starts watchers."""
    every: list[Watching] = []

    def start(folder: Folder = folder, instances: Instances | None = instances, **options: Any) -> Watching:
        watching = Watching(tmp_path, folder, instances, **options)
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


class TestScans:
    def test_finds_present_and_later_audits(self, watch: Callable[..., Watching], folder: Folder):
        """The first scan queues the present audits, events queue the later ones, and other names are skipped."""
        (Path(folder.path) / "old.json").touch()
        watching = watch()
        watching.until_taken("old.json")
        [scan] = until(lambda: watching.records("scan.finished"))
        (watching.path / "new.json").touch()
        (watching.path / "new.txt").touch()
        assert watching.until_taken("new.json") == {"new.json"}
        assert (scan["cause"], scan["found"], scan["queued"]) == ("start", 1, 1)
        assert watching.watcher.present

    def test_rescans(self, watch: Callable[..., Watching]):
        """The watcher scans every `rescan_interval`, without any event."""
        watching = watch(rescan_interval=0.1)
        (watching.path / "a.json").touch()
        watching.until_taken("a.json")
        watching.until_taken("a.json")
        # The scan is recorded when it ends, which may be after its find was taken.
        until(lambda: watching.records("scan.finished")[-1]["cause"] == "rescan")

    def test_lost_events(self, watch: Callable[..., Watching]):
        """Lost events are recorded and cause a scan at once."""
        watching = watch()
        until(lambda: watching.records("scan.finished"))
        watching.watcher.lost_events("the queue was full")
        until(lambda: len(watching.records("scan.finished")) == 2)
        assert watching.records("watch.overflow")[0]["reason"] == "the queue was full"
        assert watching.records("scan.finished")[1]["cause"] == "overflow"

    def test_lost_events_are_recorded_once_for_each_scan(self, watch: Callable[..., Watching], tmp_path: Path):
        """Overflows before the scan starts are recorded once, and a later one is recorded again."""
        held = Held(tmp_path / "inbox")
        watching = watch(folder=held)
        until(lambda: watching.records("scan.finished"))
        held.release.clear()
        watching.watcher.request_scan("test")
        assert held.is_waiting.wait(5)
        for _ in range(3):
            watching.watcher.lost_events("first")
        held.release.set()
        until(lambda: len(causes(watching)) == 2)
        watching.watcher.lost_events("second")
        until(lambda: len(watching.records("watch.overflow")) == 2)
        assert [record["reason"] for record in watching.records("watch.overflow")] == ["first", "second"]

    def test_requests_before_a_scan_are_one(self, watch: Callable[..., Watching], tmp_path: Path):
        """Requests before a scan starts are combined, and the first one gives the cause."""
        held = Held(tmp_path / "inbox")
        watching = watch(folder=held)
        until(lambda: watching.records("scan.finished"))
        held.release.clear()
        watching.watcher.request_scan("first")
        assert held.is_waiting.wait(5)
        for cause in ("second", "third"):
            watching.watcher.request_scan(cause)
        held.release.set()
        until(lambda: len(causes(watching)) == 2)
        watching.watcher.request_scan("fourth")
        until(lambda: causes(watching) == ["start", "first", "fourth"])

    def test_problem(self, watch: Callable[..., Watching]):
        """A folder that can't be watched completely is scanned at its polling interval from then on."""
        watching = watch()
        watching.watcher.problem("no more watches")
        until(lambda: len(watching.records("scan.finished")) >= 4)
        assert len(watching.records("watch.degraded")) == 1

    def test_stops_while_the_inbox_is_full(self, tmp_path: Path, folder: Folder, instances: Instances):
        """A scan that waits for room ends with the inbox, and the lock is released."""
        for number in range(20):
            (Path(folder.path) / f"{number}.json").write_bytes(audit(number))
        watching = Watching(tmp_path, folder, instances, inbox=Inbox(capacity=4))
        watching.watcher.start()
        until(lambda: len(watching.inbox) == 2)
        watching.inbox.close()
        watching.watcher.stop()
        watching.watcher.thread.join(5)
        assert not watching.watcher.thread.is_alive()
        assert not (watching.path / LOCK_NAME).exists()


def causes(watching: Watching) -> list[str]:
    """Return the cause of each scan."""
    return [record["cause"] for record in watching.records("scan.finished")]


class Held(Folder):
    """A folder whose rounds wait until `release` is set."""

    def __init__(self, path: Path) -> None:
        super().__init__(FolderSettings(path=str(path), backend="inotify", poll_interval=0.05), max_bytes=10**6)
        self.release = threading.Event()
        self.release.set()
        self.is_waiting = threading.Event()
        self.opened: list[str] = []

    def open(self, relative: str = "") -> int:
        self.opened.append(relative)
        if not self.release.is_set():
            self.is_waiting.set()
            self.release.wait(10)
        return super().open(relative)


class TestDirectories:
    def test_new_tree(self, watch: Callable[..., Watching], tmp_path: Path):
        """A new tree is watched, and its present files are found."""
        tree = tmp_path / "tree"
        (tree / "deep").mkdir(parents=True)
        (tree / ".hidden").mkdir()
        (tree / "deep" / "a.json").touch()
        (tree / ".hidden" / "b.json").touch()
        watching = watch()
        until(lambda: watching.records("scan.finished"))
        os.rename(tree, watching.path / "tree")
        assert watching.until_taken("tree/deep/a.json") == {"tree/deep/a.json"}
        (watching.path / "tree" / "deep" / "c.json").touch()
        watching.until_taken("tree/deep/c.json")
        (watching.path / "tree" / "new").mkdir()
        (watching.path / "tree" / "new" / "d.json").touch()
        watching.until_taken("tree/new/d.json")
        assert len(watching.records("scan.finished")) == 1

    def test_new_directory_while_a_scan_runs(self, watch: Callable[..., Watching], folder: Folder):
        """A long scan pauses regularly to explore new directories."""
        path = Path(folder.path)
        for number in range(3000):
            (path / f"{number}.json").touch()
        inbox = Noting()
        watching = watch(inbox=inbox)
        until(lambda: causes(watching) == ["start"])

        def make_directory() -> None:
            (path / "sub").mkdir()
            (path / "sub" / "a.json").touch()
            watching.watcher.explore("sub")

        inbox.found.clear()
        inbox.act = make_directory
        watching.watcher.request_scan("test")
        until(lambda: causes(watching) == ["start", "test"])
        found = inbox.found
        assert found.index("sub/a.json") < 2000
        assert len(set(found)) == 3001
        (path / "sub" / "b.json").touch()
        watching.until_taken("sub/b.json")

    def test_moved_inside(self, watch: Callable[..., Watching]):
        """Files in a directory that was moved within the folder are found by their new path."""
        watching = watch()
        (watching.path / "old" / "deep").mkdir(parents=True)
        (watching.path / "old" / "deep" / "a.json").touch()
        until(lambda: "old/deep/a.json" in watching.taken())
        os.rename(watching.path / "old", watching.path / "new")
        until(lambda: "new/deep/a.json" in watching.taken())
        (watching.path / "new" / "deep" / "b.json").touch()
        until(lambda: "new/deep/b.json" in watching.taken())

    def test_moved_often(self, watch: Callable[..., Watching], tmp_path: Path):
        """A directory that moves many times while the watcher is busy waits once to be followed."""
        held = Held(tmp_path / "inbox")
        watching = watch(folder=held)
        until(lambda: watching.records("scan.finished"))
        held.release.clear()
        watching.watcher.request_scan("test")
        assert held.is_waiting.wait(5)
        for _ in range(100):
            watching.watcher.recheck(7, "sub")
        held.release.set()
        until(lambda: "sub" in held.opened)
        watching.watcher.request_scan("again")
        until(lambda: len(watching.records("scan.finished")) == 3)
        assert held.opened.count("sub") == 1

    def test_moved_away_and_back(self, watch: Callable[..., Watching], tmp_path: Path):
        """A directory that was moved out of the folder is watched again only once it comes back."""
        watching = watch()
        (watching.path / "sub").mkdir()
        (watching.path / "sub" / "a.json").touch()
        watching.until_taken("sub/a.json")
        os.rename(watching.path / "sub", tmp_path / "away")
        for name in ("one", "two"):  # once the second is explored, the watcher has followed the move
            (watching.path / name).mkdir()
            (watching.path / name / "a.json").touch()
            watching.until_taken(f"{name}/a.json")
        (tmp_path / "away" / "b.json").touch()
        (watching.path / "c.json").touch()
        assert "sub/b.json" not in watching.until_taken("c.json")
        os.rename(tmp_path / "away", watching.path / "sub")
        watching.until_taken("sub/a.json", "sub/b.json")
        (watching.path / "sub" / "d.json").touch()
        watching.until_taken("sub/d.json")

    def test_too_many_new_directories(self, watch: Callable[..., Watching], tmp_path: Path):
        """If too many new directories appear at once, a scan of the whole folder finds them."""
        held = Held(tmp_path / "inbox")
        watching = watch(folder=held)
        until(lambda: watching.records("scan.finished"))
        held.release.clear()
        watching.watcher.explore("first")
        assert held.is_waiting.wait(5)
        for number in range(1001):
            watching.watcher.explore(f"{number}")
        held.release.set()
        until(lambda: causes(watching) == ["start", "overflow"])

    def test_ignored_directories_are_not_entered(self, watch: Callable[..., Watching], tmp_path: Path):
        """A directory that is hidden, or that the settings ignore, is not explored."""
        settings = FolderSettings(path=str(tmp_path / "inbox"), backend="inotify", ignore=("skipped",))
        watching = watch(folder=Folder(settings, max_bytes=10**6))
        for name in ("skipped", ".hidden", "sub"):
            (watching.path / name).mkdir()
            (watching.path / name / "a.json").touch()
        assert watching.until_taken("sub/a.json") == {"sub/a.json"}

    def test_that_can_not_be_read(self, watch: Callable[..., Watching], tmp_path: Path):
        """A directory that can't be read is recorded once, with the missing permission, and the others are scanned."""
        locked = Locked(tmp_path / "inbox")
        (tmp_path / "inbox" / "locked").mkdir()
        (tmp_path / "inbox" / "sub").mkdir()
        (tmp_path / "inbox" / "sub" / "a.json").touch()
        watching = watch(folder=locked)
        watching.until_taken("sub/a.json")
        watching.watcher.request_scan("again")
        until(lambda: len(watching.records("scan.finished")) == 2)
        [record] = watching.records("watch.degraded")
        assert f"uid {os.geteuid()}" in record["reason"]
        assert str(watching.path / "locked") in record["reason"]

    def test_new_one_that_can_not_be_read(self, watch: Callable[..., Watching], tmp_path: Path):
        """A new directory that can't be read leads to one scan, which records the missing access, and to no polling."""
        watching = watch(folder=Locked(tmp_path / "inbox"))
        until(lambda: watching.records("scan.finished"))
        (watching.path / "locked").mkdir()
        until(lambda: len(watching.records("scan.finished")) == 2)
        [record] = watching.records("watch.degraded")
        assert record["instead"] == "trying again at every scan"
        assert "can't watch" in watching.records("watch.overflow")[0]["reason"]

    def test_new_one_that_can_not_be_watched(
        self, watch: Callable[..., Watching], reading: ReadingThread, make_folder: Callable[..., Folder]
    ):
        """A new directory that can't be watched is recorded, and the folder is scanned at its polling interval."""
        instances = Instances(reading, most=1)
        first = watch(instances=instances)
        (first.path / "sub").mkdir()
        (first.path / "sub" / "a.json").touch()
        until(lambda: "sub/a.json" in first.taken())
        second = Elsewhere(make_folder("second"), first.path / "sub")
        watching = watch(instances=instances, folder=second)
        until(lambda: watching.records("scan.finished"))
        (watching.path / "sub").mkdir()
        until(lambda: watching.records("watch.degraded"))
        assert "can't watch" in watching.records("watch.degraded")[0]["reason"]
        until(lambda: len(watching.records("scan.finished")) >= 3)


class Elsewhere(Folder):
    """A folder whose directory `sub` is, as after a bind mount, one that another folder watches."""

    def __init__(self, folder: Folder, same: Path) -> None:
        super().__init__(folder.settings, max_bytes=folder.max_bytes)
        self._same = same

    def open(self, relative: str = "") -> int:
        return os.open(self._same, os.O_RDONLY) if relative == "sub" else super().open(relative)


class Locked(Folder):
    """A folder with a directory that can't be opened, not even by root."""

    def __init__(self, path: Path) -> None:
        super().__init__(FolderSettings(path=str(path), backend="inotify", poll_interval=0.05), max_bytes=10**6)

    def open(self, relative: str = "") -> int:
        if relative == "locked":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return super().open(relative)


class Exhausted(Folder):
    """A folder of a process that has no descriptor left to open the directories `lacking`."""

    def __init__(self, path: Path) -> None:
        super().__init__(FolderSettings(path=str(path), backend="inotify", poll_interval=0.05), max_bytes=10**6)
        self.lacking: set[str] = set()

    def open(self, relative: str = "") -> int:
        if relative in self.lacking:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().open(relative)


class TestWithoutDescriptors:
    """A process that can open nothing more still watches what it watches."""

    @pytest.fixture
    def exhausted(self, tmp_path: Path) -> Exhausted:
        (tmp_path / "inbox" / "sub").mkdir(parents=True)
        return Exhausted(tmp_path / "inbox")

    def test_root(self, watch: Callable[..., Watching], exhausted: Exhausted):
        """A folder that can't be opened for that reason is not lost; this is recorded once, and tried again."""
        watching = watch(folder=exhausted)
        until(lambda: watching.records("scan.finished"))
        exhausted.lacking.add("")
        watching.watcher.root_changed()
        until(lambda: watching.records("watch.degraded"))
        (watching.path / "a.json").touch()
        until(lambda: watching.taken() == ["a.json"])
        assert (watching.records("watch.root_lost"), watching.watcher.present) == ([], True)
        exhausted.lacking.clear()
        until(lambda: len(watching.records("watch.started")) == 2, what="the root was in question")
        [degraded] = watching.records("watch.degraded")
        assert degraded["reason"] == "can't check the folder: Too many open files"

    def test_root_at_the_start(self, watch: Callable[..., Watching], exhausted: Exhausted):
        """The service does not wait for such a folder to be ready; it is watched once it can be opened."""
        exhausted.lacking.add("")
        watching = watch(folder=exhausted)
        assert not watching.watcher.present
        exhausted.lacking.clear()
        until(lambda: watching.records("scan.finished"))
        assert watching.records("watch.root_lost") == []

    def test_directory(self, watch: Callable[..., Watching], exhausted: Exhausted):
        """A directory that a scan can't open for that reason is still watched, and scanned again soon."""
        watching = watch(folder=exhausted)
        until(lambda: watching.records("scan.finished"))
        exhausted.lacking.add("sub")
        watching.watcher.request_scan("test")
        until(lambda: len(watching.records("scan.finished")) == 2)
        (watching.path / "sub" / "a.json").touch()
        until(lambda: watching.taken() == ["sub/a.json"])
        exhausted.lacking.clear()
        until(lambda: watching.taken() == ["sub/a.json"], what="a scan finds it again")

    def test_new_directory(self, watch: Callable[..., Watching], exhausted: Exhausted):
        """A new directory that can't be opened for that reason leads to scans, but not to polling from now on."""
        watching = watch(folder=exhausted)
        until(lambda: watching.records("scan.finished"))
        exhausted.lacking.add("new")
        (watching.path / "new").mkdir()
        (watching.path / "new" / "a.json").touch()
        until(lambda: watching.records("watch.overflow"))
        exhausted.lacking.clear()
        until(lambda: watching.taken() == ["new/a.json"])
        assert "scanning at poll_interval" not in [record["instead"] for record in watching.records("watch.degraded")]


class Ending(Folder):
    """A folder whose watcher is stopped, and whose source is closed, while `sub` is opened."""

    def __init__(self, path: Path) -> None:
        super().__init__(FolderSettings(path=str(path), backend="inotify"), max_bytes=10**6)
        self.end: Callable[[], None] = lambda: None
        self.error: Exception | None = None

    def open(self, relative: str = "") -> int:
        if relative == "sub" and self.error is not None:
            self.end()
            raise self.error
        return super().open(relative)


@pytest.mark.parametrize(
    "error", [OSError(errno.EBADF, os.strerror(errno.EBADF)), ValueError("I/O operation on closed epoll object")]
)
@pytest.mark.parametrize("new", [True, False], ids=["new directory", "scan"])
def test_a_stop_is_no_failure(watch: Callable[..., Watching], tmp_path: Path, error: Exception, new: bool):
    """What fails because the watcher and its loop end is not recorded."""
    folder = Ending(tmp_path / "inbox")
    sub = tmp_path / "inbox" / "sub"
    if not new:
        sub.mkdir()
    watching = watch(folder=folder)
    until(lambda: watching.records("scan.finished"))
    folder.end, folder.error = watching.watcher.stop, error
    if new:
        sub.mkdir()
    watching.watcher.request_scan("test")
    watching.watcher.thread.join(5)
    assert not watching.watcher.thread.is_alive()
    assert [watching.records(event) for event in ("watch.degraded", "watch.overflow", "service.thread_failed")] == [
        [], [], []
    ]  # fmt: skip


class Noting(Inbox):
    """An inbox that records the audits from scans, and calls `act` once before it accepts one."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.act: Callable[[], None] = lambda: None

    def put_scanned(self, folder: Folder, relative: str) -> bool:
        act, self.act = self.act, lambda: None
        act()
        self.found.append(relative)
        return super().put_scanned(folder, relative)


class TestRoot:
    def test_gone_and_back(self, watch: Callable[..., Watching]):
        """A lost folder and its return are recorded once each."""
        watching = watch()
        shutil.rmtree(watching.path)
        until(lambda: watching.records("watch.root_lost"))
        until(lambda: not watching.watcher.present)
        watching.path.mkdir()
        (watching.path / "a.json").touch()
        watching.until_taken("a.json")
        assert len(watching.records("watch.root_lost")) == len(watching.records("watch.root_restored")) == 1
        assert (watching.path / LOCK_NAME).exists()

    def test_missing_at_the_start(self, watch: Callable[..., Watching]):
        """A folder that does not exist yet is watched once it exists."""
        path = Path(watch().path)
        later = Folder(FolderSettings(path=str(path.parent / "later"), backend="inotify"), max_bytes=10**6)
        watching = watch(folder=later)
        assert not watching.watcher.present
        watching.path.mkdir()
        until(lambda: watching.watcher.present)
        assert "does not exist" in watching.records("watch.root_lost")[0]["reason"]

    def test_replaced(self, watch: Callable[..., Watching]):
        """If another folder replaces the watched one, the new one is watched."""
        watching = watch()
        until(lambda: watching.records("scan.finished"))
        os.rename(watching.path, f"{watching.path}.old")
        watching.path.mkdir()
        until(lambda: watching.records("watch.root_restored"))
        (watching.path / "a.json").touch()
        watching.until_taken("a.json")

    def test_deleted_before_a_scan(self, watch: Callable[..., Watching], folder: Folder):
        """A root that is deleted between its check and the scan is lost at once, and found again when it is back."""

        class Deleted(Folder):
            def set_clock(self, *, check: bool) -> None:
                """Delete the folder: a scan begins with this."""
                shutil.rmtree(self.path, ignore_errors=True)
                super().set_clock(check=check)

        deleted = Deleted(folder.settings, max_bytes=10**6)
        watching = watch(folder=deleted)
        [lost] = until(lambda: watching.records("watch.root_lost"))
        assert "does not exist" in lost["reason"]
        assert watching.records("watch.degraded") == []

    def test_shortage_of_descriptors(self, watch: Callable[..., Watching], folder: Folder):
        """If benchd has no descriptor to check the folder, it goes on watching, and the trail has the reason."""

        class Short(Folder):
            is_short = False

            def open(self, relative: str = "") -> int:
                if self.is_short:
                    raise OSError(errno.EMFILE, "Too many open files")
                return super().open(relative)

        short = Short(folder.settings, max_bytes=10**6)
        watching = watch(folder=short, rescan_interval=0.02)
        short.is_short = True
        [degraded] = until(lambda: watching.records("watch.degraded"))
        assert degraded["reason"].endswith("Too many open files")
        (watching.path / "a.json").touch()
        until(lambda: watching.taken() == ["a.json"])
        assert watching.records("watch.root_lost") == []


class TestSources:
    def test_reader_fails(self, watch: Callable[..., Watching], reading: ReadingThread):
        """If its events can't be read any more, the folder is polled."""
        watching = watch()
        until(lambda: watching.records("scan.finished"))
        reading.fail(KeyError("a bug"))
        until(lambda: watching.records("watch.started")[1:])
        assert watching.records("watch.started")[1]["backend"] == "polling"
        assert "KeyError" in watching.records("watch.overflow")[0]["reason"]
        [degraded] = watching.records("watch.degraded")
        assert degraded["reason"] == "the source of events has failed"
        (watching.path / "a.json").touch()
        watching.until_taken("a.json")

    def test_inotify_refuses(self, watch: Callable[..., Watching], reading: Reading):
        """If the system gives no instance, the folder is polled, and the reason is recorded."""

        class Exhausted(Instances):
            def join(self, source: InotifySource) -> Inotify:
                raise OSError(errno.EMFILE, "raise fs.inotify.max_user_instances")

        watching = watch(instances=Exhausted(reading))
        assert watching.records("watch.started")[0]["backend"] == "polling"
        assert watching.records("watch.degraded")[0]["reason"] == (
            "inotify refused: raise fs.inotify.max_user_instances"
        )
        assert watching.records("watch.root_lost") == []
        (watching.path / "a.json").touch()
        watching.until_taken("a.json")

    def test_another_watchdog(self, watch: Callable[..., Watching]):
        """Without instances watchdog's observer supplies the events."""
        watching = watch(instances=None)
        until(lambda: watching.records("scan.finished"))
        assert watching.records("watch.started")[0]["backend"] == "observer"
        (watching.path / "sub").mkdir()
        (watching.path / "sub" / "a.json").touch()
        watching.until_taken("sub/a.json")
        assert watching.records("watch.degraded") == []

    def test_same_directory_in_a_shared_instance(
        self, watch: Callable[..., Watching], reading: ReadingThread, tmp_path: Path
    ):
        """A folder whose directory is already watched through the same instance is polled."""
        instances = Instances(reading, most=1)
        first = watch(instances=instances)
        bound = tmp_path / "same"
        bound.symlink_to(first.path)
        second = watch(
            instances=instances,
            folder=Folder(FolderSettings(path=str(bound), backend="inotify", poll_interval=0.05), max_bytes=10**6),
        )
        assert [record["backend"] for record in second.records("watch.started")] == ["polling"]

    def test_survives_a_bug(self, watch: Callable[..., Watching], tmp_path: Path):
        """A failed round is recorded, and the folder is watched again."""
        buggy = Buggy(tmp_path / "inbox")
        watching = watch(folder=buggy)
        until(lambda: watching.records("scan.finished"))
        buggy.bugs.append(ValueError("a bug"))
        watching.watcher.request_scan("test")
        until(lambda: watching.records("service.thread_failed"))
        assert "a bug" in watching.records("service.thread_failed")[0]["error"]
        (watching.path / "a.json").touch()
        watching.until_taken("a.json")
        until(lambda: len(watching.records("watch.started")) == 2)


class Buggy(Folder):
    """A folder whose scans fail `bugs` times."""

    def __init__(self, path: Path) -> None:
        super().__init__(FolderSettings(path=str(path), backend="inotify"), max_bytes=10**6)
        self.bugs: list[Exception] = []

    def set_clock(self, *, check: bool) -> None:
        if self.bugs:
            raise self.bugs.pop()
        super().set_clock(check=check)


class Taken(FolderLock):
    """A lock that another benchd holds while `is_taken`."""

    is_taken = False

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def acquire(self) -> str | None:
        if self.is_taken:
            raise Occupied(self.path, 4711)
        return super().acquire()


class TestLock:
    def test_without(self, watch: Callable[..., Watching], folder: Folder):
        """A folder that can't be locked is watched without a lock, which is recorded."""
        (Path(folder.path) / LOCK_NAME).mkdir()
        watching = watch()
        assert watching.records("watch.degraded")[0]["instead"] == "watching without a lock"
        assert watching.watcher.present

    def test_occupied_when_it_comes_back(self, watch: Callable[..., Watching], folder: Folder):
        """A folder that another benchd has locked meanwhile is not watched until that benchd ends."""
        lock = Taken(folder.path)
        watching = watch(lock=lock)
        lock.is_taken = True
        os.rename(watching.path, f"{watching.path}.old")
        watching.path.mkdir()
        until(lambda: any("pid 4711" in record["reason"] for record in watching.records("watch.root_lost")))
        lock.is_taken = False
        until(lambda: watching.records("watch.root_restored"))

    def test_lock_file_removed(self, watch: Callable[..., Watching], folder: Folder):
        """A removed lock file is created again, unless another benchd has locked the folder."""
        lock = Taken(folder.path)
        watching = watch(lock=lock)
        until(lambda: causes(watching) == ["start"])
        (watching.path / LOCK_NAME).unlink()
        watching.watcher.request_scan("test")
        until(lambda: causes(watching) == ["start", "test"])
        assert (watching.path / LOCK_NAME).exists()
        (watching.path / LOCK_NAME).unlink()
        lock.is_taken = True
        watching.watcher.request_scan("test")
        until(lambda: not watching.watcher.present)
        [lost] = until(lambda: watching.records("watch.root_lost"))
        assert "pid 4711" in lost["reason"]
        lock.is_taken = False
        until(lambda: watching.watcher.present)

    def test_unclaim(self, tmp_path: Path, folder: Folder, instances: Instances):
        """A claim can be released before any thread starts."""
        watching = Watching(tmp_path, folder, instances)
        watching.watcher.claim()
        assert (watching.path / LOCK_NAME).exists()
        watching.watcher.unclaim()
        assert not (watching.path / LOCK_NAME).exists()
