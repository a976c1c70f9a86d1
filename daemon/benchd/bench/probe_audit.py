"""Make the probe audit from which `gradience-bench --resume` reads the ranks of an answer. Pure."""

from __future__ import annotations

from typing import Any

from benchd.audit.audit import Audit
from benchd.audit.matching import endings
from benchd.bench.patterns import pattern_keys
from benchd.bench.training import Training
from benchd.settings.keys import BenchSettings

__all__ = ["bench_audit", "bench_audit_notes"]


def bench_audit(audit: Audit, training: Training, settings: BenchSettings) -> dict[str, Any]:
    """Return the probe audit from which `gradience-bench --resume` reads the ranks of its per-layer variant.

    It lists every module that Bench trains, because Bench gives the other modules the smallest rank of the pattern. It
    has the means of the audit, which Bench needs to decide on more uniform variants. It omits the audit's global
    suggestions: Bench would make uniform variants from them, and may then drop the per-layer variant (field-notes,
    section 4). Raises ValueError if there is no module, because Bench fails with an empty pattern.
    """
    ranks = _trained_by_bench(audit, training, settings)
    if not ranks:
        raise ValueError("there is no module whose rank Bench could take")
    keys = pattern_keys(list(ranks), audit.modules.adapted)
    means = audit.means
    return {
        **({"probe_rank": audit.modules.largest_rank} if audit.modules.largest_rank else {}),
        **({"summary": means} if means else {}),
        "per_layer_suggestions": {"rank_pattern": {keys[name]: rank for name, rank in ranks.items()}},
    }


def _trained_by_bench(audit: Audit, training: Training, settings: BenchSettings) -> dict[str, int]:
    """Return the ranks of the modules that the config's `lora.target_modules` lets Bench train."""
    names = set(audit.modules.names)
    asked = (settings.base.get("lora") or {}).get("target_modules")
    if isinstance(asked, list) and not settings.focus:
        targets = set(asked)
        names = {name for name in names if not targets.isdisjoint(endings(name))}
    return {name: rank for name, rank in training.ranks.items() if name in names}


def bench_audit_notes(audit: Audit, training: Training, settings: BenchSettings) -> list[str]:
    """Return notes about how Bench's rules for ranks deviate from the answer (field-notes, section 4)."""
    lora, compression = settings.base.get("lora") or {}, settings.base.get("compression") or {}
    probe = lora.get("probe_r") or audit.modules.largest_rank
    ranks = list(_trained_by_bench(audit, training, settings).values())
    if not ranks or not probe:
        return []
    notes = []
    allowed = compression.get("allowed_ranks") or sorted({*ranks, probe})
    lowered = [max([each for each in allowed if each <= min(rank, probe)], default=min(allowed)) for rank in ranks]
    changed = sorted({rank for rank, other in zip(ranks, lowered, strict=True) if rank != other})
    if changed:
        notes.append(
            f"Bench lowers ranks to lora.probe_r ({probe}) and then to compression.allowed_ranks: "
            f"it changes {', '.join(map(str, changed))}"
        )
    mean = sum(lowered) / len(lowered)
    if min(allowed, key=lambda rank: abs(rank - mean)) >= probe:
        notes.append(
            f"Bench drops its per-layer variant: the mean rank {mean:.3g} is nearest to lora.probe_r ({probe}); "
            f"set probe_r = {2 * probe} in [bench.base.lora]"
        )
    return notes
