"""The whole loop: train a LoRA adapter, audit it, let benchd select, train at the selected ranks, audit the result.

    pip install benchd torch transformers peft gradience
    python examples/loop.py [FOLDER]

A model of 4 layers with random weights learns to count in steps, on the CPU, in seconds. The rest is real: the
training, `gradience audit`, and a running `benchd watch` in between.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

COMMANDS = Path(sys.executable).parent
WORDS = 64


def train(lora: LoraConfig, adapter: Path) -> float:
    """Train an adapter over the same model each time, save it, and return the final loss."""
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, **shape)), lora)
    optimizer = torch.optim.AdamW((weight for weight in model.parameters() if weight.requires_grad), lr=1e-2)
    for _ in range(120):
        start, step = torch.randint(WORDS, (32, 1)), torch.randint(1, 4, (32, 1))
        counting = (start + step * torch.arange(12)) % WORDS
        loss = model(input_ids=counting, labels=counting).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(adapter)
    return loss.item()


def audit(adapter: Path, file: Path) -> dict[str, int]:
    """Run `gradience audit --json > FILE`; return the rank of each module."""
    command = [COMMANDS / "gradience", "audit", "--peft-dir", adapter, "--json"]
    with file.open("wb") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr.decode())
    modules = json.loads(file.read_text(encoding="utf-8"))["per_module_gain"]
    return {module["module"].removeprefix("base_model.model."): module["r"] for module in modules}


def answer(file: Path) -> dict[str, Any]:
    """Wait for the config that benchd writes beside an audit, and return it. It appears whole or not at all."""
    config = file.with_suffix(".bench.json")
    deadline = time.monotonic() + 30
    while not config.exists():
        if time.monotonic() > deadline:
            sys.exit(f"no {config.name} within 30 s; is benchd running?")
        time.sleep(0.01)
    return json.loads(config.read_text(encoding="utf-8"))


def loop(home: Path, inbox: Path) -> None:
    """Go around the loop once."""
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

    # 1. A first adapter, with the same generous rank everywhere.
    loss = train(LoraConfig(r=16, lora_alpha=32, target_modules=targets), home / "first")
    print(f"first adapter:  rank 16 everywhere, loss {loss:.3f}")

    # 2. Gradience writes the audit straight into the watched folder. benchd answers as soon as the file is whole.
    before = audit(home / "first", inbox / "audit.json")
    config = answer(inbox / "audit.json")
    print(f"benchd selects: {config['selection']['reason']}")

    # 3. A second adapter has the uniform rank, and the selected ranks for the selected modules. Each alpha fits its
    #    rank, so no module's scaling changes: it was 32 / 16, and alpha / rank is the same.
    uniform, per_layer = config["compression_strategies"]
    rank = uniform["rank"]
    lora = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        rank_pattern=per_layer["rank_pattern"],
        alpha_pattern=per_layer["alpha_pattern"],
        target_modules=targets,
    )
    loss = train(lora, home / "second")
    print(f"second adapter: rank {rank}, and {len(per_layer['rank_pattern'])} at selected ranks, loss {loss:.3f}")

    # 4. Its audit shows the selected ranks. benchd answers this audit too, so you could go around again.
    after = audit(home / "second", inbox / "second.json")
    answer(inbox / "second.json")
    for module in before:
        wanted = per_layer["rank_pattern"].get(module, rank)
        assert after[module] == wanted, f"{module} has rank {after[module]}, not {wanted}"
    for module in per_layer["rank_pattern"]:
        print(f"  {module}: {before[module]} -> {after[module]}")
    print(f"sum of all ranks: {sum(before.values())} before, {sum(after.values())} after")


def main() -> None:
    """Run the loop with its own daemon, in FOLDER or in a new folder."""
    home = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="loop-"))
    inbox = home / "inbox"
    inbox.mkdir(parents=True)
    with (home / "trail.jsonl").open("wb") as trail:
        daemon = subprocess.Popen([COMMANDS / "benchd", "watch", inbox], stdout=trail)
    try:
        loop(home, inbox)
    finally:
        daemon.terminate()
        daemon.wait()
    print(f"all files are in {home}")


if __name__ == "__main__":
    main()
