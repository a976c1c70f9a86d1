"""Open one directory of a watched folder, and find an audit in it with the files beside it."""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from benchd.audit.adapter import AdapterConfig
from benchd.folder.adapter_beside import adapter_beside
from benchd.folder.files import Vanished, look, read_sidecar, seems_there
from benchd.folder.folder import Folder
from benchd.folder.names import config_name, error_name
from benchd.folder.standing import Beside

__all__ = ["Entry", "Place"]


class Entry(NamedTuple):
    """An audit as it was found: its name, the names of its sidecars, its `stat`, and the files beside it."""

    name: str
    config: str
    report: str
    info: os.stat_result
    beside: Beside


class Place:
    """One open directory."""

    __slots__ = ("adapter", "claimed", "descriptor", "device", "group", "shown")

    def __init__(self, descriptor: int, info: os.stat_result, adapter: AdapterConfig | None, shown: str) -> None:
        self.descriptor = descriptor
        self.device = info.st_dev
        #: The group for new files, so that all users of the folder can read them; None if they get it anyway.
        self.group = None if info.st_gid == os.getegid() else info.st_gid
        #: The content of the directory's `adapter_config.json`; None if it is absent.
        self.adapter = adapter
        #: The path for people and records, with a slash at the end.
        self.shown = shown
        #: Names of configs that are written but not visible yet.
        self.claimed: set[str] = set()

    @classmethod
    def open(cls, folder: Folder, below: str) -> Place:
        """Open the directory `below` a folder; the caller closes its descriptor. Raises `Vanished`, OSError."""
        try:
            descriptor = folder.open(below)
        except (FileNotFoundError, NotADirectoryError):
            raise Vanished from None
        except OSError as error:
            if error.errno == errno.ELOOP:  # a folder on the path was replaced by a link
                raise Vanished from None
            raise
        try:
            shown = os.path.join(folder.path, below, "")
            return cls(descriptor, os.fstat(descriptor), adapter_beside(descriptor), shown)
        except BaseException:
            os.close(descriptor)
            raise

    def find(self, name: str) -> Entry:
        """Return the audit `name`. Raises `Vanished`, OSError."""
        directory, config, report = self.descriptor, config_name(name), error_name(name)
        info = look(directory, name)
        # Usually both sidecars are absent. `seems_there` is cheap but may be wrong, so publishing checks again.
        beside = Beside(
            read_sidecar(directory, config) if seems_there(directory, config) else None,
            read_sidecar(directory, report) if seems_there(directory, report) else None,
            self.adapter,
        )
        return Entry(name, config, report, info, beside)
