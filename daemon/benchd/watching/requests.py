"""What other threads ask of a watcher's thread."""

from __future__ import annotations

import threading
import time
from typing import Final

__all__ = ["Requests"]

#: Maximum number of new directories that wait to be explored. Beyond it a scan of the whole folder is cheaper.
_MAX_UNEXPLORED: Final = 1000


class Requests:
    """The requests to one watcher. Any thread makes them; the watcher's thread takes them."""

    def __init__(self) -> None:
        #: Guards everything below, and wakes the watcher's thread.
        self._changed = threading.Condition()
        self._is_stopping = False
        self._cause: str | None = "start"
        self._is_root_in_question = False
        self._unexplored: dict[str, None] = {}
        self._moved: dict[tuple[int, str], None] = {}
        self._has_lost_events = False

    # --- on any thread -------------------------------------------------------------------------------------

    @property
    def is_stopping(self) -> bool:
        """Return whether `stop` was called."""
        return self._is_stopping

    def stop(self) -> None:
        """Ask the thread to end."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()

    def scan(self, cause: str) -> None:
        """Request a scan. Requests before it starts are combined, and the first cause counts."""
        with self._changed:
            self._cause = self._cause or cause
            self._changed.notify()

    def check_root(self) -> None:
        """Request a check of the folder itself."""
        with self._changed:
            self._is_root_in_question = True
            self._changed.notify()

    def explore(self, relative: str) -> None:
        """Request that a new directory, and everything below it, is watched and scanned."""
        with self._changed:
            if len(self._unexplored) < _MAX_UNEXPLORED:
                self._unexplored[relative] = None
            else:
                self._unexplored.clear()
                self._cause = self._cause or "overflow"
            self._changed.notify()

    def follow(self, watch: int, relative: str) -> None:
        """Request that a watched directory, which was moved or deleted, is followed."""
        with self._changed:
            self._moved[watch, relative] = None
            self._changed.notify()

    def lost_events(self) -> bool:
        """Note that events were lost. Return whether these are the first since the last scan began."""
        with self._changed:
            is_first, self._has_lost_events = not self._has_lost_events, True
            return is_first

    # --- on the watcher's thread ---------------------------------------------------------------------------

    def await_some(self, moment: float, *, can_scan: bool) -> bool:
        """Wait for a request, at most until `moment` (monotonic). Return False if the thread is to end.

        A requested scan counts only if the watcher `can_scan`.
        """
        with self._changed:
            while not (self._is_stopping or self._unexplored or self._moved or self._wants_round(can_scan=can_scan)):
                left = moment - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return not self._is_stopping

    def wants_round(self, *, can_scan: bool) -> bool:
        """Return whether a check of the folder or a scan is requested."""
        with self._changed:
            return self._wants_round(can_scan=can_scan)

    def _wants_round(self, *, can_scan: bool) -> bool:
        return self._is_root_in_question or (self._cause is not None and can_scan)

    def pause(self, seconds: float) -> None:
        """Wait for that time, but not for longer than until `stop`."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopping, seconds)

    def take_root_check(self) -> bool:
        """Return whether a check of the folder itself is requested, and forget the request."""
        with self._changed:
            is_in_question, self._is_root_in_question = self._is_root_in_question, False
            return is_in_question

    def take_cause(self) -> str | None:
        """Return the cause of the requested scan, which begins now; None without a request."""
        with self._changed:
            cause, self._cause = self._cause, None
            self._has_lost_events = False
            return cause

    def take_directories(self) -> tuple[list[str], list[tuple[int, str]]]:
        """Return the directories to explore, and those to follow by watch and path; forget both."""
        with self._changed:
            unexplored, self._unexplored = self._unexplored, {}
            moved, self._moved = self._moved, {}
            return list(unexplored), list(moved)
