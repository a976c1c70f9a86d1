"""What a source of events tells its watcher."""

from __future__ import annotations

from typing import Protocol

from benchd.folder.folder import Folder
from benchd.inbox import Trigger

__all__ = ["Listener", "Source"]


class Listener(Protocol):  # pragma: no cover - a shape
    """Receives hints. Called from the source's own threads; must not block."""

    def file(self, relative: str, trigger: Trigger) -> None:
        """The file `relative` may be worth a look."""

    def lost_events(self, reason: str) -> None:
        """Events were lost; only a scan tells what happened."""

    def root_changed(self) -> None:
        """The watched folder itself was moved, deleted, replaced or unmounted."""

    def problem(self, reason: str) -> None:
        """Something can't be watched; the folder must be polled for what its events won't tell."""


class Source(Protocol):  # pragma: no cover - a shape
    """Watches one folder and tells its listener."""

    backend: str

    def start(self, folder: Folder) -> None:
        """Begin to watch the folder itself. Raises OSError."""

    def enter(self, relative: str, descriptor: int) -> None:
        """A scan is about to list this directory: watch it, if that isn't so already."""

    def scanned(self) -> None:
        """A scan of the whole folder has ended: whatever it did not enter is gone."""

    @property
    def alive(self) -> bool:
        """Whether what reads the events still runs."""

    def stop(self) -> None:
        """Watch no longer. Safe to call twice."""
