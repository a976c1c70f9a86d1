"""Explain why a text is not JSON, from what Gradience prints before it fails (field-notes, 1.2). Pure."""

from __future__ import annotations

import json
import re
from typing import Final

from benchd.audit.refusals import AuditError, refusal
from benchd.audit.values import words

__all__ = ["BLANK", "explain", "place_of", "shows_audit"]

#: White space, and the NUL bytes that a file system may leave after a power failure.
BLANK: Final = "\0 \t\r\n"

_FAILURE: Final = r"(?m)^(?:Error: .*|Traceback \(most recent call last\):)"
_PROGRESS: Final = r"\s*(computing SVD and metrics for layer: |Warning: )"
_PROGRESS_LINE: Final = "computing SVD and metrics for layer: "

#: Text at which the parser stops if the file ends within a number or an escape.
_CUT_NUMBER_OR_ESCAPE: Final = r"\.|[eE][+-]?|\\?u[0-9a-fA-F]{0,4}"
_LITERALS: Final = ("true", "false", "null", "NaN", "Infinity", "-Infinity")


#: Maximum characters to search for signs of Gradience, at the start and at the end of a text.
_WINDOW: Final = 64 * 1024


def explain(text: str, start: int, error: json.JSONDecodeError, before: int) -> AuditError:
    """Return the error for a text that is not JSON. The JSON may begin at `start`, after `before` lines."""
    end = len(text.rstrip(BLANK))
    if not text.startswith("{", start):
        shown = text
        if len(text) > 2 * _WINDOW:  # whole lines from both ends
            head, tail = text[:_WINDOW], text[-_WINDOW:]
            shown = (head.rpartition("\n")[0] or head) + "\n" + tail.partition("\n")[2]
        lines = [line for line in shown.split("\n") if line.strip(BLANK)]
        failure = re.search(_FAILURE, shown)
        if failure:
            quote = failure[0] if failure[0].startswith("Error") else lines[-1]
            return refusal("audit_failed", quote=words(quote))
        if _is_progress(lines):
            number = len(lines) if shown is text else text.count("\n")
            return refusal("audit_interrupted", lines=f"{number} {'line' if number == 1 else 'lines'}")
    elif error.msg.startswith("Unterminated string") or _is_cut_off(text[error.pos : error.pos + 20], end - error.pos):
        return refusal("truncated", is_audit=shows_audit(text[start:]), place=place_of(text, end, before))
    near = words(_line(text, error.pos), 80)
    shows = shows_audit(text)
    return refusal("not_json", is_audit=shows, place=place_of(text, error.pos, before), problem=error.msg, near=near)


#: Texts that audits of Gradience and Bench contain, and hardly any other file.
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


def shows_audit(text: str) -> bool:
    """Return whether a broken file was meant to be an audit. It may end within the first key of an audit."""
    if any(sign in text for sign in _SIGNS):
        return True
    beginning = "".join(text.strip(BLANK).split())
    return beginning.startswith("{") and any(f'{{"{sign}"'.startswith(beginning) for sign in _SIGNS)


def _is_progress(lines: list[str]) -> bool:
    """Return whether `lines` are what Gradience prints before the JSON. The last line may be cut off."""
    if not all(re.match(_PROGRESS, line) for line in lines[:-1]):
        return False
    return len(lines) > 1 or bool(re.match(_PROGRESS, lines[0])) or _PROGRESS_LINE.startswith(lines[0].strip(BLANK))


def _is_cut_off(rest: str, length: int) -> bool:
    """Return whether the parser stopped at the end of the text. `rest` begins there, `length` from the end."""
    if length <= 0:
        return True
    rest = rest[:length]
    if length > len(rest):
        return False
    return bool(re.fullmatch(_CUT_NUMBER_OR_ESCAPE, rest)) or any(literal.startswith(rest) for literal in _LITERALS)


def place_of(text: str, position: int, before: int) -> str:
    """Return the line and column of a position in `text`. The file has `before` lines before `text`."""
    line = before + text.count("\n", 0, position) + 1
    column = position - (text.rfind("\n", 0, position) + 1) + 1
    return f"line {line}, column {column}"


def _line(text: str, position: int) -> str:
    first = text.rfind("\n", 0, position) + 1
    last = text.find("\n", position)
    return text[max(first, position - 40) : last if last >= 0 else len(text)][:400]
