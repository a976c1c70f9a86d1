"""A ticket -> its case: open the directory, check the sidecars, read the audit if it is not answered yet."""

from __future__ import annotations

import os
from enum import Enum, auto
from typing import Final

from benchd.answering.case import Case, Places
from benchd.answering.disk import Disk
from benchd.answering.outcome import Outcome, Result
from benchd.answering.retry import History, state_of
from benchd.audit.refusals import AuditError, refusal
from benchd.folder.names import CONFIG_SUFFIX
from benchd.folder.standing import Standing
from benchd.inbox import Ticket

__all__ = ["Reader", "Route", "route"]

#: The maximum bytes of a name in most file systems, and of a character in UTF-8.
_NAME_MAX: Final = 255
_CHARACTER_MAX: Final = 4

#: Larger files go to a lane of their own, so that the others don't wait for them. Very large ones are decided in the
#: sandbox as well.
_LARGE: Final = 2**20
_VERY_LARGE: Final = 16 * 2**20


class Route(Enum):
    """Where an audit is answered."""

    HERE = auto()
    LARGE_LANE = auto()
    SANDBOX = auto()


def route(size: int, max_bytes: int) -> Route:
    """Return where an audit of `size` bytes is answered. One above `max_bytes` is rejected unread, here."""
    if size <= _LARGE or size > max_bytes:
        return Route.HERE
    return Route.LARGE_LANE if size <= _VERY_LARGE else Route.SANDBOX


class Reader:
    """Reads audits. With `force` it reads answered ones too."""

    def __init__(self, disk: Disk, *, force: bool) -> None:
        self._disk = disk
        self._force = force

    def read(self, ticket: Ticket, places: Places, *, may_take_long: bool) -> Case | Result:
        """Return the case of `ticket`, with its content or an answer that needs none.

        Unless `may_take_long`, leave a large file to its lane. Raises `Vanished`, OSError.
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
        """Return whether a sidecar holds the answer; note the one that the hash has to decide on."""
        if self._force or (case.beside.config is None and case.beside.report is None):
            return False
        standing, provenance = case.ticket.folder.standing(case.name, case.info, case.beside)
        # After an event the file has just been written: dates that say otherwise come from a clock that was set.
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
        """Return whether an earlier attempt found this content unusable: only its writer may have changed since."""
        history = case.ticket.history
        if not isinstance(history, History) or history.verdict is None or history.state != state_of(case.info):
            return False
        if history.verdict.code == "unreadable":
            return False
        case.answer, case.digest = history.verdict, history.digest
        return True


def _check_name(sidecar: str) -> None:
    """Refuse a name that leaves no room for the sidecar's. Raises `AuditError`."""
    if len(sidecar) * _CHARACTER_MAX <= _NAME_MAX:
        return
    size = len(os.fsencode(sidecar))
    if size > _NAME_MAX:
        raise refusal("name_too_long", sidecar=CONFIG_SUFFIX, size=size)
