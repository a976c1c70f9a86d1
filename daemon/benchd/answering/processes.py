"""Many audits over several processes: what `benchd run` does with a backlog.

The processes are forks: each knows the work already, takes its share of it, and tells through a pipe what became of
it. One that dies takes no answers with it: what it has not told of, the parent answers.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import struct
import tempfile
from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple, NoReturn

import msgspec

from benchd.answering.batch import Answering
from benchd.answering.outcome import Outcome, Result
from benchd.audit.values import utf8
from benchd.inbox import Ticket
from benchd.trail.records import ThreadFailed
from benchd.trail.trail import Trail

__all__ = ["answer_all", "count_workers"]

#: More threads than this wait for each other rather than for the disk.
_MOST_AUTO: Final = 4

#: A batch shares its waits for the disk.
_BATCH: Final = 128

#: Fewer audits are answered sooner by one process than another one is forked.
_WORTH_A_PROCESS: Final = 128

_LENGTH: Final = struct.Struct("=I")


class _Told(NamedTuple):
    """One result on its way to the parent, its work by number."""

    number: int
    outcome: Outcome
    strategy: str | None
    error: str | None
    retry_in: float | None
    reason: str | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[_Told]).decode


def count_workers(setting: int | Literal["auto"]) -> int:
    """How many workers `watching.workers` asks for where they work at the same time: one a core, but not many."""
    return min(_MOST_AUTO, os.cpu_count() or 1) if setting == "auto" else setting


def answer_all(
    answering: Answering, works: list[Ticket], *, trail: Trail, processes: int, stopped: Callable[[], bool]
) -> Iterator[Result]:
    """The result of each of `works`, as they come, by at most so many `processes`; not of all once `stopped`."""
    missing = set(range(len(works)))
    processes = min(processes, len(works) // _WORTH_A_PROCESS)
    if processes > 1:
        descriptor, turns = tempfile.mkstemp()
        os.close(descriptor)
        trail.share(turns)
        os.unlink(turns)
        for told in _answer_forked(answering, works, trail, processes, stopped):
            missing.discard(told.number)
            yield Result(works[told.number], *told[1:])
    rest = [works[number] for number in sorted(missing)]
    for start in range(0, len(rest), _BATCH):
        if stopped():
            return
        yield from answering.answer(rest[start : start + _BATCH])


def _answer_forked(
    answering: Answering, works: list[Ticket], trail: Trail, processes: int, stopped: Callable[[], bool]
) -> Iterator[_Told]:
    children: list[int] = []
    with contextlib.ExitStack() as pipes, selectors.DefaultSelector() as selector:
        for share in range(processes):
            results, tell = os.pipe()
            child = os.fork()
            if child == 0:
                # The parent alone reads: when it is gone, writing must fail, not wait for ever.
                pipes.close()
                os.close(results)
                _work(lambda: _answer_share(answering, works, share, processes, tell, stopped), trail)  # noqa: B023
            os.close(tell)
            pipes.callback(os.close, results)
            children.append(child)
            selector.register(results, selectors.EVENT_READ, bytearray())
        try:
            yield from _collect(selector, children, stopped)
        finally:
            _stop(children)
            for child in children:
                os.waitpid(child, 0)


def _collect(selector: selectors.BaseSelector, children: list[int], stopped: Callable[[], bool]) -> Iterator[_Told]:
    """What the children tell, until each has closed its pipe."""
    told_to_stop = False
    while selector.get_map():
        if stopped() and not told_to_stop:
            told_to_stop = True
            _stop(children)
        for key, _ in selector.select(timeout=0.2):
            piece = os.read(key.fd, 2**20)
            if not piece:
                selector.unregister(key.fileobj)
                continue
            waiting: bytearray = key.data
            waiting += piece
            while len(waiting) >= _LENGTH.size:
                end = _LENGTH.size + _LENGTH.unpack_from(waiting)[0]
                if len(waiting) < end:
                    break
                yield from _decode(bytes(waiting[_LENGTH.size : end]))
                del waiting[:end]


def _stop(children: list[int]) -> None:
    """Ask the children to end after the batch that they are at, as the parent was asked."""
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)


def _work(task: Callable[[], None], trail: Trail) -> NoReturn:
    """A child's life."""
    code = 1
    try:
        task()
        code = 0
    except Exception as error:  # noqa: BLE001 - whatever it is, it is said
        name = f"process {os.getpid()}"
        failure = f"{type(error).__name__}: {error}"
        trail.write(ThreadFailed(thread=name, error=failure, recovery="its audits are answered by its parent"))
    finally:
        os._exit(code)  # nothing of the parent's is to be finished here


def _answer_share(
    answering: Answering, works: list[Ticket], share: int, shares: int, tell: int, stopped: Callable[[], bool]
) -> None:
    """Every so manieth batch, and what became of it."""
    numbers = {id(work): number for number, work in enumerate(works)}
    for start in range(share * _BATCH, len(works), shares * _BATCH):
        if stopped():
            break
        results = answering.answer(works[start : start + _BATCH])
        told = _encode([_told(numbers[id(result.ticket)], result) for result in results])
        _write(tell, _LENGTH.pack(len(told)) + told)


def _told(number: int, result: Result) -> _Told:
    # A path in them may be no text.
    error = None if result.error is None else utf8(result.error)
    reason = None if result.reason is None else utf8(result.reason)
    return _Told(number, result.outcome, result.strategy, error, result.retry_in, reason)


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
