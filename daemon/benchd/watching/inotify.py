"""Linux: folders watched through inotify, by watchdog's bindings and with a mask of our own.

watchdog's stock observer pairs the two halves of every move: half a second for each file that is moved away, and a
queue that it searches twice for each one that is moved in (field-notes, section 6). benchd needs neither, so it uses
the three functions below it.

Watches are set on open descriptors (through `/proc/self/fd`), so that a path that is swapped for a link between check
and use is never followed.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from collections.abc import Callable
from typing import Final

from watchdog.observers.inotify_c import (
    InotifyConstants,
    WatchDescriptor,
    inotify_add_watch,
    inotify_init,
    inotify_rm_watch,
)

from benchd.folder.folder import Folder
from benchd.folder.names import CONFIG_SUFFIX, ERROR_SUFFIX
from benchd.inbox import Hint
from benchd.watching.events import Listener, Loop

__all__ = ["Inotify", "InotifySource", "Instances"]

_CREATE: Final = int(InotifyConstants.IN_CREATE)
_CLOSE_WRITE: Final = int(InotifyConstants.IN_CLOSE_WRITE)
_MOVED_TO: Final = int(InotifyConstants.IN_MOVED_TO)
_DELETE_SELF: Final = int(InotifyConstants.IN_DELETE_SELF)
_MOVE_SELF: Final = int(InotifyConstants.IN_MOVE_SELF)
_UNMOUNT: Final = int(InotifyConstants.IN_UNMOUNT)
_IGNORED: Final = int(InotifyConstants.IN_IGNORED)
_IS_DIRECTORY: Final = int(InotifyConstants.IN_ISDIR)
_OVERFLOW: Final = int(InotifyConstants.IN_Q_OVERFLOW)
_ONLY_DIRECTORIES: Final = int(InotifyConstants.IN_ONLYDIR)

_MASK: Final = _CLOSE_WRITE | _MOVED_TO | _CREATE | _DELETE_SELF | _MOVE_SELF | _ONLY_DIRECTORIES
_OUR_ENDINGS: Final = (CONFIG_SUFFIX.encode(), ERROR_SUFFIX.encode())

#: `struct inotify_event` without its name (inotify(7)).
_HEADER: Final = struct.Struct("iIII")
_BUFFER_BYTES: Final = 64 * 1024

#: Users may have 128 instances by default. Beyond half of them, folders share theirs.
_MAX_INSTANCES: Final = 64


class Inotify:
    """One inotify instance: a queue of events in the kernel. Its loop alone reads and closes it."""

    def __init__(self, descriptor: int) -> None:
        self.sources: set[InotifySource] = set()
        #: So that no other thread uses the number after the loop has closed it, when it may belong to another file.
        self._descriptor_lock = threading.Lock()
        self._descriptor = descriptor
        self._watches: dict[int, InotifySource] = {}

    @classmethod
    def open(cls) -> Inotify:
        """Return a new instance. Raises OSError."""
        descriptor = inotify_init()
        if descriptor == -1:
            raise _error()
        os.set_inheritable(descriptor, False)
        os.set_blocking(descriptor, False)
        return cls(descriptor)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._descriptor

    def watch(self, path: bytes, source: InotifySource) -> int:
        """Watch the directory `path` for `source`; return the watch, the old one if there is one. Raises OSError."""
        with self._descriptor_lock:
            watch = inotify_add_watch(self._descriptor, path, _MASK)
        if watch == -1:
            raise _error()
        if self._watches.setdefault(watch, source) is not source:
            raise OSError(errno.EEXIST, "another watched folder has the same directory")
        return int(watch)

    def forget(self, watch: int) -> None:
        """Remove a watch, if it is still there."""
        if self._watches.pop(watch, None) is not None:
            with self._descriptor_lock:
                inotify_rm_watch(self._descriptor, WatchDescriptor(watch))

    def gone(self, watch: int) -> None:
        """Note that the kernel has removed a watch."""
        self._watches.pop(watch, None)

    def read(self) -> None:
        """Read events once, and pass them to their sources. Never block."""
        try:
            buffer = os.read(self._descriptor, _BUFFER_BYTES)
        except BlockingIOError:
            return
        heard: dict[InotifySource, None] = {}
        position = 0
        while position < len(buffer):
            watch, mask, _, length = _HEADER.unpack_from(buffer, position)
            position += _HEADER.size + length
            name = buffer[position - length : position].rstrip(b"\0")
            if name.startswith(b".") or name.endswith(_OUR_ENDINGS):
                continue  # never an audit; every answer makes three of these
            source = self._watches.get(watch)
            if source is not None:
                source.note(watch, mask, name)
                heard[source] = None
            elif mask & _OVERFLOW:
                for each in set(self._watches.values()):
                    each.overflowed()
        for source in heard:
            source.tell()

    def failed(self, error: Exception) -> None:
        """Tell all folders that their events are not read any more."""
        for source in set(self._watches.values()):
            source.failed(error)

    def close(self) -> None:
        """Close the descriptor. Safe to call twice."""
        with self._descriptor_lock:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)


class Instances:
    """The inotify instances of one loop: one for each folder, so that a flood in one fills only its own queue."""

    def __init__(self, loop: Loop, most: int = _MAX_INSTANCES) -> None:
        self._loop = loop
        self._most = most
        self._open: list[Inotify] = []
        self._lock = threading.Lock()

    def join(self, source: InotifySource) -> Inotify:
        """Return an instance for `source`: a new one, or the least used if there can be no more. Raises OSError."""
        with self._lock:
            instance = self._new() if len(self._open) < self._most else self._least_used()
            instance.sources.add(source)
            return instance

    def _new(self) -> Inotify:
        try:
            instance = Inotify.open()
        except OSError:
            if not self._open:
                raise
            return self._least_used()
        self._open.append(instance)
        self._loop.add(instance)
        return instance

    def _least_used(self) -> Inotify:
        return min(self._open, key=lambda instance: len(instance.sources))

    def leave(self, source: InotifySource, instance: Inotify) -> None:
        """Note that `source` does not need the instance any more. The last one closes it."""
        with self._lock:
            instance.sources.discard(source)
            if not instance.sources and instance in self._open:
                self._open.remove(instance)
                self._loop.remove(instance)


class InotifySource:
    """Watches every directory of one folder. Implements `Source`."""

    backend = "inotify"

    def __init__(self, instances: Instances, listener: Listener) -> None:
        self._instances = instances
        self._listener = listener
        self._instance: Inotify | None = None
        self._folder: Folder | None = None
        self._error: Exception | None = None
        #: The loop and the watcher's thread both write what follows.
        self._lock = threading.Lock()
        #: The path of each watched directory, and the scan that saw it last.
        self._places: dict[int, tuple[str, int]] = {}
        self._generation = 0
        self._is_full = False
        #: What the present read has found; only the loop touches it.
        self._hints: dict[str, Hint] = {}

    # --- on the watcher's thread ---------------------------------------------------------------------------

    def start(self, folder: Folder) -> None:
        """Watch the folder itself. Raises OSError."""
        descriptor = folder.open()
        try:
            self._folder, self._instance = folder, self._instances.join(self)
            self._watch("", descriptor)
        except OSError:
            self.stop()
            raise
        finally:
            os.close(descriptor)

    def enter(self, relative: str, descriptor: int) -> None:
        """Watch one open directory. At the system's limit of watches, say so once. Raises OSError."""
        try:
            self._watch(relative, descriptor)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            if not self._is_full:
                self._is_full = True
                self._listener.problem(
                    "the system's limit of watched directories is reached; raise it: sysctl fs.inotify.max_user_watches"
                )

    def _watch(self, relative: str, descriptor: int) -> int:
        instance = self._instance
        if instance is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        # Events of a new watch are dropped until its path is known. The scan lists the directory after that.
        with self._lock:
            watch = instance.watch(b"/proc/self/fd/%d" % descriptor, self)
            self._places[watch] = (relative, self._generation)
        return watch

    def recheck(self, watch: int, relative: str) -> None:
        """Follow a watched directory that was moved or deleted. If it is gone, forget it and everything below."""
        folder, again = self._folder, -1
        if folder is None:
            return
        try:
            descriptor = folder.open(relative)
        except OSError:
            self._forget(lambda _, place: f"{place}/".startswith(f"{relative}/"))
            return
        try:
            again = self._watch(relative, descriptor)  # moved within the folder, it has its new path by now
        except OSError:
            self._listener.lost_events("a moved directory can't be watched")
        finally:
            os.close(descriptor)
        if again != watch:
            self._forget(lambda other, place: other == watch and place == relative)

    def scanned(self) -> None:
        """Forget the directories that the scan did not enter: they were moved away or deleted."""
        with self._lock:
            generation = self._generation
            self._generation += 1
            stale = [watch for watch, (_, seen) in self._places.items() if seen < generation]
        self._forget(lambda watch, _: watch in stale)

    def _forget(self, is_stale: Callable[[int, str], bool]) -> None:
        with self._lock:
            stale = [watch for watch, (place, _) in self._places.items() if is_stale(watch, place)]
            for watch in stale:
                del self._places[watch]
        instance = self._instance
        for watch in stale:
            if instance is not None:
                instance.forget(watch)

    @property
    def alive(self) -> bool:
        """Return whether the loop still reads this folder's events."""
        return self._instance is not None and self._error is None

    def stop(self) -> None:
        """Remove all watches of this folder."""
        self._forget(lambda *_: True)
        instance, self._instance = self._instance, None
        if instance is not None:
            self._instances.leave(self, instance)

    # --- on the loop ---------------------------------------------------------------------------------------

    def note(self, watch: int, mask: int, name: bytes) -> None:
        """Note one event; `tell` passes it on."""
        known = self._places.get(watch)
        if known is None:
            return
        place = known[0]
        if mask & (_DELETE_SELF | _MOVE_SELF | _UNMOUNT | _IGNORED) or not name:
            self._note_itself(watch, mask, place)
            return
        text = os.fsdecode(name)
        relative = f"{place}/{text}" if place else text
        if mask & _IS_DIRECTORY:
            self._listener.explore(relative)
        elif mask & _CLOSE_WRITE:
            self._hints[relative] = "closed"
        elif mask & _MOVED_TO:
            self._hints[relative] = "moved"
        else:
            self._hints.setdefault(relative, "created")

    def _note_itself(self, watch: int, mask: int, place: str) -> None:
        if mask & _IGNORED:  # the kernel has removed the watch
            with self._lock:
                self._places.pop(watch, None)
            if self._instance is not None:
                self._instance.gone(watch)
        if not place:
            self._listener.root_changed()
        elif not mask & _IGNORED:
            self._listener.recheck(watch, place)

    def tell(self) -> None:
        """Pass on what was noted since the last call."""
        if self._hints:
            hints, self._hints = self._hints, {}
            self._listener.files(hints.items())

    def overflowed(self) -> None:
        """The kernel's queue was full."""
        self._listener.lost_events("the kernel's event queue overflowed")

    def failed(self, error: Exception) -> None:
        """The loop can't read this folder's events any more."""
        self._error = error
        self._listener.lost_events(f"the reader of events failed: {type(error).__name__}: {error}")


def _error() -> OSError:
    number = ctypes.get_errno()
    if number == errno.EMFILE:
        return OSError(number, "too many inotify instances or open files; raise fs.inotify.max_user_instances")
    return OSError(number, os.strerror(number))
