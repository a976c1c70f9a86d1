"""Export of an answer as Axolotl's options."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchd import read_adapter_config, read_audit, select
from benchd.bench.axolotl import axolotl
from benchd.bench.training import plan_training
from corpus import THREE_MODULES, document, encoded, entry


def lora(audit: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return the arguments of PEFT for an adapter with these fields."""
    beside = read_adapter_config(json.dumps({"r": 16, "rank_pattern": {"a": 8}, **fields}).encode())
    read = read_audit(encoded(audit), adapter=beside)
    return plan_training(read, select(read)).arguments


def test_keys() -> None:
    """The arguments have Axolotl's keys, and a note names those without a key in Axolotl."""
    options, notes = axolotl(lora(THREE_MODULES, bias="all", use_dora=True, task_type="CAUSAL_LM"))
    assert options == {
        "adapter": "lora",
        "lora_r": 8,
        "lora_alpha": 16,
        "lora_rank_pattern": {"a": 4, "b": 5},
        "lora_alpha_pattern": {"a": 8, "b": 10},
        "lora_target_modules": ["a", "b", "c"],
        "peft_use_dora": True,
    }
    assert notes == ("Axolotl has no key for bias",)


def test_broken_alpha() -> None:
    """Raises ValueError for an alpha that is not a whole number, and names the key and a solution."""
    gains = [{"module": "a", "r": 8, "scaling": 1.5}, {"module": "b", "r": 8, "scaling": 1.0}]
    audit = read_audit(encoded(document(flagged=[entry("a", k_values=[5])], per_module_gain=gains)))
    with pytest.raises(ValueError, match=r"only whole alphas, and scaling x rank is none for a: 7.5; train with PEFT"):
        axolotl(plan_training(audit, select(audit)).arguments)
