"""Check values that come from files: numbers, ranks, text for messages. Pure; imports no other module of benchd."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from typing import Final

__all__ = ["MAX_RANK", "finite", "largest_rank", "listed", "times", "utf8", "whole", "words"]

#: Maximum rank of any adapter. A larger number is no evidence for a rank.
MAX_RANK: Final = 65536


def finite(value: object) -> float | None:
    """Return `value` as a finite number, or None for anything else (null, NaN, a string, a bool)."""
    kind = type(value)  # parsers make exact types, and bool is a subclass of int
    if kind is float:
        return value if math.isfinite(value) else None  # type: ignore[arg-type,return-value]
    if kind is not int:
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return None


def whole(value: object) -> int | None:
    """Return `value` as a rank, an integer from 0 to `MAX_RANK`, or None. `8.0` is 8; `True` is not 1."""
    kind = type(value)
    if (kind is float or kind is int) and 0 <= value <= MAX_RANK and value == int(value):  # type: ignore[operator,call-overload]
        return int(value)  # type: ignore[call-overload,no-any-return]
    return None


def largest_rank(values: Sequence[float | None] | None) -> int | None:
    """Return the largest rank among `values`, or None if there is none. Fast if all values are ranks."""
    if not values:
        return None
    largest = None if None in values else whole(max(values))  # type: ignore[type-var]
    if largest is None:
        largest = max([rank for value in values if (rank := whole(value)) is not None], default=None)
    return largest


def words(value: object, limit: int = 300) -> str:
    """Return `value` as one printable line of at most `limit` characters, for quoting in messages."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    text = text[: limit * 4]
    if not text.isprintable():
        text = "".join(character if character.isprintable() else " " for character in text)
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def listed(names: Collection[str], most: int = 3) -> str:
    """Return the first `most` names, separated by commas, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(list(names)[:most]) + more


def times(text: str, count: int) -> str:
    """Return `text`, followed by `count` if that is more than one."""
    return text if count == 1 else f"{text} ({count} times)"


def utf8(text: str) -> str:
    r"""Return `text` without surrogates: bytes of a file name that are not UTF-8 become `\xff`, others `\udc00`."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
