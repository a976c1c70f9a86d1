"""Resume a real Bench run from a probe audit, offline. Run as a program, this file is the command `gradience-bench`.

Bench 0.11.0 reads ranks for single modules from one place: the audit of its probe. With `--resume` it takes an
existing audit, if `stage_state.json` names the audit stage as completed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import yaml
from safetensors import safe_open

from stand_ins import make_data, make_model, mend_bench

#: Bench's exit codes for a finished run: 2 says that the probe's accuracy is low, which two steps can't change.
_FINISHED = (0, 2)


def tiny_base(folder: Path) -> dict[str, dict[str, Any]]:
    """Make a model and a data set below `folder`. Return the tables for `[bench.base]` that train on them."""
    make_model(folder / "model")
    make_data(folder / "data", "tiny")
    return {
        "model": {"name": str(folder / "model"), "type": "seqcls"},
        "task": {"dataset": str(folder / "data"), "subset": "tiny"},
        "train": {"seed": 42, "max_steps": 2, "learning_rate": 5e-5, "per_device_train_batch_size": 4},
        "lora": {"dropout": 0.0},
        "runtime": {"device": "cpu"},
    }


def resume(bench_audit: dict[str, Any], config: dict[str, Any] | Path, folder: Path) -> dict[str, int]:
    """Resume a Bench run in `folder`/run from `bench_audit`, as a user would.

    Returns the rank of each module that Bench's per_layer variant trained, by the module's name. The result is empty if
    Bench trained no per_layer variant. Raises AssertionError if Bench fails.
    """
    folder.mkdir(exist_ok=True)
    if isinstance(config, dict):
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
    else:
        path = config
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    rank = config["lora"]["probe_r"]
    run = folder / "run"
    (run / f"probe_r{rank}").mkdir(parents=True)
    (run / f"probe_r{rank}" / "audit.json").write_text(json.dumps(bench_audit), encoding="utf-8")
    state = {"stages": {f"probe_r{rank}_audited": {"completed": True}}}
    (run / "stage_state.json").write_text(json.dumps(state), encoding="utf-8")

    arguments = ["--config", str(path), "--output", str(run), "--resume", "--verbose"]
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        cwd=folder,  # Bench makes folders in the working directory and in the home folder
        env={**os.environ, "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in _FINISHED, done.stdout[-2000:] + done.stderr[-4000:]
    assert "Skipping probe audit" in done.stdout, "Bench audited the probe itself"
    return adapter_ranks(run / "per_layer") if (run / "per_layer").exists() else {}


def adapter_ranks(adapter: Path) -> dict[str, int]:
    """Return the rank of each module in a saved adapter, by the module's name."""
    ending = ".lora_A.weight"
    with safe_open(adapter / "adapter_model.safetensors", "pt") as weights:
        return {
            name.removeprefix("base_model.model.").removesuffix(ending): weights.get_slice(name).get_shape()[0]
            for name in weights.keys()  # noqa: SIM118 (no mapping)
            if name.endswith(ending)
        }


def write_command(folder: Path) -> Path:
    """Write a program `gradience-bench` into `folder`, for commands that a shell runs. Return its path.

    Its exit code is 0 even if Bench finds that the probe's accuracy is low.
    """
    command = folder / "gradience-bench"
    command.write_text(f'#!/bin/sh\n"{sys.executable}" "{__file__}" "$@" || [ $? -eq 2 ]\n', encoding="utf-8")
    command.chmod(0o755)
    return command


def main() -> int:
    """Run Bench's command, with the two changes in memory that Bench 0.11.0 needs to start."""
    mend_bench()  # a syntax error in its reports, before Python 3.12
    import peft
    import torch
    import transformers
    from gradience.bench import protocol

    # Bench imports these names for type checkers only, and uses them: NameError.
    missing = {
        "torch": torch,
        "AutoTokenizer": transformers.AutoTokenizer,
        "AutoModelForSequenceClassification": transformers.AutoModelForSequenceClassification,
        "LoraConfig": peft.LoraConfig,
        "get_peft_model": peft.get_peft_model,
        "TaskType": peft.TaskType,
    }
    for name, value in missing.items():
        assert not hasattr(protocol, name), f"Bench imports {name} now; remove it here"
        setattr(protocol, name, value)
    from gradience.bench.run_bench import main as gradience_bench

    return gradience_bench()


if __name__ == "__main__":
    sys.exit(main())
