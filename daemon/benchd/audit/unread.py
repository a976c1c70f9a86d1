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

#: Errors that msgspec raises for text that is not JSON of the expected shape.
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

#: Minimum bytes per object or list, and per comma. The densest real audits, without white space, have 93 and 25 bytes.
#: Decoded, text within these limits needs at most about five times its size; a list of empty lists needs forty times.
_BYTES_A_CONTAINER: Final = 48
_BYTES_A_COMMA: Final = 16

#: Maximum bytes of text that is cheap in any case. The longest rationale in a real audit has 840 bytes.
SMALL_PART: Final = 64 * 1024

_decode_any = msgspec.json.Decoder().decode


class Costly(Exception):
    """Raised if reading may need much more memory or time than the size of the file suggests."""


def part(unread: object, decode: Callable[[Raw], _Part], shape: Any, *, frugal: bool = False) -> _Part | None:
    """Return a part of a document, decoded with `decode` as `shape`. None if it has another shape.

    With `frugal` it raises `Costly` for text that may need many times its size.
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
    """Return a part of a document as a plain value. None if it is absent. With `frugal` it may raise `Costly`."""
    return None if unread is UNSET else part(unread, _decode_any, object, frugal=frugal)


def is_dense(text: Raw) -> bool:
    """Return whether decoding this part of a file may need many times its size."""
    if len(text) <= SMALL_PART:
        return False
    content = bytes(text)
    containers = content.count(b"{") + content.count(b"[")
    return containers * _BYTES_A_CONTAINER > len(content) or content.count(b",") * _BYTES_A_COMMA > len(content)


def _parsed(text: Raw) -> Any:
    # The decoder has checked that the text is JSON, but not that its strings are UTF-8.
    readable = bytes(text).decode(errors="replace")
    # Python refuses to convert an integer of more than 4300 digits. As a float it is infinite.
    for parse_int in (int, float):
        with contextlib.suppress(ValueError, RecursionError):  # no shape is that deep
            return json.loads(readable, parse_int=parse_int)
    return None
