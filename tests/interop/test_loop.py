"""The loop closes: an adapter trained at the selected ranks has these ranks in its audit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from benchd import read_audit

LOOP = Path(__file__).parent.parent.parent / "examples" / "loop.py"


@pytest.mark.timeout(300)
def test_loop(tmp_path: Path) -> None:
    """`examples/loop.py` trains, drops a real audit under a running daemon, and trains again at the ranks it gets."""
    done = subprocess.run([sys.executable, LOOP, tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    inbox = tmp_path / "inbox"
    uniform, per_layer = json.loads((inbox / "audit.bench.json").read_text(encoding="utf-8"))["compression_strategies"]
    wanted = per_layer["rank_pattern"]
    weights = load_file(tmp_path / "second" / "adapter_model.safetensors")
    ranks = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): len(value)
        for name, value in weights.items()
        if name.endswith(".lora_A.weight")
    }
    assert len(ranks) == 28
    assert ranks == {name: wanted.get(name, uniform["rank"]) for name in ranks}
    # Gradience reports the same for the second adapter, and the scaling is that of the first.
    modules = read_audit((inbox / "second.json").read_bytes()).modules.known
    assert {name: module.rank for name, module in modules.items()} == ranks
    assert {module.scaling for module in modules.values()} == {2.0}
    assert (inbox / "second.bench.json").exists()
