"""One watched folder: its source of events, and the thread that scans it.

Watch first, then scan. A scan runs at the start, every `rescan_interval`, after lost events, and when the folder
comes back after it was gone. Events are hints; what they miss, a scan finds.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import TYPE_CHECKING, Final

from benchd.folder.files import explained
from benchd.folder.folder import Folder, Tally
from benchd.inbox import Inbox, Trigger
from benchd.trail.records import Degraded, Overflow, RootLost, RootRestored, ScanFinished, ThreadFailed, WatchStarted
from benchd.trail.trail import Trail
from benchd.watching.events import Source
from benchd.watching.lock import FolderLock, Occupied
from benchd.watching.sources import polling_source, source_for

if TYPE_CHECKING:
    from benchd.watching.inotify import InotifyReader

__all__ = ["Watcher"]

#: How often a folder that is not there is looked for.
_LOOK_FOR_ROOT: Final = 1.0

#: So many directories that can't be read are remembered, to be said once.
_MAX_FAILING: Final = 1000

#: A folder that has to be polled by scans costs at most this share of one core's time.
_POLLING_SHARE: Final = 0.1


class Watcher:
    """Watches one folder. Owns its thread and its source of events. Implements `Listener`."""

    def __init__(
        self, folder: Folder, inbox: Inbox, trail: Trail, *, reader: InotifyReader | None, rescan_interval: float
    ) -> None:
        self.folder = folder
        self._inbox = inbox
        self._trail = trail
        self._reader = reader
        self._rescan_interval = rescan_interval
        self._lock = FolderLock(folder.path)
        self._wake = threading.Condition()
        self._stopping = False
        self._cause: str | None = "start"
        self._root_in_question = False
        self._source: Source | None = None
        self._identity: tuple[int, int] | None = None
        #: Why the folder is not watched, as the trail has been told; None while it is.
        self._lost: str | None = None
        self._degraded = False
        #: Why the folder is watched without a lock, or None.
        self._unlocked: str | None = None
        #: The directories that can't be read, as the trail has been told; and those of the present scan.
        self._failures: set[str] = set()
        self._failing: set[str] = set()
        #: Set once the folder is watched, or known to be missing: the service is ready when all are.
        self.watched = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"benchd-watch {folder.path}", daemon=True)

    @property
    def present(self) -> bool:
        """Whether the folder is there and watched."""
        return self._source is not None

    def claim(self) -> None:
        """Take the folder before anything starts, if it is there. Raises `Occupied` if another benchd has it."""
        self._lock.acquire()

    def unclaim(self) -> None:
        """Give the folder back, if nothing was started."""
        self._lock.release()

    def start(self) -> None:
        """Start to watch and scan, on a thread of its own."""
        self.thread.start()

    def stop(self) -> None:
        """Ask the thread to end. Returns at once; join `thread` to wait."""
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def request_scan(self, cause: str) -> None:
        """Scan soon. Requests that come before it begins are one."""
        with self._wake:
            self._cause = self._cause or cause
            self._wake.notify()

    # --- Listener; on the source's threads -----------------------------------------------------------------

    def file(self, relative: str, trigger: Trigger) -> None:
        """Pass a hint on, if the name is one of an audit."""
        if self.folder.wants(relative):
            self._inbox.put(self.folder, relative, trigger)

    def lost_events(self, reason: str) -> None:
        """Record it, and scan."""
        self._trail.write(Overflow(root=self.folder.path, reason=reason))
        self.request_scan("overflow")

    def root_changed(self) -> None:
        """Look at the folder again."""
        with self._wake:
            self._root_in_question = True
            self._wake.notify()

    def problem(self, reason: str) -> None:
        """Record it, and scan at the polling interval from now on."""
        self._degraded = True
        self._trail.write(Degraded(root=self.folder.path, reason=reason, instead="scanning at poll_interval"))
        self.request_scan("degraded")

    # --- the thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause = 0.0
        while self._await(pause):
            try:
                pause = self._look()
            except Exception as error:  # noqa: BLE001 - a watcher survives whatever its folder does to it
                failure = f"{type(error).__name__}: {error}"
                self._trail.write(ThreadFailed(thread=self.thread.name, error=failure, recovery="watching anew in 1 s"))
                self._drop_source()
                self.watched.set()  # nobody need wait for it: it is not watched, and that is recorded
                pause = _LOOK_FOR_ROOT
        self._drop_source()
        self._lock.release()

    def _await(self, seconds: float) -> bool:
        """Sleep until there is something to do; False when it is time to stop."""
        with self._wake:
            deadline = time.monotonic() + seconds
            while not (self._stopping or self._root_in_question or (self._cause and self._source)):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._wake.wait(left)
            return not self._stopping

    def _look(self) -> float:
        """One round: is the folder there and watched, and does it want a scan? Returns how long to sleep."""
        with self._wake:
            in_question, self._root_in_question = self._root_in_question, False
        reason = self._check_root(in_question=in_question)
        if reason is not None:
            self._drop_source()
            self._lose(reason)
            self.watched.set()
            return _LOOK_FOR_ROOT
        if self._source is not None and not self._source.alive:
            self._drop_source()
            reason = "the source of events has failed"
            self._trail.write(Degraded(root=self.folder.path, reason=reason, instead="opening another"))
        if not (self._take_lock_again() if self._source else self._open_source()):
            self.watched.set()
            return _LOOK_FOR_ROOT
        self.watched.set()
        with self._wake:
            cause, self._cause = self._cause, None
        took = self._scan(cause or "rescan")
        if self._degraded:
            return min(self._rescan_interval, max(self.folder.settings.poll_interval, took / _POLLING_SHARE))
        return self._rescan_interval

    def _check_root(self, *, in_question: bool) -> str | None:
        """Why the folder can't be watched, or None. A folder that was replaced is watched anew.

        One that was deleted and made again can have the same number: an event about the folder itself counts too.
        """
        try:
            descriptor = self.folder.open()
            try:
                info = os.stat(".", dir_fd=descriptor)  # takes the right to enter; `fstat` takes none
                os.scandir(descriptor).close()
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return "it does not exist; benchd waits for it"
            return explained(error, self.folder.path, "read and enter")
        identity = (info.st_dev, info.st_ino)
        if self._source is not None and (in_question or identity != self._identity):
            self._drop_source()
            self._lose("another folder stands in its place")
        self._identity = identity
        return None

    def _take_lock_again(self) -> bool:
        """Take the folder where that was not possible before (a full disk), or where somebody has removed our lock.

        False if another benchd has it by now.
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
        """Take the folder and watch it; False if another benchd has it."""
        try:
            unlocked = self._lock.acquire()
        except Occupied as error:
            self._lose(f"{error}; waiting for it to end")
            return False
        if unlocked is not None and unlocked != self._unlocked:
            self._trail.write(Degraded(root=self.folder.path, reason=unlocked, instead="watching without a lock"))
        self._unlocked = unlocked
        source = source_for(self.folder.settings, self, self._reader)
        try:
            source.start(self.folder)
        except OSError as error:
            if source.backend != "inotify":
                raise
            reason = f"inotify refused: {error.strerror}"
            self._trail.write(Degraded(root=self.folder.path, reason=reason, instead="polling at poll_interval"))
            source = polling_source(self.folder.settings, self)
            source.start(self.folder)
        self._source = source
        self._degraded = False
        if self._lost is not None:
            self._lost = None
            self._trail.write(RootRestored(root=self.folder.path))
        recursive = self.folder.settings.recursive
        self._trail.write(WatchStarted(root=self.folder.path, backend=source.backend, recursive=recursive))
        self.folder.forget_scans()
        with self._wake:
            self._cause = self._cause or "restored"
        return True

    def _lose(self, reason: str) -> None:
        """Say why the folder is not watched, once for each reason."""
        if self._lost != reason:
            self._lost = reason
            self._trail.write(RootLost(root=self.folder.path, reason=reason))

    def _drop_source(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.stop()

    def _scan(self, cause: str) -> float:
        """Queue whatever has no valid answer. Returns the seconds it took, without the waits for room in the inbox."""
        source = self._source
        assert source is not None  # noqa: S101 - `_look` opens it first
        tally, started, waited, doubts = Tally(), time.monotonic(), 0.0, 0
        # The clock of a file server may be set at any time; this system's tells when it was.
        check_clock = cause != "rescan" or source.backend != "inotify"
        scan = self.folder.scan(tally, entering=source.enter, failed=self._cannot_read, check_clock=check_clock)
        for relative in scan:
            before, in_doubt = time.monotonic(), tally.in_doubt
            news = self._inbox.put_scanned(self.folder, relative)
            # What only wants its hash compared is nothing to do, in the eyes of a reader of the trail.
            tally.queued += news and in_doubt == doubts
            doubts = in_doubt
            waited += time.monotonic() - before
            if self._stopping or self._inbox.closed:
                return 0.0
        source.scanned()
        self._failures, self._failing = self._failing, set()
        took = time.monotonic() - started
        self._trail.write(
            ScanFinished(
                root=self.folder.path,
                cause=cause,
                found=tally.found,
                answered=tally.answered,
                queued=tally.queued,
                duration_ms=round(took * 1000, 3),
            )
        )
        return took - waited

    def _cannot_read(self, relative: str, error: OSError) -> None:
        """A directory can't be read or watched: said once for each, tried again at every scan."""
        if not relative and error.errno in {errno.ENOENT, errno.ENOTDIR}:
            self.root_changed()
            return
        shown = self.folder.shown(relative)
        said = shown in self._failures or shown in self._failing
        if len(self._failing) < _MAX_FAILING:
            self._failing.add(shown)
        if not said:
            reason = f"can't read {shown}: {explained(error, shown, 'read and enter')}"
            self._trail.write(Degraded(root=self.folder.path, reason=reason, instead="tried again at every scan"))
