"""The result of a selection: its types, and the version of the rules. Pure."""

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

#: Counts the changes that make the same audit give another selection. A config of an older version is written again.
SELECTION_VERSION: Final = 2

Strategy = Literal["flagged", "priority_score", "disagreement", "none"]

Confidence = Literal["high", "medium", "low", "none"]

Priority = Literal["HIGH", "MEDIUM", "LOW", "SKIP"]

Validation = Literal["per_layer", "focused_uniform", "uniform_only"]


class Rung(Struct, frozen=True, gc=False):
    """One rung that was tried: whether it fired, and why or why not, in words with numbers."""

    strategy: Strategy
    fired: bool
    reason: str


class SelectedLayer(Struct, frozen=True, gc=False):
    """One selected layer; the config has the fields in this order, without `alpha`. Numbers are finite or None.

    `rank` is None for a layer that is not validated per layer, that no rank pattern can match, or that the audit has no
    evidence for. With `rank_is_upper_bound` all policies may ask for less. `alpha` keeps the scaling at this rank.
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
    """The selected layers, and the reasons. `settings` has only the settings that shaped it, by dotted key."""

    strategy: Strategy
    confidence: Confidence
    reason: str
    ladder: tuple[Rung, ...]
    layers: tuple[SelectedLayer, ...]
    notes: tuple[str, ...]
    settings: dict[str, int | float | str | bool]
