"""Bench: its validator accepts every runnable config, and its probe trains the modules and ranks of the config."""

from __future__ import annotations

import importlib
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from gradience.bench.config_schema import validate_config
from safetensors.torch import load_file

from benchd import BenchSettings, bench_config, read_audit, select
from benchd.settings.reading import parse_settings
from corpus import USABLE, Sample, content
from stand_ins import make_data, make_model, mend_bench

BASE = """
[bench.base]
model = { name = "tiny", type = "seqcls" }
task = { dataset = "glue", subset = "sst2" }
train = { seed = 42, max_steps = 2, learning_rate = 5e-5, weight_decay = 1e-9, per_device_train_batch_size = 4 }
lora = { dropout = 0.0 }
runtime = { device = "cpu" }
"""


def runnable(data: bytes, **changes: Any) -> tuple[str, dict[str, Any]]:
    """Return the runnable config for an audit, as text and as Bench reads it."""
    audit = read_audit(data)
    bench = parse_settings(BASE).bench
    text = bench_config(audit, select(audit), BenchSettings(base=bench.base, **changes)).decode()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return text, validate_config(yaml.safe_load(text))


@pytest.mark.parametrize("focus", [False, True], ids=["whole", "focus"])
@pytest.mark.parametrize("sample", USABLE, ids=lambda sample: sample.file)
def test_validator(sample: Sample, focus: bool) -> None:
    """Bench's validator accepts every runnable config, and each key has the type that Bench computes with."""
    text, config = runnable(sample.content, focus=focus)
    assert config == json.loads(text)
    assert type(config["train"]["learning_rate"]) is type(config["train"]["weight_decay"]) is float
    assert type(config["train"]["seed"]) is type(config["train"]["max_steps"]) is int
    assert type(config["lora"]["dropout"]) is float
    lacking = [note for note in config["selection"]["notes"] if "can't run" in note]
    if sample.file.startswith("design/") or "allnan" in sample.file:  # they describe no adapter
        assert lacking
        return
    assert not lacking
    lora, ranks = config["lora"], config["compression"]["allowed_ranks"]
    assert type(lora["probe_r"]) is int
    assert lora["alpha"] > 0
    assert all(isinstance(name, str) for name in lora["target_modules"])
    assert lora["probe_r"] in ranks
    assert ranks == sorted(set(ranks))


# --- the probe ------------------------------------------------------------------------------------------------


def test_probe_trains_the_selected_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `bench.focus` Bench's own probe stage trains exactly the selected modules, at the adapter's rank."""
    make_model(tmp_path / "model")
    make_data(tmp_path / "data", "tiny")
    mend_bench()
    data = content("distilbert_seqcls__default.json")
    audit = read_audit(data)
    selection = select(audit)
    base = {
        **parse_settings(BASE).bench.base,
        "model": {"name": str(tmp_path / "model")},
        "task": {"dataset": str(tmp_path / "data"), "subset": "tiny"},
    }
    config = tmp_path / "audit.bench.json"
    config.write_bytes(bench_config(audit, selection, BenchSettings(base=base, focus=True)))
    monkeypatch.chdir(tmp_path)  # Bench makes folders in the working directory
    result = importlib.import_module("gradience.bench.probe").run_probe_training(config, tmp_path / "run")
    assert result["probe"]["rank"] == 16

    weights = load_file(tmp_path / "run" / "probe_r16" / "adapter_model.safetensors")
    trained = {name.removeprefix("base_model.model."): value for name, value in weights.items() if ".lora_B." in name}
    assert {name.removesuffix(".lora_B.weight") for name in trained} == {layer.module for layer in selection.layers}
    assert 0 < len(trained) < audit.total_layers
    for name, value in trained.items():
        assert value.shape[1] == 16
        assert value.abs().max() > 0, f"{name} was not trained"

    # benchd reads the audit that Bench makes of this probe.
    again = read_audit((tmp_path / "run" / "probe_r16" / "audit.json").read_bytes())
    assert set(again.modules.names) == {layer.module for layer in selection.layers}
