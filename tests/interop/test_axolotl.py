"""Axolotl: its schema accepts the answer, and its code makes the same adapter from it as PEFT."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import transformers
import yaml

import ranks
from benchd import select
from benchd.bench.training import plan_training
from corpus import SMALLER, Sample
from families import adapted, build

AXOLOTL = Path(sys.prefix, "axolotl")
#: Keys that Axolotl needs in a whole config. A user has them already: the export has only the adapter's keys.
REST = """
base_model: tiny
datasets:
  - path: sentences.jsonl
    type: completion
learning_rate: 1.0e-4
micro_batch_size: 1
gradient_accumulation_steps: 1
"""
LORA = """
adapter: lora
lora_r: 8
lora_alpha: 16
lora_target_modules:
  - model.layers.0.self_attn.q_proj
lora_rank_pattern:
  model.layers.0.self_attn.q_proj: 3
lora_alpha_pattern:
  model.layers.0.self_attn.q_proj: 6
"""
MODELLED = [sample for sample in SMALLER if ranks.read(sample).modules.names and not sample.file.startswith("unicode")]


def axolotl_text(sample: Sample, folder: Path) -> str:
    """Return the output of `benchd export --axolotl`."""
    (folder / "audit.json").write_bytes(sample.content)
    command = [sys.executable, "-m", "benchd", "export", "--axolotl", str(folder / "audit.json")]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def schema() -> type[Any]:
    """Return Axolotl's model of a whole config."""
    assert AXOLOTL.is_dir(), f"{AXOLOTL} is missing; `make test-interop` puts it there"
    # Appended: its copies of packages must not replace those that the other tests use.
    sys.path.append(str(AXOLOTL))
    from axolotl.utils.schemas.config import AxolotlInputConfig

    return AxolotlInputConfig


@pytest.fixture(scope="module")
def peft_config(schema: type[Any]) -> Callable[[Any, Any], peft.LoraConfig]:
    """Return Axolotl's function that makes PEFT's config from a model and a validated config.

    Its module needs a GPU library to import, so the function is taken out of the file.
    """
    from axolotl.integrations.base import PluginManager
    from axolotl.utils.dict import DictDefault

    wanted = {"_get_peft_task_type", "_build_lora_config_kwargs", "_build_peft_lora_config"}
    tree = ast.parse((AXOLOTL / "axolotl" / "loaders" / "adapter.py").read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in wanted]
    assert len(tree.body) == len(wanted)
    names: dict[str, Any] = {
        "Any": Any,
        "DictDefault": DictDefault,
        "LOG": logging.getLogger("axolotl"),
        "LoraConfig": peft.LoraConfig,
        "PLUGIN_MANAGER": PluginManager.get_instance(),
        "PeftConfig": peft.PeftConfig,
        "PreTrainedModel": transformers.PreTrainedModel,
        "TaskType": peft.TaskType,
    }
    exec(compile(tree, "adapter.py", "exec"), names)
    build_config = names["_build_peft_lora_config"]
    return lambda model, config: build_config(model, DictDefault(config.model_dump(exclude_none=True)))


def validated(schema: type[Any], text: str, **changes: Any) -> Any:
    """Validate a user's config with the lines of `text` in it, as Axolotl does."""
    return schema(**{**yaml.safe_load(REST), **yaml.safe_load(text), **changes})


@pytest.mark.parametrize("sample", MODELLED, ids=lambda sample: sample.file)
@pytest.mark.timeout(300)
def test_real_audits(
    sample: Sample, schema: type[Any], peft_config: Callable[[Any, Any], peft.LoraConfig], tmp_path: Path
) -> None:
    """Each module gets the rank and the scaling that PEFT gives it under `benchd export --peft`."""
    audit = ranks.read(sample)
    arguments = plan_training(audit, select(audit)).arguments
    text = axolotl_text(sample, tmp_path)
    config = validated(schema, text)
    assert set(yaml.safe_load(text)) <= set(schema.model_fields)  # Axolotl silently drops unknown keys
    for key, value in yaml.safe_load(text).items():
        assert getattr(config, key) == value
    names = set(audit.modules.names)
    model = build(sample.file, names)
    if model is None:
        return
    given = peft_config(model, config)
    assert given.bias == "none"
    kept = {
        key: getattr(given, key)
        for key in ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "task_type")
    }
    assert adapted(build(sample.file, names), kept) == adapted(model, arguments)


@pytest.mark.parametrize("key", ["lora_rank_pattern", "lora_alpha_pattern"])
@pytest.mark.parametrize("value", [2.5, 0, -1, None, "four", [4]], ids=repr)
def test_refused(key: str, value: Any, schema: type[Any]) -> None:
    """Axolotl takes positive integers in both patterns; the export must not print anything else."""
    name = "model.layers.0.self_attn.q_proj"
    assert validated(schema, LORA, **{key: {name: 4}})
    with pytest.raises(ValueError, match=key):
        validated(schema, LORA, **{key: {name: value}})


def test_alpha_refused(schema: type[Any]) -> None:
    """Axolotl refuses a `lora_alpha` that is not an integer, and reads 16.0 as 16."""
    with pytest.raises(ValueError, match="lora_alpha"):
        validated(schema, LORA, lora_alpha=12.5)
    assert validated(schema, LORA, lora_alpha=16.0).lora_alpha == 16


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lora_target_modules", r"$|^fc\.1"),
        ("lora_dropout", 0.05),
        ("lora_fan_in_fan_out", True),
        ("lora_modules_to_save", ["score"]),
        ("peft_use_dora", True),
        ("peft_use_rslora", True),
        ("lora_target_parameters", ["mlp.experts.gate_up_proj"]),
    ],
)
def test_other_keys(key: str, value: Any, schema: type[Any]) -> None:
    """Axolotl has keys for these settings of an adapter."""
    assert getattr(validated(schema, LORA, **{key: value}), key) == value


@pytest.mark.parametrize("key", ["lora_bias", "bias", "lora_task_type", "task_type", "lora_exclude_modules"])
def test_no_such_keys(key: str, schema: type[Any]) -> None:
    """Axolotl has no key for these: it sets no bias, and finds the task type by the model's class."""
    assert key not in schema.model_fields
