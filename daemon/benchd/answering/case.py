"""One audit on its way to an answer, and the open directories of a batch."""

from __future__ import annotations

import os
from typing import Self

from benchd.audit.refusals import AuditError
from benchd.bench.deciding import Decision
from benchd.bench.seal import Provenance
from benchd.folder.files import Temporary
from benchd.folder.folder import Folder
from benchd.folder.place import Entry, Place
from benchd.inbox import Ticket

__all__ = ["Case", "Places"]


class Places:
    """The directories of one batch. Each is opened once; the context closes them."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, str], Place] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for place in self._open.values():
            os.close(place.descriptor)

    def get(self, folder: Folder, below: str) -> Place:
        """Return the directory `below` a folder. Raises `Vanished`, OSError."""
        key = (id(folder), below)
        place = self._open.get(key)
        if place is None:
            place = self._open[key] = Place.open(folder, below)
        return place

    def forget_claims(self) -> None:
        """Note that all written configs are visible now."""
        for place in self._open.values():
            place.claimed.clear()


class Case:
    """One audit on its way: what was found, and what the steps have made of it so far."""

    __slots__ = (
        "answer", "answered", "beside", "config", "content", "digest", "directory", "info", "is_durable", "name",
        "path", "place", "report", "seconds", "temporary", "ticket",
    )  # fmt: skip

    def __init__(self, ticket: Ticket, place: Place, entry: Entry) -> None:
        self.ticket = ticket
        self.place = place
        self.directory = place.descriptor
        #: `info` is the audit's `stat` from just before it was read.
        self.name, self.config, self.report, self.info, self.beside = entry
        self.path = place.shown + entry.name
        #: True if its sidecar must be on the disk before it becomes visible.
        self.is_durable = ticket.folder.settings.bench.durable
        #: None if the sandbox is to read the content, or nobody needs it any more.
        self.content: bytes | None = None
        #: The content's SHA-256, once it was read.
        self.digest: str | None = None
        #: What a sidecar says about itself, if the hash has to show whether it answers this content.
        self.answered: Provenance | None = None
        #: A `Provenance` says that the sidecar already holds the answer.
        self.answer: Decision | AuditError | Provenance | None = None
        #: The sidecar under its temporary name.
        self.temporary: Temporary | None = None
        #: Seconds that its steps took.
        self.seconds = 0.0

    def refuse(self, error: AuditError) -> None:
        """Set the answer. Cut it off from the frames that it went through, which keep the content in memory."""
        self.answer = error.with_traceback(None)
        error.__context__ = None
