"""Bench, resumed from a probe audit: its per_layer variant trains exactly the chosen ranks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench_resume import resume, tiny_base
from benchd import Audit, BenchSettings, Selection, bench_config, read_audit, select
from benchd.bench.patterns import pattern_keys
from benchd.bench.probe_audit import bench_audit, bench_audit_notes
from benchd.bench.training import plan_training
from corpus import content

#: The uniform rank of the answers here.
UNIFORM = 8


@pytest.fixture(scope="module")
def audit() -> Audit:
    """Return the audit of a DistilBERT adapter of rank 16 with 24 modules, two of them with custom ranks."""
    return read_audit(content("distilbert_seqcls__default.json"))


@pytest.fixture(scope="module")
def selection(audit: Audit) -> Selection:
    """Return the selection for this audit."""
    return select(audit)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return tables for `[bench.base]` that need no network."""
    return tiny_base(tmp_path_factory.mktemp("tiny"))


def config_of(audit: Audit, selection: Selection, base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return the config that benchd answers with."""
    return json.loads(bench_config(audit, selection, BenchSettings(uniform_rank=UNIFORM, base=base, **changes)))


def wanted(audit: Audit, selection: Selection) -> dict[str, int]:
    """Return the rank that benchd's answer gives each module of the audit."""
    own = {layer.module: layer.rank for layer in selection.layers if layer.rank}
    assert own
    assert UNIFORM not in own.values()
    return {name: own.get(name, UNIFORM) for name in audit.modules.names}


def exported(audit: Audit, selection: Selection, **settings: Any) -> dict[str, Any]:
    """Return the output of `benchd export --bench-audit`."""
    asked = BenchSettings(uniform_rank=UNIFORM, **settings)
    return bench_audit(audit, plan_training(audit, selection, asked), asked)


@pytest.mark.timeout(300)
def test_all_modules(audit: Audit, selection: Selection, base: dict[str, Any], tmp_path: Path) -> None:
    """Bench trains the selected modules at their ranks and every other module at the uniform rank."""
    ranks = wanted(audit, selection)
    trained = resume(exported(audit, selection), config_of(audit, selection, base), tmp_path)
    assert trained == ranks
    assert set(ranks.values()) == {UNIFORM, 10}

    # Bench sets every module's alpha to the smallest rank, and ignores benchd's alphas.
    adapter = json.loads((tmp_path / "run" / "per_layer" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (adapter["r"], adapter["lora_alpha"], adapter["alpha_pattern"]) == (UNIFORM, UNIFORM, {})
    verdicts = json.loads((tmp_path / "run" / "verdicts.json").read_text(encoding="utf-8"))["verdicts"]
    assert "per_layer" in verdicts


@pytest.mark.timeout(300)
def test_focus(audit: Audit, selection: Selection, base: dict[str, Any], tmp_path: Path) -> None:
    """With `bench.focus` Bench trains the selected modules only, at their ranks."""
    ranks = {layer.module: layer.rank for layer in selection.layers if layer.rank}
    config = config_of(audit, selection, base, focus=True)
    assert resume(exported(audit, selection, focus=True), config, tmp_path) == ranks


@pytest.mark.timeout(300)
def test_exact_keys(audit: Audit, selection: Selection, base: dict[str, Any], tmp_path: Path) -> None:
    """Bench passes keys on as they are, so keys that hit one module only (`$|^…`) work there as in PEFT."""
    ranks = wanted(audit, selection)
    first, *others = audit.modules.names
    # Another module's name that ends in the first one makes the plain name ambiguous.
    keys = pattern_keys([first], [*audit.modules.names, f"other.{first}"])
    assert keys[first] != first
    ranks[first] = 3
    pattern = {keys[first]: 3, **{name: ranks[name] for name in others}}
    config = config_of(audit, selection, {**base, "compression": {"allowed_ranks": [3, 8, 10, 16]}})
    assert resume(given(pattern), config, tmp_path) == ranks


@pytest.mark.timeout(300)
def test_average_near_the_probe(audit: Audit, selection: Selection, base: dict[str, Any], tmp_path: Path) -> None:
    """Bench silently trains no per_layer variant if the average rank rounds to the probe's rank.

    Bench rounds the average to the nearest of `compression.allowed_ranks`. One more allowed rank changes the result.
    """
    for allowed, is_trained in (([8, 10, 16], False), ([8, 10, 15, 16], True)):
        tables = {**base, "compression": {"allowed_ranks": allowed}}
        settings = BenchSettings(uniform_rank=16, base=tables)
        training = plan_training(audit, selection, settings)
        notes = bench_audit_notes(audit, training, settings)
        assert any("drops its per-layer variant" in note for note in notes) is not is_trained
        config = json.loads(bench_config(audit, selection, settings))
        folder = tmp_path / str(len(allowed))
        assert resume(bench_audit(audit, training, settings), config, folder) == (training.ranks if is_trained else {})


def given(rank_pattern: dict[str, int]) -> dict[str, Any]:
    """Return a probe audit with a pattern that no answer has."""
    return {"per_layer_suggestions": {"rank_pattern": rank_pattern}}
