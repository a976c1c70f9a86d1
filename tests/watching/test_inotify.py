"""The inotify source: real events, read without a thread."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from watchdog.observers import inotify_c

from benchd.folder.folder import Folder
from benchd.folder.scan import Scan
from benchd.settings.keys import FolderSettings
from benchd.watching.inotify import Inotify, InotifySource, Instances
from daemon import until
from listening import Listening, Reading

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify")

#: inotify(7): every constant of watchdog that the source uses.
CONSTANTS = {
    "IN_CREATE": 0x100,
    "IN_CLOSE_WRITE": 0x8,
    "IN_MOVED_TO": 0x80,
    "IN_DELETE_SELF": 0x400,
    "IN_MOVE_SELF": 0x800,
    "IN_UNMOUNT": 0x2000,
    "IN_IGNORED": 0x8000,
    "IN_ISDIR": 0x40000000,
    "IN_Q_OVERFLOW": 0x4000,
    "IN_ONLYDIR": 0x1000000,
}


class TestNamesOfWatchdog:
    def test_functions(self, tmp_path: Path):
        """Three functions bind the system calls, return -1 for an error, and set ctypes' errno."""
        descriptor = inotify_c.inotify_init()
        try:
            watch = inotify_c.inotify_add_watch(descriptor, os.fsencode(tmp_path), CONSTANTS["IN_CREATE"])
            assert (descriptor >= 0, watch) == (True, 1)
            assert inotify_c.inotify_rm_watch(descriptor, inotify_c.WatchDescriptor(watch)) == 0
            assert inotify_c.inotify_rm_watch(descriptor, inotify_c.WatchDescriptor(watch)) == -1
            assert ctypes.get_errno() == errno.EINVAL
            assert inotify_c.inotify_add_watch(descriptor, b"/nowhere", CONSTANTS["IN_CREATE"]) == -1
            assert ctypes.get_errno() == errno.ENOENT
        finally:
            os.close(descriptor)

    @pytest.mark.parametrize("name", CONSTANTS)
    def test_constants(self, name: str):
        """The constants have the kernel's values."""
        assert int(getattr(inotify_c.InotifyConstants, name)) == CONSTANTS[name]


def scan(source: InotifySource, folder: Folder, below: str = "") -> list[str]:
    """Scan as the watcher does: watch each directory, then list it."""
    found = list(Scan(folder, below=below, entering=source.enter, check_clock=False))
    if not below:
        source.scanned()
    return found


def watch_all(source: InotifySource, folder: Folder, reading: Reading, heard: Listening) -> None:
    """Watch every present directory, and forget the hints about it."""
    scan(source, folder)
    reading.read()
    heard.appeared.clear()


@pytest.fixture
def source(instances: Instances, folder: Folder, heard: Listening) -> Iterator[InotifySource]:
    source = InotifySource(instances, heard)
    source.start(folder)
    yield source
    source.stop()


@pytest.fixture
def inbox(folder: Folder) -> Path:
    return Path(folder.path)


class TestEvents:
    def test_files(self, source: InotifySource, inbox: Path, reading: Reading, heard: Listening, tmp_path: Path):
        """A close, a move and a link give different hints, and hidden files and sidecars give none."""
        for name in (".hidden.json", "a.bench.json", "a.bench-error.json"):
            (inbox / name).write_bytes(b"x")
        (tmp_path / "x").write_bytes(b"x")
        os.link(tmp_path / "x", inbox / "linked")
        os.rename(tmp_path / "x", inbox / "moved")
        (inbox / "written").write_bytes(b"x")
        reading.read()
        assert heard.hints == [("linked", "created"), ("moved", "moved"), ("written", "closed")]

    def test_last_hint_of_a_read_counts(self, source: InotifySource, inbox: Path, reading: Reading, heard: Listening):
        """A file that was created and closed before the read counts as closed, even if it was created again."""
        (inbox / "a.json").write_bytes(b"{}")
        (inbox / "b.json").write_bytes(b"{}")
        (inbox / "a.json").unlink()
        with (inbox / "a.json").open("wb"):
            reading.read()
            assert heard.hints == [("a.json", "closed"), ("b.json", "closed")]
        reading.read()
        assert heard.hints[2:] == [("a.json", "closed")]

    def test_more_than_one_buffer(self, source: InotifySource, inbox: Path, reading: Reading, heard: Listening):
        """Any number of events is read, with names of any length and encoding."""
        names = [f"{number:04d}-{'x' * (number % 200)}é.json" for number in range(600)]
        for name in names:
            (inbox / name).touch()
        with open(os.fsencode(inbox) + b"/\xff.json", "wb"):
            pass
        reading.read()
        assert [name for name, _ in heard.hints] == [*names, os.fsdecode(b"\xff.json")]
        assert heard.lost == []

    def test_new_directory(
        self, source: InotifySource, inbox: Path, reading: Reading, heard: Listening, folder: Folder
    ):
        """A new directory is reported, and once a scan has entered it, its files are reported too."""
        (inbox / "sub").mkdir()
        reading.read()
        assert (heard.appeared, heard.hints) == (["sub"], [])
        (inbox / "sub" / "early.json").touch()
        assert scan(source, folder, below="sub") == ["sub/early.json"]
        (inbox / "sub" / "late.json").touch()
        (inbox / "sub" / "deep").mkdir()
        reading.read()
        assert heard.hints == [("sub/late.json", "closed")]
        assert heard.appeared == ["sub", "sub/deep"]

    def test_root_deleted(self, source: InotifySource, inbox: Path, reading: Reading, heard: Listening):
        """The deletion of the folder is reported, and stopping the source afterwards is safe, even twice."""
        inbox.rmdir()
        reading.read()
        assert heard.roots
        source.stop()
        source.stop()

    def test_root_moved(self, source: InotifySource, inbox: Path, reading: Reading, heard: Listening):
        """A move of the folder is reported."""
        inbox.rename(f"{inbox}.old")
        reading.read()
        assert heard.roots

    def test_overflow(self, source: InotifySource, inbox: Path, reading: Reading, heard: Listening):
        """A full kernel queue counts as lost events, and later events are reported."""
        most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text(encoding="ascii"))
        if most > 200_000:
            pytest.skip("the kernel's queue is long")
        (inbox / "a").touch()
        names = [inbox / "a", inbox / "b"]
        for number in range(most + 10):
            os.rename(names[number % 2], names[1 - number % 2])
        reading.read()
        assert heard.lost == ["the kernel's event queue overflowed"]
        heard.hints.clear()
        (inbox / "c").touch()
        reading.read()
        assert heard.hints == [("c", "closed")]


class TestDirectories:
    @pytest.mark.parametrize("order", ["explore first", "recheck first"])
    def test_moved_inside(
        self,
        source: InotifySource,
        inbox: Path,
        reading: Reading,
        heard: Listening,
        folder: Folder,
        order: str,
    ):
        """Files in a directory that was moved within the folder, and below it, have their new paths."""
        (inbox / "old" / "deep").mkdir(parents=True)
        watch_all(source, folder, reading, heard)
        os.rename(inbox / "old", inbox / "new")
        reading.read()
        assert heard.appeared == ["new"]
        [(watch, place)] = heard.moved
        assert place == "old"
        if order == "explore first":
            scan(source, folder, below="new")
            source.recheck(watch, "old")
        else:
            source.recheck(watch, "old")
            scan(source, folder, below="new")
        (inbox / "new" / "a").touch()
        (inbox / "new" / "deep" / "b").touch()
        reading.read()
        assert heard.hints == [("new/a", "closed"), ("new/deep/b", "closed")]

    def test_moved_away(
        self, source: InotifySource, inbox: Path, reading: Reading, heard: Listening, folder: Folder, tmp_path: Path
    ):
        """Files in a directory that was moved out of the folder, and below it, are not reported any more."""
        (inbox / "sub" / "deep").mkdir(parents=True)
        (inbox / "subway").mkdir()
        watch_all(source, folder, reading, heard)
        os.rename(inbox / "sub", tmp_path / "away")
        reading.read()
        for watch, place in heard.moved:
            source.recheck(watch, place)
        for directory in (tmp_path / "away", tmp_path / "away" / "deep", inbox / "subway", inbox):
            (directory / "a").touch()
        reading.read()
        assert heard.hints == [("subway/a", "closed"), ("a", "closed")]

    def test_replaced(
        self, source: InotifySource, inbox: Path, reading: Reading, heard: Listening, folder: Folder, tmp_path: Path
    ):
        """If another directory has replaced a moved one, the new one is watched, and the moved one is not."""
        (inbox / "sub").mkdir()
        watch_all(source, folder, reading, heard)
        os.rename(inbox / "sub", tmp_path / "away")
        (inbox / "sub").mkdir()
        reading.read()
        for watch, place in heard.moved:
            source.recheck(watch, place)
        (tmp_path / "away" / "a").touch()
        (inbox / "sub" / "b").touch()
        reading.read()
        assert heard.hints == [("sub/b", "closed")]

    def test_deleted(self, source: InotifySource, inbox: Path, reading: Reading, heard: Listening, folder: Folder):
        """A deleted directory is forgotten, and a directory that is created again counts as new."""
        (inbox / "sub").mkdir()
        watch_all(source, folder, reading, heard)
        (inbox / "sub").rmdir()
        reading.read()
        for watch, place in heard.moved:
            source.recheck(watch, place)
        (inbox / "sub").mkdir()
        reading.read()
        assert heard.appeared == ["sub"]
        scan(source, folder, below="sub")
        (inbox / "sub" / "a").touch()
        reading.read()
        assert heard.hints == [("sub/a", "closed")]
        assert (heard.roots, heard.lost, heard.problems) == (0, [], [])

    def test_scan_renews(
        self, source: InotifySource, inbox: Path, reading: Reading, heard: Listening, folder: Folder, tmp_path: Path
    ):
        """A directory that a whole scan did not enter is not watched any more, even if its event was lost."""
        (inbox / "sub").mkdir()
        watch_all(source, folder, reading, heard)
        os.rename(inbox / "sub", tmp_path / "away")
        scan(source, folder)
        reading.read()
        (tmp_path / "away" / "a").touch()
        (inbox / "b").touch()
        reading.read()
        assert heard.hints == [("b", "closed")]

    def test_link_is_not_followed(
        self, source: InotifySource, inbox: Path, reading: Reading, heard: Listening, folder: Folder, tmp_path: Path
    ):
        """A link that has replaced a moved directory is not watched."""
        (inbox / "sub").mkdir()
        watch_all(source, folder, reading, heard)
        (inbox / "sub").rmdir()
        (tmp_path / "target").mkdir()
        (inbox / "sub").symlink_to(tmp_path / "target")
        reading.read()
        [(watch, place)] = heard.moved
        source.recheck(watch, place)
        heard.hints.clear()
        (tmp_path / "target" / "a").touch()
        reading.read()
        assert heard.hints == []


class Refusing(Inotify):
    """An instance that refuses every watch after the first."""

    number = errno.ENOSPC

    def watch(self, path: bytes, source: InotifySource) -> int:
        if self.watched:
            raise OSError(self.number, os.strerror(self.number))
        self.watched = True
        return super().watch(path, source)

    watched = False


class Only(Instances):
    """Gives all sources the same instance."""

    def __init__(self, reading: Reading, instance: Inotify) -> None:
        super().__init__(reading)
        self._reading, self._instance = reading, instance

    def join(self, source: InotifySource) -> Inotify:
        self._reading.add(self._instance)
        return self._instance

    def leave(self, source: InotifySource, instance: Inotify) -> None:
        self._reading.remove(instance)


class TestLimits:
    def test_no_more_watches(self, reading: Reading, folder: Folder, heard: Listening):
        """At the system's limit the source reports the problem once, and any other failure is an error."""
        instance = Refusing.open()
        source = InotifySource(Only(reading, instance), heard)
        source.start(folder)
        descriptor = folder.open()
        source.enter("a", descriptor)
        source.enter("b", descriptor)
        assert len(heard.problems) == 1
        assert "max_user_watches" in heard.problems[0]
        assert isinstance(instance, Refusing)
        instance.number = errno.EACCES
        with pytest.raises(PermissionError):
            source.enter("a", descriptor)
        os.close(descriptor)
        source.recheck(1, "")
        assert heard.lost == ["a moved directory can't be watched"]
        source.stop()

    def test_missing_folder(self, instances: Instances, tmp_path: Path, heard: Listening, reading: Reading):
        """A missing folder can't be watched, and takes no instance."""
        source = InotifySource(instances, heard)
        with pytest.raises(FileNotFoundError):
            source.start(Folder(FolderSettings(path=str(tmp_path / "no")), max_bytes=1))
        assert not source.alive
        assert reading.readers == []

    def test_stopped(self, source: InotifySource, folder: Folder, reading: Reading):
        """A stopped source accepts no more watches, and its instance is closed."""
        assert source.alive
        source.stop()
        assert not source.alive
        assert reading.readers == []
        descriptor = folder.open()
        with pytest.raises(OSError, match="Bad file descriptor"):
            source.enter("", descriptor)
        os.close(descriptor)
        source.recheck(1, "")

    def test_descriptor(self, tmp_path: Path):
        """An instance's descriptor is not inherited and does not block, and closing it twice is safe."""
        instance = Inotify.open()
        assert not os.get_inheritable(instance.fileno())
        instance.read()
        instance.close()
        instance.close()


def can_open(number: int) -> bool:
    """Return whether the system gives this user `number` more inotify instances."""
    instances: list[Inotify] = []
    try:
        while len(instances) < number:
            instances.append(Inotify.open())
    except OSError:
        return False
    finally:
        for instance in instances:
            instance.close()
    return True


@pytest.fixture
def spare_instances() -> None:
    """Other processes of this user may have nearly all instances for a while."""
    until(lambda: can_open(6), 60, "the system has inotify instances to spare")


@pytest.mark.usefixtures("spare_instances")
class TestInstances:
    def test_one_for_each_folder(
        self, instances: Instances, make_folder: Callable[..., Folder], reading: Reading, heard: Listening
    ):
        """Each folder has its own queue in the kernel."""
        sources = [InotifySource(instances, heard) for _ in range(3)]
        for number, source in enumerate(sources):
            source.start(make_folder(str(number)))
        assert len(reading.readers) == 3
        sources[1].stop()
        assert len(reading.readers) == 2

    def test_shared_beyond_most(self, make_folder: Callable[..., Folder], reading: Reading):
        """Beyond `most` folders share instances evenly, get only their own events, and the last one closes."""
        instances = Instances(reading, most=2)
        folders = [make_folder(str(number)) for number in range(5)]
        heard = [Listening() for _ in folders]
        sources = [InotifySource(instances, each) for each in heard]
        for source, folder in zip(sources, folders, strict=True):
            source.start(folder)
        assert len(reading.readers) == 2
        for folder in folders:
            (Path(folder.path) / f"{folder.path[-1]}.json").touch()
        reading.read()
        assert [each.hints for each in heard] == [[(f"{number}.json", "closed")] for number in range(5)]
        for source in sources[:4]:
            source.stop()
        assert len(reading.readers) == 1
        (Path(folders[4].path) / "late.json").touch()
        (Path(folders[0].path) / "late.json").touch()
        reading.read()
        assert (heard[4].hints[1:], heard[0].hints[1:]) == ([("late.json", "closed")], [])
        sources[4].stop()
        assert reading.readers == []

    def test_shared_when_the_system_has_no_more(self, make_folder: Callable[..., Folder], reading: Reading):
        """If the system refuses another instance, folders share the existing ones, and without any it is an error."""
        instances = Instances(reading)
        heard = [Listening(), Listening()]
        sources = [InotifySource(instances, each) for each in heard]
        folders = [make_folder("a"), make_folder("b")]
        limit = _no_more_descriptors()
        next(limit)
        with pytest.raises(OSError, match=r"Too many open files|max_user_instances"):
            sources[0].start(folders[0])
        next(limit, None)
        sources[0].start(folders[0])
        limit = _no_more_descriptors(free=1)  # one for the folder, none for an instance
        next(limit)
        sources[1].start(folders[1])
        next(limit, None)
        assert len(reading.readers) == 1
        for folder in folders:
            (Path(folder.path) / "a.json").touch()
        reading.read()
        assert [each.hints for each in heard] == [[("a.json", "closed")]] * 2
        for source in sources:
            source.stop()

    def test_second_path_to_the_same_directory(
        self, instances: Instances, make_folder: Callable[..., Folder], reading: Reading, heard: Listening
    ):
        """Two folders may be the same directory with separate instances, and both get the events of a file."""
        others = Listening()
        folder = make_folder()
        first, second = InotifySource(instances, heard), InotifySource(instances, others)
        first.start(folder)
        second.start(Folder(folder.settings, max_bytes=1))
        (Path(folder.path) / "a.json").touch()
        reading.read()
        assert heard.hints == others.hints == [("a.json", "closed")]
        first.stop()
        second.stop()

    def test_second_path_in_a_shared_instance(self, folder: Folder, reading: Reading, heard: Listening):
        """With a shared instance a second folder with the same directory is refused, and the first still works."""
        instances = Instances(reading, most=1)
        first, second = InotifySource(instances, heard), InotifySource(instances, Listening())
        first.start(folder)
        with pytest.raises(FileExistsError, match="another watched folder has the same directory"):
            second.start(Folder(folder.settings, max_bytes=1))
        assert not second.alive
        (Path(folder.path) / "a.json").touch()
        reading.read()
        assert heard.hints == [("a.json", "closed")]
        first.stop()

    def test_reader_fails(self, make_folder: Callable[..., Folder], reading: Reading):
        """If an instance can't be read any more, its listeners get lost events, and no source is alive."""
        instances = Instances(reading, most=1)
        heard = [Listening(), Listening()]
        sources = [InotifySource(instances, each) for each in heard]
        for source, name in zip(sources, "ab", strict=True):
            source.start(make_folder(name))
            assert source.alive
        reading.fail(KeyError("a bug"))
        assert [each.lost for each in heard] == [["the reader of events failed: KeyError: 'a bug'"]] * 2
        assert not any(source.alive for source in sources)
        for source in sources:
            source.stop()
        assert reading.readers == []


def _no_more_descriptors(free: int = 0) -> Iterator[None]:
    """Limit this process to `free` more open files inside the block."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    filling: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
    try:
        while True:
            try:
                filling.append(os.open("/", os.O_RDONLY))
            except OSError:
                break
        for _ in range(free):
            os.close(filling.pop())
        yield
    finally:
        for descriptor in filling:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
