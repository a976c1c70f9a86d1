"""Fill the tables that Bench needs for a run: from `[bench.base]`, and from the audit for missing keys. Pure.

Keys of the base always take precedence. Notes say where they contradict the audit, and which keys Bench will lack
(spec, section 4, "Runnable"; field-notes, section 4).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any, Final, NamedTuple

from benchd.audit.adapter import ADAPTER_CONFIG
from benchd.audit.audit import Audit
from benchd.bench.patterns import target_modules
from benchd.selection.selection import Selection
from benchd.settings.base import Base, base_digest, merged, missing, tells
from benchd.settings.keys import BenchSettings

__all__ = ["Runnable", "base_used", "focused", "runnable"]

#: Keys that have no default in Bench, and that an audit normally provides.
_TOLD: Final = ("lora.probe_r", "lora.alpha", "lora.target_modules", "compression.allowed_ranks")


class Runnable(NamedTuple):
    """Bench's tables, in Bench's order, and notes about them."""

    tables: Base
    notes: tuple[str, ...]


def base_used(settings: BenchSettings) -> dict[str, Any]:
    """Return the settings for Bench's tables that affect every answer, by dotted key. Empty without a base."""
    if not settings.base:
        return {}
    used: dict[str, Any] = {"bench.base": base_digest(settings.base), "bench.focus": settings.focus}
    if missing(settings.base):
        used["bench.adapter_config"] = settings.adapter_config
    return used


def _targets(audit: Audit, selection: Selection, settings: BenchSettings) -> list[str] | str:
    """Return `target_modules`: the selected modules with `bench.focus`, else the base's, else all in the audit."""
    focus = focused(audit, selection, settings)
    if focus:
        return target_modules(focus, audit.modules.adapted)
    asked: list[str] | str | None = settings.base.get("lora", {}).get("target_modules")
    return asked or list(audit.modules.names)


def focused(audit: Audit, selection: Selection, settings: BenchSettings) -> list[str]:
    """Return the selected modules that can be a target, if `bench.focus` is set. Otherwise return an empty list."""
    if not settings.focus or not selection.layers:
        return []
    return [layer.module for layer in selection.layers if layer.module not in audit.modules.out_of_reach]


def runnable(
    audit: Audit,
    selection: Selection,
    ranks: Collection[int],
    settings: BenchSettings,
) -> Runnable:
    """Return Bench's tables for an answer whose strategies have `ranks`. The base must not be empty."""
    told = _told(audit, selection, ranks, settings)
    tables = merged(told, settings.base)
    is_focused = bool(focused(audit, selection, settings))
    if is_focused:
        tables["lora"]["target_modules"] = told["lora"]["target_modules"]
    notes = [*_contradictions(settings.base, told)]
    if settings.focus and not is_focused:
        notes.append("bench.focus: no selected layer can be a target, so lora.target_modules are not narrowed")
    elif is_focused and tells(settings.base, "lora.target_modules"):
        notes.append("bench.focus: lora.target_modules are the selected layers', not those of bench.base")
    elif not is_focused:
        notes.extend(_left_out(selection, tables))
    notes.extend(_lacking(tables, settings))
    return Runnable(tables, tuple(notes))


def _told(
    audit: Audit,
    selection: Selection,
    ranks: Collection[int],
    settings: BenchSettings,
) -> Base:
    """Return the values that the audit and the adapter's own file have for Bench's keys."""
    own = audit.modules.largest
    probe = settings.base.get("lora", {}).get("probe_r") or (own.rank if own else None)
    adapter = audit.modules.adapter if settings.adapter_config else None
    told: Base = {
        "model": {"name": adapter.base_model if adapter else None},
        "lora": {
            "probe_r": own.rank if own else None,
            "alpha": own.alpha_at(probe) if own and probe else None,
            "dropout": adapter.dropout if adapter else None,
            "target_modules": _targets(audit, selection, settings) or None,
        },
        "compression": {"allowed_ranks": sorted({*ranks, probe}) if probe else None},
    }
    known = {name: {key: value for key, value in table.items() if value is not None} for name, table in told.items()}
    return {name: table for name, table in known.items() if table}


def _contradictions(base: Base, told: Base) -> Iterator[str]:
    lora, known = base.get("lora", {}), told.get("lora", {})
    asked, rank = lora.get("probe_r"), known.get("probe_r")
    if asked is not None and rank is not None and asked != rank:
        yield f"lora.probe_r is {asked} (bench.base), the adapter's largest rank is {rank}"
    alpha, keeps = lora.get("alpha"), known.get("alpha")
    if alpha is not None and keeps is not None and not math.isclose(alpha, keeps, rel_tol=1e-6):
        yield f"lora.alpha is {alpha:g} (bench.base); {keeps:g} would keep the adapter's scaling"
    allowed = base.get("compression", {}).get("allowed_ranks")
    lacks = set(told.get("compression", {}).get("allowed_ranks", ())) - set(allowed or ()) if allowed else ()
    if lacks:
        named = ", ".join(map(str, sorted(lacks)))
        yield f"compression.allowed_ranks of bench.base lacks {named}; Bench rounds down to ranks in the list"


def _left_out(selection: Selection, tables: Base) -> Iterator[str]:
    """Yield a note about selected layers that Bench will not train. Ignores patterns: only PEFT can match them."""
    wanted = tables.get("lora", {}).get("target_modules")
    if not isinstance(wanted, list):
        return
    endings = tuple(f".{name}" for name in wanted)
    left = [layer.module for layer in selection.layers if not f".{layer.module}".endswith(endings)]
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        yield f"lora.target_modules of bench.base leaves out selected layers: {', '.join(left[:3])}{more}"


def _lacking(tables: Base, settings: BenchSettings) -> Iterator[str]:
    lacking = [*missing(tables), *(key for key in _TOLD if not tells(tables, key))]
    if lacking:
        places = "bench.base nor the audit"
        if settings.adapter_config:
            places = f"bench.base, the audit nor an {ADAPTER_CONFIG} of it"
        yield f"Bench can't run this config: neither {places} has {', '.join(lacking)}"
