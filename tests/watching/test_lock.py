"""The lock of a watched folder."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchd.watching.lock import LOCK_NAME, FolderLock, Occupied
from daemon import until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs the rights to act as another user")

NOBODY = 65534


@contextmanager
def other_process(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that holds the folder until it is killed or the block ends."""
    command = [sys.executable, str(Path(__file__).with_name("hold_folder.py")), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Give up the rights of root inside the block, if this process has them."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """Return a folder that every user can reach and write into, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="benchd-test-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def living(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Return the content of the lock file of another living process of this user, without its folder."""
    folder = tmp_path_factory.mktemp("living")
    with other_process(folder):
        yield {**written(folder), "path": ""}


def written(path: Path) -> dict[str, Any]:
    """Return the content of the lock file in a folder."""
    content = json.loads((path / LOCK_NAME).read_bytes())
    assert isinstance(content, dict)
    return content


def write(path: Path, holder: dict[str, Any]) -> None:
    """Write a lock file into a folder."""
    (path / LOCK_NAME).write_text(json.dumps(holder))


def init(living: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a lock file of process 1."""
    started = Path("/proc/1/stat").read_text().rpartition(")")[2].split()[19]
    return {**living, "pid": 1, "started": started}


def test_claims_and_gives_up(tmp_path: Path) -> None:
    """The lock file names this process while it holds the folder, and is removed afterwards."""
    lock = FolderLock(str(tmp_path))
    assert lock.acquire() is None
    assert written(tmp_path)["pid"] == os.getpid()
    assert lock.acquire() is None, "a second claim of the same process succeeds"
    lock.release()
    assert os.listdir(tmp_path) == []
    lock.release()


def test_holds(tmp_path: Path) -> None:
    """A lock holds until somebody removes or replaces its file."""
    lock = FolderLock(str(tmp_path))
    assert lock.holds(), "nothing was claimed, so nothing is lost"
    lock.acquire()
    assert lock.holds()
    (tmp_path / "other").touch()
    (tmp_path / "other").rename(tmp_path / LOCK_NAME)
    assert not lock.holds()
    (tmp_path / LOCK_NAME).unlink()
    assert not lock.holds()


def test_holds_what_cannot_be_looked_at(tmp_path: Path) -> None:
    """A folder that can't be entered for a while does not lose its lock."""
    folder = tmp_path / "in"
    folder.mkdir()
    lock = FolderLock(str(folder))
    lock.acquire()
    folder.rename(tmp_path / "away")
    folder.symlink_to(folder)
    assert lock.holds()
    folder.unlink()
    assert not lock.holds()


def test_holds_nothing_open(tmp_path: Path) -> None:
    """No descriptor stays open in the folder, so that it can be unmounted and deleted."""
    before = len(os.listdir("/proc/self/fd"))
    FolderLock(str(tmp_path)).acquire()
    assert len(os.listdir("/proc/self/fd")) == before


def test_another_process_has_it(tmp_path: Path) -> None:
    """A living process keeps the folder and is named, and a dead process does not keep it."""
    lock = FolderLock(str(tmp_path))
    with other_process(tmp_path) as process:
        with pytest.raises(Occupied, match=f"pid {process.pid}") as caught:
            lock.acquire()
        assert caught.value.pid == process.pid
        lock.release()
        assert written(tmp_path)["pid"] == process.pid, "only the holder gives up"
    assert lock.acquire() is None
    assert written(tmp_path)["pid"] == os.getpid()


@pytest.mark.parametrize("folder", ["missing", "another"])
def test_a_folder_that_was_moved_away(tmp_path: Path, living: dict[str, Any], folder: str) -> None:
    """A living process that now watches another folder does not keep this one."""
    write(tmp_path, living)
    with pytest.raises(Occupied):
        FolderLock(str(tmp_path)).acquire()
    (tmp_path / "another").mkdir()
    write(tmp_path, {**living, "path": str(tmp_path / folder)})
    assert FolderLock(str(tmp_path)).acquire() is None


def test_a_folder_that_cannot_be_told(tmp_path: Path, living: dict[str, Any]) -> None:
    """If the system does not say which folder a living process watches, it may be this one."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    write(tmp_path, {**living, "path": str(loop)})
    with pytest.raises(Occupied):
        FolderLock(str(tmp_path)).acquire()


@pytest.mark.parametrize(
    "changes",
    [
        {"boot": "another"},
        {"namespace": "pid:[1]"},
        {"host": "another"},
        {"pid": 10**12},
        {"pid": 2**31 - 1},
        {"pid": 0},
        {"started": "1"},
        {"path": "a\0b"},
    ],
    ids=str,
)
def test_file_without_effect(tmp_path: Path, living: dict[str, Any], changes: dict[str, object]) -> None:
    """A lock file of another boot, of a container, or of a process that can't have written it has no effect."""
    write(tmp_path, {**living, **changes})
    assert FolderLock(str(tmp_path)).acquire() is None


_ODD = st.one_of(st.integers(), st.integers(-5, 5), st.text(), st.floats(), st.none(), st.lists(st.none()))


@given(
    content=st.one_of(
        st.binary(),
        st.fixed_dictionaries({}, optional=dict.fromkeys(("pid", "started", "boot", "path", "x"), _ODD)),
        st.integers(0, 4090).map(lambda depth: b'{"x":' + b"[" * depth),
        st.integers(0, 4090).map(lambda digits: b'{"pid":' + b"9" * digits),
    )
)
def test_hostile_content(living: dict[str, Any], content: bytes | dict[str, object]) -> None:
    """With any content of the lock file, the folder is either claimed or occupied."""
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(content, dict):
            content = json.dumps({**living, **content}).encode()
        (Path(folder) / LOCK_NAME).write_bytes(content)
        with suppress(Occupied):
            assert FolderLock(folder).acquire() is None


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"pid": "x"}', b'{"x":' + b"[" * 4000])
def test_broken_file(tmp_path: Path, content: bytes) -> None:
    """A lock file that no benchd can have written is replaced."""
    (tmp_path / LOCK_NAME).write_bytes(content)
    assert FolderLock(str(tmp_path)).acquire() is None
    assert written(tmp_path)["pid"] == os.getpid()


def test_missing_folder(tmp_path: Path) -> None:
    """A missing folder can be claimed and released without an error."""
    lock = FolderLock(str(tmp_path / "missing"))
    assert lock.acquire() is None
    (tmp_path / "missing").mkdir()
    lock.acquire()
    (tmp_path / "missing" / LOCK_NAME).unlink()
    (tmp_path / "missing").rmdir()
    lock.release()


def test_place_is_taken(tmp_path: Path) -> None:
    """A lock file that is not a regular file is left alone, and the reason for having no lock is returned."""
    place = tmp_path / LOCK_NAME
    place.mkdir()
    assert FolderLock(str(tmp_path)).acquire() == f"can't write {LOCK_NAME}: Is a directory"
    place.rmdir()
    place.symlink_to("elsewhere")
    assert "can't write" in str(FolderLock(str(tmp_path)).acquire())
    assert os.listdir(tmp_path) == [LOCK_NAME]
    place.unlink()
    os.mkfifo(place)
    assert FolderLock(str(tmp_path)).acquire() == f"{LOCK_NAME} is not a regular file"


def test_held_by_something_else(tmp_path: Path) -> None:
    """If another program keeps the kernel's lock, the folder is used without a lock."""
    with (tmp_path / LOCK_NAME).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        reason = FolderLock(str(tmp_path), patience=0.02).acquire()
    assert reason == f"{LOCK_NAME} is held by a process that is not benchd"


def test_no_locks_here(tmp_path: Path) -> None:
    """On a file system without locks the content of the file decides."""

    def flock(_descriptor: int, _operation: int) -> None:
        raise OSError(38, "Function not implemented")

    assert FolderLock(str(tmp_path), flock=flock).acquire() is None
    assert written(tmp_path)["pid"] == os.getpid()


def test_file_deleted_while_waiting(tmp_path: Path) -> None:
    """If the file is deleted while a process waits for it, the process claims the folder with a visible new file."""
    place = tmp_path / LOCK_NAME
    tried = threading.Event()

    def flock(descriptor: int, operation: int) -> None:
        tried.set()
        fcntl.flock(descriptor, operation)

    results: list[str | None] = []
    with place.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        lock = FolderLock(str(tmp_path), flock=flock, patience=60)
        thread = threading.Thread(target=lambda: results.append(lock.acquire()))
        thread.start()
        until(tried.is_set)
        place.unlink()
    thread.join(60)
    assert results == [None]
    assert written(tmp_path)["pid"] == os.getpid()


def test_a_lock_that_is_a_link_to_a_file(tmp_path: Path) -> None:
    """A hard link at the lock's path is removed, and the linked file is not written to."""
    folder, victim = tmp_path / "in", tmp_path / "victim"
    folder.mkdir()
    victim.write_bytes(b"theirs")
    os.link(victim, folder / LOCK_NAME)
    lock = FolderLock(str(folder))
    assert lock.acquire() is None
    assert victim.read_bytes() == b"theirs"
    assert lock.holds()
    lock.release()
    assert os.listdir(folder) == []


def test_a_lock_that_is_linked_again(tmp_path: Path) -> None:
    """If each new lock file is linked elsewhere at once, the folder is used without a lock, and the reason returned."""
    folder = tmp_path / "in"
    folder.mkdir()
    links = (tmp_path / f"link{number}" for number in range(9))

    def flock(_: int, __: int) -> None:
        os.link(folder / LOCK_NAME, next(links))

    assert FolderLock(str(folder), flock=flock).acquire() == f"{LOCK_NAME} is a link to another file"
    assert [path.read_bytes() for path in tmp_path.glob("link*")] == [b"", b""]


@root_only
def test_file_of_another_user(shared: Path) -> None:
    """If the file can't be written, its living owner keeps the folder, and a dead owner's file is replaced."""
    with other_process(shared) as process:
        (shared / LOCK_NAME).chmod(0o644)
        with as_ordinary_user(), pytest.raises(Occupied, match=str(process.pid)):
            FolderLock(str(shared)).acquire()
    with as_ordinary_user():
        assert FolderLock(str(shared)).acquire() is None
    assert written(shared)["pid"] == os.getpid()
    assert (shared / LOCK_NAME).stat().st_uid == NOBODY


@root_only
def test_nobody_can_keep_benchd_out(tmp_path: Path, living: dict[str, Any]) -> None:
    """A lock file that names a living process of another user has no effect, because anybody could have written it."""
    write(tmp_path, living)
    os.chown(tmp_path / LOCK_NAME, NOBODY, NOBODY)
    assert FolderLock(str(tmp_path)).acquire() is None


def test_a_pid_that_another_user_has_now(shared: Path, living: dict[str, Any]) -> None:
    """A lock file of this user has no effect if another user's process has its pid."""
    with as_ordinary_user():
        write(shared, init(living))
        assert FolderLock(str(shared)).acquire() is None
