"""docs/using-the-config.md: its commands and programs, one after the other, as a reader would run them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from corpus import AUDITS
from stand_ins import make_data, make_model, mend_bench

PAGE = Path(__file__).parent.parent.parent / "docs" / "using-the-config.md"
FENCE = re.compile(r"^```(toml|sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(300)
def test_using_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the drop to a Bench run and to an adapter trained anew; what comes out is what the answer says."""
    make_model(tmp_path / "distilbert-base-uncased")
    make_data(tmp_path / "glue", "sst2")
    mend_bench()
    (tmp_path / "inbox").mkdir()
    shutil.copy(AUDITS / "distilbert_seqcls__default.json", tmp_path / "inbox" / "audit.json")
    monkeypatch.chdir(tmp_path)
    commands = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ran = []
    for kind, code in FENCE.findall(PAGE.read_text(encoding="utf-8")):
        ran.append(kind)
        if kind == "toml":
            (tmp_path / "config.toml").write_text(code.replace("500", "2"), encoding="utf-8")
        elif kind == "sh":
            subprocess.run(["sh", "-ec", code], check=True, env={**os.environ, "PATH": commands})
        else:
            exec(compile(code, str(PAGE), "exec"), {"__name__": "__main__"})
    assert ran == ["toml", "sh", "sh", "python", "sh", "python", "python", "sh"]

    selected = {"distilbert.transformer.layer.4.attention.k_lin", "distilbert.transformer.layer.1.attention.k_lin"}
    assert set(ranks(tmp_path / "run" / "probe_r16")) == selected
    smaller = ranks(tmp_path / "smaller")
    assert len(smaller) == 24
    assert {name for name, rank in smaller.items() if rank == 10} == selected
    assert {rank for name, rank in smaller.items() if name not in selected} == {8}
    assert json.loads((tmp_path / "inbox" / "smaller.bench.json").read_bytes())["compression_strategies"]


def ranks(adapter: Path) -> dict[str, int]:
    """The rank of each module in a saved adapter."""
    weights = load_file(adapter / "adapter_model.safetensors")
    return {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): len(value)
        for name, value in weights.items()
        if name.endswith(".lora_A.weight")
    }
