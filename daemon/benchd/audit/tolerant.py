"""Read an audit's JSON with the standard parser: malformed entries, wrong types and broken text. Pure.

It needs about ten times the memory of the fast reader. The result keeps the values that fit the shape of an audit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from benchd.audit.broken import BLANK, explain, place_of, shows_audit
from benchd.audit.fitting import fit
from benchd.audit.refusals import AuditError, NotAnAudit, refusal
from benchd.audit.shapes import Document

__all__ = ["OBJECT_FIRST", "Found", "non_finite_note", "read_tolerantly"]

#: A document, and its start and end in the text.
Found = tuple[Document, int, int]

#: The start of a JSON object; text, because it is compiled when it is first needed.
OBJECT_FIRST: Final = rb"[ \t\r\n]*\{"


def read_tolerantly(raw: bytes, starts: Sequence[int], notes: list[str]) -> Found:
    """Return the document in a text that the fast reader refused, and its start and end in `raw`.

    `starts` are the positions at which it may begin, the likeliest first. Raises `AuditError` and `NotAnAudit`.
    """
    found: Found | None = None
    refused: AuditError | None = None
    for start in starts:
        said: list[str] = []
        try:
            document = _read_from(raw, start, said)
        except AuditError as error:
            refused = refused or error
            continue
        if document[0].is_audit:
            notes.extend(said)
            return document
        found = found or document
    if found is not None:
        return found
    raise refused or refusal("empty")  # `starts` is never empty


def _read_from(raw: bytes, start: int, notes: list[str]) -> Found:
    # The text before and after the JSON comes from a terminal and may have any encoding.
    before = raw.count(b"\n", 0, start)
    undecodable: AuditError | None = None
    try:
        text = raw[start:].decode()
    except UnicodeDecodeError as error:
        text = raw[start : start + error.start].decode()
        undecodable = _undecodable(raw, start, error, text, before)
    if not text.strip(BLANK):
        raise undecodable or refusal("empty")
    tokens = _Tokens()
    blank = len(text) - len(text.lstrip(" \t\r\n"))
    try:
        value, end = _parse(text, blank, tokens)
    except RecursionError:
        raise refusal("too_deep") from None
    except json.JSONDecodeError as error:
        raise undecodable or explain(text, blank, error, before) from None
    if not isinstance(value, dict):
        if text[end:].strip() or undecodable:
            raise undecodable or explain(text, blank, json.JSONDecodeError("Extra data", text, end), before)
        raise NotAnAudit
    _check_schema(value)
    if tokens.non_finite:
        notes.append(non_finite_note(tokens.non_finite))
    return fit(Document, value), start, start + len(text[:end].encode())


def _undecodable(raw: bytes, start: int, error: UnicodeDecodeError, text: str, before: int) -> AuditError:
    """Return the error for bytes that are not UTF-8, if the JSON does not end before them. `text` comes before them."""
    if error.reason == "unexpected end of data" and re.compile(OBJECT_FIRST).match(raw, start):
        # The text is cut off within a character. Its encoding is right.
        return refusal("truncated", is_audit=shows_audit(text), place=place_of(text, len(text), before))
    line = raw.count(b"\n", 0, start + error.start) + 1
    place = f"line {line}, byte {start + error.start}"
    shows = shows_audit(raw.decode(errors="ignore"))
    return refusal("bad_encoding", is_audit=shows, place=place, encoding="UTF-8")


class _Tokens:
    """Counts NaN and Infinity, which standard JSON does not have."""

    non_finite = 0

    def constant(self, _: str) -> None:
        self.non_finite += 1  # and use null, as the fast reader does


def _parse(text: str, start: int, tokens: _Tokens) -> tuple[Any, int]:
    try:
        return json.JSONDecoder(parse_constant=tokens.constant).raw_decode(text, start)
    except json.JSONDecodeError:
        raise
    except ValueError:
        # Python refuses to convert an integer of more than 4300 digits. As a float it is infinite.
        tokens.non_finite = 0
        return json.JSONDecoder(parse_constant=tokens.constant, parse_int=float).raw_decode(text, start)


def _check_schema(value: dict[str, Any]) -> None:
    """Raise `AuditError` for an object that is meant as an audit but has the wrong types."""
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


def _kind(value: object) -> str:
    names = {list: "a list", str: "a string", bool: "true or false", type(None): "null", dict: "an object"}
    return names.get(type(value), "a number")


def non_finite_note(count: int) -> str:
    """Return the note about NaN and Infinity in a file."""
    times = "once" if count == 1 else f"{count} times"
    return f"NaN or Infinity stands {times} where a number should; such a score ranks no layer"
