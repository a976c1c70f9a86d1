"""Bytes -> `Document`: past the text that stands before the JSON, through what JSON does not allow.

Two ways lead to the same value. The fast one decodes, by type, only what the selection needs, straight from the
bytes. What it can't take (malformed entries, wrong types) goes through the tolerant one: the standard parser, and
`fit`, which keeps what has the right shape. A text that neither can use raises `AuditError`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw

from benchd.audit.refusals import AuditError, NotAnAudit, refusal
from benchd.audit.shapes import Analysis, Document, fit
from benchd.values import times, words

__all__ = ["Costly", "is_dense", "read_document"]


class Costly(Exception):
    """Reading it may take much more memory or time than its size explains."""


# Compiled when they are first needed, which is mostly never: nobody waits for it at the start.
_OBJECT_FIRST: Final = rb"[ \t\r\n]*\{"
_OTHER_FIRST: Final = rb"[ \t\r\n]*[\[\"0-9tfn-]"
_BARE_OBJECT = re.compile(rb"[ \t\r\n]*\{[ \t]*(?:\r?\n|\})")
_OPENING_LINE: Final = rb"(?m)^\{[ \t]*\r?$|^\{\""
_NON_FINITE: Final = rb"(?<=[\s:,\[])(?:NaN|-?Infinity)(?=[\s,\]}])"
_ESCAPE: Final = rb"(?s)\\."
_WARNING_LINE: Final = rb"(?m)^Warning: (Unknown policy [^\r\n]*)"
_UTF8_BOM: Final = b"\xef\xbb\xbf"
_UTF16_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")


_decode = msgspec.json.Decoder(Document).decode
_skip = msgspec.json.Decoder(Raw).decode

#: A document, and where it lies in its text.
_Found = tuple[Document, int, int]

#: The densest real audits, without any white space, have 93 bytes for each object or list and 25 for each comma. What
#: stays below these takes at most about five times its size while it is decoded; lists of nothing take forty times.
_BYTES_A_CONTAINER: Final = 48
_BYTES_A_COMMA: Final = 16

#: And they have 350 bytes or more for each entry of a list that is decoded at once.
_BYTES_AN_ENTRY: Final = 96

#: The longest rationale in them has 840 bytes. What is smaller than this can do no harm.
_SMALL_PART: Final = 64 * 1024

_MAX_WARNINGS: Final = 20

#: The tolerant way takes ten times its size, and 15 ms a MiB.
_TOLERABLE_BYTES: Final = 2**20

#: Each one is looked at by itself.
_MANY_NON_FINITE: Final = 20_000


def read_document(data: bytes, *, frugal: bool = False) -> tuple[Document, list[str]]:
    """What a file holds, and what a reader should know about the file.

    With `frugal` it raises `Costly` rather than take much more memory or time than what Gradience writes takes at
    that size. Raises `AuditError` for what can't be used.
    """
    notes: list[str] = []
    text = _utf8(data, notes)
    if _is_other_json(text):
        raise NotAnAudit
    found = _read_fast(text) or _read_non_finite(text, notes, frugal=frugal)
    if found is None and frugal and len(text) > _TOLERABLE_BYTES:
        raise Costly
    document, start, end = found or _read_tolerantly(text, notes)
    if frugal and _is_crowded(document, len(text)):
        raise Costly
    if start or end < len(text):
        notes.extend(_warnings(text[:start], text[end:]))
    return document, notes


def _is_other_json(text: bytes) -> bool:
    """Whether the whole text is JSON and no object: its values are only passed over, which takes no memory."""
    if not re.match(_OTHER_FIRST, text):
        return False
    try:
        _skip(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def is_dense(text: Raw) -> bool:
    """Whether decoding this part of a file may take many times its size."""
    if len(text) <= _SMALL_PART:
        return False
    content = bytes(text)
    containers = content.count(b"{") + content.count(b"[")
    return containers * _BYTES_A_CONTAINER > len(content) or content.count(b",") * _BYTES_A_COMMA > len(content)


def _is_crowded(document: Document, size: int) -> bool:
    """Whether there are many more entries than a file of this size has, or one that is like no entry."""
    analysis, gains = document.policy_disagreement_analysis, document.per_module_gain
    lists = (analysis.flagged_layers, analysis.all_layers_with_disagreement) if isinstance(analysis, Analysis) else ()
    number = sum(len(entries) for entries in (*lists, gains) if isinstance(entries, list))
    if number * _BYTES_AN_ENTRY > size:
        return True
    texts = [entry.flagging_rationale for entries in lists for entry in entries or ()]
    return any(len(text) > _SMALL_PART for text in texts if isinstance(text, Raw))


def _utf8(data: bytes, notes: list[str]) -> bytes:
    if data.startswith(_UTF8_BOM):
        notes.append("the file starts with a UTF-8 byte order mark")
        return data[len(_UTF8_BOM) :]
    if data.startswith(_UTF16_BOMS):
        try:
            text = data.decode("utf-16").encode()
        except UnicodeDecodeError as error:
            shows = _shows_audit(data.decode("utf-16", "ignore"))
            raise refusal("bad_encoding", is_audit=shows, place=f"byte {error.start}", encoding="UTF-16") from None
        notes.append("the file is UTF-16, as a PowerShell redirect writes it")
        return text
    return data


def _starts(text: bytes) -> list[int]:
    """Where the JSON may begin, the likeliest first: the first line that is exactly `{` (spec, section 2).

    A document that begins with more than that on its first line (a compact one) comes second; and where there is
    neither, the text is looked at from its beginning.
    """
    if _BARE_OBJECT.match(text):
        return [0]
    start = text.find(b"\n{\n") + 1
    if start == 0:
        # Searching for text is many times faster than for the pattern, in megabytes of something else.
        first = 0 if text.startswith(b"{") else text.find(b"\n{")
        opening = re.compile(_OPENING_LINE).search(text, first) if first >= 0 else None
        start = opening.start() if opening else 0
    return [start, 0] if start and re.match(_OBJECT_FIRST, text) else [start]


def _end(text: bytes, start: int) -> int:
    """Where the JSON ends, as Gradience writes it: with the text, or with the last line that is exactly `}`."""
    if text.endswith((b"}\n", b"}", b"}\r\n")):
        return len(text)
    closing = max(text.rfind(b"\n}\n"), text.rfind(b"\n}\r\n"))
    return closing + 2 if closing > start else len(text)


def _read_fast(text: bytes, clean: Callable[[memoryview], bytes | memoryview] = lambda part: part) -> _Found | None:
    """The way for nearly every file: typed, from the bytes. None for what it can't take."""
    found: _Found | None = None
    missed = False
    for start in _starts(text):
        end = _end(text, start)
        try:
            document = _decode(clean(memoryview(text)[start:end]))
        except (msgspec.DecodeError, UnicodeDecodeError):
            missed = True
            continue
        except RecursionError:
            raise refusal("too_deep") from None
        if document.is_audit:
            return document, start, end
        found = found or (document, start, end)
    return None if missed else found  # what it missed may be the audit


def _read_non_finite(text: bytes, notes: list[str], *, frugal: bool) -> _Found | None:
    """The same for a text with bare NaN or Infinity, which Gradience writes and JSON does not have: they are null."""
    candidates = text.count(b"NaN") + text.count(b"Infinity")
    if not candidates:
        return None
    if frugal and candidates > _MANY_NON_FINITE:
        raise Costly
    count = 0

    def clean(part: memoryview) -> bytes:
        nonlocal count
        cleaned, count = _without_non_finite(bytes(part))
        return cleaned

    found = _read_fast(text, clean)
    if found and count:
        notes.append(_non_finite_note(count))
    return found


def _non_finite_note(count: int) -> str:
    times = "once" if count == 1 else f"{count} times"
    return f"NaN or Infinity stands {times} where a number should; such a score ranks no layer"


def _without_non_finite(text: bytes) -> tuple[bytes, int]:
    """`text` with null for every NaN and Infinity that is not within a string, and how many there were."""
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


class _Tokens:
    """Counts what standard JSON does not have."""

    non_finite = 0

    def constant(self, _: str) -> None:
        self.non_finite += 1  # and null, as on the fast way


def _read_tolerantly(raw: bytes, notes: list[str]) -> _Found:
    """The way for what the fast one refused. Returns the document and where it lies in `raw`."""
    found: _Found | None = None
    refused: AuditError | None = None
    for start in _starts(raw):
        said: list[str] = []
        try:
            document = _read_tolerantly_from(raw, start, said)
        except AuditError as error:
            refused = refused or error
            continue
        if document[0].is_audit:
            notes.extend(said)
            return document
        found = found or document
    if found is not None:
        return found
    raise refused or refusal("empty")  # there is always a place to start from


def _read_tolerantly_from(raw: bytes, start: int, notes: list[str]) -> _Found:
    # What stands before and after the JSON need not be text: it is the terminal's, in whatever encoding that has.
    before = raw.count(b"\n", 0, start)
    undecodable: AuditError | None = None
    try:
        text = raw[start:].decode()
    except UnicodeDecodeError as error:
        text = raw[start : start + error.start].decode()
        undecodable = _undecodable(raw, start, error, text, before)
    if not text.strip(_BLANK):
        raise undecodable or refusal("empty")
    tokens = _Tokens()
    blank = len(text) - len(text.lstrip(" \t\r\n"))
    try:
        value, end = _parse(text, blank, tokens)
    except RecursionError:
        raise refusal("too_deep") from None
    except json.JSONDecodeError as error:
        raise undecodable or _explain(text, blank, error, before) from None
    if not isinstance(value, dict):
        if text[end:].strip() or undecodable:
            raise undecodable or _explain(text, blank, json.JSONDecodeError("Extra data", text, end), before)
        raise NotAnAudit
    _check_schema(value)
    if tokens.non_finite:
        notes.append(_non_finite_note(tokens.non_finite))
    return fit(Document, value), start, start + len(text[:end].encode())


def _undecodable(raw: bytes, start: int, error: UnicodeDecodeError, text: str, before: int) -> AuditError:
    """What is wrong if the JSON is not over before the bytes that are no UTF-8; `text` stands before them."""
    if error.reason == "unexpected end of data" and re.compile(_OBJECT_FIRST).match(raw, start):
        # Cut off within a character: the end is what is wrong with it, not the encoding.
        return refusal("truncated", is_audit=_shows_audit(text), place=_place(text, len(text), before))
    line = raw.count(b"\n", 0, start + error.start) + 1
    place = f"line {line}, byte {start + error.start}"
    shows = _shows_audit(raw.decode(errors="ignore"))
    return refusal("bad_encoding", is_audit=shows, place=place, encoding="UTF-8")


def _parse(text: str, start: int, tokens: _Tokens) -> tuple[Any, int]:
    try:
        return json.JSONDecoder(parse_constant=tokens.constant).raw_decode(text, start)
    except json.JSONDecodeError:
        raise
    except ValueError:
        # Python refuses to convert an integer of more than 4300 digits; as a float it is infinite.
        tokens.non_finite = 0
        return json.JSONDecoder(parse_constant=tokens.constant, parse_int=float).raw_decode(text, start)


def _kind(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null", dict: "an object"}
    return names.get(type(value), "a number")


#: A file system that lost its power can leave NUL bytes where content should be.
_BLANK: Final = "\0 \t\r\n"

_FAILURE: Final = r"(?m)^(?:Error: .*|Traceback \(most recent call last\):)"
_PROGRESS: Final = r"\s*(computing SVD and metrics for layer: |Warning: )"
_PROGRESS_LINE: Final = "computing SVD and metrics for layer: "

#: What the parser stumbles over when a text ends within a number or an escape.
_CUT_NUMBER_OR_ESCAPE: Final = r"\.|[eE][+-]?|\\?u[0-9a-fA-F]{0,4}"
_LITERALS: Final = ("true", "false", "null", "NaN", "Infinity", "-Infinity")


#: So much of a text's beginning and of its end is looked at to tell what it is.
_WINDOW: Final = 64 * 1024


def _explain(text: str, start: int, error: json.JSONDecodeError, before: int) -> AuditError:
    """What is wrong with a text that is no JSON, told by what Gradience leaves behind (field-notes, 1.2)."""
    end = len(text.rstrip(_BLANK))
    if not text.startswith("{", start):
        shown = text
        if len(text) > 2 * _WINDOW:  # whole lines from both ends
            head, tail = text[:_WINDOW], text[-_WINDOW:]
            shown = (head.rpartition("\n")[0] or head) + "\n" + tail.partition("\n")[2]
        lines = [line for line in shown.split("\n") if line.strip(_BLANK)]
        failure = re.search(_FAILURE, shown)
        if failure:
            quote = failure[0] if failure[0].startswith("Error") else lines[-1]
            return refusal("audit_failed", quote=words(quote))
        if _is_progress(lines):
            number = len(lines) if shown is text else text.count("\n")
            return refusal("audit_interrupted", lines=f"{number} {'line' if number == 1 else 'lines'}")
    elif error.msg.startswith("Unterminated string") or _is_cut_off(text[error.pos : error.pos + 20], end - error.pos):
        return refusal("truncated", is_audit=_shows_audit(text[start:]), place=_place(text, end, before))
    near = words(_line(text, error.pos), 80)
    shows = _shows_audit(text)
    return refusal("not_json", is_audit=shows, place=_place(text, error.pos, before), problem=error.msg, near=near)


#: Texts in audits of Gradience and Bench that hardly any other file has.
_SIGNS: Final = (
    "policy_disagreement_analysis",
    "flagging_rationale",
    "per_module_gain",
    "total_lora_params",
    "stable_rank_mean",
    "suggested_r_global_median",
    "audit_timestamp",
    "computing SVD and metrics",
)


def _shows_audit(text: str) -> bool:
    """Return whether a broken file was meant to be an audit. It may end within the first key of an audit."""
    if any(sign in text for sign in _SIGNS):
        return True
    beginning = "".join(text.strip(_BLANK).split())
    return beginning.startswith("{") and any(f'{{"{sign}"'.startswith(beginning) for sign in _SIGNS)


def _is_progress(lines: list[str]) -> bool:
    """Whether this is what Gradience prints before the JSON. The last line may itself be cut off."""
    if not all(re.match(_PROGRESS, line) for line in lines[:-1]):
        return False
    return len(lines) > 1 or bool(re.match(_PROGRESS, lines[0])) or _PROGRESS_LINE.startswith(lines[0].strip(_BLANK))


def _is_cut_off(rest: str, length: int) -> bool:
    """Whether the parser stopped because the text does; `rest` is what it could not read, of `length` to the end."""
    if length <= 0:
        return True
    rest = rest[:length]
    if length > len(rest):
        return False
    return bool(re.fullmatch(_CUT_NUMBER_OR_ESCAPE, rest)) or any(literal.startswith(rest) for literal in _LITERALS)


def _place(text: str, position: int, before: int) -> str:
    line = before + text.count("\n", 0, position) + 1
    column = position - (text.rfind("\n", 0, position) + 1) + 1
    return f"line {line}, column {column}"


def _line(text: str, position: int) -> str:
    first = text.rfind("\n", 0, position) + 1
    last = text.find("\n", position)
    return text[max(first, position - 40) : last if last >= 0 else len(text)][:400]


def _check_schema(value: dict[str, Any]) -> None:
    """Refuse what is meant as an audit but can't be read as one."""
    where = "policy_disagreement_analysis"
    analysis = value.get(where)
    if analysis is None:
        return
    if not isinstance(analysis, dict):
        raise refusal("bad_schema", where=f"$.{where}", expected="an object", found=_kind(analysis))
    for key in ("flagged_layers", "all_layers_with_disagreement"):
        entries = analysis.get(key)
        if entries is not None and not isinstance(entries, list):
            raise refusal("bad_schema", where=f"$.{where}.{key}", expected="a list", found=_kind(entries))
