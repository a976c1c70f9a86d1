"""What became of an audit."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from benchd.inbox import Ticket

__all__ = ["Outcome", "Result"]


class Outcome(StrEnum):
    """What became of an audit."""

    SELECTED = "selected"
    REJECTED = "rejected"
    UNCHANGED = "unchanged"
    IGNORED = "ignored"
    KEPT = "kept"
    GONE = "gone"
    DEFERRED = "deferred"
    #: Not answered: it may take long, and belongs to the lane for large files.
    LEFT = "left"
    FAILED = "failed"


class Result(NamedTuple):
    """The outcome for one ticket, and what a summary needs.

    `retry_in` is the number of seconds until the next attempt, or None if this result is final.
    """

    ticket: Ticket
    outcome: Outcome
    strategy: str | None = None
    error: str | None = None
    retry_in: float | None = None
    #: Why there is no answer, where that is no error.
    reason: str | None = None
