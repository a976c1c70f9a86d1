"""What the parts of watching say to each other: sources of events, their listener, and the loop that reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from benchd.folder.folder import Folder
from benchd.inbox import Hint

__all__ = ["Listener", "Loop", "Reader", "Source"]


class Listener(Protocol):  # pragma: no cover - a shape
    """Receives hints. A source calls it from any thread; it must not block."""

    def files(self, hints: Iterable[tuple[str, Hint]]) -> None:
        """Note files that may be worth reading, by relative path."""

    def explore(self, relative: str) -> None:
        """Note a directory that appeared: it must be watched, and what it holds must be found."""

    def recheck(self, watch: int, relative: str) -> None:
        """Note a watched directory that was moved or deleted."""

    def lost_events(self, reason: str) -> None:
        """Note that events were lost: only a scan can say what happened."""

    def root_changed(self) -> None:
        """Note that the watched folder itself was moved, deleted, replaced or unmounted."""

    def problem(self, reason: str) -> None:
        """Note that something can't be watched: the folder must be scanned at its polling interval."""


class Source(Protocol):  # pragma: no cover - a shape
    """Watches one folder and tells its listener."""

    backend: str

    def start(self, folder: Folder) -> None:
        """Begin to watch the folder itself. Raises OSError."""

    def enter(self, relative: str, descriptor: int) -> None:
        """Watch a directory that a scan is about to list, unless it is watched already. Raises OSError."""

    def recheck(self, watch: int, relative: str) -> None:
        """Follow a watched directory that was moved or deleted."""

    def scanned(self) -> None:
        """Forget the directories that the scan of the whole folder, which has ended, did not enter."""

    @property
    def alive(self) -> bool:
        """Whether its events are still read."""

    def stop(self) -> None:
        """Stop watching. Safe to call twice."""


class Reader(Protocol):  # pragma: no cover - a shape
    """Something that a loop reads."""

    def fileno(self) -> int:
        """Return the descriptor to wait for."""

    def read(self) -> None:
        """Read what is there, and pass it on."""

    def failed(self, error: Exception) -> None:
        """Note that `read` has raised `error` and is not called any more."""

    def close(self) -> None:
        """Close the descriptor."""


class Loop(Protocol):  # pragma: no cover - a shape
    """The thread that reads events."""

    def add(self, reader: Reader) -> None:
        """Call `reader.read` on the loop's thread whenever there is something to read."""

    def remove(self, reader: Reader) -> None:
        """Call it no more, and close it on the loop's thread."""
