"""Answers to every real audit, compared with the index, by both readers."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from benchd import Audit, SelectionSettings, bench_config, read_audit, select
from benchd.audit.naming import PEFT_PREFIX
from benchd.audit.refusals import MAYBE_UNFINISHED
from corpus import (
    AUDITS,
    DESIGN_FALLBACK,
    DESIGN_FLAGGED,
    INDEX,
    SMALLER,
    USABLE,
    Sample,
    answer,
    content,
    refused,
    tolerantly,
)


def by_file(samples: list[Sample]) -> Any:
    return pytest.mark.parametrize("sample", samples, ids=[sample.file for sample in samples])


def facts(audit: Audit) -> dict[str, Any]:
    """Return everything that the selection and the config read from an audit."""
    names = {layer.name for layer in audit.candidates} | {layer.name for layer in audit.flagged}
    attributes = (
        "flagged candidates no_analysis total_layers is_flat max_uniform_mult flat_threshold focus_message "
        "suggested_median suggested_p90 gradience_version"
    )
    return {
        **{attribute: getattr(audit, attribute) for attribute in attributes.split()},
        "modules": {name: audit.modules.of(name) for name in names},
        "row_ranks": {name: audit.modules.row_ranks(name) for name in names},
        "policy_ranks": {name: audit.policy_ranks(name) for name in names},
        "suggested_rank": {name: audit.suggested_rank(name) for name in names},
        "notes": [note for note in audit.notes if not note.startswith("NaN or Infinity")],
    }


def test_index_lists_every_file() -> None:
    """The index names exactly the stored audits."""
    stored = {path.relative_to(AUDITS).as_posix().removesuffix(".gz") for path in AUDITS.rglob("*.json*")}
    assert {sample.file.removesuffix(".gz") for sample in INDEX} == stored
    assert len(INDEX) == len(stored) == len(USABLE) + 1


@by_file(USABLE)
def test_strategy_and_count(sample: Sample) -> None:
    """The rung that fires and the number of layers are those of the index."""
    selection = select(read_audit(sample.content))
    assert (selection.strategy, len(selection.layers)) == (sample.strategy, sample.count)


@by_file([sample for sample in INDEX if sample not in USABLE])
def test_not_usable(sample: Sample) -> None:
    """An audit that the index calls unusable is rejected as empty."""
    assert refused(sample.content).code == "empty"


@by_file(USABLE)
def test_both_readers_give_the_same(sample: Sample) -> None:
    """The tolerant reader finds the same as the fast reader."""
    data = sample.content
    if re.match(rb"\s*\{", data):
        forced = tolerantly(data)
    else:
        head, brace, tail = data.partition(b"\n{\n")
        forced = head + brace + b'"irrelevant": NaN,' + tail
    assert facts(read_audit(forced)) == facts(read_audit(data))
    assert any(note.startswith("NaN or Infinity") for note in read_audit(forced).notes)


@by_file(USABLE)
def test_frugal_reads_the_same(sample: Sample) -> None:
    """The frugal reader accepts every real audit, and its answer is the same."""
    audit = read_audit(sample.content, frugal=True)
    assert select(audit) == select(read_audit(sample.content))
    assert bench_config(audit, select(audit)) == bench_config(read_audit(sample.content), select(audit))


@by_file(SMALLER)
def test_config(sample: Sample) -> None:
    """Each config matches its schema, is sealed, deterministic, and the same object as JSON and as YAML."""
    audit = read_audit(sample.content, name=sample.name)
    data = bench_config(audit, select(audit))
    config = answer(sample.content, name=sample.name)
    assert data == bench_config(audit, select(read_audit(sample.content, name=sample.name)))
    assert yaml.safe_load(data.decode()) == json.loads(data) == config


@by_file(USABLE)
def test_ranks(sample: Sample) -> None:
    """Ranks are integers from 1 to the module's rank, keys lack PEFT's prefix, and alpha keeps the scaling."""
    audit = read_audit(sample.content)
    config = answer(sample.content)
    names = {layer.name for layer in audit.candidates + audit.flagged}
    own = {name.removeprefix(PEFT_PREFIX): module for name in names if (module := audit.modules.of(name))}
    for strategy in config["compression_strategies"][1:]:
        for key, rank in strategy["rank_pattern"].items():
            assert not key.startswith(PEFT_PREFIX)
            assert type(rank) is int
            assert 1 <= rank <= own[key].rank if key in own else rank >= 1
            if key in own:
                assert strategy["alpha_pattern"][key] == pytest.approx(own[key].scaling * rank)


def test_progress_lines_are_no_note() -> None:
    """Progress lines of Gradience before the JSON cause no note."""
    data = content("llama32x7__default.json")
    assert data.startswith(b"    computing SVD")
    assert read_audit(data).notes == ()


def test_unknown_policies_are_notes() -> None:
    """A warning about an unknown policy before the JSON becomes a note."""
    notes = read_audit(content("llama4_many__pol_unknown_mixed.json")).notes
    assert len(notes) == 1
    assert notes[0].startswith("Gradience: Unknown policy 'bogus'. Available: ")


def test_issues_are_notes() -> None:
    """Modules that Gradience could not compute for one reason become one note, with their number and the reason."""
    audit = read_audit(content("llama2_allnan__default.json"))
    issues = json.loads(content("llama2_allnan__default.json"))["issues"]
    assert len(issues) == 14
    [note] = audit.notes
    assert note == f"Gradience: 14 modules: spectral computation failed: {issues[0].partition(': ')[2]}"


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("llama4_many__q1_5.json", "uniform only: Gradience's disagreement analysis failed: "),
        ("llama4_many__pol_empty.json", "uniform only: Gradience performed no disagreement analysis: no_disagreements"),
        (
            "bench_run_probe_audit__llama4_many.json",
            "uniform only: the audit has no policy_disagreement_analysis; audits that Bench writes itself never have",
        ),
        (
            "llama2_allnan__default.json",
            "uniform only: an audit of nothing: Gradience found 0 LoRA layers that it could",
        ),
    ],
)
def test_reason_without_an_analysis(file: str, reason: str) -> None:
    """An audit without an analysis gets only the baseline, and the reason says why."""
    config = answer(content(file))
    assert config["selection"]["reason"].startswith(reason)
    assert [rung["strategy"] for rung in config["selection"]["ladder"]] == ["none"]
    [uniform] = config["compression_strategies"]
    assert uniform == {"variant": "uniform", "rank": 8, "description": "Conservative uniform baseline"}


def test_design_sample_flagged() -> None:
    """The design's first sample has one flagged layer, validated at the largest of its k_values."""
    config = answer(content(DESIGN_FLAGGED))
    uniform, per_layer = config["compression_strategies"]
    assert uniform == {"variant": "uniform", "rank": 8, "description": "Conservative uniform baseline"}
    assert per_layer["rank_pattern"] == {"transformer.h.0.self_attn.q_proj": 8}
    assert per_layer["description"] == "Per-layer optimization for 1 critical layer"
    assert (per_layer["layers_tested"], per_layer["layers_skipped"]) == (1, 2)
    assert config["selection"]["reason"] == "1 of 3 layers is flagged as high-impact"


def test_design_sample_fallback() -> None:
    """The design's second sample has no flagged layer and gets the top three by score, all without a rank."""
    config = answer(content(DESIGN_FALLBACK))
    assert [strategy["variant"] for strategy in config["compression_strategies"]] == ["uniform"]
    assert config["selection"]["confidence"] == "medium"
    layers = config["selection"]["layers"]
    assert [layer["priority"] for layer in layers] == ["LOW", "SKIP", "SKIP"]
    assert [layer["validation"] for layer in layers] == ["focused_uniform", "uniform_only", "uniform_only"]


def test_the_reason_has_the_numbers() -> None:
    """The reason for a flat distribution has its largest multiple and Gradience's threshold."""
    rung = select(read_audit(content("mistral4_flat__default.json"))).ladder[0]
    assert re.fullmatch(
        r"0 of 28 layers are flagged: the energy distribution is flat \(max \d\.\d\dx < 1\.50x\)", rung.reason
    )


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("llama4_many__full.json", "k_values"),
        ("mistral4_flat__layers_perlayer.json", "layer_rows"),
        ("r2__default.json", "rationale"),
        ("llama2_ties__default.json", "rationale"),
    ],
)
def test_rank_sources(file: str, source: str) -> None:
    """Each rank is from the best evidence that the audit really has."""
    layers = answer(content(file), SelectionSettings(medium_priority=0.0, low_priority=0.0))["selection"]["layers"]
    assert {layer["rank_source"] for layer in layers} == {source}
    assert all(layer["rank"] for layer in layers)


def test_untrained_adapter_has_no_ranks() -> None:
    """If all policies suggest rank 0, which PEFT refuses, no layer gets a rank, and a note says so."""
    data = content("llama2_zero__gate0_full.json")
    config = answer(data, SelectionSettings(medium_priority=0.0, low_priority=0.0, top_n=14))
    dead = [layer for layer in config["selection"]["layers"] if layer["rank"] is None]
    ranks = {layer["layer_name"]: layer["rank"] for layer in config["selection"]["layers"]}
    k_values = {
        found["layer_name"]: max(found["flagging_rationale"]["k_values"])
        for found in json.loads(data)["policy_disagreement_analysis"]["all_layers_with_disagreement"]
    }
    assert ranks == {name: k or None for name, k in k_values.items()}
    assert bool(dead) == any("rank 0" in note for note in config["selection"]["notes"])


def test_every_cut_of_an_audit_is_unfinished() -> None:
    """An audit that is cut off anywhere is rejected as unfinished."""
    data = content("r1_nan__default.json")
    data = '{"grün 😀 \\u00e9 \\ud83d\\ude00": [-1.5e-7, NaN, -Infinity, true, false, null],'.encode() + data[1:]
    codes = {refused(data[:end]).code for end in [*range(1000), *range(1000, len(data) - 2, 29)]}
    assert codes == {"empty", "truncated"}


def test_every_cut_of_a_large_audit_is_unfinished() -> None:
    """Progress lines alone are an interrupted audit, and text after the opening brace is truncated JSON."""
    data = content("llama32x7__default.json")
    brace = data.index(b"\n{\n") + 1
    assert {refused(data[:end]).code for end in range(brace)} == {"empty", "audit_interrupted"}
    assert {refused(data[:end]).code for end in range(brace + 1, brace + 2000)} == {"truncated"}
    assert {"empty", "audit_interrupted", "truncated"} <= MAYBE_UNFINISHED
