"""Values from files: finite numbers, ranks, and text for messages."""

from __future__ import annotations

from typing import Any

import pytest

from benchd.audit.values import MAX_RANK, finite, utf8, whole, words


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, 1.0), (1.5, 1.5), (-0.0, 0.0), (True, None), ("1", None), (None, None), ([1], None),
        (float("nan"), None), (float("inf"), None), (10**400, None),
    ],
)  # fmt: skip
def test_finite(value: Any, number: float | None) -> None:
    """Returns a finite number, and None for null, NaN, strings, bools and numbers beyond any float."""
    assert finite(value) == number


@pytest.mark.parametrize(
    ("value", "rank"),
    [(8, 8), (8.0, 8), (0, 0), (MAX_RANK, MAX_RANK), (MAX_RANK + 1, None), (-1, None), (2.5, None), (True, None)],
)
def test_whole(value: Any, rank: int | None) -> None:
    """Returns an integer that an adapter's rank can be, also for `8.0`, and None for `True`."""
    assert whole(value) == rank
    assert rank is None or type(whole(value)) is int


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" a\n\tb\u2028c ", "a b c"), ("x" * 301, "x" * 299 + "…"), (None, "null"), (["ü"], '["\\u00fc"]'),
        ("\x1b[31mred", "[31mred"),
    ],
)  # fmt: skip
def test_words(value: Any, text: str) -> None:
    """A quoted value is one short printable line."""
    assert words(value) == text


@pytest.mark.parametrize(
    ("text", "readable"), [("a.json", "a.json"), ("gr\udcfcn", "gr\\xfcn"), ("x\ud800", "x\\ud800"), ("ü😀", "ü😀")]
)
def test_utf8(text: str, readable: str) -> None:
    """Escapes the bytes of a name that is not UTF-8."""
    assert utf8(text) == readable
