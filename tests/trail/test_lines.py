"""The lines of the trail, byte for byte: programs and people's recipes read them."""

from __future__ import annotations

from pathlib import Path

from benchd.audit.refusals import refusal
from benchd.bench.deciding import Decision
from benchd.selection.selection import Rung, SelectedLayer, Selection
from benchd.trail.trail import Trail, TrailFile

LINES = Path(__file__).with_name("lines.jsonl")


def decision(*, is_of_nothing: bool) -> Decision:
    layer = {
        "validation": "per_layer",
        "rank_is_upper_bound": False,
        "alpha": None,
        "spread": None,
        "spread_threshold": None,
        "uniform_mult": None,
        "uniform_mult_threshold": None,
        "importance_share": None,
        "disagrees": False,
        "failed_reasons": (),
    }
    layers = (
        SelectedLayer(
            layer_name="layers.0.q",
            module="layers.0.q",
            priority="HIGH",
            priority_score=3.5,
            rank=4,
            rank_source="k_values",
            **layer,
        ),
        SelectedLayer(
            layer_name="layers.1.é",
            module="layers.1.é",
            priority="LOW",
            priority_score=None,
            rank=None,
            rank_source=None,
            **layer,
        ),
    )
    selection = Selection(
        strategy="none" if is_of_nothing else "priority_score",
        confidence="none" if is_of_nothing else "medium",
        reason="2 layers",
        ladder=(Rung("flagged", False, "0 of 2"), Rung("priority_score", True, "2 layers")),
        layers=() if is_of_nothing else layers,
        notes=("a note", "another"),
        settings={},
    )
    return Decision(selection, b"", "ab" * 16, "cd" * 32, 4711, is_of_nothing)


def say_everything(trail: Trail) -> None:
    config = "/in/a.bench.json"
    for nothing in (False, True):
        trail.selected(
            "/in/a.json", "closed", decision=decision(is_of_nothing=nothing), config=config, duration_ms=1.23456
        )
    trail.rejected("/in/a.json", "moved", refusal("symlink"))
    trail.deferred("/in/a.json", "scan", "maybe unfinished: x")
    trail.ignored("/in/a.json", "poll", "no audit")
    trail.unchanged("/in/a.json", "retry", "same")
    trail.failed("/in/caf\udce9.json", "command", error="x", attempt=1, retry_in_s=1.0)
    trail.kept("/in/a.json", "closed", config=config, reason="edited")
    trail.write_failed("/in/a.json", "closed", error="full", attempt=3, retry_in_s=4.0)
    trail.watch_started("/in", backend="inotify", recursive=True)
    trail.watch_overflow("/in", "full")
    trail.watch_degraded("/in", "why", instead="what")
    trail.watch_degraded("", "why")
    trail.root_lost("/in", "gone")
    trail.root_restored("/in")
    for cause, queued in (("start", 0), ("rescan", 1), ("rescan", 0)):
        trail.scanned(
            "/in", cause=cause, found=3, answered=2, queued=queued, duration_ms=0.12345, routine=cause == "rescan"
        )
    trail.started(version="1.2.3", pid=7, settings={"watch": ["/in"], "selection.top_n": 1})
    trail.ready(roots=["/in"], duration_ms=1.23456)
    trail.reloaded(settings={"watch": ["/in"]})
    trail.reload_failed(["a", "b"])
    trail.reload_failed(["x" * 3000] * 30)
    trail.thread_failed("t", "x", recovery="y")
    trail.stopping(signal="SIGTERM")
    trail.stopped(answered=1, rejected=2, waiting=3)
    by_strategy = {"flagged": 1, "priority_score": 2, "disagreement": 3, "none": 4}
    counts = ("unchanged", "rejected", "rejected_before", "failed", "unfinished", "kept", "ignored")
    numbers = {name: number for number, name in enumerate(counts)}
    trail.run_finished({"dry_run": False, "selected": 10, "by_strategy": by_strategy, **numbers})


def timeless(line: str) -> str:
    """Return the line with the same time in place of every other."""
    head, time, tail = line[:7], line[7:34], line[34:]
    assert (head, time[-1], tail[:1]) == ('{"ts":"', "Z", '"')
    return f"{head}2026-01-02T03:04:05.678901Z{tail}"


def test_every_line(tmp_path: Path):
    """Each record is written as ever: the same keys in the same order, with the same values."""
    trail = Trail(TrailFile(str(tmp_path / "trail")), level="debug")
    say_everything(trail)
    lines = (tmp_path / "trail").read_text(encoding="utf-8").splitlines()
    assert [timeless(line) for line in lines] == LINES.read_text(encoding="utf-8").splitlines()
