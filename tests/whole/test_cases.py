"""Audits with a wrong answer in an earlier version, each in its own folder for `benchd run`; see cases/INDEX.md."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from corpus import AUDITS, checked

CASES = Path(__file__).parents[1] / "cases"


def benchd(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would, without settings."""
    command = [sys.executable, "-m", "benchd", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "BENCHD_CONFIG": ""})


class Answer:
    """The result of `benchd run` for an audit, beside the other files of its folder."""

    def __init__(self, home: Path, file: str, beside: str | None = None) -> None:
        shutil.copy(CASES / file if (CASES / file).exists() else AUDITS / file, home / "audit.json")
        if beside:
            shutil.copy(CASES / beside / "adapter_config.json", home)
        self.home = home
        assert benchd("run", home).returncode == 0
        self.config = checked((home / "audit.bench.json").read_bytes())
        self.uniform, *per_layer = self.config["compression_strategies"]
        self.per_layer: dict[str, Any] = per_layer[0] if per_layer else {}
        self.notes: list[str] = self.config["selection"]["notes"]

    def exported(self) -> dict[str, Any]:
        """Return what `benchd export --peft` prints."""
        value = json.loads(benchd("export", "--peft", self.home / "audit.json").stdout)
        assert isinstance(value, dict)
        return value


def noted(answer: Answer, text: str) -> bool:
    return any(text in note for note in answer.notes)


@pytest.mark.parametrize(
    ("condensed", "full"),
    [
        ("llama4_hier0__default.json", "llama4_hier0__full.json"),
        ("llama4_many__gateinf.json", "llama4_many__full.json"),
        ("llama4_many__gatenan.json", "llama4_many__full.json"),
    ],
)
def test_condensed(tmp_path: Path, condensed: str, full: str) -> None:
    """Condensed rationales give the same ranks as the full rationales of the same adapter."""
    answer = Answer(tmp_path, condensed)
    told = json.loads((AUDITS / full).read_bytes())["policy_disagreement_analysis"]["all_layers_with_disagreement"]
    k_values = {layer["layer_name"]: max(layer["flagging_rationale"]["k_values"]) for layer in told}
    layers = answer.config["selection"]["layers"]
    assert layers
    assert {layer["layer_name"]: layer["rank"] for layer in layers} == {
        layer["layer_name"]: k_values[layer["layer_name"]] for layer in layers
    }
    assert {layer["rank_source"] for layer in layers} == {"rationale"}
    assert "No layers meet" not in answer.per_layer["focus_justification"]


def test_uniform_rank(tmp_path: Path) -> None:
    """An adapter of rank 2 gets a baseline of rank 2, and a note says that it was lowered."""
    answer = Answer(tmp_path, "r2__default.json")
    assert answer.uniform["rank"] == 2
    assert noted(answer, "the uniform rank is lowered from 8 to 2")
    assert max([answer.exported()["r"], *answer.exported()["rank_pattern"].values()]) == 2


@pytest.mark.parametrize("beside", [None, "moe_beside"])
def test_fused_experts(tmp_path: Path, beside: str | None) -> None:
    """Fused experts get no rank and are not targets, and a note says how to train them."""
    answer = Answer(tmp_path, "moe_target_parameters.json", beside)
    assert [layer["rank"] for layer in answer.config["selection"]["layers"]] == [None, None]
    assert answer.per_layer == {}
    assert noted(answer, "no rank and no target: model.layers.1.mlp.experts, ")
    assert noted(answer, "Keep the experts in target_parameters: PEFT trains them at r")
    made = answer.exported()
    assert not any("experts" in name for name in [*made["target_modules"], *made["rank_pattern"]])
    if beside:
        assert made["target_parameters"] == ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
        assert (made["r"], made["lora_alpha"]) == (4, 8)  # as in the adapter


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("naming/orig_mod.json", "_orig_mod"),
        ("naming/fsdp.json", "_fsdp_wrapped_module"),
        ("naming/doubled_prefix.json", "base_model.model"),
    ],
)
def test_wrapped_names(tmp_path: Path, file: str, part: str) -> None:
    """Keys and targets are the names of the unwrapped model, and one note names the removed parts."""
    answer = Answer(tmp_path, file)
    made = answer.exported()
    names = [*answer.per_layer["rank_pattern"], *answer.per_layer["alpha_pattern"], *made["target_modules"]]
    assert all(name.startswith("model.layers.") for name in names)
    assert [note for note in answer.notes if part in note and "wrapper parts" in note]
    assert sum("wrapper parts" in note for note in answer.notes) == 1


def test_nested_layer(tmp_path: Path) -> None:
    """A layer below another adapter layer has no key, unlike the other layers, and a note says so."""
    answer = Answer(tmp_path, "naming/base_layer_nested.json")
    assert len(answer.per_layer["rank_pattern"]) == 4
    assert not any(
        "base_layer" in name for name in [*answer.per_layer["rank_pattern"], *answer.exported()["target_modules"]]
    )
    assert noted(answer, "no rank and no target: model.layers.3.mlp.up_proj.base_layer, ")


def test_alpha_by_regular_expression(tmp_path: Path) -> None:
    """The scaling is that of the pattern in the file beside the audit, 64 / 16 = 4, so alpha is 32 at rank 8."""
    answer = Answer(tmp_path, "alpha_regex_beside/alpha_regex.json", "alpha_regex_beside")
    assert answer.per_layer["alpha_pattern"] == {"model.layers.1.mlp.up_proj": 32}
    made = answer.exported()
    for name in made["target_modules"]:
        alpha, rank = made["alpha_pattern"].get(name, made["lora_alpha"]), made["rank_pattern"].get(name, made["r"])
        assert alpha / rank == (4.0 if ".layers.1." in name else 2.0)


def test_exact_keys_come_back(tmp_path: Path) -> None:
    """An adapter that was trained with benchd's exact keys has the scaling that these keys gave it."""
    answer = Answer(tmp_path, "loop_exact/loop_exact.json", "loop_exact")
    assert answer.per_layer["rank_pattern"] == {r"$|^fc\.a": 4}
    assert answer.per_layer["alpha_pattern"] == {r"$|^fc\.a": 16}
    assert not noted(answer, "not used")


def test_dora(tmp_path: Path) -> None:
    """The export carries `use_dora` over."""
    assert Answer(tmp_path, "dora_beside/dora.json", "dora_beside").exported()["use_dora"] is True


def test_other_json(tmp_path: Path) -> None:
    """A list is not an audit and gets no sidecar."""
    shutil.copy(CASES / "modules.json", tmp_path)
    done = benchd("run", tmp_path)
    assert done.returncode == 0
    assert "1 ignored: JSON, but not an audit" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["modules.json"]


def test_gradience_0_8_3(tmp_path: Path) -> None:
    """An audit of Gradience 0.8.3 gets an answer like one of 0.11."""
    answer = Answer(tmp_path, "v0.8.3.json")
    assert answer.config["selection"]["strategy"] == "flagged"
    assert answer.per_layer["rank_pattern"] == {"model.layers.1.mlp.up_proj": 8}
    assert answer.per_layer["alpha_pattern"] == {"model.layers.1.mlp.up_proj": 16}


def test_gradience_0_7_1(tmp_path: Path) -> None:
    """An audit from before Gradience 0.8 has no analysis, and the reason says why."""
    answer = Answer(tmp_path, "v0.7.1.json")
    assert answer.config["selection"]["strategy"] == "none"
    assert "a Gradience before 0.8 wrote it" in answer.config["selection"]["reason"]
