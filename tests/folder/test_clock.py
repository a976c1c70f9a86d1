"""The clock that dates a folder's files."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchd.folder import clock as module
from benchd.folder.clock import FolderClock


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def ahead(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """This system's clock is `seconds` ahead of what dates the files."""
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + int(seconds * 1e9))


@pytest.mark.parametrize("unnamed", [True, False])
@pytest.mark.parametrize("seconds", [300.0, -300.0, 0.0])
def test_now_is_the_folders(
    directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, unnamed: bool
) -> None:
    """Now is what a new file would be dated, however wrong our own clock is; nothing is left behind."""
    dated = time.time_ns()
    ahead(monkeypatch, seconds)
    if not unnamed:
        monkeypatch.delattr(module.os, "O_TMPFILE")
    clock = FolderClock()
    clock.read(directory)
    assert dated - 10**8 < clock.now_ns() < dated + 10**10
    assert os.listdir(tmp_path) == []


def test_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own clock must do."""
    descriptor = os.open("/proc", os.O_RDONLY)
    try:
        clock = FolderClock()
        clock.read(descriptor)
    finally:
        os.close(descriptor)
    before = time.time_ns()
    assert before <= clock.now_ns() <= time.time_ns()


def test_a_step_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set forward or back, once; not when it only runs."""
    clock = FolderClock()
    assert not clock.was_set()
    assert not clock.was_set()
    ahead(monkeypatch, 300)
    assert clock.was_set()
    assert not clock.was_set()
    ahead(monkeypatch, -600)
    assert clock.was_set()
    assert not clock.was_set()
