"""Scan a folder for audits without a valid answer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from benchd.audit.adapter import ADAPTER_CONFIG, AdapterConfig
from benchd.bench.seal import unbroken
from benchd.folder.adapter_beside import adapter_beside
from benchd.folder.files import TEMPORARY, exists, read_sidecar, remove_stale_temporary, seems_there
from benchd.folder.folder import Folder
from benchd.folder.names import ERROR_SUFFIX, config_name, error_name, is_sidecar
from benchd.folder.standing import CLEARLY_NS, Beside, Standing

__all__ = ["Scan", "Tally"]

#: Maximum number of rejections that a tally describes. It counts all of them.
_MAX_REJECTIONS: Final = 1000

#: Entries between two pauses: a few milliseconds of work.
_ENTRIES_BETWEEN_PAUSES: Final = 512


class Tally:
    """The counts of one scan."""

    def __init__(self) -> None:
        self.found = 0
        self.answered = 0
        self.queued = 0
        #: Audits that have a sidecar, but only their hash can prove that it holds.
        self.in_doubt = 0
        #: The number of answered audits whose sidecar is an error report, and the path and reason of the first ones.
        self.rejected = 0
        self.rejections: list[tuple[str, str]] = []


class _Directory(NamedTuple):
    """The directory that a scan is listing."""

    descriptor: int
    prefix: str
    #: Nanoseconds. Audits that changed before this only need a config; 0 if the scan must read every sidecar.
    until_ns: int
    adapter: AdapterConfig | None


class Scan:
    """One scan of a folder. Iterating it yields the audits without a valid answer, by path relative to the folder.

    `below` is the directory to start in; it is empty for the whole folder. The scan calls `entering` with each
    directory and its open descriptor before it lists the directory (watch first, then list), `failed` with each path
    that can't be read, and `pause` regularly, so that the caller can do other work. With `force` it yields answered
    audits too. With `tidy` it removes the files of a dead benchd. With `check_clock` a scan of the whole folder first
    writes a file to read the folder's clock. Memory does not grow with the number of files. Iterate only once.
    """

    def __init__(
        self,
        folder: Folder,
        *,
        below: str = "",
        entering: Callable[[str, int], None] = lambda *_: None,
        failed: Callable[[str, OSError], None] = lambda *_: None,
        pause: Callable[[], None] = lambda: None,
        force: bool = False,
        tidy: bool = True,
        check_clock: bool = True,
    ) -> None:
        self.tally = Tally()
        self._folder = folder
        self._entering = entering
        self._failed = failed
        self._pause = pause
        self._force = force
        self._tidy = tidy
        self._check_clock = check_clock and tidy
        self._below = below
        self._pending = [below]
        self._is_complete = not below

    def __iter__(self) -> Iterator[str]:
        folder = self._folder
        if not self._below:
            folder.set_clock(check=self._check_clock)
        started_ns, generation = folder.now_ns(), folder.generation
        while self._pending:
            relative = self._pending.pop()
            try:
                descriptor = folder.open(relative)
            except OSError as error:
                if not relative or not isinstance(error, FileNotFoundError | NotADirectoryError):
                    self._fail(relative, error)
                continue
            try:
                self._entering(relative, descriptor)
                yield from self._list(descriptor, relative)
            except OSError as error:
                self._fail(relative, error)
            finally:
                os.close(descriptor)
        if self._is_complete and generation == folder.generation:
            # The next scan only checks that there is a config for files that were unchanged when this scan began.
            folder.scanned_until_ns = started_ns - CLEARLY_NS

    def _fail(self, relative: str, error: OSError) -> None:
        self._is_complete = False
        self._failed(relative, error)

    def _list(self, descriptor: int, relative: str) -> Iterator[str]:
        folder = self._folder
        changed_ns = _changed_ns(descriptor, ADAPTER_CONFIG)
        # If the adapter_config.json has changed or is gone, every sidecar must be read again.
        is_same = (changed_ns > 0) is (relative in folder.adapters) and changed_ns <= folder.scanned_until_ns
        directory = _Directory(
            descriptor,
            f"{relative}/" if relative else "",
            folder.scanned_until_ns if is_same else 0,
            adapter_beside(descriptor) if changed_ns else None,
        )
        with os.scandir(descriptor) as entries:
            for number, entry in enumerate(entries, 1):
                if number % _ENTRIES_BETWEEN_PAUSES == 0:
                    self._pause()
                try:
                    is_wanted = self._visit(directory, entry)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    # One unreadable entry must not hide the others. Answering it reports the details.
                    self._failed(directory.prefix + entry.name, error)
                    is_wanted = folder.names.wants(directory.prefix + entry.name)
                if is_wanted:
                    yield directory.prefix + entry.name
        if changed_ns:
            folder.adapters.add(relative)
        else:
            folder.adapters.discard(relative)

    def _visit(self, directory: _Directory, entry: os.DirEntry[str]) -> bool:
        """Handle one entry. Return whether it is an audit without a valid answer."""
        names, path = self._folder.names, directory.prefix + entry.name
        if entry.name.startswith("."):
            if self._tidy and TEMPORARY.fullmatch(entry.name):
                remove_stale_temporary(directory.descriptor, entry.name, self._folder.now_ns() / 1e9)
        elif entry.is_dir(follow_symlinks=False):
            if names.enters(path):
                self._pending.append(path)
        elif is_sidecar(entry.name):
            if self._tidy and entry.name.endswith(ERROR_SUFFIX):
                self._remove_stale_report(directory, entry.name)
        elif names.matches(entry.name, path):
            self.tally.found += 1
            if self._force or not self._is_answered(directory, entry):
                return True
            self.tally.answered += 1
        return False

    def _is_answered(self, directory: _Directory, entry: os.DirEntry[str]) -> bool:
        folder, descriptor, name = self._folder, directory.descriptor, entry.name
        config, report = config_name(name), error_name(name)
        info = entry.stat(follow_symlinks=False)
        if info.st_ctime_ns < directory.until_ns and exists(descriptor, config):
            return True
        found = read_sidecar(descriptor, config)
        if folder.memory.has(descriptor, directory.prefix + name, info):
            return True
        if found is None and not seems_there(descriptor, report):
            return False
        # Nearly every audit has a valid config and no report, so the report is read only if needed.
        beside = Beside(found, None, directory.adapter)
        standing, provenance = folder.standing(name, info, beside)
        if standing is not Standing.ANSWERED:
            beside = beside._replace(report=read_sidecar(descriptor, report))
            if beside.report is not None:
                standing, provenance = folder.standing(name, info, beside)
        if standing is not Standing.ANSWERED:
            self.tally.in_doubt += standing is Standing.IN_DOUBT
            return False
        if provenance and provenance.code:
            self.tally.rejected += 1
            if self.tally.rejected <= _MAX_REJECTIONS:
                reason = f"{provenance.message} [{provenance.code}]"
                self.tally.rejections.append((directory.prefix + name, reason))
        return True

    def _remove_stale_report(self, directory: _Directory, name: str) -> None:
        """Remove benchd's error report if its file is gone or has a valid config.

        The second case happens when two daemons watch one folder.
        """
        descriptor = directory.descriptor
        stem = name.removesuffix(ERROR_SUFFIX)
        audits = [audit for audit in (f"{stem}.json", stem) if exists(descriptor, audit)]
        if not all(self._has_config(directory, audit) for audit in audits):
            return
        found = read_sidecar(descriptor, name)
        if found is not None and unbroken(found[0]):
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=descriptor)

    def _has_config(self, directory: _Directory, audit: str) -> bool:
        config = read_sidecar(directory.descriptor, config_name(audit))
        if config is None:
            return False
        info = os.stat(audit, dir_fd=directory.descriptor, follow_symlinks=False)
        beside = Beside(config, None, directory.adapter)
        return self._folder.standing(audit, info, beside)[0] is Standing.ANSWERED


def _changed_ns(directory: int, name: str) -> int:
    """Return the ctime of the file in nanoseconds; 0 if it is absent."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_ctime_ns
    except FileNotFoundError:
        return 0
