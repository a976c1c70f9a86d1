"""Publish sidecars: write them under temporary names, record them, flush them, and rename them."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from benchd.answering.case import Case
from benchd.answering.concluding import Concluder, rejected_result
from benchd.answering.disk import Disk
from benchd.answering.outcome import Outcome, Result
from benchd.answering.recording import rejected, selected
from benchd.answering.retry import SOON, history_of
from benchd.audit.refusals import AuditError
from benchd.bench.deciding import Decision
from benchd.folder.files import Found, explained
from benchd.folder.flushing import Flusher
from benchd.trail.records import Record, WriteFailed
from benchd.trail.trail import Trail

__all__ = ["Publisher"]

#: Runs one step for each case. Returns the cases that continue.
Each = Callable[[Callable[[Case], Case | Result], list[Case]], list[Case]]


class Publisher:
    """Writes sidecars into their folders. It guarantees that the record comes before the sidecar."""

    def __init__(self, trail: Trail, disk: Disk, flusher: Flusher, concluder: Concluder, *, dry_run: bool) -> None:
        self._trail = trail
        self._disk = disk
        self._flusher = flusher
        self._concluder = concluder
        self._dry_run = dry_run

    def prepare(self, case: Case) -> Case | Result:
        """Write the sidecar to a temporary file, or return the result if there is no sidecar to write."""
        content = self._concluder.conclude(case)
        if isinstance(content, Result):
            return content
        if self._dry_run:
            return _result(case)
        try:
            case.temporary = self._disk.write(case.directory, content, durable=case.is_durable, group=case.place.group)
        except OSError as error:
            return self._failed(case, error)
        return case

    def publish(self, cases: list[Case], each: Each) -> list[Result]:
        """Record the decisions, flush, and make the sidecars visible. Return the results of the visible ones."""
        records: list[Record] = []
        cases = each(lambda case: self._record(case, records), cases)
        self._trail.write(*records)
        failed = self._flush([case for case in cases if case.is_durable])
        cases = each(lambda case: self._make_visible(case, failed), cases)
        failed = self._flush_names([case for case in cases if case.is_durable])
        return [
            self._failed(case, failed[case.directory]) if case.directory in failed else _result(case) for case in cases
        ]

    def _record(self, case: Case, records: list[Record]) -> Case | Result:
        """Add the record of the decision to `records`, unless the audit has changed since it was read."""
        if not self._disk.is_same(case.directory, case.name, case.info):
            self.discard(case)
            wait = history_of(case.ticket).next_change()
            return Result(case.ticket, Outcome.DEFERRED, error="it changed while it was being answered", retry_in=wait)
        trigger = case.ticket.trigger
        if isinstance(case.answer, AuditError):
            records.append(rejected(case.answer, audit=case.path, trigger=trigger))
        else:
            assert isinstance(case.answer, Decision)  # noqa: S101 - nothing else has a sidecar
            config = case.place.shown + case.config
            records.append(selected(case.answer, audit=case.path, trigger=trigger, config=config, took=case.seconds))
        return case

    def _flush(self, cases: list[Case]) -> dict[int, OSError]:
        """Wait until the contents of `cases` and the trail are on their disks; return the errors by descriptor."""
        if not cases:
            return {}
        contents = [(case.temporary.descriptor, case.place.device) for case in cases if case.temporary]
        trail = self._trail.unflushed()
        failed = self._flusher.flush([*contents, trail] if trail else contents)
        if trail is not None:
            self._trail.flushed(failed.get(trail.descriptor))
        return failed

    def _make_visible(self, case: Case, failed: dict[int, OSError]) -> Case | Result:
        """Rename the sidecar, unless its flush has `failed` or a person has changed the file at its path."""
        is_config = isinstance(case.answer, Decision)
        name, before = (case.config, case.beside.config) if is_config else (case.report, case.beside.report)
        assert case.temporary is not None  # noqa: S101 - `prepare` has set it
        try:
            if case.is_durable:
                if case.temporary.descriptor in failed:
                    raise failed[case.temporary.descriptor]
                temporary, case.temporary = case.temporary, case.temporary._replace(descriptor=-1)
                self._disk.close(case.directory, temporary)  # it is closed even if that fails
            if is_config and case.beside.report is not None:
                # The report goes first: a crash in between leaves an audit with no answer instead of two.
                self._concluder.remove_report(case)
            if not self._is_as_before(case.directory, name, before):
                # A person has just put a file there, and nobody has checked it yet.
                self.discard(case)
                return Result(case.ticket, Outcome.DEFERRED, error=f"{name} changed meanwhile", retry_in=SOON)
            self._disk.publish(case.directory, case.temporary, name)
        except OSError as error:
            self.discard(case)
            return self._failed(case, error)
        return case

    def _is_as_before(self, directory: int, name: str, before: Found | None) -> bool:
        """Return whether the sidecar's path is unchanged since it was read: the same unedited file, or none."""
        now = self._disk.stat_now(directory, name)
        if now is None or before is None:
            return now is None and before is None
        info = before[1]
        return (now.st_ino, now.st_size, now.st_mtime_ns) == (info.st_ino, info.st_size, info.st_mtime_ns)

    def _flush_names(self, cases: list[Case]) -> dict[int, OSError]:
        """Wait until the new names are on the disk, once for each directory; return the errors by descriptor."""
        places = {(case.directory, case.place.device) for case in cases}
        return self._flusher.flush(places, directories=True) if places else {}

    def discard(self, case: Case) -> None:
        """Remove the temporary file of `case`, if it has one."""
        if case.temporary is not None:
            self._disk.discard(case.directory, case.temporary)
            case.temporary = None

    def _failed(self, case: Case, error: OSError) -> Result:
        if error.errno == errno.ENOENT:  # somebody is deleting the folder or the files in it
            return Result(case.ticket, Outcome.DEFERRED, error="its folder changed meanwhile", retry_in=SOON)
        history = history_of(case.ticket)
        wait, reason = history.next_failure(), explained(error, os.path.dirname(case.path), "write into")
        trigger, attempt = case.ticket.trigger, history.failures
        self._trail.write(WriteFailed(audit=case.path, trigger=trigger, error=reason, attempt=attempt, retry_in_s=wait))
        return Result(case.ticket, Outcome.FAILED, error=f"can't write: {reason}", retry_in=wait)


def _result(case: Case) -> Result:
    """Return the result of a case whose sidecar is visible."""
    if isinstance(case.answer, AuditError):
        return rejected_result(case, case.answer)
    assert isinstance(case.answer, Decision)  # noqa: S101 - nothing else has a sidecar
    return Result(case.ticket, Outcome.SELECTED, strategy=case.answer.selection.strategy)
