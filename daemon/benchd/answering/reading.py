"""Turn a ticket into a case: open the directory, check the sidecars, and read the audit if it has no answer."""

from __future__ import annotations

import os
from enum import Enum, auto
from typing import Final

from benchd.answering.case import Case, Places
from benchd.answering.disk import Disk
from benchd.answering.outcome import Outcome, Result
from benchd.answering.retry import History, state_of
from benchd.audit.refusals import AuditError, refusal
from benchd.folder.names import CONFIG_SUFFIX, NAME_MAX
from benchd.folder.standing import Standing
from benchd.inbox import Ticket

__all__ = ["Reader", "Route", "route"]

#: Maximum bytes of a character in UTF-8.
_CHARACTER_MAX: Final = 4

#: Bytes. Larger files go to a separate lane, so that the others don't wait for them. Very large files are also decided
#: in the sandbox.
_LARGE: Final = 2**20
_VERY_LARGE: Final = 16 * 2**20


class Route(Enum):
    """Where benchd answers an audit."""

    HERE = auto()
    LARGE_LANE = auto()
    SANDBOX = auto()


def route(size: int, max_bytes: int) -> Route:
    """Return where to answer an audit of `size` bytes. Files above `max_bytes` are rejected here, without reading."""
    if size <= _LARGE or size > max_bytes:
        return Route.HERE
    return Route.LARGE_LANE if size <= _VERY_LARGE else Route.SANDBOX


class Reader:
    """Reads audits. With `force` it also reads those that have an answer."""

    def __init__(self, disk: Disk, *, force: bool) -> None:
        self._disk = disk
        self._force = force

    def read(self, ticket: Ticket, places: Places, *, may_take_long: bool) -> Case | Result:
        """Return the case of `ticket`, with its content or with an answer that needs no content.

        Unless `may_take_long`, return `Outcome.LEFT` for a large file. Raises `Vanished`, OSError.
        """
        folder = ticket.folder
        below, _, name = ticket.relative.rpartition("/")
        place = places.get(folder, below)
        entry = place.find(name)
        way = route(entry.info.st_size, folder.max_bytes)
        if way is not Route.HERE and not may_take_long:
            return Result(ticket, Outcome.LEFT)
        case = Case(ticket, place, entry)
        if self._is_answered(case) or self._is_judged(case):
            return case
        try:
            _check_name(case.config)
            if way is not Route.SANDBOX:
                case.content, case.info = self._disk.read(case.directory, name, case.info, folder.max_bytes)
        except AuditError as error:
            case.refuse(error)
        return case

    def _is_answered(self, case: Case) -> bool:
        """Return whether a sidecar holds the answer. Note a sidecar that needs the hash for that."""
        if self._force or (case.beside.config is None and case.beside.report is None):
            return False
        standing, provenance = case.ticket.folder.standing(case.name, case.info, case.beside)
        # After an event the file was just written. If the dates contradict that, a clock was set.
        in_doubt = standing is Standing.IN_DOUBT or case.ticket.trigger in {"closed", "moved", "poll"}
        if provenance is None:
            return False
        if in_doubt:
            case.answered = provenance
            return False
        case.answer = provenance
        return True

    @staticmethod
    def _is_judged(case: Case) -> bool:
        """Return whether an earlier attempt found this content unusable. Then only its writer may have changed."""
        history = case.ticket.history
        if not isinstance(history, History) or history.verdict is None or history.state != state_of(case.info):
            return False
        if history.verdict.code == "unreadable":
            return False
        case.answer, case.digest = history.verdict, history.digest
        return True


def _check_name(sidecar: str) -> None:
    """Check that the sidecar's name fits the file system. Raises `AuditError`."""
    if len(sidecar) * _CHARACTER_MAX <= NAME_MAX:
        return
    size = len(os.fsencode(sidecar))
    if size > NAME_MAX:
        raise refusal("name_too_long", sidecar=CONFIG_SUFFIX, size=size)
