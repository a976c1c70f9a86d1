"""The adapter behind each `gradience audit` command of INDEX.md, by its folder's name below `adapters/`."""

from __future__ import annotations

import math
from functools import partial

import families
from adapters import LONE, LONG_TAIL, Adapter, falling, tailed

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
LLAMA = (*ATTENTION, "gate_proj", "up_proj", "down_proj")
GPT2 = ("c_attn", "c_proj", "c_fc")
BERT = ("query", "value", "dense")
DISTILBERT = ("q_lin", "k_lin", "v_lin", "out_lin")
UNICODE = [f"layers.{layer}.{name}" for layer in range(4) for name in ("plain", "вход_проj", '出力 "q"')]

#: Many spreads and largest suggestions, below and above the rank from which Gradience's threshold grows.
VARIED = (
    *(tailed(heads, tail) for heads in (1, 2, 3) for tail in (0.04, 0.08, 0.12, 0.2, 0.31, 0.5)),
    *(falling(ratio) for ratio in (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)),
    LONE,
)

_llama2 = partial(families.llama, 2, 32)
_llama4 = partial(families.llama, 4, 32)

ADAPTERS: dict[str, Adapter] = {
    "bert_seqcls": Adapter(partial(families.bert, 4, 32), 8, BERT, loud=2, options={"task_type": "SEQ_CLS"}),
    "bert_spread": Adapter(
        partial(families.bert, 6, 16),
        8,
        BERT,
        quiet=(0.2, 4.0),
        quiet_spectra=VARIED,
        options={"task_type": "SEQ_CLS"},
        seed=1,
    ),
    "distilbert_seqcls": Adapter(
        partial(families.distilbert, 6, 32), 16, DISTILBERT, loud=2, options={"task_type": "SEQ_CLS"}
    ),
    "dora": Adapter(_llama2, 8, LLAMA, loud=2, options={"use_dora": True}),
    "embed": Adapter(partial(families.gpt2, 3, 32), 8, ("wte", "c_attn", "lm_head"), loud=1),
    "gpt2_hier": Adapter(partial(families.gpt2, 6, 32), 8, GPT2, loud=3),
    "gpt2_spread": Adapter(partial(families.gpt2, 6, 32), 16, GPT2, quiet=(0.2, 4.0), quiet_spectra=VARIED, seed=2),
    "llama2_allnan": Adapter(_llama2, 8, LLAMA, fill=dict.fromkeys(range(14), math.nan)),
    "llama2_ties": Adapter(_llama2, 8, LLAMA, quiet=(1.0, 1.0), quiet_spectra=(LONG_TAIL,), identity=True),
    "llama2_tiny": Adapter(_llama2, 8, LLAMA, quiet=(1e-30, 1e-30), quiet_spectra=(LONG_TAIL,)),
    "llama2_zero": Adapter(_llama2, 16, LLAMA, alpha=32, quiet=(0.0, 0.0)),
    "llama32x7": Adapter(partial(families.llama, 32, 32), 16, LLAMA, alpha=32, loud=12),
    "llama4_hier0": Adapter(
        _llama4, 16, LLAMA, alpha=32, loud=3, loud_spectrum=LONE, quiet_spectra=(LONG_TAIL, falling(0.8))
    ),
    "llama4_many": Adapter(_llama4, 16, LLAMA, alpha=32, loud=5),
    "llama4_one": Adapter(_llama4, 16, LLAMA, alpha=32, loud=1),
    "llama4_onezero": Adapter(_llama4, 8, LLAMA, loud=2, fill={5: 0.0}),
    "llama80x7": Adapter(partial(families.llama, 80, 32), 16, LLAMA, alpha=32, loud=15),
    "llama8_spread": Adapter(
        partial(families.llama, 8, 64), 32, LLAMA, alpha=64, quiet=(0.2, 4.0), quiet_spectra=VARIED, seed=1
    ),
    "mistral4_flat": Adapter(
        partial(families.mistral, 4, 32),
        16,
        LLAMA,
        alpha=32,
        quiet=(0.97, 1.03),
        quiet_spectra=(LONG_TAIL, falling(0.8)),
    ),
    "multi_raw": Adapter(partial(families.gpt2, 4, 32), 8, GPT2, loud=8, second=True),
    "qwen2moe": Adapter(partial(families.qwen2moe, 24, 60, 8), 8, LLAMA, loud=683),
    "r1_nan": Adapter(_llama2, 1, LLAMA, alpha=2, fill={0: math.nan, 6: math.nan}),
    "r2": Adapter(_llama4, 2, LLAMA, alpha=4, loud=2),
    "r64_rslora": Adapter(partial(families.llama, 4, 64), 64, LLAMA, alpha=128, loud=4, options={"use_rslora": True}),
    "rank_pattern": Adapter(
        _llama4,
        8,
        LLAMA,
        loud=2,
        options={
            "rank_pattern": {"layers.0.self_attn.q_proj": 32, "v_proj": 4, "layers.3.mlp.up_proj": 2},
            "alpha_pattern": {"layers.0.self_attn.q_proj": 64},
        },
    ),
    "single": Adapter(partial(families.gpt2, 1, 32), 8, ("c_attn",), quiet=(1.0, 1.0)),
    "trained_gpt2": Adapter(partial(families.gpt2, 6, 64), 16, GPT2, alpha=32, steps=120),
    "trained_llama8": Adapter(partial(families.llama, 8, 64), 16, LLAMA, alpha=32, steps=120),
    "unicode": Adapter(partial(families.tree, UNICODE, 32), 8, UNICODE, alpha=8, loud=2),
}
