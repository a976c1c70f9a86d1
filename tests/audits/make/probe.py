"""Make audits with Bench's probe stage: a tiny model with random weights learns a dozen sentences."""

from __future__ import annotations

import contextlib
import importlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedModel

import families
import stand_ins
from recipes import ADAPTERS, BERT, DISTILBERT


@dataclass(frozen=True)
class Probe:
    """The recipe of one probe."""

    model: Callable[[], PreTrainedModel]
    targets: Sequence[str]
    rank: int
    alpha: float
    seed: int
    steps: int


PROBES = {
    "distilbert_r16_seed42": Probe(partial(families.distilbert, 6, 32), DISTILBERT, 16, 16, seed=42, steps=40),
    "distilbert_r32_seed7": Probe(partial(families.distilbert, 6, 64), DISTILBERT, 32, 64, seed=7, steps=60),
    "bert_r8_seed123": Probe(partial(families.bert, 4, 16), BERT, 8, 16, seed=123, steps=80),
    # The learning rate starts at 0: one step does not change the adapter, so Bench marks the probe as invalid.
    "bert_r16_untrained": Probe(partial(families.bert, 2, 32), ("query", "value"), 16, 32, seed=0, steps=1),
}


def train_probe(name: str, out: Path) -> Path:
    """Run Bench's probe stage in `out/probes/NAME` and return the audit that it writes."""
    probe = PROBES[name]
    folder = out / "probes" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.manual_seed(probe.seed)
    stand_ins.make_model(folder / "model", probe.model())
    stand_ins.make_data(folder / "data", "tiny")
    config = {
        "model": {"name": "model", "type": "seqcls"},
        "task": {"dataset": "data", "subset": "tiny"},
        "train": {
            "seed": probe.seed,
            "max_steps": probe.steps,
            "learning_rate": 0.005,
            "weight_decay": 0.0,
            "per_device_train_batch_size": 4,
        },
        "lora": {
            "probe_r": probe.rank,
            "alpha": probe.alpha,
            "dropout": 0.0,
            "target_modules": list(probe.targets),
        },
        "compression": {"allowed_ranks": [1, 2, 4, 8, 16, 32]},
        "runtime": {"device": "cpu"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with _bench(folder) as bench:
        torch.manual_seed(probe.seed)  # Bench draws the adapter's first weights before it sets the seed
        bench.run_probe_training("config.yaml", "run")
    return folder / "run" / f"probe_r{probe.rank}" / "audit.json"


def audit_as_probe(name: str, out: Path) -> Path:
    """Let Bench audit the adapter `name`, as it audits a probe after the training."""
    adapter = ADAPTERS[name]
    config = {
        "lora": {"probe_r": adapter.rank},
        "train": {"seed": adapter.seed},
        "compression": {"allowed_ranks": [1, 2, 4, 8, 16, 32]},
    }
    with _bench(out) as bench:
        return out / bench.run_probe_audit(Path("adapters", name), config)


@contextlib.contextmanager
def _bench(folder: Path) -> Iterator[Any]:
    """Give Bench's probe module, with `folder` as working directory and Bench's output in `folder/bench.log`.

    The audit names its adapter by the path that Bench was given. A relative path keeps the machine's folders out.
    """
    stand_ins.mend_bench()
    bench = importlib.import_module("gradience.bench.probe")
    with (
        (folder / "bench.log").open("w", encoding="utf-8") as log,
        contextlib.chdir(folder),
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        yield bench
