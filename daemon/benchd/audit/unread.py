"""Decode the parts of an audit that stay text until they are asked for. Pure."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from msgspec import UNSET, Raw

from benchd.audit.fitting import fitted

__all__ = ["SMALL_PART", "UNREADABLE", "Costly", "is_dense", "part", "value"]

_Part = TypeVar("_Part")

#: What msgspec raises for text that is not JSON of the wanted shape.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

#: The densest real audits, without any white space, have 93 bytes for each object or list and 25 for each comma. Text
#: above these limits takes at most about five times its size when decoded; lists of nothing take forty times.
_BYTES_A_CONTAINER: Final = 48
_BYTES_A_COMMA: Final = 16

#: Text below this size can do no harm. The longest rationale of a real audit has 840 bytes.
SMALL_PART: Final = 64 * 1024

_decode_any = msgspec.json.Decoder().decode


class Costly(Exception):
    """Reading may take much more memory or time than the size of the file explains."""


def part(unread: object, decode: Callable[[Raw], _Part], shape: Any, *, frugal: bool = False) -> _Part | None:
    """Return a part of a document as `shape`, which `decode` decodes; None for what has nothing of that shape.

    With `frugal` it raises `Costly` for text that may take many times its size.
    """
    if isinstance(unread, Raw):
        if frugal and is_dense(unread):
            raise Costly
        try:
            return decode(unread)
        except UNREADABLE:
            unread = _parsed(unread)
    found: _Part | None = fitted(shape, unread)
    return found


def value(unread: object, *, frugal: bool = False) -> object:
    """Return a part of a document as it is; None if it is absent. Raises `Costly` as `part` does."""
    return None if unread is UNSET else part(unread, _decode_any, object, frugal=frugal)


def is_dense(text: Raw) -> bool:
    """Return whether decoding this part of a file may take many times its size."""
    if len(text) <= SMALL_PART:
        return False
    content = bytes(text)
    containers = content.count(b"{") + content.count(b"[")
    return containers * _BYTES_A_CONTAINER > len(content) or content.count(b",") * _BYTES_A_COMMA > len(content)


def _parsed(text: Raw) -> Any:
    # The decoder has checked that this is JSON, but not that its strings are UTF-8.
    readable = bytes(text).decode(errors="replace")
    # Python refuses to convert an integer of more than 4300 digits; as a float it is infinite.
    for parse_int in (int, float):
        with contextlib.suppress(ValueError, RecursionError):  # no shape is so deep that Python can't follow
            return json.loads(readable, parse_int=parse_int)
    return None
