"""How what was written to many files gets to the disk with few waits.

`fdatasync` waits for one file, and each call flushes the drive, though an earlier one may have written everything.
`syncfs` is one wait for all that any process has written to a file system. It is used only while that is little:
another program's checkpoint of many gigabytes must not hold up an answer of two kilobytes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import time
from collections import Counter
from collections.abc import Callable, Collection
from functools import cached_property
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["FileSystems", "Flusher"]

#: File systems that keep what `syncfs` has waited for. Others may do so too; a file server is not asked for it.
_LASTING: Final = frozenset({"ext3", "ext4", "f2fs", "xfs"})

#: From this version of Linux on `syncfs` reports what could not be written.
_REPORTS_ERRORS: Final = (5, 8)

#: Bytes that may wait to be written for each wait that `syncfs` saves, and in addition: what a slow disk writes in
#: about 50 ms, and Linux by itself within seconds.
_BYTES_A_WAIT: Final = 128 * 1024
_BYTES_BESIDES: Final = 4 * 2**20

#: Seconds. After a wait that took longer, the other waits of a batch overlap.
_SLOW_WAIT: Final = 0.002

#: Errors of `fsync` for a directory on file systems whose names are as durable as they get, and of a flush for a pipe
#: or a file that has been closed, and so flushed, meanwhile.
_NOTHING_TO_FLUSH: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EBADF})

_WAITING: Final = re.compile(rb"^(?:Dirty|Writeback): +([0-9]+) kB$", re.MULTILINE)


class FileSystems:
    """What the system says about its file systems. A test passes another.

    `proc` is where it says so, and `release` the version of Linux; without it that of this system.
    """

    def __init__(self, proc: str = "/proc", release: str | None = None) -> None:
        self._proc = proc
        self._release = release
        self._lasting: dict[int, bool] = {}

    def sync(self, descriptor: int, device: int, waits: int) -> bool:
        """Flush the file system on `device`, if that is cheaper than `waits` flushes of single files.

        `descriptor` is open in it. Return whether everything is on the disk. After an error, which may be that of
        another file, each file must be flushed by itself.
        """
        if waits < 2 or not self.is_lasting(device):
            return False
        if self.bytes_to_write() > _BYTES_BESIDES + waits * _BYTES_A_WAIT:
            return False
        return self.syncfs(descriptor)

    def is_lasting(self, device: int) -> bool:
        """Return whether the file system on `device` is one of `_LASTING`; the answer is kept."""
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
        """Return how many bytes, written by any process, are not on a disk yet; infinity if the system doesn't say."""
        try:
            with open(f"{self._proc}/meminfo", "rb", buffering=0) as file:
                found = _WAITING.findall(file.read(16 * 1024))
        except OSError:
            return float("inf")
        return sum(int(size) for size in found) * 1024.0 if len(found) == 2 else float("inf")

    def syncfs(self, descriptor: int) -> bool:
        """Flush the file system that `descriptor` is open in; return False after an error, or if none is reported."""
        call = self._syncfs
        return call is not None and call(descriptor) == 0

    @cached_property
    def _syncfs(self) -> Callable[[int], int] | None:
        """The system call, which Python does not have; None if it does not report errors."""
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
    """Flushes files and directories, which are given as (descriptor, device). Safe to share between threads.

    `waits` is the number of waits that may overlap on a slow disk. `now` measures them, in seconds.
    """

    def __init__(
        self, waits: int = 4, systems: FileSystems | None = None, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._waits = waits
        self._systems = systems or FileSystems()
        self._now = now
        self._pool: ThreadPoolExecutor | None = None

    def flush(self, written: Collection[tuple[int, int]], *, directories: bool = False) -> dict[int, OSError]:
        """Wait until the contents of files, or the names in `directories`, are on the disk.

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
                pending = [item for item, _ in rest[place:]]
                errors = self._overlapping(lambda item: _error_of(call, item), pending)
                failed.update({item: error for item, error in zip(pending, errors, strict=True) if error})
                break
            before = self._now()
            error = _error_of(call, descriptor)
            is_slow = self._now() - before > _SLOW_WAIT
            if error is not None:
                failed[descriptor] = error
        return failed

    def _overlapping(self, call: Callable[[int], OSError | None], descriptors: list[int]) -> list[OSError | None]:
        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - only slow disks need it

            self._pool = ThreadPoolExecutor(self._waits, "benchd-flush")
        return list(self._pool.map(call, descriptors))


def _error_of(call: Callable[[int], None], descriptor: int) -> OSError | None:
    try:
        call(descriptor)
    except OSError as error:
        return None if error.errno in _NOTHING_TO_FLUSH else error
    return None
