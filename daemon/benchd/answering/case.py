"""One audit as it lies there: its directory, opened once a batch, its `stat`, and what stands beside it."""

from __future__ import annotations

import errno
import os

from benchd.folder.adapter_beside import adapter_beside
from benchd.folder.files import Vanished, group_to_give, read_sidecar, seems_there
from benchd.folder.folder import Beside
from benchd.folder.names import config_name, error_name
from benchd.inbox import Work
from benchd.trail.records import Trigger

__all__ = ["Case", "Place", "Places", "trigger_of"]


class Place:
    """An open directory, and what is known of it for one batch."""

    __slots__ = ("adapter", "claimed", "descriptor", "device", "group", "shown")

    def __init__(self, work: Work, below: str) -> None:
        try:
            self.descriptor = work.folder.open(below)
        except (FileNotFoundError, NotADirectoryError):
            raise Vanished from None
        except OSError as error:
            if error.errno == errno.ELOOP:  # a folder on the way was swapped for a link
                raise Vanished from None
            raise
        try:
            info = os.fstat(self.descriptor)
            self.device, self.group = info.st_dev, group_to_give(info)
            self.adapter = adapter_beside(self.descriptor)
        except BaseException:
            os.close(self.descriptor)
            raise
        #: The configs that are being written and not visible yet.
        self.claimed: set[str] = set()
        #: Its path for people and records, with a slash at its end.
        self.shown = work.folder.shown(f"{below}/" if below else "")


class Places:
    """The directories of one batch; each is opened once, and flushed once."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, str], Place] = {}

    def of(self, work: Work, below: str) -> Place:
        """The directory `below` the folder of `work`. Raises `Vanished`, OSError."""
        key = (id(work.folder), below)
        place = self._open.get(key)
        if place is None:
            place = self._open[key] = Place(work, below)
        return place

    def next_round(self) -> None:
        """Nothing is being written any more."""
        for place in self._open.values():
            place.claimed.clear()

    def close(self) -> None:
        """Give all of them back."""
        for place in self._open.values():
            os.close(place.descriptor)


class Case:
    """One audit as it was looked at: where it is, its `stat`, and what stood beside it."""

    __slots__ = ("beside", "config", "directory", "info", "name", "path", "place", "report", "took", "work")

    def __init__(self, work: Work, place: Place, name: str, info: os.stat_result) -> None:
        #: The seconds that its steps have taken so far.
        self.took = 0.0
        self.work = work
        self.place = place
        self.directory = place.descriptor
        self.name = name
        self.info = info
        self.path = place.shown + name
        self.config = config_name(name)
        self.report = error_name(name)
        # Mostly there is neither. Who is wrongly told so finds out before anything is put in its place.
        self.beside = Beside(
            read_sidecar(self.directory, self.config) if seems_there(self.directory, self.config) else None,
            read_sidecar(self.directory, self.report) if seems_there(self.directory, self.report) else None,
            place.adapter,
        )

    @property
    def trigger(self) -> Trigger:
        """What made one look at it."""
        return trigger_of(self.work)

    @property
    def durable(self) -> bool:
        """Whether its answer must be on the disk before it is visible."""
        return self.work.folder.settings.bench.durable


def trigger_of(work: Work) -> Trigger:
    """What made one look, as records have it."""
    # A link appears whole, as what is moved in does; the trail knows no finer difference.
    return "moved" if work.trigger == "created" else work.trigger
