"""Linux: watchdog's inotify reader with a mask of our own.

watchdog's stock observer pairs the two halves of every move: half a second for whatever comes after a file
that was moved away, and a queue that it scans twice for each one that came in (field-notes, section 6). Below it,
`InotifyFD` is what is needed: a reader thread, a parser and the book-keeping of watch descriptors.

Watches are set on open descriptors (by way of `/proc/self/fd`), so that a path that is swapped for a link between
check and use is never followed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import math
import os
import select
import struct
import threading
from collections.abc import Callable
from typing import Final

from watchdog.observers import inotify_c
from watchdog.observers.inotify_c import CallbackId, InotifyConstants, InotifyEvent, InotifyFD, Mask, WatchDescriptor

from benchd.folder.folder import Folder
from benchd.folder.names import CONFIG_SUFFIX, ERROR_SUFFIX
from benchd.inbox import Trigger
from benchd.watching.events import Listener

__all__ = ["InotifyReader", "InotifySource"]

_MASK: Final = Mask(
    InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_CREATE
    | InotifyConstants.IN_DELETE_SELF
    | InotifyConstants.IN_MOVE_SELF
    | InotifyConstants.IN_ONLYDIR
)
_CREATE: Final = int(InotifyConstants.IN_CREATE)
_CLOSE_WRITE: Final = int(InotifyConstants.IN_CLOSE_WRITE)
_MOVED_TO: Final = int(InotifyConstants.IN_MOVED_TO)
_IS_DIRECTORY: Final = int(InotifyConstants.IN_ISDIR)
_OVERFLOW: Final = int(InotifyConstants.IN_Q_OVERFLOW)
_SELF: Final = int(InotifyConstants.IN_DELETE_SELF | InotifyConstants.IN_MOVE_SELF | InotifyConstants.IN_UNMOUNT)
_OUR_ENDINGS: Final = (CONFIG_SUFFIX.encode(), ERROR_SUFFIX.encode())

#: `struct inotify_event` without its name (inotify(7)).
_HEADER: Final = struct.Struct("iIII")
_BUFFER_BYTES: Final = 64 * 1024

# Overflows are recorded by us, with what is done about them.
logging.getLogger(inotify_c.__name__).addFilter(lambda record: "overflow" not in record.msg)


class InotifyReader(InotifyFD):
    """One inotify instance and its reader thread, shared by all folders of a process.

    At its beginning, whenever it has told of what it read or was woken, and when it has failed, it calls `after`, which
    may use the thread for a moment. That returns after how many seconds it wants to be called again though nothing
    happens; None if it need not.
    """

    def __init__(self, after: Callable[[], float | None] = lambda: None) -> None:
        super().__init__()
        self.name = "benchd-inotify"
        self.daemon = True
        self.failure: Exception | None = None
        self._after = after
        self._wait: float | None = None
        self._called = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        assert self._poller is not None  # noqa: S101 - Linux has poll
        self._poller.register(self._called, select.POLLIN)

    def wake(self) -> None:
        """Have the thread call `after` soon, though nothing happens."""
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._called, 1)

    def _close_resources(self) -> None:
        super()._close_resources()
        os.close(self._called)

    def run(self) -> None:
        """Read events until stopped. A failure is kept, and told to every folder, so that it is never silent."""
        try:
            self._wait = self._after()
            while self.should_keep_running():
                for event in self.read_events():
                    if event.mask & _IS_DIRECTORY:
                        self._after()  # to adopt a directory can take long
                    self.handle_event(event)
                self._wait = self._after()
        except Exception as error:  # noqa: BLE001 - whatever it is, the folders must not go unwatched in silence
            self.failure = error
            with self._lock:
                sources = {id(item): item for watch in self._watch_for_wd.values() for item in watch.callbacks.values()}
            for source in sources.values():
                if isinstance(source, InotifySource):
                    source.reader_failed(error)
            self._after()

    def _check_inotify_fd(self) -> bool:
        """Wait for events, if need be not for ever; whether there are some."""
        # Rounded up: what is due a little later is not asked for twice.
        wait = None if self._wait is None else math.ceil(self._wait * 1000)
        assert self._poller is not None  # noqa: S101 - Linux has poll
        ready = [descriptor for descriptor, _ in self._poller.poll(wait)]
        if self._called in ready:
            os.eventfd_read(self._called)
        return self._inotify_fd in ready

    def read_events(self, *, event_buffer_size: int = _BUFFER_BYTES) -> list[InotifyEvent]:
        """Wait for events and read them, without those of files that are never audits, such as our own.

        Every answer makes three of these; here they cost a glance.
        """
        buffer = self._read_event_buffer(event_buffer_size)
        events: list[InotifyEvent] = []
        created: dict[tuple[int, bytes], int] = {}
        position = 0
        while position < len(buffer):
            wd, mask, cookie, length = _HEADER.unpack_from(buffer, position)
            position += _HEADER.size + length
            name = buffer[position - length : position].rstrip(b"\0")
            if name and (name.startswith(b".") or name.endswith(_OUR_ENDINGS)):
                continue
            event = InotifyEvent(wd, mask, cookie, name)
            if mask == _CREATE:
                created[wd, name] = len(events)
            elif mask == _CLOSE_WRITE and created and (known := created.pop((wd, name), None)) is not None:
                events[known] = event  # that it was created before it was closed is no news
                continue
            if wd != -1 or mask & _OVERFLOW:
                events.append(event)
        return events

    def watch(self, path: bytes, source: InotifySource) -> WatchDescriptor:
        """Watch the directory `path` for `source`; the same descriptor again if it is watched already. Raises OSError.

        `add_callback` does the same, but warns where a directory is watched already, and takes a lack of permission
        for success.
        """
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            ctypes.set_errno(0)
            watch = self._get_or_create_watch(path, _MASK)
            if watch.wd == -1:
                self._watch_for_wd.pop(watch.wd, None)
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            watch.callbacks[CallbackId(id(source))] = source
            return watch.wd


class InotifySource:
    """Watches one folder, every directory of it. Implements `Source`, and watchdog's `WatchCallback`."""

    backend = "inotify"

    def __init__(self, reader: InotifyReader, listener: Listener) -> None:
        self._reader = reader
        self._listener = listener
        self._folder: Folder | None = None
        self._lock = threading.Lock()
        #: Where each watched directory is, and the scan that last saw it there. Guarded by the lock: the reader
        #: thread and the scanning thread both write.
        self._directories: dict[WatchDescriptor, tuple[str, int]] = {}
        self._generation = 0
        self._full = False

    def start(self, folder: Folder) -> None:
        """Watch the folder itself. Raises OSError."""
        self._folder = folder
        descriptor = folder.open()
        try:
            self._watch("", descriptor)
        finally:
            os.close(descriptor)

    def enter(self, relative: str, descriptor: int) -> None:
        """Watch one directory, whose open descriptor this is; says so once if there can be no more watches."""
        try:
            self._watch(relative, descriptor)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            if not self._full:
                self._full = True
                self._listener.problem(
                    "the system's limit of watched directories is reached; raise it: sysctl fs.inotify.max_user_watches"
                )

    def _watch(self, relative: str, descriptor: int) -> None:
        # The lock spans both, so that no event of the new watch is handled before its place is known.
        with self._lock:
            wd = self._reader.watch(b"/proc/self/fd/%d" % descriptor, self)
            self._directories[wd] = (relative, self._generation)

    def scanned(self) -> None:
        """Forget the directories that the scan did not meet: moved away, or deleted."""
        with self._lock:
            stale = [wd for wd, (_, generation) in self._directories.items() if generation < self._generation]
            self._generation += 1
        self._forget(stale)

    @property
    def alive(self) -> bool:
        """Whether the shared reader still reads."""
        return self._reader.failure is None

    def stop(self) -> None:
        """Remove all watches of this folder."""
        with self._lock:
            every = list(self._directories)
        self._forget(every)

    def _forget(self, wds: list[WatchDescriptor]) -> None:
        for wd in wds:
            with self._lock:
                known = self._directories.pop(wd, None)
            if known is not None:
                with contextlib.suppress(OSError):  # the kernel has removed it already
                    self._reader.remove_callbacks([(wd, CallbackId(id(self)))])

    def reader_failed(self, error: Exception) -> None:
        """The shared reader thread has died."""
        self._listener.lost_events(f"the reader of events failed: {type(error).__name__}: {error}")

    # --- watchdog's WatchCallback; on the reader thread ----------------------------------------------------

    def on_event(self, event: InotifyEvent) -> None:
        """One event of one of our directories."""
        known = self._directories.get(event.wd)
        if known is None:
            return
        place, mask, name = known[0], event.mask, event.name
        if not name or mask & _SELF:
            self._directory_itself(event.wd, place)
            return
        text = os.fsdecode(name)
        relative = f"{place}/{text}" if place else text
        if mask & _IS_DIRECTORY:
            self._adopt(relative)
        elif mask & _CLOSE_WRITE:
            self._listener.file(relative, "closed")
        else:
            self._listener.file(relative, "moved" if mask & _MOVED_TO else "created")

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """The kernel, or `stop`, has removed a watch."""
        with self._lock:
            known = self._directories.pop(wd, None)
        if known is not None and not known[0]:
            self._listener.root_changed()

    def on_queue_overflow(self) -> None:
        """The kernel's queue was full; events are lost."""
        self._listener.lost_events("the kernel's event queue overflowed")

    def _directory_itself(self, wd: WatchDescriptor, place: str) -> None:
        """A watched directory was moved or deleted, or its file system unmounted."""
        if not place:
            self._listener.root_changed()
            return
        folder = self._folder
        try:
            descriptor = folder.open(place) if folder else -1
        except OSError:
            descriptor = -1
        if descriptor >= 0:
            # Moved within the folder its new place is known by now, and the kernel gives the same watch again.
            try:
                self._watch(place, descriptor)
            except OSError:
                self._listener.lost_events("a moved directory can't be watched")
            finally:
                os.close(descriptor)
        with self._lock:
            below = f"{place}/"
            moved = self._directories.get(wd, ("", 0))[0] != place or descriptor < 0
            gone = [
                other
                for other, (path, _) in self._directories.items()
                if moved and (other == wd or path.startswith(below))
            ]
        self._forget(gone)

    def _adopt(self, relative: str) -> None:
        """A directory appeared: watch it and all below, then tell of the files that are there already."""
        folder = self._folder
        if folder is None or not folder.enters(relative):
            return
        pending = [relative]
        while pending:
            place = pending.pop()
            try:
                descriptor = folder.open(place)
            except OSError as error:
                if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                    self._listener.lost_events(f"can't enter {folder.shown(place)}: {error.strerror}")
                continue  # gone again, or swapped: its own events will tell
            try:
                self.enter(place, descriptor)
                self._list(place, descriptor, pending)
            except OSError as error:
                self._listener.problem(f"can't watch {folder.shown(place)}: {error.strerror}")
            finally:
                os.close(descriptor)

    def _list(self, place: str, descriptor: int, pending: list[str]) -> None:
        folder = self._folder
        with os.scandir(descriptor) as entries:
            for entry in entries:
                path = f"{place}/{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if folder is not None and folder.enters(path):
                        pending.append(path)
                else:
                    trigger: Trigger = "scan"
                    self._listener.file(path, trigger)
