"""One daemon a folder: a small file in it that says whose it is, and that is worth nothing once its writer is dead.

Not a kernel lock held for life: an open descriptor in the folder would keep its file system from being unmounted,
and the deletion of the folder from being told. So the file names the process (pid, its start, the boot, the pid
namespace), and whoever comes next looks whether that process still runs; `flock` only orders those who look at
the same moment. It is advice, not protection: two daemons on a folder write the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from typing import Final

import msgspec

from benchd.folder.files import explained, open_directory
from benchd.folder.system import this_system

__all__ = ["LOCK_NAME", "FolderLock", "Occupied"]

LOCK_NAME: Final = ".benchd.lock"
_MAX_BYTES: Final = 4096
_PATIENCE_SECONDS: Final = 1.0


class Occupied(Exception):
    """Another benchd watches the folder."""

    def __init__(self, path: str, pid: int) -> None:
        super().__init__(f"{path} is watched by another benchd already (pid {pid})")
        self.pid = pid


class _Holder(msgspec.Struct, frozen=True):
    pid: int
    started: str
    boot: str
    namespace: str
    host: str
    #: Where it watches the folder: one that was moved away is nobody's.
    path: str = ""


def _holder(pid: int, path: str = "") -> _Holder:
    """The identity of a process of this system; empty parts are what the system doesn't tell."""
    system = this_system()
    return _Holder(pid, _started(pid), system.boot, system.namespace, system.host, path)


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When the process started, in ticks since the boot; empty if it is dead or can't be seen."""
    # The command's name may hold spaces and brackets: what is wanted stands behind the last one.
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] not in {"Z", "X"} else ""


def _runs(holder: _Holder, owner: int) -> bool:
    """Whether the process that wrote `holder`, into a file that belongs to the user `owner`, still runs.

    Only what can be checked counts: who may write into the folder could otherwise name any process, and keep benchd
    from starting.
    """
    me = _holder(os.getpid())
    if (holder.boot, holder.namespace, holder.host) != (me.boot, me.namespace, me.host):
        return False  # another system, or another boot of this one: nothing to be known, nothing to be said
    try:
        os.kill(holder.pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        if owner == os.geteuid():
            return False  # our own user's benchd is gone, and another user has its number now
    try:
        process_owner = os.stat(f"/proc/{holder.pid}").st_uid
    except OSError:
        return not os.path.exists("/proc/self/stat")  # hidden from us; or a system without /proc, where `kill` must do
    return process_owner == owner and _started(holder.pid) == holder.started


class FolderLock:
    """The claim of this process to one folder."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._held: _Holder | None = None
        self._file = (0, 0)

    def acquire(self) -> str | None:
        """Claim the folder; again if its lock file is gone. Raises `Occupied` if a living process has it.

        Returns None, or why the folder is used without a lock (it can't be written, say). A folder that is missing is
        no trouble here: who watches it notices that.
        """
        try:
            directory = open_directory(self._path)
        except OSError:
            return None
        try:
            return self._claim(directory)
        except OSError as error:
            return f"can't write {LOCK_NAME}: {explained(error, self._path, 'write into')}"
        finally:
            os.close(directory)

    def _claim(self, directory: int, *, again: bool = False) -> str | None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(LOCK_NAME, flags, 0o666, dir_fd=directory)
        except PermissionError:
            # Another user's: readable, as a rule. A dead one's goes, if the folder lets us.
            self._look(directory)
            os.unlink(LOCK_NAME, dir_fd=directory)
            descriptor = os.open(LOCK_NAME, flags, 0o666, dir_fd=directory)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return f"{LOCK_NAME} is not a regular file"
            if not _lock(descriptor):
                return f"{LOCK_NAME} is held by a process that is not benchd"
            if os.fstat(descriptor).st_nlink > 1:
                # A link to somebody's file, which must not be written to; the name in the folder is ours to remove.
                if again:
                    return f"{LOCK_NAME} is a link to another file"
                os.unlink(LOCK_NAME, dir_fd=directory)
                return self._claim(directory, again=True)
            if os.fstat(descriptor).st_nlink == 0 and not again:
                # Its holder has given it up while we waited: nobody would see our claim. Once only: a file system may
                # not count links at all.
                return self._claim(directory, again=True)
            me = _holder(os.getpid(), os.path.realpath(self._path))
            present = _read(descriptor)
            info = os.fstat(descriptor)
            ours = present is not None and present.pid == me.pid and _runs(present, info.st_uid)
            if present is not None and not ours and self._is_watched_by(present, info.st_uid, directory):
                raise Occupied(self._path, present.pid)
            if present != me:
                os.ftruncate(descriptor, 0)
                _fill(directory, descriptor, msgspec.json.encode(me) + b"\n")
            self._held, self._file = me, (info.st_dev, info.st_ino)
        finally:
            os.close(descriptor)
        return None

    @staticmethod
    def _is_watched_by(holder: _Holder, owner: int, directory: int) -> bool:
        """Whether that process runs, and watches this folder: not one that took its place after it was moved away."""
        if not _runs(holder, owner):
            return False
        try:
            return not holder.path or os.path.samestat(os.stat(holder.path), os.fstat(directory))
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def holds(self) -> bool:
        """Whether the lock file that this process wrote is still there, as far as there is one."""
        if self._held is None:
            return True
        try:
            info = os.stat(os.path.join(self._path, LOCK_NAME), follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return (info.st_dev, info.st_ino) == self._file

    def _look(self, directory: int) -> None:
        descriptor = os.open(LOCK_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        try:
            present, owner = _read(descriptor), os.fstat(descriptor).st_uid
        finally:
            os.close(descriptor)
        if present is not None and self._is_watched_by(present, owner, directory):
            raise Occupied(self._path, present.pid)

    def release(self) -> None:
        """Give the folder up, if it is still ours."""
        held, self._held = self._held, None
        if held is None:
            return
        with contextlib.suppress(OSError):
            directory = open_directory(self._path)
            try:
                descriptor = os.open(
                    LOCK_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory
                )
                try:
                    if _lock(descriptor) and _read(descriptor) == held:
                        os.unlink(LOCK_NAME, dir_fd=directory)
                finally:
                    os.close(descriptor)
            finally:
                os.close(directory)


def _fill(directory: int, descriptor: int, content: bytes) -> None:
    """Write a claim, or leave none: a full disk must not leave an empty file behind."""
    try:
        os.pwrite(descriptor, content, 0)
    except OSError:
        with contextlib.suppress(OSError):  # what is wrong is said by the first error
            os.unlink(LOCK_NAME, dir_fd=directory)
        raise


def _lock(descriptor: int) -> bool:
    """Wait for our turn to look; who holds it longer than a moment is not benchd."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.EAGAIN, errno.EACCES}:
                return True  # a file system without locks: the file alone must do
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        else:
            return True


def _read(descriptor: int) -> _Holder | None:
    try:
        return msgspec.json.decode(os.pread(descriptor, _MAX_BYTES, 0), type=_Holder)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
