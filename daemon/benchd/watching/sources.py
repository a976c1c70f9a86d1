"""Choose the source of events for a folder: inotify, polling, or watchdog's observer for the system."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchd.settings.keys import FolderSettings
from benchd.watching.events import Listener, Loop, Source
from benchd.watching.mounts import is_remote

if TYPE_CHECKING:
    from benchd.watching.inotify import Instances

_LINUX = sys.platform.startswith("linux")

__all__ = ["open_instances", "polling_source", "source_for", "wants_polling"]


def open_instances(loop: Loop) -> Instances | None:
    """Return an object that opens inotify instances for the folders of `loop`; None without inotify.

    Raises ImportError if watchdog lacks the functions that benchd uses.
    """
    if _LINUX:
        from benchd.watching.inotify import Instances  # noqa: PLC0415 - can be imported on Linux only

        return Instances(loop)
    return None  # pragma: no cover - not Linux


def wants_polling(settings: FolderSettings, *, is_remote: Callable[[str], bool] = is_remote) -> bool:
    """Return whether to poll a folder: the settings ask for it, or its file system has no events for other hosts."""
    return settings.backend == "polling" or (settings.backend == "auto" and is_remote(settings.path))


def source_for(settings: FolderSettings, listener: Listener, instances: Instances | None) -> Source:
    """Return the best source for a folder. Without `instances` it is watchdog's observer."""
    if wants_polling(settings):
        return polling_source(settings, listener)
    if instances is None:
        return _observer(settings, listener, polling=False)
    from benchd.watching.inotify import InotifySource  # noqa: PLC0415 - can be imported on Linux only

    return InotifySource(instances, listener)


def polling_source(settings: FolderSettings, listener: Listener) -> Source:
    """Return a source that polls. It works on every file system, but costs CPU time and delay."""
    return _observer(settings, listener, polling=True)


def _observer(settings: FolderSettings, listener: Listener, *, polling: bool) -> Source:
    from benchd.watching.observer import ObserverSource  # noqa: PLC0415 - few folders need it, and importing is slow

    return ObserverSource(listener, polling=polling, interval=settings.poll_interval)
