"""Make the two samples of the design: Gradience's own analysis of its numbers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from gradience import cli

#: The policies in Gradience's order, and the names that they have in an audit.
POLICIES = {"energy_90": "energy_90", "energy_threshold": "energy@0.90", "knee": "knee", "erank": "erank"}


class Layer(NamedTuple):
    """One layer: its energy, and the rank that each policy suggests."""

    name: str
    energy: float
    ranks: tuple[int, int, int, int]


#: The design states of the first layer: spread 6 (8 - 2), threshold 4.0 (half of 8), share 0.694 (25/36),
#: multiple 2.083 (three layers: 3 * 25/36), priority score 3.12 (6/4.0 * 2.083).
FLAGGED = [
    Layer("transformer.h.0.self_attn.q_proj", 25.0, (5, 5, 2, 8)),
    Layer("transformer.h.0.mlp.up_proj", 7.0, (3, 3, 2, 5)),
    Layer("transformer.h.1.self_attn.q_proj", 4.0, (2, 2, 2, 3)),
]
#: The design states: nothing is flagged, and of the first three layers one is LOW and two are SKIP. So no multiple
#: reaches 1.5, one score is between 1 and 2, and the other scores are below 1.
FALLBACK = [
    Layer("layer.0.attn", 36.0, (4, 4, 3, 6)),
    Layer("layer.1.mlp", 27.0, (4, 4, 3, 5)),
    Layer("layer.2.norm", 22.0, (3, 3, 3, 5)),
    Layer("layer.3.mlp", 15.0, (3, 3, 2, 3)),
]
SAMPLES = {"flagged": (FLAGGED, "flagged_only"), "fallback": (FALLBACK, "full")}


def write_sample(name: str, file: Path) -> None:
    """Write one sample. The bytes are the same each time, because the time of the analysis is fixed."""
    layers, rationale = SAMPLES[name]
    audited = [
        SimpleNamespace(
            name=layer.name,
            frob_sq=layer.energy,
            rank_suggestions={policy: {"k": rank} for policy, rank in zip(POLICIES, layer.ranks, strict=True)},
        )
        for layer in layers
    ]
    analysis = cli._analyze_policy_disagreements(audited, POLICIES, rationale_verbosity=rationale)
    analysis["computed_at"] = "2026-01-01T00:00:00Z"
    audit = {"n_layers": len(layers), "policy_disagreement_analysis": analysis}
    file.write_text(json.dumps(audit, indent=2) + "\n", encoding="utf-8")
