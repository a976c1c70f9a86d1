"""The layers of an analysis: malformed and repeated entries, names, rationales."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchd import read_audit
from benchd.audit.naming import MAX_NAME
from corpus import document, encoded, entry, tolerantly


def names(data: bytes) -> list[str]:
    return [layer.name for layer in read_audit(data).flagged]


def both(value: dict[str, Any]) -> Any:
    """Parametrize over the two readers of `value`."""
    data = encoded(value)
    return pytest.mark.parametrize("data", [data, tolerantly(data)], ids=["fast", "tolerant"])


@pytest.mark.parametrize(
    "bad",
    [None, 7, "x", [], {}, {"layer_name": None}, {"layer_name": 3}, entry(""), entry("a\nb"), entry("x" * 256)],
    ids=repr,
)
def test_malformed_entries(bad: Any) -> None:
    """Skips and counts malformed entries, and keeps the others."""
    audit = read_audit(encoded(document(flagged=[bad, entry("a"), bad], candidates=[bad, entry("b")])))
    assert [layer.name for layer in audit.flagged] == ["a"]
    assert [layer.name for layer in audit.candidates] == ["b"]
    assert audit.notes == (
        "flagged_layers: 2 entries are malformed (no usable layer_name) and skipped",
        "all_layers_with_disagreement: 1 entry is malformed (no usable layer_name) and skipped",
    )


@pytest.mark.parametrize("way", [bytes, tolerantly], ids=["fast", "tolerant"])
@pytest.mark.parametrize("rationale", [None, 5, "x", "\ud800", '{"priority_score": 1.0}', [1], {}], ids=repr)
def test_malformed_rationale(rationale: Any, way: Callable[[bytes], bytes]) -> None:
    """An entry without a usable rationale is a layer without figures."""
    audit = read_audit(way(encoded(document(flagged=[{"layer_name": "a", "flagging_rationale": rationale}]))))
    assert audit.flagged[0].rationale.priority_score is None
    assert [note for note in audit.notes if "NaN" not in note] == []


def test_the_longest_name() -> None:
    """Accepts a name of 254 characters."""
    assert names(encoded(document(flagged=[entry("x" * MAX_NAME)]))) == ["x" * MAX_NAME]


@both(document(flagged=[entry("a", spread=1), entry("a", spread=2), entry("base_model.model.a"), entry("b")]))
def test_repeated_layers(data: bytes) -> None:
    """Uses the first entry of a layer that is listed twice, with or without PEFT's prefix."""
    audit = read_audit(data)
    assert [(layer.name, layer.rationale.spread) for layer in audit.flagged] == [("a", 1), ("b", None)]
    assert audit.notes[-1] == "flagged_layers: 1 entry repeats a layer already named; the first counts"
    assert audit.modules.merged == {"a"}


def test_one_repeated_layer() -> None:
    """The note about one repeated layer is in the singular."""
    audit = read_audit(encoded(document(candidates=[entry("a"), entry("a")])))
    assert audit.notes == ("all_layers_with_disagreement: 1 entry repeats a layer already named; the first counts",)


def test_name_of_only_the_prefix() -> None:
    """Keeps a name that is only PEFT's prefix, because a module needs a name."""
    (layer,) = read_audit(encoded(document(flagged=[entry("base_model.model.")]))).flagged
    assert layer.module == "base_model.model."


def test_equality_of_layers() -> None:
    """Layers with the same content are equal and hashable, whichever reader found them."""
    value = document(flagged=[entry("a", spread=1), entry("b", spread=1)], candidates=[entry("a", spread=2)])
    fast, tolerant = read_audit(encoded(value)), read_audit(tolerantly(encoded(value)))
    assert fast.flagged == tolerant.flagged
    assert fast.flagged[0] != fast.candidates[0]
    assert {*fast.flagged, *tolerant.flagged} == set(fast.flagged)
