"""Represent a watched folder: its settings, names and clock, and which of its audits are answered.

The folder itself is the only state. An audit is answered if its sidecar belongs to its present content: it has the same
size, and it changed clearly before the sidecar was written. In doubt the hash decides (docs/spec.md, section 1).
"""

from __future__ import annotations

import contextlib
import os

from benchd.bench.seal import Provenance
from benchd.bench.standing import SidecarCheck
from benchd.folder.clock import FolderClock
from benchd.folder.files import exists, open_directory
from benchd.folder.names import Names
from benchd.folder.standing import Beside, Standing, standing
from benchd.settings.keys import FolderSettings

__all__ = ["Folder", "Memory"]


class Memory:
    """Remembers contents that need no sidecar: other JSON, and audits whose config a person has edited.

    It is a cache, so that rescans do not read these files again. It may be lost at any time.
    """

    def __init__(self, most: int = 50_000) -> None:
        self._most = most
        self._known: dict[tuple[str, int, int], str | None] = {}

    def add(self, relative: str, info: os.stat_result, beside: str | None) -> None:
        """Remember this content. With `beside`, it counts only while the directory has a file of that name."""
        if len(self._known) >= self._most:
            self._known.clear()
        self._known[relative, info.st_ino, info.st_ctime_ns] = beside

    def has(self, directory: int, relative: str, info: os.stat_result) -> bool:
        """Return whether this content needs no sidecar. `directory` is the open directory of the file."""
        key = (relative, info.st_ino, info.st_ctime_ns)
        if key not in self._known:
            return False
        beside = self._known[key]
        return beside is None or exists(directory, beside)


class Folder:
    """One watched folder. It keeps no descriptor open, so the folder can be unmounted, moved and deleted."""

    def __init__(
        self,
        settings: FolderSettings,
        *,
        max_bytes: int,
        nested: frozenset[str] = frozenset(),
        memory: Memory | None = None,
        clock: FolderClock | None = None,
    ) -> None:
        self.settings = settings
        self.path = settings.path
        self.max_bytes = max_bytes
        self.names = Names(settings, nested)
        self.memory = memory or Memory()
        self._check = SidecarCheck(settings.selection, settings.bench, max_bytes=max_bytes)
        self._clock = clock or FolderClock()
        #: Nanoseconds by the folder's clock. The last complete scan has handled all changes before this time.
        self.scanned_until_ns = 0
        #: Number of calls of `forget_scans`. A scan that was running during a call does not count as complete.
        self.generation = 0
        #: The directories in which the last scan found an adapter_config.json.
        self.adapters: set[str] = set()

    def shown(self, relative: str) -> str:
        """Return the path of a file for people and records."""
        return os.path.join(self.path, relative)

    def open(self, relative: str = "") -> int:
        """Return a descriptor of the directory `relative`; the caller closes it. Raises OSError."""
        return open_directory(self.path, relative)

    def standing(self, name: str, info: os.stat_result, beside: Beside) -> tuple[Standing, Provenance | None]:
        """Return the standing of the audit `name` with the `stat` `info`, and the provenance that proves it."""
        return standing(self._check, name, info, beside, now_ns=self.now_ns())

    def remember(self, relative: str, info: os.stat_result, *, beside: str | None = None) -> None:
        """Remember that this content needs no sidecar, so that the next scan skips it.

        With `beside`, this counts only while a file of that name is in the same directory. If a person moves that file
        away, benchd must answer the audit.
        """
        self.memory.add(relative, info, beside)

    def forget_scans(self) -> None:
        """Make the next scan read every sidecar again."""
        self.generation += 1
        self.scanned_until_ns = 0

    def now_ns(self) -> int:
        """Return the time that a new file would get, in nanoseconds since the epoch."""
        return self._clock.now_ns()

    def set_clock(self, *, check: bool) -> None:
        """Compare the folder's clock with the system's if `check`. If the system's clock was set, forget the scans."""
        if self._clock.was_set():
            self.forget_scans()
            check = True
        if check:
            with contextlib.suppress(OSError):  # the folder is missing, and the scan reports it
                descriptor = self.open()
                try:
                    self._clock.read(descriptor)
                finally:
                    os.close(descriptor)
