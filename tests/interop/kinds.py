"""Adapters of every kind that PEFT saves as LoRA, and a few other kinds, over tiny models."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import peft
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

_SHAPE = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


def llama() -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(**_SHAPE))


def classifier() -> nn.Module:
    return LlamaForSequenceClassification(LlamaConfig(**_SHAPE, num_labels=3))


def gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=32, n_embd=32, n_head=4, n_layer=2))


class _Experts(nn.Module):
    """Experts that share one parameter for their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(4, 32, 16) * 0.1)
        self.down = nn.Parameter(torch.randn(4, 16, 32) * 0.1)


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(32, 32)
        self.mlp = nn.ModuleDict({"experts": _Experts()})


def experts() -> nn.Module:
    model = nn.Module()
    model.layers = nn.ModuleList([_Layer(), _Layer()])
    return model


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.ModuleDict({"a": nn.Linear(16, 16)})


class Alike(nn.Module):
    """A model in which one module's name is the end of another's."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.ModuleDict({"a": nn.Linear(16, 16)})
        self.head = _Block()
        self.b = nn.ModuleList([nn.Linear(16, 16) for _ in range(4)])

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        values = self.fc["a"](values) + self.head.fc["a"](values)
        for layer in self.b:
            values = values + layer(values)
        return values


class Kind(NamedTuple):
    """A model, and the arguments of its adapter's LoraConfig besides r = 8 and lora_alpha = 16."""

    model: Callable[[], nn.Module]
    config: dict[str, Any]


_QV = ["q_proj", "v_proj"]
KINDS = {
    "plain": Kind(llama, {"target_modules": _QV, "task_type": "CAUSAL_LM", "lora_dropout": 0.1}),
    "dora": Kind(llama, {"target_modules": _QV, "use_dora": True}),
    "rslora": Kind(llama, {"target_modules": _QV, "use_rslora": True}),
    "rslora-dora": Kind(llama, {"target_modules": _QV, "use_rslora": True, "use_dora": True}),
    "classifier": Kind(classifier, {"target_modules": _QV, "task_type": "SEQ_CLS"}),
    "saved": Kind(llama, {"target_modules": _QV, "modules_to_save": ["embed_tokens", "lm_head"]}),
    "embedding": Kind(llama, {"target_modules": [*_QV, "embed_tokens"]}),
    "embedding-rank": Kind(llama, {"target_modules": [*_QV, "embed_tokens"], "rank_pattern": {"embed_tokens": 4}}),
    "embedding-by-name": Kind(
        llama,
        {
            "target_modules": [*_QV, "embed_tokens"],
            "rank_pattern": {"model.embed_tokens": 4},
            "alpha_pattern": {r"model\.embed_tokens": 64},
        },
    ),
    "embedding-excluded": Kind(llama, {"target_modules": [*_QV, "embed_tokens"], "exclude_modules": ["embed_tokens"]}),
    "embedding-of-no-layer": Kind(
        llama, {"target_modules": [*_QV, "embed_tokens"], "layers_to_transform": [1], "layers_pattern": "layers"}
    ),
    "generic-targets": Kind(llama, {"target_modules": [*_QV, "query", "value", "W_pack"]}),
    "gaussian-init": Kind(llama, {"target_modules": _QV, "init_lora_weights": "gaussian"}),
    "head": Kind(llama, {"target_modules": [*_QV, "embed_tokens", "lm_head"]}),
    "bias-all": Kind(gpt2, {"target_modules": ["c_attn"], "bias": "all", "fan_in_fan_out": True}),
    "bias-lora": Kind(gpt2, {"target_modules": ["c_attn"], "bias": "lora_only", "fan_in_fan_out": True}),
    "lora-bias": Kind(gpt2, {"target_modules": ["c_attn"], "lora_bias": True, "fan_in_fan_out": True}),
    "transposed": Kind(gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "tokens": Kind(llama, {"target_modules": _QV, "trainable_token_indices": {"embed_tokens": [1, 2]}}),
    "experts": Kind(
        experts, {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.up", "mlp.experts.down"]}
    ),
    "experts-of-a-larger-rank": Kind(
        experts,
        {
            "r": 16,
            "target_modules": ["q_proj"],
            "target_parameters": ["mlp.experts.up"],
            "rank_pattern": {"q_proj": 2},
        },
    ),
    "one-parameter": Kind(experts, {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down"]}),
    "layers": Kind(llama, {"target_modules": _QV, "layers_to_transform": [1], "layers_pattern": "layers"}),
    "excluded": Kind(llama, {"target_modules": _QV, "exclude_modules": ["layers.0.self_attn.q_proj"]}),
    "patterns": Kind(
        llama,
        {
            "target_modules": _QV,
            "rank_pattern": {"q_proj": 4, r".*\.1\.self_attn\.v_proj": 2},
            "alpha_pattern": {r".*layers\.1\..*": 64, "q_proj": 4},
        },
    ),
    "alike": Kind(
        Alike,
        {
            "target_modules": ["fc.a", "head.fc.a", "b.0", "b.1", "b.2", "b.3"],
            "rank_pattern": {r"$|^fc\.a": 4},
            "alpha_pattern": {r"$|^fc\.a": 32},
        },
    ),
}

_OTHERS: dict[str, Callable[[], peft.PeftConfig]] = {
    "AdaLoRA": lambda: peft.AdaLoraConfig(init_r=12, target_r=8, tinit=1, tfinal=2, total_step=10, target_modules=_QV),
    "IA³": lambda: peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "LoHa": lambda: peft.LoHaConfig(r=8, target_modules=_QV),
    "prompt tuning": lambda: peft.PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
}
OTHERS = tuple(_OTHERS)


def save(kind: Kind, folder: Path) -> nn.Module:
    """Make an adapter of that kind with weights like a trained one, save it, and return the model."""
    torch.manual_seed(0)
    config = LoraConfig(**{"r": 8, "lora_alpha": 16, **kind.config})
    return _saved(kind.model(), config, folder)


def save_other(name: str, folder: Path) -> None:
    """Save an adapter that is not LoRA."""
    torch.manual_seed(0)
    _saved(llama(), _OTHERS[name](), folder)


def _saved(model: nn.Module, config: peft.PeftConfig, folder: Path) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(model, config)
        generator = torch.Generator().manual_seed(1)
        for place, (name, weights) in enumerate(adapted.named_parameters()):
            if "lora_B" in name and weights.dim() == 2:
                spectrum = torch.logspace(0, -2, weights.shape[-1]) * (3.0 if place % 7 == 0 else 0.3)
                with torch.no_grad():
                    weights.copy_(torch.randn(weights.shape, generator=generator) * spectrum)
        adapted.save_pretrained(folder)
    return adapted


def audit(adapter: Path) -> bytes:
    """Return the output of `gradience audit` for a saved adapter."""
    command = [Path(sys.executable).parent / "gradience", "audit", "--peft-dir", adapter, "--json"]
    return subprocess.run(command, capture_output=True, check=True).stdout
