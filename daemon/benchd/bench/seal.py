"""Seal the files that benchd writes beside an audit, so that edits can be detected. Pure.

A sealed document is JSON that YAML reads as the same object. It contains the SHA-256 of its bytes, computed with an
empty digest. So a later run can distinguish benchd's own file from one that a person has edited or created.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

import msgspec

__all__ = [
    "Provenance",
    "provenance_of",
    "seal",
    "unbroken",
]


class Provenance(msgspec.Struct, gc=False):
    """The facts in a sidecar about its audit. `settings` has only the settings that affected the answer."""

    audit: str
    audit_sha256: str | None
    audit_bytes: int | None
    selection_version: int | None = None
    settings: dict[str, int | float | str | bool | None] | None = None
    #: Token of the `adapter_config.json` beside the audit, if it affected the config; see `benchd.audit.adapter`.
    adapter_config: str | None = None
    code: str | None = None
    #: Set only for an error report, whose JSON has it outside of the provenance.
    message: str | None = None


class _Sealed(msgspec.Struct, gc=False):
    provenance: Provenance
    message: Any = None  # in a config it may be a key of Bench's YAML, with any value


_decode = msgspec.json.Decoder(_Sealed).decode
_encode = msgspec.json.Encoder().encode

#: Characters that JSON allows, but that YAML 1.1 forbids or folds.
_NOT_YAML = re.compile(rb"\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]|\xef\xbb\xbf|\xef\xbf[\xbe\xbf]")

#: An exponent as msgspec writes it, at the end of a line. A line that ends a string ends in a quotation mark instead.
_EXPONENT = re.compile(rb"e-?[0-9]+,?\n")
#: Python writes small numbers with an exponent, and msgspec with zeros.
_ZEROS: Final = b"0.0000"
_FLOAT: Final = rb"(?<= )-?(?:0\.0000[0-9]+|[0-9.]+e-?[0-9]+)(?=,?\n)"

_SEAL: Final = b'"config_sha256": "'
_PROVENANCE: Final = b'"provenance": {'
_TAIL_BYTES: Final = 64 * 1024
_PLACE = re.compile(rb'"config_sha256": "([0-9a-f]{64})"(?=\s*\}\s*\}\s*\Z)')


def seal(document: dict[str, Any]) -> bytes:
    """Return `document` as sealed file content. Its last key must be `provenance`.

    The content is UTF-8 and ends with a newline. `yaml.safe_load` and `json.loads` read the same object from it.
    """
    sealed = {**document, "provenance": {**document["provenance"], "config_sha256": ""}}
    text = msgspec.json.format(_encode(sealed), indent=2)
    if not text.isascii() or b"\x7f" in text:
        text = _NOT_YAML.sub(_escape, text)
    text += b"\n"
    if _ZEROS in text or _EXPONENT.search(text):
        text = re.sub(_FLOAT, _float, text)
    digest = hashlib.sha256(text).hexdigest().encode()
    place = text.rindex(_SEAL) + len(_SEAL)
    return text[:place] + digest + text[place:]


def _float(match: re.Match[bytes]) -> bytes:
    """Return the number so that JSON and YAML 1.1 both read a float: `5.0e-05`. YAML reads `5e-05` as a string."""
    mantissa, _, exponent = repr(float(match[0])).partition("e")
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}".encode()


def _escape(match: re.Match[bytes]) -> bytes:
    return f"\\u{ord(match[0].decode()):04x}".encode()


def unbroken(content: bytes) -> bool:
    """Return whether benchd wrote `content` and nothing has changed it since."""
    match = _PLACE.search(content, max(0, len(content) - 200))
    if match is None:
        return False
    place, end = match.span(1)
    return hashlib.sha256(content[:place] + content[end:]).hexdigest().encode() == match[1]


def provenance_of(content: bytes) -> Provenance | None:
    """Return the provenance in a sidecar, or None for any other file. Does not check the seal."""
    if len(content) > _TAIL_BYTES:  # benchd's sidecars end with it, and other files can have any size
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
