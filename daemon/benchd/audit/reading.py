"""Read a file into a `Document`: skip text around the JSON, and accept Gradience's deviations from JSON. Pure.

There are two readers with the same result. The fast reader decodes only the fields that the selection needs, by type,
straight from the bytes. Files that it refuses (malformed entries, wrong types) go to the tolerant reader, which keeps
the values of the right type. A file that neither can read raises `AuditError`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import UNSET, Raw

from benchd.audit.broken import shows_audit
from benchd.audit.refusals import NotAnAudit, refusal
from benchd.audit.shapes import Analysis, Document
from benchd.audit.tolerant import OBJECT_FIRST, Found, non_finite_note, read_tolerantly
from benchd.audit.unread import SMALL_PART, UNREADABLE, Costly, value
from benchd.audit.values import times, words

__all__ = ["read_document"]

# Patterns that are text are compiled at their first use, and most files never need them.
_OTHER_FIRST: Final = rb"[ \t\r\n]*[\[\"0-9tfn-]"
_BARE_OBJECT = re.compile(rb"[ \t\r\n]*\{[ \t]*(?:\r?\n|\})")
_OPENING_LINE: Final = rb"(?m)^\{[ \t]*\r?$|^\{\""
_NON_FINITE: Final = rb"(?<=[\s:,\[])(?:NaN|-?Infinity)(?=[\s,\]}])"
_ESCAPE: Final = rb"(?s)\\."
_WARNING_LINE: Final = rb"(?m)^Warning: (Unknown policy [^\r\n]*)"
_UTF8_MARK: Final = b"\xef\xbb\xbf"
_MARKS: Final = (_UTF8_MARK, b"\xff\xfe", b"\xfe\xff")

_decode = msgspec.json.Decoder(Document).decode
_skip = msgspec.json.Decoder(Raw).decode

#: Minimum bytes per entry of a list that is decoded at once. Real audits have 350 or more.
_BYTES_AN_ENTRY: Final = 96

_MAX_WARNINGS: Final = 20

#: Maximum bytes for the tolerant reader when `frugal`. It needs ten times the size in memory, and 15 ms per MiB.
_TOLERABLE_BYTES: Final = 2**20

#: Maximum NaN and Infinity when `frugal`, because each one is a separate search.
_MANY_NON_FINITE: Final = 20_000


def read_document(data: bytes, *, frugal: bool = False) -> tuple[Document, list[str]]:
    """Return the audit in a file, and notes about the file.

    Raises `NotAnAudit` for JSON that is not an audit, and `AuditError` for a file that can't be used. With `frugal` it
    raises `Costly` if it may need much more memory or time than a Gradience audit of that size.
    """
    notes: list[str] = []
    text = _without_mark(data, notes) if data.startswith(_MARKS) else data
    if re.match(_OTHER_FIRST, text) and _is_json(text):
        raise NotAnAudit
    starts = _starts(text)
    found = _read_fast(text, starts) or _read_non_finite(text, starts, notes, frugal=frugal)
    if found is None and frugal and len(text) > _TOLERABLE_BYTES:
        raise Costly
    document, start, end = found or read_tolerantly(text, starts, notes)
    if frugal and _is_crowded(document, len(text)):
        raise Costly
    if start or end < len(text):
        notes.extend(_warnings(text[:start], text[end:]))
    if document.error is not UNSET and value(document.error) == "unexpected_audit_result_type":
        raise refusal("audit_failed", quote="unexpected_audit_result_type")
    if not document.is_audit:
        raise NotAnAudit
    return document, notes


def _is_json(text: bytes) -> bool:
    """Return whether the whole text is JSON. It skips the values, which needs no memory."""
    try:
        _skip(text)
    except UNREADABLE:
        return False
    return True


def _is_crowded(document: Document, size: int) -> bool:
    """Return whether there are more entries than in real audits of this size, or one larger than any real entry."""
    analysis, gains = document.policy_disagreement_analysis, document.per_module_gain
    lists = (analysis.flagged_layers, analysis.all_layers_with_disagreement) if isinstance(analysis, Analysis) else ()
    number = sum(len(entries) for entries in (*lists, gains) if isinstance(entries, list))
    if number * _BYTES_AN_ENTRY > size:
        return True
    texts = [entry.flagging_rationale for entries in lists for entry in entries or ()]
    return any(len(text) > SMALL_PART for text in texts if isinstance(text, Raw))


def _without_mark(data: bytes, notes: list[str]) -> bytes:
    """Return the text as UTF-8 without its byte order mark."""
    if data.startswith(_UTF8_MARK):
        notes.append("the file starts with a UTF-8 byte order mark")
        return data[len(_UTF8_MARK) :]
    try:
        text = data.decode("utf-16").encode()
    except UnicodeDecodeError as error:
        shows = shows_audit(data.decode("utf-16", "ignore"))
        raise refusal("bad_encoding", is_audit=shows, place=f"byte {error.start}", encoding="UTF-16") from None
    notes.append("the file is UTF-16, as a PowerShell redirect writes it")
    return text


def _starts(text: bytes) -> list[int]:
    """Return the positions where the JSON may begin, the likeliest first (spec, section 2).

    The likeliest is the first line that is exactly `{`, else a line that begins with an object, else the start of the
    text.
    """
    if _BARE_OBJECT.match(text):
        return [0]
    start = text.find(b"\n{\n") + 1
    if start == 0:
        # A text search is many times faster than a pattern in megabytes of other content.
        first = 0 if text.startswith(b"{") else text.find(b"\n{")
        opening = re.compile(_OPENING_LINE).search(text, first) if first >= 0 else None
        start = opening.start() if opening else 0
    return [start, 0] if start and re.match(OBJECT_FIRST, text) else [start]


def _end(text: bytes, start: int) -> int:
    """Return where Gradience's JSON ends: at the end of the text, or of the last line that is `}`."""
    if text.endswith((b"}\n", b"}", b"}\r\n")):
        return len(text)
    closing = max(text.rfind(b"\n}\n"), text.rfind(b"\n}\r\n"))
    return closing + 2 if closing > start else len(text)


def _read_fast(text: bytes, starts: list[int], clean: Callable[[bytes], bytes] | None = None) -> Found | None:
    """Decode the document by type, straight from the bytes. Return None if a value does not fit.

    `clean` first turns the text into JSON.
    """
    found: Found | None = None
    missed = False
    for start in starts:
        end = _end(text, start)
        part = memoryview(text)[start:end]
        try:
            document = _decode(clean(bytes(part)) if clean else part)
        except (msgspec.DecodeError, UnicodeDecodeError):
            missed = True
            continue
        except RecursionError:
            raise refusal("too_deep") from None
        if document.is_audit:
            return document, start, end
        found = found or (document, start, end)
    return None if missed else found  # the part that it missed may be the audit


def _read_non_finite(text: bytes, starts: list[int], notes: list[str], *, frugal: bool) -> Found | None:
    """Decode a text with bare NaN or Infinity as null. Gradience writes them, but JSON does not have them."""
    candidates = text.count(b"NaN") + text.count(b"Infinity")
    if not candidates:
        return None
    if frugal and candidates > _MANY_NON_FINITE:
        raise Costly
    count = 0

    def clean(part: bytes) -> bytes:
        nonlocal count
        cleaned, count = _without_non_finite(part)
        return cleaned

    found = _read_fast(text, starts, clean)
    if found and count:
        notes.append(non_finite_note(count))
    return found


def _without_non_finite(text: bytes) -> tuple[bytes, int]:
    """Return `text` with null for every NaN and Infinity outside of strings, and their number."""
    parts: list[bytes] = []
    copied = looked_at = quotes = 0
    for match in re.finditer(_NON_FINITE, text):
        before = text[looked_at : match.start()]
        quotes += (re.sub(_ESCAPE, b"", before) if b"\\" in before else before).count(b'"')
        looked_at = match.end()
        if quotes % 2 == 0:  # not within a string
            parts.append(text[copied : match.start()])
            copied = looked_at
    parts.append(text[copied:])
    return b"null".join(parts), len(parts) - 1


def _warnings(*texts: bytes) -> list[str]:
    found = Counter(line for text in texts if text for line in re.findall(_WARNING_LINE, text))
    return [
        f"Gradience: {times(words(line.decode(errors='replace')), count)}"
        for line, count in list(found.items())[:_MAX_WARNINGS]
    ]
