r"""Make pattern keys and `target_modules` that PEFT matches only with the given modules. Pure.

PEFT 0.15 and later match a key against a module's full name with `(.*\.)?(KEY)$`. Older versions use `.*\.KEY$`, and
look up the name itself if no key matches. So a full name as a key matches its module, but it can match others, too:
names that end in a dot and this name, and names that differ from such a name only where the key has a dot.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from benchd.audit.matching import Matcher, endings

__all__ = ["pattern_keys", "target_modules"]

#: A name of these characters matches itself as a regular expression. Its dots also match other characters.
_PLAIN: Final = re.compile(r"[^\\^$*+?{}\[\]|()]*")

#: Maximum different first parts to search for one by one. Real models have one or two.
_MOST_FIRST_PARTS: Final = 16

#: Maximum dots in the names to compare with the keys, about 5 per name in a real model. Beyond it all keys are exact.
_MOST_DOTS: Final = 100_000


def pattern_keys(modules: Sequence[str], among: Iterable[str]) -> dict[str, str]:
    """Return a key for each of `modules` that matches no other name in `among`, in old and new versions of PEFT.

    The key is the module's name, or an exact pattern if the name would match other modules.
    """
    others = tuple(among)
    plain = modules if _PLAIN.fullmatch("".join(modules)) else list(filter(_PLAIN.fullmatch, modules))
    suspects = others if _may_end_in(modules, others) else _variants(modules, others)
    if plain is modules and not suspects:
        return dict(zip(modules, modules, strict=True))
    own = set(plain) - _shared(plain, suspects)
    return {module: module if module in own else _exact(module) for module in modules}


def target_modules(modules: Sequence[str], among: Iterable[str]) -> list[str] | str:
    """Return the value of `LoraConfig(target_modules=…)` that matches exactly `modules` and no other name in `among`.

    PEFT also takes the names in a list as endings. If a list would match other modules, the result is one pattern.
    """
    chosen = set(modules)
    others = [other for other in among if other not in chosen]
    if _may_end_in(modules, others) and any(end in chosen for other in others for end in endings(other)):
        return "|".join(re.escape(module) for module in modules)
    return list(modules)


def _exact(module: str) -> str:
    # Old PEFT makes `.*\.$|^name$` of it. That matches the name from its start, and names that end in a dot, which no
    # module has. New PEFT makes `(.*\.)?($|^name)$` of it, with the same effect.
    return f"$|^{re.escape(module)}"


def _may_end_in(modules: Iterable[str], others: Sequence[str]) -> bool:
    """Return whether a name may end in one of `modules`, if any character matches their dots. Fast, and rarely true.

    Such a name has the first part of the module after a dot.
    """
    firsts = {name.partition(".")[0] for name in modules}
    text = "\n".join(others)
    return len(firsts) > _MOST_FIRST_PARTS or any(f".{first}" in text for first in firsts)


def _variants(modules: Iterable[str], others: Sequence[str]) -> list[str]:
    """Return the names that may differ from one of `modules` only at its dots. Usually empty.

    Such a name is as long as the module's name and has fewer dots.
    """
    most: dict[int, int] = {}
    for module in modules:
        most[len(module)] = max(module.count("."), most.get(len(module), 0))
    return [name for name in others if name.count(".") < most.get(len(name), 0)]


def _shared(modules: Sequence[str], names: Sequence[str]) -> set[str]:
    """Return those of `modules` whose names, as keys, match another of `names`."""
    matcher = Matcher(dict.fromkeys(modules, 0.0))
    if matcher.is_costly or "".join(names).count(".") > _MOST_DOTS:
        return set(modules)
    return {key for name in names for key in matcher.keys_of(name) if key != name}
