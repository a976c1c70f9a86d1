"""The sinks of the trail: files and streams, and the fallback while they fail."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchd.trail.sinks import Output, TrailFile, TrailStream, Written, is_journal

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
BROKEN = OSError(errno.EIO, os.strerror(errno.EIO))


class Disk:
    """A disk with room for `room` bytes, which fails to flush while it is `broken`."""

    def __init__(self, room: int | None = None) -> None:
        self.room = room
        self.broken = False

    def write(self, descriptor: int, text: bytes) -> int:
        if self.room is None:
            return os.write(descriptor, text)
        if not self.room:
            raise FULL
        part = text[: self.room]
        self.room -= len(part)
        return os.write(descriptor, part)

    def fdatasync(self, descriptor: int) -> None:
        if self.broken:
            raise BROKEN
        os.fdatasync(descriptor)


class Fallback:
    """A pipe instead of standard error."""

    def __init__(self) -> None:
        self._reading, self.descriptor = os.pipe()
        os.set_blocking(self._reading, False)

    def read(self) -> list[bytes]:
        """Return the lines that were written since the last call."""
        try:
            return os.read(self._reading, 2**16).splitlines()
        except BlockingIOError:
            return []

    def close(self) -> None:
        os.close(self._reading)
        os.close(self.descriptor)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trail.jsonl"


@pytest.fixture
def fallback() -> Iterator[Fallback]:
    fallback = Fallback()
    yield fallback
    fallback.close()


def complain(name: str, reason: str) -> bytes:
    return f"{os.path.basename(name)}: {reason}\n".encode()


def output_to(sink: TrailFile | TrailStream, fallback: Fallback) -> Output:
    return Output(sink, complain=complain, fallback=fallback.descriptor)


class TestFile:
    def test_appends(self, path: Path):
        """A file keeps its content when it is opened again."""
        for text in (b"1\n", b"2\n"):
            sink = TrailFile(str(path))
            sink.write(text)
            sink.close()
        assert path.read_bytes() == b"1\n2\n"

    def test_opens_at_the_first_write(self, path: Path):
        """The first write opens or creates the file."""
        sink = TrailFile(str(path))
        assert sink.written is None
        assert not path.exists()
        sink.write(b"1\n")
        assert path.exists()

    def test_rights(self, path: Path):
        """Other users can't read a new file."""
        TrailFile(str(path)).write(b"1\n")
        assert path.stat().st_mode & 0o777 == 0o640

    @pytest.mark.parametrize("rotate", [os.unlink, lambda path: os.rename(path, f"{path}.1")], ids=["delete", "rename"])
    def test_rotation(self, path: Path, rotate: Callable[[Path], None]):
        """A file that was moved or deleted is created again, and the old descriptor is closed."""
        sink = TrailFile(str(path))
        sink.write(b"1\n")
        before = len(os.listdir("/proc/self/fd"))
        rotate(path)
        sink.write(b"2\n")
        assert path.read_bytes() == b"2\n"
        assert len(os.listdir("/proc/self/fd")) == before

    def test_copytruncate(self, path: Path):
        """A truncated file is written from its start."""
        sink = TrailFile(str(path))
        sink.write(b"1\n")
        os.truncate(path, 0)
        sink.write(b"2\n")
        assert path.read_bytes() == b"2\n"

    def test_torn_by_an_earlier_run(self, path: Path):
        """The next record starts on a new line after a line that an earlier run did not finish."""
        path.write_bytes(b'{"ts": "2026')
        TrailFile(str(path)).write(b"1\n")
        assert path.read_bytes() == b'{"ts": "2026\n1\n'

    def test_torn_by_a_full_disk(self, path: Path):
        """The next record starts on a new line after a line that did not fit on the disk, once there is room."""
        disk = Disk()
        sink = TrailFile(str(path), disk=disk)
        sink.write(b"first\n")
        disk.room = 3
        with pytest.raises(OSError, match="No space left"):
            sink.write(b"second\n")
        with pytest.raises(OSError, match="No space left"):
            sink.write(b"third\n")
        disk.room = None
        sink.write(b"fourth\n")
        assert path.read_bytes() == b"first\nsec\nfourth\n"

    def test_no_room_for_the_end_of_a_torn_line(self, path: Path):
        """A partial line is ended even if the disk accepts no bytes at first."""
        path.write_bytes(b"torn")
        disk = Disk(room=0)
        sink = TrailFile(str(path), disk=disk)
        with pytest.raises(OSError, match="No space left"):
            sink.write(b"1\n")
        disk.room = 1
        with pytest.raises(OSError, match="No space left"):
            sink.write(b"2\n")
        disk.room = None
        sink.write(b"3\n")
        assert path.read_bytes() == b"torn\n3\n"

    def test_full_between_two_lines(self, path: Path):
        """A disk that is full at the end of a line leaves no partial line."""
        disk = Disk(room=2)
        sink = TrailFile(str(path), disk=disk)
        with pytest.raises(OSError, match="No space left"):
            sink.write(b"1\n2\n")
        disk.room = None
        sink.write(b"3\n")
        assert path.read_bytes() == b"1\n3\n"

    def test_pipe_without_a_reader(self, path: Path):
        """A named pipe without a reader is an error instead of an endless wait."""
        os.mkfifo(path)
        with pytest.raises(OSError, match="No such device"):
            TrailFile(str(path)).write(b"1\n")

    def test_pipe(self, path: Path):
        """A named pipe can be written, flushed and closed."""
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        sink = TrailFile(str(path))
        sink.write(b"1\n")
        sink.close()
        assert os.read(reader, 9) == b"1\n"
        os.close(reader)

    def test_folder_in_its_place(self, path: Path):
        """A folder at the path is an error, and the file is created once the folder is gone."""
        sink = TrailFile(str(path))
        path.mkdir()
        with pytest.raises(IsADirectoryError):
            sink.write(b"1\n")
        path.rmdir()
        sink.write(b"2\n")
        assert path.read_bytes() == b"2\n"

    def test_where_it_writes(self, path: Path):
        """An open file reports its descriptor and its device, and a closed file reports None."""
        sink = TrailFile(str(path))
        sink.write(b"1\n")
        written = sink.written
        assert written is not None
        assert os.fstat(written.descriptor).st_ino == path.stat().st_ino
        assert written.device == path.stat().st_dev
        sink.close()
        sink.close()
        assert sink.written is None

    def test_closing_flushes(self, path: Path):
        """A file is flushed before it is closed, and is closed even if the flush fails."""
        disk = Disk()
        sink = TrailFile(str(path), disk=disk)
        sink.write(b"1\n")
        disk.broken = True
        with pytest.raises(OSError, match="Input/output"):
            sink.close()
        assert sink.written is None


class TestStream:
    def test_writes(self, fallback: Fallback):
        """A stream writes lines, can't be flushed, and stays open."""
        sink = TrailStream(fallback.descriptor)
        sink.write(b"1\n")
        sink.close()
        sink.write(b"2\n")
        assert fallback.read() == [b"1", b"2"]
        assert sink.written is None

    def test_without_a_reader(self):
        """A stream without a reader is an error."""
        reading, writing = os.pipe()
        os.close(reading)
        with pytest.raises(BrokenPipeError):
            TrailStream(writing).write(b"1\n")
        os.close(writing)

    def test_journal(self, fallback: Fallback, monkeypatch: pytest.MonkeyPatch):
        """A stream belongs to the journal if it is the file that JOURNAL_STREAM names."""
        info = os.fstat(fallback.descriptor)
        monkeypatch.setenv("JOURNAL_STREAM", f"{info.st_dev}:{info.st_ino}")
        assert is_journal(fallback.descriptor)
        monkeypatch.setenv("JOURNAL_STREAM", "1:2")
        assert not is_journal(fallback.descriptor)
        assert not is_journal(-1)


class TestFallback:
    def test_while_writing_fails(self, tmp_path: Path, fallback: Fallback):
        """While the file can't be opened, lines go to the fallback after one report, and later lines to the file."""
        path = tmp_path / "missing" / "trail.jsonl"
        output = output_to(TrailFile(str(path)), fallback)
        output.write([b"1\n"])
        output.write([b"2\n"])
        assert fallback.read() == [b"trail.jsonl: No such file or directory", b"1", b"2"]
        path.parent.mkdir()
        output.write([b"3\n"])
        assert (path.read_bytes(), fallback.read()) == (b"3\n", [])
        path.unlink()
        path.parent.rmdir()
        output.write([b"4\n"])
        assert fallback.read() == [b"trail.jsonl: No such file or directory", b"4"]

    def test_torn_line_is_repeated(self, path: Path, fallback: Fallback):
        """A line that was written in part is written completely to the fallback."""
        output = output_to(TrailFile(str(path), disk=Disk(room=1)), fallback)
        output.write([b"first\n"])
        assert path.read_bytes() == b"f"
        assert fallback.read() == [b"trail.jsonl: No space left on device", b"first"]

    def test_nobody_reads(self):
        """If standard error fails too, the lines are lost, but no exception is raised."""
        reading, writing = os.pipe()
        os.close(reading)
        Output(TrailStream(writing), complain=complain, fallback=writing).write([b"1\n"])
        os.close(writing)


class TestFlushing:
    def test_where_to_flush(self, path: Path, fallback: Fallback):
        """A trail file reports its descriptor and device after a write, and a stream reports None."""
        output = output_to(TrailFile(str(path)), fallback)
        assert output.unflushed() is None
        output.write([b"1\n"])
        written = output.unflushed()
        assert isinstance(written, Written)
        assert written.device == path.stat().st_dev
        os.fdatasync(written.descriptor)
        output.flushed(None)
        assert output_to(TrailStream(fallback.descriptor), fallback).unflushed() is None

    def test_failed_flush(self, path: Path, fallback: Fallback):
        """After a failed flush every line since the last good flush is repeated once on the fallback."""
        output = output_to(TrailFile(str(path)), fallback)
        output.write([b"0\n"])
        output.unflushed()
        output.flushed(None)
        output.write([b"1\n"])
        output.unflushed()
        output.write([b"2\n"])
        output.flushed(BROKEN)
        assert fallback.read() == [b"trail.jsonl: Input/output error", b"1", b"2"]
        output.write([b"3\n"])
        output.unflushed()
        output.flushed(BROKEN)
        assert fallback.read() == [b"3"], "one complaint until a flush succeeds"
        output.unflushed()
        output.flushed(None)
        output.write([b"4\n"])
        output.unflushed()
        output.flushed(BROKEN)
        assert fallback.read() == [b"trail.jsonl: Input/output error", b"4"]

    @pytest.mark.parametrize("outcomes", [(None, BROKEN), (BROKEN, None)], ids=["second", "first"])
    def test_overlapping_flushes(self, path: Path, fallback: Fallback, outcomes: tuple[OSError | None, ...]):
        """If one of two overlapping flushes fails, the lines of both are repeated."""
        output = output_to(TrailFile(str(path)), fallback)
        output.write([b"0\n"])
        output.unflushed()
        output.flushed(None)
        output.write([b"1\n"])
        output.unflushed()
        output.write([b"2\n"])
        output.unflushed()
        for outcome in outcomes:
            output.flushed(outcome)
        assert fallback.read() == [b"trail.jsonl: Input/output error", b"1", b"2"]

    @pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF], ids=errno.errorcode.get)
    def test_nothing_to_flush(self, path: Path, fallback: Fallback, number: int):
        """A pipe, or a file that was closed meanwhile, does not count as a failure."""
        output = output_to(TrailFile(str(path)), fallback)
        output.write([b"1\n"])
        output.unflushed()
        output.flushed(OSError(number, os.strerror(number)))
        assert fallback.read() == []

    def test_a_thousand_lines(self, path: Path, fallback: Fallback):
        """The last thousand lines are kept for a flush."""
        output = output_to(TrailFile(str(path)), fallback)
        output.unflushed()
        for number in range(1001):
            output.write([b"%d\n" % number])
        output.write([b"1\n"])
        output.unflushed()
        output.flushed(BROKEN)
        lines = fallback.read()
        assert (len(lines), lines[1], lines[-1]) == (1001, b"2", b"1")

    def test_lines_together(self, path: Path, fallback: Fallback):
        """Lines that are written in one piece are kept separately for the flush."""
        output = output_to(TrailFile(str(path)), fallback)
        output.unflushed()
        output.write([b"1\n", b"2\n"])
        assert path.read_bytes() == b"1\n2\n"
        output.unflushed()
        output.flushed(BROKEN)
        assert fallback.read()[1:] == [b"1", b"2"]

    def test_failing_close(self, path: Path, fallback: Fallback):
        """If the flush at closing fails, the lines since the last good flush are repeated."""
        disk = Disk()
        output = output_to(TrailFile(str(path), disk=disk), fallback)
        output.unflushed()
        output.write([b"1\n"])
        disk.broken = True
        output.close()
        assert fallback.read() == [b"trail.jsonl: Input/output error", b"1"]

    def test_written_again_after_a_failed_flush(self, path: Path, fallback: Fallback):
        """Lines are written even if the disk fails to flush."""
        disk = Disk()
        output = output_to(TrailFile(str(path), disk=disk), fallback)
        output.write([b"1\n"])
        disk.broken = True
        output.close()
        output.write([b"2\n"])
        assert path.read_bytes() == b"1\n2\n"

    def test_close_before_any_flush(self, path: Path, fallback: Fallback):
        """A trail that is never flushed keeps no lines to repeat."""
        disk = Disk()
        disk.broken = True
        output = output_to(TrailFile(str(path), disk=disk), fallback)
        output.write([b"1\n"])
        output.close()
        assert fallback.read() == [b"trail.jsonl: Input/output error"]

    def test_replaced(self, tmp_path: Path, fallback: Fallback):
        """Another sink gets the next lines, and its failures are reported again."""
        output = output_to(TrailFile(str(tmp_path / "missing" / "a")), fallback)
        output.write([b"1\n"])
        output.replace(TrailFile(str(tmp_path / "missing" / "b")))
        output.write([b"2\n"])
        complaints = [line for line in fallback.read() if b":" in line]
        assert complaints == [b"a: No such file or directory", b"b: No such file or directory"]
