"""`Selection` -> the bytes of a Bench config, and `AuditError` -> those of an error report (spec, section 4).

Pure and deterministic: no time stamps, no host names, no paths. Same input, same bytes.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, NamedTuple

import msgspec

from benchd.audit.adapter import ADAPTER_CONFIG
from benchd.audit.audit import Audit
from benchd.audit.refusals import AuditError
from benchd.bench.patterns import pattern_keys
from benchd.bench.seal import number, seal
from benchd.bench.tables import base_used, runnable
from benchd.selection.selection import SELECTION_VERSION, SelectedLayer, Selection
from benchd.settings.base import Base
from benchd.settings.keys import BenchSettings
from benchd.values import MAX_RANK, utf8, words

__all__ = [
    "Written",
    "bench_config",
    "decision_id",
    "error_report",
    "noted",
    "settings_used",
    "uniform_rank",
    "write_config",
]

_SCHEMA_VERSION: Final = 1
_DEFAULT_RANK: Final = 8


class Written(NamedTuple):
    """A config's bytes, its `decision_id`, and all the notes that stand in it."""

    config: bytes
    decision_id: str
    notes: tuple[str, ...]


def bench_config(audit: Audit, selection: Selection, settings: BenchSettings | None = None) -> bytes:
    """Return the content of `NAME.bench.json`: JSON, UTF-8, the same object when read as YAML 1.1."""
    return write_config(audit, selection, settings or BenchSettings()).config


def write_config(audit: Audit, selection: Selection, settings: BenchSettings) -> Written:
    """The same, with what the trail says of it."""
    plan = _plan(audit, selection, settings)
    used = settings_used(selection, settings)
    token = audit.beside.token if audit.beside else None
    decision = _decision_id(audit, used, token)
    notes = (*selection.notes, *plan.notes)
    provenance = {
        "audit": utf8(audit.name),
        "audit_sha256": audit.sha256,
        "audit_bytes": audit.size,
        "gradience_version": audit.gradience_version,
        "selection_version": SELECTION_VERSION,
        "settings": _numbers(used),
        **({"adapter_config": token} if token else {}),
        "decision_id": decision,
    }
    config = seal(
        {
            "schema_version": _SCHEMA_VERSION,
            **(_numbers(plan.tables) if plan.tables else {}),
            "compression_strategies": [_written(strategy) for strategy in plan.strategies],
            "selection": {
                "strategy": selection.strategy,
                "confidence": selection.confidence,
                "reason": selection.reason,
                "ladder": selection.ladder,
                "layers": [_layer(layer) for layer in selection.layers],
                "notes": notes,
            },
            "provenance": provenance,
        }
    )
    return Written(config, decision, notes)


def noted(audit: Audit, selection: Selection, settings: BenchSettings) -> Selection:
    """Return `selection` with all notes of its config, for records and people. Don't pass it to `bench_config`."""
    notes = _plan(audit, selection, settings).notes
    return msgspec.structs.replace(selection, notes=(*selection.notes, *notes)) if notes else selection


def settings_used(selection: Selection, settings: BenchSettings) -> dict[str, Any]:
    """Every setting that shaped this answer, by its dotted key; another value of any other changes nothing."""
    return {"bench.uniform_rank": settings.uniform_rank, **base_used(settings), **selection.settings}


def decision_id(audit: Audit, selection: Selection, settings: BenchSettings) -> str:
    """Return the name of this decision. The same inputs and selection version give the same name."""
    token = audit.beside.token if audit.beside else None
    return _decision_id(audit, settings_used(selection, settings), token)


def _decision_id(audit: Audit, used: dict[str, Any], token: str | None) -> str:
    parts = [utf8(audit.name), audit.sha256, SELECTION_VERSION, used]
    return hashlib.sha256(msgspec.json.encode([*parts, token] if token else parts)).hexdigest()[:32]


def error_report(name: str, error: AuditError, *, sha256: str | None, size: int | None) -> bytes:
    """The content of `NAME.bench-error.json`. `sha256` and `size` are None where the file could not be read."""
    return seal(
        {
            "schema_version": _SCHEMA_VERSION,
            "code": error.code,
            "message": words(error.message, 1000),
            "hint": words(error.hint, 1000),
            "provenance": {
                "audit": utf8(name),
                "audit_sha256": sha256,
                "audit_bytes": size,
                "selection_version": SELECTION_VERSION,
                "code": error.code,
            },
        }
    )


class _Plan(NamedTuple):
    """What the config asks of Bench, and the notes about that."""

    strategies: list[dict[str, Any]]
    tables: Base
    notes: tuple[str, ...]


def _plan(audit: Audit, selection: Selection, settings: BenchSettings) -> _Plan:
    uniform, notes = _uniform(audit, settings)
    strategies = [uniform]
    ranked = [layer for layer in selection.layers if layer.rank]
    if ranked:
        strategies.append(_per_layer(audit, selection, ranked))
    notes = [*notes, *_adapter_notes(audit, has_alphas="alpha_pattern" in strategies[-1])]
    if not settings.base:
        return _Plan(strategies, {}, tuple(notes))
    own = {module.rank for module in audit.modules.values() if module.rank and module.rank < uniform["rank"]}
    ranks = {uniform["rank"], *own, *(layer.rank for layer in ranked if layer.rank)}
    run = runnable(audit, selection, ranks, settings)
    return _Plan(strategies, run.tables, (*notes, *run.notes))


def _adapter_notes(audit: Audit, *, has_alphas: bool) -> list[str]:
    """Return notes about what the adapter's own file changes in the answer, or would change."""
    if audit.beside is None:
        if not has_alphas:
            return []
        return [f"each alpha assumes a scaling of alpha / rank; for rsLoRA put {ADAPTER_CONFIG} beside the audit"]
    problem = audit.adapter_problem
    if audit.beside.kind is not None and audit.is_of_nothing:
        return []  # the answer's reason says so already
    if problem is not None:
        return [f"{ADAPTER_CONFIG} is not used: {problem}"]
    if audit.beside.use_rslora:
        return [f"{ADAPTER_CONFIG} says use_rslora: each alpha here gives the same scaling without use_rslora"]
    return []


def _per_layer(audit: Audit, selection: Selection, ranked: list[SelectedLayer]) -> dict[str, Any]:
    keys = pattern_keys([layer.module for layer in ranked], audit.adapted)
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
    """Return Gradience's own message if it is about exactly this selection; else the reason of the rung that fired."""
    message = audit.focus_message
    is_same = message is not None and audit.focus_set == {layer.layer_name for layer in selection.layers}
    if message is not None and is_same and audit.out_of_reach.isdisjoint([layer.module for layer in selection.layers]):
        return message
    left = len(selection.layers) - len(ranked)
    without = f"; {left} of them without a rank" if left else ""
    return f"Selected by {selection.strategy}: {selection.reason}{without}"


def uniform_rank(audit: Audit, settings: BenchSettings) -> tuple[int, list[str]]:
    """Return the rank of the uniform baseline, at most the adapter's own largest rank, and the notes about it."""
    uniform, notes = _uniform(audit, settings)
    return int(uniform["rank"]), notes


def _uniform(audit: Audit, settings: BenchSettings) -> tuple[dict[str, Any], list[str]]:
    asked, description = settings.uniform_rank, "Conservative uniform baseline"
    if isinstance(asked, str):
        suggested = audit.suggested_median if asked == "audit_median" else audit.suggested_p90
        which = "median" if asked == "audit_median" else "90th percentile"
        if suggested:
            description = f"Uniform baseline at the audit's own suggestion ({which})"
        asked = suggested or _DEFAULT_RANK
    rank = min(asked, MAX_RANK)
    own, notes = audit.largest_rank, []
    if own is not None and rank > own:
        description = "Uniform baseline at the adapter's own largest rank"
        notes.append(f"the uniform rank is lowered from {rank} to {own}, the adapter's largest: no rank grows")
        rank = own
    return {"variant": "uniform", "rank": rank, "description": description}, notes


def _written(strategy: dict[str, Any]) -> dict[str, Any]:
    """A strategy with every float in it written for both readers; only an alpha can be one."""
    alphas = strategy.get("alpha_pattern")
    return {**strategy, "alpha_pattern": _numbers(alphas)} if alphas else strategy


def _numbers(value: Any) -> Any:
    """`value` with every float in it written for both readers."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return number(value) if isinstance(value, float) else value


def _layer(layer: SelectedLayer) -> dict[str, Any]:
    return {
        "layer_name": layer.layer_name,
        "module": layer.module,
        "priority": layer.priority,
        "validation": layer.validation,
        "rank": layer.rank,
        "rank_source": layer.rank_source,
        "rank_is_upper_bound": layer.rank_is_upper_bound,
        "priority_score": number(layer.priority_score),
        "spread": number(_tidy(layer.spread)),
        "spread_threshold": number(layer.spread_threshold),
        "uniform_mult": number(layer.uniform_mult),
        "uniform_mult_threshold": number(layer.uniform_mult_threshold),
        "importance_share": number(layer.importance_share),
        "disagrees": layer.disagrees,
        "failed_reasons": layer.failed_reasons,
    }


def _tidy(value: float | None) -> float | None:
    """A spread is a difference of ranks: 6, not 6.0."""
    return int(value) if value is not None and value.is_integer() and abs(value) < 2**53 else value
