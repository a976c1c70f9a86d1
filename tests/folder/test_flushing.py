"""How written files get to the disk with few waits."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from benchd.folder.flushing import FileSystems, Flusher
from daemon import until

BROKEN = OSError(errno.EIO, "Input/output error")
MIB = 2**20


class Disks(FileSystems):
    """File systems that note what is flushed, and fail for some descriptors."""

    def __init__(
        self, *, lasting: tuple[int, ...] = (), waiting: float = 0.0, errors: dict[int, OSError] | None = None
    ) -> None:
        super().__init__()
        self.lasting = lasting
        self.waiting = waiting
        self.errors = errors or {}
        self.calls: list[tuple[str, int]] = []

    def is_lasting(self, device: int) -> bool:
        return device in self.lasting

    def bytes_to_write(self) -> float:
        return self.waiting

    def syncfs(self, descriptor: int) -> bool:
        self.calls.append(("all", descriptor))
        return descriptor not in self.errors

    def flush_file(self, descriptor: int) -> None:
        self.calls.append(("file", descriptor))
        if descriptor in self.errors:
            raise self.errors[descriptor]

    def flush_directory(self, descriptor: int) -> None:
        self.calls.append(("directory", descriptor))
        if descriptor in self.errors:
            raise self.errors[descriptor]


class SlowDisk(Disks):
    """A disk whose first flushes take long. The others wait until `together` of them are under way."""

    def __init__(self, *, slow: int = 1, together: int = 2, errors: dict[int, OSError] | None = None) -> None:
        super().__init__(errors=errors)
        self.slow = slow
        self.gate = threading.Barrier(together, timeout=10)
        self.threads: list[threading.Thread] = []

    def flush_file(self, descriptor: int) -> None:
        begin = time.monotonic()
        self.threads.append(threading.current_thread())
        if len(self.calls) < self.slow:
            until(lambda: time.monotonic() - begin > 0.004)
        else:
            self.gate.wait()
        super().flush_file(descriptor)


class TestFlusher:
    def test_nothing(self) -> None:
        """Without files nothing is flushed."""
        disks = Disks()
        assert Flusher(systems=disks).flush([]) == {}
        assert disks.calls == []

    @pytest.mark.parametrize("device", [1, 2])
    def test_one(self, device: int) -> None:
        """One file is flushed by itself, on any file system."""
        disks = Disks(lasting=(1,))
        assert Flusher(systems=disks).flush([(10, device)]) == {}
        assert disks.calls == [("file", 10)]

    def test_many_on_one_device(self) -> None:
        """Many files on one file system need one wait."""
        disks = Disks(lasting=(1,))
        assert Flusher(systems=disks).flush([(10, 1), (11, 1), (12, 1)]) == {}
        assert [kind for kind, _ in disks.calls] == ["all"]

    def test_many_on_several_devices(self) -> None:
        """Each file system is flushed as is best for it."""
        disks = Disks(lasting=(1, 3))
        assert Flusher(systems=disks).flush([(10, 1), (20, 2), (11, 1), (21, 2), (30, 3)]) == {}
        assert disks.calls[0][0] == "all"
        assert disks.calls[1:] == [("file", 20), ("file", 21), ("file", 30)]

    def test_directories(self) -> None:
        """Directories are flushed by another call, in any collection."""
        disks = Disks()
        assert Flusher(systems=disks).flush({(10, 1)}, directories=True) == {}
        assert disks.calls == [("directory", 10)]

    def test_directories_together(self) -> None:
        """Many directories on one file system need one wait too."""
        disks = Disks(lasting=(1,))
        assert Flusher(systems=disks).flush({(10, 1), (11, 1)}, directories=True) == {}
        assert [kind for kind, _ in disks.calls] == ["all"]

    def test_after_an_error_of_all(self) -> None:
        """If the one wait fails, which may be another file's error, each file is flushed by itself."""
        disks = Disks(lasting=(1,), errors={11: BROKEN})
        assert Flusher(systems=disks).flush([(10, 1), (11, 1)]) == {11: BROKEN}
        assert disks.calls == [("all", 11), ("file", 10), ("file", 11)]

    @pytest.mark.parametrize("directories", [False, True])
    def test_errors_by_descriptor(self, directories: bool) -> None:
        """An error of one file or directory does not keep the others from the disk."""
        disks = Disks(errors={10: BROKEN, 12: BROKEN})
        written = [(number, 1) for number in range(10, 14)]
        assert Flusher(1, disks).flush(written, directories=directories) == {10: BROKEN, 12: BROKEN}
        assert [descriptor for _, descriptor in disks.calls] == [10, 11, 12, 13]

    @pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
    def test_nothing_to_flush(self, number: int) -> None:
        """A directory that can't be flushed, or a file that was closed meanwhile, is no error."""
        disks = Disks(errors={10: OSError(number, os.strerror(number))})
        assert Flusher(systems=disks).flush([(10, 1)]) == {}

    def test_real_files(self, tmp_path: Path, directory: int) -> None:
        """Real files, pipes and directories are flushed; a device that fails is an error."""
        reader, writer = os.pipe()
        with (tmp_path / "a").open("wb") as first, (tmp_path / "b").open("wb") as second:
            device = os.fstat(directory).st_dev
            written = [(first.fileno(), device), (second.fileno(), device), (writer, 0)]
            assert Flusher().flush(written) == {}
        assert Flusher().flush([(directory, device)], directories=True) == {}
        os.close(reader)
        os.close(writer)


class TestSlowDisk:
    def test_waits_overlap(self) -> None:
        """After a slow wait the others of the batch overlap, and each error is found."""
        disk = SlowDisk(together=2, errors={10: BROKEN, 13: BROKEN})
        flusher = Flusher(2, disk)
        assert flusher.flush([(number, 1) for number in range(10, 15)]) == {10: BROKEN, 13: BROKEN}
        assert sorted(descriptor for _, descriptor in disk.calls) == [10, 11, 12, 13, 14]
        assert disk.threads[0] is threading.current_thread()
        assert all(thread.name.startswith("benchd-flush") for thread in disk.threads[1:])

    def test_no_thread_is_left(self) -> None:
        """No thread outlives the flush, and none that hangs holds up the end of the process."""
        disk = SlowDisk(together=2)
        Flusher(2, disk).flush([(number, 1) for number in range(5)])
        assert all(thread.daemon for thread in disk.threads[1:])
        assert not [thread for thread in disk.threads[1:] if thread.is_alive()]

    def test_last_wait(self) -> None:
        """If one file is left after a slow wait, the same thread waits for it."""
        disk = SlowDisk(slow=2)
        assert Flusher(4, disk).flush([(10, 1), (11, 1)]) == {}
        assert set(disk.threads) == {threading.current_thread()}

    def test_one_at_a_time(self) -> None:
        """With one wait at a time nothing overlaps."""
        disk = SlowDisk(slow=3)
        assert Flusher(1, disk).flush([(10, 1), (11, 1), (12, 1)]) == {}
        assert set(disk.threads) == {threading.current_thread()}

    def test_fast_disk(self) -> None:
        """On a fast disk the same thread waits for all files."""
        disk = SlowDisk(slow=0, together=1)
        flusher = Flusher(4, disk, now=lambda: 0.0)  # a wait takes no time
        assert flusher.flush([(number, 1) for number in range(5)]) == {}
        assert set(disk.threads) == {threading.current_thread()}


class TestSync:
    """When `syncfs` is worth its wait."""

    @pytest.mark.parametrize(("waits", "expected"), [(1, False), (2, True)])
    def test_waits_that_it_saves(self, waits: int, expected: bool) -> None:
        """It has to save a wait."""
        disks = Disks(lasting=(1,))
        assert disks.sync(10, 1, waits) is expected
        assert len(disks.calls) == expected

    def test_not_where_it_may_not_last(self) -> None:
        """A file system that is not known to keep what it flushed is flushed file by file."""
        disks = Disks()
        assert not disks.sync(10, 1, 100)
        assert disks.calls == []

    @pytest.mark.parametrize(
        ("mebibytes", "waits", "expected"),
        [(3, 2, True), (4.25, 2, True), (4.26, 2, False), (6, 32, True), (100, 32, False), (float("inf"), 32, False)],
    )
    def test_not_for_what_others_wrote(self, mebibytes: float, waits: int, expected: bool) -> None:
        """Other processes' data is waited for only if it is little; more waits saved allow more data."""
        disks = Disks(lasting=(1,), waiting=mebibytes * MIB)
        assert disks.sync(10, 1, waits) is expected
        assert len(disks.calls) == expected

    def test_error(self) -> None:
        """If something could not be written, not everything is on the disk."""
        assert not Disks(lasting=(1,), errors={10: BROKEN}).sync(10, 1, 2)


class TestSystem:
    def test_the_real_call(self, directory: int) -> None:
        """The system's own call flushes the file system of a descriptor, and fails for a bad one."""
        assert FileSystems().syncfs(directory)
        assert not FileSystems().syncfs(-1)

    @pytest.mark.parametrize(
        ("release", "is_there"),
        [("5.7.19-generic", False), ("5.8.0", True), ("6.1.0-37-amd64", True), ("4.19.0", False), ("?", False)],
    )
    def test_version_of_linux(self, directory: int, release: str, is_there: bool) -> None:
        """The call is not used before Linux 5.8, which is the first to report errors of the disk."""
        assert FileSystems(release=release).syncfs(directory) is is_there

    def test_bytes_to_write(self, tmp_path: Path) -> None:
        """The system says how many bytes are not on a disk yet."""
        (tmp_path / "much").write_bytes(b"x" * MIB)
        assert 0.0 <= FileSystems().bytes_to_write() < 2**40

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("MemTotal:  900 kB\nDirty:     120 kB\nWriteback:   8 kB\nWritebackTmp: 5 kB\n", 128 * 1024),
            ("Dirty:     120 kB\n", float("inf")),
            ("", float("inf")),
        ],
    )
    def test_meminfo(self, tmp_path: Path, text: str, expected: float) -> None:
        """The bytes that wait are the sum of two lines; without both they count as infinitely many."""
        (tmp_path / "meminfo").write_text(text)
        assert FileSystems(str(tmp_path)).bytes_to_write() == expected

    def test_mountinfo(self, tmp_path: Path) -> None:
        """A device lasts if all its mounts have a kind that does."""
        (tmp_path / "self").mkdir()
        lines = [
            "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw",
            "23 22 8:1 /a /a rw - ext4 /dev/sda1 rw",
            "24 22 8:2 / /b rw,relatime - xfs /dev/sda2 rw",
            "25 22 8:2 / /c rw,relatime - fuse.odd /dev/sda2 rw",
            "26 22 0:50 / /d rw - nfs4 server:/d rw",
            "27 22 8:17 / /e rw master:1 - f2fs /dev/sdb1 rw",
        ]
        (tmp_path / "self" / "mountinfo").write_text("\n".join(lines))
        systems = FileSystems(str(tmp_path))
        devices = [(8, 1), (8, 2), (0, 50), (8, 17), (8, 3), (4000, 4000)]
        expected = [True, False, False, True, False, False]
        assert [systems.is_lasting(os.makedev(*device)) for device in devices] == expected
        (tmp_path / "self" / "mountinfo").unlink()
        assert [systems.is_lasting(os.makedev(*device)) for device in devices] == expected  # the answers are kept

    def test_real_mounts(self) -> None:
        """The kinds of real file systems come from the system's table."""
        systems = FileSystems()
        assert not systems.is_lasting(os.stat("/proc").st_dev)
        mounts = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
        for fields in mounts:
            major, minor = map(int, fields[2].split(":"))
            kinds = {other[other.index("-") + 1] for other in mounts if other[2] == fields[2]}
            assert systems.is_lasting(os.makedev(major, minor)) is (kinds <= {"ext3", "ext4", "f2fs", "xfs"})

    def test_without_proc(self, tmp_path: Path) -> None:
        """Without /proc everything is flushed by itself."""
        systems = FileSystems(str(tmp_path / "no"))
        assert systems.bytes_to_write() == float("inf")
        assert not systems.is_lasting(1)
