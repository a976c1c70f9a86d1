"""A listener and loops for tests of sources."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterable

from benchd.inbox import Hint
from benchd.watching.events import Reader


class Listening:
    """A listener that keeps everything."""

    def __init__(self) -> None:
        self.hints: list[tuple[str, Hint]] = []
        self.appeared: list[str] = []
        self.moved: list[tuple[int, str]] = []
        self.lost: list[str] = []
        self.roots = 0
        self.problems: list[str] = []

    def files(self, hints: Iterable[tuple[str, Hint]]) -> None:
        self.hints += hints

    def explore(self, relative: str) -> None:
        self.appeared.append(relative)

    def recheck(self, watch: int, relative: str) -> None:
        self.moved.append((watch, relative))

    def lost_events(self, reason: str) -> None:
        self.lost.append(reason)

    def root_changed(self) -> None:
        self.roots += 1

    def problem(self, reason: str) -> None:
        self.problems.append(reason)


class Reading:
    """A loop without a thread: `read` reads what is there."""

    def __init__(self) -> None:
        self.readers: list[Reader] = []
        self.failing: list[Reader] = []
        self._lock = threading.Lock()

    def add(self, reader: Reader) -> None:
        with self._lock:
            self.readers.append(reader)

    def remove(self, reader: Reader) -> None:
        with self._lock:
            self.readers.remove(reader)
            reader.close()

    def read(self) -> None:
        """Read every reader until there is nothing to read."""
        with self._lock:
            while ready := select.select(self.readers, [], [], 0)[0]:
                for reader in ready:
                    reader.read()

    def fail(self, error: Exception) -> None:
        """Note that no reader can be read any more."""
        for reader in self.readers:
            reader.failed(error)


class ReadingThread(Reading):
    """A loop whose thread reads all the time."""

    def __init__(self) -> None:
        super().__init__()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(0.002):
            self.read()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(5)
