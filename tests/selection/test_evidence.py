"""The evidence for a rank: its order, and the policies' largest rank from a condensed rationale."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchd import Audit, read_audit
from benchd.audit.modules import Module
from benchd.audit.shapes import Rationale
from benchd.selection.evidence import Evidence, find_evidence
from corpus import USABLE, Sample, content, document, encoded, entry

#: The fields that Gradience keeps in the rationale of a layer that it did not flag.
CONDENSED = ("spread", "importance_share", "uniform_mult", "priority_score", "failed_reasons")

#: The real audits that have the `k` of every policy for every layer.
FULL = [
    sample
    for sample in USABLE
    if (layers := read_audit(sample.content).candidates) and all(layer.rationale.k_values for layer in layers)
]


def of_layer(audit: Audit, name: str, rationale: Rationale, own: int | None) -> Evidence | None:
    """Return the evidence for the rank of one layer."""
    return find_evidence(audit, {name: rationale}, {name: Module(own, None)}).get(name)


def condensed(audit: dict[str, Any]) -> dict[str, Any]:
    """Return the same audit as Gradience writes it by default: rationales are condensed, except for flagged layers."""
    twin = copy.deepcopy(audit)
    twin.pop("layer_data", None)
    twin.pop("rank_suggestions", None)
    for layer in twin["policy_disagreement_analysis"]["all_layers_with_disagreement"]:
        rationale = layer["flagging_rationale"]
        if not rationale.get("flagged_as_high_impact"):
            layer["flagging_rationale"] = {key: rationale[key] for key in CONDENSED if key in rationale}
    return twin


def parsed(sample: Sample) -> dict[str, Any]:
    text = sample.content.decode()
    audit = json.loads(text[text.index("{\n") :])
    assert isinstance(audit, dict)
    return audit


def pairs(audit: dict[str, Any]) -> Iterator[tuple[int, Evidence | None, int]]:
    """Return the true largest k, the evidence and the spread of each layer with a condensed rationale."""
    twin = read_audit(encoded(condensed(audit)))
    full = {
        layer["layer_name"]: layer for layer in audit["policy_disagreement_analysis"]["all_layers_with_disagreement"]
    }
    for layer in twin.candidates:
        if layer.rationale.k_values is None:
            module = twin.modules.of(layer.name)
            found = of_layer(twin, layer.name, layer.rationale, module.rank if module else None)
            rationale = full[layer.name]["flagging_rationale"]
            yield max(rationale["k_values"]), found, rationale["spread"]


@pytest.mark.parametrize("sample", FULL, ids=lambda sample: sample.file)
def test_condensed_rationales(sample: Sample) -> None:
    """No rank from a condensed rationale of a real layer is too low, and one that is too high is marked as a bound."""
    for k, found, spread in pairs(parsed(sample)):
        if found is None:
            assert spread == 0
            continue
        assert found.rank >= k
        assert found.rank == k or found.is_upper_bound


def test_share_of_exact_ranks() -> None:
    """Of all real layers with a known k, at least 99.5 % get exactly this k from the condensed rationale.

    The sample of the design is excluded: it has no `policies`, so a bound can't be narrowed.
    """
    real = [sample for sample in FULL if not sample.file.startswith("design/")]
    found = [(k, evidence) for sample in real for k, evidence, _ in pairs(parsed(sample)) if evidence is not None]
    derived = [(k, evidence) for k, evidence in found if evidence.source == "rationale"]
    exact = sum(k == evidence.rank for k, evidence in derived)
    assert len(derived) > 150
    assert exact >= 0.995 * len(derived), f"{exact} of {len(derived)}"


#: Audits with condensed rationales -> an audit of the same adapter that has the true `k` of each layer.
TOLD_BY = {
    "llama2_zero__default.json": "llama2_zero__gate0_full.json",
    "llama4_hier0__default.json": "llama4_hier0__full.json",
    "llama4_many__default.json": "llama4_many__full.json",
    "llama4_many__gateinf.json": "llama4_many__full.json",
    "llama4_many__gatenan.json": "llama4_many__full.json",
    "llama4_many__layers.json": "llama4_many__full.json",
    "llama4_many__layers_perlayer.json": "llama4_many__full.json",
    "llama4_many__topwasteful5_perlayer.json": "llama4_many__full.json",
    "mistral4_flat__default.json": "mistral4_flat__full.json",
    "mistral4_flat__layers_perlayer.json": "mistral4_flat__full.json",
}


def test_audits_condensed_by_gradience() -> None:
    """In audits that Gradience condensed, all 246 layers of known k get exactly k, unlike with the energy policy."""
    layers = exact = by_policies = 0
    for file, full in TOLD_BY.items():
        audit = read_audit(content(file))
        told = {layer.name: max(layer.rationale.k_values or []) for layer in read_audit(content(full)).candidates}
        for layer in audit.candidates:
            if layer.rationale.k_values is None:
                module = audit.modules.of(layer.name)
                found = of_layer(audit, layer.name, layer.rationale, module.rank if module else None)
                layers += 1
                exact += (found.rank if found else 0) == told[layer.name]
                by_policies += max(audit.policy_ranks(layer.name), default=0) == told[layer.name]
    assert (layers, exact, by_policies) == (246, 246, 0)


KS = st.lists(st.integers(0, 128), min_size=2, max_size=6)


@given(
    KS,
    st.floats(1e-6, 1e6),
    st.sampled_from([(3, 0.5), (3, 0.4), (2, 0.25), (5, 1.0), (0, 0.5), (0.3, 0.1), (7.5, 0.3)]),
    st.booleans(),
    st.booleans(),
)
def test_generated_rationales(
    ks: list[int], mult: float, constants: tuple[float, float], told: bool, knows_energy: bool
) -> None:
    """For all ranks and constants, the rank is never below the largest k, and is exact or marked as a bound."""
    base, factor = constants
    spread, largest = max(ks) - min(ks), max(ks)
    threshold = max(base, factor * largest)
    score = (max(0.0, spread / threshold) if threshold > 0 else 0.0) * mult
    rationale = {"spread": spread, "uniform_mult": mult, "priority_score": score}
    config = {"spread_base_threshold": base, "spread_dynamic_factor": factor} if told else {}
    if not told and constants != (3, 0.5):
        return  # without constants in the audit, benchd uses Gradience's defaults
    policies = {"per_layer": [{"layer_name": "a", "suggestions": {"energy_threshold": {"k": ks[0]}}}]}
    audit = read_audit(
        encoded(
            document(
                candidates=[entry("a", **rationale)],
                analysis={"disagreement_config": config},
                **({"policies": policies} if knows_energy else {}),
            )
        )
    )
    [layer] = audit.candidates
    found = of_layer(audit, "a", layer.rationale, None)
    if spread == 0 or score == 0:
        assert found == (Evidence(ks[0], "policies") if knows_energy else None)
        return
    assert found is not None
    assert found.source == "rationale"
    assert found.rank >= largest
    assert found.rank == largest or found.is_upper_bound
    if factor * largest > base:
        assert found == Evidence(largest, "rationale")


# --- the order ------------------------------------------------------------------------------------------------

#: A layer whose policies have k = 2, 2, 4 and 8, in every form of evidence. The energy policy has 2, the largest is 8.
SPREAD = {"spread": 6, "uniform_mult": 2.0, "priority_score": 3.0}
WHOLE_ROW = {"name": "a", "rank_suggestions": {"energy_90": {"k": 2}, "knee": {"k": 4}, "erank": {"k": 8}}}
ENERGY_ROW = {"name": "a", "rank_suggestions": {"energy_90": {"k": 2}}}
SUGGESTED = {"rank_suggestions": {"layers": [{"name": "a", "suggested_r": 5}]}}
POLICIES = {"policies": {"per_layer": [{"layer_name": "a", "suggestions": {"energy_threshold": {"k": 2}}}]}}


def evidence(rationale: dict[str, Any], own: int | None = None, **top: Any) -> Evidence | None:
    """Return the evidence for the one layer of an audit."""
    audit = read_audit(encoded(document(candidates=[entry("a", **rationale)], **top)))
    return of_layer(audit, "a", audit.candidates[0].rationale, own)


@pytest.mark.parametrize(
    ("rationale", "top", "expected"),
    [
        ({**SPREAD, "k_values": [2, 2, 4, 8]}, {"layers": [WHOLE_ROW], **SUGGESTED, **POLICIES}, (8, "k_values")),
        (SPREAD, {"layers": [WHOLE_ROW], **SUGGESTED, **POLICIES}, (8, "layer_rows")),
        (SPREAD, {"layers": [ENERGY_ROW], **SUGGESTED, **POLICIES}, (8, "rationale")),
        (SPREAD, {**SUGGESTED, **POLICIES}, (8, "rationale")),
        ({}, {"layers": [ENERGY_ROW], **SUGGESTED, **POLICIES}, (2, "layer_rows")),
        ({"spread": 6}, {"layers": [ENERGY_ROW], **SUGGESTED, **POLICIES}, (6, "suggestions")),
        ({"spread": 6}, {"layers": [ENERGY_ROW], **POLICIES}, (6, "layer_rows")),
        ({"spread": 1}, {**POLICIES}, (2, "policies")),
        ({"spread": 6}, {**POLICIES}, (6, "policies")),
        ({"spread": 6}, {}, None),
        ({**SPREAD, "priority_score": None}, POLICIES, (6, "policies")),
        ({**SPREAD, "priority_score": 0}, POLICIES, (6, "policies")),
        ({**SPREAD, "uniform_mult": -2.0}, POLICIES, (6, "policies")),
        ({"spread": 6, "uniform_mult": 2.0, "priority_score": 9.0}, POLICIES, (6, "policies")),  # below the base
        ({"spread_threshold": 4.0}, POLICIES, (8, "rationale")),
        ({"spread": 6, "uniform_mult": 2.083, "priority_score": 3.12}, {}, (8, "rationale")),  # rounded by a person
    ],
)
def test_order(rationale: dict[str, Any], top: dict[str, Any], expected: tuple[int, str] | None) -> None:
    """Uses the first evidence in the order k_values, whole rows, rationale, suggestions, other rows, policies."""
    found = evidence(rationale, **top)
    assert (found and (found.rank, found.source)) == expected


@pytest.mark.parametrize(
    ("spread", "top", "own", "rank", "is_upper_bound"),
    [
        (2, {}, None, 6, True),
        (2, POLICIES, None, 4, True),
        (4, {}, 5, 5, True),
        (4, {}, 4, 4, False),
        (6, {}, None, 6, False),
        (1, {"policies": {"per_layer": [{"layer_name": "a", "suggestions": {"e": {"k": 6}}}]}}, None, 6, False),
        (8, {}, 4, 4, False),
    ],
)
def test_bounds(spread: int, top: dict[str, Any], own: int | None, rank: int, is_upper_bound: bool) -> None:
    """If the threshold is the base, the rank is a bound: 6, the module's own rank, or k plus the spread."""
    rationale = {"spread": spread, "uniform_mult": 3.0, "priority_score": spread / 3 * 3.0}
    assert evidence(rationale, own, **top) == Evidence(rank, "rationale", is_upper_bound)


@pytest.mark.parametrize("own", [1, 3, 16])
@pytest.mark.parametrize("rationale", [{"spread": 9, "k_values": [2, 4]}, {"spread": 9}, {**SPREAD, "k_values": [8]}])
def test_between_spread_and_own_rank(rationale: dict[str, Any], own: int) -> None:
    """From any source, the rank is at least the spread and at most the module's own rank."""
    found = evidence(rationale, own, **POLICIES)
    assert found is not None
    assert found.rank == min(own, max(rationale["spread"], *rationale.get("k_values", [2])))


@pytest.mark.parametrize(
    "constants",
    [
        {"spread_dynamic_factor": 0},
        {"spread_dynamic_factor": -1},
        {"spread_base_threshold": -1},
        {"spread_dynamic_factor": 1e-300},
        {"spread_base_threshold": 1e300},
        {"spread_base_threshold": 4.0, "spread_dynamic_factor": 1e6},
    ],
)
def test_odd_constants(constants: dict[str, Any]) -> None:
    """Uses the other evidence if nothing can be derived with the audit's constants."""
    found = evidence(SPREAD, analysis={"disagreement_config": constants}, **POLICIES)
    assert (found and (found.rank, found.source)) == (6, "policies")
