"""Choose the layers of an audit with a ladder of rules, and record the reasons (spec, section 3). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from benchd.audit.audit import Audit
from benchd.audit.layers import Layer
from benchd.selection.layers import describe, disagrees
from benchd.selection.notes import name_notes, rank_notes
from benchd.selection.selection import Confidence, Rung, Selection, Strategy
from benchd.selection.used import UsedSettings
from benchd.settings.keys import SelectionSettings

__all__ = ["select"]

_CONFIDENCE: Final[dict[Strategy, Confidence]] = {
    "flagged": "high",
    "priority_score": "medium",
    "disagreement": "low",
    "none": "none",
}


def select(audit: Audit, settings: SelectionSettings | None = None) -> Selection:
    """Return the layers of the first rung that fires, with ranks and reasons. Never raises for any `Audit`.

    `settings` has the thresholds and limits of the rungs; by default it is `SelectionSettings()`.
    """
    used = UsedSettings(settings or SelectionSettings())
    ladder = _Ladder(audit, used)
    strategy, layers = ladder.climb_down()
    selected = describe(audit, layers, used, flagged=strategy == "flagged")
    # Without an analysis the names are not needed.
    names = [] if audit.no_analysis is not None else name_notes(audit, [layer.module for layer in selected])
    return Selection(
        strategy=strategy,
        confidence=_CONFIDENCE[strategy],
        reason=ladder.rungs[-1].reason,
        ladder=tuple(ladder.rungs),
        layers=selected,
        notes=(*audit.notes, *names, *rank_notes(audit, selected)),
        settings=dict(sorted(used.read.items())),
    )


class _Ladder:
    """The rungs that were tried. The last one fired."""

    def __init__(self, audit: Audit, used: UsedSettings) -> None:
        self.rungs: list[Rung] = []
        self._audit = audit
        self._used = used

    def climb_down(self) -> tuple[Strategy, Sequence[Layer]]:
        """Try one rung after another. Return the strategy of the rung that fires, and its layers."""
        audit = self._audit
        if audit.no_analysis is not None:
            return self._fire("none", f"uniform only: {audit.no_analysis}")
        if audit.flagged:
            return self._fire("flagged", f"{_of(len(audit.flagged), audit)} flagged as high-impact", audit.flagged)
        self._pass_by("flagged", f"{_of(0, audit)} flagged: {_why_not_flagged(audit)}")
        if audit.is_flat and self._used.value("on_flat") == "uniform_only":
            return self._fire(
                "none", 'uniform only: the energy distribution is flat and selection.on_flat is "uniform_only"'
            )
        return self._fall_back()

    def _fire(self, strategy: Strategy, reason: str, layers: Sequence[Layer] = ()) -> tuple[Strategy, Sequence[Layer]]:
        self.rungs.append(Rung(strategy, True, reason))
        return strategy, layers

    def _pass_by(self, strategy: Strategy, reason: str) -> None:
        self.rungs.append(Rung(strategy, False, reason))

    def _fall_back(self) -> tuple[Strategy, Sequence[Layer]]:
        """Try the rungs below `flagged`: by priority score, then in the audit's order."""
        candidates, scored, whose = self._candidates()
        total = f"{_count(len(candidates), 'layer')}{whose}"
        # Without candidates `top_n` has no effect, so it is not recorded.
        top_n = int(self._used.number("top_n")) if candidates else 0
        if scored and top_n:
            scored.sort(key=lambda pair: -pair[0])  # a stable sort: ties keep the audit's order
            top = scored[:top_n]
            reason = (
                f"the top {len(top)} of {total} by priority score ({_range(top)}); "
                f"{_count(len(scored), 'score')} above 0, top_n = {top_n}"
            )
            return self._fire("priority_score", reason, [layer for _, layer in top])
        why = "top_n = 0" if scored else f"none of {total} has a priority score above 0"
        self._pass_by("priority_score", why if candidates else f"there are no layers{whose}")
        if candidates and top_n:
            first = candidates[:top_n]
            reason = f"the first {len(first)} of {total}, in the audit's order; top_n = {top_n}"
            return self._fire("disagreement", reason, first)
        self._pass_by("disagreement", "top_n = 0" if candidates else f"there are no layers{whose}")
        reason = "selection.top_n is 0" if candidates else f"the analysis has no layers{whose}"
        return self._fire("none", f"uniform only: {reason}")

    def _candidates(self) -> tuple[list[Layer], list[tuple[float, Layer]], str]:
        """Return the layers to choose from, those with a priority score above 0, and words that describe the layers.

        Each rationale is decoded once and not kept, because there can be thousands.
        """
        every = self._audit.candidates
        must_disagree = bool(every and self._used.value("require_disagreement"))
        candidates: list[Layer] = []
        scored: list[tuple[float, Layer]] = []
        for layer in every:
            rationale = layer.rationale
            if must_disagree and not disagrees(rationale):
                continue
            candidates.append(layer)
            if rationale.priority_score and rationale.priority_score > 0:
                scored.append((rationale.priority_score, layer))
        return candidates, scored, " on which the policies disagree" if must_disagree else ""


def _why_not_flagged(audit: Audit) -> str:
    if not audit.is_flat:
        return "no layer meets all of Gradience's high-impact criteria" if audit.candidates else "the audit lists none"
    top, threshold = audit.max_uniform_mult, audit.flat_threshold
    if top is None:
        return "the energy distribution is flat"
    below = f" < {_times(threshold)}" if threshold is not None else ""
    return f"the energy distribution is flat (max {_times(top)}{below})"


def _times(number: float) -> str:
    return f"{number:.2f}x" if number < 1e6 else f"{number:.3g}x"


def _of(count: int, audit: Audit) -> str:
    return f"{count} of {_count(audit.total_layers, 'layer')} {'is' if 1 in (count, audit.total_layers) else 'are'}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _range(top: list[tuple[float, Layer]]) -> str:
    first, last = f"{top[0][0]:.3g}", f"{top[-1][0]:.3g}"
    return first if first == last else f"{first} to {last}"
