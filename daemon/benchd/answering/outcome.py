"""Define the outcome of an audit."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from benchd.inbox import Ticket

__all__ = ["Outcome", "Result"]


class Outcome(StrEnum):
    """What benchd did with an audit."""

    SELECTED = "selected"
    REJECTED = "rejected"
    UNCHANGED = "unchanged"
    IGNORED = "ignored"
    KEPT = "kept"
    GONE = "gone"
    DEFERRED = "deferred"
    #: Not answered here: the lane for large files answers it, because it may take long.
    LEFT = "left"
    FAILED = "failed"


class Result(NamedTuple):
    """The outcome of one ticket, and the details for a summary.

    `retry_in` is the number of seconds until the next attempt, or None if this result is final.
    """

    ticket: Ticket
    outcome: Outcome
    strategy: str | None = None
    error: str | None = None
    retry_in: float | None = None
    #: Why there is no answer, if the cause is not an error.
    reason: str | None = None
