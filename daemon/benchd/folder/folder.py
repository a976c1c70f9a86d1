"""A watched folder: its settings, its names, its clock, and which audits in it are answered.

The folder itself is the only state. An audit is answered when its sidecar belongs to its present content: the same
size, and changed clearly before the sidecar was written; in doubt the hash decides (spec, section 1).
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
    """Contents that need no sidecar: other JSON, and audits whose config a person has edited.

    A cache: it saves rescans from reading these files again, and may be lost at any time.
    """

    def __init__(self, most: int = 50_000) -> None:
        self._most = most
        self._known: dict[tuple[str, int, int], str | None] = {}

    def add(self, relative: str, info: os.stat_result, beside: str | None) -> None:
        """Remember this content; with `beside` only while the directory holds a file of that name."""
        if len(self._known) >= self._most:
            self._known.clear()
        self._known[relative, info.st_ino, info.st_ctime_ns] = beside

    def has(self, directory: int, relative: str, info: os.stat_result) -> bool:
        """Return whether this content needs no sidecar. `directory` is the open directory that it is in."""
        key = (relative, info.st_ino, info.st_ctime_ns)
        if key not in self._known:
            return False
        beside = self._known[key]
        return beside is None or exists(directory, beside)


class Folder:
    """One watched folder. It keeps no descriptor, so that the folder can be unmounted, moved and deleted."""

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
        #: Nanoseconds by the folder's clock: the last whole scan has dealt with everything that changed before.
        self.scanned_until_ns = 0
        #: Counts the calls of `forget_scans`: a scan that was under way then must not count as a whole one.
        self.generation = 0
        #: The directories in which the last scan met an adapter_config.json.
        self.adapters: set[str] = set()

    def shown(self, relative: str) -> str:
        """Return the path of a file, for people and records."""
        return os.path.join(self.path, relative)

    def open(self, relative: str = "") -> int:
        """Return a descriptor of the directory `relative`; the caller closes it. Raises OSError."""
        return open_directory(self.path, relative)

    def standing(self, name: str, info: os.stat_result, beside: Beside) -> tuple[Standing, Provenance | None]:
        """Return how the audit `name`, with `stat` `info`, stands, and the sidecar that says so."""
        return standing(self._check, name, info, beside, now_ns=self.now_ns())

    def remember(self, relative: str, info: os.stat_result, *, beside: str | None = None) -> None:
        """Note that this content needs no sidecar, so that the next scan skips it.

        With `beside` only while a file of that name is in the same directory: once a person has moved it away, the
        audit is to be answered.
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
        """Compare the folder's clock with the system's, if `check`; if the system's was set, forget the scans."""
        if self._clock.was_set():
            self.forget_scans()
            check = True
        if check:
            with contextlib.suppress(OSError):  # the folder is missing; the scan says so
                descriptor = self.open()
                try:
                    self._clock.read(descriptor)
                finally:
                    os.close(descriptor)
