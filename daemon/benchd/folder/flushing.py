"""Many writes, few waits: how what was written to many files gets to the disk at once.

`fdatasync` waits for one file, and each such wait is a flush of the drive, though an earlier one may have put
everything on it. `syncfs` is one wait for all that was written to a file system, by whomever; so it is used only while
that is not much. Somebody's checkpoint of many gigabytes must not hold up an answer of two kilobytes.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Callable
from functools import cache
from typing import Final

__all__ = ["flush_together"]

#: File systems that keep what `syncfs` has waited for. Others may do so too, but a server need not be asked for it.
_LASTING: Final = frozenset({"ext3", "ext4", "f2fs", "xfs"})

#: From this version of Linux on it says when something could not be written.
_TELLS_OF_ERRORS: Final = (5, 8)

#: So much may wait to be written for each single wait that is spared, and besides: what a slow disk writes in some
#: 50 ms, and Linux by itself within seconds.
_BYTES_A_WAIT: Final = 128 * 1024
_BYTES_BESIDES: Final = 4 * 2**20

_WAITING: Final = re.compile(rb"^(?:Dirty|Writeback): +([0-9]+) kB$", re.MULTILINE)


def flush_together(descriptor: int, device: int, waits: int) -> bool:
    """Have all that was written to a file system on the disk, if that is sooner done than so many single waits.

    `descriptor` is open in the file system on `device`. Returns whether it was done; if not, or if there was an error,
    which may be that of another file, each file must be waited for.
    """
    if waits < 2 or not _is_lasting(device) or _bytes_to_write() > _BYTES_BESIDES + waits * _BYTES_A_WAIT:
        return False
    return syncfs(descriptor)


def syncfs(descriptor: int) -> bool:
    """What the system call of that name does, which Python does not have; whether all went well."""
    call = _syncfs()
    return call is not None and call(descriptor) == 0


@cache
def _syncfs() -> Callable[[int], int] | None:
    version = re.match(r"([0-9]+)\.([0-9]+)", platform.release())
    if version is None or (int(version[1]), int(version[2])) < _TELLS_OF_ERRORS:
        return None
    return getattr(ctypes.CDLL(None), "syncfs", None)


@cache
def _is_lasting(device: int) -> bool:
    """Whether the file system on a device is one of those; what is mounted there later is not asked."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return False
    mounts = (line.partition(" - ") for line in lines)
    kinds = {kind.split(" ")[0] for mount, _, kind in mounts if mount.split(" ")[2:3] == [wanted]}
    return bool(kinds) and kinds <= _LASTING


def _bytes_to_write() -> float:
    """How much of what was written, by anybody, is not on a disk yet; without bound where the system doesn't tell."""
    try:
        with open("/proc/meminfo", "rb", buffering=0) as file:
            found = _WAITING.findall(file.read(16 * 1024))
    except OSError:
        return float("inf")
    return sum(int(size) for size in found) * 1024.0 if len(found) == 2 else float("inf")
