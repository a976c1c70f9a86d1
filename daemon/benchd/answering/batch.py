"""Audits, end to end: the only place where the pure rooms and the outside meet.

A batch goes step by step: read all, decide all, write all under temporary names, record all, make all visible. Steps
of one kind share what they cost: the processor's caches above all, one write to the trail, the waits for the disk. The
order is the promise: record first, then config; and a last look at each audit in between, so that an answer to content
that has just changed is thrown away and made again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections import Counter, deque
from collections.abc import Callable
from enum import StrEnum
from typing import Final, NamedTuple, TypeVar

from benchd.answering.case import Case, Place, Places, trigger_of
from benchd.answering.retry import FIRST_WAIT, patience, state_of
from benchd.audit.audit import AuditError, Costly, NotAnAudit
from benchd.audit.refusals import refusal
from benchd.bench.config import error_report
from benchd.bench.deciding import Decision, decide
from benchd.bench.seal import Provenance, provenance_of, unbroken
from benchd.folder.files import (
    Temporary,
    Vanished,
    begin_to_flush,
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
from benchd.folder.flushing import flush_together
from benchd.folder.folder import Standing
from benchd.folder.names import CONFIG_SUFFIX, config_name
from benchd.inbox import Inbox, Work
from benchd.trail.trail import Trail
from benchd.values import utf8

__all__ = ["Answering", "Outcome", "Result"]

#: What file systems allow a name, in bytes.
_NAME_MAX: Final = 255
_LONGEST_CHARACTER: Final = 4

#: What makes one look at an audit because something happened to it.
_EVENTS: Final = frozenset({"closed", "moved", "created", "poll"})

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

#: So much of a batch is read before it is decided, and so much of answers kept before they are made visible.
_ROUND_BYTES: Final = 2**20


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


class _Read(NamedTuple):
    """The content of an audit, or None if a process of its own is to read it.

    `answered` is what its sidecar says of itself, where the hash is to tell whether that is about this content.
    """

    case: Case
    content: bytes | None
    answered: Provenance | None


class _Decided(NamedTuple):
    """What there is to say of an audit whose content has this SHA-256."""

    case: Case
    digest: str | None
    answer: Decision | AuditError | Provenance


class _Prepared(NamedTuple):
    """An answer that is in the folder under a temporary name."""

    case: Case
    temporary: Temporary
    answer: Decision | AuditError

    @property
    def size(self) -> int:
        """So many bytes it takes in memory, more or less."""
        return len(self.answer.config) if isinstance(self.answer, Decision) else 0


class _Published(NamedTuple):
    """An answer that everybody can see; its name may not be on the disk yet."""

    case: Case
    result: Result


_Step = _Read | _Decided | _Prepared | _Published
_Input = TypeVar("_Input", bound="Work | _Step")
_Output = TypeVar("_Output", bound=_Step)


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
        places = Places()
        results: list[Result] = []
        waiting = deque(batch)
        prepared: list[_Prepared] = []
        try:
            while waiting:
                read = self._read_some(waiting, places, results, large=large)
                decided = self._each(lambda item: self._decide(item, large=large), read, results)
                del read  # the contents
                prepared += self._each(self._conclude, decided, results)
                if not waiting or sum(item.size for item in prepared) > _ROUND_BYTES:
                    self._finish(prepared, results)
                    prepared = []
                    places.next_round()
            return results
        finally:
            places.close()

    def _read_some(
        self, waiting: deque[Work], places: Places, results: list[Result], *, large: bool
    ) -> list[_Read | _Decided]:
        """Take from `waiting` and read, until it is empty or this is enough for one round."""
        read: list[_Read | _Decided] = []
        size = 0
        while waiting and size < _ROUND_BYTES:
            found: list[_Read | _Decided] = self._each(
                lambda work: self._read(work, places, large=large), [waiting.popleft()], results
            )
            size += sum(item.case.info.st_size for item in found)
            read += found
        return read

    def _each(
        self, step: Callable[[_Input], _Output | Result], items: list[_Input], results: list[Result]
    ) -> list[_Output]:
        """One step for each of `items`: what comes of it, but for what is a result; that goes to `results`.

        Every failure is turned into the result of its audit.
        """
        passed: list[_Output] = []
        before = time.monotonic()
        for item in items:
            try:
                outcome = step(item)
            except Exception as error:  # noqa: BLE001 - one bad file costs one record, whatever is wrong with it
                if isinstance(item, _Prepared):
                    discard(item.case.directory, item.temporary)
                outcome = self._failed(item if isinstance(item, Work) else item.case.work, error)
            now = time.monotonic()
            if isinstance(outcome, Result):
                results.append(outcome)
            else:
                outcome.case.took += now - before
                passed.append(outcome)
            before = now
        return passed

    def _failed(self, work: Work, error: Exception) -> Result:
        if isinstance(error, Vanished):
            return Result(work, Outcome.GONE)
        if isinstance(error, Costly):
            return Result(work, Outcome.LARGE)
        if isinstance(error, OSError):
            return self._stumbled(work, error.strerror or str(error))
        return self._stumbled(work, f"{type(error).__name__}: {error}")

    # --- what is the answer? -------------------------------------------------------------------------------

    def _read(self, work: Work, places: Places, *, large: bool) -> _Read | _Decided | Result:
        """Read the audit, unless it is answered. The case has its `stat` from just before it was read."""
        folder = work.folder
        below, _, name = work.relative.rpartition("/")
        place = places.of(work, below)
        info = look(place.descriptor, name)
        if info.st_size > _LARGE and not large and info.st_size <= folder.max_bytes:
            return Result(work, Outcome.LARGE)
        case = Case(work, place, name, info)
        standing, provenance = folder.standing(name, info, case.beside)
        if standing is Standing.ANSWERED and case.trigger in _EVENTS:
            # It has just been written: dates that say otherwise are those of a clock that was set back and forth.
            standing = Standing.IN_DOUBT
        if standing is Standing.ANSWERED and provenance and not self._force:
            if not provenance.code and not self._dry_run:
                self._remove_report(case)  # of earlier content, by another daemon that was slower
            return self._unchanged(case, "answered before", provenance)
        if work.verdict is not None and work.seen == state_of(info) and work.verdict.code != "unreadable":
            # Still the content that was looked at before; only its writer may have gone.
            return _Decided(case, work.digest, work.verdict)
        answered = provenance if standing is Standing.IN_DOUBT and not self._force else None
        try:
            _check_name(case.config)
            if info.st_size > _VERY_LARGE:
                return _Read(case, None, answered)
            content, case.info = read_regular(case.directory, name, info, folder.max_bytes)
        except AuditError as error:
            return _Decided(case, None, error)
        return _Read(case, content, answered)

    def _decide(self, item: _Read | _Decided, *, large: bool) -> _Decided:
        """Decide; not if what stands beside the audit says that it is about this content.

        Unless `large` it raises `Costly` for what wants a process of its own.
        """
        if isinstance(item, _Decided):
            return item
        case, content, answered = item
        if content is None:
            return self._decide_isolated(case, answered)
        digest = hashlib.sha256(content).hexdigest()
        if answered is not None and answered.audit_sha256 == digest:
            return _Decided(case, digest, answered)
        settings = case.work.folder.settings
        try:
            decision = decide(
                content,
                name=case.name,
                sha256=digest,
                selection=settings.selection,
                bench=settings.bench,
                adapter=case.beside.adapter,
                frugal=len(content) > _SMALL,
                bounded=True,
            )
        except AuditError as error:
            return _Decided(case, digest, error)
        except Costly:
            if not large:
                raise
            return self._decide_isolated(case, answered)
        return _Decided(case, decision.audit_sha256, decision)

    @staticmethod
    def _decide_isolated(case: Case, answered: Provenance | None) -> _Decided:
        from benchd.answering.sandbox import decide_isolated  # noqa: PLC0415 - few ever meet such a file, all wait for the start

        folder, digest = case.work.folder, None
        try:
            descriptor, case.info = open_regular(case.directory, case.name, case.info, folder.max_bytes)
            try:
                if answered is not None and answered.audit_sha256 == _digest(descriptor):
                    return _Decided(case, answered.audit_sha256, answered)
                verdict = decide_isolated(
                    descriptor,
                    size=case.info.st_size,
                    name=utf8(case.name),
                    selection=folder.settings.selection,
                    bench=folder.settings.bench,
                    adapter=case.beside.adapter,
                )
            finally:
                os.close(descriptor)
            digest = verdict.audit_sha256
            return _Decided(case, digest, verdict.unwrap())
        except AuditError as error:
            return _Decided(case, digest, error)

    def _conclude(self, item: _Decided) -> _Prepared | Result:
        """Write the answer under a temporary name, or say why there is none."""
        case, digest, answer = item
        if isinstance(answer, Decision):
            return self._kept(case) or self._claim(case) or self._write(case, answer.config, answer)
        if isinstance(answer, Provenance):
            return self._settle_doubt(case, answer)
        if isinstance(answer, NotAnAudit):
            case.work.folder.remember(case.work.relative, case.info)
            self._trail.ignored(case.path, case.trigger, answer.message)
            return Result(case.work, Outcome.IGNORED)
        return self._maybe_unfinished(case, answer, digest) or self._reject(case, answer, digest)

    def _unchanged(self, case: Case, reason: str, answer: Provenance | AuditError) -> Result:
        """Nothing to write. `answer` is what stands beside the audit; where that is a rejection, the result says so."""
        self._trail.unchanged(case.path, case.trigger, reason)
        return Result(case.work, Outcome.UNCHANGED, error=_shown(answer) if answer.code else None)

    def _settle_doubt(self, case: Case, answer: Provenance) -> Result:
        """The hash has decided: date the sidecar after the audit, so that no later scan need hash it again."""
        directory = case.directory
        sidecar = case.report if answer.code else case.config
        if self._dry_run:
            return self._unchanged(case, "same content, same answer", answer)
        with contextlib.suppress(OSError):  # another owner's sidecar: the next scan asks again
            os.utime(sidecar, dir_fd=directory, follow_symlinks=False)
            if _changed(case):
                os.utime(sidecar, ns=(0, 0), dir_fd=directory, follow_symlinks=False)
        if not answer.code:
            self._remove_report(case)
        return self._unchanged(case, "same content, same answer", answer)

    def _maybe_unfinished(self, case: Case, error: AuditError, digest: str | None) -> Result | None:
        """A result that says when to look again, or None if the verdict stands."""
        work = case.work
        wait = patience(
            work,
            error,
            digest,
            case.info,
            settle=self._settle,
            has_writer=lambda: has_writer(case.directory, case.name),
        )
        if wait is None:
            return None
        if not work.told:
            work.told = True
            self._trail.deferred(case.path, case.trigger, f"maybe unfinished: {error.message}")
        return Result(work, Outcome.DEFERRED, error=error.message, retry_in=wait)

    def _kept(self, case: Case) -> Result | None:
        """If the config's place is taken by what is not benchd's own unedited work: say so, and leave it."""
        if case.beside.config is None:
            return None
        name, config = case.name, case.config
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
        self._trail.kept(case.path, case.trigger, config=case.place.shown + config, reason=reason)
        return Result(case.work, Outcome.KEPT, reason=f"{config}: {reason}")

    @staticmethod
    def _claim(case: Case) -> Result | None:
        """If another audit of this batch has a config of the same name (`x` and `x.json`): look again after it."""
        if case.config in case.place.claimed:
            error = f"another audit is being answered in {case.config}"
            return Result(case.work, Outcome.DEFERRED, error=error, retry_in=FIRST_WAIT)
        case.place.claimed.add(case.config)
        return None

    def _reject(self, case: Case, error: AuditError, digest: str | None) -> _Prepared | Result:
        work, name, present = case.work, case.name, case.beside.report
        size = case.info.st_size if digest is not None or error.code == "too_large" else None
        report = error_report(name, error, sha256=digest, size=size)
        if present is not None and present[0] == report and not self._force:
            with contextlib.suppress(OSError):
                if not self._dry_run:
                    os.utime(case.report, dir_fd=case.directory, follow_symlinks=False)
            return self._unchanged(case, "rejected before, for the same reason", error)
        no_room = len(os.fsencode(case.report)) > _NAME_MAX
        foreign = no_room or (present is not None and not unbroken(present[0]))
        if not work.folder.settings.bench.error_reports or foreign:
            work.folder.remember(work.relative, case.info, beside=case.report if foreign and not no_room else None)
            self._trail.rejected(case.path, case.trigger, error)
            return Result(work, Outcome.REJECTED, error=_shown(error))
        return self._write(case, report, error)

    def _write(self, case: Case, content: bytes, answer: Decision | AuditError) -> _Prepared | Result:
        if self._dry_run:
            if isinstance(answer, AuditError):
                return Result(case.work, Outcome.REJECTED, error=_shown(answer))
            return Result(case.work, Outcome.SELECTED, strategy=answer.selection.strategy)
        try:
            temporary = write_temporary(case.directory, content, durable=case.durable, group=case.place.group)
        except OSError as error:
            return self._write_failed(case, error)
        return _Prepared(case, temporary, answer)

    # --- for all to see ------------------------------------------------------------------------------------

    def _finish(self, prepared: list[_Prepared], results: list[Result]) -> None:
        """Record all that was decided, then make it visible; what is durable waits for the disk in between."""
        if len(prepared) == 1 and prepared[0].case.durable:
            begin_to_flush(prepared[0].temporary)  # one alone is on its way while it is recorded
        with self._trail.together():
            recorded = self._each(self._record, prepared, results)
        durable = [item.case for item in recorded if item.case.durable]
        if durable:
            flushed: set[int] = set()

            def together(device: int | None) -> bool:
                flushed.update(_flush_devices([case.place for case in durable], trail=device))
                return device in flushed

            self._trail.flush_to_disk(together)
            if len(durable) > 1:
                for item in recorded:
                    if item.case.durable and item.case.place.device not in flushed:
                        begin_to_flush(item.temporary)
            recorded = self._each(lambda item: self._flush_content(item, flushed), recorded, results)
        published = self._each(self._publish, recorded, results)
        results += self._flush_names(published) if durable else [result for _, result in published]

    def _flush_content(self, item: _Prepared, flushed: set[int]) -> _Prepared | Result:
        if not item.case.durable:
            return item
        try:
            waited = item.case.place.device in flushed
            return item._replace(temporary=flush(item.case.directory, item.temporary, waited=waited))
        except OSError as error:
            return self._write_failed(item.case, error)

    def _record(self, item: _Prepared) -> _Prepared | Result:
        """Say what was decided, before it can be seen; unless the audit is another one by now."""
        case, answer = item.case, item.answer
        work = case.work
        if _changed(case):
            discard(case.directory, item.temporary)
            work.attempts += 1
            wait = min(FIRST_WAIT * 2.0 ** min(work.attempts, 20) / 8, _LONGEST_CHASE)
            return Result(work, Outcome.DEFERRED, error="it changed while it was being answered", retry_in=wait)
        if isinstance(answer, AuditError):
            self._trail.rejected(case.path, case.trigger, answer)
        else:
            config = case.place.shown + case.config
            self._trail.selected(case.path, case.trigger, decision=answer, config=config, duration_ms=case.took * 1000)
        return item

    def _publish(self, item: _Prepared) -> _Published | Result:
        case, answer = item.case, item.answer
        rejected = isinstance(answer, AuditError)
        name, before = (case.report, case.beside.report) if rejected else (case.config, case.beside.config)
        try:
            if not rejected:
                # The report goes first: a crash in between leaves an unanswered audit, not one with two answers.
                self._remove_report(case)
            if _is_another(case.directory, name, before):
                # A person was quicker: what stands there now has not been looked at.
                discard(case.directory, item.temporary)
                return Result(case.work, Outcome.DEFERRED, error=f"{name} changed meanwhile", retry_in=FIRST_WAIT)
            publish(case.directory, item.temporary, name)
        except OSError as error:
            discard(case.directory, item.temporary)
            return self._write_failed(case, error)
        if isinstance(answer, AuditError):
            return _Published(case, Result(case.work, Outcome.REJECTED, error=_shown(answer)))
        return _Published(case, Result(case.work, Outcome.SELECTED, strategy=answer.selection.strategy))

    def _flush_names(self, published: list[_Published]) -> list[Result]:
        """Make the new names of what is durable last, one wait a directory at most, and come to the results."""
        places = list({id(item.case.place): item.case.place for item in published if item.case.durable}.values())
        failed: dict[int, OSError] = {}
        flushed = _flush_devices(places)
        for place in places:
            try:
                if place.device not in flushed:
                    os.fsync(place.descriptor)
            except OSError as error:
                # Some file systems have no such thing for directories: their names are as lasting as they get.
                if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
                    failed[place.descriptor] = error
        results = []
        for case, result in published:
            trouble = failed.get(case.directory) if failed and case.durable else None
            results.append(self._write_failed(case, trouble) if trouble else result)
        return results

    @staticmethod
    def _remove_report(case: Case) -> None:
        """The audit is usable now: an error report of ours about earlier content goes."""
        if case.beside.report is None:
            return
        present = read_sidecar(case.directory, case.report)  # again: a person may have edited it since
        if present is not None and unbroken(present[0]):
            with contextlib.suppress(OSError):
                os.unlink(case.report, dir_fd=case.directory)

    def _write_failed(self, case: Case, error: OSError) -> Result:
        if error.errno == errno.ENOENT:  # the folder is being deleted, or somebody removes all that is in it
            return Result(case.work, Outcome.DEFERRED, error="its folder changed meanwhile", retry_in=FIRST_WAIT)
        wait, reason = _next_retry(case.work), explained(error, os.path.dirname(case.path), "write into")
        self._trail.write_failed(case.path, case.trigger, error=reason, attempt=case.work.failures, retry_in_s=wait)
        return Result(case.work, Outcome.FAILED, error=f"can't write: {reason}", retry_in=wait)

    def _stumbled(self, work: Work, reason: str) -> Result:
        wait = _next_retry(work)
        path = work.folder.shown(work.relative)
        self._trail.failed(path, trigger_of(work), error=reason, attempt=work.failures, retry_in_s=wait)
        return Result(work, Outcome.FAILED, error=reason, retry_in=wait)


def _flush_devices(places: list[Place], *, trail: int | None = None) -> set[int]:
    """Flush each device, where that is one wait for many; returns those that it was done for.

    There is a file to wait for in each of `places`, and the one that is on the device `trail`, if any.
    """
    descriptors = {place.device: place.descriptor for place in places}
    waits = Counter([place.device for place in places] + [trail] * (trail in descriptors))
    return {device for device in descriptors if flush_together(descriptors[device], device, waits[device])}


def _check_name(sidecar: str) -> None:
    """Refuse a name that leaves no room for the config's."""
    if len(sidecar) * _LONGEST_CHARACTER <= _NAME_MAX:
        return
    size = len(os.fsencode(sidecar))
    if size > _NAME_MAX:
        raise refusal("name_too_long", sidecar=CONFIG_SUFFIX, size=size)


def _is_another(directory: int, name: str, before: tuple[bytes, os.stat_result] | None) -> bool:
    """Whether another file stands in a sidecar's place than the one that was looked at, or an edit of it."""
    try:
        now = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return before is not None
    if before is None:
        return True
    info = before[1]
    return (now.st_ino, now.st_size, now.st_mtime_ns) != (info.st_ino, info.st_size, info.st_mtime_ns)


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


def give_back(inbox: Inbox, result: Result) -> None:
    """Return the work of `result` to the inbox, for later or for the other lane if it asks for that."""
    if result.outcome is Outcome.LARGE:
        inbox.to_large(result.work)
    elif result.retry_in is None:
        inbox.done(result.work)
    else:
        inbox.again(result.work, result.retry_in)


def _changed(case: Case) -> bool:
    """Whether the audit is another one than the one that was read."""
    info = case.info
    try:
        now = os.stat(case.name, dir_fd=case.directory, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return (now.st_ino, now.st_size, now.st_ctime_ns) != (info.st_ino, info.st_size, info.st_ctime_ns)
