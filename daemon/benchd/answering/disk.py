"""Define the disk operations of answering. Tests can pass a disk that fails."""

from __future__ import annotations

import os

from benchd.folder import files

__all__ = ["Disk"]


class Disk:
    """The real disk. Each method takes an open directory and a plain name, as in `benchd.folder.files`."""

    stat_now = staticmethod(files.stat_now)
    is_same = staticmethod(files.is_same)
    open = staticmethod(files.open_regular)
    read = staticmethod(files.read_regular)
    read_sidecar = staticmethod(files.read_sidecar)
    has_writer = staticmethod(files.has_writer)
    write = staticmethod(files.write_temporary)
    close = staticmethod(files.close_temporary)
    discard = staticmethod(files.discard)
    publish = staticmethod(files.publish)

    @staticmethod
    def remove(directory: int, name: str) -> None:
        """Remove the file `name`. Raises OSError."""
        os.unlink(name, dir_fd=directory)

    @staticmethod
    def touch(directory: int, name: str) -> None:
        """Set the mtime of `name` to the present time. Raises OSError."""
        os.utime(name, dir_fd=directory, follow_symlinks=False)

    @staticmethod
    def make_old(directory: int, name: str) -> None:
        """Set the mtime of `name` to the epoch, so that it proves nothing. Raises OSError."""
        os.utime(name, ns=(0, 0), dir_fd=directory, follow_symlinks=False)
