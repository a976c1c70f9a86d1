"""Notes of a selection: modules that no rank pattern reaches, and layers without a rank. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from benchd.audit.audit import Audit
from benchd.audit.values import listed
from benchd.selection.selection import SelectedLayer

__all__ = ["name_notes", "rank_notes", "reach_note"]


def reach_note(audit: Audit, selected: Sequence[str] = ()) -> str | None:
    """Return the note about modules that no rank pattern reaches, the selected ones first; None without any."""
    out_of_reach = audit.modules.out_of_reach
    if not out_of_reach:
        return None
    first = [module for module in selected if module in out_of_reach]
    names = first + sorted(out_of_reach.difference(first))
    return (
        f"no rank and no target: {listed(names)}; PEFT takes no rank_pattern for fused experts (target_parameters) and "
        "for layers below another adapter. Keep the experts in target_parameters: PEFT trains them at r"
    )


def name_notes(audit: Audit, layers: Sequence[SelectedLayer]) -> list[str]:
    """Return notes about the modules' names; none without an analysis, where nobody asks for modules."""
    if audit.no_analysis is not None:
        return []
    reach = reach_note(audit, [layer.module for layer in layers])
    return [*audit.modules.name_notes, *([reach] if reach else [])]


def rank_notes(audit: Audit, layers: Sequence[SelectedLayer]) -> list[str]:
    """Return notes about layers that should have a rank and have none."""
    without = [layer for layer in layers if layer.validation == "per_layer" and layer.rank is None]
    notes = []
    for zero, text in (
        (False, "no rank in the audit; `gradience audit --disagreement-rationale full` tells it"),
        (True, "the policies suggest rank 0, which PEFT refuses; an untrained or dead layer has no rank"),
    ):
        names = [
            layer.layer_name
            for layer in without
            if (layer.rank_source is not None) is zero and layer.module not in audit.modules.out_of_reach
        ]
        if names:
            notes.append(f"{listed(names)}: {text}")
    return notes
