"""What the PEFT at hand makes of every answer, as JSON: the tests run this under an old PEFT, too."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import peft

from benchd import Audit, BenchSettings, read_audit, select
from benchd.bench.patterns import pattern_keys, target_modules
from benchd.bench.training import plan_training
from corpus import USABLE, Sample
from families import Adapted, adapted, build, tree

#: PEFT tries every key on every module: minutes for 683 keys on 4488. The first layers of a model have it all.
LAYERS_OF_THE_LARGEST = 5

#: No audit suggests this rank, so a module with it has the default.
OTHER = 7

#: Names of which one is what another ends in, or could match another as a pattern.
NAMES = [
    "layers.1.q", "model.layers.1.q", "other.model.layers.1.q", "layers.11.q", "q", "z.q", "zq", "fc.1", "fc_1",
    "x.fc-1", "w.1.0", "w.100", "m.n.o", "m-n.o", "k.m.n.o", "b|c", "b", "c", "y.b|c", "h(1)", "h1", "p[0]", "p0",
    "s*t", "st", "sst", "u+", "uu", "u",
    "$x", "^y", "y2", "back\\slash", '出力 "q"', "d{3}", "ddd", "e?", "e", "*", "(?!)",
    "\\d", "5",
]  # fmt: skip


def read(sample: Sample) -> Audit:
    """The audit of a sample."""
    return read_audit(sample.content, name=sample.name)


def names(audit: Audit) -> list[str]:
    """The modules that the answer is tried on: all, but for the largest audit, which has thousands."""
    if len(audit.modules.names) < 1000:
        return list(audit.modules.names)
    return [name for name in audit.modules.names if int(name.split(".")[2]) < LAYERS_OF_THE_LARGEST]


def of_audit(sample: Sample) -> dict[str, Adapted] | None:
    """Each module's rank and scaling under the answer to an audit; None where there is no model to try it on."""
    audit = read(sample)
    there = set(names(audit))
    model = build(sample.file, there) if there else None
    if model is None:
        return None
    config = plan_training(audit, select(audit), BenchSettings(uniform_rank=OTHER)).arguments
    for key in ("rank_pattern", "alpha_pattern"):
        config[key] = {name: value for name, value in config[key].items() if name in there}
    return adapted(model, {**config, "target_modules": sorted(there)})


def of_name(name: str) -> dict[str, Adapted]:
    """Return each module's rank and scaling if only the module `name` has a custom rank."""
    key = pattern_keys([name], NAMES)[name]
    config: dict[str, Any] = {"r": OTHER, "lora_alpha": OTHER, "target_modules": NAMES}
    return adapted(tree(NAMES), {**config, "rank_pattern": {key: 3}, "alpha_pattern": {key: 6}})


def of_target(name: str) -> dict[str, Adapted]:
    """Each module's rank and scaling where the module `name` alone is to be adapted."""
    return adapted(tree(NAMES), {"r": OTHER, "lora_alpha": OTHER, "target_modules": target_modules([name], NAMES)})


if __name__ == "__main__":
    everything = {
        "peft": peft.__version__,
        "audits": {sample.file: of_audit(sample) for sample in USABLE},
        "names": {name: of_name(name) for name in NAMES},
        "targets": {name: of_target(name) for name in NAMES},
    }
    json.dump(everything, sys.stdout)
