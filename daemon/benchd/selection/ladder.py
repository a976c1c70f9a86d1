"""`Audit` -> `Selection`: the ladder, priorities, ranks and their sources (spec, section 3). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from benchd.audit.audit import Audit, Layer
from benchd.audit.shapes import Rationale
from benchd.selection.evidence import Evidence, find_evidence
from benchd.selection.selection import (
    Confidence,
    Priority,
    Rung,
    SelectedLayer,
    Selection,
    Strategy,
    Validation,
)
from benchd.settings.keys import SelectionSettings
from benchd.values import listed

__all__ = ["reach_note", "select"]


_CONFIDENCE: Final[dict[Strategy, Confidence]] = {
    "flagged": "high",
    "priority_score": "medium",
    "disagreement": "low",
    "none": "none",
}
_VALIDATION: Final[dict[Priority, Validation]] = {
    "HIGH": "per_layer",
    "MEDIUM": "per_layer",
    "LOW": "focused_uniform",
    "SKIP": "uniform_only",
}


def select(audit: Audit, settings: SelectionSettings | None = None) -> Selection:
    """Climb down the ladder and describe what was chosen. Never raises for any `Audit`."""
    climb = _Climb(audit, settings or SelectionSettings())
    strategy, layers = climb.down()
    flagged = strategy == "flagged"
    selected = tuple([climb.describe(layer, flagged=flagged) for layer in layers])
    return Selection(
        strategy=strategy,
        confidence=_CONFIDENCE[strategy],
        reason=climb.ladder[-1].reason,
        ladder=tuple(climb.ladder),
        layers=selected,
        notes=(*audit.notes, *_name_notes(audit, selected), *_rank_notes(audit, selected)),
        settings=dict(sorted(climb.used.items())) if climb.used else {},
    )


class _Climb:
    """One way down the ladder; remembers the rungs tried and the settings looked at."""

    def __init__(self, audit: Audit, settings: SelectionSettings) -> None:
        self.audit = audit
        self.ladder: list[Rung] = []
        self.used: dict[str, int | float | str | bool] = {}
        self._settings = settings

    def setting(self, key: str) -> int | float | str | bool:
        value: int | float | str | bool = getattr(self._settings, key)
        self.used[f"selection.{key}"] = value
        return value

    def number(self, key: str) -> float:
        value = self.setting(key)
        assert isinstance(value, int | float)  # noqa: S101 - tells the type checker what the settings' own types say
        return value

    def rung(self, strategy: Strategy, reason: str, *, fired: bool) -> None:
        self.ladder.append(Rung(strategy, fired, reason))

    def down(self) -> tuple[Strategy, tuple[Layer, ...]]:
        audit = self.audit
        if audit.no_analysis is not None:
            self.rung("none", f"uniform only: {audit.no_analysis}", fired=True)
            return "none", ()
        if audit.flagged:
            self.rung("flagged", f"{_of(len(audit.flagged), audit)} flagged as high-impact", fired=True)
            return "flagged", audit.flagged
        self.rung("flagged", f"{_of(0, audit)} flagged: {_why_not_flagged(audit)}", fired=False)
        if audit.is_flat and self.setting("on_flat") == "uniform_only":
            reason = 'uniform only: the energy distribution is flat and selection.on_flat is "uniform_only"'
            self.rung("none", reason, fired=True)
            return "none", ()
        return self._fallbacks()

    def _fallbacks(self) -> tuple[Strategy, tuple[Layer, ...]]:
        candidates, whose = self.audit.candidates, ""
        if candidates and self.setting("require_disagreement"):
            candidates = tuple(layer for layer in candidates if disagrees(layer.rationale))
            whose = " on which the policies disagree"
        total = f"{_count(len(candidates), 'layer')}{whose}"
        # Not looked at, not recorded: another top_n can't change an answer that has nothing to choose from.
        top_n = int(self.number("top_n")) if candidates else 0
        scores = [layer.rationale.priority_score for layer in candidates]
        scored = [(score, layer) for score, layer in zip(scores, candidates, strict=True) if score and score > 0]
        if scored and top_n:
            scored.sort(key=lambda pair: -pair[0])  # a stable sort: ties keep the audit's order
            top = scored[:top_n]
            reason = (
                f"the top {len(top)} of {total} by priority score ({_range(top)}); "
                f"{_count(len(scored), 'score')} above 0, top_n = {top_n}"
            )
            self.rung("priority_score", reason, fired=True)
            return "priority_score", tuple(layer for _, layer in top)
        why = "top_n = 0" if scored else f"none of {total} has a priority score above 0"
        self.rung("priority_score", why if candidates else f"there are no layers{whose}", fired=False)
        if candidates and top_n:
            first = candidates[:top_n]
            reason = f"the first {len(first)} of {total}, in the audit's order; top_n = {top_n}"
            self.rung("disagreement", reason, fired=True)
            return "disagreement", first
        self.rung("disagreement", "top_n = 0" if candidates else f"there are no layers{whose}", fired=False)
        reason = "selection.top_n is 0" if candidates else f"the analysis has no layers{whose}"
        self.rung("none", f"uniform only: {reason}", fired=True)
        return "none", ()

    def describe(self, layer: Layer, *, flagged: bool) -> SelectedLayer:
        rationale = layer.rationale
        priority = "HIGH" if flagged else self._priority(rationale)
        validation = _VALIDATION[priority]
        evidence, alpha = self._rank(layer, rationale) if validation == "per_layer" else (None, None)
        return SelectedLayer(
            layer.name,
            layer.module,
            priority,
            validation,
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
            _failed_reasons(rationale),
        )

    def _priority(self, rationale: Rationale) -> Priority:
        if rationale.flagged_as_high_impact:
            return "HIGH"
        score = rationale.priority_score
        if score is None:
            return "SKIP"
        if score >= self.number("medium_priority"):
            return "MEDIUM"
        if score >= self.number("low_priority"):
            return "LOW"
        return "SKIP"

    def _rank(self, layer: Layer, rationale: Rationale) -> tuple[Evidence | None, int | float | None]:
        """Return the evidence for a layer's rank, and the alpha for that rank; neither for a module out of reach."""
        if layer.module in self.audit.out_of_reach:
            return None, None
        module = self.audit.module(layer.name)
        evidence = find_evidence(self.audit, layer.name, rationale, module.rank if module else None)
        if module is None or evidence is None or not evidence.rank:
            return evidence, None
        return evidence, module.alpha_at(evidence.rank)


def disagrees(rationale: Rationale) -> bool:
    """Whether the policies really disagree on the layer of this rationale.

    Gradience lists agreeing layers too (field-notes, 1.4). Its full rationale says `meets_spread_threshold`, its
    condensed one has `insufficient_spread` among the failures; a hand-made entry may have only the numbers.
    """
    if rationale.meets_spread_threshold is not None:
        return rationale.meets_spread_threshold
    if rationale.failed_reasons is not None:
        return "insufficient_spread" not in rationale.failed_reasons
    spread, threshold = rationale.spread, rationale.spread_threshold
    return spread is not None and spread > 0 and (threshold is None or spread >= threshold)


def _failed_reasons(rationale: Rationale) -> tuple[str, ...]:
    reasons = rationale.failed_reasons
    if not reasons:
        return ()
    return tuple(
        [reason for reason in reasons[:20] if reason is not None and reason.isprintable() and len(reason) <= 100]
    )


def reach_note(audit: Audit, selected: Sequence[str] = ()) -> str | None:
    """Return the note about modules that no rank pattern reaches, the selected ones first; None without any."""
    if not audit.out_of_reach:
        return None
    first = [module for module in selected if module in audit.out_of_reach]
    names = first + sorted(audit.out_of_reach.difference(first))
    return (
        f"no rank and no target: {listed(names)}; PEFT takes no rank_pattern for fused experts (target_parameters) and "
        "for layers below another adapter. Keep the experts in target_parameters: PEFT trains them at r"
    )


def _name_notes(audit: Audit, layers: Iterable[SelectedLayer]) -> list[str]:
    if audit.no_analysis is not None:
        return []  # few who read such an answer ask for modules, and to look at them takes time
    reach = reach_note(audit, [layer.module for layer in layers])
    return [*audit.name_notes, *([reach] if reach else [])]


def _rank_notes(audit: Audit, layers: Iterable[SelectedLayer]) -> list[str]:
    without = [layer for layer in layers if layer.validation == "per_layer" and layer.rank is None]
    notes = []
    for zero, text in (
        (False, "no rank in the audit; `gradience audit --disagreement-rationale full` tells it"),
        (True, "the policies suggest rank 0, which PEFT refuses; an untrained or dead layer has no rank"),
    ):
        names = [
            layer.layer_name
            for layer in without
            if (layer.rank_source is not None) is zero and layer.module not in audit.out_of_reach
        ]
        if names:
            notes.append(f"{listed(names)}: {text}")
    return notes


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
