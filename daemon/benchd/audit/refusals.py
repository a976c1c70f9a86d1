"""Why a file can't be used: the codes, their messages, and what to do about each (spec, section 2)."""

from __future__ import annotations

from typing import Final

__all__ = ["CODES", "MAYBE_UNFINISHED", "AuditError", "NotAnAudit", "refusal"]

_AGAIN: Final = "run `gradience audit --json > FILE` again; benchd answers the file as soon as it is whole"

#: Hints for a file that shows no sign of an audit.
_OTHER: Final = "nothing in it looks like an audit: name it in `ignore`, or keep it out of the folder"
_OTHERWISE: Final = {
    "truncated": "the writer stopped or the disk was full, and " + _OTHER,
    "not_json": _OTHER,
    "bad_encoding": _OTHER + "; unpack it first if it is compressed",
}

#: code -> (message, hint); the braces are filled by `refusal`.
_TEXTS: Final[dict[str, tuple[str, str]]] = {
    "empty": (
        "the file has no content",
        "gradience prints its reason to stderr and leaves the file empty when it fails: " + _AGAIN,
    ),
    "truncated": (
        "the JSON ends in the middle, at {place}",
        "the writer stopped or the disk was full: " + _AGAIN,
    ),
    "not_json": (
        "not JSON at {place}: {problem}; near: {near}",
        "keep stdout for `gradience audit --json` alone; name other files in `ignore`",
    ),
    "bad_encoding": (
        "not valid {encoding} at {place}",
        "save the audit as UTF-8 (UTF-16 with a byte order mark is fine too); unpack it first if it is compressed",
    ),
    "too_large": (
        "{size} bytes, more than watching.max_bytes = {limit}",
        "raise watching.max_bytes if this really is an audit",
    ),
    "too_deep": (
        "the JSON is nested too deeply",
        "Gradience never writes such a file; look at where it comes from",
    ),
    "too_complex": (
        "{size} bytes that can't be read with {memory} MiB of memory in {seconds} s",
        "Gradience never writes such a file; look at where it comes from",
    ),
    "not_a_regular_file": (
        "{found}, not a regular file",
        "only regular files are read; copy the audit itself into the folder",
    ),
    "symlink": (
        "a symbolic link; links are not followed",
        "copy or hard-link the audit into the folder instead",
    ),
    "unreadable": (
        "can't be read: {error}",
        "give the user that benchd runs as read permission: {who}",
    ),
    "name_too_long": (
        "the name is so long that {sidecar} beside it would have {size} bytes, more than file systems allow",
        "give the audit a shorter name",
    ),
    "bad_schema": (
        "{where}: expected {expected}, got {found}",
        "the file was edited or made by another tool; " + _AGAIN,
    ),
    "audit_failed": (
        "gradience says: {quote}",
        "fix the cause that gradience names, then " + _AGAIN,
    ),
    "audit_interrupted": (
        "gradience was interrupted: {lines} of progress, no JSON",
        _AGAIN,
    ),
}

CODES: Final = tuple(_TEXTS)

#: Codes that a file may get while it is still being written. They count once the file has settled.
MAYBE_UNFINISHED: Final = frozenset(
    {
        "empty", "truncated", "not_json", "bad_encoding", "too_deep", "unreadable", "bad_schema",
        "audit_failed", "audit_interrupted",
    }
)  # fmt: skip


class AuditError(Exception):
    """A file that can't be answered. `code` is one of `CODES`, `message` says what and where, `hint` what to do."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint


class NotAnAudit(AuditError):
    """JSON that is something else, an `adapter_config.json` for example: ignored, not rejected."""

    def __init__(self) -> None:
        super().__init__("not_an_audit", "JSON, but not an audit", "nothing to do: it is left alone")


def refusal(code: str, *, is_audit: bool = True, **parts: object) -> AuditError:
    """Return the `AuditError` of `code` with its texts filled in.

    With `is_audit=False` the hint is for a file that shows no sign of an audit.
    """
    message, hint = _TEXTS[code]
    if not is_audit:
        hint = _OTHERWISE[code]
    return AuditError(code, message.format(**parts), hint.format(**parts))
