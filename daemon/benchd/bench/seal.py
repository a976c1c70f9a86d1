"""What benchd writes beside an audit: names, a JSON that YAML reads alike, and a seal that shows edits. Pure.

A sealed document carries the SHA-256 of its own bytes (taken with the digest's place left empty), so that
a later run can tell its own work from a file that a person has edited or put there.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

import msgspec

__all__ = [
    "Provenance",
    "number",
    "provenance_of",
    "seal",
    "unbroken",
]


class Provenance(msgspec.Struct, gc=False):
    """What a sidecar says about the audit it answers; `settings` only those that shaped it."""

    audit: str
    audit_sha256: str | None
    audit_bytes: int | None
    selection_version: int | None = None
    settings: dict[str, int | float | str | bool | None] | None = None
    #: Which `adapter_config.json` beside the audit shaped the config; see `benchd.audit.adapter`.
    adapter_config: str | None = None
    code: str | None = None
    #: Of an error report; it stands outside of its provenance.
    message: str | None = None


class _Sealed(msgspec.Struct, gc=False):
    provenance: Provenance
    message: Any = None  # in a config it may be a key of Bench's YAML, with any value


_decode = msgspec.json.Decoder(_Sealed).decode
_encode = msgspec.json.Encoder().encode

#: Characters that JSON allows and YAML 1.1 does not, or folds away.
_NOT_YAML = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]|\xef\xbb\xbf|\xef\xbf[\xbe\xbf]")

#: Numbers of this size are written without an exponent.
_LEAST: Final = 1e-4
_MOST: Final = 1e16

_SEAL: Final = b'"config_sha256": "'
_PROVENANCE: Final = b'"provenance": {'
_TAIL_BYTES: Final = 64 * 1024
_PLACE = re.compile(rb'"config_sha256": "([0-9a-f]{64})"(?=\s*\}\s*\}\s*\Z)')


def number(value: float | None) -> msgspec.Raw | float | None:
    """A float in the one notation that both JSON and YAML 1.1 read as a number: `5.0e-05`, not `5e-05`."""
    if value is None or _LEAST <= value < _MOST or value == 0:
        return value
    if isinstance(value, int) or _LEAST <= -value < _MOST:
        return value
    mantissa, exponent = repr(value).split("e")  # Python writes every number of this size with an exponent
    return msgspec.Raw(f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}".encode())


def seal(document: dict[str, Any]) -> bytes:
    """`document` as file content, sealed. Its last key must be `provenance`.

    The content is UTF-8, ends with a newline, and `yaml.safe_load` reads the same as `json.loads`.
    Floats must have gone through `number`.
    """
    sealed = {**document, "provenance": {**document["provenance"], "config_sha256": ""}}
    text = msgspec.json.format(_encode(sealed), indent=2)
    if not text.isascii() or b"\x7f" in text:
        text = _NOT_YAML.sub(_escape, text)
    text += b"\n"
    digest = hashlib.sha256(text).hexdigest().encode()
    place = text.rindex(_SEAL) + len(_SEAL)
    return text[:place] + digest + text[place:]


def _escape(match: re.Match[bytes]) -> bytes:
    return f"\\u{ord(match[0].decode()):04x}".encode()


def unbroken(content: bytes) -> bool:
    """Whether `content` is benchd's own and has not been changed since."""
    match = _PLACE.search(content, max(0, len(content) - 200))
    if match is None:
        return False
    place, end = match.span(1)
    return hashlib.sha256(content[:place] + content[end:]).hexdigest().encode() == match[1]


def provenance_of(content: bytes) -> Provenance | None:
    """What the sidecar says of itself, or None if it is no sidecar of benchd's. Does not look at the seal."""
    if len(content) > _TAIL_BYTES:  # somebody may have put anything there; what is ours has it at its end
        place = content.rfind(_PROVENANCE, -_TAIL_BYTES)
        if place < 0:
            return None
        content = b"{" + content[place:]
    try:
        sealed = _decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    sealed.provenance.message = sealed.message if isinstance(sealed.message, str) else None
    return sealed.provenance
