"""A watched folder: which files are audits by name, which are answered, and the way to all of them.

The folder is the only state. An audit is answered when its sidecar belongs to its present content: the same
size, and changed clearly before the sidecar was written; in doubt, the hash decides (spec, section 1).
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import time
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Final, NamedTuple

from benchd.audit.adapter import ADAPTER_CONFIG, AdapterConfig
from benchd.bench.seal import Provenance, provenance_of, unbroken
from benchd.bench.standing import SidecarCheck
from benchd.folder.adapter_beside import adapter_beside
from benchd.folder.clock import FolderClock
from benchd.folder.files import (
    TEMPORARY,
    exists,
    open_directory,
    read_sidecar,
    remove_stale_temporary,
    seems_there,
)
from benchd.folder.names import ERROR_SUFFIX, config_name, error_name, is_sidecar
from benchd.settings.reading import FolderSettings

__all__ = ["Beside", "Folder", "Standing", "Tally"]

#: Time stamps come from the kernel's coarse clock, which stands still for up to a tick (10 ms at 100 Hz); a network
#: file server's may be coarser. Nearer than this, the order of two changes is in doubt.
_CLEARLY_NS: Final = 50_000_000

#: How many files without a sidecar (ignored, kept) are remembered, so that a rescan need not read them again.
_MAX_REMEMBERED: Final = 50_000

_MAX_REJECTED: Final = 1000


class Standing(Enum):
    """How an audit stands to the sidecar beside it."""

    ANSWERED = "answered"
    IN_DOUBT = "in doubt"
    OPEN = "open"


class Tally:
    """What one scan has met."""

    def __init__(self) -> None:
        self.found = 0
        self.answered = 0
        self.queued = 0
        #: Of the ones to look at those that seem answered, which only their hash can tell.
        self.in_doubt = 0
        #: Of the answered ones those whose answer is an error report, and what the first of them say.
        self.rejected = 0
        self.rejections: list[tuple[str, str]] = []


class Beside(NamedTuple):
    """What stands beside an audit: in the places of its sidecars content and `stat`, and the file of its adapter.

    None where there is nothing.
    """

    config: tuple[bytes, os.stat_result] | None
    report: tuple[bytes, os.stat_result] | None
    adapter: AdapterConfig | None = None


class _Listing(NamedTuple):
    """What a scan knows of a directory before it looks at the entries."""

    #: What was last changed before this needs only a config that is there; 0 if every sidecar must be read.
    until_ns: int
    adapter: AdapterConfig | None


class Folder:
    """One watched folder and its settings. Holds no descriptor, so that it can be unmounted, moved and deleted."""

    def __init__(self, settings: FolderSettings, *, max_bytes: int, nested: frozenset[str] = frozenset()) -> None:
        self.settings = settings
        self.path = settings.path
        self.max_bytes = max_bytes
        self._nested = nested
        self._patterns = _matcher(settings.patterns)
        self._ignored = _matcher(settings.ignore)
        self._check = SidecarCheck(settings.selection, settings.bench, max_bytes=max_bytes)
        #: The directories in which the last scan met an adapter_config.json; only the scan touches it.
        self._adapters: set[str] = set()
        self._remembered: dict[tuple[str, int, int], str | None] = {}
        self._clock: FolderClock | None = None
        self._scanned_until_ns = 0
        #: Counts the calls of `forget_scans`: one that comes during a scan must outlast it.
        self._generation = 0

    # --- names ---------------------------------------------------------------------------------------------

    def wants(self, relative: str) -> bool:
        """Whether the name alone makes the file a candidate: the patterns, less hidden files and our own."""
        name = relative.rpartition("/")[2]
        return not name.startswith(".") and not is_sidecar(name) and self._matches(name, relative)

    def _matches(self, name: str, relative: str) -> bool:
        return self._patterns(name, relative) and not self._ignored(name, relative)

    def enters(self, relative: str) -> bool:
        """Whether the directory `relative` is watched too: recursive, not hidden, ignored or a folder of its own."""
        name = relative.rpartition("/")[2]
        if not self.settings.recursive or name.startswith(".") or relative in self._nested:
            return False
        return not self._ignored(name, relative)

    def shown(self, relative: str) -> str:
        """The audit's path, for people and records."""
        return os.path.join(self.path, relative)

    def open(self, relative: str = "") -> int:
        """A descriptor of the directory `relative` in this folder; the caller closes it. Raises OSError."""
        return open_directory(self.path, relative)

    # --- what is answered ----------------------------------------------------------------------------------

    def standing(self, name: str, info: os.stat_result, beside: Beside) -> tuple[Standing, Provenance | None]:
        """How `name`, whose `stat` is `info`, stands, and the sidecar that says so. Does not read the audit."""
        if beside.config is None and beside.report is None:
            return Standing.OPEN, None
        doubtful: Provenance | None = None
        for found, is_config in ((beside.config, True), (beside.report, False)):
            provenance = provenance_of(found[0]) if found else None
            if found is None or provenance is None:
                continue
            size = info.st_size
            if is_config:
                token = beside.adapter.token if beside.adapter else None
                holds = self._check.config_holds(provenance, name=name, size=size, adapter=token)
            else:
                holds = self._check.report_holds(provenance, name=name, size=size)
            if not holds:
                continue
            if info.st_ctime_ns + _CLEARLY_NS < found[1].st_mtime_ns <= self._now_ns():
                return Standing.ANSWERED, provenance
            doubtful = doubtful or provenance
        if doubtful is not None and doubtful.audit_sha256 is not None:
            return Standing.IN_DOUBT, doubtful
        return Standing.OPEN, None

    def remember(self, relative: str, info: os.stat_result, *, beside: str | None = None) -> None:
        """Note that this content needs no sidecar, so that the next scan passes it by.

        With `beside` only as long as a file of that name stands in the same directory: once a person has moved it
        away, the answer is wanted.
        """
        if len(self._remembered) >= _MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[relative, info.st_ino, info.st_ctime_ns] = beside

    def _remembers(self, directory: int, relative: str, info: os.stat_result) -> bool:
        if not self._remembered:
            return False
        key = (relative, info.st_ino, info.st_ctime_ns)
        if key not in self._remembered:
            return False
        beside = self._remembered[key]
        return beside is None or exists(directory, beside)

    # --- scanning ------------------------------------------------------------------------------------------

    def scan(
        self,
        tally: Tally,
        *,
        entering: Callable[[str, int], None],
        failed: Callable[[str, OSError], None],
        force: bool = False,
        tidy: bool = True,
        check_clock: bool = True,
    ) -> Iterator[str]:
        """Walk the folder and yield the audits that have no valid answer, by path relative to the folder.

        On the way it removes, unless told not to be `tidy`, what a dead benchd left behind. `check_clock` has the
        folder's own clock read first, which takes writing a file.

        `entering` is called with each directory and its open descriptor before it is listed: watch first,
        then look. `failed` is told of directories that can't be read. Memory does not grow with the files.
        """
        self._set_clock(check=check_clock and tidy)
        started_ns, generation = self._now_ns(), self._generation
        pending = [""]
        complete = True
        while pending:
            relative = pending.pop()
            try:
                descriptor = self.open(relative)
            except (FileNotFoundError, NotADirectoryError) as error:
                if not relative:
                    complete = False
                    failed(relative, error)
                continue
            except OSError as error:
                complete = False
                failed(relative, error)
                continue
            try:
                entering(relative, descriptor)
                yield from self._list(descriptor, relative, pending, tally, failed, force=force, tidy=tidy)
            except OSError as error:
                complete = False
                failed(relative, error)
            finally:
                os.close(descriptor)
        if complete and generation == self._generation:
            # What had not changed for a while when this scan began, it has dealt with; the next one need only see
            # that the sidecars are still there.
            self._scanned_until_ns = started_ns - _CLEARLY_NS

    def _now_ns(self) -> int:
        return self._clock.now_ns() if self._clock else time.time_ns()

    def _set_clock(self, *, check: bool) -> None:
        """Know what the folder's files are dated now; and if the clock was set, look at all of them again."""
        clock = self._clock or FolderClock()
        if clock.was_set():
            self.forget_scans()
            check = True
        if check:
            with contextlib.suppress(OSError):  # the folder is not there; the scan says so
                descriptor = self.open()
                try:
                    clock.read(descriptor)
                finally:
                    os.close(descriptor)
        self._clock = clock

    def _list(
        self,
        directory: int,
        relative: str,
        pending: list[str],
        tally: Tally,
        failed: Callable[[str, OSError], None],
        *,
        force: bool,
        tidy: bool,
    ) -> Iterator[str]:
        prefix = f"{relative}/" if relative else ""
        adapter_ns = _changed_ns(directory, ADAPTER_CONFIG)
        # Another adapter_config.json, or none any more: each sidecar must be looked at again.
        same = (adapter_ns > 0) is (relative in self._adapters) and adapter_ns <= self._scanned_until_ns
        listing = _Listing(self._scanned_until_ns if same else 0, adapter_beside(directory) if adapter_ns else None)
        with os.scandir(directory) as entries:
            for entry in entries:
                path = prefix + entry.name
                try:
                    wanted = self._look(directory, entry, path, pending, tally, listing, force=force, tidy=tidy)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    # One entry that can't be looked at must not hide those behind it; who answers it says more.
                    failed(path, error)
                    wanted = self.wants(path)
                if wanted:
                    yield path
        if adapter_ns:
            self._adapters.add(relative)
        else:
            self._adapters.discard(relative)

    def _look(
        self,
        directory: int,
        entry: os.DirEntry[str],
        path: str,
        pending: list[str],
        tally: Tally,
        listing: _Listing,
        *,
        force: bool,
        tidy: bool,
    ) -> bool:
        """Deal with one entry of a directory: whether it is an audit without a valid answer."""
        name = entry.name
        if name.startswith("."):
            if tidy and TEMPORARY.fullmatch(name):
                remove_stale_temporary(directory, name, self._now_ns() / 1e9)
        elif entry.is_dir(follow_symlinks=False):
            if self.enters(path):
                pending.append(path)
        elif is_sidecar(name):
            if tidy and name.endswith(ERROR_SUFFIX):
                self._drop_stale_report(directory, name, listing)
        elif self._matches(name, path):
            tally.found += 1
            if force or not self._is_answered(directory, entry, path, tally, listing):
                return True
            tally.answered += 1
        return False

    def _is_answered(self, directory: int, entry: os.DirEntry[str], path: str, tally: Tally, listing: _Listing) -> bool:
        name = entry.name
        config, report = config_name(name), error_name(name)
        info = entry.stat(follow_symlinks=False)
        if info.st_ctime_ns < listing.until_ns and exists(directory, config):
            return True
        found = read_sidecar(directory, config)
        if self._remembers(directory, path, info):
            return True
        if found is None and not seems_there(directory, report):
            return False
        # Nearly all have a config that holds, and no report: one file to open for each.
        beside = Beside(found, None, listing.adapter)
        standing, provenance = self.standing(name, info, beside)
        if standing is not Standing.ANSWERED:
            beside = beside._replace(report=read_sidecar(directory, report))
            if beside.report is not None:
                standing, provenance = self.standing(name, info, beside)
        if standing is not Standing.ANSWERED:
            tally.in_doubt += standing is Standing.IN_DOUBT
            return False
        if provenance and provenance.code:
            tally.rejected += 1
            if tally.rejected <= _MAX_REJECTED:
                tally.rejections.append((path, f"{provenance.message} [{provenance.code}]"))
        return True

    def _drop_stale_report(self, directory: int, name: str, listing: _Listing) -> None:
        """Remove an error report of ours whose file is gone, or has its config: there is nothing left to mend.

        The second is what two daemons on one folder can leave behind.
        """
        stem = name.removesuffix(ERROR_SUFFIX)
        audits = [audit for audit in (f"{stem}.json", stem) if exists(directory, audit)]
        if any(not self._has_config(directory, audit, listing) for audit in audits):
            return
        found = read_sidecar(directory, name)
        if found is not None and unbroken(found[0]):
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=directory)

    def _has_config(self, directory: int, audit: str, listing: _Listing) -> bool:
        if not exists(directory, config_name(audit)):
            return False
        info = os.stat(audit, dir_fd=directory, follow_symlinks=False)
        beside = Beside(read_sidecar(directory, config_name(audit)), None, listing.adapter)
        return self.standing(audit, info, beside)[0] is Standing.ANSWERED

    def forget_scans(self) -> None:
        """Make the next scan look at every sidecar again."""
        self._generation += 1
        self._scanned_until_ns = 0


def _changed_ns(directory: int, name: str) -> int:
    """When the file was last changed; 0 if there is none."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_ctime_ns
    except FileNotFoundError:
        return 0


def _matcher(patterns: tuple[str, ...]) -> Callable[[str, str], bool]:
    """A test of name and relative path against shell patterns; one with a slash is matched against the path."""
    if patterns == ("*.json",):
        return lambda name, _: name.endswith(".json")
    if not patterns:
        return lambda _name, _path: False
    by_name = [fnmatch.translate(pattern) for pattern in patterns if "/" not in pattern]
    by_path = [fnmatch.translate(pattern.strip("/")) for pattern in patterns if "/" in pattern]
    names = re.compile("|".join(by_name) or r"(?!)")
    paths = re.compile("|".join(by_path) or r"(?!)")
    return lambda name, path: bool(names.match(name) or paths.match(path))
