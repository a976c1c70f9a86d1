"""Apply real limits that make system calls fail: no descriptors, no room in a file, no permissions."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

__all__ = ["no_descriptors", "no_rights", "short_files"]

NOBODY = 65534


@contextlib.contextmanager
def _limited(limit: int, soft: int) -> Iterator[None]:
    before = resource.getrlimit(limit)
    resource.setrlimit(limit, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(limit, before)


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Make every `open` fail with EMFILE."""
    free = os.open("/", os.O_RDONLY)
    os.close(free)
    with _limited(resource.RLIMIT_NOFILE, free):
        yield


@contextlib.contextmanager
def short_files(size: int) -> Iterator[None]:
    """Make every write beyond `size` bytes of a file fail with EFBIG."""
    with _limited(resource.RLIMIT_FSIZE, size):
        yield


@contextlib.contextmanager
def no_rights() -> Iterator[None]:
    """Apply file permissions to this process, even if root runs it."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)
