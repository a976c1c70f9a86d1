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

from benchd.audit import AuditError, Costly, NotAnAudit
from benchd.bench import error_report
from benchd.deciding import Decision, decide
from benchd.document import utf8
from benchd.files import (
    Temporary,
    Vanished,
    discard,
    explained,
    flush,
    has_writer,
    look,
    open_regular,
    publish,
    read_regular,
    read_sidecar,
    write_temporary,
)
from benchd.folder import Beside, Standing
from benchd.inbox import Inbox, Work
from benchd.rejection import MAYBE_UNFINISHED, refusal
from benchd.sidecar import CONFIG_SUFFIX, Provenance, config_name, error_name, provenance_of, unbroken
from benchd.trail import Trail

__all__ = ["Answering", "Outcome", "Result"]

#: What file systems allow a name, in bytes.
_NAME_MAX: Final = 255

#: What makes one look at an audit because something happened to it.
_EVENTS: Final = frozenset({"closed", "moved", "created", "poll"})

#: Waits for a file that may be unfinished: the first, and the longest.
_FIRST_WAIT: Final = 0.05
_LONGEST_WAIT: Final = 30.0

#: The longest wait for a file that changes faster than it can be answered.
_LONGEST_CHASE: Final = 1.0

#: Waits after a failed write.
_FIRST_RETRY: Final = 1.0
_LONGEST_RETRY: Final = 60.0

#: Larger files are answered on a lane of their own, so that others need not wait for them. What is far from what
#: Gradience writes, or very large, is answered there in a process of its own; small files can't do harm.
_SMALL: Final = 128 * 2**10
_LARGE: Final = 2**20
_VERY_LARGE: Final = 16 * 2**20

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
    LARGE = "large"
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


class _Case(NamedTuple):
    """One audit as it was looked at: where it is, its `stat`, and what stood beside it."""

    work: Work
    directory: int
    name: str
    info: os.stat_result
    beside: Beside
    started: float

    @property
    def path(self) -> str:
        return self.work.folder.shown(self.work.relative)

    @property
    def trigger(self) -> str:
        return _trigger(self.work)

    @property
    def durable(self) -> bool:
        return self.work.folder.settings.bench.durable


class _Decided(NamedTuple):
    """The case as its content was read, that content's SHA-256, and what there is to say of it."""

    case: _Case
    digest: str | None
    answer: Decision | AuditError | Provenance


class _Prepared(NamedTuple):
    """An answer that is in the folder under a temporary name."""

    case: _Case
    temporary: Temporary
    answer: Decision | AuditError

    @property
    def work(self) -> Work:
        return self.case.work


class _Published(NamedTuple):
    """An answer that everybody can see; its name may not be on the disk yet."""

    case: _Case
    result: Result

    @property
    def work(self) -> Work:
        return self.case.work


#: How far an audit has come.
_Step = _Prepared | _Published | Result


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

    def answer(self, batch: list[Work], *, large: bool = True) -> list[Result]:
        """Answer every audit of `batch` and say what became of each, in any order.

        Unless `large`, files that could keep the others waiting are passed over (`Outcome.LARGE`). Raises nothing that
        a file can cause: each audit's trouble is its own result.
        """
        directories = _Directories()
        try:
            steps: list[_Step] = []
            shared: list[_Step] = []
            for work in batch:
                step = self._guarded(work, self._prepare, work, directories, large)
                if isinstance(step, _Prepared) and step.case.durable:
                    shared.append(step)  # its waits for the disk are those of others too
                    continue
                step = self._guarded(work, self._record, step)
                steps.append(self._guarded(work, self._publish, step))
            if shared:
                shared = [self._guarded(step.work, self._record, step) for step in shared]
                self._trail.flush_to_disk()
                steps += [self._guarded(step.work, self._publish, step) for step in shared]
            return self._flush(steps)
        finally:
            directories.close()

    def _guarded(self, work: Work, step: Callable[..., _Step], *arguments: Any) -> _Step:
        """One step for one audit, with every failure turned into its result. A result stays what it is."""
        if isinstance(arguments[0], Result):
            return arguments[0]
        try:
            return step(*arguments)
        except Vanished:
            result = Result(work, Outcome.GONE)
        except Costly:
            result = Result(work, Outcome.LARGE)
        except OSError as error:
            result = self._stumbled(work, error.strerror or str(error))
        except Exception as error:  # noqa: BLE001 - one bad file costs one record, whatever is wrong with it
            result = self._stumbled(work, f"{type(error).__name__}: {error}")
        if isinstance(arguments[0], _Prepared):
            discard(arguments[0].case.directory, arguments[0].temporary)
        return result

    # --- first half ----------------------------------------------------------------------------------------

    def _prepare(self, work: Work, directories: _Directories, large: bool) -> _Prepared | Result:  # noqa: FBT001
        """Read, decide, and write the answer under a temporary name."""
        started = time.monotonic()
        folder, name = work.folder, work.relative.rpartition("/")[2]
        directory = directories.open(work)
        info = look(directory, name)
        if info.st_size > _LARGE and not large and info.st_size <= folder.max_bytes:
            return Result(work, Outcome.LARGE)
        case = _Case(work, directory, name, info, Beside.read(directory, name), started)
        standing, provenance = folder.standing(name, info, case.beside)
        if standing is Standing.ANSWERED and work.trigger in _EVENTS:
            # It has just been written: dates that say otherwise are those of a clock that was set back and forth.
            standing = Standing.IN_DOUBT
        if standing is Standing.ANSWERED and provenance and not self._force:
            if not provenance.code and not self._dry_run:
                self._remove_report(case)  # of earlier content, by another daemon that was slower
            return self._unchanged(case, "answered before", provenance)
        answered = provenance if standing is Standing.IN_DOUBT and not self._force else None
        case, digest, answer = self._read_and_decide(case, answered, large=large)
        if isinstance(answer, Provenance):
            return self._settle_doubt(case, answer)
        if isinstance(answer, NotAnAudit):
            folder.remember(work.relative, case.info)
            self._trail.ignored(case.path, case.trigger, answer.message)
            return Result(work, Outcome.IGNORED)
        if isinstance(answer, AuditError):
            return self._maybe_unfinished(case, answer, digest) or self._reject(case, answer, digest)
        return self._kept(case) or self._write(case, answer.config, answer)

    def _read_and_decide(self, case: _Case, answered: Provenance | None, *, large: bool) -> _Decided:
        """Read the audit and decide; not if `answered`, which stands beside it, says that it is about this content.

        Unless `large` it raises `Costly` for what wants a process of its own.
        """
        work = case.work
        if work.verdict is not None and work.seen == _state(case.info) and work.verdict.code != "unreadable":
            # Still the content that was looked at before; only its writer may have gone.
            return _Decided(case, work.digest, work.verdict)
        digest = None
        try:
            _check_name(case.name)
            if case.info.st_size <= _VERY_LARGE:
                content, info = read_regular(case.directory, case.name, case.info, work.folder.max_bytes)
                case, digest = case._replace(info=info), hashlib.sha256(content).hexdigest()
                if answered is not None and answered.audit_sha256 == digest:
                    return _Decided(case, digest, answered)
                try:
                    return _Decided(case, digest, self._decide(case, content, digest))
                except Costly:
                    if not large:
                        raise
                    del content
            return self._decide_isolated(case, answered)
        except AuditError as error:
            return _Decided(case, digest, error)

    @staticmethod
    def _decide(case: _Case, content: bytes, digest: str) -> Decision:
        settings = case.work.folder.settings
        return decide(
            content,
            name=case.name,
            sha256=digest,
            selection=settings.selection,
            bench=settings.bench,
            adapter=case.beside.adapter,
            frugal=len(content) > _SMALL,
        )

    @staticmethod
    def _decide_isolated(case: _Case, answered: Provenance | None) -> _Decided:
        from benchd.isolated import decide_isolated  # noqa: PLC0415 - few ever meet such a file, all wait for the start

        folder = case.work.folder
        descriptor, info = open_regular(case.directory, case.name, case.info, folder.max_bytes)
        try:
            case = case._replace(info=info)
            if answered is not None and answered.audit_sha256 == _digest(descriptor):
                return _Decided(case, answered.audit_sha256, answered)
            verdict = decide_isolated(
                descriptor,
                size=info.st_size,
                name=utf8(case.name),
                selection=folder.settings.selection,
                bench=folder.settings.bench,
                adapter=case.beside.adapter,
            )
        finally:
            os.close(descriptor)
        try:
            return _Decided(case, verdict.audit_sha256, verdict.unwrap())
        except AuditError as error:
            return _Decided(case, verdict.audit_sha256, error)

    def _unchanged(self, case: _Case, reason: str, answer: Provenance | AuditError) -> Result:
        """Nothing to write. `answer` is what stands beside the audit; where that is a rejection, the result says so."""
        self._trail.unchanged(case.path, case.trigger, reason)
        return Result(case.work, Outcome.UNCHANGED, error=_shown(answer) if answer.code else None)

    def _settle_doubt(self, case: _Case, answer: Provenance) -> Result:
        """The hash has decided: date the sidecar after the audit, so that no later scan need hash it again."""
        directory, name = case.directory, case.name
        sidecar = error_name(name) if answer.code else config_name(name)
        if self._dry_run:
            return self._unchanged(case, "same content, same answer", answer)
        with contextlib.suppress(OSError):  # another owner's sidecar: the next scan asks again
            os.utime(sidecar, dir_fd=directory, follow_symlinks=False)
            if _changed(directory, name, case.info):
                os.utime(sidecar, ns=(0, 0), dir_fd=directory, follow_symlinks=False)
        if not answer.code:
            self._remove_report(case)
        return self._unchanged(case, "same content, same answer", answer)

    def _maybe_unfinished(self, case: _Case, error: AuditError, digest: str | None) -> Result | None:
        """A result that says when to look again, or None if the verdict stands."""
        if error.code not in MAYBE_UNFINISHED:
            return None
        work, now, state = case.work, time.monotonic(), _state(case.info)
        if work.seen is not None and work.seen != state:
            # Another writer is at it: that the last one has closed it says nothing any more.
            work.closed = work.trigger in {"closed", "moved"}
        writer = None if work.closed else has_writer(case.directory, case.name)
        if work.seen != state:
            # The wall clock tells how long it has been unchanged, if it is the clock of who wrote it: on a file server
            # it may not be, and nobody can tell whether there is a writer. Then the time from our first look counts.
            known = work.closed or writer is False
            age = max(0.0, time.time() - case.info.st_ctime) if known else 0.0
            work.seen, work.settles_from, work.attempts = state, now - age, 0
            # A copy: an exception holds on to the frames that it went through, and so to the content.
            work.verdict, work.digest = AuditError(error.code, error.message, error.hint), digest
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
            self._trail.deferred(case.path, case.trigger, f"maybe unfinished: {error.message}")
        return Result(work, Outcome.DEFERRED, error=error.message, retry_in=wait)

    def _kept(self, case: _Case) -> Result | None:
        """If the config's place is taken by what is not benchd's own unedited work: say so, and leave it."""
        if case.beside.config is None:
            return None
        name, config = case.name, config_name(case.name)
        content = case.beside.config[0]
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
            self._remove_report(case)
        case.work.folder.remember(case.work.relative, case.info, beside=config)
        self._trail.kept(case.path, case.trigger, config=_beside(case.path, config), reason=reason)
        return Result(case.work, Outcome.KEPT, reason=f"{config}: {reason}")

    def _reject(self, case: _Case, error: AuditError, digest: str | None) -> _Prepared | Result:
        work, name, present = case.work, case.name, case.beside.report
        size = case.info.st_size if digest is not None or error.code == "too_large" else None
        report = error_report(name, error, sha256=digest, size=size)
        if present is not None and present[0] == report and not self._force:
            with contextlib.suppress(OSError):
                if not self._dry_run:
                    os.utime(error_name(name), dir_fd=case.directory, follow_symlinks=False)
            return self._unchanged(case, "rejected before, for the same reason", error)
        no_room = len(os.fsencode(error_name(name))) > _NAME_MAX
        foreign = no_room or (present is not None and not unbroken(present[0]))
        if not work.folder.settings.bench.error_reports or foreign:
            work.folder.remember(work.relative, case.info, beside=error_name(name) if foreign and not no_room else None)
            self._trail.rejected(case.path, case.trigger, error)
            return Result(work, Outcome.REJECTED, error=_shown(error))
        return self._write(case, report, error)

    def _write(self, case: _Case, content: bytes, answer: Decision | AuditError) -> _Prepared | Result:
        if self._dry_run:
            if isinstance(answer, AuditError):
                return Result(case.work, Outcome.REJECTED, error=_shown(answer))
            return Result(case.work, Outcome.SELECTED, strategy=answer.selection.strategy)
        try:
            temporary = write_temporary(case.directory, content, durable=case.durable)
        except OSError as error:
            return self._write_failed(case, error)
        return _Prepared(case, temporary, answer)

    # --- second half ---------------------------------------------------------------------------------------

    def _record(self, item: _Prepared) -> _Prepared | Result:
        """Say what was decided, before it can be seen; unless the audit is another one by now."""
        case, answer = item.case, item.answer
        work = case.work
        if case.durable:
            try:
                item = item._replace(temporary=flush(case.directory, item.temporary))
            except OSError as error:
                return self._write_failed(case, error)
        if _changed(case.directory, case.name, case.info):
            discard(case.directory, item.temporary)
            work.attempts += 1
            wait = min(_FIRST_WAIT * 2.0 ** min(work.attempts, 20) / 8, _LONGEST_CHASE)
            return Result(work, Outcome.DEFERRED, error="it changed while it was being answered", retry_in=wait)
        if isinstance(answer, AuditError):
            self._trail.rejected(case.path, case.trigger, answer)
        else:
            self._trail.selected(
                case.path,
                case.trigger,
                decision=answer,
                config=_beside(case.path, config_name(case.name)),
                duration_ms=(time.monotonic() - case.started) * 1000,
            )
        return item

    def _publish(self, item: _Prepared) -> _Published | Result:
        case, answer = item.case, item.answer
        try:
            if isinstance(answer, AuditError):
                publish(case.directory, item.temporary, error_name(case.name))
                return _Published(case, Result(case.work, Outcome.REJECTED, error=_shown(answer)))
            # The report goes first: a crash in between leaves an unanswered audit, not one with two answers.
            self._remove_report(case)
            if _config_changed(case):
                # A person was quicker: what stands there now has not been looked at.
                discard(case.directory, item.temporary)
                error = "its config changed meanwhile"
                return Result(case.work, Outcome.DEFERRED, error=error, retry_in=_FIRST_WAIT)
            publish(case.directory, item.temporary, config_name(case.name))
        except OSError as error:
            return self._write_failed(case, error)
        return _Published(case, Result(case.work, Outcome.SELECTED, strategy=answer.selection.strategy))

    def _flush(self, steps: list[_Step]) -> list[Result]:
        """Make the new names last, one wait a directory, and come to the results."""
        failed: dict[int, OSError] = {}
        published = [step for step in steps if isinstance(step, _Published)]
        for directory in {item.case.directory for item in published if item.case.durable}:
            try:
                os.fsync(directory)
            except OSError as error:
                # Some file systems have no such thing for directories: their names are as lasting as they get.
                if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
                    failed[directory] = error
        results = [step for step in steps if isinstance(step, Result)]
        for item in published:
            trouble = failed.get(item.case.directory) if item.case.durable else None
            results.append(self._write_failed(item.case, trouble) if trouble else item.result)
        return results

    @staticmethod
    def _remove_report(case: _Case) -> None:
        """The audit is usable now: an error report of ours about earlier content goes."""
        if case.beside.report is None:
            return
        report = error_name(case.name)
        present = read_sidecar(case.directory, report)  # again: a person may have edited it since
        if present is not None and unbroken(present[0]):
            with contextlib.suppress(OSError):
                os.unlink(report, dir_fd=case.directory)

    def _write_failed(self, case: _Case, error: OSError) -> Result:
        if error.errno == errno.ENOENT:  # the folder is being deleted, or somebody removes all that is in it
            return Result(case.work, Outcome.DEFERRED, error="its folder changed meanwhile", retry_in=_FIRST_WAIT)
        wait, reason = _next_retry(case.work), explained(error, os.path.dirname(case.path), "write into")
        self._trail.write_failed(case.path, case.trigger, error=reason, attempt=case.work.failures, retry_in_s=wait)
        return Result(case.work, Outcome.FAILED, error=f"can't write: {reason}", retry_in=wait)

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


def _config_changed(case: _Case) -> bool:
    """Whether another file stands in the config's place than the one that was looked at, or an edit of it."""
    before = case.beside.config and case.beside.config[1]
    try:
        now = os.stat(config_name(case.name), dir_fd=case.directory, follow_symlinks=False)
    except FileNotFoundError:
        return before is not None
    return before is None or (now.st_ino, now.st_size, now.st_mtime_ns) != (
        before.st_ino,
        before.st_size,
        before.st_mtime_ns,
    )


def _beside(path: str, name: str) -> str:
    return os.path.join(os.path.dirname(path), name)


def _digest(descriptor: int) -> str:
    """The SHA-256 of an open file, read in pieces."""
    digest = hashlib.sha256()
    while piece := os.read(descriptor, _LARGE):
        digest.update(piece)
    return digest.hexdigest()


def _shown(rejection: Provenance | AuditError) -> str:
    return f"{rejection.message} [{rejection.code}]"


def _next_retry(work: Work) -> float:
    work.failures += 1
    return min(_FIRST_RETRY * 2.0 ** min(work.failures - 1, 20), _LONGEST_RETRY)


def _state(info: os.stat_result) -> tuple[int, int, int, int]:
    return (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def give_back(inbox: Inbox, result: Result) -> None:
    """Return the work of `result` to the inbox, for later or for the other lane if it asks for that."""
    if result.outcome is Outcome.LARGE:
        inbox.to_large(result.work)
    elif result.retry_in is None:
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
