"""TRL, unsloth and LLaMA-Factory: their files make the same adapter as `benchd export --peft`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch

import saved
from corpus import Sample
from families import adapted
from saved import SAMPLES, arguments_of, found, model_of, resumed, trained_anew, write_adapter_config

each_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.file)


@each_sample
def test_adapter_config(sample: Sample, tmp_path: Path) -> None:
    """PEFT reads the folder without a warning, and every module gets the rank and the scaling of `--peft`."""
    arguments = arguments_of(sample)
    write_adapter_config(sample, tmp_path / "new")
    model = trained_anew(sample, tmp_path / "new")
    assert found(model) == adapted(model_of(sample), arguments)
    assert arguments["rank_pattern"]
    assert any(value.requires_grad for value in model.parameters())


@each_sample
def test_empty_adapter(sample: Sample, tmp_path: Path) -> None:
    """An untrained adapter can be saved and resumed: it changes nothing, and keeps ranks, scalings and targets."""
    write_adapter_config(sample, tmp_path / "new")
    new = trained_anew(sample, tmp_path / "new")
    new.save_pretrained(tmp_path / "empty")
    again = resumed(sample, tmp_path / "empty")
    assert found(again) == found(new)
    weights = {name: value for name, value in again.named_parameters() if "lora_" in name}
    assert all(value.requires_grad for value in weights.values())
    assert all(value.abs().max() == 0 for name, value in weights.items() if ".lora_B." in name)
    assert all(value.abs().max() > 0 for name, value in weights.items() if ".lora_A." in name)
    others = [value for name, value in again.named_parameters() if name not in weights]
    assert not any(value.requires_grad for value in others)
    tokens = torch.tensor([[1, 2, 3]])
    assert torch.equal(again.eval()(tokens).logits, model_of(sample).eval()(tokens).logits)


@pytest.mark.parametrize("task", ["CAUSAL_LM", None])
def test_task_type(task: str | None, tmp_path: Path) -> None:
    """The task type is optional: without it PEFT saves the model's class with the adapter, and resumes the same."""
    [sample] = [sample for sample in SAMPLES if "llama4" in sample.file]
    write_adapter_config(sample, tmp_path / "new", **({"task_type": task} if task else {}))
    new = trained_anew(sample, tmp_path / "new")
    new.save_pretrained(tmp_path / "empty")
    assert found(resumed(sample, tmp_path / "empty")) == found(new)


def test_inference_mode(tmp_path: Path) -> None:
    """With `inference_mode: true`, as in every saved adapter, PEFT trains nothing: the export must not copy it."""
    sample = SAMPLES[0]
    write_adapter_config(sample, tmp_path / "new", inference_mode=True)
    frozen = trained_anew(sample, tmp_path / "new")
    assert not any(value.requires_grad for name, value in frozen.named_parameters() if "lora_" in name)


@pytest.mark.timeout(300)
def test_old_peft(tmp_path: Path) -> None:
    """PEFT 0.13 reads the same files, and makes and resumes the same adapters."""
    for sample in SAMPLES:
        write_adapter_config(sample, tmp_path / sample.file)
    path = Path(sys.prefix, "peft-0.13")
    assert path.is_dir(), f"{path} is missing; `make test-interop` puts it there"
    command = [sys.executable, saved.__file__, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    old = json.loads(done.stdout)
    assert old["peft"].startswith("0.13")
    assert peft.__version__ != old["peft"]
    for sample in SAMPLES:
        expected = {name: list(module) for name, module in adapted(model_of(sample), arguments_of(sample)).items()}
        assert old["new"][sample.file] == old["resumed"][sample.file] == expected, sample.file
