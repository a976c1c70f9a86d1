"""A watched folder: its paths, its clock, and its memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchd.folder.clock import FolderClock
from benchd.folder.folder import Folder, Memory

Make = Callable[..., Folder]


class TestPaths:
    @pytest.mark.parametrize("relative", ["a.json", "sub/a.json"])
    def test_shown(self, make: Make, tmp_path: Path, relative: str) -> None:
        """The shown path of a file is absolute."""
        assert make().shown(relative) == str(tmp_path / relative)

    def test_open(self, make: Make, tmp_path: Path) -> None:
        """The folder itself and each directory below it can be opened."""
        (tmp_path / "sub").mkdir()
        for relative, path in (("", tmp_path), ("sub", tmp_path / "sub")):
            descriptor = make().open(relative)
            assert os.path.samestat(os.fstat(descriptor), path.stat())
            os.close(descriptor)

    def test_holds_no_descriptor(self, make: Make) -> None:
        """A folder keeps no descriptor open, so that it can be unmounted."""
        before = len(os.listdir("/proc/self/fd"))
        folder = make()
        folder.set_clock(check=True)
        assert len(os.listdir("/proc/self/fd")) == before


class TestMemory:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "eval.json"
        path.write_bytes(b"{}")
        return path

    def test_of_one_content(self, directory: int, path: Path) -> None:
        """Content is identified by its path, inode and ctime."""
        memory, info = Memory(), path.stat()
        assert not memory.has(directory, "eval.json", info)
        memory.add("eval.json", info, None)
        assert memory.has(directory, "eval.json", info)
        assert not memory.has(directory, "sub/eval.json", info)
        path.chmod(0o600)
        assert not memory.has(directory, "eval.json", path.stat())

    def test_while_another_file_exists(self, directory: int, path: Path, tmp_path: Path) -> None:
        """Content can be remembered only while a certain file is beside it."""
        memory, info = Memory(), path.stat()
        memory.add("eval.json", info, "other")
        assert not memory.has(directory, "eval.json", info)
        (tmp_path / "other").touch()
        assert memory.has(directory, "eval.json", info)

    def test_bounded(self, directory: int, path: Path) -> None:
        """A full memory is cleared instead of growing."""
        memory, info = Memory(most=2), path.stat()
        known = []
        for name in "abc":
            memory.add(name, info, None)
            known.append([name for name in "abc" if memory.has(directory, name, info)])
        assert known == [["a"], ["a", "b"], ["c"]]

    def test_of_a_folder(self, make: Make, directory: int, path: Path) -> None:
        """A folder uses the memory that it was given."""
        memory = Memory()
        make(memory=memory).remember("eval.json", path.stat())
        assert memory.has(directory, "eval.json", path.stat())


class TestClock:
    def test_before_it_is_set(self, make: Make) -> None:
        """Before the first scan the system's clock is used."""
        before = time.time_ns()
        assert before <= make().now_ns() <= time.time_ns()

    @pytest.mark.parametrize("check", [True, False])
    def test_check(self, make: Make, check: bool) -> None:
        """With `check` the folder's clock corrects a wrong system clock."""
        folder = make(clock=FolderClock(lambda: time.time_ns() + 300 * 10**9))
        folder.set_clock(check=check)
        assert (folder.now_ns() < time.time_ns() + 10**9) is check

    def test_was_set(self, make: Make) -> None:
        """After the system's clock was set, the folder's clock is read again, and the next scan reads every sidecar."""
        ahead = [0]
        folder = make(clock=FolderClock(lambda: time.time_ns() + ahead[0]))
        folder.set_clock(check=False)
        folder.scanned_until_ns = 1
        folder.set_clock(check=False)
        assert (folder.scanned_until_ns, folder.generation) == (1, 0)
        ahead[0] = 300 * 10**9
        folder.set_clock(check=False)
        assert (folder.scanned_until_ns, folder.generation) == (0, 1)
        assert folder.now_ns() < time.time_ns() + 10**9

    def test_missing_folder(self, make: Make, tmp_path: Path) -> None:
        """A missing folder uses the system's clock."""
        folder = make()
        tmp_path.rmdir()
        folder.set_clock(check=True)
        before = time.time_ns()
        assert before <= folder.now_ns() <= time.time_ns()
