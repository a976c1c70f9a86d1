"""Records of every event, with the same values as the lines in tests/trail/lines.jsonl."""

from __future__ import annotations

import os
from typing import Any

from benchd.audit.refusals import refusal
from benchd.trail import records
from benchd.trail.records import Layer, Record, Rung

__all__ = ["EVERY", "SELECTED"]

AUDIT = "/in/a.json"
CONFIG = "/in/a.bench.json"

SELECTED = records.Selected(
    audit=AUDIT,
    trigger="closed",
    config=CONFIG,
    decision_id="ab" * 16,
    strategy="priority_score",
    confidence="medium",
    reason="2 layers",
    ladder=(Rung("flagged", False, "0 of 2"), Rung("priority_score", True, "2 layers")),
    layers=(
        Layer("layers.0.q", "HIGH", 3.5, 4, "k_values"),
        Layer("layers.1.é", "LOW", None, None, None),
    ),
    layers_total=2,
    notes=("a note", "another"),
    audit_sha256="cd" * 32,
    audit_bytes=4711,
    duration_ms=1.235,
)


def _nothing() -> records.SelectedNothing:
    values: dict[str, Any] = {name: getattr(SELECTED, name) for name in SELECTED.__struct_fields__}
    values |= {"strategy": "none", "confidence": "none", "layers": (), "layers_total": 0}
    return records.SelectedNothing(**values)


def _scan(cause: str, queued: int) -> records.ScanFinished:
    kind = records.RoutineScan if cause == "rescan" and not queued else records.ScanFinished
    return kind(root="/in", cause=cause, found=3, answered=2, queued=queued, duration_ms=0.123)


_REFUSAL = refusal("symlink")

EVERY: list[Record] = [
    SELECTED,
    _nothing(),
    records.Rejected(audit=AUDIT, trigger="moved", code=_REFUSAL.code, message=_REFUSAL.message, hint=_REFUSAL.hint),
    records.Deferred(audit=AUDIT, trigger="scan", reason="maybe unfinished: x"),
    records.Ignored(audit=AUDIT, trigger="poll", reason="no audit"),
    records.Unchanged(audit=AUDIT, trigger="retry", reason="same"),
    records.AuditFailed(
        audit=os.fsdecode(b"/in/caf\xe9.json"), trigger="command", error="x", attempt=1, retry_in_s=1.0
    ),
    records.Kept(audit=AUDIT, trigger="closed", config=CONFIG, reason="edited"),
    records.WriteFailed(audit=AUDIT, trigger="closed", error="full", attempt=3, retry_in_s=4.0),
    records.WatchStarted(root="/in", backend="inotify", recursive=True),
    records.Overflow(root="/in", reason="full"),
    records.Degraded(root="/in", reason="why", instead="what"),
    records.Degraded(root="", reason="why"),
    records.RootLost(root="/in", reason="gone"),
    records.RootRestored(root="/in"),
    _scan("start", 0),
    _scan("rescan", 1),
    _scan("rescan", 0),
    records.Started(version="1.2.3", pid=7, settings={"watch": ["/in"], "selection.top_n": 1}),
    records.Ready(roots=["/in"], duration_ms=1.235),
    records.Reloaded(settings={"watch": ["/in"]}),
    records.ReloadFailed(problems=["a", "b"]),
    records.ReloadFailed(problems=["x" * 3000] * 30),
    records.ThreadFailed(thread="t", error="x", recovery="y"),
    records.Stopping(signal="SIGTERM"),
    records.Stopped(answered=1, rejected=2, waiting=3),
    records.RunFinished(
        dry_run=False,
        selected=10,
        by_strategy={"flagged": 1, "priority_score": 2, "disagreement": 3, "none": 4},
        unchanged=0,
        rejected=1,
        rejected_before=2,
        failed=3,
        unfinished=4,
        kept=5,
        ignored=6,
    ),
    records.TrailFailed(file="/var/log/trail.jsonl", error="No space left on device"),
]
