r"""Match modules with the keys of a `rank_pattern` or an `alpha_pattern` as PEFT does. Pure.

PEFT 0.15 and later take the first key, in the order of the file, with `re.match(rf"(.*\.)?({key})$", name)`. `name` is
the module's name in the base model. If no key matches, the default (`r`, `lora_alpha`) applies.

The file is untrusted, and a regular expression can take years to match. So `Matcher` finds keys that are plain names,
and the keys that benchd writes, in dictionaries. Only the other keys are matched with `re`. `Matcher.is_costly` says
whether matching may take long.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

__all__ = ["BadKey", "Matcher", "endings", "plain_ending"]

#: The prefix that benchd adds to a name that would match other modules, too; see `benchd.bench.patterns`.
_EXACT: Final = "$|^"

#: A key that has one of these characters, without a backslash before it, is not a plain name.
_SPECIAL: Final = frozenset("\\^$*+?{}[]|()")

#: Maximum sets of dot positions among keys of one length. Each set is compared separately, so more sets are costly.
_MOST_SHAPES: Final = 50


class BadKey(ValueError):
    """A key that is not a valid regular expression. PEFT can't have made an adapter with it."""


class _Name(NamedTuple):
    """A key that matches a whole name, or the end of a name after a dot. Any character matches at `dots`."""

    text: str
    dots: tuple[int, ...]

    @property
    def without_dots(self) -> str:
        """Return the text with the same character at each of `dots`."""
        return _blanked(self.text, self.dots)


def endings(name: str) -> Iterator[str]:
    """Yield the name, and the rest of it after each of its dots. PEFT compares keys with these endings."""
    end: str | None = name
    while end is not None:
        yield end
        _, dot, rest = end.partition(".")
        end = rest if dot else None


def plain_ending(key: str, end: str) -> bool:
    """Return whether the key is a plain or escaped name that can belong to a module whose name ends in `end`."""
    exact = key.removeprefix(_EXACT) if key.startswith(_EXACT) else key.removeprefix(".*").removeprefix("\\.")
    name = _as_name(exact)
    return name is not None and (end in endings(name.text) or name.text in endings(end))


class Matcher:
    """Finds the values of module names in one pattern."""

    def __init__(self, pattern: Mapping[str, float]) -> None:
        self._keys = list(pattern)
        self._values = list(pattern.values())
        # `_exact` and `_names` map to the position of the first such key. `_others` has the other keys by position.
        self._exact: dict[str, int] = {}
        self._names: dict[int, dict[tuple[int, ...], dict[str, int]]] = {}  # by length, then by dot positions
        self._others: dict[int, str] = {}
        for place, key in enumerate(pattern):
            self._add(place, key)

    def _add(self, place: int, key: str) -> None:
        exact = _as_name(key.removeprefix(_EXACT)) if key.startswith(_EXACT) else None
        name = _as_name(key)
        if exact is not None and not exact.dots:
            self._exact.setdefault(exact.text, place)
        elif name is not None:
            of_length = self._names.setdefault(len(name.text), {})
            of_length.setdefault(name.dots, {}).setdefault(name.without_dots, place)
        else:
            self._others[place] = key

    @property
    def is_costly(self) -> bool:
        """Return whether matching may need much more time or memory than the size of the pattern suggests."""
        return bool(self._others) or any(len(shapes) > _MOST_SHAPES for shapes in self._names.values())

    def values(self, names: Iterable[str]) -> dict[str, float]:
        """Return the value of each of `names` that a key matches. Raises `BadKey`."""
        expressions = {place: _compiled(key) for place, key in self._others.items()}
        found = {}
        for name in names:
            place = min(self._places(name), default=None)
            for earlier, expression in expressions.items():
                if place is not None and earlier > place:
                    break
                if expression.match(name):
                    place = earlier
                    break
            if place is not None:
                found[name] = self._values[place]
        return found

    def keys_of(self, name: str) -> list[str]:
        """Return the first key of each kind that matches `name` without `re`."""
        return [self._keys[place] for place in self._places(name)]

    def _places(self, name: str) -> Iterator[int]:
        """Yield the position of the first key of each kind that matches `name` without `re`."""
        if name in self._exact:
            yield self._exact[name]
        for end in endings(name) if self._names else ():
            for dots, keys in self._names.get(len(end), {}).items():
                place = keys.get(_blanked(end, dots))
                if place is not None:
                    yield place


def _as_name(key: str) -> _Name | None:
    """Return the key as a name. None if it has more than text, dots and escaped characters."""
    if not _SPECIAL.intersection(key):
        return _Name(key, tuple([index for index, character in enumerate(key) if character == "."]))
    text: list[str] = []
    dots: list[int] = []
    characters = iter(key)
    for character in characters:
        if character == "\\":
            escaped = next(characters, "")
            if not escaped.isascii() or escaped.isalnum() or not escaped:
                return None  # a character class, a back-reference, or nothing after the backslash
            text.append(escaped)
            continue
        if character in _SPECIAL:
            return None
        if character == ".":
            dots.append(len(text))
        text.append(character)
    return _Name("".join(text), tuple(dots))


def _blanked(text: str, places: tuple[int, ...]) -> str:
    if not places:
        return text
    characters = list(text)
    for place in places:
        characters[place] = "."
    return "".join(characters)


def _compiled(key: str) -> re.Pattern[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FutureWarning: some brackets may change their meaning
        try:
            return re.compile(rf"(.*\.)?({key})$")
        except (re.error, OverflowError, RecursionError) as error:
            raise BadKey(key) from error
