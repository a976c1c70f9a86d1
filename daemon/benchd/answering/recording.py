"""Build the trail's records of answers."""

from __future__ import annotations

from benchd.audit.refusals import AuditError
from benchd.bench.deciding import Decision
from benchd.trail.records import MAX_LAYERS, MAX_NOTES, Layer, Rejected, Rung, Selected, SelectedNothing, Trigger

__all__ = ["rejected", "selected"]


def selected(decision: Decision, *, audit: str, trigger: Trigger, config: str, took: float) -> Selected:
    """Return the record of `decision`. `took` is the time to read, decide and write, in seconds."""
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


def rejected(error: AuditError, *, audit: str, trigger: Trigger) -> Rejected:
    """Return the record of a file that can't be used."""
    return Rejected(audit=audit, trigger=trigger, code=error.code, message=error.message, hint=error.hint)
