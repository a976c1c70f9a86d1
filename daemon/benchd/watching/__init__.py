"""Events and scans -> inbox. Knows folders and names; knows nothing of audits."""

from benchd.watching.sources import open_reader, wants_polling
from benchd.watching.watcher import Watcher

__all__ = ["Watcher", "open_reader", "wants_polling"]
