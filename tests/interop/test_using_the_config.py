"""The pages for users that need PEFT or Bench: their commands and programs in order, as a reader would run them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from bench_resume import write_command
from benchd import BenchSettings, read_audit, select
from benchd.bench.training import plan_training
from corpus import AUDITS
from families import build
from stand_ins import make_data, make_model

DOCS = Path(__file__).parent.parent.parent / "docs"
FENCE = re.compile(r"^```(toml|sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SELECTED = {"distilbert.transformer.layer.4.attention.k_lin", "distilbert.transformer.layer.1.attention.k_lin"}


def follow(page: str, home: Path) -> list[str]:
    """Run every command and program of a page in order, in `home`; return their kinds."""
    commands = os.pathsep.join([str(home / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    ran = []
    for kind, code in FENCE.findall((DOCS / page).read_text(encoding="utf-8")):
        ran.append(kind)
        if kind == "toml":
            (home / "config.toml").write_text(code.replace("500", "2"), encoding="utf-8")
        elif kind == "sh":
            # Bench keeps a board of its runs in the home folder.
            environment = {**os.environ, "PATH": commands, "HOME": str(home)}
            subprocess.run(["sh", "-ec", code], check=True, env=environment, capture_output=True)
        else:
            exec(compile(code, page, "exec"), {"__name__": "__main__"})
    return ran


@pytest.mark.timeout(300)
def test_using_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A drop leads to a Bench run and to a new adapter, both with the ranks of the answer."""
    make_model(tmp_path / "distilbert-base-uncased")
    make_data(tmp_path / "glue", "sst2")
    (tmp_path / "inbox").mkdir()
    (tmp_path / "bin").mkdir()
    write_command(tmp_path / "bin")
    shutil.copy(AUDITS / "distilbert_seqcls__default.json", tmp_path / "inbox" / "audit.json")
    monkeypatch.chdir(tmp_path)
    assert follow("using-the-config.md", tmp_path) == ["toml", "sh", "sh", "sh", "python", "sh", "python"]

    assert ranks(tmp_path / "run" / "probe_r16") == dict.fromkeys(SELECTED, 16)
    assert ranks(tmp_path / "run" / "per_layer") == dict.fromkeys(SELECTED, 10)
    assert (tmp_path / "run" / "bench.md").exists()
    smaller = ranks(tmp_path / "smaller")
    assert len(smaller) == 24
    assert {name for name, rank in smaller.items() if rank == 10} == SELECTED
    assert {rank for name, rank in smaller.items() if name not in SELECTED} == {8}
    assert json.loads((tmp_path / "inbox" / "smaller.bench.json").read_bytes())["compression_strategies"]


@pytest.mark.timeout(300)
def test_trainers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for TRL, YAML for Axolotl, and an untrained adapter for LLaMA-Factory have the ranks of the answer."""
    (tmp_path / "inbox").mkdir()
    shutil.copy(AUDITS / "llama4_many__default.json", tmp_path / "inbox" / "audit.json")
    audit = read_audit((tmp_path / "inbox" / "audit.json").read_bytes())
    model = build("llama", audit.modules.names)
    assert model is not None
    model.save_pretrained(tmp_path / "the-base-model")
    monkeypatch.chdir(tmp_path)
    assert follow("trainers.md", tmp_path) == ["sh", "python", "sh", "python"]
    wanted = plan_training(audit, select(audit), BenchSettings()).ranks
    assert ranks(tmp_path / "empty") == wanted
    options = yaml.safe_load((tmp_path / "lora.yaml").read_text(encoding="utf-8"))
    assert {name: options["lora_rank_pattern"].get(name, options["lora_r"]) for name in wanted} == wanted


def test_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT accepts the export of the tutorial."""
    shutil.copy(AUDITS / "llama4_many__default.json", tmp_path / "audit.json")
    export = [sys.executable, "-m", "benchd", "export", tmp_path / "audit.json", "--peft"]
    with (tmp_path / "lora.json").open("wb") as output:
        subprocess.run(export, check=True, stdout=output, stderr=subprocess.DEVNULL)
    monkeypatch.chdir(tmp_path)
    assert follow("tutorial.md", tmp_path) == ["python"]


def ranks(adapter: Path) -> dict[str, int]:
    """Return the rank of each module in a saved adapter."""
    weights = load_file(adapter / "adapter_model.safetensors")
    return {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): len(value)
        for name, value in weights.items()
        if name.endswith(".lora_A.weight")
    }
