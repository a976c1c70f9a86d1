"""One daemon a folder."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from benchd.watching import lock as module
from benchd.watching.lock import LOCK_NAME, FolderLock, Occupied
from daemon import until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")

HOLD = """
import sys
from benchd.watching.lock import FolderLock
FolderLock(sys.argv[1]).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def other_process(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the folder until it is killed or left."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def written(path: Path) -> module._Holder:
    return msgspec.json.decode((path / LOCK_NAME).read_bytes(), type=module._Holder)


def write(path: Path, **changes: object) -> None:
    """A lock file as this process would write it, with changes."""
    holder = msgspec.structs.asdict(module._holder(os.getpid()))
    (path / LOCK_NAME).write_bytes(msgspec.json.encode({**holder, **changes}))


def test_claims_and_gives_up(tmp_path: Path):
    """The file names this process while the folder is claimed, and is gone afterwards."""
    lock = FolderLock(str(tmp_path))
    assert lock.acquire() is None
    assert written(tmp_path).pid == os.getpid()
    assert lock.acquire() is None, "again is no trouble"
    lock.release()
    assert os.listdir(tmp_path) == []
    lock.release()


def test_holds_nothing_open(tmp_path: Path):
    """No descriptor stays open in the folder, so that it can be unmounted and deleted."""
    before = len(os.listdir("/proc/self/fd"))
    FolderLock(str(tmp_path)).acquire()
    assert len(os.listdir("/proc/self/fd")) == before


def test_another_process_has_it(tmp_path: Path):
    """A living process keeps the folder, and is named; a dead one doesn't."""
    lock = FolderLock(str(tmp_path))
    with other_process(tmp_path) as process:
        with pytest.raises(Occupied, match=f"pid {process.pid}") as caught:
            lock.acquire()
        assert caught.value.pid == process.pid
        lock.release()
        assert written(tmp_path).pid == process.pid, "only the holder gives up"
    assert lock.acquire() is None
    assert written(tmp_path).pid == os.getpid()


@pytest.mark.parametrize(
    "changes",
    [
        {"boot": "another"},
        {"namespace": "pid:[1]"},
        {"host": "another"},
        {"pid": 10**12},
        {"started": "1"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_worthless(tmp_path: Path, changes: dict[str, object]):
    """A file of another boot, container, host or of a pid that is used again by now keeps nobody out."""
    write(tmp_path, **{"pid": 1, "started": module._started(1), **changes})
    assert FolderLock(str(tmp_path)).acquire() is None


def test_of_another_user(tmp_path: Path):
    """A process that can't be signalled lives all the same."""
    write(tmp_path, pid=1, started=module._started(1))
    with pytest.raises(Occupied):
        FolderLock(str(tmp_path)).acquire()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"pid": "x"}'])
def test_broken_file(tmp_path: Path, content: bytes):
    """A file that says nothing is replaced."""
    (tmp_path / LOCK_NAME).write_bytes(content)
    assert FolderLock(str(tmp_path)).acquire() is None
    assert written(tmp_path).pid == os.getpid()


def test_missing_folder(tmp_path: Path):
    """A folder that is not there is no trouble here, neither to claim nor to give up."""
    lock = FolderLock(str(tmp_path / "missing"))
    assert lock.acquire() is None
    (tmp_path / "missing").mkdir()
    lock.acquire()
    (tmp_path / "missing" / LOCK_NAME).unlink()
    (tmp_path / "missing").rmdir()
    lock.release()


def test_place_is_taken(tmp_path: Path):
    """What is no regular file there is left alone; the folder is used without a lock, and the reason told."""
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


def test_held_by_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Who sits on the kernel's lock is not benchd, and is not waited for."""
    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.02)
    with (tmp_path / LOCK_NAME).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert FolderLock(str(tmp_path)).acquire() == f"{LOCK_NAME} is held by a process that is not benchd"


def test_file_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another user's file that can't be written is read: a living owner keeps the folder, a dead one's file goes."""
    real = os.open

    def refuse(path: object, flags: int, *arguments: object, **options: object) -> int:
        if path == LOCK_NAME and flags & os.O_RDWR and (tmp_path / LOCK_NAME).exists():
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *arguments, **options)  # type: ignore[arg-type]

    with other_process(tmp_path) as process:
        monkeypatch.setattr(module.os, "open", refuse)
        with pytest.raises(Occupied, match=str(process.pid)):
            FolderLock(str(tmp_path)).acquire()
    assert FolderLock(str(tmp_path)).acquire() is None
    assert written(tmp_path).pid == os.getpid()


def test_no_locks_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """On a file system without locks the file alone must do."""

    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    assert FolderLock(str(tmp_path)).acquire() is None
    assert written(tmp_path).pid == os.getpid()


def test_file_deleted_while_waiting(tmp_path: Path):
    """Who waits for a file that its owner deletes claims the folder by a new one, where all can see it."""
    place = tmp_path / LOCK_NAME
    with place.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        results: list[str | None] = []
        thread = threading.Thread(target=lambda: results.append(FolderLock(str(tmp_path)).acquire()))
        thread.start()
        _until_opened(place)
        place.unlink()
    thread.join(5)
    assert results == [None]
    assert written(tmp_path).pid == os.getpid()


def _until_opened(place: Path) -> None:
    """Wait until the file is open twice in this process."""
    until(lambda: sum(_target(name) == str(place) for name in os.listdir("/proc/self/fd")) >= 2)


def _target(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        return ""


def test_system_that_tells_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Where the system doesn't tell, the parts of the identity are empty."""

    def refuse(_: str) -> str:
        raise OSError

    monkeypatch.setattr(module.os, "readlink", refuse)
    assert module.this_system().namespace == ""
    assert module._text(str(tmp_path / "missing")) == ""


def test_nobody_can_keep_benchd_out(tmp_path: Path):
    """A lock file of one user that names a living process of another says nothing: anybody could have written it."""
    if os.geteuid() != 0:
        pytest.skip("needs another user")
    init = msgspec.structs.asdict(module._holder(1))
    (tmp_path / LOCK_NAME).write_bytes(msgspec.json.encode(init))
    os.chown(tmp_path / LOCK_NAME, 65534, 65534)
    assert FolderLock(str(tmp_path)).acquire() is None


def test_a_number_that_another_user_has_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A process that our own user's lock names and that we may not signal is not the one that wrote it."""

    def refuse(*_: int) -> None:
        raise PermissionError

    write(tmp_path, pid=os.getppid(), started=module._started(os.getppid()))
    monkeypatch.setattr(os, "kill", refuse)
    assert FolderLock(str(tmp_path)).acquire() is None


def test_a_lock_that_is_a_link_to_a_file(tmp_path: Path) -> None:
    """A hard link in the lock's place is removed, and what it links to is not written to."""
    folder, victim = tmp_path / "in", tmp_path / "victim"
    folder.mkdir()
    victim.write_bytes(b"theirs")
    os.link(victim, folder / ".benchd.lock")
    lock = FolderLock(str(folder))
    assert lock.acquire() is None
    assert victim.read_bytes() == b"theirs"
    assert lock.holds()
    lock.release()
    assert os.listdir(folder) == []
