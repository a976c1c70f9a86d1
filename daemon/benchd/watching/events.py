"""Define the interfaces of watching: sources of events, their listener, and the loop that reads them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from benchd.folder.folder import Folder
from benchd.inbox import Hint

__all__ = ["Listener", "Loop", "Reader", "Source"]


class Listener(Protocol):  # pragma: no cover - a shape
    """Receives hints. A source may call it from any thread, so it must not block."""

    def files(self, hints: Iterable[tuple[str, Hint]]) -> None:
        """Note files that may be worth reading, by relative path."""

    def explore(self, relative: str) -> None:
        """Note a new directory, which must be watched and scanned."""

    def recheck(self, watch: int, relative: str) -> None:
        """Note a watched directory that was moved or deleted."""

    def lost_events(self, reason: str) -> None:
        """Note that events were lost, so that only a scan can find the changes."""

    def root_changed(self) -> None:
        """Note that the watched folder itself was moved, deleted, replaced or unmounted."""

    def problem(self, reason: str) -> None:
        """Note that something can't be watched, so that the folder must be scanned at its polling interval."""


class Source(Protocol):  # pragma: no cover - a shape
    """Watches one folder and calls its listener."""

    backend: str

    def start(self, folder: Folder) -> None:
        """Start to watch the folder itself. Raises OSError."""

    def enter(self, relative: str, descriptor: int) -> None:
        """Watch a directory that a scan is about to list, unless it is watched already. Raises OSError."""

    def recheck(self, watch: int, relative: str) -> None:
        """Follow a watched directory that was moved or deleted."""

    def scanned(self) -> None:
        """Forget the directories that the last scan of the whole folder did not enter."""

    @property
    def alive(self) -> bool:
        """Return whether a thread still reads the events."""

    def stop(self) -> None:
        """Stop watching. Safe to call twice."""


class Reader(Protocol):  # pragma: no cover - a shape
    """A descriptor that a loop reads."""

    def fileno(self) -> int:
        """Return the descriptor to wait for."""

    def read(self) -> None:
        """Read what is available, and pass it on."""

    def failed(self, error: Exception) -> None:
        """Note that `read` has raised `error`. The loop does not call it again."""

    def close(self) -> None:
        """Close the descriptor."""


class Loop(Protocol):  # pragma: no cover - a shape
    """The thread that reads events."""

    def add(self, reader: Reader) -> None:
        """Call `reader.read` on the loop's thread whenever its descriptor is readable."""

    def remove(self, reader: Reader) -> None:
        """Stop calling `reader`, and close it on the loop's thread."""
