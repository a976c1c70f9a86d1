"""How long a bad file that may be unfinished is waited for, before it is said to be bad (spec, section 2).

What is known of each file's earlier looks stays with its `Work`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

from benchd.audit.refusals import MAYBE_UNFINISHED, AuditError
from benchd.inbox import Work

__all__ = ["FIRST_WAIT", "patience", "state_of"]

#: Waits for a file that may be unfinished: the first, and the longest.
FIRST_WAIT: Final = 0.05
_LONGEST_WAIT: Final = 30.0

#: A file without content, of which nobody can tell whether it has a writer, is given up after this.
_ABANDONED: Final = 3600.0


def patience(
    work: Work,
    error: AuditError,
    digest: str | None,
    info: os.stat_result,
    *,
    settle: float,
    has_writer: Callable[[], bool | None],
) -> float | None:
    """Seconds until the file is to be looked at again, or None if the verdict `error` stands.

    `info` is its `stat`, `has_writer` says whether some process has it open for writing, if that can be told.
    """
    if error.code not in MAYBE_UNFINISHED:
        return None
    now, state = time.monotonic(), state_of(info)
    if work.seen is not None and work.seen != state:
        # Another writer is at it: that the last one has closed it says nothing any more.
        work.closed = work.trigger in {"closed", "moved"}
    writer = None if work.closed else has_writer()
    known_closed = work.closed or writer is False
    if work.seen != state:
        # The wall clock tells how long it has been unchanged, if it is the clock of who wrote it: on a file server
        # it may not be, and nobody can tell whether there is a writer. Then the time from our first look counts.
        age = max(0.0, time.time() - info.st_ctime) if known_closed else 0.0
        work.seen, work.settles_from, work.attempts = state, now - age, 0
        # A copy: an exception holds on to the frames that it went through, and so to the content.
        work.verdict, work.digest = AuditError(error.code, error.message, error.hint), digest
    work.attempts += 1
    unchanged = now - work.settles_from
    if unchanged >= settle and (known_closed or not _benefit_of_doubt(error, unchanged, writer=writer)):
        return None
    wait = min(FIRST_WAIT * 2.0 ** min(work.attempts - 1, 20), _LONGEST_WAIT)
    return wait if unchanged >= settle else min(wait, max(settle - unchanged, 0.01))


def state_of(info: os.stat_result) -> tuple[int, int, int, int]:
    """What tells one content of a file from another: inode, size, mtime and ctime."""
    return (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def _benefit_of_doubt(error: AuditError, unchanged: float, *, writer: bool | None) -> bool:
    """Whether a bad file that has settled may still have a writer that will make it good."""
    if writer:
        return True
    # Nobody can tell. What a redirect of gradience looks like for minutes is waited for.
    return error.code in {"empty", "audit_interrupted"} and unchanged < _ABANDONED
