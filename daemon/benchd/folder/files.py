"""Read and write single files in a folder that anybody may write to.

Every function takes an open directory and a plain name, and follows no link. Reads never block. A write shows either
the whole file or none.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import signal
import stat
from collections.abc import Callable
from typing import Final, NamedTuple

from benchd.audit.refusals import AuditError, refusal
from benchd.folder.system import this_system

__all__ = [
    "TEMPORARY",
    "Found",
    "Temporary",
    "Vanished",
    "close_temporary",
    "discard",
    "exists",
    "explained",
    "has_writer",
    "is_same",
    "look",
    "open_directory",
    "open_regular",
    "publish",
    "read_all",
    "read_regular",
    "read_sidecar",
    "remove_stale_temporary",
    "seems_there",
    "stat_now",
    "write_temporary",
]

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

#: Bytes. benchd writes no larger sidecars. An audit with 4,488 modules and 683 selected layers has a config of 0.4 MB.
_MAX_SIDECAR: Final = 64 * 2**20

#: Names of benchd's temporary files: system, process, and a random part that nobody can guess and create first.
TEMPORARY: Final = re.compile(r"\.benchd-([0-9a-f]{8})-([0-9]+)-[0-9a-f]+\.tmp")
_SYSTEM: Final = hashlib.sha256("\0".join(this_system()).encode(errors="surrogateescape")).hexdigest()[:8]
_in_use: set[str] = set()

#: Age in seconds from which a temporary file of another system counts as abandoned.
_ABANDONED_SECONDS: Final = 3600.0


#: The content and `stat` of a sidecar.
Found = tuple[bytes, os.stat_result]


class Vanished(Exception):
    """The file or its directory does not exist any more."""


def open_directory(root: str, relative: str = "") -> int:
    """Return a descriptor of the directory `relative` below `root`; the caller closes it.

    `root` may be a link, because the user configured it. Nothing below it may be a link. Raises OSError.
    """
    descriptor = os.open(root, _DIRECTORY)
    for part in relative.split("/") if relative else ():
        try:
            below = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


_KINDS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}

#: Errors that say nothing about a file: this process, or the system, has no more descriptors or memory.
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

#: Check access with the effective user ID where the system supports that.
_AS_OURSELVES: Final = os.access in os.supports_effective_ids


def explained(error: OSError, path: str, access: str) -> str:
    """Return the system's message about `path`, with the missing permission and a fix if there is one."""
    reason = error.strerror or str(error)
    who = f"uid {os.geteuid()}, gid {os.getegid()}"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"{reason}: {who} needs to {access} {path}; chown, chgrp or chmod it"
    if error.errno == errno.EROFS:
        return f"{reason}: {path}; for a systemd service add ReadWritePaths={path}, else remount it writable"
    if error.errno == errno.ENOSPC:
        return f"{reason}: {path}; free some space"
    return reason


#: The file does not exist, or no file can have that name.
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENAMETOOLONG})


def seems_there(directory: int, name: str) -> bool:
    """Return whether `name` exists, which may be a dangling link. Return False if the system can't say.

    This avoids an exception: the file is usually absent.
    """
    return os.access(name, os.F_OK, dir_fd=directory, effective_ids=_AS_OURSELVES, follow_symlinks=False)


def exists(directory: int, name: str) -> bool:
    """Return whether `name` exists, which may be a dangling link. Raises OSError if the system can't say."""
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        if error.errno in _ABSENT:
            return False
        raise
    return True


def look(directory: int, name: str) -> os.stat_result:
    """Return the `stat` of `name`, which may be a link. Raises `Vanished`, OSError."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        raise Vanished from None


def stat_now(directory: int, name: str) -> os.stat_result | None:
    """Return the `stat` of `name`, which may be a link; None if it is absent. Raises OSError."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def is_same(directory: int, name: str, info: os.stat_result) -> bool:
    """Return whether the file `name` has the inode, size and ctime of `info`: it is the file that was read."""
    try:
        now = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (now.st_ino, now.st_size, now.st_ctime_ns) == (info.st_ino, info.st_size, info.st_ctime_ns)


def open_regular(directory: int, name: str, info: os.stat_result, max_bytes: int) -> tuple[int, os.stat_result]:
    """Return a descriptor of the file `name` and its present `stat`; the caller closes the descriptor.

    `info` is the file's `stat` from `look`. Raises `Vanished`, `AuditError` (symlink, not_a_regular_file, too_large,
    unreadable), or OSError if the process lacks a resource, such as descriptors.
    """
    _check(info, max_bytes)  # before opening: opening a device can have side effects
    try:
        descriptor = os.open(name, _READ, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError):
        raise Vanished from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise refusal("symlink") from None
        raise _unreadable(error) from None
    try:
        info = os.fstat(descriptor)
        _check(info, max_bytes)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, info


def read_regular(directory: int, name: str, info: os.stat_result, max_bytes: int) -> tuple[bytes, os.stat_result]:
    """Return the content of `name`, and its `stat` from before the read. Raises the errors of `open_regular`."""
    descriptor, info = open_regular(directory, name, info, max_bytes)
    try:
        return read_all(descriptor, info.st_size), info
    except OSError as error:
        raise _unreadable(error) from None
    finally:
        os.close(descriptor)


def _check(info: os.stat_result, max_bytes: int) -> None:
    kind = stat.S_IFMT(info.st_mode)
    if kind == stat.S_IFLNK:
        raise refusal("symlink")
    if kind != stat.S_IFREG:
        raise refusal("not_a_regular_file", found=_KINDS.get(kind, "a special file"))
    if info.st_size > max_bytes:
        raise refusal("too_large", size=info.st_size, limit=max_bytes)


def _unreadable(error: OSError) -> AuditError | OSError:
    # EAGAIN: another process holds a lease on it, as Samba does for a client that writes. A retry will succeed.
    if error.errno in EXHAUSTED or error.errno == errno.EAGAIN:
        return error
    who = f"uid {os.geteuid()}, gid {os.getegid()}"
    return refusal("unreadable", error=error.strerror or str(error), who=who)


def read_all(descriptor: int, size: int) -> bytes:
    """Return at most `size` bytes, so that a file that keeps growing is read only once."""
    content = os.read(descriptor, size) if size else b""
    if len(content) == size:
        return content
    parts = [content]
    left = size - len(content)
    while left > 0 and parts[-1]:
        parts.append(os.read(descriptor, left))
        left -= len(parts[-1])
    return b"".join(parts)


def read_sidecar(directory: int, name: str) -> Found | None:
    """Return a sidecar's content and `stat`; None if it is absent. Content that can't be benchd's is empty."""
    try:
        descriptor = os.open(name, _READ, dir_fd=directory)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        if error.errno in EXHAUSTED:
            raise
        try:
            return b"", os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode) or info.st_size > _MAX_SIDECAR:
            return b"", info
        return read_all(descriptor, info.st_size), info
    finally:
        os.close(descriptor)


def has_writer(directory: int, name: str) -> bool | None:
    """Return whether a process has `name` open for writing; None if the system can't say.

    Linux grants a read lease only on a file without writers, and only to the file's owner or with CAP_LEASE.
    """
    if not hasattr(fcntl, "F_SETLEASE"):  # pragma: no cover - not Linux
        return None
    try:
        descriptor = os.open(name, _READ, dir_fd=directory)
    except OSError:
        return None
    try:
        # If a writer comes while the lease is held, the kernel sends a signal. The default signal, SIGIO, ends the
        # process. The default action for SIGURG is to ignore it.
        fcntl.fcntl(descriptor, 10, signal.SIGURG)  # F_SETSIG has no name in Python
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    else:
        return False
    finally:
        os.close(descriptor)


class Temporary(NamedTuple):
    """A file that is not visible as a sidecar yet. The descriptor is open if it must be flushed, else -1."""

    name: str
    descriptor: int = -1


def write_temporary(
    directory: int,
    content: bytes,
    *,
    durable: bool,
    group: int | None = None,
    random: Callable[[int], bytes] = os.urandom,
) -> Temporary:
    """Write `content` to a new temporary file of `group`, so that all users of the folder can read the answer.

    If `durable`, leave its descriptor open for flushing. `random` returns bytes for the name. Raises OSError.
    """
    name = f".benchd-{_SYSTEM}-{os.getpid()}-{random(8).hex()}.tmp"
    _in_use.add(name)  # before the file exists: a scan on another thread removes unused temporary files
    try:
        descriptor = os.open(name, _CREATE, 0o666, dir_fd=directory)
    except BaseException:
        _in_use.discard(name)
        raise
    try:
        if group is not None and os.fstat(descriptor).st_gid != group:
            # Only members of the group may change it to that group. In a user namespace the group may have no number.
            with contextlib.suppress(OSError):
                os.fchown(descriptor, -1, group)
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        if durable:
            return Temporary(name, descriptor)
    except BaseException:
        discard(directory, Temporary(name, descriptor))
        raise
    _close(directory, Temporary(name, descriptor))
    return Temporary(name)


def close_temporary(directory: int, temporary: Temporary) -> Temporary:
    """Close a temporary file's descriptor. Raises OSError after removing the file."""
    _close(directory, temporary)
    return temporary._replace(descriptor=-1)


def _close(directory: int, temporary: Temporary) -> None:
    try:
        os.close(temporary.descriptor)  # a file server may report a full disk only here
    except OSError:
        discard(directory, temporary._replace(descriptor=-1))  # the descriptor is closed even after an error
        raise


def publish(directory: int, temporary: Temporary, name: str) -> None:
    """Rename a temporary file to `name`, which is atomic. Raises OSError after removing the temporary file."""
    try:
        os.rename(temporary.name, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        discard(directory, temporary)
        raise
    _in_use.discard(temporary.name)


def discard(directory: int, temporary: Temporary) -> None:
    """Remove a temporary file, if it exists."""
    with contextlib.suppress(OSError):
        if temporary.descriptor >= 0:
            os.close(temporary.descriptor)
    with contextlib.suppress(OSError):
        os.unlink(temporary.name, dir_fd=directory)
    _in_use.discard(temporary.name)


def remove_stale_temporary(directory: int, name: str, now: float) -> bool:
    """Remove `name` if a crashed benchd left it: its process on this system is dead, or the file is old enough.

    `now` is in seconds since the epoch. Return whether the file was removed.
    """
    match = TEMPORARY.fullmatch(name)
    if match is None or name in _in_use:
        return False
    try:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not stat.S_ISREG(info.st_mode):
            return False
        ours = match[1] == _SYSTEM and (int(match[2]) == os.getpid() or not _alive(int(match[2])))
        if not ours and now - info.st_mtime < _ABANDONED_SECONDS:
            return False
        os.unlink(name, dir_fd=directory)
    except OSError:
        return False
    return True


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
