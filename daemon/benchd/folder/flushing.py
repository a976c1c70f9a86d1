"""Flush many files to the disk with few waits.

`fdatasync` waits for one file, and each call flushes the drive, even if an earlier call has written everything.
`syncfs` is one wait for the data of all processes on a file system. benchd uses it only while little data is waiting: a
checkpoint of many gigabytes by another program must not delay an answer of two kilobytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection
from functools import cached_property
from typing import Final

__all__ = ["FileSystems", "Flusher"]

#: File systems that keep the data that `syncfs` has waited for. Others may do so too, but file servers are excluded.
_LASTING: Final = frozenset({"ext3", "ext4", "f2fs", "xfs"})

#: `syncfs` reports write errors from this version of Linux on.
_REPORTS_ERRORS: Final = (5, 8)

#: Maximum bytes waiting to be written: for each wait that `syncfs` saves, and a constant. A slow disk writes as much in
#: about 50 ms, and Linux writes it within seconds without being asked.
_BYTES_A_WAIT: Final = 128 * 1024
_BYTES_BESIDES: Final = 4 * 2**20

#: Seconds. After a wait longer than this, the other waits of a batch run in parallel.
_SLOW_WAIT: Final = 0.002

#: Errors of `fsync` for a directory on file systems that do not support it, and of a flush for a pipe or for a file
#: that was closed meanwhile. Closing flushes.
_NOTHING_TO_FLUSH: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})

_WAITING: Final = re.compile(rb"^(?:Dirty|Writeback): +([0-9]+) kB$", re.MULTILINE)


class FileSystems:
    """Asks the system about its file systems. Tests can pass another instance.

    `proc` is the path of procfs. `release` is the version of Linux, by default that of this system.
    """

    def __init__(self, proc: str = "/proc", release: str | None = None) -> None:
        self._proc = proc
        self._release = release
        self._lasting: dict[int, bool] = {}

    def sync(self, descriptor: int, device: int, waits: int) -> bool:
        """Flush the file system on `device`, if one `syncfs` is cheaper than `waits` flushes of single files.

        `descriptor` is open in it. Return whether everything is on the disk. An error may be that of another file, so
        after an error the caller must flush each file.
        """
        if waits < 2 or not self.is_lasting(device):
            return False
        if self.bytes_to_write() > _BYTES_BESIDES + waits * _BYTES_A_WAIT:
            return False
        return self.syncfs(descriptor)

    def is_lasting(self, device: int) -> bool:
        """Return whether the file system on `device` is one of `_LASTING`. The answer is cached."""
        known = self._lasting.get(device)
        if known is None:
            known = self._lasting[device] = self._has_lasting_kind(device)
        return known

    def _has_lasting_kind(self, device: int) -> bool:
        wanted = f"{os.major(device)}:{os.minor(device)}"
        try:
            with open(f"{self._proc}/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
                lines = file.read().splitlines()
        except OSError:
            return False
        mounts = (line.partition(" - ") for line in lines)
        kinds = {kind.split(" ")[0] for mount, _, kind in mounts if mount.split(" ")[2:3] == [wanted]}
        return bool(kinds) and kinds <= _LASTING

    def bytes_to_write(self) -> float:
        """Return the number of bytes of all processes that no disk has yet; infinity if the system can't say."""
        try:
            with open(f"{self._proc}/meminfo", "rb", buffering=0) as file:
                found = _WAITING.findall(file.read(16 * 1024))
        except OSError:
            return float("inf")
        return sum(int(size) for size in found) * 1024.0 if len(found) == 2 else float("inf")

    def syncfs(self, descriptor: int) -> bool:
        """Flush the file system of `descriptor`. Return False after an error, or if Linux does not report errors."""
        call = self._syncfs
        return call is not None and call(descriptor) == 0

    @cached_property
    def _syncfs(self) -> Callable[[int], int] | None:
        """Return the system call, which Python lacks; None if it does not report errors."""
        version = re.match(r"([0-9]+)\.([0-9]+)", self._release or platform.release())
        if version is None or (int(version[1]), int(version[2])) < _REPORTS_ERRORS:
            return None
        return getattr(ctypes.CDLL(None), "syncfs", None)

    def flush_file(self, descriptor: int) -> None:
        """Wait until a file's content is on the disk. Raises OSError."""
        os.fdatasync(descriptor)

    def flush_directory(self, descriptor: int) -> None:
        """Wait until the names in a directory are on the disk. Raises OSError."""
        os.fsync(descriptor)


class Flusher:
    """Flushes files and directories, each given as (descriptor, device). Thread-safe.

    `waits` is the maximum number of parallel waits on a slow disk. `now` measures them, in seconds.
    """

    def __init__(
        self, waits: int = 4, systems: FileSystems | None = None, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._waits = waits
        self._systems = systems or FileSystems()
        self._now = now

    def flush(self, written: Collection[tuple[int, int]], *, directories: bool = False) -> dict[int, OSError]:
        """Wait until the contents of files are on the disk, or the names in directories if `directories` is set.

        Return the errors by descriptor.
        """
        call = self._systems.flush_directory if directories else self._systems.flush_file
        rest = list(written)
        if len(written) > 1:
            waits = Counter(device for _, device in written)
            ways = {device: descriptor for descriptor, device in written}
            done = {device for device, count in waits.items() if self._systems.sync(ways[device], device, count)}
            rest = [item for item in rest if item[1] not in done]
        failed: dict[int, OSError] = {}
        is_slow = False
        for place, (descriptor, _) in enumerate(rest):
            if is_slow and len(rest) - place > 1 and self._waits > 1:
                failed.update(self._overlapping(call, [item for item, _ in rest[place:]]))
                break
            before = self._now()
            error = _error_of(call, descriptor)
            is_slow = self._now() - before > _SLOW_WAIT
            if error is not None:
                failed[descriptor] = error
        return failed

    def _overlapping(self, call: Callable[[int], None], descriptors: list[int]) -> dict[int, OSError]:
        """Flush with several threads. They are daemon threads: a disk that hangs does not hold up the process's end."""
        failed: dict[int, OSError] = {}
        pending = deque(descriptors)

        def flush_pending() -> None:
            while pending:
                with contextlib.suppress(IndexError):  # another thread took the last one
                    descriptor = pending.popleft()
                    error = _error_of(call, descriptor)
                    if error is not None:
                        failed[descriptor] = error

        threads = [
            threading.Thread(target=flush_pending, name=f"benchd-flush-{number}", daemon=True)
            for number in range(min(self._waits, len(descriptors)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return failed


def _error_of(call: Callable[[int], None], descriptor: int) -> OSError | None:
    try:
        call(descriptor)
    except OSError as error:
        return None if error.errno in _NOTHING_TO_FLUSH else error
    return None
