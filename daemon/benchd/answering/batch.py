"""Answer a batch of audits: tickets in, results out. Only this module connects the pure packages with the outside.

A batch goes step by step: read all, decide all, write all under temporary names, record all, make all visible. The
audits of a step share the CPU's caches, one write to the trail, and the waits for the disk.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from benchd.answering.case import Case, Places
from benchd.answering.concluding import Concluder
from benchd.answering.disk import Disk
from benchd.answering.judging import Judge
from benchd.answering.outcome import Outcome, Result
from benchd.answering.publishing import Publisher
from benchd.answering.reading import Reader
from benchd.answering.retry import Patience, history_of
from benchd.bench.deciding import Decision, decide
from benchd.folder.files import Vanished
from benchd.folder.flushing import Flusher
from benchd.inbox import Ticket
from benchd.trail.records import AuditFailed
from benchd.trail.trail import Trail

__all__ = ["Answering"]

#: Maximum bytes of audits to read before deciding, and of configs to keep before publishing.
_ROUND_BYTES: Final = 2**20

_Item = TypeVar("_Item", Ticket, Case)


class Answering:
    """Answers audits of any folder. Thread-safe, because all state is in the batch.

    `settle` is the number of seconds for which a bad file must be unchanged before it is rejected. With `force`
    answered audits are answered again. With `dry_run` nothing is written. `disk`, `flusher`, `decide` and `patience`
    are for tests.
    """

    def __init__(
        self,
        trail: Trail,
        *,
        settle: float = 2.0,
        force: bool = False,
        dry_run: bool = False,
        disk: Disk | None = None,
        flusher: Flusher | None = None,
        decide: Callable[..., Decision] = decide,
        patience: Patience | None = None,
    ) -> None:
        disk = disk or Disk()
        patience = patience or Patience(settle, disk.has_writer)
        self._trail = trail
        self._reader = Reader(disk, force=force)
        self._judge = Judge(disk, decide)
        concluder = Concluder(trail, disk, patience, force=force, dry_run=dry_run)
        self._publisher = Publisher(trail, disk, flusher or Flusher(), concluder, dry_run=dry_run)

    def answer(self, tickets: list[Ticket], *, may_take_long: bool = True) -> list[Result]:
        """Answer every ticket. Return the results in any order.

        Unless `may_take_long`, large files get `Outcome.LEFT`: their lane answers them. No file can cause an exception:
        each failure is the result of its ticket.
        """
        results: list[Result] = []
        each = partial(self._each, results)
        waiting, prepared = deque(tickets), list[Case]()
        with Places() as places:
            while waiting:
                cases = self._read_round(waiting, places, results, may_take_long=may_take_long)
                cases = each(partial(self._judge.judge, may_take_long=may_take_long), cases)
                prepared += each(self._publisher.prepare, cases)
                if not waiting or sum(map(_config_bytes, prepared)) > _ROUND_BYTES:
                    results += self._publisher.publish(prepared, each)
                    prepared = []
                    if waiting:
                        places.forget_claims()
        return results

    def _read_round(
        self, waiting: deque[Ticket], places: Places, results: list[Result], *, may_take_long: bool
    ) -> list[Case]:
        """Read from `waiting` until it is empty or the round has enough bytes."""
        read = partial(self._reader.read, places=places, may_take_long=may_take_long)
        cases: list[Case] = []
        size = 0
        while waiting and size < _ROUND_BYTES:
            found = self._each(results, read, [waiting.popleft()])
            size += sum(case.info.st_size for case in found)
            cases += found
        return cases

    def _each(self, results: list[Result], step: Callable[[_Item], Case | Result], items: list[_Item]) -> list[Case]:
        """Run one step for each item. Return the cases that continue, and add the other results to `results`.

        Every exception becomes the result of its ticket.
        """
        passed: list[Case] = []
        before = time.monotonic()
        for item in items:
            try:
                outcome = step(item)
            except Exception as error:  # noqa: BLE001 - one bad file costs one record, for any error
                outcome = self._failed(item, error)
            now = time.monotonic()
            if isinstance(outcome, Case):
                outcome.seconds += now - before
                passed.append(outcome)
            else:
                results.append(outcome)
            before = now
        return passed

    def _failed(self, item: Ticket | Case, error: Exception) -> Result:
        ticket = item
        if isinstance(item, Case):
            self._publisher.discard(item)
            ticket = item.ticket
        assert isinstance(ticket, Ticket)  # noqa: S101 - for the type checker
        if isinstance(error, Vanished):
            return Result(ticket, Outcome.GONE)
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
        history, path = history_of(ticket), ticket.folder.shown(ticket.relative)
        wait = history.next_failure()
        trigger, attempt = ticket.trigger, history.failures
        self._trail.write(AuditFailed(audit=path, trigger=trigger, error=reason, attempt=attempt, retry_in_s=wait))
        return Result(ticket, Outcome.FAILED, error=reason, retry_in=wait)


def _config_bytes(case: Case) -> int:
    return len(case.answer.config) if isinstance(case.answer, Decision) else 0
