"""Convert the names in an audit to PEFT's names for the same modules. Pure.

PEFT wraps a model twice, so names in an audit start with `base_model.model.`. Other libraries wrap the model or its
modules during training, and each wrapper adds a part to the names. A key with such a part matches no module of the
unwrapped model, so the parts are removed (field-notes, section 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

__all__ = ["BASE_LAYER", "MAX_NAME", "PEFT_PREFIX", "WRAPPER_PARTS", "Modules", "modules_of", "unaddressable", "usable"]

#: The prefix of PEFT's wrapper. PEFT warns about a `rank_pattern` key with it and ignores the key.
PEFT_PREFIX: Final = "base_model.model."

#: Parts that wrappers add at any position of a name. No model has modules with these names.
WRAPPER_PARTS: Final = frozenset(
    {
        "_orig_mod",  # torch.compile
        "_fsdp_wrapped_module",  # PyTorch FSDP
        "_fpw_module",  # FSDP of FairScale and PyTorch/XLA
        "_checkpoint_wrapped_module",  # activation checkpointing and offloading of PyTorch
        "_forward_module",  # Lightning Fabric
    }
)

#: Attributes that hold a whole PEFT model. They come before PEFT's prefix; after it they are ordinary names.
_HOLDERS: Final = frozenset(
    {
        "module",  # DistributedDataParallel, DataParallel, DeepSpeed, averaged models
        "_module",  # Opacus
        "model",  # a Lightning module
        "pretrained_model",  # TRL's models with a value head
    }
)

#: The part that PEFT adds between a wrapped module and the layer below it.
BASE_LAYER: Final = "base_layer"

#: The usual name of the module that holds the experts of a layer.
EXPERTS: Final = "experts"

#: Maximum characters of a name. PyYAML refuses a key of more than 1024 characters, escaping can make four characters
#: of one, and a pattern adds a few.
MAX_NAME: Final = 254

_PREFIX_PARTS: Final = PEFT_PREFIX.rstrip(".").split(".")


class Modules(NamedTuple):
    """Module names in the audit's order, and the wrapper parts that were removed, sorted."""

    names: list[str]
    wrappers: tuple[str, ...] = ()


def usable(names: list[str]) -> list[str]:
    """Return the names that a module can have: printable, 1 to `MAX_NAME` characters."""
    # Usually all names are usable, and one check of all names together is fast.
    if "".join(names).isprintable() and "" not in names and len(max(names, key=len, default="")) <= MAX_NAME:
        return names
    return [name for name in names if 0 < len(name) <= MAX_NAME and name.isprintable()]


def modules_of(names: Sequence[str]) -> Modules:
    """Return each of `names` without PEFT's prefix and without wrapper parts."""
    text = "\n".join(names)
    if not _may_be_wrapped(text):
        return Modules([name.removeprefix(PEFT_PREFIX) or name for name in names])
    found: set[str] = set()
    modules = [_unwrapped(name, found) for name in names]
    return Modules(modules, tuple(sorted(found)))


def unaddressable(modules: Iterable[str]) -> frozenset[str]:
    """Return the modules that no key of PEFT's patterns can match, as far as the names show.

    A name with a `base_layer` part belongs to a layer below another adapter layer. If the name above it exists, too,
    both are layers over the parameters of one module (`target_parameters`), for which PEFT has no patterns. A module
    with the name `experts` is such a layer, too: it is adapted itself only if its weights are fused.
    """
    text = "\n".join(modules)
    if f".{BASE_LAYER}" not in text and EXPERTS not in text:
        return frozenset()
    names = set(text.split("\n"))
    below = {name for name in names if BASE_LAYER in name.split(".")}
    above = {name.partition(f".{BASE_LAYER}")[0] for name in below}
    fused = {name for name in names if name.rpartition(".")[2] == EXPERTS}
    return frozenset(below | (above & names) | fused)


def _may_be_wrapped(text: str) -> bool:
    """Return whether any line of `text` may contain a wrapper part, a holder, or a second prefix."""
    # Hardly any model has one, and a few searches in one text are faster than a check of each name.
    return (
        "_module" in text
        or "_orig_mod" in text
        or ".base_model." in text
        or "\nmodule." in text
        or text.startswith("module.")
    )


def _unwrapped(name: str, found: set[str]) -> str:
    parts = []
    for part in name.split("."):
        if part in WRAPPER_PARTS:
            found.add(part)
        else:
            parts.append(part)
    start, prefixes = 0, 0
    while True:
        held = start
        while parts[held : held + 1] and parts[held] in _HOLDERS:
            held += 1
        if parts[held : held + 2] == _PREFIX_PARTS and len(parts) > held + 2:
            found.update(parts[start:held])
            start, prefixes = held + 2, prefixes + 1
        else:
            break
    if prefixes == 0:  # an adapter without PEFT's prefix
        while parts[start : start + 1] == ["module"] and len(parts) > start + 1:
            found.add("module")
            start += 1
    if prefixes > 1:
        found.add(PEFT_PREFIX.rstrip("."))
    return ".".join(parts[start:]) or name
