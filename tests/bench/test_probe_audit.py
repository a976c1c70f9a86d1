"""The probe audit from which Bench reads the ranks of an answer."""

from __future__ import annotations

from typing import Any

import pytest

from benchd import BenchSettings, read_audit, select
from benchd.bench.probe_audit import bench_audit, bench_audit_notes
from benchd.bench.training import plan_training
from corpus import THREE_MODULES, document, encoded


def test_bench_audit() -> None:
    """The probe audit lists every trained module, and has no global suggestions for uniform variants."""
    of = read_audit(
        encoded({**THREE_MODULES, "utilization_mean": 0.25, "stable_rank_mean": 2.0, "suggested_r_global_median": 4})
    )
    training = plan_training(of, select(of), BenchSettings())
    assert bench_audit(of, training, BenchSettings()) == {
        "probe_rank": 16,
        "summary": {"utilization_mean": 0.25, "stable_rank_mean": 2.0},
        "per_layer_suggestions": {"rank_pattern": {"a": 4, "b": 5, "c": 8}},
    }
    assert bench_audit_notes(of, training, BenchSettings()) == []
    focused = plan_training(of, select(of), BenchSettings(focus=True))
    assert bench_audit(of, focused, BenchSettings(focus=True))["per_layer_suggestions"] == {
        "rank_pattern": {"a": 4, "b": 5}
    }


@pytest.mark.parametrize(
    ("base", "notes"),
    [
        ({"lora": {"probe_r": 16}}, []),
        ({"compression": {"allowed_ranks": [4, 8, 16]}}, ["to compression.allowed_ranks: it changes 5"]),
        ({"lora": {"probe_r": 6}}, ["to lora.probe_r (6) and then to compression.allowed_ranks: it changes 8"]),
        (
            {"compression": {"allowed_ranks": [16]}},
            ["it changes 4, 5, 8", "the mean rank 16 is nearest to lora.probe_r (16); set probe_r = 32"],
        ),
        (
            {"lora": {"probe_r": 4}},
            [
                "it changes 5, 8",
                "the mean rank 4 is nearest to lora.probe_r (4); set probe_r = 8 in [bench.base.lora]",
            ],
        ),
    ],
)
def test_bench_audit_notes(base: dict[str, Any], notes: list[str]) -> None:
    """Notes say which ranks Bench will change, and when it drops the per-layer variant."""
    of = read_audit(encoded(THREE_MODULES))
    settings = BenchSettings(base=base)
    found = bench_audit_notes(of, plan_training(of, select(of), settings), settings)
    assert len(found) == len(notes)
    for told, expected in zip(found, notes, strict=True):
        assert expected in told


def test_bench_audit_of_nothing() -> None:
    """Raises ValueError without any module, because Bench fails with an empty pattern."""
    of = read_audit(encoded(document()))
    training = plan_training(of, select(of), BenchSettings())
    assert bench_audit_notes(of, training, BenchSettings()) == []
    with pytest.raises(ValueError, match="no module whose rank Bench could take"):
        bench_audit(of, training, BenchSettings())


def test_bench_audit_of_the_base_targets() -> None:
    """The pattern has only the modules that the base lets Bench train."""
    of = read_audit(encoded(THREE_MODULES))
    settings = BenchSettings(base={"lora": {"target_modules": ["b", "c"]}})
    made = bench_audit(of, plan_training(of, select(of), settings), settings)
    assert made["per_layer_suggestions"]["rank_pattern"] == {"b": 5, "c": 8}
