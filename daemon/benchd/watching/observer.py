"""Where inotify can't serve: watchdog's polling for network file systems, its portable observer for other systems."""

from __future__ import annotations

import os
import threading

from watchdog.events import FileClosedEvent, FileCreatedEvent, FileModifiedEvent, FileMovedEvent, FileSystemEvent
from watchdog.events import FileSystemEventHandler as Handler
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserverVFS

from benchd.folder.folder import Folder
from benchd.inbox import Trigger
from benchd.watching.events import Listener

__all__ = ["ObserverSource"]


class ObserverSource(Handler):
    """Watches one folder through a watchdog observer. Implements `Source`."""

    def __init__(self, listener: Listener, *, polling: bool, interval: float) -> None:
        self.backend = "polling" if polling else "observer"
        self._trigger: Trigger = "poll"
        self._listener = listener
        self._polling = polling
        self._interval = interval
        self._observer: BaseObserver | None = None
        self._stopping = threading.Event()
        self._root = ""

    def start(self, folder: Folder) -> None:
        """Begin to watch. Raises OSError if the folder can't be read."""
        os.close(folder.open())  # the observers say nothing of a folder that is missing or closed to us
        self._root = folder.path
        if self._polling:
            # lstat: links are no files of the folder, and must not be followed.
            self._observer = PollingObserverVFS(os.lstat, os.scandir, polling_interval=self._interval)
        else:  # pragma: no cover - not Linux
            from watchdog.observers import Observer  # noqa: PLC0415 - picks the system's own at import

            self._observer = Observer()
        self._observer.daemon = True
        self._observer.schedule(self, folder.path, recursive=folder.settings.recursive)
        self._observer.start()

    def enter(self, relative: str, descriptor: int) -> None:
        """Observers enter directories by themselves."""

    def scanned(self) -> None:
        """Observers keep their own books."""

    @property
    def alive(self) -> bool:
        """Whether the observer's threads still run."""
        observer = self._observer
        return observer is not None and observer.is_alive() and all(item.is_alive() for item in observer.emitters)

    def stop(self) -> None:
        """Stop the observer's threads."""
        self._stopping.set()
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()

    def dispatch(self, event: FileSystemEvent) -> None:
        """One event, on the observer's thread. Never raises: watchdog's dispatcher would die of it."""
        if self._stopping.is_set():
            return
        try:
            self._tell(event)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one event, a scan finds what it was about
            self._listener.lost_events(f"an event could not be handled: {type(error).__name__}: {error}")

    def _tell(self, event: FileSystemEvent) -> None:
        moved = isinstance(event, FileMovedEvent)
        path = os.fsdecode(event.dest_path if moved else event.src_path)
        if path == self._root:
            if event.event_type in {"deleted", "moved"}:
                self._listener.root_changed()
        elif moved or isinstance(event, FileCreatedEvent | FileModifiedEvent | FileClosedEvent):
            self._listener.file(os.path.relpath(path, self._root), self._trigger)
        elif event.is_directory and event.event_type == "moved":
            self._listener.lost_events("a directory was moved")
