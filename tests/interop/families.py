"""Small models of the families in the sample audits, and the ranks and scalings that PEFT gives them."""

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
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

#: The smallest size that has two attention heads.
WIDTH = 8


def _llama_like(kind: Any, layers: int, width: int, **more: Any) -> Any:
    return kind(
        vocab_size=16,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=16,
        **more,
    )


def llama(layers: int, width: int = WIDTH) -> PreTrainedModel:
    """Return a Llama with random weights."""
    return LlamaForCausalLM(_llama_like(LlamaConfig, layers, width))


def mistral(layers: int, width: int = WIDTH) -> PreTrainedModel:
    """Return a Mistral with random weights."""
    return MistralForCausalLM(_llama_like(MistralConfig, layers, width))


def qwen2moe(layers: int, experts: int, width: int = WIDTH) -> PreTrainedModel:
    """Return a Qwen2-MoE with random weights."""
    sizes = {"moe_intermediate_size": width, "shared_expert_intermediate_size": width}
    return Qwen2MoeForCausalLM(_llama_like(Qwen2MoeConfig, layers, width, num_experts=experts, **sizes))


def gpt2(layers: int, width: int = WIDTH) -> PreTrainedModel:
    """Return a GPT-2 with random weights."""
    shape = {"n_positions": 16, "n_embd": width, "n_head": 2, "n_layer": layers}
    return GPT2LMHeadModel(GPT2Config(vocab_size=16, tie_word_embeddings=False, **shape))


def bert(layers: int, width: int = WIDTH) -> PreTrainedModel:
    """Return a BERT classifier with random weights."""
    shape = {"hidden_size": width, "intermediate_size": width, "num_attention_heads": 2}
    return BertForSequenceClassification(BertConfig(vocab_size=16, num_hidden_layers=layers, **shape))


def distilbert(layers: int, width: int = WIDTH) -> PreTrainedModel:
    """Return a DistilBERT classifier with random weights."""
    shape = {"dim": width, "hidden_dim": width, "n_heads": 2, "n_layers": layers}
    return DistilBertForSequenceClassification(DistilBertConfig(vocab_size=16, **shape))


def build(file: str, names: Collection[str]) -> nn.Module | None:
    """Return the model that `file` is an audit of, or None for a family that transformers does not have."""

    def count(pattern: str) -> int:
        return 1 + max(int(match[1]) for name in names if (match := re.search(pattern, name)))

    torch.manual_seed(0)
    if file.startswith(("unicode", "design/")):
        return None
    if any("experts" in name for name in names):
        return qwen2moe(count(r"layers\.(\d+)"), count(r"experts\.(\d+)"))
    if file.startswith("mistral"):
        return mistral(count(r"layers\.(\d+)"))
    if any(name.startswith("transformer.h.") for name in names):
        return gpt2(count(r"h\.(\d+)"))
    if any(name.startswith("bert.") for name in names):
        return bert(count(r"layer\.(\d+)"))
    if any(name.startswith("distilbert.") for name in names):
        return distilbert(count(r"layer\.(\d+)"))
    return llama(count(r"layers\.(\d+)"))


class _Parent(nn.Module):
    """A module that only contains others."""


def tree(names: Collection[str], width: int = 2) -> nn.Module:
    """Return a model of linear modules that have exactly these names, with any characters."""
    root = _Parent()
    for name in names:
        at: nn.Module = root
        *parents, leaf = name.split(".")
        for parent in parents:
            if parent not in at._modules:
                at.add_module(parent, _Parent())
            at = at._modules[parent]
        at.add_module(leaf, nn.Linear(width, width))
    return root


class Adapted(NamedTuple):
    """The rank and scaling that PEFT gave one module."""

    rank: int
    scaling: float


def adapted(model: nn.Module, config: dict[str, Any]) -> dict[str, Adapted]:
    """Return every module that PEFT adapts under this `LoraConfig`, by its name. PEFT's warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # PEFT warns that GPT-2 stores its weights transposed, and corrects the setting itself.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set")
        peft = get_peft_model(model, LoraConfig(**config))
    return {
        name.removeprefix("base_model.model."): Adapted(module.r["default"], module.scaling["default"])
        for name, module in peft.named_modules()
        if isinstance(getattr(module, "r", None), dict)
    }
