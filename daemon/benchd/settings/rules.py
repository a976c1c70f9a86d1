"""Define rules for values in settings files. Each rule is a description, a parser and a JSON Schema. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from benchd.audit.values import finite, words

__all__ = [
    "ANY_PATH",
    "ANY_TEXT",
    "FLAG",
    "NOT_EMPTY",
    "PATH",
    "Key",
    "Rule",
    "Section",
    "choice",
    "duration",
    "integer",
    "list_of",
    "number",
    "shown",
    "size",
    "text",
]


def shown(value: object) -> str:
    """Return `value` as JSON for a message: one line of at most 60 characters."""
    try:
        return words(json.dumps(value, ensure_ascii=False, default=str), 60)
    except ValueError:
        return "an integer of thousands of digits"  # Python refuses to convert it


def _toml(value: Any) -> str:
    """Return a string, number, boolean or list as TOML."""
    return json.dumps(value, ensure_ascii=False)


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """The rule for the value of a key.

    `parse` returns the value for the settings, or raises ValueError. `schema` is the same rule as JSON Schema, for
    editors. `write` is the inverse of `parse`. With `path`, the value is relative to the settings file.
    """

    accepts: str
    parse: Callable[[Any], Any]
    schema: dict[str, Any]
    hint: str = ""
    write: Callable[[Any], str] = _toml
    path: bool = False

    @property
    def expected(self) -> str:
        """Return the words for error messages."""
        return self.accepts + self.hint


class Key(msgspec.Struct, frozen=True):
    """The declaration of a setting: its rule, a description of one line, and additional Markdown for the manual.

    `example` is the value in `config.toml` for a key without a default.
    """

    rule: Rule
    says: str
    more: str = ""
    example: Any = None


class Section(msgspec.Struct, frozen=True):
    """The declaration of a table of settings, with a description of one line."""

    says: str
    more: str = ""


# --- text -----------------------------------------------------------------------------------------------------

#: Patterns for `text`. They mean the same in Python and in JSON Schema: a match anywhere is enough.
ANY_TEXT: Final = r"[\s\S]"
NOT_EMPTY: Final = r"\S"
PATH: Final = r"^[^\x00]+$"
ANY_PATH: Final = r"^[^\x00]*$"


def text(accepts: str, pattern: str, *, path: bool = False) -> Rule:
    """Accept a string in which `pattern` matches."""

    def parse(value: Any) -> str:
        if not isinstance(value, str) or not re.search(pattern, value):
            raise ValueError
        return value

    return Rule(accepts=accepts, parse=parse, schema={"type": "string", "pattern": pattern}, path=path)


def choice(choices: tuple[str, ...]) -> Rule:
    """Accept one of `choices`."""

    def parse(value: Any) -> Any:
        if value not in choices:
            raise ValueError
        return value

    return Rule(accepts="one of " + ", ".join(map(_toml, choices)), parse=parse, schema={"enum": list(choices)})


# --- numbers --------------------------------------------------------------------------------------------------

#: Maximum of an integer whose rule has no maximum.
_MOST: Final = 10**9


def integer(low: int, high: int = _MOST, choices: tuple[str, ...] = ()) -> Rule:
    """Accept an integer from `low` to `high`, or one of `choices`."""

    def parse(value: Any) -> Any:
        if not (type(value) is int and low <= value <= high) and value not in choices:
            raise ValueError
        return value

    limits = f"an integer >= {low}" if high == _MOST else f"an integer from {low} to {high}"
    schema: dict[str, Any] = {"type": "integer", "minimum": low, "maximum": high}
    if not choices:
        return Rule(accepts=limits, parse=parse, schema=schema)
    *first, last = limits, *map(_toml, choices)
    schema = {"anyOf": [schema, {"enum": list(choices)}]}
    return Rule(accepts=f"{', '.join(first)} or {last}", parse=parse, schema=schema)


def number(low: float = 0, high: float = math.inf, *, above: bool = False) -> Rule:
    """Accept a finite number from `low` to `high`. With `above`, `low` itself is not accepted."""

    def parse(value: Any) -> float:
        found = finite(value)
        if found is None or not low <= found <= high or (above and found == low):
            raise ValueError
        return found

    schema: dict[str, Any] = {"type": "number", "exclusiveMinimum" if above else "minimum": low}
    if high == math.inf:
        return Rule(accepts=f"a number {'above' if above else '>='} {low:g}", parse=parse, schema=schema)
    return Rule(accepts=f"a number from {low:g} to {high:g}", parse=parse, schema={**schema, "maximum": high})


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError  # noqa: TRY004 - rules raise nothing else
    return value


FLAG: Final = Rule(accepts="true or false", parse=_flag, schema={"type": "boolean"})


# --- lists ----------------------------------------------------------------------------------------------------


def list_of(item: Rule, accepts: str, *, least: int = 0, or_item: bool = False) -> Rule:
    """Accept a list of at least `least` values that `item` accepts. With `or_item`, also accept one such value."""

    def parse(value: Any) -> Any:
        if or_item and not isinstance(value, list):
            return item.parse(value)
        if not isinstance(value, list) or len(value) < least:
            raise ValueError
        return tuple(map(item.parse, value))

    schema = {"type": "array", "items": item.schema, **({"minItems": least} if least else {})}
    return Rule(accepts=accepts, parse=parse, schema={"anyOf": [item.schema, schema]} if or_item else schema)


# --- numbers with a unit --------------------------------------------------------------------------------------

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES: Final = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9,
    "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip


def _with_unit(units: Mapping[str, float], low: float, high: float) -> tuple[Callable[[Any], float], dict[str, Any]]:
    """Return a parser and a schema for a number from `low` to `high`, or a string with a unit of `units`.

    Only the parser applies the limits to strings, because a schema can't compare numbers in them.
    """
    blanks = r"[ \t\n\r\f\v]*"
    names = "|".join("".join(f"[{letter.upper()}{letter}]" for letter in unit) for unit in units)
    pattern = rf"^{blanks}([0-9]+(?:\.[0-9]+)?){blanks}({names}){blanks}$"

    def parse(value: Any) -> float:
        match = re.search(pattern, value) if isinstance(value, str) else None
        found = float(match[1]) * units[match[2].lower()] if match else finite(value)
        if found is None or not low <= found <= high:
            raise ValueError
        return found

    limits = {"type": "number", "minimum": low, "maximum": high}
    return parse, {"anyOf": [limits, {"type": "string", "pattern": pattern}]}


def duration(low: float) -> Rule:
    """Accept a duration of at least `low` seconds and at most a leap year. The value is in seconds."""
    parse, schema = _with_unit(_SECONDS, low, 366 * 86400.0)
    hint = ' such as "500ms", "2s", "5m" (a bare number is seconds)'
    return Rule(accepts=f"a duration >= {low:g}s", hint=hint, parse=parse, schema=schema, write=_duration)


def _duration(seconds: float) -> str:
    return f'"{seconds:g}s"' if seconds >= 1 else f'"{seconds * 1000:g}ms"'


def size() -> Rule:
    """Accept a size from one byte to one pebibyte. The value is in bytes."""
    parse, schema = _with_unit(_BYTES, 1, 2**50)
    hint = ' such as "256MiB" or "10MB" (a bare number is bytes)'
    return Rule(accepts="a size", hint=hint, parse=lambda value: int(parse(value)), schema=schema, write=_size)


def _size(count: int) -> str:
    return f'"{count // 2**20}MiB"' if count % 2**20 == 0 else str(count)
