"""Encode records as lines of JSON. Encoding never fails: a value that JSON can't represent becomes text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET

from benchd.audit.values import utf8
from benchd.settings.keys import Level
from benchd.trail.records import Record

__all__ = ["MAX_LINE", "Render", "journal_line", "json_line"]

#: Returns the line for a record and the time at which it was written.
Render = Callable[[str, Record], bytes]

#: Maximum length of a line in bytes. The journal splits lines at 48 KiB (LineMax=).
MAX_LINE: Final = 46 * 1024
_MAX_TEXT: Final = 2000
_MAX_ITEMS: Final = 5

#: The journal's priorities at the start of a line (sd-daemon(3)).
_PRIORITIES: Final[dict[Level, bytes]] = {"debug": b"<7>", "info": b"<6>", "warning": b"<4>", "error": b"<3>"}

_encode = msgspec.json.Encoder().encode


def json_line(ts: str, record: Record) -> bytes:
    """Return `record` as one line of JSON, with at most `MAX_LINE` bytes and a newline."""
    head = f'{{"ts":"{ts}","level":"{record.level}",'.encode()
    try:
        body = _encode(record)
    except (UnicodeEncodeError, OverflowError, TypeError, ValueError):
        body = _encode(_printable(record))
    if len(head) + len(body) - 1 > MAX_LINE:
        body = _encode({**_clipped(msgspec.json.decode(body)), "clipped": True})
    return head + body[1:] + b"\n"


def journal_line(ts: str, record: Record) -> bytes:
    """Return `record` as one line for the journal. The journal removes the priority at its start."""
    return _PRIORITIES[record.level] + json_line(ts, record)


def _clipped(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _MAX_TEXT else value[: _MAX_TEXT - 1] + "…"
    if isinstance(value, dict):
        return {key: _clipped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clipped(item) for item in value[:_MAX_ITEMS]]
    return value


def _printable(value: Any) -> Any:
    """Return `value` with text instead of surrogates, large integers, other keys than text, and unknown objects."""
    if isinstance(value, str):
        return utf8(value)
    if isinstance(value, Mapping):
        return {_printable(str(key)): _printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    if isinstance(value, msgspec.Struct):
        tag = {value.__struct_config__.tag_field: value.__struct_config__.tag} if isinstance(value, Record) else {}
        return {**tag, **_printable({k: v for k, v in msgspec.structs.asdict(value).items() if v is not UNSET})}
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    return _printable(str(value))
