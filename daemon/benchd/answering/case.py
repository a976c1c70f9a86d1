"""Hold the state of one audit while it is answered, and the open directories of a batch."""

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
    """One audit while it is answered: the files that were found, and the results of the steps so far."""

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
        #: None if the sandbox must read the content, or if it is no longer needed.
        self.content: bytes | None = None
        #: The content's SHA-256; None until it was read.
        self.digest: str | None = None
        #: The provenance of a sidecar that answers this content if the hash matches.
        self.answered: Provenance | None = None
        #: A `Provenance` means that the sidecar already holds the answer.
        self.answer: Decision | AuditError | Provenance | None = None
        #: The sidecar's temporary file.
        self.temporary: Temporary | None = None
        #: Duration of the steps so far, in seconds.
        self.seconds = 0.0

    def refuse(self, error: AuditError) -> None:
        """Set the answer to `error`, without the frames of its traceback, which would keep the content in memory."""
        self.answer = error.with_traceback(None)
        error.__context__ = None
