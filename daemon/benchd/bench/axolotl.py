"""Convert the arguments of `peft.LoraConfig` to Axolotl's options. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from benchd.audit.values import listed

__all__ = ["axolotl"]

#: PEFT's field -> Axolotl's key.
_AXOLOTL: Final = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "lora_target_modules",
    "target_parameters": "lora_target_parameters",
    "rank_pattern": "lora_rank_pattern",
    "alpha_pattern": "lora_alpha_pattern",
    "fan_in_fan_out": "lora_fan_in_fan_out",
    "modules_to_save": "lora_modules_to_save",
    "use_dora": "peft_use_dora",
    "use_rslora": "peft_use_rslora",
    "layer_replication": "peft_layer_replication",
    "init_lora_weights": "peft_init_lora_weights",
    "trainable_token_indices": "peft_trainable_token_indices",
}


def axolotl(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the arguments of `peft.LoraConfig` with Axolotl's keys, and notes about those without a key in Axolotl.

    Raises ValueError for an alpha that is not a whole number, because Axolotl refuses it.
    """
    alphas = {"lora_alpha": arguments.get("lora_alpha"), **arguments["alpha_pattern"]}
    broken = [f"{name}: {alpha:g}" for name, alpha in alphas.items() if isinstance(alpha, float)]
    if broken:
        raise ValueError(
            f"Axolotl takes only whole alphas, and scaling x rank is none for {listed(broken)}; "
            "train with PEFT, which takes any (--peft, --adapter-config)"
        )
    options = {_AXOLOTL[key]: value for key, value in arguments.items() if key in _AXOLOTL}
    left = [key for key in arguments if key not in _AXOLOTL and key not in {"peft_type", "task_type"}]
    notes = (f"Axolotl has no key for {listed(left, 10)}",) if left else ()
    return {"adapter": "lora", **options}, notes
