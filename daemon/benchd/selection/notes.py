"""Write the notes of a selection: modules that no rank pattern reaches, and layers without a rank. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from benchd.audit.audit import Audit
from benchd.audit.values import listed
from benchd.selection.selection import SelectedLayer

__all__ = ["name_notes", "rank_notes"]


def name_notes(audit: Audit, selected: Sequence[str] = ()) -> list[str]:
    """Return notes about names: removed wrapper parts, several names for one module, modules out of reach."""
    modules = audit.modules
    notes = []
    if modules.wrappers:
        parts = ", ".join(sorted(modules.wrappers))
        notes.append(f"wrapper parts are removed from the names, because no unwrapped model has them: {parts}")
    if modules.merged:
        merged = listed(sorted(modules.merged))
        notes.append(f"two names in the audit are one module, for which the first counts: {merged}")
    if modules.out_of_reach:
        notes.append(_reach_note(modules.out_of_reach, selected))
    return notes


def rank_notes(audit: Audit, layers: Sequence[SelectedLayer]) -> list[str]:
    """Return notes about layers that should have a rank but have none."""
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


def _reach_note(out_of_reach: frozenset[str], selected: Sequence[str]) -> str:
    """Return the note about modules that no rank pattern reaches, the selected ones first."""
    first = [module for module in selected if module in out_of_reach]
    names = first + sorted(out_of_reach.difference(first))
    return (
        f"no rank and no target: {listed(names)}; PEFT takes no rank_pattern for fused experts (target_parameters) and "
        "for layers below another adapter. Keep the experts in target_parameters: PEFT trains them at r"
    )
