"""Describe selected layers: priority, validation, rank and alpha (spec, section 3). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchd.audit.audit import Audit
from benchd.audit.layers import Layer
from benchd.audit.shapes import Rationale
from benchd.selection.evidence import Evidence, find_evidence
from benchd.selection.selection import Priority, SelectedLayer, Validation
from benchd.selection.used import UsedSettings

__all__ = ["describe", "disagrees"]

_VALIDATION: Final[dict[Priority, Validation]] = {
    "HIGH": "per_layer",
    "MEDIUM": "per_layer",
    "LOW": "focused_uniform",
    "SKIP": "uniform_only",
}


def describe(audit: Audit, layers: Sequence[Layer], used: UsedSettings, *, flagged: bool) -> tuple[SelectedLayer, ...]:
    """Return the `layers` with their priorities, ranks and alphas. All `flagged` layers have priority HIGH.

    A layer gets a rank only if Bench validates it per layer and a rank pattern can match it.
    """
    rationales = [layer.rationale for layer in layers]
    priorities: list[Priority] = ["HIGH"] * len(layers) if flagged else [_priority(each, used) for each in rationales]
    out_of_reach = audit.modules.out_of_reach
    ranked = {
        layer.name: rationale
        for layer, rationale, priority in zip(layers, rationales, priorities, strict=True)
        if _VALIDATION[priority] == "per_layer" and layer.module not in out_of_reach
    }
    modules = {name: audit.modules.of(name) for name in ranked}
    evidence = find_evidence(audit, ranked, modules)
    alphas = {
        name: module.alpha_at(found.rank)
        for name, found in evidence.items()
        if found.rank and (module := modules[name]) is not None
    }
    return tuple(
        [
            _described(layer, rationale, priority, evidence.get(layer.name), alphas.get(layer.name))
            for layer, rationale, priority in zip(layers, rationales, priorities, strict=True)
        ]
    )


def _described(
    layer: Layer, rationale: Rationale, priority: Priority, evidence: Evidence | None, alpha: float | None
) -> SelectedLayer:
    return SelectedLayer(
        layer.name,
        layer.module,
        priority,
        _VALIDATION[priority],
        evidence.rank or None if evidence else None,
        evidence.source if evidence else None,
        evidence.is_upper_bound if evidence else False,
        alpha,
        rationale.priority_score,
        rationale.spread,
        rationale.spread_threshold,
        rationale.uniform_mult,
        rationale.uniform_mult_threshold,
        rationale.importance_share,
        disagrees(rationale),
        _shown(rationale.failed_reasons) if rationale.failed_reasons else (),
    )


def _priority(rationale: Rationale, used: UsedSettings) -> Priority:
    if rationale.flagged_as_high_impact:
        return "HIGH"
    score = rationale.priority_score
    if score is None:
        return "SKIP"
    if score >= used.number("medium_priority"):
        return "MEDIUM"
    if score >= used.number("low_priority"):
        return "LOW"
    return "SKIP"


def disagrees(rationale: Rationale) -> bool:
    """Return whether the policies really disagree on the layer of this rationale.

    Gradience lists agreeing layers, too (field-notes, 1.4). A full rationale has `meets_spread_threshold`. A condensed
    rationale has `insufficient_spread` among its failures. A hand-made entry may have only the numbers.
    """
    if rationale.meets_spread_threshold is not None:
        return rationale.meets_spread_threshold
    if rationale.failed_reasons is not None:
        return "insufficient_spread" not in rationale.failed_reasons
    spread, threshold = rationale.spread, rationale.spread_threshold
    return spread is not None and spread > 0 and (threshold is None or spread >= threshold)


def _shown(reasons: list[str | None]) -> tuple[str, ...]:
    """Return the reasons that can be shown, at most 20."""
    return tuple(
        [reason for reason in reasons[:20] if reason is not None and reason.isprintable() and len(reason) <= 100]
    )
