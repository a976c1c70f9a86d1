"""The SHA-256 of a content; of a long one it is taken by another thread, while this one reads the content.

`hashlib` lets go of Python's lock, so that where there are two cores the two are done in the time of one.
"""

from __future__ import annotations

import hashlib
import threading
from typing import Final

__all__ = ["Digest"]

#: A thread is started and joined in a quarter of the time that so many bytes take.
_LONG: Final = 512 * 1024


class Digest:
    """Tells the SHA-256 of `content` in hexadecimal digits, when it is called. Keeps the content until then."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._hexadecimal: str | None = None
        self._thread: threading.Thread | None = None
        if len(content) >= _LONG:
            thread = threading.Thread(target=self._take, name="benchd-digest", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # there can be no more threads
                return
            self._thread = thread

    def __call__(self) -> str:
        """Wait for it, or take it now."""
        if self._thread is not None:
            self._thread.join()
        if self._hexadecimal is None:
            self._take()
        assert self._hexadecimal is not None  # noqa: S101 - for the type checker
        return self._hexadecimal

    def _take(self) -> None:
        self._hexadecimal = hashlib.sha256(self._content).hexdigest()
        self._content = b""
