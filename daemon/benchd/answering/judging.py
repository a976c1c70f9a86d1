"""Decide the answer of a case, in this process or in the sandbox."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from benchd.answering.case import Case
from benchd.answering.disk import Disk
from benchd.answering.outcome import Outcome, Result
from benchd.audit.refusals import AuditError
from benchd.audit.unread import Costly
from benchd.audit.values import utf8
from benchd.bench.deciding import Decision, decide

if TYPE_CHECKING:
    from benchd.answering.sandbox import Verdict

__all__ = ["Judge"]

#: Maximum bytes of files that are decided without checking their density, because they are too small to do harm.
_SMALL: Final = 128 * 2**10

_PIECE_BYTES: Final = 2**20


def _decide_in_sandbox(descriptor: int, **options: Any) -> Verdict:
    from benchd.answering.sandbox import decide_isolated  # noqa: PLC0415 - few files need it, and importing is slow

    return decide_isolated(descriptor, **options)


class Judge:
    """Decides the answer to the content of a case. Tests can pass another `decide` or `sandbox`."""

    def __init__(
        self,
        disk: Disk,
        decide: Callable[..., Decision] = decide,
        sandbox: Callable[..., Verdict] = _decide_in_sandbox,
    ) -> None:
        self._disk = disk
        self._decide = decide
        self._sandbox = sandbox

    def judge(self, case: Case, *, may_take_long: bool) -> Case | Result:
        """Set the answer of `case`, if it has none.

        Unless `may_take_long`, return `Outcome.LEFT` for content that only the sandbox can decide.
        """
        if case.answer is not None:
            return case
        content, case.content = case.content, None  # frees the content before the answer is published
        if content is None:
            return self._judge_in_sandbox(case)
        case.digest = hashlib.sha256(content).hexdigest()
        if case.answered is not None and case.answered.audit_sha256 == case.digest:
            case.answer = case.answered
            return case
        settings = case.ticket.folder.settings
        try:
            case.answer = self._decide(
                content,
                name=case.name,
                sha256=case.digest,
                selection=settings.selection,
                bench=settings.bench,
                adapter=case.beside.adapter,
                frugal=len(content) > _SMALL,
                bounded=True,
            )
        except AuditError as error:
            case.refuse(error)
        except Costly:
            return self._judge_in_sandbox(case) if may_take_long else Result(case.ticket, Outcome.LEFT)
        return case

    def _judge_in_sandbox(self, case: Case) -> Case:
        folder = case.ticket.folder
        try:
            descriptor, case.info = self._disk.open(case.directory, case.name, case.info, folder.max_bytes)
            try:
                if case.answered is not None and case.answered.audit_sha256 == _digest(descriptor):
                    case.digest, case.answer = case.answered.audit_sha256, case.answered
                    return case
                verdict = self._sandbox(
                    descriptor,
                    size=case.info.st_size,
                    name=utf8(case.name),
                    selection=folder.settings.selection,
                    bench=folder.settings.bench,
                    adapter=case.beside.adapter,
                )
            finally:
                os.close(descriptor)
            case.digest = verdict.audit_sha256
            case.answer = verdict.unwrap()
        except AuditError as error:
            case.refuse(error)
        return case


def _digest(descriptor: int) -> str:
    """Return the SHA-256 of an open file, read in pieces."""
    digest = hashlib.sha256()
    while piece := os.read(descriptor, _PIECE_BYTES):
        digest.update(piece)
    return digest.hexdigest()
