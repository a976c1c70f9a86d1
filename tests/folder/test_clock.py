"""The clock that dates a folder's files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchd.folder.clock import FolderClock


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


class SystemClock:
    """A clock of this system that can be set."""

    def __init__(self, ahead: float = 0.0) -> None:
        self.ahead = ahead

    def now_ns(self) -> int:
        return time.time_ns() + int(self.ahead * 1e9)


@pytest.mark.parametrize("unnamed", [True, False])
@pytest.mark.parametrize("seconds", [300.0, -300.0, 0.0])
def test_now_is_the_folders(
    directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, unnamed: bool
) -> None:
    """`now_ns` is the date that a new file would get, even if the system's clock is wrong, and leaves no file."""
    if not unnamed:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)  # a system that does not support files without names
    clock = FolderClock(SystemClock(seconds).now_ns)
    clock.read(directory)
    dated = time.time_ns()
    assert dated - 10**9 < clock.now_ns() < dated + 10**11
    assert os.listdir(tmp_path) == []


def test_where_nothing_can_be_written() -> None:
    """The system's clock is used if no file can be created."""
    descriptor = os.open("/proc", os.O_RDONLY)
    try:
        clock = FolderClock()
        clock.read(descriptor)
    finally:
        os.close(descriptor)
    before = time.time_ns()
    assert before <= clock.now_ns() <= time.time_ns()


def test_a_step_is_noticed() -> None:
    """A clock that is set forward or back is noticed once, and a clock that runs on is not."""
    system = SystemClock()
    clock = FolderClock(system.now_ns)
    assert not clock.was_set()
    assert not clock.was_set()
    for ahead in (300.0, -300.0):
        system.ahead = ahead
        assert clock.was_set()
        assert not clock.was_set()
