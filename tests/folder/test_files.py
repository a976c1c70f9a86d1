"""Single files in a folder that anybody may write to."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchd.audit.refusals import AuditError
from benchd.folder import files

LONG_AGO = time.time() - 7200


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    """An open descriptor of `tmp_path`."""
    descriptor = files.open_directory(str(tmp_path))
    yield descriptor
    os.close(descriptor)


def read(directory: int, name: str, max_bytes: int = 1000) -> bytes:
    return files.read_regular(directory, name, files.look(directory, name), max_bytes)[0]


def refused(directory: int, name: str, max_bytes: int = 1000) -> AuditError:
    with pytest.raises(AuditError) as caught:
        read(directory, name, max_bytes)
    return caught.value


def dead_pid() -> int:
    """The pid of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


class TestOpenDirectory:
    def test_root_may_be_a_link(self, tmp_path: Path):
        """The folder that its owner configured may be reached through a link."""
        (tmp_path / "real" / "sub").mkdir(parents=True)
        (tmp_path / "link").symlink_to("real")
        descriptor = files.open_directory(str(tmp_path / "link"), "sub")
        assert os.fstat(descriptor).st_ino == (tmp_path / "real" / "sub").stat().st_ino
        os.close(descriptor)

    @pytest.mark.parametrize("relative", ["link", "link/deep", "sub/link"])
    def test_nothing_below_may(self, tmp_path: Path, relative: str):
        """No link below the root is followed, wherever on the way it is."""
        (tmp_path / "outside" / "deep").mkdir(parents=True)
        (tmp_path / "root" / "sub").mkdir(parents=True)
        for place in ("root/link", "root/sub/link"):
            (tmp_path / place).symlink_to(tmp_path / "outside")
        with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
            files.open_directory(str(tmp_path / "root"), relative)

    def test_leaks_nothing(self, tmp_path: Path):
        """Neither success nor failure leaves a descriptor open."""
        (tmp_path / "a" / "b").mkdir(parents=True)
        before = len(os.listdir("/proc/self/fd"))
        os.close(files.open_directory(str(tmp_path), "a/b"))
        with pytest.raises(FileNotFoundError):
            files.open_directory(str(tmp_path), "a/missing/c")
        assert len(os.listdir("/proc/self/fd")) == before


class TestRead:
    def test_content(self, directory: int, tmp_path: Path):
        """A regular file's bytes, and its `stat`."""
        (tmp_path / "a").write_bytes(b"content")
        content, info = files.read_regular(directory, "a", files.look(directory, "a"), 7)
        assert content == b"content"
        assert info.st_size == 7

    def test_vanished(self, directory: int, tmp_path: Path):
        """A file that is gone, before or after it was looked at, is `Vanished`."""
        with pytest.raises(files.Vanished):
            files.look(directory, "a")
        (tmp_path / "a").touch()
        info = files.look(directory, "a")
        (tmp_path / "a").unlink()
        with pytest.raises(files.Vanished):
            files.read_regular(directory, "a", info, 10)

    def test_special_files(self, directory: int, tmp_path: Path):
        """What is no regular file is refused by its kind, unopened."""
        (tmp_path / "link").symlink_to("a")
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "pipe")
        assert refused(directory, "link").code == "symlink"
        for name, kind in (("folder", "a folder"), ("pipe", "a named pipe")):
            error = refused(directory, name)
            assert error.code == "not_a_regular_file"
            assert error.message.startswith(kind)
        with socket.socket(socket.AF_UNIX) as server:
            here = os.getcwd()
            os.chdir(tmp_path)  # the path of a socket must be short
            try:
                server.bind("socket")
            finally:
                os.chdir(here)
            assert refused(directory, "socket").message.startswith("a socket")

    def test_swapped_for_a_link(self, directory: int, tmp_path: Path):
        """A file that turns into a link between look and open is refused as one."""
        (tmp_path / "a").touch()
        info = files.look(directory, "a")
        (tmp_path / "a").unlink()
        (tmp_path / "a").symlink_to("/etc/hostname")
        with pytest.raises(AuditError) as caught:
            files.read_regular(directory, "a", info, 1000)
        assert caught.value.code == "symlink"

    def test_swapped_for_a_pipe(self, directory: int, tmp_path: Path):
        """A file that turns into a pipe between look and open is refused, and nothing waits for its writer."""
        (tmp_path / "a").touch()
        info = files.look(directory, "a")
        (tmp_path / "a").unlink()
        os.mkfifo(tmp_path / "a")
        with pytest.raises(AuditError) as caught:
            files.read_regular(directory, "a", info, 1000)
        assert caught.value.code == "not_a_regular_file"

    def test_too_large(self, directory: int, tmp_path: Path):
        """One byte more than the limit is too large, also if it came after the look."""
        (tmp_path / "a").write_bytes(b"12345")
        assert read(directory, "a", 5) == b"12345"
        error = refused(directory, "a", 4)
        assert error.code == "too_large"
        assert error.message == "5 bytes, more than watching.max_bytes = 4"
        info = files.look(directory, "a")
        (tmp_path / "a").write_bytes(b"1234567890")
        with pytest.raises(AuditError):
            files.read_regular(directory, "a", info, 5)

    def test_fails_while_read(self, directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """A disk that fails in the middle makes the file `unreadable`, in the system's words."""
        (tmp_path / "a").write_bytes(b"x")

        def fail(*_: object) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(files.os, "read", fail)
        error = refused(directory, "a")
        assert error.code == "unreadable"
        assert "Input/output error" in error.message

    def test_no_right_to_open(self, directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """A lack of rights is the file's trouble; a lack of descriptors is our own."""
        (tmp_path / "a").write_bytes(b"x")
        info = files.look(directory, "a")

        def refuse(number: int):
            def refusing(*_: object, **__: object) -> int:
                raise OSError(number, os.strerror(number))

            return refusing

        monkeypatch.setattr(files.os, "open", refuse(errno.EACCES))
        with pytest.raises(AuditError) as caught:
            files.read_regular(directory, "a", info, 1000)
        assert caught.value.code == "unreadable"
        assert f"uid {os.geteuid()}" in caught.value.hint
        monkeypatch.setattr(files.os, "open", refuse(errno.EMFILE))
        with pytest.raises(OSError, match="Too many open files"):
            files.read_regular(directory, "a", info, 1000)
        with pytest.raises(OSError, match="Too many open files"):
            files.read_sidecar(directory, "a")

    def test_shrinks_while_read(self, tmp_path: Path):
        """A file that is cut short after its `stat` gives what is left."""
        path = tmp_path / "a"
        path.write_bytes(b"12345")
        descriptor = os.open(path, os.O_RDONLY)
        assert files.read_all(descriptor, 100) == b"12345"
        os.close(descriptor)

    def test_grows_while_read(self, directory: int, tmp_path: Path):
        """A file that grows is read as long as it was."""
        path = tmp_path / "a"
        path.write_bytes(b"12345")
        descriptor = os.open(path, os.O_RDONLY)
        assert files.read_all(descriptor, 3) == b"123"
        os.close(descriptor)


class TestReadSidecar:
    def test_missing(self, directory: int):
        """None says that there is nothing."""
        assert files.read_sidecar(directory, "a") is None

    def test_not_ours(self, directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """A folder, a link, a pipe or a huge file in its place is there, but has no content of ours."""
        (tmp_path / "folder").mkdir()
        (tmp_path / "link").symlink_to("folder")
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "huge").write_bytes(b"123")
        monkeypatch.setattr(files, "_MAX_SIDECAR", 2)
        for name in ("folder", "link", "pipe", "huge"):
            found = files.read_sidecar(directory, name)
            assert found is not None
            assert found[0] == b""

    def test_content(self, directory: int, tmp_path: Path):
        """A regular file's content and `stat`."""
        (tmp_path / "a").write_bytes(b"123")
        found = files.read_sidecar(directory, "a")
        assert found is not None
        assert (found[0], found[1].st_size) == (b"123", 3)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="leases")
class TestHasWriter:
    def test_tells(self, directory: int, tmp_path: Path):
        """A file is known to have a writer, or to have none."""
        path = tmp_path / "a"
        with path.open("wb"):
            assert files.has_writer(directory, "a") is True
        assert files.has_writer(directory, "a") is False

    def test_writer_of_another_process(self, directory: int, tmp_path: Path):
        """So is a writer in another process."""
        command = ["/bin/sh", "-c", f"exec > '{tmp_path / 'a'}'; echo; echo ready >&2; read line"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            process.stderr.readline()
            assert files.has_writer(directory, "a") is True
            process.communicate(b"\n")
        assert files.has_writer(directory, "a") is False

    def test_nobody_can_tell(self, directory: int, tmp_path: Path):
        """Where the file is gone, or is none that takes leases, nobody can tell."""
        (tmp_path / "folder").mkdir()
        assert files.has_writer(directory, "gone") is None
        assert files.has_writer(directory, "folder") is None


class TestExists:
    def test_there_or_not(self, directory: int, tmp_path: Path):
        """Whatever has the name counts, a link to nowhere too; no file can have a name that is too long."""
        (tmp_path / "link").symlink_to("nowhere")
        assert files.exists(directory, "link")
        assert not files.exists(directory, "gone")
        assert not files.exists(directory, "x" * 300)

    def test_cannot_be_told(self, tmp_path: Path):
        """What keeps it from looking is no answer: a config that can't be seen must not be taken for none."""
        (tmp_path / "file").write_bytes(b"")
        descriptor = os.open(tmp_path / "file", os.O_RDONLY)
        try:
            with pytest.raises(NotADirectoryError):
                files.exists(descriptor, "x")
        finally:
            os.close(descriptor)


class TestWrite:
    def test_appears_whole(self, directory: int, tmp_path: Path):
        """The content is under a hidden name first, and then at once in its place."""
        temporary = files.write_temporary(directory, b"content", durable=True)
        files.begin_to_flush(temporary)
        temporary = files.flush(directory, temporary)
        assert files.TEMPORARY.fullmatch(temporary.name)
        assert os.listdir(tmp_path) == [temporary.name]
        files.publish(directory, temporary, "config")
        assert os.listdir(tmp_path) == ["config"]
        assert (tmp_path / "config").read_bytes() == b"content"

    def test_keeps_umask_and_group(self, directory: int, tmp_path: Path):
        """The file has the rights that the umask leaves, and the folder's group."""
        if os.geteuid() == 0:
            os.chown(tmp_path, -1, 12345)
        before = os.umask(0o027)
        try:
            group = files.group_to_give(os.fstat(directory))
            name = files.write_temporary(directory, b"", durable=False, group=group).name
        finally:
            os.umask(before)
        info = (tmp_path / name).stat()
        assert stat.S_IMODE(info.st_mode) == 0o640
        assert info.st_gid == tmp_path.stat().st_gid

    def test_closing_fails(self, directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """A file server may say only at the end that there is no room: nothing is left behind, nothing closed twice."""
        real, before = os.close, set(files._in_use)

        def close(descriptor: int) -> None:
            real(descriptor)
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

        with monkeypatch.context() as patch:
            patch.setattr(os, "close", close)
            with pytest.raises(OSError, match="quota"):
                files.write_temporary(directory, b"content", durable=False)
        assert os.listdir(tmp_path) == []
        assert files._in_use == before

    def test_replaces_a_link_not_its_target(self, directory: int, tmp_path: Path):
        """A link in the config's place is replaced; what it points to is not written to."""
        (tmp_path / "target").write_bytes(b"theirs")
        (tmp_path / "config").symlink_to("target")
        files.publish(directory, files.write_temporary(directory, b"ours", durable=False), "config")
        assert (tmp_path / "target").read_bytes() == b"theirs"
        assert (tmp_path / "config").read_bytes() == b"ours"

    def test_a_name_that_is_taken(self, directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """A file that stands where ours is to be made is not ours to remove."""
        monkeypatch.setattr(files.os, "urandom", bytes)
        taken = tmp_path / f".benchd-{files._SYSTEM}-{os.getpid()}-{'00' * 8}.tmp"
        taken.write_bytes(b"theirs")
        with pytest.raises(FileExistsError):
            files.write_temporary(directory, b"ours", durable=False)
        assert taken.read_bytes() == b"theirs"
        assert taken.name not in files._in_use

    def test_publishing_fails(self, directory: int, tmp_path: Path):
        """Where the name can't be taken, nothing is left behind."""
        (tmp_path / "config").mkdir()
        temporary = files.write_temporary(directory, b"", durable=False)
        with pytest.raises(OSError, match="directory"):
            files.publish(directory, temporary, "config")
        assert os.listdir(tmp_path) == ["config"]
        assert temporary.name not in files._in_use

    def test_flushing_fails(self, directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """What can't be put on the disk is gone, and its descriptor closed."""

        def fail(_: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(files.os, "fdatasync", fail)
        temporary = files.write_temporary(directory, b"content", durable=True)
        with pytest.raises(OSError, match="Input/output"):
            files.flush(directory, temporary)
        assert os.listdir(tmp_path) == []
        with pytest.raises(OSError, match="descriptor"):
            os.fstat(temporary.descriptor)

    def test_writing_fails(self, directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """A write that fails half-way leaves nothing behind."""
        real = os.write
        calls: list[int] = []
        in_use = set(files._in_use)

        def write(descriptor: int, content: memoryview) -> int:
            calls.append(len(content))
            if len(calls) > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(descriptor, content[:3])

        monkeypatch.setattr(files.os, "write", write)
        with pytest.raises(OSError, match="No space"):
            files.write_temporary(directory, b"content", durable=False)
        assert calls == [7, 4]
        assert os.listdir(tmp_path) == []
        assert files._in_use == in_use


class TestStaleTemporary:
    HOST = files._SYSTEM

    def make(self, tmp_path: Path, name: str, *, old: bool = False) -> str:
        (tmp_path / name).touch()
        if old:
            os.utime(tmp_path / name, (LONG_AGO, LONG_AGO))
        return name

    def test_of_a_dead_process(self, directory: int, tmp_path: Path):
        """What a dead process of this host left is removed at once."""
        name = self.make(tmp_path, f".benchd-{self.HOST}-{dead_pid()}-0.tmp")
        assert files.remove_stale_temporary(directory, name, time.time())
        assert os.listdir(tmp_path) == []

    def test_of_an_earlier_process_with_our_pid(self, directory: int, tmp_path: Path):
        """A pid that is ours now, with a number not in use, is an earlier process's: in a container all have pid 1."""
        name = self.make(tmp_path, f".benchd-{self.HOST}-{os.getpid()}-999999.tmp")
        assert files.remove_stale_temporary(directory, name, time.time())

    def test_our_own(self, directory: int, tmp_path: Path):
        """What this process is writing stays."""
        temporary = files.write_temporary(directory, b"", durable=False)
        assert not files.remove_stale_temporary(directory, temporary.name, time.time())
        files.discard(directory, temporary)

    def test_of_a_living_process(self, directory: int, tmp_path: Path):
        """What another living process is writing stays; after an hour nobody is writing it."""
        fresh = self.make(tmp_path, f".benchd-{self.HOST}-1-0.tmp")
        old = self.make(tmp_path, f".benchd-{self.HOST}-1-1.tmp", old=True)
        assert not files.remove_stale_temporary(directory, fresh, time.time())
        assert files.remove_stale_temporary(directory, old, time.time())

    def test_of_another_host(self, directory: int, tmp_path: Path):
        """Another host's processes can't be asked: an hour has to pass."""
        pid = dead_pid()
        fresh = self.make(tmp_path, f".benchd-00000000-{pid}-0.tmp")
        old = self.make(tmp_path, f".benchd-00000000-{pid}-1.tmp", old=True)
        assert not files.remove_stale_temporary(directory, fresh, time.time())
        assert files.remove_stale_temporary(directory, old, time.time())

    def test_strange_pid(self, directory: int, tmp_path: Path):
        """A pid that can't be one is nobody's to judge, and no crash."""
        name = self.make(tmp_path, f".benchd-{self.HOST}-{10**30}-0.tmp")
        assert not files.remove_stale_temporary(directory, name, time.time())

    def test_others(self, directory: int, tmp_path: Path):
        """Other names, folders and what is gone are left alone."""
        pid = dead_pid()
        (tmp_path / f".benchd-{self.HOST}-{pid}-3.tmp").mkdir()
        for name in (
            ".benchd-x.tmp",
            f".benchd-{self.HOST}-{pid}-3.tmp",
            f".benchd-{self.HOST}-{pid}-4.tmp",
        ):
            assert not files.remove_stale_temporary(directory, name, time.time())
