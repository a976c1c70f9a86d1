"""PEFT, new and old: exactly the named modules get exactly the named ranks, at the adapter's scaling."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest

import ranks
from benchd import BenchSettings, bench_config, read_adapter_config, read_audit, select
from benchd.bench.training import lora_config, plan_training
from corpus import INDEX, USABLE, Sample
from families import adapted, build

#: Audits that no family of models has the modules of: hand-made names, or no module at all.
WITHOUT_MODEL = {
    "design/fallback.json",
    "design/flagged.json",
    "llama2_allnan__default.json",
    "unicode__default.json",
}
CASES = Path(__file__).parent.parent / "cases"
MODELLED = [sample for sample in USABLE if sample.file not in WITHOUT_MODEL]


@pytest.fixture(scope="module", autouse=True)
def old_peft() -> Iterator[subprocess.Popen[str]]:
    """An old PEFT, which works through the same answers while the tests look at those of the new one."""
    path = Path(sys.prefix, "peft-0.13")
    assert path.is_dir(), f"{path} is missing; `make test-interop` puts it there"
    command = [sys.executable, str(Path(ranks.__file__))]
    environment = {**os.environ, "PYTHONPATH": str(path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def new() -> dict[str, Any]:
    """What the new PEFT made of each answer; filled as the tests go."""
    return {}


@pytest.mark.parametrize("sample", MODELLED, ids=lambda sample: sample.file)
@pytest.mark.timeout(300)
def test_real_audits(sample: Sample, new: dict[str, Any]) -> None:
    """Every module of the audit is adapted and no other: the selected ones at their ranks, and all at their scaling."""
    audit = ranks.read(sample)
    config = json.loads(bench_config(audit, select(audit)))
    own = {layer["module"]: layer["rank"] for layer in config["selection"]["layers"] if layer["rank"]}
    found = ranks.of_audit(sample)
    assert found is not None
    assert {name: module.rank for name, module in found.items()} == {
        name: own.get(name, min(ranks.OTHER, audit.modules.known[name].rank or ranks.OTHER))
        for name in ranks.names(audit)
    }
    for name, module in found.items():
        assert module.scaling == pytest.approx(audit.modules.known[name].scaling), name
    new[sample.file] = found


def test_every_family_is_there() -> None:
    """The audits are of all the families that the answers are promised for, and most of them name ranks."""
    kinds = {
        type(build(sample.file, ranks.read(sample).modules.names)).__name__
        for sample in MODELLED
        if "qwen" not in sample.file
    }
    assert kinds == {
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "GPT2LMHeadModel",
        "BertForSequenceClassification",
        "DistilBertForSequenceClassification",
    }
    assert any("qwen2moe" in sample.file for sample in MODELLED)
    with_ranks = [
        sample for sample in MODELLED if lora_config(audit := ranks.read(sample), select(audit))["rank_pattern"]
    ]
    assert len(with_ranks) > len(INDEX) / 2


@pytest.mark.parametrize("name", ranks.NAMES)
def test_names(name: str, new: dict[str, Any]) -> None:
    """A name that another ends in, or that is a regular expression, hits itself alone."""
    found = ranks.of_name(name)
    assert {module for module, values in found.items() if values == (3, 2.0)} == {name}
    assert {module for module, values in found.items() if values == (ranks.OTHER, 1.0)} == {*ranks.NAMES} - {name}
    assert set(ranks.of_target(name)) == {name}
    new[name] = found


def test_rslora() -> None:
    """Beside the file of an adapter with `use_rslora`, the scaling is the one that PEFT gave that adapter."""
    [sample] = [sample for sample in MODELLED if "rslora" in sample.file]
    names = ranks.read(sample).modules.names
    trained = {"r": 64, "lora_alpha": 128, "use_rslora": True, "target_modules": list(names)}
    before = adapted(build(sample.file, names), trained)
    beside = read_adapter_config(json.dumps({**trained, "peft_type": "LORA"}).encode())
    audit = read_audit(sample.content, adapter=beside)
    carried = lora_config(audit, select(audit))
    assert carried["use_rslora"] is True
    plain = plan_training(audit, select(audit), BenchSettings(), may_use_rslora=False).arguments
    assert "use_rslora" not in plain
    for arguments in (carried, plain):
        after = adapted(build(sample.file, names), arguments)
        assert {module.rank for module in after.values()} > {8}
        for name, module in after.items():
            assert module.scaling == pytest.approx(before[name].scaling) == pytest.approx(16.0)


def test_config_at_the_true_scaling() -> None:
    """The alphas of a config give the scaling that PEFT gave the adapter, also by a regular expression or rsLoRA."""
    folder = CASES / "alpha_regex_beside"
    beside = read_adapter_config((folder / "adapter_config.json").read_bytes())
    audit = read_audit((folder / "alpha_regex.json").read_bytes(), adapter=beside)
    saved = json.loads((folder / "adapter_config.json").read_bytes())
    told = {key: saved[key] for key in ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules")}
    before = adapted(build("llama", audit.modules.names), told)
    assert {name: module.scaling for name, module in audit.modules.known.items()} == pytest.approx(
        {name: module.scaling for name, module in before.items()}
    )
    uniform, per_layer = json.loads(bench_config(audit, select(audit)))["compression_strategies"]
    arguments = {"r": uniform["rank"], "lora_alpha": 2 * uniform["rank"], "target_modules": list(audit.modules.names)}
    patterns = {key: per_layer[key] for key in ("rank_pattern", "alpha_pattern")}
    after = adapted(build("llama", audit.modules.names), {**arguments, **patterns})
    for name in per_layer["rank_pattern"]:
        assert after[name] == (per_layer["rank_pattern"][name], pytest.approx(before[name].scaling))


@pytest.mark.parametrize("file", ["orig_mod", "fsdp", "doubled_prefix", "base_layer_nested"])
def test_wrapped_names(file: str) -> None:
    """The answers to audits with wrapper parts in their names match the modules of the unwrapped model."""
    audit = read_audit((CASES / "naming" / f"{file}.json").read_bytes())
    training = plan_training(audit, select(audit), BenchSettings())
    found = adapted(build("llama", audit.modules.names), training.arguments)
    assert {name: module.rank for name, module in found.items()} == training.ranks
    for name, module in found.items():
        assert module.scaling == pytest.approx(audit.modules.known[name].scaling)


@pytest.mark.timeout(600)
def test_old_peft(old_peft: subprocess.Popen[str], new: dict[str, Any]) -> None:
    """PEFT 0.13 gives every module of every answer the rank and the scaling that the new one does."""
    old = json.loads(old_peft.communicate()[0])
    assert old_peft.returncode == 0
    assert old["peft"].startswith("0.13")
    assert peft.__version__ != old["peft"]
    told = {**old["audits"], **old["names"]}
    assert len(new) == len(MODELLED) + len(ranks.NAMES)
    for case, found in new.items():
        assert told[case] == {name: list(module) for name, module in found.items()}, case
    assert old["targets"] == {name: {name: [ranks.OTHER, 1.0]} for name in ranks.NAMES}
