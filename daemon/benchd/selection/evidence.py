"""Find the evidence for the rank of each layer: the first in the audit, in a fixed order (spec, section 3). Pure.

Bench validates the rank that it gets, so the rank must not be too low. It is the largest rank that any policy suggests.
That is never less than the layer's spread, the largest rank minus the smallest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from benchd.audit.audit import Audit
from benchd.audit.modules import Module
from benchd.audit.shapes import Rationale
from benchd.audit.values import MAX_RANK, largest_rank, whole

__all__ = ["Evidence", "RankSource", "find_evidence"]

RankSource = Literal["k_values", "layer_rows", "rationale", "suggestions", "policies"]

#: Maximum relative error of floats: those that Gradience computes, and those that a person has rounded.
_COMPUTED: Final = 1e-9
_ROUNDED: Final = 0.01


class Evidence(NamedTuple):
    """A rank (0 for a dead layer), its source, and whether it is only an upper bound of the largest `k`."""

    rank: int
    source: RankSource
    is_upper_bound: bool = False


def find_evidence(
    audit: Audit, rationales: Mapping[str, Rationale], modules: Mapping[str, Module | None]
) -> dict[str, Evidence]:
    """Return the evidence for the rank of each layer, by its name in the audit. Omits layers without evidence.

    A rank is at least the layer's spread and at most the rank of the module's own adapter.
    """
    asked = [largest_rank(rationale.k_values) for rationale in rationales.values()]
    found = {}
    for (name, rationale), k in zip(rationales.items(), asked, strict=True):
        module = modules[name]
        most = (module.rank if module else None) or MAX_RANK
        evidence = _derived_or_suggested(audit, name, rationale, most) if k is None else Evidence(k, "k_values")
        if evidence is not None:
            rank = evidence.rank
            if rationale.spread is not None and rationale.spread > rank:
                rank = whole(rationale.spread) or rank
            rank = min(rank, most)
            found[name] = evidence if rank == evidence.rank else evidence._replace(rank=rank)
    return found


def _derived_or_suggested(audit: Audit, name: str, rationale: Rationale, most: int) -> Evidence | None:
    """Return the evidence outside of `k_values`."""
    row = audit.modules.row_ranks(name)
    if row and _has_all_policies(row, rationale):
        return Evidence(max(row), "layer_rows")
    derived = _derived(audit, name, rationale, most)
    if derived is not None:
        return derived
    suggested = audit.suggested_rank(name)
    if suggested is not None:
        return Evidence(suggested, "suggestions")
    if row:
        return Evidence(max(row), "layer_rows")
    policies = audit.policy_ranks(name)
    return Evidence(max(policies), "policies") if policies else None


def _has_all_policies(row: list[int], rationale: Rationale) -> bool:
    """Return whether a row has all policies that the analysis compared. Then its ranks differ by the spread.

    The rows of Bench's own audits have only the energy policy.
    """
    if rationale.spread is None:
        return True
    return max(row) - min(row) >= rationale.spread


def _derived(audit: Audit, name: str, rationale: Rationale, most: int) -> Evidence | None:
    """Return the largest `k`, derived from Gradience's own formulas (field-notes, section 2).

        spread_threshold = max(base, factor * largest k)
        priority_score   = spread / spread_threshold * uniform_mult

    If the threshold is the base, the largest `k` is at most base / factor. It is also the smallest `k` plus the spread,
    so it is at most any policy's `k` plus the spread.
    """
    base, factor = audit.spread_constants
    threshold = rationale.spread_threshold or _threshold(rationale)
    if threshold is None or factor <= 0 or base < 0 or threshold < base * (1 - _ROUNDED):
        return None  # no threshold, or one that Gradience would not compute
    k = whole(round(min(threshold / factor, 2.0 * MAX_RANK)))
    if k is None:
        return None
    if threshold > base * (1 + _COMPUTED) and k * factor > base:
        return Evidence(k, "rationale")
    bound = whole(math.floor(min(base / factor, MAX_RANK) + _COMPUTED))
    if not bound:
        return None
    known = audit.policy_ranks(name) or audit.modules.row_ranks(name)
    spread = whole(rationale.spread) or 0
    least = max([spread, *known])
    bound = min([bound, most, *(k + spread for k in known)])
    return Evidence(max(bound, least), "rationale", is_upper_bound=bound > least)


def _threshold(rationale: Rationale) -> float | None:
    """Return the threshold that the priority score was computed with. None if the score does not determine it."""
    spread, mult, score = rationale.spread, rationale.uniform_mult, rationale.priority_score
    if not spread or not mult or not score or spread < 0 or mult < 0 or score < 0:
        return None
    threshold = spread * mult / score
    return threshold if math.isfinite(threshold) else None
