"""Gradience's messages in an audit: its issues, and why there is no analysis."""

from __future__ import annotations

from typing import Any

import pytest

from benchd import read_audit
from corpus import document, encoded, entry, tolerantly

#: A clean audit.
PLAIN = encoded(document(flagged=[entry("base_model.model.a", k_values=[2, 4])]))


@pytest.mark.parametrize(
    ("issues", "notes"),
    [
        (["a", None, "", {"b": "ü"}], ("Gradience: a", 'Gradience: {"b": "\\u00fc"}')),
        (
            [f"{place}" for place in range(21)],
            (*(f"Gradience: {place}" for place in range(20)), "Gradience: 1 more issue"),
        ),
        (["x"] * 25, ("Gradience: x (25 times)",)),
        (
            [f"{place}" for place in range(25)],
            (*(f"Gradience: {place}" for place in range(20)), "Gradience: 5 more issues"),
        ),
        (
            ["Failed for a.b: why", "Failed for a.c: why", "Failed for a.b: how", "Failed for two words: why"],
            (
                "Gradience: 2 modules: failed: why",
                "Gradience: Failed for a.b: how",
                "Gradience: Failed for two words: why",
            ),
        ),
        (["Failed for a.b: why"] * 2, ("Gradience: Failed for a.b: why (2 times)",)),
        ("one", ()),
        ({}, ()),
        (None, ()),
    ],
)
def test_issues(issues: Any, notes: tuple[str, ...]) -> None:
    """At most 20 issues become notes. Issues that are equal, or differ only in the module, become one note."""
    assert read_audit(encoded(document(issues=issues))).notes == notes


def test_issues_in_another_encoding() -> None:
    """Quotes an issue that is not UTF-8 with replacement characters."""
    data = encoded(document(issues=["caf@"])).replace(b"@", b"\xe9")
    assert read_audit(data).notes == ("Gradience: caf\ufffd",)


MISSING = "the audit has no policy_disagreement_analysis"

NOTHING = "an audit of nothing: Gradience found 0 LoRA layers that it could audit"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"policy_disagreement_analysis": None}, "the audit has no policy_disagreement_analysis"),
        (
            {"total_lora_params": 0, "stable_rank_mean": 0, "n_layers": 0},
            f"{NOTHING}; is the folder right, and the adapter a LoRA?",
        ),
        (
            {"total_lora_params": 0, "stable_rank_mean": 0, "n_layers": 0, "issues": ["no such folder", "x"]},
            f"{NOTHING}: no such folder",
        ),
        (
            {"total_lora_params": 9, "stable_rank_mean": 1, "n_layers": 3},
            f"{MISSING}: a Gradience before 0.8 wrote it; audit the adapter again with a newer version",
        ),
        (
            {"total_lora_params": 9, "stable_rank_mean": 1, "n_layers": 3, "rank_policy_schema_version": 1},
            "the audit has no policy_disagreement_analysis",
        ),
        (
            {"probe_rank": 8, "suggested_r_global_median": 4},
            "the audit has no policy_disagreement_analysis; audits that Bench writes itself never have one",
        ),
        (
            {"policy_disagreement_analysis_error": "Quantile out of range"},
            "Gradience's disagreement analysis failed: Quantile out of range",
        ),
        (
            {"policy_disagreement_analysis_error": {"a": [1, None]}},
            'Gradience\'s disagreement analysis failed: {"a": [1, null]}',
        ),
        (
            document(analysis={"analysis_performed": False}),
            "Gradience performed no disagreement analysis: no reason given",
        ),
        (
            document(flagged=[entry("a")], analysis={"analysis_performed": False, "reason": "no_disagreements"}),
            "Gradience performed no disagreement analysis: no_disagreements",
        ),
        ({"policy_disagreement_analysis": {"flagged_layers": [entry("a")]}}, None),
        (document(analysis={"analysis_performed": None}), None),
        ({"policy_disagreement_analysis": {}, "policy_disagreement_analysis_error": "x"}, None),
    ],
)
def test_no_analysis(value: dict[str, Any], why: str | None) -> None:
    """Returns why there is nothing to select from, in Gradience's own words if it gave a reason."""
    for data in (encoded(value), tolerantly(encoded(value))):
        audit = read_audit(data)
        assert audit.no_analysis == why
        assert why is None or (audit.flagged, audit.candidates) == ((), ())


def test_huge_issues() -> None:
    """A megabyte of issues becomes one note, without being decoded."""
    data = PLAIN.replace(b'"policy', b'"issues": [' + b"[]," * 400_000 + b'[]], "policy', 1)
    assert read_audit(data).notes[-1] == "Gradience: more issues than can be shown here"
