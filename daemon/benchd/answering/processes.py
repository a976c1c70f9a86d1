"""Answer a backlog with several processes, as `benchd run` does.

The processes are forked, so they already have all tickets. Each receives the numbers of its batches and returns the
results. If a process dies, the main process answers its remaining audits.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from benchd.answering.batch import Answering
from benchd.answering.outcome import Outcome, Result
from benchd.inbox import Ticket
from benchd.trail.records import ThreadFailed
from benchd.trail.trail import Trail

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor

__all__ = ["answer_all", "count_workers"]

#: Maximum number of workers for "auto". More of them would wait for each other rather than for the disk.
_MOST_AUTO: Final = 4

#: Audits in a batch. They share the waits for the disk.
_BATCH: Final = 128

#: Batches that each process gets in advance: one to answer, and one to start without waiting for the main process.
_BATCHES_AHEAD: Final = 2

#: Seconds between checks for a signal.
_CHECK_SECONDS: Final = 0.1


def count_workers(setting: int | Literal["auto"]) -> int:
    """Return the number of workers for `watching.workers`. "auto" means one for each core, at most 4."""
    return min(_MOST_AUTO, os.cpu_count() or 1) if setting == "auto" else setting


def answer_all(
    answering: Answering, tickets: list[Ticket], *, trail: Trail, processes: int, stopped: Callable[[], bool]
) -> Iterator[Result]:
    """Answer `tickets` with at most `processes` processes. Yield each result when it is ready.

    Once `stopped()` is true, finish the batches in progress and skip the others.
    """
    batches = deque(tickets[start : start + _BATCH] for start in range(0, len(tickets), _BATCH))
    processes = min(processes, len(tickets) // _BATCH)
    # If a standard stream is closed, a pipe of the pool would get its number.
    if processes > 1 and None not in (sys.stdin, sys.stdout, sys.stderr):
        yield from _answer_forked(batches, answering, trail, processes, stopped)
    while batches and not stopped():
        yield from answering.answer(batches.popleft())


def _answer_forked(
    batches: deque[list[Ticket]], answering: Answering, trail: Trail, processes: int, stopped: Callable[[], bool]
) -> Iterator[Result]:
    """Answer `batches`. Afterwards `batches` holds those that no process has answered."""
    from concurrent.futures import FIRST_COMPLETED, wait  # noqa: PLC0415 - only large backlogs need it

    every = list(batches)
    waiting = deque(range(len(every)))
    batches.clear()
    held: dict[Future[list[_Told]], int] = {}
    with _pool(every, answering, trail, processes) as pool:
        try:
            while (waiting or held) and not stopped():
                while waiting and len(held) < processes * _BATCHES_AHEAD:
                    held[pool.submit(_answer, waiting[0])] = waiting[0]
                    waiting.popleft()
                for future in wait(held, _CHECK_SECONDS, FIRST_COMPLETED).done:
                    yield from _results(every[held[future]], future.result())
                    del held[future]
        except Exception as error:  # noqa: BLE001 - a process died or has a bug, so this process answers the rest
            reason = f"{type(error).__name__}: {error}"
            recovery = "the main process answers its audits"
            trail.write(ThreadFailed(thread="worker process", error=reason, recovery=recovery))
        for future in held:
            future.cancel()
        for future in wait(held).done:
            if future.cancelled() or future.exception() is not None:
                batches.append(every[held[future]])
            else:
                yield from _results(every[held[future]], future.result())
    batches.extend(every[number] for number in waiting)


@contextlib.contextmanager
def _pool(
    batches: list[list[Ticket]], answering: Answering, trail: Trail, processes: int
) -> Iterator[ProcessPoolExecutor]:
    """Return a pool whose processes lock the trail for each write, so that a pipe does not mix their long lines."""
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415 - only large backlogs need it
    from multiprocessing import get_context  # noqa: PLC0415
    from tempfile import NamedTemporaryFile  # noqa: PLC0415

    with NamedTemporaryFile(prefix="benchd-") as turns:
        trail.share(turns.name)
        begin = (batches, answering, trail, turns.name)
        # Forked, because a spawned process imports everything again, which takes as long as 1,000 answers.
        with ProcessPoolExecutor(processes, get_context("fork"), _begin, begin) as pool:
            yield pool


def _results(batch: list[Ticket], told: list[_Told]) -> Iterator[Result]:
    for result in told:
        yield Result(batch[result.number], *result[1:])


# --- a process of the pool ------------------------------------------------------------------------------------


class _Told(NamedTuple):
    """A result for the main process, which identifies the ticket by its number in the batch."""

    number: int
    outcome: Outcome
    strategy: str | None
    error: str | None
    retry_in: float | None
    reason: str | None


#: The work of a forked process. Empty in the main process.
_work: list[tuple[list[list[Ticket]], Answering]] = []


def _begin(batches: list[list[Ticket]], answering: Answering, trail: Trail, turns: str) -> None:
    """Initialise a process of the pool. The process ends when the main process ends."""
    trail.share(turns)  # each process needs its own open file for the lock
    _work.append((batches, answering))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    import multiprocessing  # noqa: PLC0415 - only a process of the pool needs it

    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _answer(number: int) -> list[_Told]:
    """Answer one batch."""
    batches, answering = _work[0]
    numbers = {id(ticket): place for place, ticket in enumerate(batches[number])}
    return [_Told(numbers[id(result.ticket)], *result[1:]) for result in answering.answer(batches[number])]
