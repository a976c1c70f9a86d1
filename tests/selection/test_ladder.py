"""The ladder, rung by rung, with priorities, ranks, and the source of each rank."""

from __future__ import annotations

from typing import Any

import pytest

from benchd import Selection, SelectionSettings, read_audit, select
from corpus import answer, document, encoded, entry

AGREES = {"failed_reasons": ["insufficient_spread"]}
DISAGREES = {"failed_reasons": ["below_gate"]}
FLAT = {"distribution": {"is_flat": True, "max_uniform_mult": 1.104, "flatness_witness": {"threshold": 1.5}}}


def chosen(audit: dict[str, Any], **settings: Any) -> Selection:
    return select(read_audit(encoded(audit)), SelectionSettings(**settings))


def names(selection: Selection) -> list[str]:
    return [layer.layer_name for layer in selection.layers]


def scored(*scores: Any, **rationale: Any) -> list[dict[str, Any]]:
    """Return candidates `a`, `b`, … with these scores; `...` omits the score."""
    return [
        entry(name, **({} if score is ... else {"priority_score": score}), **rationale)
        for name, score in zip("abcdefgh", scores, strict=False)
    ]


def tried(selection: Selection) -> list[tuple[str, bool]]:
    return [(rung.strategy, rung.fired) for rung in selection.ladder]


# --- the rungs ------------------------------------------------------------------------------------------------


def test_flagged() -> None:
    """Rung 1 selects all flagged layers in the audit's order, and tries no other rung."""
    flagged = scored(1, 9, 5, 7, 3)
    selection = chosen(document(flagged=flagged, candidates=scored(1, 9, 5, 7, 3, 8)), top_n=1)
    assert names(selection) == ["a", "b", "c", "d", "e"]
    assert (selection.strategy, selection.confidence) == ("flagged", "high")
    assert tried(selection) == [("flagged", True)]
    assert selection.reason == "5 of 6 layers are flagged as high-impact"


def test_flagged_wins_over_flat() -> None:
    """Flagged layers are selected for any `on_flat`."""
    assert chosen(document(flagged=[entry("a")], analysis=FLAT), on_flat="uniform_only").strategy == "flagged"


def test_priority_score() -> None:
    """Rung 2 selects the `top_n` highest scores, with ties in the audit's order."""
    selection = chosen(document(candidates=scored(1, 5, 2, 5, 0.5)))
    assert names(selection) == ["b", "d", "c"]
    assert (selection.strategy, selection.confidence) == ("priority_score", "medium")
    assert tried(selection) == [("flagged", False), ("priority_score", True)]
    assert selection.reason == "the top 3 of 5 layers by priority score (5 to 2); 5 scores above 0, top_n = 3"
    assert selection.ladder[0].reason == (
        "0 of 5 layers are flagged: no layer meets all of Gradience's high-impact criteria"
    )


def test_ties() -> None:
    """Layers with the same score keep the audit's order, whatever their names are."""
    candidates = [entry(name, priority_score=3) for name in "zyxw"]
    assert names(chosen(document(candidates=candidates))) == ["z", "y", "x"]


def test_range_of_equal_scores() -> None:
    """The reason shows a range of equal scores as one number, and one score in the singular."""
    assert chosen(document(candidates=scored(2))).reason == (
        "the top 1 of 1 layer by priority score (2); 1 score above 0, top_n = 3"
    )


@pytest.mark.parametrize("score", [0, -1, -0.0, None, "9", True, [9], {}, ..., float("nan"), float("inf")], ids=repr)
def test_unusable_scores(score: Any) -> None:
    """Rung 2 skips a score that is not a finite number above 0."""
    assert names(chosen(document(candidates=scored(score, 0.1)))) == ["b"]


def test_disagreement() -> None:
    """Rung 3 selects the first `top_n` layers in the audit's order if no score is above 0."""
    selection = chosen(document(candidates=scored(0, None, "x", -1)))
    assert names(selection) == ["a", "b", "c"]
    assert (selection.strategy, selection.confidence) == ("disagreement", "low")
    assert tried(selection) == [("flagged", False), ("priority_score", False), ("disagreement", True)]
    assert selection.ladder[1].reason == "none of 4 layers has a priority score above 0"
    assert selection.reason == "the first 3 of 4 layers, in the audit's order; top_n = 3"


def test_no_layers() -> None:
    """Rung 4 leaves the uniform baseline if the analysis has no layers."""
    selection = chosen(document())
    assert (selection.strategy, selection.confidence, selection.layers) == ("none", "none", ())
    assert tried(selection) == [
        ("flagged", False),
        ("priority_score", False),
        ("disagreement", False),
        ("none", True),
    ]
    assert [rung.reason for rung in selection.ladder] == [
        "0 of 0 layers are flagged: the audit lists none",
        "there are no layers",
        "there are no layers",
        "uniform only: the analysis has no layers",
    ]


@pytest.mark.parametrize(
    ("scores", "first"), [((3, 2), "top_n = 0"), ((0, 0), "none of 2 layers has a priority score above 0")]
)
def test_top_n_zero(scores: tuple[int, int], first: str) -> None:
    """`top_n = 0` turns off rungs 2 and 3, and each reason says so."""
    selection = chosen(document(candidates=scored(*scores)), top_n=0)
    assert (selection.strategy, selection.layers) == ("none", ())
    assert [rung.reason for rung in selection.ladder[1:]] == [first, "top_n = 0", "uniform only: selection.top_n is 0"]


def test_top_n_zero_keeps_flagged() -> None:
    """`top_n` does not limit flagged layers."""
    assert names(chosen(document(flagged=scored(1, 2)), top_n=0)) == ["a", "b"]


@pytest.mark.parametrize(("top_n", "count"), [(1, 1), (2, 2), (5, 4), (10**9, 4)])
def test_top_n(top_n: int, count: int) -> None:
    """The fallback rungs choose at most `top_n` layers."""
    assert len(chosen(document(candidates=scored(1, 2, 3, 4)), top_n=top_n).layers) == count
    assert len(chosen(document(candidates=scored(0, 0, 0, 0)), top_n=top_n).layers) == count


def test_on_flat() -> None:
    """With `on_flat = "uniform_only"`, a flat distribution without flagged layers leads directly to rung 4."""
    selection = chosen(document(candidates=scored(3), analysis=FLAT), on_flat="uniform_only")
    assert tried(selection) == [("flagged", False), ("none", True)]
    assert selection.reason == 'uniform only: the energy distribution is flat and selection.on_flat is "uniform_only"'
    assert selection.ladder[0].reason == (
        "0 of 1 layer is flagged: the energy distribution is flat (max 1.10x < 1.50x)"
    )


def test_on_flat_without_effect() -> None:
    """`on_flat` has no effect unless the distribution is flat, and by default no effect at all."""
    assert chosen(document(candidates=scored(3)), on_flat="uniform_only").strategy == "priority_score"
    assert chosen(document(candidates=scored(3), analysis=FLAT)).strategy == "priority_score"


@pytest.mark.parametrize(
    ("distribution", "told"),
    [
        ({"is_flat": True}, "the energy distribution is flat"),
        ({"is_flat": True, "max_uniform_mult": float("inf")}, "the energy distribution is flat"),
        ({"is_flat": True, "max_uniform_mult": 1.2}, "the energy distribution is flat (max 1.20x)"),
        ({"is_flat": True, "max_uniform_mult": 1.97e279}, "the energy distribution is flat (max 1.97e+279x)"),
        ({"is_flat": 1}, "the audit lists none"),
    ],
)
def test_reason_of_a_flat_distribution(distribution: dict[str, Any], told: str) -> None:
    """The reason quotes the numbers that the audit has about a flat distribution."""
    selection = chosen(document(analysis={"distribution": distribution}))
    assert selection.ladder[0].reason == f"0 of 0 layers are flagged: {told}"


def test_require_disagreement() -> None:
    """With `require_disagreement`, rungs 2 and 3 choose only layers on which the policies disagree."""
    candidates = [entry("a", priority_score=9, **AGREES), entry("b", priority_score=1, **DISAGREES)]
    selection = chosen(document(candidates=candidates), require_disagreement=True)
    assert names(selection) == ["b"]
    assert "the top 1 of 1 layer on which the policies disagree" in selection.reason
    candidates = [entry("a", **AGREES), entry("b", **DISAGREES)]
    assert names(chosen(document(candidates=candidates), require_disagreement=True)) == ["b"]
    assert names(chosen(document(candidates=candidates))) == ["a", "b"]


def test_require_disagreement_without_any() -> None:
    """With `require_disagreement`, an audit without any disagreement gets no layers."""
    selection = chosen(document(candidates=[entry("a", priority_score=9, **AGREES)]), require_disagreement=True)
    assert selection.strategy == "none"
    assert selection.reason == "uniform only: the analysis has no layers on which the policies disagree"
    assert selection.ladder[1].reason == "there are no layers on which the policies disagree"


def test_require_disagreement_keeps_flagged() -> None:
    """Selects flagged layers whether the policies disagree or not, and records which ones do."""
    (layer,) = chosen(document(flagged=[entry("a", **AGREES)]), require_disagreement=True).layers
    assert layer.disagrees is False


def test_no_analysis() -> None:
    """Without an analysis, the only rung gives the reason."""
    selection = chosen({"policy_disagreement_analysis_error": "boom"})
    assert tried(selection) == [("none", True)]
    assert selection.reason == "uniform only: Gradience's disagreement analysis failed: boom"


def test_notes_of_the_audit_come_first() -> None:
    """The notes of the selection start with those of the audit."""
    selection = chosen(document(flagged=[entry("a")], issues=["oops"]))
    assert selection.notes[0] == "Gradience: oops"
    assert len(selection.notes) == 2


# --- disagreement and priorities ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rationale", "expected"),
    [
        ({"meets_spread_threshold": True, "failed_reasons": ["insufficient_spread"]}, True),
        ({"meets_spread_threshold": False, "failed_reasons": []}, False),
        ({"meets_spread_threshold": None, "failed_reasons": []}, True),
        ({"failed_reasons": ["insufficient_spread"], "spread": 9}, False),
        ({"failed_reasons": "insufficient_spread", "spread": 9, "spread_threshold": 3}, True),
        ({"spread": 3, "spread_threshold": 3}, True),
        ({"spread": 2, "spread_threshold": 3}, False),
        ({"spread": 1}, True),
        ({"spread": 0, "spread_threshold": 0}, False),
        ({"spread": "3"}, False),
        ({}, False),
    ],
)
def test_disagrees(rationale: dict[str, Any], expected: bool) -> None:
    """`disagrees` follows Gradience's verdict, else the failed reasons, else the numbers."""
    (layer,) = chosen(document(flagged=[entry("a", **rationale)])).layers
    assert layer.disagrees is expected


@pytest.mark.parametrize(
    ("rationale", "priority", "validation"),
    [
        ({"priority_score": 2.0}, "MEDIUM", "per_layer"),
        ({"priority_score": 1.9999999999999998}, "LOW", "focused_uniform"),
        ({"priority_score": 1}, "LOW", "focused_uniform"),
        ({"priority_score": 0.9999999999999999}, "SKIP", "uniform_only"),
        ({"priority_score": 0.1, "flagged_as_high_impact": True}, "HIGH", "per_layer"),
        ({"priority_score": 0.1, "flagged_as_high_impact": "yes"}, "SKIP", "uniform_only"),
        ({"priority_score": 1e300}, "MEDIUM", "per_layer"),
    ],
)
def test_priorities(rationale: dict[str, Any], priority: str, validation: str) -> None:
    """A score at a threshold gets its priority, and a layer that Gradience marks as high-impact is HIGH on any rung."""
    (layer,) = chosen(document(candidates=[entry("a", **rationale)])).layers
    assert (layer.priority, layer.validation) == (priority, validation)


@pytest.mark.parametrize(
    ("medium", "low", "priorities"),
    [
        (3.0, 2.0, ["MEDIUM", "LOW", "SKIP"]),
        (2.0, 2.0, ["MEDIUM", "MEDIUM", "SKIP"]),
        (0.0, 0.0, ["MEDIUM", "MEDIUM", "MEDIUM"]),
        (9.0, 0.5, ["LOW", "LOW", "LOW"]),
    ],
)
def test_priority_thresholds(medium: float, low: float, priorities: list[str]) -> None:
    """The priority thresholds come from the settings."""
    selection = chosen(document(candidates=scored(3, 2, 1)), medium_priority=medium, low_priority=low)
    assert [layer.priority for layer in selection.layers] == priorities


def test_flagged_are_high() -> None:
    """Flagged layers are HIGH for any score."""
    assert {layer.priority for layer in chosen(document(flagged=scored(0.1, None, 5))).layers} == {"HIGH"}


def test_no_rank_without_a_score() -> None:
    """Layers of rung 3 get SKIP and no rank, because they have no usable score."""
    (layer,) = chosen(document(candidates=[entry("a", priority_score="9", k_values=[4])])).layers
    assert (layer.priority, layer.rank, layer.rank_source) == ("SKIP", None, None)


# --- ranks ----------------------------------------------------------------------------------------------------

K_VALUES = {"k_values": [2, 5, 3]}
ROWS = {"layer_data": {"layer_rows": [{"name": "a", "rank_suggestions": {"knee": {"k": 6}, "erank": {"k": 4}}}]}}
BENCH_ROWS = {"layers": [{"name": "a", "rank_suggestions": {"knee": {"k": 9}}}]}
SUGGESTED = {"rank_suggestions": {"layers": [{"name": "a", "suggested_r": 7}], "default_r": 1}}
DEFAULT = {"per_layer_suggestions": {"default_r": 3, "rank_pattern": {"b": 9}}}
POLICIES = {"policies": {"per_layer": [{"layer_name": "a", "suggestions": {"energy_threshold": {"k": 8}}}]}}


def ranked(rationale: dict[str, Any], **top: Any) -> tuple[int | None, str | None, float | None]:
    (layer,) = chosen(document(flagged=[entry("a", **rationale)], **top)).layers
    return layer.rank, layer.rank_source, layer.alpha


@pytest.mark.parametrize(
    ("rationale", "top", "rank", "source"),
    [
        (K_VALUES, ROWS | SUGGESTED | POLICIES, 5, "k_values"),
        ({}, ROWS | BENCH_ROWS | SUGGESTED | POLICIES, 6, "layer_rows"),
        ({}, BENCH_ROWS | SUGGESTED | POLICIES, 9, "layer_rows"),
        ({}, SUGGESTED | DEFAULT | POLICIES, 7, "suggestions"),
        ({}, DEFAULT | POLICIES, 3, "suggestions"),
        ({}, POLICIES, 8, "policies"),
        ({}, {}, None, None),
    ],
)
def test_rank_sources(rationale: dict[str, Any], top: dict[str, Any], rank: int | None, source: str | None) -> None:
    """Uses the first evidence for a rank, in the order of the sources."""
    assert ranked(rationale, **top) == (rank, source, None)


@pytest.mark.parametrize(
    ("k_values", "rank", "source"),
    [
        ([3, "9", None, True, float("nan"), -4, 2.5], 3, "k_values"),
        ([4.0], 4, "k_values"),
        ([], 8, "policies"),
        (["9"], 8, "policies"),
        (9, 8, "policies"),
        ({"knee": 9}, 8, "policies"),
        ("9", 8, "policies"),
        ([0, 0], None, "k_values"),
        ([10**9], 8, "policies"),
    ],
)
def test_k_values(k_values: Any, rank: int | None, source: str) -> None:
    """Uses the ranks in `k_values`, which are no evidence without any rank."""
    assert ranked({"k_values": k_values}, **POLICIES)[:2] == (rank, source)


@pytest.mark.parametrize(
    ("top", "source"),
    [
        ({"layers": [{"name": "a", "rank_suggestions": {"knee": {"k": 0}}}]}, "layer_rows"),
        ({"rank_suggestions": {"rank_pattern": {"a": 0}, "default_r": 4}}, "suggestions"),
        ({"policies": {"per_layer": [{"layer_name": "a", "suggestions": {"x": {"k": 0}}}]}}, "policies"),
    ],
)
def test_rank_zero(top: dict[str, Any], source: str) -> None:
    """A rank of 0 becomes None, and its source and a note are recorded."""
    assert ranked({}, **top) == (None, source, None)
    (note,) = chosen(document(flagged=[entry("a")], **top)).notes
    assert note == "a: the policies suggest rank 0, which PEFT refuses; an untrained or dead layer has no rank"


def test_no_evidence() -> None:
    """A note names up to three of the layers without evidence, and what to run."""
    selection = chosen(document(flagged=scored(1, 1, 1, 1, 1)))
    assert selection.notes == (
        "a, b, c and 2 more: no rank in the audit; `gradience audit --disagreement-rationale full` tells it",
    )
    assert chosen(document(flagged=scored(1, 1, 1))).notes[0].startswith("a, b, c: no rank in the audit")


def test_no_note_without_need_for_a_rank() -> None:
    """A layer that is not validated per layer needs no rank and gets no note."""
    assert chosen(document(candidates=scored(1.5, 0.5))).notes == ()


@pytest.mark.parametrize(
    ("top", "rank", "alpha"),
    [
        ({"per_module_gain": [{"module": "a", "r": 4, "scaling": 2.0}]}, 4, 8),
        ({"per_module_gain": [{"module": "a", "r": 16, "scaling": 2.0}]}, 5, 10),
        ({"per_module_gain": [{"module": "a", "r": 16, "scaling": 0.3}]}, 5, 1.5),
        ({"per_module_gain": [{"module": "a", "r": 16}]}, 5, None),
        ({"per_module_gain": [{"module": "a", "r": 16, "scaling": 0}]}, 5, None),
        ({"per_module_gain": [{"module": "a", "r": 16, "scaling": -2}]}, 5, None),
        ({"per_module_gain": [{"module": "a", "r": 16, "scaling": 1e308}]}, 5, None),
        ({"per_module_gain": [{"module": "a", "r": 16, "scaling": 1e300}]}, 5, 5e300),
        ({"per_module_gain": [{"module": "a", "r": None, "scaling": 1.0}]}, 5, 5),
        ({"per_module_gain": [{"module": "b", "r": 1, "scaling": 1.0}]}, 5, None),
        ({"layers": [{"name": "a", "r": 2, "adapter_scale": 2}]}, 2, 4),
        ({"per_module_gain": [{"module": "a", "scaling": 2.0}], "layers": [{"name": "a", "r": 3}]}, 3, 6),
    ],
)
def test_largest_rank_and_alpha(top: dict[str, Any], rank: int, alpha: float | None) -> None:
    """No rank exceeds the module's own, and alpha is scaling x rank, or None if the scaling is unknown."""
    assert ranked(K_VALUES, **top) == (rank, "k_values", alpha)
    assert type(ranked(K_VALUES, **top)[2]) is type(alpha)


@pytest.mark.parametrize("value", [None, "x", True, [], {}, float("nan"), float("inf"), -1, 1e300], ids=repr)
@pytest.mark.parametrize(
    "key",
    [
        "spread", "spread_threshold", "meets_spread_threshold", "importance_share", "uniform_mult",
        "uniform_mult_threshold", "priority_score", "flagged_as_high_impact", "k_values", "failed_reasons",
    ],
)  # fmt: skip
def test_hand_made_values_never_raise(key: str, value: Any) -> None:
    """Any value at any place of a rationale gives an answer that matches its schema."""
    full = {"spread": 6, "spread_threshold": 4.0, "priority_score": 3.0, "k_values": [2, 8], "failed_reasons": []}
    for audit in (
        document(flagged=[entry("a", **{**full, key: value})]),
        document(candidates=[entry("a", **{**full, key: value})]),
    ):
        assert len(answer(audit)["selection"]["layers"]) == 1


@pytest.mark.parametrize(
    ("reasons", "kept"),
    [
        (["a", 3, None, "b\n", "x" * 101, "x" * 100], ["a", "x" * 100]),
        (["a"] * 30, ["a"] * 20),
        ("a", []),
        (None, []),
    ],
)
def test_failed_reasons(reasons: Any, kept: list[str]) -> None:
    """Failed reasons are short printable texts, at most 20 of them."""
    (layer,) = chosen(document(flagged=[entry("a", failed_reasons=reasons)])).layers
    assert list(layer.failed_reasons) == kept


# --- recorded settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("audit", "used"),
    [
        (document(flagged=[entry("a")]), []),
        ({"policy_disagreement_analysis": None}, []),
        (document(), []),
        (document(analysis=FLAT), ["on_flat"]),
        (document(candidates=scored(3)), ["medium_priority", "require_disagreement", "top_n"]),
        (document(candidates=scored(1)), ["low_priority", "medium_priority", "require_disagreement", "top_n"]),
        (document(candidates=scored(0)), ["low_priority", "medium_priority", "require_disagreement", "top_n"]),
        (document(candidates=scored(None)), ["require_disagreement", "top_n"]),
    ],
)
def test_settings_used(audit: dict[str, Any], used: list[str]) -> None:
    """Records exactly the settings that were read, in order."""
    assert list(chosen(audit).settings) == [f"selection.{key}" for key in used]


def test_default_settings() -> None:
    """Uses the default settings if none are given."""
    audit = read_audit(encoded(document(candidates=scored(1, 2, 3, 4))))
    assert select(audit) == select(audit, SelectionSettings())
