"""Plan a config: the strategies that Bench compares, its tables, and notes about them. Pure."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from benchd.audit.adapter import ADAPTER_CONFIG
from benchd.audit.audit import Audit
from benchd.audit.values import MAX_RANK
from benchd.bench.patterns import pattern_keys
from benchd.bench.tables import runnable
from benchd.selection.selection import SelectedLayer, Selection
from benchd.settings.base import Base
from benchd.settings.keys import BenchSettings

__all__ = ["Plan", "Uniform", "plan_config", "uniform_baseline"]

_DEFAULT_RANK: Final = 8


class Uniform(NamedTuple):
    """The uniform baseline: one rank for all modules, a description of its source, and notes."""

    rank: int
    description: str
    notes: tuple[str, ...] = ()


class Plan(NamedTuple):
    """The strategies, tables and notes of a config. `tables` is empty without `[bench.base]`."""

    strategies: list[dict[str, Any]]
    tables: Base
    notes: tuple[str, ...]


def plan_config(audit: Audit, selection: Selection, settings: BenchSettings) -> Plan:
    """Return the plan of the config for this selection."""
    uniform = uniform_baseline(audit, settings)
    strategies: list[dict[str, Any]] = [
        {"variant": "uniform", "rank": uniform.rank, "description": uniform.description}
    ]
    ranked = [layer for layer in selection.layers if layer.rank]
    if ranked:
        strategies.append(_per_layer(audit, selection, ranked))
    notes = (*uniform.notes, *_adapter_notes(audit, has_alphas="alpha_pattern" in strategies[-1]))
    if not settings.base:
        return Plan(strategies, {}, notes)
    smaller = {module.rank for module in audit.modules.known.values() if module.rank and module.rank < uniform.rank}
    ranks = {uniform.rank, *smaller, *(layer.rank for layer in ranked if layer.rank)}
    run = runnable(audit, selection, ranks, settings)
    return Plan(strategies, run.tables, (*notes, *run.notes))


def uniform_baseline(audit: Audit, settings: BenchSettings) -> Uniform:
    """Return the uniform baseline. Its rank is at most the largest rank in the adapter."""
    asked, description = settings.uniform_rank, "Conservative uniform baseline"
    if isinstance(asked, str):
        suggested = audit.suggested_median if asked == "audit_median" else audit.suggested_p90
        which = "median" if asked == "audit_median" else "90th percentile"
        if suggested:
            description = f"Uniform baseline at the audit's own suggestion ({which})"
        asked = suggested or _DEFAULT_RANK
    rank, largest = min(asked, MAX_RANK), audit.modules.largest_rank
    if largest is None or rank <= largest:
        return Uniform(rank, description)
    return Uniform(
        largest,
        "Uniform baseline at the adapter's own largest rank",
        (f"the uniform rank is lowered from {rank} to {largest}, the adapter's largest: no rank grows",),
    )


def _per_layer(audit: Audit, selection: Selection, ranked: list[SelectedLayer]) -> dict[str, Any]:
    keys = pattern_keys([layer.module for layer in ranked], audit.modules.adapted)
    alphas = {keys[layer.module]: layer.alpha for layer in ranked if layer.alpha is not None}
    layers = "layer" if len(ranked) == 1 else "layers"
    return {
        "variant": "per_layer",
        "rank_pattern": {keys[layer.module]: layer.rank for layer in ranked},
        **({"alpha_pattern": alphas} if alphas else {}),
        "description": f"Per-layer optimization for {len(ranked)} critical {layers}",
        "focus_justification": _justification(audit, selection, ranked),
        "layers_tested": len(ranked),
        "layers_skipped": max(0, audit.total_layers - len(ranked)),
    }


def _justification(audit: Audit, selection: Selection, ranked: list[SelectedLayer]) -> str:
    """Return Gradience's own message if it is about exactly this selection, else the reason of the rung that fired."""
    message = audit.focus_message
    is_same = message is not None and audit.focus_set == {layer.layer_name for layer in selection.layers}
    out_of_reach = audit.modules.out_of_reach
    if message is not None and is_same and out_of_reach.isdisjoint([layer.module for layer in selection.layers]):
        return message
    left = len(selection.layers) - len(ranked)
    without = f"; {left} of them without a rank" if left else ""
    return f"Selected by {selection.strategy}: {selection.reason}{without}"


def _adapter_notes(audit: Audit, *, has_alphas: bool) -> list[str]:
    """Return notes about how the adapter's own file changes the answer, or would change it."""
    if audit.beside is None:
        if not has_alphas:
            return []
        return [f"each alpha assumes a scaling of alpha / rank; for rsLoRA put {ADAPTER_CONFIG} beside the audit"]
    problem = audit.modules.adapter_problem
    if audit.beside.kind is not None and audit.is_of_nothing:
        return []  # the answer's reason has it
    if problem is not None:
        return [f"{ADAPTER_CONFIG} is not used: {problem}"]
    if audit.beside.use_rslora:
        return [f"{ADAPTER_CONFIG} says use_rslora: each alpha here gives the same scaling without use_rslora"]
    return []
