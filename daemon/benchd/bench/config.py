"""Write the bytes of a Bench config and of an error report (spec, section 4).

Pure and deterministic: the same input gives the same bytes. They contain no time stamps, host names or paths.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, NamedTuple

import msgspec

from benchd.audit.audit import Audit
from benchd.audit.refusals import AuditError
from benchd.audit.values import utf8, words
from benchd.bench.plan import plan_config
from benchd.bench.seal import seal
from benchd.bench.tables import base_used
from benchd.selection.selection import SELECTION_VERSION, SelectedLayer, Selection
from benchd.settings.keys import BenchSettings

__all__ = ["Written", "bench_config", "error_report", "settings_used", "write_config"]

_SCHEMA_VERSION: Final = 1


class Written(NamedTuple):
    """The bytes of a config, its `decision_id`, and all its notes."""

    config: bytes
    decision_id: str
    notes: tuple[str, ...]


def bench_config(audit: Audit, selection: Selection, settings: BenchSettings | None = None) -> bytes:
    """Return the content of `NAME.bench.json`: JSON in UTF-8, which YAML 1.1 reads as the same object.

    The same audit, selection and settings give the same bytes. By default `settings` is `BenchSettings()`.
    """
    return write_config(audit, selection, settings or BenchSettings()).config


def write_config(audit: Audit, selection: Selection, settings: BenchSettings) -> Written:
    """Return the content of `NAME.bench.json`, with its `decision_id` and its notes.

    The same audit, settings and selection version give the same `decision_id`.
    """
    plan = plan_config(audit, selection, settings)
    notes = (*selection.notes, *plan.notes)
    used = settings_used(selection, settings)
    token = audit.beside.token if audit.beside else None
    inputs = [audit.name, audit.sha256, SELECTION_VERSION, used, *([token] if token else [])]
    decision_id = hashlib.sha256(msgspec.json.encode(inputs)).hexdigest()[:32]
    config = seal(
        {
            "schema_version": _SCHEMA_VERSION,
            **plan.tables,
            "compression_strategies": plan.strategies,
            "selection": {
                "strategy": selection.strategy,
                "confidence": selection.confidence,
                "reason": selection.reason,
                "ladder": selection.ladder,
                "layers": _rows(selection.layers),
                "notes": notes,
            },
            "provenance": {
                "audit": audit.name,
                "audit_sha256": audit.sha256,
                "audit_bytes": audit.size,
                "gradience_version": audit.gradience_version,
                "selection_version": SELECTION_VERSION,
                "settings": used,
                **({"adapter_config": token} if token else {}),
                "decision_id": decision_id,
            },
        }
    )
    return Written(config, decision_id, notes)


def settings_used(selection: Selection, settings: BenchSettings) -> dict[str, Any]:
    """Return every setting that affects this answer, by dotted key."""
    base = base_used(settings) if settings.base else {}
    return {"bench.uniform_rank": settings.uniform_rank, **base, **selection.settings}


def error_report(name: str, error: AuditError, *, sha256: str | None, size: int | None) -> bytes:
    """Return the content of `NAME.bench-error.json`. `sha256` and `size` are None if the file can't be read."""
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


def _rows(layers: tuple[SelectedLayer, ...]) -> list[dict[str, Any]]:
    """Return the layers as rows of the config. The `alpha_pattern` has their alphas."""
    rows = []
    for layer in layers:
        row = msgspec.structs.asdict(layer)
        del row["alpha"]
        if layer.spread is not None and layer.spread.is_integer() and abs(layer.spread) < 2**53:
            row["spread"] = int(layer.spread)  # a spread is a difference of ranks: 6, not 6.0
        rows.append(row)
    return rows
