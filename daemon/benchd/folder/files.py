"""Single files in a folder that anybody may write to: by directory descriptor, never through a link.

Everything takes an open directory and a plain name. Reads never block and never follow; writes are whole or
not there at all.
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
    "SHORTAGES",
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

#: A config of a 4488-module audit with 683 layers has 0.4 MB; what is larger than this is not ours.
_MAX_SIDECAR: Final = 64 * 2**20

#: Names of unfinished files of ours: which system, which process; and what nobody can guess, and so be there first.
TEMPORARY: Final = re.compile(r"\.benchd-([0-9a-f]{8})-([0-9]+)-[0-9a-f]+\.tmp")
_SYSTEM: Final = hashlib.sha256("\0".join(this_system()).encode(errors="surrogateescape")).hexdigest()[:8]
_in_use: set[str] = set()

#: After this a temporary file of another system has no writer any more.
_ABANDONED_SECONDS: Final = 3600.0


#: The content and `stat` of a sidecar.
Found = tuple[bytes, os.stat_result]


class Vanished(Exception):
    """The file or its directory is not there any more."""


def open_directory(root: str, relative: str = "") -> int:
    """A descriptor of the directory `relative` below `root`; the caller closes it.

    `root` itself may be a link (its owner configured it); nothing below it may. Raises OSError.
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
#: This process or the system lacks something, which says nothing about the file or folder.
SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

#: Whoever is asked for has the rights of this process, not those of the user who started it.
_AS_OURSELVES: Final = os.access in os.supports_effective_ids


def explained(error: OSError, path: str, access: str) -> str:
    """What the system says of `path`, and for a lack of rights who lacks which, and what to do."""
    reason = error.strerror or str(error)
    who = f"uid {os.geteuid()}, gid {os.getegid()}"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"{reason}: {who} needs to {access} {path}; chown, chgrp or chmod it"
    if error.errno == errno.EROFS:
        return f"{reason}: {path}; for a systemd service add ReadWritePaths={path}, else remount it writable"
    if error.errno == errno.ENOSPC:
        return f"{reason}: {path}; free some"
    return reason


#: There is no such file, or none can have that name.
_ABSENT: Final = frozenset({errno.ENOENT, errno.ENAMETOOLONG})


def seems_there(directory: int, name: str) -> bool:
    """Whether there is something of that name, be it a link to nowhere; no where that can't be told.

    Sooner done than to ask for what is mostly not there, and to be told so by an exception.
    """
    return os.access(name, os.F_OK, dir_fd=directory, effective_ids=_AS_OURSELVES, follow_symlinks=False)


def exists(directory: int, name: str) -> bool:
    """Whether there is anything of that name, be it a link to nowhere. Raises OSError where that can't be told."""
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError as error:
        if error.errno in _ABSENT:
            return False
        raise
    return True


def look(directory: int, name: str) -> os.stat_result:
    """The `stat` of `name` itself, be it a link or not. Raises `Vanished`, OSError."""
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
    """A descriptor of the file `name`, of which `look` said `info`, and its `stat` now; the caller closes it.

    Raises `Vanished`, `AuditError` (symlink, not_a_regular_file, too_large, unreadable), or OSError where the
    process itself lacks something, such as descriptors.
    """
    _check(info, max_bytes)  # before it is opened: opening a device can do things
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
    """The content of `name`, and its `stat` from just before it was read. Raises as `open_regular` does."""
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
    # EAGAIN: somebody holds a lease on it, as Samba does for a client that writes; it is a matter of time.
    if error.errno in SHORTAGES or error.errno == errno.EAGAIN:
        return error
    who = f"uid {os.geteuid()}, gid {os.getegid()}"
    return refusal("unreadable", error=error.strerror or str(error), who=who)


def read_all(descriptor: int, size: int) -> bytes:
    """At most `size` bytes: a file that grows for ever is read once, as long as it was."""
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
    """A sidecar's content and `stat`; None if there is no such file; empty content if it can't be one of ours."""
    try:
        descriptor = os.open(name, _READ, dir_fd=directory)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        if error.errno in SHORTAGES:
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
    """Whether some process has `name` open for writing; None where the system doesn't tell.

    Linux grants a read lease only on a file without writers, and only to the file's owner or CAP_LEASE.
    """
    if not hasattr(fcntl, "F_SETLEASE"):  # pragma: no cover - not Linux
        return None
    try:
        descriptor = os.open(name, _READ, dir_fd=directory)
    except OSError:
        return None
    try:
        # A writer that comes while the lease stands makes the kernel signal us. The default signal, SIGIO, kills;
        # SIGURG is ignored by default.
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
    """A file of ours that nobody is to look at yet. Its descriptor is open as long as it is to be flushed, else -1."""

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

    If `durable` its descriptor stays open, so that it can be flushed. `random` returns bytes for its name. Raises
    OSError.
    """
    name = f".benchd-{_SYSTEM}-{os.getpid()}-{random(8).hex()}.tmp"
    _in_use.add(name)  # before it is there: a scan, on another thread, removes what nobody uses
    try:
        descriptor = os.open(name, _CREATE, 0o666, dir_fd=directory)
    except BaseException:
        _in_use.discard(name)
        raise
    try:
        if group is not None and os.fstat(descriptor).st_gid != group:
            # Only members of the group may give it away; and in a user namespace it may have no number at all.
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
    """Close a temporary file's descriptor. Raises OSError; the temporary file is then gone."""
    _close(directory, temporary)
    return temporary._replace(descriptor=-1)


def _close(directory: int, temporary: Temporary) -> None:
    try:
        os.close(temporary.descriptor)  # a file server may say only now that there is no room
    except OSError:
        discard(directory, temporary._replace(descriptor=-1))  # it is closed all the same
        raise


def publish(directory: int, temporary: Temporary, name: str) -> None:
    """Make a temporary file visible as `name`, at once and whole. Raises OSError; the temporary file is then gone."""
    try:
        os.rename(temporary.name, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        discard(directory, temporary)
        raise
    _in_use.discard(temporary.name)


def discard(directory: int, temporary: Temporary) -> None:
    """Remove a temporary file of ours, if it is there."""
    with contextlib.suppress(OSError):
        if temporary.descriptor >= 0:
            os.close(temporary.descriptor)
    with contextlib.suppress(OSError):
        os.unlink(temporary.name, dir_fd=directory)
    _in_use.discard(temporary.name)


def remove_stale_temporary(directory: int, name: str, now: float) -> bool:
    """Remove `name` if it is what a crashed benchd left behind: of a dead process of this system, or of long ago."""
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
