"""Decide when to try an audit again: the history of attempts, growing waits, and patience with writers.

docs/spec.md, section 2 has the rules for files that may be unfinished.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from benchd.audit.refusals import MAYBE_UNFINISHED, AuditError
from benchd.inbox import Ticket

__all__ = ["CHANGED", "FAILED", "SOON", "UNFINISHED", "Backoff", "History", "Patience", "history_of", "state_of"]


class Backoff(NamedTuple):
    """Waits in seconds that double from `first` to `longest`."""

    first: float
    longest: float

    def wait(self, attempt: int) -> float:
        """Return the wait after attempt number `attempt`; the first is 1."""
        return float(min(self.first * 2.0 ** min(attempt - 1, 30), self.longest))


#: For a file that may be unfinished.
UNFINISHED: Final = Backoff(0.05, 30.0)

#: For a file that changes while it is being answered.
CHANGED: Final = Backoff(0.0125, 1.0)

#: After a failed write, or a failure of benchd itself.
FAILED: Final = Backoff(1.0, 60.0)

#: Seconds until the next attempt after a conflict with another process in the folder.
SOON: Final = 0.05

#: Seconds after which benchd rejects a file without content, if the system can't say whether it has a writer.
_ABANDONED: Final = 3600.0

#: Inode, size, mtime and ctime (ns). If one of them differs, the content may differ.
State = tuple[int, int, int, int]


class History:
    """The observations of earlier attempts to answer a ticket."""

    __slots__ = ("attempts", "digest", "failures", "is_recorded", "settles_from", "state", "verdict")

    def __init__(self) -> None:
        #: Attempts since the file's state changed.
        self.attempts = 0
        self.failures = 0
        self.state: State | None = None
        #: The error in the content of that state, and its SHA-256.
        self.verdict: AuditError | None = None
        self.digest: str | None = None
        #: The time (monotonic, seconds) since which the file is in that state.
        self.settles_from = 0.0
        #: True once the trail has a record that benchd waits for this file.
        self.is_recorded = False

    def next_failure(self) -> float:
        """Count one more failure. Return the seconds until the next attempt."""
        self.failures += 1
        return FAILED.wait(self.failures)

    def next_change(self) -> float:
        """Count one more change during an attempt. Return the seconds until the next attempt."""
        self.attempts += 1
        return CHANGED.wait(self.attempts)


def history_of(ticket: Ticket) -> History:
    """Return the history of `ticket`. The first call creates it."""
    if ticket.history is None:
        ticket.history = History()
    assert isinstance(ticket.history, History)  # noqa: S101 - for the type checker; only this module writes it
    return ticket.history


def state_of(info: os.stat_result) -> State:
    """Return the values that change when the content of a file changes."""
    return (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


class Patience(NamedTuple):
    """Decides how long to wait for a bad file that a writer may still complete.

    `settle` is the number of seconds for which a bad file must be unchanged. `has_writer` takes an open directory and a
    name. It returns whether a process has the file open for writing, or None if the system can't say. `wall` and
    `steady` are the clocks.
    """

    settle: float
    has_writer: Callable[[int, str], bool | None]
    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic

    def wait(
        self, ticket: Ticket, error: AuditError, digest: str | None, info: os.stat_result, directory: int, name: str
    ) -> float | None:
        """Return the seconds until the next attempt, or None if the verdict `error` is final.

        `info` is the file's `stat` from before it was read.
        """
        if error.code not in MAYBE_UNFINISHED:
            return None
        history, now, state = history_of(ticket), self.steady(), state_of(info)
        if history.state not in {None, state} and ticket.trigger not in {"closed", "moved"}:
            ticket.closed = False  # another writer has opened the file since it was closed
        writer = None if ticket.closed else self.has_writer(directory, name)
        is_closed = ticket.closed or writer is False
        if history.state != state:
            # The age of the file is right only if its writer has the same clock. A file server may have another
            # clock, and can't say whether the file has a writer. Then count from the first attempt.
            age = max(0.0, self.wall() - info.st_ctime) if is_closed else 0.0
            history.state, history.settles_from, history.attempts = state, now - age, 0
            history.verdict, history.digest = error, digest
        history.attempts += 1
        unchanged = now - history.settles_from
        if unchanged >= self.settle and (is_closed or not _may_have_writer(error, unchanged, writer=writer)):
            return None
        wait = UNFINISHED.wait(history.attempts)
        return wait if unchanged >= self.settle else min(wait, max(self.settle - unchanged, 0.01))


def _may_have_writer(error: AuditError, unchanged: float, *, writer: bool | None) -> bool:
    """Return whether a writer may still complete a bad file that has settled."""
    if writer:
        return True
    # The system can't say. For minutes a redirect of `gradience audit` is an empty file or has only progress lines.
    return error.code in {"empty", "audit_interrupted"} and unchanged < _ABANDONED
