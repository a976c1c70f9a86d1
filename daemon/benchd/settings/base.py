"""What a config needs so that Bench can run it: `bench.base_file` and `[bench.base]` (spec, section 4). Pure.

A base has the keys of Bench's own YAML, and they are passed on unchanged. `check` finds what Bench 0.11.0 would fail
on, often only after it has trained its probe (field-notes, section 4): values of the wrong type among those that it
computes with. `missing` finds the keys that it needs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from benchd.values import MAX_RANK

__all__ = [
    "LEFT_OPEN",
    "MAX_KEY",
    "TABLES",
    "Base",
    "Mistake",
    "base_digest",
    "check",
    "leaves",
    "merged",
    "missing",
    "shown",
    "tells",
]

#: Bench's YAML as an object. The values of `TABLES` are objects; other keys may have any value of JSON.
Base = dict[str, Any]

#: The tables that Bench reads, in the order of its own YAML files.
TABLES: Final = ("model", "task", "train", "lora", "compression", "runtime", "audit")

#: The keys of a config that benchd writes itself.
_OWN: Final = ("schema_version", "compression_strategies", "selection", "provenance")

#: Maximum characters of a key. PyYAML refuses a key of more than 1024, and escaping can make four of one.
MAX_KEY: Final = 250

#: Keys that Bench needs, without a default, and that no audit tells.
_NEEDED: Final = ("model.name", "task.dataset", "task.subset", "train.seed", "lora.dropout")

#: What a base may leave to the adapter's own file.
LEFT_OPEN: Final = frozenset({"model.name", "lora.dropout"})

_DEEPEST: Final = 16

#: Minimum similarity (difflib's ratio) for an unknown table to count as a misspelt one of `TABLES`.
_MISSPELT: Final = 0.75


class Mistake(NamedTuple):
    """One mistake: the dotted key in the base, what is wrong, and the value if the rule for its key refuses it."""

    where: str
    text: str
    value: Any = None


def shown(value: object) -> str:
    """A wrong value as its writer wrote it, near enough, and never long."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except ValueError:
        return "an integer of thousands of digits"  # Python refuses to write it out
    return text if len(text) <= 60 else text[:57] + "..."


# --- what each key accepts ------------------------------------------------------------------------------------


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_rank(value: Any) -> bool:
    return _whole(value, 1, MAX_RANK)


def _is_seed(value: Any) -> bool:
    return _whole(value, 0, 2**32 - 1)


def _listed(value: Any, item: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and bool(value) and all(map(item, value))


_TEXT: Final = ("a string that is not empty", _text)
_RATE: Final = ("a number above 0", lambda value: _finite(value) and value > 0)
_AMOUNT: Final = ("a number >= 0", lambda value: _finite(value) and value >= 0)
_KEYS: Final[dict[tuple[str, str], tuple[str, Callable[[Any], bool]]]] = {
    ("model", "name"): _TEXT,
    ("task", "dataset"): _TEXT,
    ("task", "subset"): _TEXT,
    ("train", "seed"): ("an integer from 0 to 4294967295", _is_seed),
    ("train", "learning_rate"): _RATE,
    ("train", "lr"): _RATE,
    ("train", "weight_decay"): _AMOUNT,
    ("train", "warmup_ratio"): _AMOUNT,
    ("train", "max_steps"): ("an integer >= 1", lambda value: _whole(value, 1, 10**9)),
    ("lora", "probe_r"): (f"an integer from 1 to {MAX_RANK}", _is_rank),
    ("lora", "alpha"): _RATE,
    ("lora", "dropout"): ("a number from 0 to 1", lambda value: _finite(value) and 0 <= value <= 1),
    ("lora", "target_modules"): (
        "a list of module names that is not empty, or one pattern",
        lambda value: _text(value) or _listed(value, _text),
    ),
    ("compression", "allowed_ranks"): (
        f"a list of ranks from 1 to {MAX_RANK} that is not empty",
        lambda value: _listed(value, _is_rank),
    ),
    ("compression", "acc_tolerance"): _AMOUNT,
    ("compression", "seeds"): ("a list of seeds that is not empty", lambda value: _listed(value, _is_seed)),
}


def check(base: Mapping[str, Any]) -> Iterator[Mistake]:
    """Yield every mistake in `base`, as TOML or YAML parsed it. Does not look for missing keys.

    A null counts as a key that is left out. A key that is neither a table of `TABLES` nor one of benchd's own may have
    any value that JSON has.
    """
    for name, value in base.items():
        misspelt = _misspelt(name) if isinstance(value, dict) else None
        if name in _OWN:
            yield Mistake(name, "benchd writes this key itself; remove it")
        elif misspelt:
            yield Mistake(name, f'unknown key; did you mean "{misspelt}"?')
        elif name not in TABLES:
            yield from _check_value(value, name, 0)
            yield from _check_key(name, name)
        elif isinstance(value, dict):
            yield from _check_table(name, value)
        elif value is not None:
            yield Mistake(name, f"expected a table, got {shown(value)}")


def _check_table(name: str, table: Mapping[str, Any]) -> Iterator[Mistake]:
    for key, value in table.items():
        where = f"{name}.{key}"
        mistakes = list(_check_value(value, where, 1)) + list(_check_key(key, where))
        rule = _KEYS.get((name, key))
        if rule is not None and value is not None and not mistakes and not rule[1](value):
            mistakes = [Mistake(where, f"expected {rule[0]}, got {shown(value)}", value)]
        yield from mistakes


def _misspelt(name: str) -> str | None:
    """Return the table of `TABLES` that `name` resembles; None if it is one of them or resembles none."""
    import difflib  # noqa: PLC0415 - only an unknown table needs it

    near = difflib.get_close_matches(name, TABLES, n=1, cutoff=_MISSPELT) if name not in TABLES else []
    return near[0] if near else None


def _check_key(key: str, where: str) -> Iterator[Mistake]:
    if len(key) > MAX_KEY:
        yield Mistake(where[:60] + "...", f"expected a key of at most {MAX_KEY} characters, got {len(key)}")
    elif not _is_text(key):
        yield Mistake(where, "expected a key of whole characters, got half of a surrogate pair")


def _check_value(value: Any, where: str, depth: int) -> Iterator[Mistake]:
    if depth > _DEEPEST:
        yield Mistake(where[:60], f"expected at most {_DEEPEST} levels of tables and lists")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _check_key(key, f"{where}.{key}")
            yield from _check_value(item, f"{where}.{key}", depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _check_value(item, f"{where}[{index}]", depth + 1)
    else:
        wrong = _not_in_json(value)
        if wrong:
            yield Mistake(where, wrong)


def _not_in_json(value: Any) -> str | None:
    """Return what is wrong with a value of TOML or YAML that JSON can't hold; None if it can."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"expected a finite number, got {value}"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return f"expected an integer of 64 bits, got {shown(value)}"
    if isinstance(value, str) and not _is_text(value):
        return f"expected whole characters, got half of a surrogate pair in {shown(ascii(value))}"
    if value is not None and not isinstance(value, str | int | float):
        return f"expected a string, a number, true or false, a list or a table, got {shown(value)}"
    return None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- what is done with the tables -----------------------------------------------------------------------------


def merged(base: Base, over: Base) -> Base:
    """Return `base` with the keys of `over`: objects are merged at every depth, a list is replaced as a whole.

    A null never replaces a value, and a table of `TABLES` that is null is left out. The order of the keys: first
    `TABLES` in Bench's order, then the others as they come.
    """
    both = _merged(_merged({}, base), over)
    tables = {name: both.pop(name) for name in TABLES if name in both}
    return {**{name: table for name, table in tables.items() if table is not None}, **both}


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(base)
    for key, value in over.items():
        below = both.get(key)
        if isinstance(value, dict):
            both[key] = _merged(below if isinstance(below, dict) else {}, value)
        elif value is not None or key not in both:
            both[key] = value
    return both


def missing(base: Base, *, adapter_config: bool = False) -> list[str]:
    """Return the dotted keys that Bench needs, that no audit tells and that `base` lacks; none for an empty base.

    With `adapter_config` the name of the base model and the dropout may be left to the adapter's own file.
    """
    if not base:
        return []
    needed = set(_NEEDED) - (LEFT_OPEN if adapter_config else set())
    if len(base.get("compression", {}).get("seeds") or ()) > 1:
        needed.discard("train.seed")  # a run over several seeds sets each of them in its turn
    return [key for key in _NEEDED if key in needed and not tells(base, key)]


def tells(base: Base, key: str) -> bool:
    """Return whether the key `TABLE.NAME` is in `base` and is not null."""
    table, _, name = key.partition(".")
    return base.get(table, {}).get(name) is not None


def leaves(base: Base) -> Iterator[tuple[str, Any]]:
    """Yield keys with their values: dotted keys for each object at the top level, and the other keys of that level."""
    for name, value in base.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", item) for key, item in value.items())
        else:
            yield name, value


def base_digest(base: Base) -> str:
    """Return a short name for the content of `base`. The order of its keys counts, because the config keeps it."""
    return hashlib.sha256(msgspec.json.encode(base)).hexdigest()[:16]
