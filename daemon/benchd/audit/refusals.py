"""Define the refusals of files: a code, a message and a hint for each (spec, section 2). Pure."""

from __future__ import annotations

from typing import Final

__all__ = ["CODES", "MAYBE_UNFINISHED", "AuditError", "NotAnAudit", "refusal"]

_AGAIN: Final = "run `gradience audit --json > FILE` again; benchd answers the file as soon as it is complete"

#: Hints for a file that doesn't look like an audit.
_OTHER: Final = "it doesn't look like an audit: add its name to `ignore`, or move it out of the folder"
_OTHERWISE: Final = {
    "truncated": "the writer stopped or the disk was full; " + _OTHER,
    "not_json": _OTHER,
    "bad_encoding": _OTHER + "; unpack it first if it is compressed",
}

#: code -> (message, hint). `refusal` fills the braces.
_TEXTS: Final[dict[str, tuple[str, str]]] = {
    "empty": (
        "the file has no content",
        "gradience failed and printed the reason to stderr; fix the cause, then " + _AGAIN,
    ),
    "truncated": (
        "the JSON ends in the middle, at {place}",
        "the writer stopped or the disk was full; " + _AGAIN,
    ),
    "not_json": (
        "not JSON at {place}: {problem}; near: {near}",
        "write only the output of `gradience audit --json` to the file; add names of other files to `ignore`",
    ),
    "bad_encoding": (
        "not valid {encoding} at {place}",
        "save the audit as UTF-8 (UTF-16 needs a byte order mark); unpack it first if it is compressed",
    ),
    "too_large": (
        "{size} bytes, more than watching.max_bytes = {limit}",
        "if it is an audit, raise watching.max_bytes",
    ),
    "too_deep": (
        "the JSON is nested too deeply",
        "Gradience never writes such a file; check which program wrote it",
    ),
    "too_complex": (
        "{size} bytes that can't be read with {memory} MiB of memory in {seconds} s",
        "Gradience never writes such a file; check which program wrote it",
    ),
    "not_a_regular_file": (
        "{found}, not a regular file",
        "copy the audit itself into the folder; benchd reads only regular files",
    ),
    "symlink": (
        "a symbolic link; links are not followed",
        "copy or hard-link the audit into the folder instead",
    ),
    "unreadable": (
        "can't be read: {error}",
        "allow benchd's user to read it: {who}",
    ),
    "name_too_long": (
        "the name is so long that {sidecar} beside it would have {size} bytes, more than a file system allows",
        "give the audit a shorter name",
    ),
    "bad_schema": (
        "{where}: expected {expected}, got {found}",
        "the file was edited or made by another tool; " + _AGAIN,
    ),
    "audit_failed": (
        "gradience failed: {quote}",
        "fix the cause that gradience reports, then " + _AGAIN,
    ),
    "audit_interrupted": (
        "gradience was interrupted: {lines} of progress, no JSON",
        _AGAIN,
    ),
}

CODES: Final = tuple(_TEXTS)

#: Codes that an unfinished file may get. benchd rejects the file only when it has not changed for a while.
MAYBE_UNFINISHED: Final = frozenset(
    {
        "empty", "truncated", "not_json", "bad_encoding", "too_deep", "unreadable", "bad_schema",
        "audit_failed", "audit_interrupted",
    }
)  # fmt: skip


class AuditError(Exception):
    """Raised for a file that can't be used.

    `code` is one of `CODES`. `message` describes the problem and its place in the file. `hint` says what to do.
    """

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class NotAnAudit(AuditError):
    """Raised for JSON that is not an audit, such as an `adapter_config.json`. benchd ignores such files."""

    def __init__(self) -> None:
        super().__init__("not_an_audit", "JSON, but not an audit", "nothing to do: benchd ignores this file")


def refusal(code: str, *, is_audit: bool = True, **parts: object) -> AuditError:
    """Return the `AuditError` for `code`. `parts` fill the braces in its texts.

    With `is_audit=False` the hint is for a file that doesn't look like an audit.
    """
    message, hint = _TEXTS[code]
    if not is_audit:
        hint = _OTHERWISE[code]
    return AuditError(code, message.format(**parts), hint.format(**parts))
