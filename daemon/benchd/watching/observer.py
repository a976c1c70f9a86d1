"""Watch folders through watchdog: by polling for network file systems, else by the system's observer."""

from __future__ import annotations

import os
import threading

from watchdog.events import FileClosedEvent, FileCreatedEvent, FileModifiedEvent, FileMovedEvent, FileSystemEvent
from watchdog.events import FileSystemEventHandler as Handler
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserverVFS

from benchd.folder.folder import Folder
from benchd.watching.events import Listener

__all__ = ["ObserverSource"]


class ObserverSource(Handler):
    """Watches one folder through a watchdog observer. Implements `Source`."""

    def __init__(self, listener: Listener, *, polling: bool, interval: float) -> None:
        self.backend = "polling" if polling else "observer"
        self._listener = listener
        self._polling = polling
        self._interval = interval
        self._observer: BaseObserver | None = None
        self._stopping = threading.Event()
        self._root = ""

    def start(self, folder: Folder) -> None:
        """Start to watch. Raises OSError if the folder can't be read."""
        os.close(folder.open())  # observers do not report a folder that is missing or can't be read
        self._root = folder.path
        if self._polling:
            # `lstat` does not follow links.
            self._observer = PollingObserverVFS(os.lstat, os.scandir, polling_interval=self._interval)
        else:
            from watchdog.observers import Observer  # noqa: PLC0415 - chooses the system's own observer at import

            self._observer = Observer()
        self._observer.daemon = True
        self._observer.schedule(self, folder.path, recursive=folder.settings.recursive)
        self._observer.start()

    def enter(self, relative: str, descriptor: int) -> None:
        """Do nothing: observers enter directories themselves."""

    def scanned(self) -> None:
        """Do nothing: observers notice deleted directories themselves."""

    def recheck(self, watch: int, relative: str) -> None:
        """Do nothing: observers follow moved directories themselves."""

    @property
    def alive(self) -> bool:
        """Return whether the observer's threads still run."""
        observer = self._observer
        return observer is not None and observer.is_alive() and all(item.is_alive() for item in observer.emitters)

    def stop(self) -> None:
        """Stop the observer's threads."""
        self._stopping.set()
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()

    def dispatch(self, event: FileSystemEvent) -> None:
        """Handle one event on the observer's thread. Never raise: an exception would end watchdog's dispatcher."""
        if self._stopping.is_set():
            return
        try:
            self._tell(event)
        except Exception as error:  # noqa: BLE001 - a scan finds the change behind a bad event
            self._listener.lost_events(f"an event could not be handled: {type(error).__name__}: {error}")

    def _tell(self, event: FileSystemEvent) -> None:
        moved = isinstance(event, FileMovedEvent)
        path = os.fsdecode(event.dest_path if moved else event.src_path)
        if path == self._root:
            if event.event_type in {"deleted", "moved"}:
                self._listener.root_changed()
        elif moved or isinstance(event, FileCreatedEvent | FileModifiedEvent | FileClosedEvent):
            self._listener.files([(os.path.relpath(path, self._root), "poll")])
        elif event.is_directory and event.event_type == "moved":
            self._listener.lost_events("a directory was moved")
