"""Comparison of the ladder with the simple implementation of the design in `reference.py`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from benchd import SelectionSettings, read_audit, select
from corpus import USABLE, Sample, content, document, encoded, entry, tolerantly


def the_same(data: bytes, audit: dict[str, Any], **settings: Any) -> None:
    selection = select(read_audit(data), SelectionSettings(**settings))
    found = [
        reference.Chosen(layer.layer_name, layer.module, layer.priority, layer.rank, layer.rank_source, layer.alpha)
        for layer in selection.layers
    ]
    assert reference.Choice(selection.strategy, found) == reference.choose(audit, **settings)


@pytest.mark.parametrize(
    "settings", [{}, {"top_n": 7, "medium_priority": 0.5, "low_priority": 0.1}], ids=["defaults", "more"]
)
@pytest.mark.parametrize("sample", USABLE, ids=[sample.file for sample in USABLE])
def test_real_audits(sample: Sample, settings: dict[str, Any]) -> None:
    """The ladder and the reference choose the same on every real audit."""
    audit = reference.read(sample.content)
    assert audit is not None
    the_same(sample.content, audit, **settings)


SCORES = st.sampled_from([0, 0.5, 1, 1.0, 1.5, 2, 2.0, 7.25, -1, 1e300]) | st.floats() | st.none() | st.integers(0, 4)
RANKS = st.integers(0, 20)


@st.composite
def audits(draw: st.DrawFn) -> dict[str, Any]:
    """Return a well-formed audit with any scores, any of the sources of ranks, and any layers flagged."""
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
    """The ladder and the reference choose the same on any well-formed audit, with both readers."""
    data = encoded(audit)
    for way in (data, tolerantly(data)):
        the_same(way, audit, top_n=top_n, medium_priority=low + more, low_priority=low)


def test_reference_gives_known_answers() -> None:
    """The reference gives the design's own answers."""
    flagged = reference.choose(json.loads(content("design/flagged.json")))
    found = [(layer.name, layer.priority, layer.rank) for layer in flagged.layers]
    assert (flagged.strategy, found) == ("flagged", [("transformer.h.0.self_attn.q_proj", "HIGH", 8)])
    fallback = reference.choose(json.loads(content("design/fallback.json")))
    found = [layer.priority for layer in fallback.layers]
    assert (fallback.strategy, found) == ("priority_score", ["LOW", "SKIP", "SKIP"])


def test_reference_without_an_audit() -> None:
    """The reference finds no audit in files that are not audits."""
    some = [b"", b"[]", b"{}", b"Error: x\n", b'{"per_module_gain": [', b'{"policy_disagreement_analysis": 3}', b"\xff"]
    assert [reference.read(data) for data in some] == [None] * len(some)


@st.composite
def audits_of_many_names(draw: st.DrawFn) -> dict[str, Any]:
    """Return an audit with up to four names for each of two modules, and a rank or scaling under any of them."""
    names = st.sampled_from(
        [before + name for name in "ab" for before in ("", "base_model.model.", "module.", "_orig_mod.")]
    )
    ranks, scalings = st.none() | st.integers(0, 9), st.none() | st.sampled_from([0.0, 0.5, 2.0])
    gains = st.fixed_dictionaries({"module": names, "r": ranks, "scaling": scalings})
    rows = st.fixed_dictionaries({"name": names, "r": ranks, "adapter_scale": scalings})
    return document(
        candidates=[
            entry(name, priority_score=3, k_values=[8]) for name in draw(st.lists(names, min_size=1, max_size=4))
        ],
        per_module_gain=draw(st.lists(gains, max_size=4)),
        layers=draw(st.lists(rows, max_size=4)),
    )


@given(audits_of_many_names())
def test_many_names(audit: dict[str, Any]) -> None:
    """A module with several names gets at most the smallest rank that the audit has for it."""
    the_same(encoded(audit), audit)
