"""One daemon for each folder: a lock file names the process that watches the folder.

The daemon holds no kernel lock, because an open descriptor in the folder would keep its file system from being
unmounted, and would hide that the folder was deleted. The file names a process by its pid, its start time, the boot
and the pid namespace. A daemon that finds the file checks whether that process still runs. `flock` orders the daemons
that check at the same moment. The lock is advice: two daemons on one folder write the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from benchd.folder.files import explained, open_directory
from benchd.folder.system import this_system

__all__ = ["LOCK_NAME", "FolderLock", "Occupied"]

LOCK_NAME: Final = ".benchd.lock"
_MAX_BYTES: Final = 4096
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Occupied(Exception):
    """Another benchd watches the folder."""

    def __init__(self, path: str, pid: int) -> None:
        super().__init__(f"{path} is watched by another benchd already (pid {pid})")
        self.pid = pid


class _Holder(msgspec.Struct, frozen=True):
    """The content of a lock file. A part is empty if the system can't say."""

    pid: int
    started: str
    boot: str
    namespace: str
    host: str
    #: The path at which the process watches the folder. A folder that was moved away has no holder.
    path: str = ""


class FolderLock:
    """The claim of this process to one folder."""

    def __init__(self, path: str, *, patience: float = 1.0, flock: Callable[[int, int], None] = fcntl.flock) -> None:
        self._path = path
        #: Seconds to wait for the kernel's lock on the file, which a benchd holds for a moment only.
        self._patience = patience
        self._flock = flock
        self._held: _Holder | None = None
        self._file = (0, 0)

    def acquire(self) -> str | None:
        """Claim the folder, or claim it again if its lock file is gone. Raises `Occupied`.

        Return None, or the reason for using the folder without a lock, for example that it is read-only. Also return
        None if the folder can't be opened, because the watcher notices that.
        """
        try:
            directory = open_directory(self._path)
        except OSError:
            return None
        with _closing(directory):
            try:
                return self._claim(directory)
            except OSError as error:
                return f"can't write {LOCK_NAME}: {explained(error, self._path, 'write into')}"

    def _claim(self, directory: int, *, again: bool = False) -> str | None:
        with _closing(self._open(directory)) as descriptor:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return f"{LOCK_NAME} is not a regular file"
            if not self._wait_for_turn(descriptor):
                return f"{LOCK_NAME} is held by a process that is not benchd"
            info = os.fstat(descriptor)
            if info.st_nlink > 1:  # a link to another file, which must not be written to
                if again:
                    return f"{LOCK_NAME} is a link to another file"
                os.unlink(LOCK_NAME, dir_fd=directory)
            if info.st_nlink != 1 and not again:
                # This process or, while it waited, the holder has removed the name. Try again only once: some file
                # systems do not count links.
                return self._claim(directory, again=True)
            self._check(descriptor, directory)
            claim = _holder(os.path.realpath(self._path))
            if _read(descriptor) != claim:
                _write(descriptor, directory, msgspec.json.encode(claim) + b"\n")
            self._held, self._file = claim, (info.st_dev, info.st_ino)
        return None

    def _open(self, directory: int) -> int:
        """Return the lock file, open for writing. Replace another user's if its process is dead. Raises `Occupied`."""
        try:
            return os.open(LOCK_NAME, _WRITE, 0o666, dir_fd=directory)
        except PermissionError:
            with _closing(os.open(LOCK_NAME, _READ, dir_fd=directory)) as descriptor:
                self._check(descriptor, directory)
            os.unlink(LOCK_NAME, dir_fd=directory)
            return os.open(LOCK_NAME, _WRITE, 0o666, dir_fd=directory)

    def _wait_for_turn(self, descriptor: int) -> bool:
        """Take the kernel's lock; return False if another process keeps it."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                self._flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in {errno.EAGAIN, errno.EACCES}:
                    return True  # the file system has no locks: the content of the file must do
                if time.monotonic() > deadline:
                    return False
                time.sleep(0.01)
            else:
                return True

    def _check(self, descriptor: int, directory: int) -> None:
        """Raise `Occupied` if the lock file names another process that runs and watches this folder."""
        holder, owner = _read(descriptor), os.fstat(descriptor).st_uid
        if holder and holder.pid != os.getpid() and _runs(holder, owner) and _watches(holder, directory):
            raise Occupied(self._path, holder.pid)

    def holds(self) -> bool:
        """Return whether the lock file that this process wrote is still there; True if it wrote none."""
        if self._held is None:
            return True
        try:
            info = os.stat(os.path.join(self._path, LOCK_NAME), follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return (info.st_dev, info.st_ino) == self._file

    def release(self) -> None:
        """Remove the lock file if it is still this process's."""
        held, self._held = self._held, None
        if held is None:
            return
        with (
            contextlib.suppress(OSError),
            _closing(open_directory(self._path)) as directory,
            _closing(os.open(LOCK_NAME, _READ, dir_fd=directory)) as descriptor,
        ):
            if self._wait_for_turn(descriptor) and _read(descriptor) == held:
                os.unlink(LOCK_NAME, dir_fd=directory)


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> _Holder | None:
    """Return the content of a lock file; None if no benchd can have written it."""
    try:
        return msgspec.json.decode(os.pread(descriptor, _MAX_BYTES, 0), type=_Holder)
    except (msgspec.DecodeError, ValueError, RecursionError):  # older releases of msgspec raise no ValueError
        return None


def _write(descriptor: int, directory: int, content: bytes) -> None:
    """Write the content of a lock file. Remove the file if that fails: a full disk must not leave an empty one."""
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content, 0)
    except OSError:
        with contextlib.suppress(OSError):  # the first error gives the reason
            os.unlink(LOCK_NAME, dir_fd=directory)
        raise


def _holder(path: str) -> _Holder:
    system, pid = this_system(), os.getpid()
    return _Holder(pid, _started(pid), system.boot, system.namespace, system.host, path)


def _started(pid: int) -> str:
    """Return when a process started, in ticks since the boot; empty if it is dead or hidden."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            # The command's name may hold spaces and brackets. The other fields follow its last bracket.
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return ""
    return fields[19] if len(fields) > 19 and fields[0] not in {"Z", "X"} else ""


def _runs(holder: _Holder, owner: int) -> bool:
    """Return whether the process that wrote `holder` still runs. The lock file belongs to the user `owner`.

    Trust only values that can be checked. Otherwise a user with write access to the folder could name any process, and
    so prevent benchd from starting.
    """
    system = this_system()
    if (holder.boot, holder.namespace, holder.host) != (system.boot, system.namespace, system.host):
        return False  # of another system, or of another boot of this one
    try:
        os.kill(holder.pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        if owner == os.geteuid():
            return False  # this user's benchd has ended, and another user's process has its number now
    try:
        process_owner = os.stat(f"/proc/{holder.pid}").st_uid
    except OSError:
        return not os.path.exists("/proc/self/stat")  # without /proc the signal must do
    return process_owner == owner and _started(holder.pid) == holder.started


def _watches(holder: _Holder, directory: int) -> bool:
    """Return whether `holder` names the open `directory`, and not one that was moved away from its path."""
    try:
        return not holder.path or os.path.samestat(os.stat(holder.path), os.fstat(directory))
    except (FileNotFoundError, ValueError):  # ValueError: no path holds a NUL
        return False
    except OSError:
        return True
