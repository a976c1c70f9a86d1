"""One audit, end to end: the only place where the pure rooms and the outside meet.

Answering has two halves, so that many answers can share their waits for the disk. `_prepare` reads, decides and
writes a temporary file; `_publish` records the decision and makes the file visible. The order is the promise:
record first, then config; and a last look at the audit in between, so that an answer to content that has just
changed is thrown away and made again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final, NamedTuple

from benchd.audit import Audit, AuditError, NotAnAudit, read_audit, utf8
from benchd.bench import bench_config, decision_id, error_report
from benchd.files import (
    Vanished,
    discard,
    explained,
    has_writer,
    look,
    publish,
    read_regular,
    read_sidecar,
    write_temporary,
)
from benchd.folder import Standing
from benchd.inbox import Inbox, Work
from benchd.rejection import MAYBE_UNFINISHED, refusal
from benchd.selection import Selection, select
from benchd.sidecar import CONFIG_SUFFIX, Provenance, config_name, error_name, provenance_of, unbroken
from benchd.trail import Trail

__all__ = ["Answering", "Outcome", "Result"]

#: What file systems allow a name, in bytes.
_NAME_MAX: Final = 255

#: Waits for a file that may be unfinished: the first, and the longest.
_FIRST_WAIT: Final = 0.05
_LONGEST_WAIT: Final = 30.0

#: The longest wait for a file that changes faster than it can be answered.
_LONGEST_CHASE: Final = 1.0

#: Waits after a failed write.
_FIRST_RETRY: Final = 1.0
_LONGEST_RETRY: Final = 60.0

#: A file without content, of which nobody can tell whether it has a writer, is given up after this.
_ABANDONED: Final = 3600.0


class Outcome(StrEnum):
    """What became of one audit."""

    SELECTED = "selected"
    REJECTED = "rejected"
    UNCHANGED = "unchanged"
    IGNORED = "ignored"
    KEPT = "kept"
    GONE = "gone"
    DEFERRED = "deferred"
    FAILED = "failed"


class Result(NamedTuple):
    """The outcome for one audit, with what a summary needs."""

    work: Work
    outcome: Outcome
    strategy: str | None = None
    error: str | None = None
    retry_in: float | None = None
    #: Why there is no answer, where that is no trouble.
    reason: str | None = None


class _Decision(NamedTuple):
    audit: Audit
    selection: Selection


class _Prepared(NamedTuple):
    """An answer that is on the disk under a temporary name."""

    work: Work
    directory: int
    name: str
    info: os.stat_result
    temporary: str
    answer: _Decision | AuditError
    started: float
    #: What stood in the config's place when it was looked at; see `_identity`.
    replaces: tuple[int, int, int] | None


class _Published(NamedTuple):
    """An answer that everybody can see; its name may not be on the disk yet."""

    work: Work
    directory: int
    result: Result


class _Directories:
    """The open directories of one batch; each is opened once, and flushed once."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, str], int] = {}

    def open(self, work: Work) -> int:
        below = work.relative.rpartition("/")[0]
        key = (id(work.folder), below)
        if key not in self._open:
            try:
                self._open[key] = work.folder.open(below)
            except (FileNotFoundError, NotADirectoryError):
                raise Vanished from None
            except OSError as error:
                if error.errno == errno.ELOOP:  # a folder on the way was swapped for a link
                    raise Vanished from None
                raise
        return self._open[key]

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)


class Answering:
    """Answers audits of any folder. Stateless but for its collaborators; safe to share between threads."""

    def __init__(self, trail: Trail, *, settle: float, force: bool = False, dry_run: bool = False) -> None:
        self._trail = trail
        self._settle = settle
        self._force = force
        self._dry_run = dry_run

    def answer(self, batch: list[Work]) -> list[Result]:
        """Answer every audit of `batch` and say what became of each, in any order.

        Raises nothing that a file can cause: each audit's trouble is its own result.
        """
        directories = _Directories()
        try:
            steps = [self._guarded(work, self._prepare, work, directories) for work in batch]
            steps = [self._guarded(step.work, self._record, step) for step in steps]
            if any(isinstance(step, _Prepared) and _durable(step.work) for step in steps):
                self._trail.flush_to_disk()
            steps = [self._guarded(step.work, self._publish, step) for step in steps]
            return self._flush(steps)
        finally:
            directories.close()

    def _guarded(
        self, work: Work, step: Callable[..., _Prepared | _Published | Result], *arguments: Any
    ) -> _Prepared | _Published | Result:
        """One step for one audit, with every failure turned into its result."""
        if isinstance(arguments[0], Result):
            return arguments[0]
        try:
            return step(*arguments)
        except Vanished:
            result = Result(work, Outcome.GONE)
        except OSError as error:
            result = self._stumbled(work, error.strerror or str(error))
        except Exception as error:  # noqa: BLE001 - one bad file costs one record, whatever is wrong with it
            result = self._stumbled(work, f"{type(error).__name__}: {error}")
        if isinstance(arguments[0], _Prepared):
            discard(arguments[0].directory, arguments[0].temporary)
        return result

    # --- first half ----------------------------------------------------------------------------------------

    def _prepare(self, work: Work, directories: _Directories) -> _Prepared | Result:
        """Read, decide, and write the answer under a temporary name."""
        started = time.monotonic()
        folder, name = work.folder, work.relative.rpartition("/")[2]
        directory = directories.open(work)
        info = look(directory, name)
        standing, provenance = folder.standing(directory, name, info)
        if standing is Standing.ANSWERED and provenance and not self._force:
            return self._unchanged(work, "answered before", provenance)
        digest: str | None = None
        try:
            _check_name(name)
            if work.verdict is not None and work.seen == _state(info) and work.verdict.code != "unreadable":
                raise work.verdict  # still the content that was looked at before; only its writer may have gone
            content, info = read_regular(directory, name, info, folder.max_bytes)
            digest = hashlib.sha256(content).hexdigest()
            if standing is Standing.IN_DOUBT and provenance and provenance.audit_sha256 == digest and not self._force:
                return self._settle_doubt(work, directory, name, info, provenance)
            audit = read_audit(content, name=name, sha256=digest)
        except NotAnAudit as error:
            folder.remember(work.relative, info)
            self._trail.ignored(folder.shown(work.relative), _trigger(work), error.message)
            return Result(work, Outcome.IGNORED)
        except AuditError as error:
            digest = digest or work.digest
            waiting = self._maybe_unfinished(work, directory, name, info, error, digest)
            return waiting or self._reject(work, directory, name, info, error, digest, started)
        replaces = _identity(directory, config_name(name))
        selection = select(audit, folder.settings.selection)
        config = bench_config(audit, selection, folder.settings.bench)
        kept = self._kept(work, directory, name, info)
        decision = _Decision(audit, selection)
        return kept or self._write(work, directory, name, info, config, decision, started, replaces)

    def _unchanged(self, work: Work, reason: str, answer: Provenance | AuditError) -> Result:
        """Nothing to write. `answer` is what stands beside the audit; where that is a rejection, the result says so."""
        self._trail.unchanged(work.folder.shown(work.relative), _trigger(work), reason)
        return Result(work, Outcome.UNCHANGED, error=_shown(answer) if answer.code else None)

    def _settle_doubt(self, work: Work, directory: int, name: str, info: os.stat_result, answer: Provenance) -> Result:
        """The hash has decided: date the sidecar after the audit, so that no later scan need hash it again."""
        sidecar = error_name(name) if answer.code else config_name(name)
        if self._dry_run:
            return self._unchanged(work, "same content, same answer", answer)
        with contextlib.suppress(OSError):  # another owner's sidecar: the next scan asks again
            os.utime(sidecar, dir_fd=directory, follow_symlinks=False)
            if _changed(directory, name, info):
                os.utime(sidecar, ns=(0, 0), dir_fd=directory, follow_symlinks=False)
        if not answer.code:
            self._remove_report(directory, name)
        return self._unchanged(work, "same content, same answer", answer)

    def _maybe_unfinished(
        self, work: Work, directory: int, name: str, info: os.stat_result, error: AuditError, digest: str | None
    ) -> Result | None:
        """A result that says when to look again, or None if the verdict stands."""
        if error.code not in MAYBE_UNFINISHED:
            return None
        now = time.monotonic()
        if work.seen is not None and work.seen != _state(info):
            # Another writer is at it: that the last one has closed it says nothing any more.
            work.closed = work.trigger in {"closed", "moved"}
        writer = None if work.closed else has_writer(directory, name)
        if work.seen != _state(info):
            # The wall clock tells how long it has been unchanged, if it is the clock of who wrote it: on a file server
            # it may not be, and nobody can tell whether there is a writer. Then the time from our first look counts.
            age = max(0.0, time.time() - info.st_ctime) if work.closed or writer is False else 0.0
            work.seen, work.settles_from, work.attempts = _state(info), now - age, 0
            work.verdict, work.digest = error, digest
        work.attempts += 1
        unchanged = now - work.settles_from
        known_closed = work.closed or writer is False
        if unchanged >= self._settle and (known_closed or not _benefit_of_doubt(error, unchanged, writer=writer)):
            return None
        wait = min(_FIRST_WAIT * 2.0 ** min(work.attempts - 1, 20), _LONGEST_WAIT)
        if unchanged < self._settle:
            wait = min(wait, max(self._settle - unchanged, 0.01))
        if not work.told:
            work.told = True
            self._trail.deferred(work.folder.shown(work.relative), _trigger(work), f"maybe unfinished: {error.message}")
        return Result(work, Outcome.DEFERRED, error=error.message, retry_in=wait)

    def _kept(self, work: Work, directory: int, name: str, info: os.stat_result) -> Result | None:
        """If the config's place is taken by what is not benchd's own unedited work: say so, and leave it."""
        config = config_name(name)
        present = read_sidecar(directory, config)
        if present is None:
            return None
        content = present[0]
        provenance = provenance_of(content)
        if provenance is None:
            reason = "the file there is not benchd's; move it away to get the answer"
        elif provenance.audit != utf8(name) and config_name(provenance.audit) == utf8(config):
            # `x` and `x.json` would take turns for ever. A copy or a renamed pair is no such quarrel.
            reason = f"it answers another audit, {provenance.audit}"
        elif not unbroken(content):
            reason = "it was edited after benchd wrote it; move it away to get the new answer"
        else:
            return None
        if not self._dry_run:
            self._remove_report(directory, name)
        work.folder.remember(work.relative, info, beside=config)
        shown = work.folder.shown(work.relative)
        self._trail.kept(shown, _trigger(work), config=os.path.join(os.path.dirname(shown), config), reason=reason)
        return Result(work, Outcome.KEPT, reason=f"{config}: {reason}")

    def _reject(
        self,
        work: Work,
        directory: int,
        name: str,
        info: os.stat_result,
        error: AuditError,
        digest: str | None,
        started: float,
    ) -> _Prepared | Result:
        folder = work.folder
        size = info.st_size if digest is not None or error.code == "too_large" else None
        report = error_report(name, error, sha256=digest, size=size)
        present = read_sidecar(directory, error_name(name))
        if present is not None and present[0] == report and not self._force:
            with contextlib.suppress(OSError):
                if not self._dry_run:
                    os.utime(error_name(name), dir_fd=directory, follow_symlinks=False)
            return self._unchanged(work, "rejected before, for the same reason", error)
        no_room = len(os.fsencode(error_name(name))) > _NAME_MAX
        foreign = no_room or (present is not None and not unbroken(present[0]))
        if not folder.settings.bench.error_reports or foreign:
            folder.remember(work.relative, info, beside=error_name(name) if foreign and not no_room else None)
            self._trail.rejected(folder.shown(work.relative), _trigger(work), error)
            return Result(work, Outcome.REJECTED, error=_shown(error))
        return self._write(work, directory, name, info, report, error, started)

    def _write(
        self,
        work: Work,
        directory: int,
        name: str,
        info: os.stat_result,
        content: bytes,
        answer: _Decision | AuditError,
        started: float,
        replaces: tuple[int, int, int] | None = None,
    ) -> _Prepared | Result:
        if self._dry_run:
            if isinstance(answer, AuditError):
                return Result(work, Outcome.REJECTED, error=_shown(answer))
            return Result(work, Outcome.SELECTED, strategy=answer.selection.strategy)
        try:
            temporary = write_temporary(directory, content, durable=work.folder.settings.bench.durable)
        except OSError as error:
            return self._write_failed(work, error)
        return _Prepared(work, directory, name, info, temporary, answer, started, replaces)

    # --- second half ---------------------------------------------------------------------------------------

    def _record(self, item: _Prepared) -> _Prepared | Result:
        """Say what was decided, before it can be seen; unless the audit is another one by now."""
        work, answer = item.work, item.answer
        if _changed(item.directory, item.name, item.info):
            discard(item.directory, item.temporary)
            work.attempts += 1
            wait = min(_FIRST_WAIT * 2.0 ** min(work.attempts, 20) / 8, _LONGEST_CHASE)
            return Result(work, Outcome.DEFERRED, error="it changed while it was being answered", retry_in=wait)
        path = work.folder.shown(work.relative)
        if isinstance(answer, AuditError):
            self._trail.rejected(path, _trigger(work), answer)
        else:
            self._trail.selected(
                path,
                _trigger(work),
                audit=answer.audit,
                selection=answer.selection,
                config=os.path.join(os.path.dirname(path), config_name(item.name)),
                decision=decision_id(answer.audit, answer.selection, work.folder.settings.bench),
                duration_ms=(time.monotonic() - item.started) * 1000,
            )
        return item

    def _publish(self, item: _Prepared) -> _Published | Result:
        work, directory, name = item.work, item.directory, item.name
        try:
            if isinstance(item.answer, AuditError):
                publish(directory, item.temporary, error_name(name))
                return _Published(work, directory, Result(work, Outcome.REJECTED, error=_shown(item.answer)))
            # The report goes first: a crash in between leaves an unanswered audit, not one with two answers.
            self._remove_report(directory, name)
            if _identity(directory, config_name(name)) != item.replaces:
                # A person was quicker: what stands there now has not been looked at.
                discard(directory, item.temporary)
                return Result(work, Outcome.DEFERRED, error="its config changed meanwhile", retry_in=_FIRST_WAIT)
            publish(directory, item.temporary, config_name(name))
        except OSError as error:
            return self._write_failed(work, error)
        result = Result(work, Outcome.SELECTED, strategy=item.answer.selection.strategy)
        return _Published(work, directory, result)

    def _flush(self, steps: list[_Prepared | _Published | Result]) -> list[Result]:
        """Make the new names last, one wait a directory, and come to the results."""
        failed: dict[int, OSError] = {}
        for directory in {step.directory for step in steps if isinstance(step, _Published) and _durable(step.work)}:
            try:
                os.fsync(directory)
            except OSError as error:
                # Some file systems have no such thing for directories: their names are as lasting as they get.
                if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
                    failed[directory] = error
        results = []
        for step in steps:
            if isinstance(step, _Published):
                trouble = failed.get(step.directory)
                results.append(self._write_failed(step.work, trouble) if trouble else step.result)
            elif isinstance(step, Result):
                results.append(step)
        return results

    @staticmethod
    def _remove_report(directory: int, name: str) -> None:
        """The audit is usable now: an error report of ours about earlier content goes."""
        report = error_name(name)
        present = read_sidecar(directory, report)
        if present is not None and unbroken(present[0]):
            with contextlib.suppress(OSError):
                os.unlink(report, dir_fd=directory)

    def _write_failed(self, work: Work, error: OSError) -> Result:
        path = work.folder.shown(work.relative)
        wait, reason = _next_retry(work), explained(error, os.path.dirname(path), "write into")
        self._trail.write_failed(path, _trigger(work), error=reason, attempt=work.failures, retry_in_s=wait)
        return Result(work, Outcome.FAILED, error=f"can't write: {reason}", retry_in=wait)

    def _stumbled(self, work: Work, reason: str) -> Result:
        wait = _next_retry(work)
        path = work.folder.shown(work.relative)
        self._trail.failed(path, _trigger(work), error=reason, attempt=work.failures, retry_in_s=wait)
        return Result(work, Outcome.FAILED, error=reason, retry_in=wait)


def _benefit_of_doubt(error: AuditError, unchanged: float, *, writer: bool | None) -> bool:
    """Whether a bad file that has settled may still have a writer that will make it good."""
    if writer:
        return True
    # Nobody can tell. What a redirect of gradience looks like for minutes is waited for.
    return error.code in {"empty", "audit_interrupted"} and unchanged < _ABANDONED


def _check_name(name: str) -> None:
    """Refuse a name that leaves no room for the config's."""
    sidecar = config_name(name)
    size = len(os.fsencode(sidecar))
    if size > _NAME_MAX:
        raise refusal("name_too_long", sidecar=CONFIG_SUFFIX, size=size)


def _identity(directory: int, name: str) -> tuple[int, int, int] | None:
    """What tells one file in a place from another, or from an edit of it; None where there is none."""
    try:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return (info.st_ino, info.st_size, info.st_mtime_ns)


def _shown(rejection: Provenance | AuditError) -> str:
    return f"{rejection.message} [{rejection.code}]"


def _next_retry(work: Work) -> float:
    work.failures += 1
    return min(_FIRST_RETRY * 2.0 ** min(work.failures - 1, 20), _LONGEST_RETRY)


def _durable(work: Work) -> bool:
    return work.folder.settings.bench.durable


def _state(info: os.stat_result) -> tuple[int, int, int, int]:
    return (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def give_back(inbox: Inbox, result: Result) -> None:
    """Return the work of `result` to the inbox, for later if it asks for that."""
    if result.retry_in is None:
        inbox.done(result.work)
    else:
        inbox.again(result.work, result.retry_in)


def _trigger(work: Work) -> str:
    # A link appears whole, as what is moved in does; the trail knows no finer difference.
    return "moved" if work.trigger == "created" else work.trigger


def _changed(directory: int, name: str, info: os.stat_result) -> bool:
    try:
        now = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return (now.st_ino, now.st_size, now.st_ctime_ns) != (info.st_ino, info.st_size, info.st_ctime_ns)
