"""Watch one folder: own its lock, its source of events, and the thread that scans it and explores new directories.

The watcher starts to watch before it scans. It scans at the start, every `rescan_interval`, after lost events, and when
the folder comes back. Events are hints, and a scan finds the changes that they miss.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from benchd.folder.files import EXHAUSTED, explained
from benchd.folder.folder import Folder
from benchd.folder.scan import Scan
from benchd.inbox import Hint, Inbox
from benchd.trail.records import (
    Degraded,
    Overflow,
    RootLost,
    RootRestored,
    RoutineScan,
    ScanFinished,
    ThreadFailed,
    WatchStarted,
)
from benchd.trail.trail import Trail
from benchd.watching.events import Source
from benchd.watching.lock import FolderLock, Occupied
from benchd.watching.requests import Requests
from benchd.watching.sources import polling_source, source_for

if TYPE_CHECKING:
    from benchd.watching.inotify import Instances

__all__ = ["Watcher"]

#: Seconds between two checks for a missing folder.
_LOOK_FOR_ROOT: Final = 1.0

#: Maximum number of unreadable directories to remember, so that each is recorded once.
_MAX_FAILING: Final = 1000

#: Maximum share of one core for a folder that is polled by scans.
_POLLING_SHARE: Final = 0.1


class Watcher:
    """Watches one folder. Owns its thread, its lock and its source of events. Implements `Listener`.

    Hints go to `inbox`. `instances` opens inotify instances. Without it, the watcher uses another source.
    """

    def __init__(
        self,
        folder: Folder,
        inbox: Inbox,
        trail: Trail,
        *,
        instances: Instances | None,
        rescan_interval: float,
        lock: FolderLock | None = None,
    ) -> None:
        self.folder = folder
        self.inbox = inbox
        self._trail = trail
        self._instances = instances
        self._rescan_interval = rescan_interval
        self._lock = lock or FolderLock(folder.path)
        #: What other threads ask of this watcher's thread.
        self._requests = Requests()
        #: Only the watcher's thread writes the other attributes.
        self._source: Source | None = None
        self._identity: tuple[int, int] | None = None
        self._polls_by_scans = False
        self._trusts_inotify = True
        #: The recorded reason why the folder is not watched; None while it is watched.
        self._lost: str | None = None
        #: The reason why the folder is watched without a lock; None with a lock.
        self._unlocked: str | None = None
        #: The unreadable directories of the last scan, which are recorded, and those of the present scan.
        self._failures: set[str] = set()
        self._failing: set[str] = set()
        #: True if the present round has met one of the errors `EXHAUSTED`.
        self._is_exhausted = False
        #: Set once the folder is watched, or known to be missing: the service is ready when all are.
        self.watched = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"benchd-watch {folder.path}", daemon=True)

    @property
    def present(self) -> bool:
        """Return whether the folder exists and is watched."""
        return self._source is not None

    def claim(self) -> None:
        """Lock the folder before any thread starts, if it exists. Raises `Occupied` if another benchd has it."""
        self._lock.acquire()

    def unclaim(self) -> None:
        """Unlock the folder, if no thread was started."""
        self._lock.release()

    def start(self) -> None:
        """Start the thread."""
        self.thread.start()

    def stop(self) -> None:
        """Ask the thread to end. Return at once. Join `thread` to wait."""
        self._requests.stop()

    def request_scan(self, cause: str) -> None:
        """Request a scan. Requests before it starts are combined."""
        self._requests.scan(cause)

    # --- Listener, on any thread ---------------------------------------------------------------------------

    def files(self, hints: Iterable[tuple[str, Hint]]) -> None:
        """Pass on the hints about files that have the name of an audit."""
        wanted = [hint for hint in hints if self.folder.names.wants(hint[0])]
        if wanted:
            self.inbox.put(self.folder, wanted)

    def explore(self, relative: str) -> None:
        """Have the thread watch and scan a new directory and everything below it."""
        if self.folder.names.enters(relative):
            self._requests.explore(relative)

    def recheck(self, watch: int, relative: str) -> None:
        """Have the thread follow a watched directory that was moved or deleted."""
        self._requests.follow(watch, relative)

    def lost_events(self, reason: str) -> None:
        """Record the loss once for each scan, and request a scan."""
        if self._requests.lost_events():
            self._trail.write(Overflow(root=self.folder.path, reason=reason))
        self._requests.scan("overflow")

    def root_changed(self) -> None:
        """Have the thread check the folder itself."""
        self._requests.check_root()

    def problem(self, reason: str) -> None:
        """Record the problem, and scan at the polling interval from now on."""
        self._polls_by_scans = True
        self._trail.write(Degraded(root=self.folder.path, reason=reason, instead="scanning at poll_interval"))
        self._requests.scan("degraded")

    # --- the thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        next_scan = 0.0
        while self._requests.await_some(next_scan, can_scan=self.present):
            try:
                self._follow()
                if time.monotonic() >= next_scan or self._requests.wants_round(can_scan=self.present):
                    next_scan = time.monotonic() + self._round()
            except Exception as error:  # noqa: BLE001 - a watcher survives whatever its folder does to it
                if self._is_ending:
                    break
                failure = f"{type(error).__name__}: {error}"
                self._trail.write(ThreadFailed(thread=self.thread.name, error=failure, recovery="trying again in 1 s"))
                self._drop_source()
                self.watched.set()  # the service must not wait for this folder; the trail has the reason
                next_scan = time.monotonic() + _LOOK_FOR_ROOT
        self._drop_source()
        self._lock.release()

    def _round(self) -> float:
        """Check that the folder exists and is watched, and scan it. Return the seconds until the next round."""
        is_in_question = self._requests.take_root_check()
        was_exhausted, self._is_exhausted = self._is_exhausted, False
        try:
            reason = self._check_root(is_in_question=is_in_question)
        except OSError as error:
            # The folder is still watched. Whatever called for this round calls for the next one as well.
            if is_in_question:
                self.root_changed()
            self._note_exhaustion(error, is_known=was_exhausted)
            return 0.0
        if reason is not None:
            self._drop_source()
            self._lose(reason)
            self.watched.set()
            return _LOOK_FOR_ROOT
        if self._source is not None and not self._source.alive:
            self._trusts_inotify = False
            self._drop_source()
            reason = "the source of events has failed"
            self._trail.write(Degraded(root=self.folder.path, reason=reason, instead="polling at poll_interval"))
        if not (self._take_lock_again() if self._source else self._open_source()):
            self.watched.set()
            return _LOOK_FOR_ROOT
        self.watched.set()
        took = self._scan(self._requests.take_cause() or "rescan")
        if self._is_exhausted:
            return _LOOK_FOR_ROOT
        if self._polls_by_scans:
            return min(self._rescan_interval, max(self.folder.settings.poll_interval, took / _POLLING_SHARE))
        return self._rescan_interval

    def _check_root(self, *, is_in_question: bool) -> str | None:
        """Return why the folder can't be watched, or None. Drop the source of a folder that was replaced.

        One that was deleted and made again can have the same number, so an event about the folder itself counts too.
        Raises OSError (`EXHAUSTED`) if that can't be checked now.
        """
        try:
            descriptor = self.folder.open()
            try:
                info = os.stat(".", dir_fd=descriptor)  # needs the permission to enter, which `fstat` does not need
                os.scandir(descriptor).close()
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise
            if error.errno == errno.ENOENT:
                return "the folder does not exist; benchd waits for it"
            return explained(error, self.folder.path, "read and enter")
        identity = (info.st_dev, info.st_ino)
        if self._source is not None and (is_in_question or identity != self._identity):
            self._drop_source()
            self._lose("another folder has replaced it")
        self._identity = identity
        return None

    def _note_exhaustion(self, error: OSError, *, is_known: bool) -> None:
        """Record once that the folder can't be checked, and wait: nothing can be opened now."""
        self._is_exhausted = True
        self.watched.set()
        if not is_known:
            reason = f"can't check the folder: {error.strerror}"
            self._trail.write(Degraded(root=self.folder.path, reason=reason, instead="trying again every second"))
        self._requests.pause(_LOOK_FOR_ROOT)

    # --- the lock and the source ---------------------------------------------------------------------------

    def _take_lock_again(self) -> bool:
        """Lock the folder if that failed before (on a full disk), or if another process has removed the lock file.

        Return False if another benchd has the folder now.
        """
        if self._unlocked is None and self._lock.holds():
            return True
        try:
            self._unlocked = self._lock.acquire()
        except Occupied as error:
            self._drop_source()
            self._lose(f"{error}; waiting for it to end")
            return False
        return True

    def _open_source(self) -> bool:
        """Lock the folder and watch it. Return False if another benchd has it."""
        try:
            unlocked = self._lock.acquire()
        except Occupied as error:
            self._lose(f"{error}; waiting for it to end")
            return False
        root, settings = self.folder.path, self.folder.settings
        if unlocked is not None and unlocked != self._unlocked:
            self._trail.write(Degraded(root=root, reason=unlocked, instead="watching without a lock"))
        self._unlocked = unlocked
        source = self._start_source()
        self._source = source
        self._polls_by_scans = False
        if self._lost is not None:
            self._lost = None
            self._trail.write(RootRestored(root=root))
        self._trail.write(WatchStarted(root=root, backend=source.backend, recursive=settings.recursive))
        self.folder.forget_scans()
        self._requests.scan("restored")
        return True

    def _start_source(self) -> Source:
        settings = self.folder.settings
        if not self._trusts_inotify:
            source = polling_source(settings, self)
            source.start(self.folder)
            return source
        source = source_for(settings, self, self._instances)
        try:
            source.start(self.folder)
        except OSError as error:
            if source.backend == "polling":
                raise
            reason = f"{source.backend} refused: {error.strerror}"
            self._trail.write(Degraded(root=self.folder.path, reason=reason, instead="polling at poll_interval"))
            source = polling_source(settings, self)
            source.start(self.folder)
        return source

    def _lose(self, reason: str) -> None:
        """Record why the folder is not watched, once for each reason."""
        if self._lost != reason:
            self._lost = reason
            self._trail.write(RootLost(root=self.folder.path, reason=reason))

    def _drop_source(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.stop()

    # --- scanning and exploring ----------------------------------------------------------------------------

    def _follow(self) -> None:
        """Explore the directories that appeared, and follow those that were moved."""
        while True:
            unexplored, moved = self._requests.take_directories()
            source = self._source
            if source is None or self._requests.is_stopping or not (unexplored or moved):
                return  # without a source, the scan after opening one finds everything
            for relative in unexplored:
                self._put_found(Scan(self.folder, below=relative, entering=source.enter, failed=self._cannot_enter))
            for watch, relative in moved:
                source.recheck(watch, relative)

    @property
    def _is_ending(self) -> bool:
        """Whether this watcher or its loop ends: then the source may be closed already, and its errors mean nothing."""
        return self._requests.is_stopping or self.inbox.closed

    def _cannot_enter(self, relative: str, error: OSError) -> None:
        """A new directory can't be read or watched: say so, and scan."""
        if self._is_ending:
            return
        reason = f"can't watch {self.folder.shown(relative)}: {error.strerror}"
        if error.errno in {*EXHAUSTED, errno.EACCES, errno.EPERM}:  # polling would not help; scans try again
            self.lost_events(reason)
        elif error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:  # else gone or swapped: an event says so
            self.problem(reason)

    def _scan(self, cause: str) -> float:
        """Queue all audits without a valid answer. Return the seconds it took, without waits for room in the inbox."""
        source = self._source
        assert source is not None  # noqa: S101 - `_round` opens it first
        started = time.monotonic()
        scan = Scan(
            self.folder,
            entering=source.enter,
            failed=self._cannot_read,
            # The clock of a file server may be set at any time. `set_clock` notices that this system's clock was set.
            check_clock=cause != "rescan" or source.backend != "inotify",
            pause=self._follow,
        )
        waited = self._put_found(scan)
        if self._is_ending:
            return 0.0
        if not self._is_exhausted:  # else directories that it could not open are still watched
            source.scanned()
        self._failures, self._failing = self._failing, set()
        took = time.monotonic() - started
        tally = scan.tally
        kind = RoutineScan if cause == "rescan" and not tally.queued else ScanFinished
        self._trail.write(
            kind(
                root=self.folder.path,
                cause=cause,
                found=tally.found,
                answered=tally.answered,
                queued=tally.queued,
                duration_ms=round(took * 1000, 3),
            )
        )
        return took - waited

    def _put_found(self, scan: Scan) -> float:
        """Queue the audits that `scan` finds, until the watcher stops. Return the seconds of waits for room."""
        tally, waited, doubts = scan.tally, 0.0, 0
        for relative in scan:
            before = time.monotonic()
            is_new = self.inbox.put_scanned(self.folder, relative)
            # An audit that is queued only to compare its hash does not count as work in the trail.
            tally.queued += is_new and tally.in_doubt == doubts
            doubts = tally.in_doubt
            waited += time.monotonic() - before
            if self._is_ending:
                break
        return waited

    def _cannot_read(self, relative: str, error: OSError) -> None:
        """A directory can't be read or watched: say so once for each, and try again at every scan."""
        if self._is_ending:
            return
        if not relative and error.errno in {errno.ENOENT, errno.ENOTDIR}:
            self.root_changed()
            return
        self._is_exhausted |= error.errno in EXHAUSTED
        shown = self.folder.shown(relative)
        is_known = shown in self._failures or shown in self._failing
        if len(self._failing) < _MAX_FAILING:
            self._failing.add(shown)
        if not is_known:
            reason = f"can't read {shown}: {explained(error, shown, 'read and enter')}"
            self._trail.write(Degraded(root=self.folder.path, reason=reason, instead="trying again at every scan"))
