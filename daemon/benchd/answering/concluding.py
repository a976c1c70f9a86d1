"""Decide what to do with an answer: write a sidecar, change nothing, or try again later."""

from __future__ import annotations

import contextlib
import os

from benchd.answering.case import Case
from benchd.answering.disk import Disk
from benchd.answering.outcome import Outcome, Result
from benchd.answering.recording import rejected
from benchd.answering.retry import SOON, Patience, history_of
from benchd.audit.refusals import AuditError, NotAnAudit
from benchd.audit.values import utf8
from benchd.bench.config import error_report
from benchd.bench.deciding import Decision
from benchd.bench.seal import Provenance, provenance_of, unbroken
from benchd.folder.names import NAME_MAX, config_name
from benchd.trail.records import Deferred, Ignored, Kept, Unchanged
from benchd.trail.trail import Trail

__all__ = ["Concluder", "rejected_result"]


class Concluder:
    """Decides what to do with each answer. With `dry_run` it changes nothing in the folder."""

    def __init__(self, trail: Trail, disk: Disk, patience: Patience, *, force: bool, dry_run: bool) -> None:
        self._trail = trail
        self._disk = disk
        self._patience = patience
        self._force = force
        self._dry_run = dry_run

    def conclude(self, case: Case) -> bytes | Result:
        """Return the content of the sidecar to write, or the result if there is none."""
        answer = case.answer
        if isinstance(answer, Decision):
            return self._keep(case) or self._claim(case) or answer.config
        if isinstance(answer, Provenance):
            return self._confirm(case, answer)
        assert answer is not None  # noqa: S101 - the judge has set it
        if isinstance(answer, NotAnAudit):
            case.ticket.folder.remember(case.ticket.relative, case.info)
            self._trail.write(Ignored(audit=case.path, trigger=case.ticket.trigger, reason=answer.message))
            return Result(case.ticket, Outcome.IGNORED)
        return self._wait_for_writer(case, answer) or self._reject(case, answer)

    def remove_report(self, case: Case) -> None:
        """Remove benchd's error report about earlier content, because the audit is usable now."""
        if case.beside.report is None or self._dry_run:
            return
        present = self._disk.read_sidecar(case.directory, case.report)  # a person may have edited it meanwhile
        if present is not None and unbroken(present[0]):
            with contextlib.suppress(OSError):
                self._disk.remove(case.directory, case.report)

    # --- an existing answer --------------------------------------------------------------------------------

    def _confirm(self, case: Case, answer: Provenance) -> Result:
        """Return the result for a sidecar that holds. If only the hash proved that, date it after the audit."""
        reason = "answered before"
        if case.digest is not None:
            reason = "same content, same answer"
            self._renew(case, case.report if answer.code else case.config)
        if not answer.code:
            self.remove_report(case)  # a slower daemon may have written it
        return self._unchanged(case, reason, answer)

    def _renew(self, case: Case, sidecar: str) -> None:
        if self._dry_run:
            return
        with contextlib.suppress(OSError):  # another user's sidecar: the next scan compares the hash again
            self._disk.touch(case.directory, sidecar)
            if not self._disk.is_same(case.directory, case.name, case.info):
                self._disk.make_old(case.directory, sidecar)

    def _unchanged(self, case: Case, reason: str, answer: Provenance | AuditError) -> Result:
        """Return the result `UNCHANGED`. If the sidecar is an error report, the result has its error."""
        self._trail.write(Unchanged(audit=case.path, trigger=case.ticket.trigger, reason=reason))
        return Result(case.ticket, Outcome.UNCHANGED, error=_shown(answer) if answer.code else None)

    # --- a config ------------------------------------------------------------------------------------------

    def _keep(self, case: Case) -> Result | None:
        """Keep the file at the config's path, unless it is benchd's own and unedited. Return None if it may change."""
        if case.beside.config is None:
            return None
        reason = _why_kept(case, case.beside.config[0])
        if reason is None:
            return None
        self.remove_report(case)
        case.ticket.folder.remember(case.ticket.relative, case.info, beside=case.config)
        config = case.place.shown + case.config
        self._trail.write(Kept(audit=case.path, trigger=case.ticket.trigger, config=config, reason=reason))
        return Result(case.ticket, Outcome.KEPT, reason=f"{case.config}: {reason}")

    @staticmethod
    def _claim(case: Case) -> Result | None:
        """Defer this audit if another one in the batch has the same config name, as `x` and `x.json` have."""
        if case.config in case.place.claimed:
            error = f"benchd is answering another audit with the same config name, {case.config}"
            return Result(case.ticket, Outcome.DEFERRED, error=error, retry_in=SOON)
        case.place.claimed.add(case.config)
        return None

    # --- a rejection ---------------------------------------------------------------------------------------

    def _wait_for_writer(self, case: Case, error: AuditError) -> Result | None:
        """Return a result with the time of the next attempt, or None if the verdict is final."""
        wait = self._patience.wait(case.ticket, error, case.digest, case.info, case.directory, case.name)
        if wait is None:
            return None
        history = history_of(case.ticket)
        if not history.is_recorded:
            history.is_recorded = True
            reason = f"maybe unfinished: {error.message}"
            self._trail.write(Deferred(audit=case.path, trigger=case.ticket.trigger, reason=reason))
        return Result(case.ticket, Outcome.DEFERRED, error=error.message, retry_in=wait)

    def _reject(self, case: Case, error: AuditError) -> bytes | Result:
        ticket, present = case.ticket, case.beside.report
        size = case.info.st_size if case.digest is not None or error.code == "too_large" else None
        report = error_report(case.name, error, sha256=case.digest, size=size)
        if present is not None and present[0] == report and not self._force:
            if not self._dry_run:
                with contextlib.suppress(OSError):
                    self._disk.touch(case.directory, case.report)
            return self._unchanged(case, "rejected before, for the same reason", error)
        has_room = len(os.fsencode(case.report)) <= NAME_MAX
        is_foreign = present is not None and not unbroken(present[0])
        if ticket.folder.settings.bench.error_reports and has_room and not is_foreign:
            return report
        ticket.folder.remember(ticket.relative, case.info, beside=case.report if is_foreign and has_room else None)
        self._trail.write(rejected(error, audit=case.path, trigger=ticket.trigger))
        return rejected_result(case, error)


def rejected_result(case: Case, error: AuditError) -> Result:
    """Return the result of a rejection."""
    return Result(case.ticket, Outcome.REJECTED, error=_shown(error))


def _why_kept(case: Case, content: bytes) -> str | None:
    """Return why benchd keeps the file at the config's path; None if it is benchd's own and unedited."""
    provenance = provenance_of(content)
    if provenance is None:
        return "benchd did not write this file; move it away to get the answer"
    if provenance.audit != utf8(case.name) and config_name(provenance.audit) == utf8(case.config):
        # `x` and `x.json` would replace each other's config forever. A copied or renamed pair has another config name.
        return f"it answers another audit, {provenance.audit}"
    if not unbroken(content):
        return "it was edited after benchd wrote it; move it away to get the new answer"
    return None


def _shown(rejection: Provenance | AuditError) -> str:
    return f"{rejection.message} [{rejection.code}]"
