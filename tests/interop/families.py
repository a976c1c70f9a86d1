"""Models like those that the audits are about, each as small as its modules' names allow; what PEFT does to them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

#: Large enough for two attention heads, and for nothing else.
WIDTH = 8


def _numbered(names: Collection[str], pattern: str) -> int:
    """How many of what `pattern` numbers there are."""
    return 1 + max(int(match[1]) for name in names if (match := re.search(pattern, name)))


def _llama(names: Collection[str], kind: Any = LlamaConfig, **more: Any) -> Any:
    return kind(
        vocab_size=16,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=_numbered(names, r"layers\.(\d+)"),
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=16,
        **more,
    )


def build(file: str, names: Collection[str]) -> nn.Module | None:
    """The model that `file` is an audit of, by its family; None for a family that transformers does not have."""
    torch.manual_seed(0)
    if file.startswith(("unicode", "from-the-design")):
        return None
    if any("experts" in name for name in names):
        more = {
            "num_experts": _numbered(names, r"experts\.(\d+)"),
            "moe_intermediate_size": WIDTH,
            "shared_expert_intermediate_size": WIDTH,
        }
        return Qwen2MoeForCausalLM(_llama(names, Qwen2MoeConfig, **more))
    if file.startswith("mistral"):
        return MistralForCausalLM(_llama(names, MistralConfig))
    if any(name.startswith("transformer.h.") for name in names):
        layers = _numbered(names, r"h\.(\d+)")
        shape = {"n_positions": 16, "n_embd": WIDTH, "n_head": 2, "n_layer": layers}
        return GPT2LMHeadModel(GPT2Config(vocab_size=16, tie_word_embeddings=False, **shape))
    if any(name.startswith("bert.") for name in names):
        shape = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_attention_heads": 2}
        layers = _numbered(names, r"layer\.(\d+)")
        return BertForSequenceClassification(BertConfig(vocab_size=16, num_hidden_layers=layers, **shape))
    if any(name.startswith("distilbert.") for name in names):
        layers = _numbered(names, r"layer\.(\d+)")
        shape = {"dim": WIDTH, "hidden_dim": WIDTH, "n_heads": 2, "n_layers": layers}
        return DistilBertForSequenceClassification(DistilBertConfig(vocab_size=16, **shape))
    return LlamaForCausalLM(_llama(names))


class _Parent(nn.Module):
    """A module that only holds others."""


def tree(names: Collection[str]) -> nn.Module:
    """A model of linear modules that have exactly these names, whatever characters are in them."""
    root = _Parent()
    for name in names:
        at: nn.Module = root
        *parents, leaf = name.split(".")
        for parent in parents:
            if parent not in at._modules:
                at.add_module(parent, _Parent())
            at = at._modules[parent]
        at.add_module(leaf, nn.Linear(2, 2))
    return root


class Adapted(NamedTuple):
    """What PEFT gave one module."""

    rank: int
    scaling: float


def adapted(model: nn.Module, config: dict[str, Any]) -> dict[str, Adapted]:
    """Every module that PEFT adapts under this `LoraConfig`, by its name in the model. Its warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # How GPT-2 stores its weights is for the user to say; PEFT sees it and helps itself.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set")
        peft = get_peft_model(model, LoraConfig(**config))
    return {
        name.removeprefix("base_model.model."): Adapted(module.r["default"], module.scaling["default"])
        for name, module in peft.named_modules()
        if isinstance(getattr(module, "r", None), dict)
    }
