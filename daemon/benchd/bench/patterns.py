r"""Module names -> what PEFT takes: keys of `rank_pattern` and `alpha_pattern`, and `target_modules`. Pure.

PEFT 0.15 and later match a key against a module's full name with `(.*\.)?(KEY)$`; older ones with `.*\.KEY$`, and
look the name itself up if no key matches so. With both, a full name that is its own key hits its module, and besides
it every module whose name ends in a dot and this name, or differs from it only where it has a dot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Final

__all__ = ["pattern_keys", "target_modules"]

#: A name without these is a regular expression for itself, but for its dots.
_PLAIN: Final = re.compile(r"[^\\^$*+?{}\[\]|()]*")

#: So many different beginnings are looked for one by one: real names have one or two.
_FEW: Final = 16

#: The names of a real model are made of a few hundred short parts, about 50,000 by this measure. Who crafts many long
#: ones gets keys that are longer, and as exact.
_MOST_WORK: Final = 1_000_000

#: Names that have dots in other places than others of the same length are as few.
_MOST_COMPARED: Final = 100_000


def pattern_keys(modules: Sequence[str], among: Iterable[str]) -> dict[str, str]:
    """For each of `modules` the key that hits this module alone `among` all adapted ones, in old PEFT and new.

    That is its name as it stands, unless the name is more than its own pattern.
    """
    others = tuple(among)
    if _whole_names(modules, others):
        shared = _alike(modules, others)
    else:
        shared = _endings(modules, others) | _without_dot(modules, others)
    if not shared and _PLAIN.fullmatch("".join(modules)):
        return dict(zip(modules, modules, strict=True))
    return {
        module: module if _PLAIN.fullmatch(module) and module not in shared else _exact(module) for module in modules
    }


def target_modules(modules: Sequence[str], among: Iterable[str]) -> list[str] | str:
    """What makes `LoraConfig(target_modules=…)` hit exactly `modules` `among` all adapted ones.

    A list of names; PEFT takes these for endings too, so where that would hit others it is one pattern.
    """
    chosen = set(modules)
    if not _endings(modules, [other for other in among if other not in chosen]):
        return list(modules)
    return "|".join(re.escape(module) for module in modules)


def _exact(module: str) -> str:
    # Old PEFT makes `.*\.$|^name$` of it, which matches the name from its beginning (and whatever ends in a dot, as no
    # module does); new PEFT `(.*\.)?($|^name)$`, which comes to the same.
    return f"$|^{re.escape(module)}"


def _whole_names(modules: Iterable[str], others: Sequence[str]) -> bool:
    """Whether each name can hit whole names only, as a look at all together shows: so it is with nearly every model.

    What it hits begins with its first part, at the beginning of a name or behind a dot; and none has that behind a dot.
    """
    firsts = {name.partition(".")[0] for name in modules}
    text = "\n".join(others)
    return len(firsts) <= _FEW and not any(f".{first}" in text for first in firsts)


def _alike(modules: Iterable[str], others: Sequence[str]) -> set[str]:
    """Which of `modules` match another's whole name with some character for one of their dots.

    Such a name is as long, and has fewer dots; few are.
    """
    dots = [name.count(".") for name in others]
    if min(dots, default=0) >= max([name.count(".") for name in modules], default=0):
        return set()
    fewest: dict[int, int] = {}
    for length, count in set(zip(map(len, others), dots, strict=True)):
        fewest[length] = min(count, fewest.get(length, count))
    by_length: dict[int, dict[tuple[int, ...], dict[tuple[str, ...], str]]] = {}
    for module in modules:
        if fewest.get(len(module), len(module)) < module.count("."):
            parts = tuple(module.split("."))
            by_length.setdefault(len(module), {}).setdefault(tuple(map(len, parts)), {})[parts] = module
    most = {length: max(map(len, shapes)) - 1 for length, shapes in by_length.items()}
    maybe = [(name, count) for name, count in zip(others, dots, strict=True) if count < most.get(len(name), 0)]
    if sum(map(len, by_length.values())) * len(maybe) > _MOST_COMPARED:
        return set(modules)
    found = set()
    for name, count in maybe:
        for lengths, named in by_length[len(name)].items():
            if count < len(lengths) - 1:
                ends = accumulate(lengths, lambda end, length: end + 1 + length)
                pieces = tuple([name[end - length : end] for end, length in zip(ends, lengths, strict=True)])
                if pieces in named:
                    found.add(named[pieces])
    return found


def _endings(modules: Iterable[str], others: Sequence[str]) -> set[str]:
    """Which of `modules` are what the name of another ends in."""
    names = set(modules)
    # Nearly every name begins with what no name has further back, and no search is as fast as that of a text.
    text = "\n".join(others) + "\n"
    firsts = {name.partition(".")[0] for name in names}
    if len(firsts) <= _FEW and not any(f".{first}." in text or f".{first}\n" in text for first in firsts):
        return set()
    found: set[str] = set()
    for other in others:
        parts = other.split(".")
        endings = (".".join(parts[start:]) for start in range(1, len(parts)))
        found.update(ending for ending in endings if ending in names)
    return found


def _without_dot(modules: Sequence[str], others: Sequence[str]) -> set[str]:
    """Which of `modules` could match another's name with some character for one of their dots, as `fc.1` does `fc_1`.

    Such a name has a part that begins with two parts of the module's and a character between them. Not every module
    that this finds has one, but all that have one are found.
    """
    own, every = _parts(modules), _parts(others)
    if len(own) * len(every) > _MOST_WORK:
        return set(modules)
    # The character and what follows it are two at least; few parts of real names begin with another.
    beginnings = tuple(own)
    parts = [part for part in every if part[:-2].startswith(beginnings)]
    if sum([len(part) ** 2 for part in parts]) > _MOST_WORK:
        return set(modules)
    shared = {
        f".{part[:place]}.{part[place + 1 : end]}."
        for part in parts
        for place in range(1, len(part) - 1)
        if part[:place] in own
        for end in range(place + 2, len(part) + 1)
        if part[place + 1 : end] in own
    }
    return {module for module in modules if any(pair in f".{module}." for pair in shared)} if shared else set()


def _parts(names: Iterable[str]) -> set[str]:
    return set("\n".join(names).replace(".", "\n").split("\n"))
