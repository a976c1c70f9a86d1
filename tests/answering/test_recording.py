"""Answers as records of the trail."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from benchd.answering.recording import rejected, selected
from benchd.audit.refusals import refusal
from benchd.bench.deciding import Decision, decide
from benchd.settings.keys import BenchSettings, SelectionSettings
from benchd.trail.records import MAX_LAYERS, MAX_NOTES, Rejected, Selected, SelectedNothing
from daemon import audit


@pytest.fixture
def decision() -> Decision:
    return decide(audit(1), name="a.json", selection=SelectionSettings(), bench=BenchSettings())


def record(decision: Decision, **options: Any) -> Selected:
    known = {"audit": "/inbox/a.json", "trigger": "scan", "config": "/inbox/a.bench.json", "took": 0.0123456}
    return selected(decision, **{**known, **options})


def test_selected(decision: Decision) -> None:
    """A record says what was selected and why, and how long it took in milliseconds."""
    made, selection = record(decision), decision.selection
    assert type(made) is Selected
    assert (made.audit, made.trigger, made.config) == ("/inbox/a.json", "scan", "/inbox/a.bench.json")
    assert made.duration_ms == 12.346
    assert (made.strategy, made.confidence, made.reason) == (
        selection.strategy,
        selection.confidence,
        selection.reason,
    )
    assert [rung.strategy for rung in made.ladder] == [rung.strategy for rung in selection.ladder]
    assert made.layers_total == len(made.layers) == len(selection.layers)
    assert (made.decision_id, made.audit_sha256, made.audit_bytes) == (
        decision.decision_id,
        decision.audit_sha256,
        len(audit(1)),
    )


def test_bounded(decision: Decision) -> None:
    """A record has the first layers and notes only, and the number of all layers."""
    [layer, *_] = decision.selection.layers
    many = msgspec.structs.replace(
        decision.selection, layers=(layer,) * (MAX_LAYERS + 5), notes=("a note",) * (MAX_NOTES + 5)
    )
    made = record(msgspec.structs.replace(decision, selection=many))
    assert (len(made.layers), len(made.notes), made.layers_total) == (MAX_LAYERS, MAX_NOTES, MAX_LAYERS + 5)


def test_selected_nothing(decision: Decision) -> None:
    """An audit of nothing has a record of another type, which is a warning."""
    made = record(msgspec.structs.replace(decision, is_of_nothing=True))
    assert (type(made), made.level) == (SelectedNothing, "warning")


def test_rejected() -> None:
    """A record of a rejection has the code, the message and the hint."""
    error = refusal("empty")
    assert rejected(error, audit="/inbox/a.json", trigger="closed") == Rejected(
        audit="/inbox/a.json", trigger="closed", code="empty", message=error.message, hint=error.hint
    )
