"""The ladder against a plain reading of the design: `json.loads`, and as few lines as it takes."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchd import SelectionSettings, read_audit, select
from corpus import USABLE, Sample, content, document, encoded, entry, tolerantly

#: Without the one that names layers twice, which the plain reading does not know.
READABLE = [sample for sample in USABLE if sample.file != "multi_raw__default.json"]


def a_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def reference(audit: dict[str, Any], top_n: int = 3, medium: float = 2.0, low: float = 1.0) -> tuple[str, list[Any]]:
    """Strategy, and (name, priority, rank) of each layer; for audits whose entries are well formed and not repeated."""
    pd = audit.get("policy_disagreement_analysis") or {"analysis_performed": False}
    if pd.get("analysis_performed") is False:
        return "none", []
    candidates = pd.get("all_layers_with_disagreement") or []
    scored = [layer for layer in candidates if a_number(score_of(layer)) and score_of(layer) > 0]
    best = sorted(scored, key=score_of, reverse=True)[:top_n]
    rungs = [
        ("flagged", pd.get("flagged_layers") or []),
        ("priority_score", best),
        ("disagreement", candidates[:top_n]),
    ]
    strategy, layers = next(((name, found) for name, found in rungs if found), ("none", []))
    return strategy, [(layer["layer_name"], *judged(audit, layer, strategy, medium, low)) for layer in layers]


def score_of(layer: dict[str, Any]) -> Any:
    return layer["flagging_rationale"].get("priority_score")


def judged(audit: dict[str, Any], layer: dict[str, Any], strategy: str, medium: float, low: float) -> tuple[Any, Any]:
    score = score_of(layer) if a_number(score_of(layer)) else -1
    if strategy == "flagged" or layer["flagging_rationale"].get("flagged_as_high_impact") is True:
        return "HIGH", rank_of(audit, layer)
    if score >= medium:
        return "MEDIUM", rank_of(audit, layer)
    return ("LOW", None) if score >= low else ("SKIP", None)


def rank_of(audit: dict[str, Any], layer: dict[str, Any]) -> int | None:
    name, ks = layer["layer_name"], list(layer["flagging_rationale"].get("k_values") or [])
    if not ks:
        for row in (audit.get("layer_data") or {}).get("layer_rows") or []:
            ks += [policy["k"] for policy in row["rank_suggestions"].values() if row["name"] == name]
    if not ks and "rank_suggestions" in audit:
        rows = {row["name"]: row["suggested_r"] for row in audit["rank_suggestions"]["layers"]}
        ks = [rows.get(name, audit["rank_suggestions"]["default_r"])]
    if not ks:
        for row in (audit.get("policies") or {}).get("per_layer") or []:
            ks += [policy["k"] for policy in row["suggestions"].values() if row["layer_name"] == name]
    own = {gain["module"]: gain["r"] for gain in audit.get("per_module_gain") or []}
    return min(max(ks), own.get(name, 10**9)) or None if ks else None


def the_same(data: bytes, audit: dict[str, Any], **settings: Any) -> None:
    names = {"top_n": "top_n", "medium": "medium_priority", "low": "low_priority"}
    selection = select(read_audit(data), SelectionSettings(**{names[key]: value for key, value in settings.items()}))
    found = [(layer.layer_name, layer.priority, layer.rank) for layer in selection.layers]
    assert (selection.strategy, found) == reference(audit, **settings)


@pytest.mark.parametrize("settings", [{}, {"top_n": 7, "medium": 0.5, "low": 0.1}], ids=["defaults", "more"])
@pytest.mark.parametrize("sample", READABLE, ids=[sample.file for sample in READABLE])
def test_real_audits(sample: Sample, settings: dict[str, Any]) -> None:
    """On every real audit the ladder chooses what the plain reading chooses."""
    data = sample.content
    brace = 0 if data.startswith(b"{") else data.index(b"\n{\n")
    the_same(data, json.loads(data[brace:]), **settings)


SCORES = st.sampled_from([0, 0.5, 1, 1.0, 1.5, 2, 2.0, 7.25, -1, 1e300]) | st.floats() | st.none() | st.integers(0, 4)
RANKS = st.integers(0, 20)


@st.composite
def audits(draw: st.DrawFn) -> dict[str, Any]:
    """A well-formed audit with any scores, any of the sources of ranks, and any layers flagged."""
    names = [f"base_model.model.l.{index}" for index in range(draw(st.integers(0, 6)))]
    layers = []
    for name in names:
        rationale: dict[str, Any] = {"priority_score": draw(SCORES)}
        if draw(st.booleans()):
            rationale["k_values"] = draw(st.lists(RANKS, max_size=3))
        if draw(st.integers(0, 5)) == 0:
            rationale["flagged_as_high_impact"] = draw(st.booleans())
        layers.append(entry(name, **rationale))
    flagged = [layer for layer in layers if draw(st.integers(0, 3)) == 0] if draw(st.booleans()) else []
    some = st.lists(st.sampled_from(names), unique=True) if names else st.just([])
    top: dict[str, Any] = {}
    if draw(st.booleans()):
        rows = [{"name": name, "rank_suggestions": {"a": {"k": draw(RANKS)}}} for name in draw(some)]
        top["layer_data"] = {"layer_rows": rows}
    if draw(st.booleans()):
        found = [{"name": name, "suggested_r": draw(RANKS)} for name in draw(some)]
        top["rank_suggestions"] = {"layers": found, "default_r": draw(RANKS)}
    if draw(st.booleans()):
        rows = [{"layer_name": name, "suggestions": {"a": {"k": draw(RANKS)}}} for name in draw(some)]
        top["policies"] = {"per_layer": rows}
    top["per_module_gain"] = [{"module": name, "r": draw(st.integers(1, 16)), "scaling": 2.0} for name in draw(some)]
    performed = {"analysis_performed": draw(st.integers(0, 9)) > 0}
    return document(flagged=flagged, candidates=layers, analysis=performed, **top)


@given(audit=audits(), top_n=st.integers(0, 7), low=st.floats(0, 3), more=st.floats(0, 3))
def test_generated_audits(audit: dict[str, Any], top_n: int, low: float, more: float) -> None:
    """On any well-formed audit the ladder chooses what the plain reading chooses, by both ways of reading."""
    data = encoded(audit)
    for way in (data, tolerantly(data)):
        the_same(way, audit, top_n=top_n, medium=low + more, low=low)


def test_the_reference_can_tell() -> None:
    """The plain reading itself gives the design's own answers."""
    flagged = json.loads(content("from-the-design/sample_audit_for_explain.json"))
    assert reference(flagged) == ("flagged", [("transformer.h.0.self_attn.q_proj", "HIGH", 8)])
    fallback = reference(json.loads(content("from-the-design/fallback_scenario_audit.json")))
    assert (fallback[0], [priority for _, priority, _ in fallback[1]]) == ("priority_score", ["LOW", "SKIP", "SKIP"])
