"""Declare the result of a selection and the version of its rules. Pure."""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from benchd.selection.evidence import RankSource

__all__ = [
    "SELECTION_VERSION",
    "Confidence",
    "Priority",
    "Rung",
    "SelectedLayer",
    "Selection",
    "Strategy",
    "Validation",
]

#: Version of the rules. It increases when any audit would get another selection. benchd replaces older configs.
SELECTION_VERSION: Final = 2

Strategy = Literal["flagged", "priority_score", "disagreement", "none"]

Confidence = Literal["high", "medium", "low", "none"]

Priority = Literal["HIGH", "MEDIUM", "LOW", "SKIP"]

Validation = Literal["per_layer", "focused_uniform", "uniform_only"]


class Rung(Struct, frozen=True, gc=False):
    """One rung of the ladder: its strategy, whether it fired, and the reason in words."""

    strategy: Strategy
    fired: bool
    reason: str


class SelectedLayer(Struct, frozen=True, gc=False):
    """One selected layer. The config has the fields in this order, without `alpha`. Numbers are finite or None.

    `rank` is None if the layer is not validated per layer, if no rank pattern can match it, or if the audit has no
    evidence for a rank. If `rank_is_upper_bound` is true, all policies may suggest less. `alpha` keeps the scaling of
    the module at this rank, or is None.
    """

    layer_name: str
    module: str
    priority: Priority
    validation: Validation
    rank: int | None
    rank_source: RankSource | None
    rank_is_upper_bound: bool
    alpha: float | None
    priority_score: float | None
    spread: float | None
    spread_threshold: float | None
    uniform_mult: float | None
    uniform_mult_threshold: float | None
    importance_share: float | None
    disagrees: bool
    failed_reasons: tuple[str, ...]


class Selection(Struct, frozen=True, gc=False):
    """The selected layers and the reasons. `settings` has only the settings that affected it, by dotted key."""

    strategy: Strategy
    confidence: Confidence
    reason: str
    ladder: tuple[Rung, ...]
    layers: tuple[SelectedLayer, ...]
    notes: tuple[str, ...]
    settings: dict[str, int | float | str | bool]
