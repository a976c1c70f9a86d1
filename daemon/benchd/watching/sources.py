"""Which source of events serves a folder: inotify, polling, or the system's own by watchdog's observer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchd.settings.keys import FolderSettings
from benchd.watching.events import Listener, Source
from benchd.watching.mounts import is_remote

if TYPE_CHECKING:
    from benchd.watching.inotify import InotifyReader

_LINUX = sys.platform.startswith("linux")

__all__ = ["open_reader", "polling_source", "source_for", "wants_polling"]


def open_reader(after: Callable[[], float | None]) -> InotifyReader | None:
    """The reader of events that all folders of a process share, or None where the system has none.

    `after` is called on its thread whenever it has read; see `InotifyReader`. Raises OSError where there can be no
    more of them (fs.inotify.max_user_instances).
    """
    if _LINUX:
        from benchd.watching.inotify import InotifyReader  # noqa: PLC0415 - imports on Linux alone

        return InotifyReader(after)
    return None  # pragma: no cover - not Linux


def wants_polling(settings: FolderSettings) -> bool:
    """Whether a folder is to be polled: asked for, or on a file server, whose other clients no event tells of."""
    return settings.backend == "polling" or (settings.backend == "auto" and is_remote(settings.path))


def source_for(settings: FolderSettings, listener: Listener, reader: InotifyReader | None) -> Source:
    """The source that serves the folder best."""
    polls = wants_polling(settings)
    if _LINUX:
        if polls or reader is None or reader.failure is not None:
            return polling_source(settings, listener)
        from benchd.watching.inotify import InotifySource  # noqa: PLC0415 - imports on Linux alone

        return InotifySource(reader, listener)
    return _observer(settings, listener, polling=polls)  # pragma: no cover


def polling_source(settings: FolderSettings, listener: Listener) -> Source:
    """What always works, at a price."""
    return _observer(settings, listener, polling=True)


def _observer(settings: FolderSettings, listener: Listener, *, polling: bool) -> Source:
    from benchd.watching.observer import ObserverSource  # noqa: PLC0415 - few need it, all wait for the start

    return ObserverSource(listener, polling=polling, interval=settings.poll_interval)
