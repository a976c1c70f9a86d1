"""`Selection` -> the bytes of a Bench config, and `AuditError` -> those of an error report (spec, section 4).

Pure and deterministic: no time stamps, no host names, no paths. Same input, same bytes.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

import msgspec

from benchd.audit import Audit
from benchd.document import MAX_RANK, utf8, words
from benchd.rejection import AuditError
from benchd.selection import SELECTION_VERSION, SelectedLayer, Selection
from benchd.settings import BenchSettings
from benchd.sidecar import number, seal

__all__ = ["bench_config", "decision_id", "error_report", "settings_used"]

_SCHEMA_VERSION: Final = 1
_DEFAULT_RANK: Final = 8


def bench_config(
    audit: Audit, selection: Selection, settings: BenchSettings | None = None, *, decision: str | None = None
) -> bytes:
    """The content of `NAME.bench.json`: JSON, UTF-8, the same object when read as YAML 1.1.

    `decision` is the `decision_id`, where the caller has it already.
    """
    settings = settings or BenchSettings()
    used = settings_used(selection, settings)
    return seal(
        {
            "schema_version": _SCHEMA_VERSION,
            "compression_strategies": _strategies(audit, selection, settings),
            "selection": {
                "strategy": selection.strategy,
                "confidence": selection.confidence,
                "reason": selection.reason,
                "ladder": selection.ladder,
                "layers": [_layer(layer) for layer in selection.layers],
                "notes": selection.notes,
            },
            "provenance": {
                "audit": utf8(audit.name),
                "audit_sha256": audit.sha256,
                "audit_bytes": audit.size,
                "gradience_version": audit.gradience_version,
                "selection_version": SELECTION_VERSION,
                "settings": {key: number(value) if isinstance(value, float) else value for key, value in used.items()},
                "decision_id": decision or decision_id(audit, selection, settings),
            },
        }
    )


def settings_used(selection: Selection, settings: BenchSettings) -> dict[str, Any]:
    """Every setting that shaped this answer, by its dotted key; another value of any other changes nothing."""
    return {"bench.uniform_rank": settings.uniform_rank, **selection.settings}


def decision_id(audit: Audit, selection: Selection, settings: BenchSettings) -> str:
    """Names this decision: the same for the same audit, settings and selection version, whenever it is made."""
    parts = [utf8(audit.name), audit.sha256, SELECTION_VERSION, settings_used(selection, settings)]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


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


def _strategies(audit: Audit, selection: Selection, settings: BenchSettings) -> list[dict[str, Any]]:
    strategies = [_uniform(audit, settings)]
    ranked = [layer for layer in selection.layers if layer.rank]
    if not ranked:
        return strategies
    per_layer: dict[str, Any] = {
        "variant": "per_layer",
        "rank_pattern": {_pattern(layer.module): layer.rank for layer in ranked},
    }
    alphas = {_pattern(layer.module): number(layer.alpha) for layer in ranked if layer.alpha is not None}
    if alphas:
        per_layer["alpha_pattern"] = alphas
    layers = "layer" if len(ranked) == 1 else "layers"
    per_layer["description"] = f"Per-layer optimization for {len(ranked)} critical {layers}"
    per_layer["focus_justification"] = audit.focus_message or selection.reason
    per_layer["layers_tested"] = len(ranked)
    per_layer["layers_skipped"] = max(0, audit.total_layers - len(ranked))
    return [*strategies, per_layer]


def _uniform(audit: Audit, settings: BenchSettings) -> dict[str, Any]:
    rank, description = settings.uniform_rank, "Conservative uniform baseline"
    if isinstance(rank, str):
        suggested = audit.suggested_median if rank == "audit_median" else audit.suggested_p90
        which = "median" if rank == "audit_median" else "90th percentile"
        if suggested:
            description = f"Uniform baseline at the audit's own suggestion ({which})"
        rank = suggested or _DEFAULT_RANK
    return {"variant": "uniform", "rank": min(rank, MAX_RANK), "description": description}


_PLAIN_MODULE = re.compile(r"[^\\^$*+?{}\[\]|()]*")


def _pattern(module: str) -> str:
    """The key that PEFT matches against `module`.

    PEFT reads keys as regular expressions. A module's name is its own pattern unless it holds more of their
    characters than the dot; then it is escaped, so that a crafted name can't match other modules.
    """
    return module if _PLAIN_MODULE.fullmatch(module) else re.escape(module)


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
