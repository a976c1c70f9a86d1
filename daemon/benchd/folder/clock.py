"""Read the clock that dates a folder's files: the clock of this system, or of a file server.

Whether an audit is answered depends on the dates of two files, which both come from that clock. A comparison with "now"
also needs the clock of this system. The two clocks may differ by minutes, and a clock may be set at any time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

from benchd.folder.files import discard, write_temporary

__all__ = ["FolderClock"]

#: Nanoseconds. Dates have a resolution of up to 10 ms, so smaller differences are ignored.
_ALIKE_NS: Final = 50_000_000

#: Maximum rate at which a clock gains or loses time while NTP slews it.
_SLEWING: Final = 0.001

_RUNNING: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class FolderClock:
    """Returns the date that a new file in the folder would get. `system_ns` is the clock of this system."""

    def __init__(self, system_ns: Callable[[], int] | None = None) -> None:
        self._system_ns = system_ns or time.time_ns
        self._ahead_ns = 0
        self._before: tuple[int, int] | None = None

    def now_ns(self) -> int:
        """Return the time of the folder's file system, in nanoseconds since the epoch."""
        return self._system_ns() + self._ahead_ns

    def was_set(self) -> bool:
        """Return whether the system's clock was set since the last call. If so, `read` the folder's clock again."""
        now = self._system_ns(), time.clock_gettime_ns(_RUNNING)
        before, self._before = self._before or now, now
        elapsed = now[1] - before[1]
        return abs(now[0] - before[0] - elapsed) > elapsed * _SLEWING + _ALIKE_NS

    def read(self, directory: int) -> None:
        """Create a file in the open `directory` to read its clock. If that fails, keep the known difference."""
        try:
            dated_ns = _date_of_new_file(directory)
        except OSError:
            return
        ahead_ns = dated_ns - self._system_ns()
        self._ahead_ns = ahead_ns if abs(ahead_ns) > _ALIKE_NS else 0


def _date_of_new_file(directory: int) -> int:
    try:
        # A file without a name does not disturb a process that removes the folder.
        descriptor = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=directory)
    except (OSError, AttributeError):  # the system does not support it
        temporary = write_temporary(directory, b"", durable=False)
        try:
            return os.stat(temporary.name, dir_fd=directory, follow_symlinks=False).st_mtime_ns
        finally:
            discard(directory, temporary)
    try:
        return os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)
