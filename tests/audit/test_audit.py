"""The facts of an audit: name, digest, number of layers, flatness, version, advice and suggestions."""

from __future__ import annotations

from typing import Any

import pytest

from benchd import read_audit
from corpus import document, encoded, entry, tolerantly

#: A clean audit.
PLAIN = encoded(document(flagged=[entry("base_model.model.a", k_values=[2, 4])]))


def test_digest_and_size() -> None:
    """An audit has its name, its size, and its digest, computed or given."""
    audit = read_audit(PLAIN, name="n.json")
    assert (audit.name, audit.size, len(audit.sha256)) == ("n.json", len(PLAIN), 64)
    assert read_audit(PLAIN, sha256="given").sha256 == "given"


@pytest.mark.parametrize(
    ("told", "total"), [(28, 28), (28.0, 28), (1, 2), (None, 2), ("28", 2), (-5, 2), (True, 2), (10**9, 2)]
)
def test_total_layers(told: Any, total: int) -> None:
    """The number of layers is Gradience's own if it is plausible, and never less than the number of named layers."""
    audit = document(flagged=[entry("a")], candidates=[entry("a"), entry("b")])
    audit["policy_disagreement_analysis"]["distribution"] = {"total_layers": told}
    assert read_audit(encoded(audit)).total_layers == total


@pytest.mark.parametrize(
    ("analysis", "threshold"),
    [
        ({"distribution": {"flatness_witness": {"threshold": 1.5}}}, 1.5),
        ({"disagreement_config": {"min_uniform_mult_threshold": 1.6, "uniform_mult_gate": 1.7}}, 1.6),
        ({"distribution": {}, "disagreement_config": {"uniform_mult_gate": 1.7}}, 1.7),
        ({"distribution": {"flatness_witness": {"threshold": "x"}}, "disagreement_config": {}}, None),
        ({}, None),
    ],
)
def test_flat_threshold(analysis: dict[str, Any], threshold: float | None) -> None:
    """Finds the threshold of flatness at each place where an audit may have it."""
    assert read_audit(encoded(document(analysis=analysis))).flat_threshold == threshold


def test_without_distribution() -> None:
    """An audit without a distribution is not flat, and has no numbers about it."""
    audit = read_audit(encoded(document()))
    assert (audit.is_flat, audit.max_uniform_mult, audit.total_layers) == (False, None, 0)
    assert (audit.gradience_version, audit.focus_message) == (None, None)
    assert (audit.suggested_median, audit.suggested_p90) == (None, None)


@pytest.mark.parametrize(
    ("version", "told"), [("0.11.0", "0.11.0"), (11, None), (None, None), ("x" * 99, "x" * 59 + "…")]
)
def test_gradience_version(version: Any, told: str | None) -> None:
    """The version is the audit's own if it is text, and long text is cut."""
    audit = read_audit(encoded(document(analysis={"computed_with": {"gradience_version": version}})))
    assert audit.gradience_version == told


@pytest.mark.parametrize("message", ["", "  ", "\ufeff", "\x07", None, 5, ["x"]])
def test_no_focus_message(message: Any) -> None:
    """Returns None for advice that is blank or not text."""
    assert (
        read_audit(encoded(document(analysis={"disagreement_focus_set": {"message": message}}))).focus_message is None
    )


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        ({}, None),
        ({"rank_suggestions": {"layers": [{"name": "a", "suggested_r": 3}], "rank_pattern": {"a": 4}}}, 3),
        ({"per_layer_suggestions": {"layers": [{"name": "b", "suggested_r": 3}], "rank_pattern": {"a": 4}}}, 4),
        ({"per_layer_suggestions": {"layers": [{"name": 3, "suggested_r": 3}], "default_r": 5}}, 5),
        ({"rank_suggestions": {"layers": [{"name": "a", "suggested_r": "3"}], "default_r": None}}, None),
        ({"rank_suggestions": {}, "per_layer_suggestions": {"default_r": 6}}, 6),
        ({"rank_suggestions": {"rank_pattern": {"a": 0}, "default_r": 6}}, 0),
    ],
)
def test_suggested_rank(top: dict[str, Any], expected: int | None) -> None:
    """The suggestion for a layer is its row's, else the pattern's, else the default, and 0 is a suggestion."""
    for data in (encoded(document(**top)), tolerantly(encoded(document(**top)))):
        assert read_audit(data).suggested_rank("a") == expected
