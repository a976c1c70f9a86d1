"""`Selection` -> the bytes of a Bench config, and `AuditError` -> those of an error report (spec, section 4).

Pure and deterministic: no time stamps, no host names, no paths. Same input, same bytes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any, Final, NamedTuple

import msgspec

from benchd.adapter import AdapterConfig, adapter_used, counted
from benchd.audit import Audit
from benchd.base import Base
from benchd.document import MAX_RANK, utf8, words
from benchd.patterns import pattern_keys
from benchd.rejection import AuditError
from benchd.runnable import base_used, runnable, targets
from benchd.selection import SELECTION_VERSION, SelectedLayer, Selection
from benchd.settings import BenchSettings
from benchd.sidecar import number, seal

__all__ = [
    "Written",
    "bench_config",
    "decision_id",
    "error_report",
    "lora_config",
    "noted",
    "settings_used",
    "write_config",
]

_SCHEMA_VERSION: Final = 1
_DEFAULT_RANK: Final = 8


class Written(NamedTuple):
    """A config's bytes, its `decision_id`, and all the notes that stand in it."""

    config: bytes
    decision_id: str
    notes: tuple[str, ...]


def bench_config(
    audit: Audit,
    selection: Selection,
    settings: BenchSettings | None = None,
    adapter: AdapterConfig | None = None,
) -> bytes:
    """The content of `NAME.bench.json`: JSON, UTF-8, the same object when read as YAML 1.1.

    `adapter` is what `read_adapter_config` made of the `adapter_config.json` beside the audit, if there is one.
    """
    return write_config(audit, selection, settings or BenchSettings(), adapter).config


def write_config(
    audit: Audit, selection: Selection, settings: BenchSettings, adapter: AdapterConfig | None = None
) -> Written:
    """The same, with what the trail says of it."""
    plan = _plan(audit, selection, settings, adapter)
    used = settings_used(selection, settings)
    token = adapter_used(settings, adapter)
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


def noted(
    audit: Audit, selection: Selection, settings: BenchSettings, adapter: AdapterConfig | None = None
) -> Selection:
    """`selection` with all the notes that its config has, for records and people; `bench_config` takes it without."""
    notes = _plan(audit, selection, settings, adapter).notes
    return msgspec.structs.replace(selection, notes=(*selection.notes, *notes)) if notes else selection


def lora_config(
    audit: Audit,
    selection: Selection,
    settings: BenchSettings | None = None,
    adapter: AdapterConfig | None = None,
) -> dict[str, Any]:
    """What `peft.LoraConfig(**…)` takes to train the adapter anew at the ranks of this answer.

    The selected layers get ranks of their own, every other module the uniform rank, and all keep their scaling.
    `lora_alpha` is left out where the audit doesn't tell any scaling, `target_modules` where it names no module.
    """
    settings = settings or BenchSettings()
    uniform, *others = _plan(audit, selection, settings, adapter).strategies
    adapter, _ = counted(settings, adapter, audit)
    rank = uniform["rank"]
    rslora = adapter is not None and adapter.use_rslora
    ranked = {layer.module for layer in selection.layers if layer.rank}
    told = {name: module.alpha_at(rank, use_rslora=rslora) for name, module in audit.modules.items()}
    alphas = {name: alpha for name, alpha in told.items() if alpha is not None and name not in ranked}
    common = Counter(alphas.values() or [alpha for alpha in told.values() if alpha is not None]).most_common(1)
    arguments: dict[str, Any] = {"r": rank}
    if common:
        arguments["lora_alpha"] = common[0][0]
    # Few adapters have modules of different scalings.
    apart = {name: alpha for name, alpha in alphas.items() if alpha != arguments["lora_alpha"]}
    keys = pattern_keys(list(apart), audit.names)
    own = others[0] if others else {}
    arguments["rank_pattern"] = own.get("rank_pattern", {})
    arguments["alpha_pattern"] = {**own.get("alpha_pattern", {}), **{keys[name]: apart[name] for name in apart}}
    wanted = targets(audit, selection, settings)
    if wanted:
        arguments["target_modules"] = wanted
    return arguments


def settings_used(selection: Selection, settings: BenchSettings) -> dict[str, Any]:
    """Every setting that shaped this answer, by its dotted key; another value of any other changes nothing."""
    return {"bench.uniform_rank": settings.uniform_rank, **base_used(settings), **selection.settings}


def decision_id(
    audit: Audit, selection: Selection, settings: BenchSettings, adapter: AdapterConfig | None = None
) -> str:
    """Names this decision: the same for the same inputs and selection version, whenever it is made."""
    return _decision_id(audit, settings_used(selection, settings), adapter_used(settings, adapter))


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


def _plan(audit: Audit, selection: Selection, settings: BenchSettings, adapter: AdapterConfig | None) -> _Plan:
    adapter, notes = counted(settings, adapter, audit)
    strategies = [_uniform(audit, settings)]
    ranked = [layer for layer in selection.layers if layer.rank]
    if ranked:
        strategies.append(_per_layer(audit, selection, ranked, adapter))
    if not settings.base:
        return _Plan(strategies, {}, notes)
    ranks = {strategies[0]["rank"], *(layer.rank for layer in ranked if layer.rank)}
    run = runnable(audit, selection, ranks, settings, adapter)
    return _Plan(strategies, run.tables, (*notes, *run.notes))


def _per_layer(
    audit: Audit, selection: Selection, ranked: list[SelectedLayer], adapter: AdapterConfig | None
) -> dict[str, Any]:
    keys = pattern_keys([layer.module for layer in ranked], audit.names)
    ranks = {keys[layer.module]: layer.rank for layer in ranked}
    alphas = {keys[layer.module]: alpha for layer in ranked if (alpha := _alpha(audit, layer, adapter)) is not None}
    layers = "layer" if len(ranked) == 1 else "layers"
    return {
        "variant": "per_layer",
        "rank_pattern": ranks,
        **({"alpha_pattern": alphas} if alphas else {}),
        "description": f"Per-layer optimization for {len(ranked)} critical {layers}",
        "focus_justification": audit.focus_message or selection.reason,
        "layers_tested": len(ranked),
        "layers_skipped": max(0, audit.total_layers - len(ranked)),
    }


def _alpha(audit: Audit, layer: SelectedLayer, adapter: AdapterConfig | None) -> int | float | None:
    if adapter is None or not adapter.use_rslora or layer.alpha is None or not layer.rank:
        return layer.alpha
    module = audit.module(layer.layer_name)
    return module.alpha_at(layer.rank, use_rslora=True) if module else None


def _uniform(audit: Audit, settings: BenchSettings) -> dict[str, Any]:
    rank, description = settings.uniform_rank, "Conservative uniform baseline"
    if isinstance(rank, str):
        suggested = audit.suggested_median if rank == "audit_median" else audit.suggested_p90
        which = "median" if rank == "audit_median" else "90th percentile"
        if suggested:
            description = f"Uniform baseline at the audit's own suggestion ({which})"
        rank = suggested or _DEFAULT_RANK
    return {"variant": "uniform", "rank": min(rank, MAX_RANK), "description": description}


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
