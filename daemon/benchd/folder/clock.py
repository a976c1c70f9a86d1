"""The clock that dates a folder's files: this system's, or a file server's.

Whether an audit is answered is told by the order of two dates, both of that clock. Only where "now" comes into it the
process's own clock does too, and that may be minutes off, or be set while the process runs.
"""

from __future__ import annotations

import os
import time
from typing import Final

from benchd.folder.files import discard, write_temporary

__all__ = ["FolderClock"]

#: Dates come in steps of up to 10 ms; what is less than this is no difference.
_ALIKE_NS: Final = 50_000_000

#: A clock that is being slewed may lose or gain this share of the time.
_SLEWING: Final = 0.001

_RUNNING: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class FolderClock:
    """What a folder's files would be dated now."""

    def __init__(self) -> None:
        self._ahead_ns = 0
        self._before: tuple[int, int] | None = None

    def now_ns(self) -> int:
        """Now, in nanoseconds since the epoch, as the folder's file system has it."""
        return time.time_ns() + self._ahead_ns

    def was_set(self) -> bool:
        """Whether the system's clock was set since the last call: then what was known of the folder's is not true."""
        now = time.time_ns(), time.clock_gettime_ns(_RUNNING)
        before, self._before = self._before or now, now
        elapsed = now[1] - before[1]
        return abs(now[0] - before[0] - elapsed) > elapsed * _SLEWING + _ALIKE_NS

    def read(self, directory: int) -> None:
        """Have a new file dated in the open `directory`. Where that can't be, this system's clock must do."""
        try:
            dated_ns = _date_of_new_file(directory)
        except OSError:
            return
        ahead_ns = dated_ns - time.time_ns()
        self._ahead_ns = ahead_ns if abs(ahead_ns) > _ALIKE_NS else 0


def _date_of_new_file(directory: int) -> int:
    try:
        # Without a name, so that nobody who is removing the folder finds it filled again.
        descriptor = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=directory)
    except (OSError, AttributeError):  # a file system, or a system, that has no such thing
        temporary = write_temporary(directory, b"", durable=False)
        try:
            return os.stat(temporary.name, dir_fd=directory, follow_symlinks=False).st_mtime_ns
        finally:
            discard(directory, temporary)
    try:
        return os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)
