"""Check the tables that Bench needs to run a config: `bench.base_file` and `[bench.base]` (spec, section 4). Pure.

A base has the keys of Bench's own YAML, and benchd passes them on unchanged. `check` finds values of the wrong type
among the keys that Bench 0.11.0 uses in computations. Bench itself fails late on them, often after it has trained its
probe (field-notes, section 4). `missing` finds the keys that Bench needs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from benchd.audit.values import MAX_RANK
from benchd.settings.rules import NOT_EMPTY, Key, integer, list_of, number, shown, text

__all__ = [
    "KEYS",
    "LEFT_OPEN",
    "MAX_KEY",
    "OWN_KEYS",
    "TABLES",
    "Base",
    "Mistake",
    "base_digest",
    "check",
    "leaves",
    "merged",
    "missing",
    "tells",
]

#: Bench's YAML as an object. The values of `TABLES` are objects, and other keys may have any value of JSON.
Base = dict[str, Any]

#: The tables that Bench reads, in the order of the YAML files that it ships.
TABLES: Final = ("model", "task", "train", "lora", "compression", "runtime", "audit")

#: The keys of a config that benchd writes itself.
OWN_KEYS: Final = ("schema_version", "compression_strategies", "selection", "provenance")

#: Maximum characters of a key. PyYAML refuses a key of more than 1024, and escaping can make four of one.
MAX_KEY: Final = 250

#: Keys that Bench needs, that have no default, and that no audit contains.
_NEEDED: Final = ("model.name", "task.dataset", "task.subset", "train.seed", "lora.dropout")

#: Keys that a base may omit if the adapter's own file has them.
LEFT_OPEN: Final = frozenset({"model.name", "lora.dropout"})

_DEEPEST: Final = 16

#: Minimum similarity (difflib's ratio) for an unknown table to count as a misspelt one of `TABLES`.
_MISSPELT: Final = 0.75


class Mistake(NamedTuple):
    """One mistake: the dotted key in the base, the problem, and the value if the rule for its key refuses it."""

    where: str
    text: str
    value: Any = None


_TEXT: Final = text("a string that is not empty", NOT_EMPTY)
_RATE: Final = number(above=True)
_AMOUNT: Final = number()
_RANK: Final = integer(1, MAX_RANK)
_SEED: Final = integer(0, 2**32 - 1)

#: The keys whose values benchd checks, because Bench uses them in computations.
KEYS: Final = {
    "model.name": Key(_TEXT, "The base model"),
    "task.dataset": Key(_TEXT, "The data set"),
    "task.subset": Key(_TEXT, "The part of the data set"),
    "train.seed": Key(_SEED, "The seed of the training"),
    "train.learning_rate": Key(_RATE, "The learning rate"),
    "train.lr": Key(_RATE, "The learning rate, under its short name"),
    "train.weight_decay": Key(_AMOUNT, "The weight decay"),
    "train.warmup_ratio": Key(_AMOUNT, "The part of the steps in which the learning rate rises"),
    "train.max_steps": Key(integer(1), "The number of training steps"),
    "lora.probe_r": Key(_RANK, "The rank of the probe; by default the adapter's largest rank"),
    "lora.alpha": Key(_RATE, "The alpha of the probe; by default it keeps the adapter's scaling"),
    "lora.dropout": Key(number(0, 1), "The dropout"),
    "lora.target_modules": Key(
        list_of(_TEXT, "a list of module names that is not empty, or one pattern", least=1, or_item=True),
        "The modules to train; by default those that the audit names",
    ),
    "compression.allowed_ranks": Key(
        list_of(_RANK, f"a list of ranks from 1 to {MAX_RANK} that is not empty", least=1),
        "The ranks that Bench may choose; by default those of the config",
    ),
    "compression.acc_tolerance": Key(_AMOUNT, "The loss of accuracy that Bench accepts"),
    "compression.seeds": Key(
        list_of(_SEED, "a list of seeds that is not empty", least=1), "The seeds of a run over several seeds"
    ),
}


def check(base: Mapping[str, Any]) -> Iterator[Mistake]:
    """Yield every mistake in `base`, as TOML or YAML parsed it. Does not look for missing keys.

    A null counts as a missing key. A key outside `TABLES` and `OWN_KEYS` may have any value that JSON has.
    """
    for name, value in base.items():
        misspelt = _misspelt(name) if isinstance(value, dict) else None
        if name in OWN_KEYS:
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
        declared = KEYS.get(where)
        if declared is not None and value is not None and not mistakes:
            try:
                declared.rule.parse(value)
            except ValueError:
                mistakes = [Mistake(where, f"expected {declared.rule.expected}, got {shown(value)}", value)]
        yield from mistakes


def _misspelt(name: str) -> str | None:
    """Return the table of `TABLES` that `name` resembles. Return None for a correct name and for any other name."""
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
    """Return the problem with a value of TOML or YAML that JSON can't hold, or None."""
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


def merged(base: Base, over: Base) -> Base:
    """Return `base` with the keys of `over`. Objects are merged at every depth, and a list is replaced as a whole.

    A null never replaces a value. A table of `TABLES` that is null is omitted. `TABLES` come first, in Bench's order.
    The other keys keep their order.
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
    """Return the dotted keys that Bench needs, that no audit has and that `base` lacks. Empty for an empty base.

    With `adapter_config` the adapter's own file may have the base model's name and the dropout.
    """
    if not base:
        return []
    needed = set(_NEEDED) - (LEFT_OPEN if adapter_config else set())
    if len(base.get("compression", {}).get("seeds") or ()) > 1:
        needed.discard("train.seed")  # a run over several seeds sets each seed itself
    return [key for key in _NEEDED if key in needed and not tells(base, key)]


def tells(base: Base, key: str) -> bool:
    """Return whether the key `TABLE.NAME` is in `base` and is not null."""
    table, _, name = key.partition(".")
    return base.get(table, {}).get(name) is not None


def leaves(base: Base) -> Iterator[tuple[str, Any]]:
    """Yield keys with their values: dotted keys for each object at the top level, plain keys for other values."""
    for name, value in base.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{key}", item) for key, item in value.items())
        else:
            yield name, value


def base_digest(base: Base) -> str:
    """Return a short digest of `base`. The order of its keys counts, because the config keeps it."""
    return hashlib.sha256(msgspec.json.encode(base)).hexdigest()[:16]
