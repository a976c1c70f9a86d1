"""Single files in a folder that anybody may write to."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchd.audit.refusals import AuditError
from benchd.folder import files
from limits import NOBODY, no_descriptors, no_rights, short_files

LONG_AGO = time.time() - 7200


def read(directory: int, name: str, max_bytes: int = 1000) -> bytes:
    return files.read_regular(directory, name, files.look(directory, name), max_bytes)[0]


def refused(directory: int, name: str, max_bytes: int = 1000) -> AuditError:
    with pytest.raises(AuditError) as caught:
        read(directory, name, max_bytes)
    return caught.value


def in_use(directory: int, tmp_path: Path, name: str) -> bool:
    """Return whether this process counts `name` as a temporary file that it is writing."""
    (tmp_path / name).touch()
    return not files.remove_stale_temporary(directory, name, time.time())


def this_system(directory: int) -> str:
    """Return the part of a temporary file's name that identifies this system."""
    temporary = files.write_temporary(directory, b"", durable=False)
    files.discard(directory, temporary)
    match = files.TEMPORARY.fullmatch(temporary.name)
    assert match is not None
    return match[1]


def dead_pid() -> int:
    """Return the PID of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


class TestOpenDirectory:
    def test_root_may_be_a_link(self, tmp_path: Path):
        """The configured root folder may be a symbolic link."""
        (tmp_path / "real" / "sub").mkdir(parents=True)
        (tmp_path / "link").symlink_to("real")
        descriptor = files.open_directory(str(tmp_path / "link"), "sub")
        assert os.fstat(descriptor).st_ino == (tmp_path / "real" / "sub").stat().st_ino
        os.close(descriptor)

    @pytest.mark.parametrize("relative", ["link", "link/deep", "sub/link"])
    def test_nothing_below_may(self, tmp_path: Path, relative: str):
        """A symbolic link below the root is not followed, at any depth."""
        (tmp_path / "outside" / "deep").mkdir(parents=True)
        (tmp_path / "root" / "sub").mkdir(parents=True)
        for place in ("root/link", "root/sub/link"):
            (tmp_path / place).symlink_to(tmp_path / "outside")
        with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
            files.open_directory(str(tmp_path / "root"), relative)

    def test_leaks_nothing(self, tmp_path: Path):
        """No descriptor stays open, whether opening the directory succeeds or fails."""
        (tmp_path / "a" / "b").mkdir(parents=True)
        before = len(os.listdir("/proc/self/fd"))
        os.close(files.open_directory(str(tmp_path), "a/b"))
        with pytest.raises(FileNotFoundError):
            files.open_directory(str(tmp_path), "a/missing/c")
        assert len(os.listdir("/proc/self/fd")) == before


class TestRead:
    def test_content(self, directory: int, tmp_path: Path):
        """Reading returns a regular file's bytes and its `stat`."""
        (tmp_path / "a").write_bytes(b"content")
        content, info = files.read_regular(directory, "a", files.look(directory, "a"), 7)
        assert content == b"content"
        assert info.st_size == 7

    def test_vanished(self, directory: int, tmp_path: Path):
        """A file that is deleted before or after its `stat` raises `Vanished`."""
        with pytest.raises(files.Vanished):
            files.look(directory, "a")
        (tmp_path / "a").touch()
        info = files.look(directory, "a")
        (tmp_path / "a").unlink()
        with pytest.raises(files.Vanished):
            files.read_regular(directory, "a", info, 10)

    def test_special_files(self, directory: int, tmp_path: Path):
        """A file that is not regular is refused by its kind, without being opened."""
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
        """A file that becomes a link between `stat` and `open` is refused as a link."""
        (tmp_path / "a").touch()
        info = files.look(directory, "a")
        (tmp_path / "a").unlink()
        (tmp_path / "a").symlink_to("/etc/hostname")
        with pytest.raises(AuditError) as caught:
            files.read_regular(directory, "a", info, 1000)
        assert caught.value.code == "symlink"

    def test_swapped_for_a_pipe(self, directory: int, tmp_path: Path):
        """A file that becomes a pipe between `stat` and `open` is refused, without waiting for a writer."""
        (tmp_path / "a").touch()
        info = files.look(directory, "a")
        (tmp_path / "a").unlink()
        os.mkfifo(tmp_path / "a")
        with pytest.raises(AuditError) as caught:
            files.read_regular(directory, "a", info, 1000)
        assert caught.value.code == "not_a_regular_file"

    def test_too_large(self, directory: int, tmp_path: Path):
        """A file with one byte more than the limit is too large, also if it grew after its `stat`."""
        (tmp_path / "a").write_bytes(b"12345")
        assert read(directory, "a", 5) == b"12345"
        error = refused(directory, "a", 4)
        assert error.code == "too_large"
        assert error.message == "5 bytes, more than watching.max_bytes = 4"
        info = files.look(directory, "a")
        (tmp_path / "a").write_bytes(b"1234567890")
        with pytest.raises(AuditError):
            files.read_regular(directory, "a", info, 5)

    @pytest.mark.skipif(not os.path.exists("/sys/class/net/lo/speed"), reason="needs a file that can't be read")
    def test_fails_while_read(self):
        """A file whose `read` fails is `unreadable`, with the system's message."""
        directory = files.open_directory("/sys/class/net/lo")  # reading the speed of the loopback device fails
        try:
            error = refused(directory, "speed", 10_000)
        finally:
            os.close(directory)
        assert error.code == "unreadable"
        assert os.strerror(errno.EINVAL) in error.message

    def test_no_right_to_open(self, directory: int, tmp_path: Path):
        """A file that the process may not open is `unreadable`, and the hint names the process's user."""
        (tmp_path / "a").touch(mode=0)
        tmp_path.chmod(0o755)
        info = files.look(directory, "a")
        with no_rights(), pytest.raises(AuditError) as caught:
            files.read_regular(directory, "a", info, 1000)
        assert caught.value.code == "unreadable"
        assert f"uid {NOBODY if os.geteuid() == 0 else os.geteuid()}" in caught.value.hint

    def test_no_descriptor_left(self, directory: int, tmp_path: Path):
        """A lack of descriptors is an error of the process, not of the file."""
        (tmp_path / "a").write_bytes(b"x")
        info = files.look(directory, "a")
        with no_descriptors():
            with pytest.raises(OSError, match="Too many open files"):
                files.read_regular(directory, "a", info, 1000)
            with pytest.raises(OSError, match="Too many open files"):
                files.read_sidecar(directory, "a")

    def test_shrinks_while_read(self, tmp_path: Path):
        """A file that is truncated after its `stat` is read to its new end."""
        path = tmp_path / "a"
        path.write_bytes(b"12345")
        descriptor = os.open(path, os.O_RDONLY)
        assert files.read_all(descriptor, 100) == b"12345"
        os.close(descriptor)

    def test_grows_while_read(self, directory: int, tmp_path: Path):
        """A file that grows is read up to its earlier size."""
        path = tmp_path / "a"
        path.write_bytes(b"12345")
        descriptor = os.open(path, os.O_RDONLY)
        assert files.read_all(descriptor, 3) == b"123"
        os.close(descriptor)


class TestStatNow:
    def test_there_or_not(self, directory: int, tmp_path: Path):
        """`stat_now` returns the `stat` of a file or a link, and None for a missing file."""
        (tmp_path / "a").write_bytes(b"x")
        (tmp_path / "link").symlink_to("a")
        assert files.stat_now(directory, "a") == (tmp_path / "a").stat()
        assert files.stat_now(directory, "link") == (tmp_path / "link").lstat()
        assert files.stat_now(directory, "gone") is None

    def test_other_errors(self, directory: int):
        """`stat_now` raises every other error."""
        with pytest.raises(OSError, match="too long"):
            files.stat_now(directory, "x" * 300)


class TestReadSidecar:
    def test_missing(self, directory: int):
        """A missing sidecar gives None."""
        assert files.read_sidecar(directory, "a") is None

    def test_not_ours(self, directory: int, tmp_path: Path):
        """A folder, link, pipe or huge file at a sidecar's path gives empty content."""
        (tmp_path / "folder").mkdir()
        (tmp_path / "link").symlink_to("folder")
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "huge").touch()
        os.truncate(tmp_path / "huge", 64 * 2**20 + 1)
        for name in ("folder", "link", "pipe", "huge"):
            found = files.read_sidecar(directory, name)
            assert found is not None
            assert found[0] == b""

    def test_content(self, directory: int, tmp_path: Path):
        """A regular sidecar file gives its content and `stat`."""
        (tmp_path / "a").write_bytes(b"123")
        found = files.read_sidecar(directory, "a")
        assert found is not None
        assert (found[0], found[1].st_size) == (b"123", 3)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="leases")
class TestHasWriter:
    def test_tells(self, directory: int, tmp_path: Path):
        """A file that this process has open for writing has a writer, and a closed file has none."""
        path = tmp_path / "a"
        with path.open("wb"):
            assert files.has_writer(directory, "a") is True
        assert files.has_writer(directory, "a") is False

    def test_writer_of_another_process(self, directory: int, tmp_path: Path):
        """A writer in another process is found."""
        command = ["/bin/sh", "-c", f"exec > '{tmp_path / 'a'}'; echo; echo ready >&2; read line"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            process.stderr.readline()
            assert files.has_writer(directory, "a") is True
            process.communicate(b"\n")
        assert files.has_writer(directory, "a") is False

    def test_nobody_can_tell(self, directory: int, tmp_path: Path):
        """The writer of a missing file, or of a file that allows no lease, is unknown."""
        (tmp_path / "folder").mkdir()
        assert files.has_writer(directory, "gone") is None
        assert files.has_writer(directory, "folder") is None


class TestExists:
    def test_there_or_not(self, directory: int, tmp_path: Path):
        """A dangling link exists, and a file whose name is too long does not."""
        (tmp_path / "link").symlink_to("nowhere")
        assert files.exists(directory, "link")
        assert not files.exists(directory, "gone")
        assert not files.exists(directory, "x" * 300)

    def test_other_errors(self, tmp_path: Path):
        """`exists` raises errors other than "not found", so that a hidden config does not count as missing."""
        (tmp_path / "file").write_bytes(b"")
        descriptor = os.open(tmp_path / "file", os.O_RDONLY)
        try:
            with pytest.raises(NotADirectoryError):
                files.exists(descriptor, "x")
        finally:
            os.close(descriptor)


class TestWrite:
    def test_appears_whole(self, directory: int, tmp_path: Path):
        """The content is written under a hidden name, then renamed into place."""
        temporary = files.write_temporary(directory, b"content", durable=True)
        os.fsync(temporary.descriptor)
        temporary = files.close_temporary(directory, temporary)
        assert temporary.descriptor == -1
        assert files.TEMPORARY.fullmatch(temporary.name)
        assert os.listdir(tmp_path) == [temporary.name]
        files.publish(directory, temporary, "config")
        assert os.listdir(tmp_path) == ["config"]
        assert (tmp_path / "config").read_bytes() == b"content"

    def test_keeps_umask_and_group(self, directory: int, tmp_path: Path):
        """The file has the permissions that the umask leaves, and the folder's group."""
        if os.geteuid() == 0:
            os.chown(tmp_path, -1, 12345)
        before = os.umask(0o027)
        try:
            group = os.fstat(directory).st_gid
            name = files.write_temporary(directory, b"", durable=False, group=group).name
        finally:
            os.umask(before)
        info = (tmp_path / name).stat()
        assert stat.S_IMODE(info.st_mode) == 0o640
        assert info.st_gid == tmp_path.stat().st_gid

    def test_closing_fails(self, directory: int, tmp_path: Path):
        """A temporary file whose `close` fails, as on a full file server, is removed and no longer in use."""
        name = files.write_temporary(directory, b"content", durable=False).name
        with pytest.raises(OSError, match="descriptor"):
            files.close_temporary(directory, files.Temporary(name, descriptor=2**30))
        assert os.listdir(tmp_path) == []
        assert not in_use(directory, tmp_path, name)

    def test_replaces_a_link_not_its_target(self, directory: int, tmp_path: Path):
        """A link at the config's path is replaced, and its target is not written to."""
        (tmp_path / "target").write_bytes(b"theirs")
        (tmp_path / "config").symlink_to("target")
        files.publish(directory, files.write_temporary(directory, b"ours", durable=False), "config")
        assert (tmp_path / "target").read_bytes() == b"theirs"
        assert (tmp_path / "config").read_bytes() == b"ours"

    def test_a_name_that_is_taken(self, directory: int, tmp_path: Path):
        """If the name of a temporary file exists already, that file is unchanged."""
        taken = tmp_path / f".benchd-{this_system(directory)}-{os.getpid()}-{'00' * 8}.tmp"
        taken.write_bytes(b"theirs")
        with pytest.raises(FileExistsError):
            files.write_temporary(directory, b"ours", durable=False, random=bytes)
        assert taken.read_bytes() == b"theirs"
        assert not in_use(directory, tmp_path, taken.name)

    def test_publishing_fails(self, directory: int, tmp_path: Path):
        """A failed rename removes the temporary file."""
        (tmp_path / "config").mkdir()
        temporary = files.write_temporary(directory, b"", durable=False)
        with pytest.raises(OSError, match="directory"):
            files.publish(directory, temporary, "config")
        assert os.listdir(tmp_path) == ["config"]
        assert not in_use(directory, tmp_path, temporary.name)

    def test_discarded_while_open(self, directory: int, tmp_path: Path):
        """Discarding an open temporary file removes it and closes its descriptor."""
        temporary = files.write_temporary(directory, b"content", durable=True)
        files.discard(directory, temporary)
        assert os.listdir(tmp_path) == []
        with pytest.raises(OSError, match="descriptor"):
            os.fstat(temporary.descriptor)
        assert not in_use(directory, tmp_path, temporary.name)

    def test_writing_fails(self, directory: int, tmp_path: Path):
        """A write that fails after three bytes leaves no file and no name in use."""
        before = os.listdir("/proc/self/fd")
        with short_files(3), pytest.raises(OSError, match="File too large"):
            files.write_temporary(directory, b"content", durable=False, random=bytes)
        assert os.listdir(tmp_path) == []
        assert os.listdir("/proc/self/fd") == before
        # The same name can be used again.
        files.discard(directory, files.write_temporary(directory, b"content", durable=False, random=bytes))


class TestExplained:
    @pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
    def test_rights(self, number: int):
        """The message about missing permissions names user, group, access and fix."""
        text = files.explained(OSError(number, os.strerror(number)), "/inbox", "write into")
        who = f"uid {os.geteuid()}, gid {os.getegid()}"
        assert text == f"{os.strerror(number)}: {who} needs to write into /inbox; chown, chgrp or chmod it"

    @pytest.mark.parametrize(
        ("number", "expected"), [(errno.EROFS, "ReadWritePaths=/inbox"), (errno.ENOSPC, "/inbox; free some space")]
    )
    def test_remedies(self, number: int, expected: str):
        """The message about a read-only or full file system names a fix."""
        assert expected in files.explained(OSError(number, os.strerror(number)), "/inbox", "write into")

    def test_others(self):
        """Other errors keep the system's message."""
        assert files.explained(OSError(errno.EIO, "Input/output error"), "/inbox", "read") == "Input/output error"
        assert files.explained(OSError("something"), "/inbox", "read") == "something"


class TestStaleTemporary:
    @pytest.fixture(autouse=True)
    def _system(self, directory: int) -> None:
        self.host = this_system(directory)

    def make(self, tmp_path: Path, name: str, *, old: bool = False) -> str:
        (tmp_path / name).touch()
        if old:
            os.utime(tmp_path / name, (LONG_AGO, LONG_AGO))
        return name

    def test_of_a_dead_process(self, directory: int, tmp_path: Path):
        """A file of a dead process of this system is removed at once."""
        name = self.make(tmp_path, f".benchd-{self.host}-{dead_pid()}-0.tmp")
        assert files.remove_stale_temporary(directory, name, time.time())
        assert os.listdir(tmp_path) == []

    def test_of_an_earlier_process_with_our_pid(self, directory: int, tmp_path: Path):
        """An unused file with this process's PID is removed, because all containers have a PID 1."""
        name = self.make(tmp_path, f".benchd-{self.host}-{os.getpid()}-999999.tmp")
        assert files.remove_stale_temporary(directory, name, time.time())

    def test_our_own(self, directory: int, tmp_path: Path):
        """A file that this process is writing stays."""
        temporary = files.write_temporary(directory, b"", durable=False)
        assert not files.remove_stale_temporary(directory, temporary.name, time.time())
        files.discard(directory, temporary)

    def test_of_a_living_process(self, directory: int, tmp_path: Path):
        """A file of another living process stays for an hour, which is time enough to finish it."""
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as living:
            fresh = self.make(tmp_path, f".benchd-{self.host}-{living.pid}-0.tmp")
            old = self.make(tmp_path, f".benchd-{self.host}-{living.pid}-1.tmp", old=True)
            assert not files.remove_stale_temporary(directory, fresh, time.time())
            assert files.remove_stale_temporary(directory, old, time.time())

    def test_of_another_host(self, directory: int, tmp_path: Path):
        """A file of another system stays for an hour, because its process can't be checked."""
        pid = dead_pid()
        fresh = self.make(tmp_path, f".benchd-00000000-{pid}-0.tmp")
        old = self.make(tmp_path, f".benchd-00000000-{pid}-1.tmp", old=True)
        assert not files.remove_stale_temporary(directory, fresh, time.time())
        assert files.remove_stale_temporary(directory, old, time.time())

    def test_strange_pid(self, directory: int, tmp_path: Path):
        """A PID that is too large for the system counts as alive."""
        name = self.make(tmp_path, f".benchd-{self.host}-{10**30}-0.tmp")
        assert not files.remove_stale_temporary(directory, name, time.time())

    def test_others(self, directory: int, tmp_path: Path):
        """Other names, folders and missing files are left alone."""
        pid = dead_pid()
        (tmp_path / f".benchd-{self.host}-{pid}-3.tmp").mkdir()
        for name in (
            ".benchd-x.tmp",
            f".benchd-{self.host}-{pid}-3.tmp",
            f".benchd-{self.host}-{pid}-4.tmp",
        ):
            assert not files.remove_stale_temporary(directory, name, time.time())
