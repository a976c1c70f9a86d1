"""`[bench.base]`: the tables that make a config one that Bench can run (spec, section 4). Pure.

The tables are Bench's own, as its YAML has them, and are passed on as they stand. Checked is what Bench 0.11.0 would
stumble over, often only after its probe has been trained (field-notes, section 4): keys that it needs, and the
types of those that it computes with.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

__all__ = ["LEFT_OPEN", "TABLES", "Base", "Mistake", "base_digest", "check", "leaves", "merged", "missing", "shown"]

Base = dict[str, dict[str, Any]]

#: The tables of Bench's YAML, in its order.
TABLES: Final = ("model", "task", "train", "lora", "compression", "runtime", "audit")

_MAX_RANK: Final = 65536

#: PyYAML gives up on a key beyond 1024 characters, and escaping can make four of one.
_MAX_KEY: Final = 250

#: What Bench reads without a default and no audit knows.
_NEEDED: Final = ("model.name", "task.dataset", "task.subset", "train.seed", "lora.dropout")

#: What a base may leave to the adapter's own file.
LEFT_OPEN: Final = frozenset({"model.name", "lora.dropout"})

_DEEPEST: Final = 16


class Mistake(NamedTuple):
    """One mistake: the dotted key below `[bench.base]`, and what is wrong with it."""

    where: str
    text: str


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
    return _whole(value, 1, _MAX_RANK)


def _is_seed(value: Any) -> bool:
    return _whole(value, 0, 2**32 - 1)


def _listed(value: Any, item: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and bool(value) and all(map(item, value))


_TEXT: Final = ("a string that is not empty", _text)
_RATE: Final = ("a number above 0", lambda value: _finite(value) and value > 0)
_KEYS: Final[dict[tuple[str, str], tuple[str, Callable[[Any], bool]]]] = {
    ("model", "name"): _TEXT,
    ("task", "dataset"): _TEXT,
    ("task", "subset"): _TEXT,
    ("train", "seed"): ("an integer from 0 to 4294967295", _is_seed),
    ("train", "learning_rate"): _RATE,
    ("train", "lr"): _RATE,
    ("train", "max_steps"): ("an integer >= 1", lambda value: _whole(value, 1, 10**9)),
    ("lora", "probe_r"): (f"an integer from 1 to {_MAX_RANK}", _is_rank),
    ("lora", "alpha"): _RATE,
    ("lora", "dropout"): ("a number from 0 to 1", lambda value: _finite(value) and 0 <= value <= 1),
    ("lora", "target_modules"): (
        "a list of module names that is not empty, or one pattern",
        lambda value: _text(value) or _listed(value, _text),
    ),
    ("compression", "allowed_ranks"): (
        f"a list of ranks from 1 to {_MAX_RANK} that is not empty",
        lambda value: _listed(value, _is_rank),
    ),
    ("compression", "seeds"): ("a list of seeds that is not empty", lambda value: _listed(value, _is_seed)),
}


def check(base: Mapping[str, Any]) -> Iterator[Mistake]:
    """Every mistake in the tables `base`, as TOML parsed them. Says nothing about what is missing."""
    for name, table in base.items():
        if name not in TABLES:
            yield Mistake(name, f"unknown key; {_nearest(name)}")
        elif not isinstance(table, dict):
            yield Mistake(name, f"expected a table, got {shown(table)}")
        else:
            for key, value in table.items():
                where = f"{name}.{key}"
                mistakes = list(_check_value(value, where, 1)) + list(_check_key(key, where))
                rule = _KEYS.get((name, key))
                if rule is not None and not mistakes and not rule[1](value):
                    mistakes = [Mistake(where, f"expected {rule[0]}, got {shown(value)}")]
                yield from mistakes


def _nearest(name: str) -> str:
    import difflib  # noqa: PLC0415 - only a mistake needs it

    near = difflib.get_close_matches(name, TABLES, n=1, cutoff=0.6)
    homes = [f"{table}.{key}" for table, key in _KEYS if key == name]
    if near or homes:
        return f'did you mean "{(near or homes)[0]}"?'
    return "Bench's tables are " + ", ".join(TABLES)


def _check_key(key: str, where: str) -> Iterator[Mistake]:
    if len(key) > _MAX_KEY:
        yield Mistake(where[:60] + "...", f"expected a key of at most {_MAX_KEY} characters, got {len(key)}")


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
    """TOML has values that JSON has not: dates and times, inf and nan, integers of any size."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"expected a finite number, got {value}"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return f"expected an integer of 64 bits, got {shown(value)}"
    if not isinstance(value, str | int | float):
        return f"expected a string, a number, true or false, a list or a table, got {shown(value)}"
    return None


# --- what is done with the tables -----------------------------------------------------------------------------


def merged(base: Base, over: Base) -> Base:
    """`base` with the keys of `over`, table by table at every depth; a list is replaced whole. In Bench's order."""
    both = _merged(_merged({}, base), over)
    return {name: both[name] for name in TABLES if name in both}


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(base)
    for key, value in over.items():
        below = both.get(key)
        both[key] = _merged(below if isinstance(below, dict) else {}, value) if isinstance(value, dict) else value
    return both


def missing(base: Base, *, adapter_config: bool = False) -> list[str]:
    """The dotted keys that Bench needs, no audit tells and `base` lacks; an empty base asks for nothing and lacks none.

    With `adapter_config` the name of the base model and the dropout may be left to the adapter's own file.
    """
    if not base:
        return []
    needed = set(_NEEDED) - (LEFT_OPEN if adapter_config else set())
    if len(base.get("compression", {}).get("seeds", ())) > 1:
        needed.discard("train.seed")  # a run over several seeds sets each of them in its turn
    there = {key for key, _ in leaves(base)}
    return [key for key in _NEEDED if key in needed and key not in there]


def leaves(base: Base) -> Iterator[tuple[str, Any]]:
    """Each key of each table, dotted, with its value."""
    for name, table in base.items():
        for key, value in table.items():
            yield f"{name}.{key}", value


def base_digest(base: Base) -> str:
    """Names the content of `base`, in few characters; the order of its keys counts, because the config has them so."""
    return hashlib.sha256(msgspec.json.encode(base)).hexdigest()[:16]
