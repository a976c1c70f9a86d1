"""Decisions as records of the trail."""

from __future__ import annotations

from benchd.bench.deciding import Decision
from benchd.trail.records import MAX_LAYERS, MAX_NOTES, Layer, Rung, Selected, SelectedNothing, Trigger

__all__ = ["selected"]


def selected(decision: Decision, *, audit: str, trigger: Trigger, config: str, took: float) -> Selected:
    """Return the record of `decision`. `took` is the number of seconds to read, decide and write."""
    selection = decision.selection
    kind = SelectedNothing if decision.is_of_nothing else Selected
    return kind(
        audit=audit,
        trigger=trigger,
        config=config,
        decision_id=decision.decision_id,
        strategy=selection.strategy,
        confidence=selection.confidence,
        reason=selection.reason,
        ladder=tuple([Rung(rung.strategy, rung.fired, rung.reason) for rung in selection.ladder]),
        layers=tuple(
            [
                Layer(layer.layer_name, layer.priority, layer.priority_score, layer.rank, layer.rank_source)
                for layer in selection.layers[:MAX_LAYERS]
            ]
        ),
        layers_total=len(selection.layers),
        notes=selection.notes[:MAX_NOTES],
        audit_sha256=decision.audit_sha256,
        audit_bytes=decision.audit_bytes,
        duration_ms=round(took * 1000, 3),
    )
