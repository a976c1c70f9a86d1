"""The `adapter_config.json` beside an audit: reading it, its mistakes, and when benchd uses it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from benchd import AdapterConfig, Audit, BenchSettings, bench_config, read_adapter_config, read_audit, select
from benchd.audit.adapter import unusable
from benchd.audit.unread import Costly
from corpus import content, document, encoded, entry

#: The fields that PEFT 0.21 writes, without those that benchd ignores.
WRITTEN = {
    "base_model_name_or_path": "meta-llama/Llama-3.2-1B",
    "bias": "none",
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "peft_type": "LORA",
    "r": 16,
    "rank_pattern": {},
    "alpha_pattern": {},
    "target_modules": ["q_proj", "v_proj"],
    "task_type": "CAUSAL_LM",
    "use_rslora": False,
}


def adapter(**changes: Any) -> AdapterConfig:
    """Return PEFT's file as benchd reads it, with `changes`; `...` removes a key."""
    value = {key: item for key, item in {**WRITTEN, **changes}.items() if item is not ...}
    return read_adapter_config(json.dumps(value).encode())


def audit(*modules: tuple[Any, Any], beside: AdapterConfig | None = None, bounded: bool = False) -> Audit:
    """Return an audit of modules `m0.q`, `m1.q` … with these ranks and scalings, in which `m0.q` is flagged."""
    gain = [{"module": f"m{place}.q", "r": rank, "scaling": scaling} for place, (rank, scaling) in enumerate(modules)]
    flagged = [entry("m0.q", k_values=[2, 4])]
    return read_audit(encoded(document(flagged=flagged, per_module_gain=gain)), adapter=beside, bounded=bounded)


def notes(of: Audit) -> list[str]:
    """Return the notes in the config for an audit."""
    found = json.loads(bench_config(of, select(of)))["selection"]["notes"]
    assert isinstance(found, list)
    return found


# --- reading --------------------------------------------------------------------------------------------------


def test_as_peft_writes_it() -> None:
    """Reads the base model, the dropout, the scaling and the ranks from PEFT's file."""
    data = json.dumps(WRITTEN, indent=2).encode()
    assert read_adapter_config(data) == AdapterConfig(
        token=hashlib.sha256(data).hexdigest(),
        base_model="meta-llama/Llama-3.2-1B",
        dropout=0.05,
        rank=16,
        alpha=32.0,
        content=data,
    )


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"use_rslora": True}, "use_rslora", True),
        ({"use_rslora": "yes"}, "use_rslora", False),
        ({"rank_pattern": {"q": 4, "v": 8}}, "rank_pattern", {"q": 4, "v": 8}),
        ({"rank_pattern": {"q": "4"}}, "rank", None),
        ({"rank_pattern": [4]}, "rank", None),
        ({"rank_pattern": None}, "rank", 16),
        ({"r": None}, "rank", None),
        ({"r": ...}, "rank", None),
        ({"r": 0}, "rank", None),
        ({"alpha_pattern": {"q": 4}}, "alpha_pattern", {"q": 4}),
        ({"alpha_pattern": [4]}, "alpha", None),
        ({"lora_alpha": "32"}, "alpha", None),
        ({"target_parameters": ["mlp.experts.up"]}, "target_parameters", ("mlp.experts.up",)),
        ({"target_parameters": "mlp.experts.up"}, "target_parameters", ()),
        ({"lora_dropout": 0}, "dropout", 0.0),
        ({"lora_dropout": 1.5}, "dropout", None),
        ({"lora_dropout": True}, "dropout", None),
        ({"base_model_name_or_path": None}, "base_model", None),
        ({"base_model_name_or_path": ""}, "base_model", None),
        ({"base_model_name_or_path": "a\nb"}, "base_model", None),
        ({"base_model_name_or_path": "x" * 1001}, "base_model", None),
        ({"base_model_name_or_path": "/models/llama"}, "base_model", "/models/llama"),
        ({"peft_type": ...}, "problem", None),
    ],
)
def test_fields(changes: dict[str, Any], field: str, value: Any) -> None:
    """Ignores a field of the wrong type, and reads the others."""
    read = adapter(**changes)
    assert getattr(read, field) == value
    assert read.problem is None


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "it is not JSON (Input data was truncated)"),
        (b'{"r": 16', "it is not JSON (Input data was truncated)"),
        (b"\xff\xfe\xff", "it is not JSON ("),
        (b'{"r": 16,}', "it is not JSON ("),
        (b'{"a": ' * 100_000, "it is not JSON ("),
        (b"[" * 100_000, "it is not a JSON object"),
        (b"[]", "it is not a JSON object"),
    ],
)
def test_malformed(data: bytes, problem: str) -> None:
    """Reports a malformed file in `problem`, and ignores its content."""
    read = read_adapter_config(data)
    assert read.problem is not None
    assert read.problem.startswith(problem)
    assert read == AdapterConfig(token=hashlib.sha256(data).hexdigest(), problem=read.problem)
    assert (read.fields, read.carried(), read.left_behind()) == ({}, {}, [])


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ('"ADALORA"', "AdaLoRA"),
        ('"IA3"', "IA³"),
        ('"PREFIX_TUNING"', "prefix tuning"),
        ('"NEW_KIND"', "NEW_KIND"),
        ("null", "null"),
        ("[1]", "[1]"),
    ],
)
def test_other_kinds(kind: str, name: str) -> None:
    """Gives an adapter that is not LoRA its common name."""
    read = read_adapter_config(f'{{"peft_type": {kind}, "use_rslora": true}}'.encode())
    assert (read.kind, read.problem) == (name, f"it is of another kind of adapter: {name}")


@pytest.mark.parametrize("kind", ["ADALORA", "IA3"])
def test_reason_has_the_kind(kind: str) -> None:
    """The reason for an audit without layers names the kind of an adapter that is not LoRA."""
    nothing = {"total_lora_params": 0, "stable_rank_mean": 0.0, "n_layers": 0}
    of = read_audit(encoded(nothing), adapter=adapter(peft_type=kind))
    name = {"ADALORA": "AdaLoRA", "IA3": "IA³"}[kind]
    assert select(of).reason == (
        f"uniform only: the adapter is {name} (adapter_config.json), not LoRA: "
        "Gradience audits LoRA layers only, and found 0"
    )
    assert notes(of) == []


@pytest.mark.parametrize(
    "value", [b'"\xff"', b"1e999", b"1" * 5000, b'"' + b"x" * 10**6 + b'"', b"[" * 900 + b"]" * 900, b'{"a": "\xff"}']
)
def test_odd_values(value: bytes) -> None:
    """Ignores values that are broken, too large or too deep."""
    keys = ["base_model_name_or_path", "lora_dropout", "use_rslora", "r", "lora_alpha", "rank_pattern", "alpha_pattern"]
    data = b"{" + b", ".join(f'"{key}": '.encode() + value for key in keys) + b', "\xff": 1}'
    read = read_adapter_config(data)
    assert read == AdapterConfig(token=hashlib.sha256(data).hexdigest(), content=data)
    assert read.fields == {}


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("symlink", "it is a symbolic link, and links are not followed"),
        ("too_large", "it has more than 1048576 bytes"),
        ("not_a_regular_file", "it is not a regular file"),
        ("unreadable", "it can't be read"),
    ],
)
def test_unread(code: str, problem: str) -> None:
    """Names the reason why a file could not be read."""
    assert unusable(code) == AdapterConfig(token=code, problem=problem)


# --- when it is used ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "modules", "belongs"),
    [
        ({}, [(16, 2.0)], True),
        ({}, [(16, 2.0), (None, None), (16, None)], True),
        ({}, [], True),
        ({}, [(8, 4.0)], False),
        ({}, [(16, 2.0), (8, 4.0)], False),
        ({"rank_pattern": {"m1.q": 8}}, [(16, 2.0), (8, 4.0)], True),
        ({"rank_pattern": {"m1.q": 8}}, [(8, 4.0), (16, 2.0)], False),
        ({"rank_pattern": {"q": 8}}, [(16, 2.0), (8, 4.0)], False),
        ({}, [(16, 1.0)], False),
        ({"alpha_pattern": {"q": 16}}, [(16, 1.0)], True),
        ({"alpha_pattern": {"m0": 16}}, [(16, 1.0)], True),  # Gradience applies it to m0.q; PEFT does not
        ({"alpha_pattern": {"^m0.q": 16}}, [(16, 1.0)], False),
        ({"alpha_pattern": {"^m0.q": 16}}, [(16, 2.0)], True),
        ({"r": ..., "lora_alpha": ...}, [(8, 1.0)], True),
        ({"lora_alpha": 0.1}, [(16, 0.1 / 16)], True),
    ],
)
def test_file_of_the_adapter(changes: dict[str, Any], modules: list[tuple[Any, Any]], belongs: bool) -> None:
    """Accepts a file if PEFT gives the audit's ranks under it, and Gradience reads the audit's alphas from it."""
    of = audit(*modules, beside=adapter(**changes))
    assert (of.modules.adapter is not None) is belongs
    assert (of.modules.adapter_problem is None) is belongs
    if not belongs:
        assert of.modules.adapter_problem is not None
        assert of.modules.adapter_problem.startswith(
            "its ranks or alphas are not those in the audit: it is of another adapter, or "
        )


def test_file_of_a_real_adapter() -> None:
    """Accepts the file of a real adapter with `use_rslora` only for its own audit."""
    own = adapter(r=64, lora_alpha=128, use_rslora=True)
    assert read_audit(content("r64_rslora__default.json"), adapter=own).modules.adapter == own
    assert read_audit(content("r2__default.json"), adapter=own).modules.adapter is None


# --- what it changes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "scalings"),
    [
        ({}, [2.0, 4.0]),
        ({"use_rslora": True}, [8.0, 11.3137085]),
        ({"alpha_pattern": {".*m0.*": 64}}, [4.0, 4.0]),
        ({"alpha_pattern": {"m0.q": 64, ".*": 8}}, [4.0, 1.0]),
        ({"alpha_pattern": {".*": 8, "m0.q": 64}}, [0.5, 1.0]),
        ({"lora_alpha": ...}, [2.0, 4.0]),
    ],
)
def test_scaling(changes: dict[str, Any], scalings: list[float]) -> None:
    """A module has the scaling that PEFT applies under the file, even if Gradience reports another."""
    beside = adapter(rank_pattern={"m1.q": 8}, **changes)
    reported = [(rank, (beside.alpha_in_audit(f"m{place}.q") or 32) / rank) for place, rank in enumerate((16, 8))]
    of = audit(*reported, beside=beside)
    assert of.modules.adapter == beside
    assert [module.scaling for module in of.modules.known.values()] == pytest.approx(scalings)


def test_rslora_note() -> None:
    """Under `use_rslora` the alphas of a config are for a training without it, and a note says so."""
    of = audit((16, 2.0), beside=adapter(use_rslora=True))
    strategy = json.loads(bench_config(of, select(of)))["compression_strategies"][1]
    assert strategy["alpha_pattern"] == {"m0.q": 32}  # 32 / sqrt(16) = 8, and 8 x 4
    assert (
        notes(of)
        == [
            "the uniform rank is lowered from 8 to 4, the adapter's largest: no rank grows",
            "adapter_config.json says use_rslora: each alpha here gives the same scaling without use_rslora",
        ][1:]
    )


def test_without_the_file() -> None:
    """Without the file each alpha assumes alpha / rank, and a note says so."""
    assert notes(audit((16, 2.0))) == [
        "each alpha assumes a scaling of alpha / rank; for rsLoRA put adapter_config.json beside the audit"
    ]
    assert notes(audit((16, None))) == []


def test_unusable_is_noted() -> None:
    """A note names the reason why the file is not used."""
    of = audit((16, 2.0), beside=read_adapter_config(b"[]"))
    assert of.modules.adapter is None
    assert notes(of) == ["adapter_config.json is not used: it is not a JSON object"]


def test_bad_key() -> None:
    """Ignores a file with a key that is not a valid regular expression."""
    assert notes(audit((16, 2.0), beside=adapter(alpha_pattern={"(": 2}))) == [
        "adapter_config.json is not used: it has a pattern that is not a regular expression: ("
    ]


@pytest.mark.parametrize("beside", [adapter(), read_adapter_config(b"[]"), unusable("symlink")])
def test_recorded(beside: AdapterConfig) -> None:
    """A config records the file beside its audit, so that another file leads to a new answer."""
    of = audit((16, 2.0), beside=beside)
    assert json.loads(bench_config(of, select(of)))["provenance"]["adapter_config"] == beside.token
    alone = audit((16, 2.0))
    assert "adapter_config" not in json.loads(bench_config(alone, select(alone)))["provenance"]


@pytest.mark.parametrize(("asked", "model", "dropout"), [(True, "meta-llama/Llama-3.2-1B", 0.05), (False, None, None)])
def test_base_model_and_dropout(asked: bool, model: str | None, dropout: float | None) -> None:
    """With `bench.adapter_config` the file gives the base model and the dropout that the base omits."""
    of = audit((16, 2.0), beside=adapter())
    settings = BenchSettings(base={"train": {"seed": 1}}, adapter_config=asked)
    config = json.loads(bench_config(of, select(of), settings))
    assert config.get("model", {}).get("name") == model
    assert config["lora"].get("dropout") == dropout


# --- what is carried over -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "carried", "left"),
    [
        ({}, {}, []),
        ({"use_dora": True, "use_rslora": True}, {"use_dora": True, "use_rslora": True}, []),
        ({"use_dora": "yes"}, {}, ["use_dora"]),
        ({"bias": "all", "fan_in_fan_out": True}, {"bias": "all", "fan_in_fan_out": True}, []),
        ({"modules_to_save": ["score"]}, {"modules_to_save": ["score"]}, []),
        ({"modules_to_save": "score"}, {}, ["modules_to_save"]),
        ({"target_parameters": ["a.b"]}, {"target_parameters": ["a.b"]}, []),
        ({"trainable_token_indices": {"embed": [1]}}, {"trainable_token_indices": {"embed": [1]}}, []),
        ({"layer_replication": [[0, 2], [1, 3]]}, {"layer_replication": [[0, 2], [1, 3]]}, []),
        ({"init_lora_weights": "pissa"}, {"init_lora_weights": "pissa"}, []),
        ({"init_lora_weights": "pissa_niter_4"}, {"init_lora_weights": "pissa_niter_4"}, []),
        ({"init_lora_weights": "loftq"}, {}, ["init_lora_weights"]),
        ({"init_lora_weights": False}, {"init_lora_weights": False}, []),
        ({"init_lora_weights": True, "modules_to_save": [], "bias": "none", "lora_bias": False}, {}, []),
        ({"use_qalora": True, "corda_config": {"x": 1}, "megatron_core": "m"}, {}, ["use_qalora", "corda_config"]),
        ({"inference_mode": True, "revision": "main", "peft_version": "0.21.2", "layers_pattern": ["l"]}, {}, []),
        ({"lora_dropout": 0.0, "task_type": None}, {}, []),
    ],
)
def test_carried(changes: dict[str, Any], carried: dict[str, Any], left: list[str]) -> None:
    """`carried` returns the used fields that a training needs, and `left_behind` names the other used fields."""
    plain = {"task_type": None, "lora_dropout": 0.0, **changes}
    read = adapter(**plain)
    assert (read.carried(), read.left_behind()) == (carried, left)


@pytest.mark.parametrize(
    ("parameters", "holding"),
    [
        (["mlp.experts.up"], {"l.0.mlp.experts"}),
        (["experts.up", "experts.down"], {"l.0.mlp.experts", "other.experts"}),
        (["l.0.mlp.experts.up"], {"l.0.mlp.experts"}),
        (["up"], set()),
        (["perts.up", "x.experts.up"], set()),
        ([], set()),
    ],
)
def test_holding_parameters(parameters: list[str], holding: set[str]) -> None:
    """Matches a targeted parameter by the end of its name, after a dot, and returns the module that holds it."""
    modules = ["l.0.mlp.experts", "other.experts", "l.0.q", "experts_2"]
    assert adapter(target_parameters=parameters).holding_parameters(modules) == holding


def test_one_target_parameter() -> None:
    """Fused experts are out of reach, even if only the file beside the audit distinguishes them from a module."""
    of = audit((16, 2.0), (64, 0.5), beside=adapter(target_parameters=["m1.q.up"]))
    assert of.modules.adapter_problem is None
    assert (of.modules.names, of.modules.out_of_reach) == (("m0.q",), {"m1.q"})


def test_more_keys_than_modules() -> None:
    """Patterns with more keys than any model has modules are costly, whatever the keys are."""
    assert not adapter(rank_pattern={f"m{place}": 4 for place in range(5000)}).is_costly()
    costly = adapter(rank_pattern={f"m{place}": 4 for place in range(20_000)})
    assert costly.is_costly()
    with pytest.raises(Costly):
        select(audit((16, 2.0), beside=costly, bounded=True))
    assert select(audit((16, 2.0), beside=costly)).layers


@pytest.mark.parametrize(
    ("parameters", "rank", "belongs"),
    [
        (["m1.q.up"], 4, True),  # 16 = 4 experts of rank 4
        (["m1.q.up"], 3, False),
        (["m0.q.weight", "m1.q.weight"], 64, False),
    ],
)
def test_target_parameters_of_another_adapter(parameters: list[str], rank: int, belongs: bool) -> None:
    """The rank of fused experts in an audit is experts x rank, so only the file of the same adapter fits."""
    of = audit((rank, 2.0), (16, 2.0), beside=adapter(r=rank, lora_alpha=..., target_parameters=parameters))
    if not belongs:
        of = audit((8, 2.0), (16, 2.0), beside=adapter(r=rank, lora_alpha=..., target_parameters=parameters))
    assert (of.modules.adapter is not None) is belongs
    assert of.modules.out_of_reach == ({"m1.q"} if belongs else set())


def test_ranks_from_the_file_alone() -> None:
    """If the audit has no rank, the uniform rank is at most the rank in the adapter's file."""
    of = audit((None, None), beside=adapter(r=4, rank_pattern={"x": 6}))
    assert of.modules.largest_rank == 6
    assert audit((None, None)).modules.largest_rank is None
