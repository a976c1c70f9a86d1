"""Many files, one wait: when it is worth it, and what follows if it can't be had."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchd.folder import flushing
from benchd.folder.flushing import flush_together


@pytest.fixture
def descriptor(tmp_path: Path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What `syncfs` is called with, on a file system that keeps what it waits for, with little to write."""
    called: list[int] = []
    monkeypatch.setattr(flushing, "_is_lasting", lambda _: True)
    monkeypatch.setattr(flushing, "_bytes_to_write", lambda: 0.0)
    monkeypatch.setattr(flushing, "syncfs", lambda descriptor: called.append(descriptor) is None)
    return called


def test_one_wait_for_many(descriptor: int, calls: list[int]):
    """What spares more than one wait is done."""
    assert flush_together(descriptor, 1, 2)
    assert calls == [descriptor]


def test_not_for_one(descriptor: int, calls: list[int]):
    """One file is as soon waited for by itself."""
    assert not flush_together(descriptor, 1, 1)
    assert calls == []


def test_not_where_it_may_not_last(descriptor: int, calls: list[int], monkeypatch: pytest.MonkeyPatch):
    """A file system of which nobody has promised that it lasts is flushed file by file."""
    monkeypatch.setattr(flushing, "_is_lasting", lambda _: False)
    assert not flush_together(descriptor, 1, 100)
    assert calls == []


@pytest.mark.parametrize(
    ("mebibytes", "waits", "expected"), [(3, 2, True), (6, 2, False), (6, 32, True), (100, 32, False)]
)
def test_not_for_what_others_wrote(
    descriptor: int, calls: list[int], monkeypatch: pytest.MonkeyPatch, mebibytes: int, waits: int, expected: bool
):
    """What others have written is waited for only if it is little, the more the more waits are spared."""
    monkeypatch.setattr(flushing, "_bytes_to_write", lambda: mebibytes * 2**20)
    assert flush_together(descriptor, 1, waits) is expected
    assert len(calls) == expected


def test_an_error_is_not_success(descriptor: int, calls: list[int], monkeypatch: pytest.MonkeyPatch):
    """If something could not be written, which may be another's, each file must be asked for."""
    monkeypatch.setattr(flushing, "syncfs", lambda _: False)
    assert not flush_together(descriptor, 1, 2)


def test_the_real_call(descriptor: int):
    """The system's own call flushes what a descriptor is open in, and fails for what is none."""
    assert flushing.syncfs(descriptor)
    assert not flushing.syncfs(-1)


@pytest.mark.parametrize(
    ("release", "there"), [("5.7.19-generic", False), ("5.8.0", True), ("6.1.0-37-amd64", True), ("?", False)]
)
def test_only_where_it_tells_of_errors(monkeypatch: pytest.MonkeyPatch, release: str, there: bool):
    """Before Linux 5.8 an error of the disk was not its business."""
    monkeypatch.setattr(flushing.platform, "release", lambda: release)
    flushing._syncfs.cache_clear()
    try:
        assert (flushing._syncfs() is not None) is there
    finally:
        flushing._syncfs.cache_clear()


def test_what_waits_to_be_written(tmp_path: Path):
    """The system says how much that is; what was just written counts."""
    os.sync()
    (tmp_path / "much").write_bytes(b"x" * 2**20)
    assert 0.0 <= flushing._bytes_to_write() < 2**40


def test_what_lasts():
    """The kinds of file systems come from the system's own table; what is not in it does not last."""
    flushing._is_lasting.cache_clear()
    proc, nowhere = os.stat("/proc").st_dev, os.makedev(4000, 4000)
    assert not flushing._is_lasting(proc)
    assert not flushing._is_lasting(nowhere)
    mounts = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    for fields in mounts:
        major, minor = map(int, fields[2].split(":"))
        kinds = {other[other.index("-") + 1] for other in mounts if other[2] == fields[2]}
        assert flushing._is_lasting(os.makedev(major, minor)) is (kinds <= {"ext3", "ext4", "f2fs", "xfs"})


def test_a_system_that_tells_nothing(monkeypatch: pytest.MonkeyPatch):
    """Where /proc is not to be had, everything is flushed by itself."""

    def refuse(*_: object, **__: object) -> int:
        raise FileNotFoundError

    flushing._is_lasting.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(flushing.os, "open", refuse)
        patch.setattr("builtins.open", refuse)
        assert flushing._bytes_to_write() == float("inf")
        assert not flushing._is_lasting(1)
    flushing._is_lasting.cache_clear()
