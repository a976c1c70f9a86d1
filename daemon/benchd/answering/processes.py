"""Answer a backlog with several processes, as `benchd run` does.

This process answers one batch after another. Helper processes take batches off the same list, so that nothing waits
for their start. If a helper fails, this process answers its batches.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from benchd.answering.batch import Answering
from benchd.answering.outcome import Outcome, Result
from benchd.folder.folder import Folder
from benchd.inbox import Ticket
from benchd.settings.keys import FolderSettings, TrailSettings
from benchd.trail.console import console_line
from benchd.trail.records import ThreadFailed
from benchd.trail.trail import Trail

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor
    from multiprocessing.synchronize import Event

__all__ = ["RunSettings", "answer_all", "count_workers"]

#: More workers than this wait for each other rather than for the disk.
_MOST_AUTO: Final = 4

#: Audits in a batch. They share their waits for the disk.
_BATCH: Final = 128

#: Batches that a helper holds at a time: one to answer, and one to start on without waiting for this process.
_BATCHES_AHEAD: Final = 2

#: Minimum audits for each process: one process answers them about as fast as another one starts.
_WORTH_A_PROCESS: Final = 1000

#: Seconds between checks for a signal while only helpers are at work.
_CHECK_SECONDS: Final = 0.1


class RunSettings(NamedTuple):
    """The settings that all processes of a run share. Plain data, so that a helper can be given it."""

    trail: TrailSettings
    settle: float
    force: bool = False
    dry_run: bool = False

    def open_trail(self) -> Trail:
        """Open the trail."""
        return Trail.open(self.trail, console=console_line)

    def answering(self, trail: Trail) -> Answering:
        """Return an `Answering` that writes its records to `trail`."""
        return Answering(trail, settle=self.settle, force=self.force, dry_run=self.dry_run)


def count_workers(setting: int | Literal["auto"]) -> int:
    """Return the number of workers that `watching.workers` asks for; "auto" means one for each core, at most 4."""
    return min(_MOST_AUTO, os.cpu_count() or 1) if setting == "auto" else setting


def answer_all(
    tickets: list[Ticket],
    settings: RunSettings,
    *,
    trail: Trail,
    processes: int,
    stopped: Callable[[], bool],
    worth: int = _WORTH_A_PROCESS,
) -> Iterator[Result]:
    """Answer `tickets` with at most `processes` processes, this one included; yield results as they come.

    Start another process only for each `worth` audits. Once `stopped()` is true, finish the batches that were begun
    and leave the others.
    """
    batches = deque(tickets[start : start + _BATCH] for start in range(0, len(tickets), _BATCH))
    answering = settings.answering(trail)
    helpers = min(processes, len(tickets) // worth) - 1
    # If a standard stream is closed, a pipe of the executor's would take its number in the helper.
    if helpers > 0 and None not in (sys.stdin, sys.stdout, sys.stderr):
        yield from _answer_with_helpers(batches, answering, settings, trail, helpers, stopped)
    while batches and not stopped():
        yield from answering.answer(batches.popleft())


def _answer_with_helpers(
    batches: deque[list[Ticket]],
    answering: Answering,
    settings: RunSettings,
    trail: Trail,
    number: int,
    stopped: Callable[[], bool],
) -> Iterator[Result]:
    """Answer `batches` together with a `number` of helpers."""
    from concurrent.futures import FIRST_COMPLETED, wait  # noqa: PLC0415 - only large backlogs pay for it

    with _started(number, batches, settings, trail) as (helpers, stop):
        while batches or any(helper.held for helper in helpers):
            if stopped():
                stop.set()
                batches.clear()
            if batches:
                yield from answering.answer(batches.popleft())
            else:
                wait([future for helper in helpers for future in helper.held], _CHECK_SECONDS, FIRST_COMPLETED)
            for helper in helpers:
                yield from helper.exchange(batches)


@contextlib.contextmanager
def _started(
    number: int, batches: deque[list[Ticket]], settings: RunSettings, trail: Trail
) -> Iterator[tuple[list[_Helper], Event]]:
    """Start helpers, and end them with the block. Once the event is set they begin no other batch."""
    from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415 - only large backlogs pay for it
    from multiprocessing import get_context  # noqa: PLC0415
    from tempfile import NamedTemporaryFile  # noqa: PLC0415

    context = get_context("spawn")
    stop = context.Event()
    folders = list({ticket.folder: None for batch in batches for ticket in batch})
    plain = [(folder.settings, folder.max_bytes) for folder in folders]
    with NamedTemporaryFile(prefix="benchd-") as turns, contextlib.ExitStack() as executors:
        trail.share(turns.name)
        helpers = []
        # The helpers inherit the blocked signals: this process alone decides when they stop.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            for count in range(1, number + 1):
                executor = executors.enter_context(
                    ProcessPoolExecutor(
                        1, mp_context=context, initializer=_begin, initargs=(settings, plain, turns.name, stop)
                    )
                )
                helpers.append(_Helper(f"helper {count}", executor, folders, trail))
        except OSError as error:  # the system allows no more processes
            _record_failure(trail, f"helper {count}", error)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        executors.callback(stop.set)
        yield helpers, stop


class _Helper:
    """A process that answers some of the batches.

    It has a separate executor, because an executor gives up all its processes when one of them dies.
    """

    def __init__(self, name: str, executor: ProcessPoolExecutor, folders: list[Folder], trail: Trail) -> None:
        #: The batches that it has not answered yet.
        self.held: dict[Future[list[_Told]], list[Ticket]] = {}
        self._name = name
        self._executor = executor
        self._numbers = {folder: number for number, folder in enumerate(folders)}
        self._trail = trail
        self._failed = False
        self._give([])  # it gets audits once it has started; until then this process answers them

    def _give(self, batch: list[Ticket]) -> None:
        audits = [(self._numbers[ticket.folder], ticket.relative) for ticket in batch]
        self.held[self._executor.submit(_answer, audits)] = batch

    def exchange(self, batches: deque[list[Ticket]]) -> list[Result]:
        """Return what it has answered, and give it more of `batches`. Put back what it failed to answer."""
        results: list[Result] = []
        for future in [future for future in self.held if future.done()]:
            batch = self.held.pop(future)
            try:
                results += [Result(batch[told.number], *told[1:]) for told in future.result()]
            except Exception as error:  # noqa: BLE001 - the process died, or met a bug; this one goes on without it
                batches.append(batch)
                self._fail(error)
            while batches and not self._failed and len(self.held) < _BATCHES_AHEAD:
                try:
                    self._give(batches[0])
                except RuntimeError as error:  # it died a moment ago
                    self._fail(error)
                else:
                    batches.popleft()
        return results

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            _record_failure(self._trail, self._name, error)
        self._failed = True


def _record_failure(trail: Trail, helper: str, error: Exception) -> None:
    recovery = "the main process answers its audits"
    trail.write(ThreadFailed(thread=helper, error=f"{type(error).__name__}: {error}", recovery=recovery))


# --- the helper itself ----------------------------------------------------------------------------------------


class _Told(NamedTuple):
    """A result on its way to the main process, which knows the audit by its number in the batch."""

    number: int
    outcome: Outcome
    strategy: str | None
    error: str | None
    retry_in: float | None
    reason: str | None


class _Answerer:
    """Answers batches in a helper. It opens the trail for the first batch, which can report a failure."""

    def __init__(
        self, settings: RunSettings, folders: list[tuple[FolderSettings, int]], turns: str, stop: Event
    ) -> None:
        self._settings = settings
        self._folders = [Folder(folder, max_bytes=max_bytes) for folder, max_bytes in folders]
        self._turns = turns
        self._stop = stop
        self._answering: Answering | None = None

    def answer(self, audits: list[tuple[int, str]]) -> list[_Told]:
        """Answer audits, given as folder number and relative path; answer none if the main process has stopped."""
        if self._answering is None:
            trail = self._settings.open_trail()
            trail.share(self._turns)
            self._answering = self._settings.answering(trail)
            gc.freeze()
        if self._stop.is_set():
            return []
        tickets = [Ticket(self._folders[folder], relative, "command") for folder, relative in audits]
        numbers = {id(ticket): number for number, ticket in enumerate(tickets)}
        return [_Told(numbers[id(result.ticket)], *result[1:]) for result in self._answering.answer(tickets)]


#: One in a helper, none in the main process.
_answerers: list[_Answerer] = []


def _begin(*start: Any) -> None:
    """Begin a helper, which ends when the main process ends."""
    _answerers.append(_Answerer(*start))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    import multiprocessing  # noqa: PLC0415 - the main process may have no helpers

    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


def _answer(audits: list[tuple[int, str]]) -> list[_Told]:
    return _answerers[0].answer(audits)
