"""Write lines to a file or a stream, and to standard error while that fails."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, NamedTuple, Protocol

__all__ = ["Disk", "Output", "Sink", "TrailFile", "TrailStream", "Written", "is_journal"]

#: Maximum number of lines to keep until they are flushed.
_MAX_UNFLUSHED: Final = 1000

_NEWLINE: Final = ord("\n")

#: `fdatasync` returns these errors for a pipe, and for a file that was closed meanwhile. Closing flushes.
_NOTHING_TO_FLUSH: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})


class Written(NamedTuple):
    """An open file that has data to flush: the file's descriptor and its device."""

    descriptor: int
    device: int


class Disk(Protocol):  # pragma: no cover - a shape
    """The system calls that can fail with the disk. The module `os` implements them."""

    def write(self, descriptor: int, text: bytes, /) -> int:
        """Write some of `text`. Return the number of bytes."""

    def fdatasync(self, descriptor: int, /) -> None:
        """Wait until the file's content is on the disk."""


class Sink(Protocol):  # pragma: no cover - a shape
    """Writes lines to one target."""

    @property
    def name(self) -> str:
        """The sink's name in messages."""

    @property
    def written(self) -> Written | None:
        """Return the file that has the lines; None if it can't be flushed."""

    def write(self, text: bytes) -> None:
        """Pass whole lines to the operating system. Raises OSError."""

    def close(self) -> None:
        """Flush and close the file that `write` has opened. Raises OSError."""


class TrailStream:
    """Writes to an open stream, usually standard output."""

    written: Final = None

    def __init__(self, descriptor: int, *, name: str = "standard output") -> None:
        self.name = name
        self._descriptor = descriptor

    def write(self, text: bytes) -> None:
        """Pass whole lines to the operating system. Raises OSError."""
        _, error = _write_all(self._descriptor, text)
        if error is not None:
            raise error

    def close(self) -> None:
        """Do nothing: the stream belongs to the process."""


def is_journal(descriptor: int) -> bool:
    """Return whether systemd has connected the stream to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        info = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"


class TrailFile:
    """Writes to a trail file. The first `write` opens it.

    It follows logrotate: it creates a moved or deleted file again, and appends to a truncated file.
    """

    def __init__(self, path: str, *, disk: Disk = os) -> None:
        self.name = path
        self._disk = disk
        self._descriptor = -1
        self._identity = (-1, -1)
        self._torn = False

    def write(self, text: bytes) -> None:
        """Append whole lines, and open the file first if needed. Raises OSError."""
        self._follow()
        if self._torn:
            text = b"\n" + text
        written, error = _write_all(self._descriptor, text, self._disk)
        if written:
            self._torn = text[written - 1] != _NEWLINE
        if error is not None:
            raise error

    @property
    def written(self) -> Written | None:
        """Return the open file; None while it is not open."""
        return Written(self._descriptor, self._identity[0]) if self._descriptor >= 0 else None

    def _follow(self) -> None:
        """Open the file at the path, unless it is open already."""
        try:
            info = os.stat(self.name)
        except FileNotFoundError:
            info = None
        if self._descriptor >= 0 and info is not None and (info.st_dev, info.st_ino) == self._identity:
            return
        self.close()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        self._descriptor = os.open(self.name, flags, 0o640)
        opened = os.fstat(self._descriptor)
        self._identity = (opened.st_dev, opened.st_ino)
        self._torn = stat.S_ISREG(opened.st_mode) and opened.st_size > 0 and self._ends_torn()

    def _ends_torn(self) -> bool:
        """Return whether the file ends with a partial line, for example after a full disk or a power failure."""
        try:
            with open(self.name, "rb") as file:
                file.seek(-1, os.SEEK_END)
                return file.read(1) != b"\n"
        except OSError:
            return False

    def close(self) -> None:
        """Flush and close the file. The next `write` opens it again. Raises OSError."""
        if self._descriptor >= 0:
            try:
                self._disk.fdatasync(self._descriptor)  # a flush of the new file must cover the old one
            except OSError as error:
                if error.errno not in _NOTHING_TO_FLUSH:
                    raise
            finally:
                descriptor, self._descriptor = self._descriptor, -1
                os.close(descriptor)


def _write_all(descriptor: int, text: bytes, disk: Disk = os) -> tuple[int, OSError | None]:
    """Write `text`, with several calls if needed. Return the number of bytes written and the error, if any."""
    written = 0
    while written < len(text):
        try:
            written += disk.write(descriptor, text[written:] if written else text)
        except OSError as error:
            return written, error
    return written, None


class _SharedLock:
    """A lock for the threads of this process, and for other processes through the file `path`."""

    def __init__(self, path: str) -> None:
        self._threads = threading.Lock()
        self._file = open(path, "ab")  # noqa: SIM115 - open until the process ends

    def __enter__(self) -> None:
        self._threads.acquire()
        fcntl.lockf(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN)
        self._threads.release()

    def close(self) -> None:
        self._file.close()


class Output:
    """Writes lines to a sink. While the sink fails, writes them to the descriptor `fallback`.

    `complain` returns the line that reports a failure, given the sink's name and the reason. A lock protects all state.
    """

    def __init__(self, sink: Sink, *, complain: Callable[[str, str], bytes], fallback: int = 2) -> None:
        self._sink = sink
        self._complain = complain
        self._fallback = fallback
        self._lock: AbstractContextManager[object] = threading.Lock()
        #: The operations that currently fail. Each is reported once.
        self._failing: set[str] = set()
        #: The lines that no flush covers yet. None until the first flush, because most trails are never flushed.
        self._unflushed: deque[bytes] | None = None
        #: The lines that the running flushes cover, and the number of these flushes.
        self._covered: deque[bytes] = deque(maxlen=_MAX_UNFLUSHED)
        self._flushes = 0

    def share(self, path: str) -> None:
        """Lock the file `path` for each write, so that the processes that share it take turns.

        Call it before other threads start. Raises OSError.
        """
        self._lock = _SharedLock(path)

    def write(self, lines: list[bytes]) -> None:
        """Write whole lines in one piece. Write them to the fallback if the sink fails."""
        text = b"".join(lines)
        with self._lock:
            try:
                self._sink.write(text)
            except OSError as error:
                self._fall_back("write", text, error)
            else:
                self._failing.discard("write")
                if self._unflushed is not None:
                    self._unflushed.extend(lines)

    def unflushed(self) -> Written | None:
        """Return the file to flush for all lines so far. Report the result to `flushed`.

        None means that there is nothing to flush and nothing to report.
        """
        with self._lock:
            written = self._sink.written
            if written is not None:
                self._covered.extend(self._unflushed or ())
                self._flushes += 1
            self._unflushed = deque(maxlen=_MAX_UNFLUSHED)
            return written

    def flushed(self, error: OSError | None) -> None:
        """Record that a flush has ended. After an error, write all lines that may be lost to the fallback.

        The system reports an error to one flush only, so another running flush may have received it. Therefore the
        lines are kept until no flush is running.
        """
        with self._lock:
            self._flushes -= 1
            if error is not None and error.errno not in _NOTHING_TO_FLUSH:
                self._lose(error)
                return
            self._failing.discard("flush")
            if not self._flushes:
                self._covered.clear()

    def close(self) -> None:
        """Close the sink. The next line opens it again."""
        with self._lock:
            self._close()
        if isinstance(self._lock, _SharedLock):
            self._lock.close()
            self._lock = threading.Lock()

    def replace(self, sink: Sink) -> None:
        """Close the sink and write to `sink` from now on."""
        with self._lock:  # without releasing it: a line in between would open the old file again
            self._close()
            self._sink = sink
            self._failing.clear()
            self._covered.clear()
            self._unflushed = None

    def _close(self) -> None:
        try:
            self._sink.close()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        lines = [*self._covered, *(self._unflushed or ())]
        self._covered.clear()
        if self._unflushed is not None:
            self._unflushed.clear()
        self._fall_back("flush", b"".join(lines), error)

    def _fall_back(self, operation: str, text: bytes, error: OSError) -> None:
        complaint = b""
        if operation not in self._failing:
            self._failing.add(operation)
            complaint = self._complain(self._sink.name, error.strerror or str(error))
        _write_all(self._fallback, complaint + text)  # if standard error fails too, the lines are lost
