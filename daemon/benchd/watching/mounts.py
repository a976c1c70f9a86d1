"""Find out whether a folder is on a network file system."""

from __future__ import annotations

import os
import re
import sys

__all__ = ["is_remote"]

#: File systems on which other hosts can write without events in this kernel.
_REMOTE = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|9p|virtiofs|ceph|glusterfs|lustre|afs|gpfs|beegfs|ocfs2|gfs2|vboxsf|vmhgfs|prl_fs"
    r"|fuse\.(?!fuseblk|ntfs-3g|lxcfs).*"
)
_ESCAPE = re.compile(r"\\([0-7]{3})")


def is_remote(path: str, *, mountinfo: str = "/proc/self/mountinfo") -> bool:
    """Return whether `path` is on a network file system, where inotify sees only the writes of this host."""
    if not sys.platform.startswith("linux"):  # pragma: no cover - not Linux
        return False
    real = os.path.realpath(path)
    best, kind = "", ""
    try:
        with open(mountinfo, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return False
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) < 5 or not right:
            continue
        point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4])
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, right.split(" ")[0]
    return _REMOTE.fullmatch(kind) is not None
