"""The arguments of `peft.LoraConfig` for an answer: ranks, alphas and targets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchd import AdapterConfig, Audit, BenchSettings, read_adapter_config, read_audit, select
from benchd.audit.adapter import Weights
from benchd.bench.training import Training, plan_training
from corpus import THREE_GAINS, THREE_MODULES, USABLE, Sample, content, document, encoded, entry


def adapter(**fields: Any) -> AdapterConfig:
    """Return the file of an adapter of `THREE_MODULES`, with these fields."""
    return read_adapter_config(json.dumps({"r": 16, "rank_pattern": {"a": 8}, **fields}).encode())


def read(audit: dict[str, Any] | bytes, beside: AdapterConfig | None = None) -> Audit:
    return read_audit(audit if isinstance(audit, bytes) else encoded(audit), adapter=beside)


def lora(audit: dict[str, Any], beside: AdapterConfig | None = None, **settings: Any) -> dict[str, Any]:
    of = read(audit, beside)
    return plan_training(of, select(of), BenchSettings(**settings)).arguments


def planned(audit: dict[str, Any] | bytes, beside: AdapterConfig | None = None, **settings: Any) -> Training:
    of = read(audit, beside)
    return plan_training(of, select(of), BenchSettings(**settings))


def adapted(*modules: tuple[str, int, float], ranks: dict[str, int] | None = None) -> dict[str, Any]:
    """Return an audit of modules with these ranks and scalings; some are flagged with a rank."""
    gain = [{"module": name, "r": rank, "scaling": scaling} for name, rank, scaling in modules]
    flagged = [entry(name, k_values=[rank]) for name, rank in (ranks or {}).items()]
    return document(flagged=flagged, per_module_gain=gain)


def test_lora_config() -> None:
    """The selected layers get their ranks, all others the uniform one, and each keeps its scaling."""
    assert lora(THREE_MODULES) == {
        "peft_type": "LORA",
        "r": 8,
        "lora_alpha": 16,
        "rank_pattern": {"a": 4, "b": 5},
        "alpha_pattern": {"a": 8, "b": 10},
        "target_modules": ["a", "b", "c"],
    }
    of = read(THREE_MODULES)
    assert plan_training(of, select(of)).arguments == lora(THREE_MODULES)


def test_modules_of_other_scalings() -> None:
    """Modules whose scaling differs from most keep it, too."""
    made = lora(adapted(("x", 8, 1.0), ("y.x", 8, 2.0), ("z", 8, 2.0)), uniform_rank=4)
    assert (made["r"], made["lora_alpha"], made["alpha_pattern"]) == (4, 8, {"$|^x": 4})
    assert made["rank_pattern"] == {}


def test_no_rank_grows() -> None:
    """A module whose own rank is below the uniform rank keeps it, and a note says how many do."""
    training = planned(
        adapted(("x", 16, 2.0), ("y", 2, 2.0), ("z", 16, 1.0), ("w", 16, 2.0), ("v", 16, 2.0), ranks={"x": 6})
    )
    assert training.ranks == {"x": 6, "y": 2, "z": 8, "w": 8, "v": 8}
    assert training.arguments["r"] == 8
    assert training.arguments["rank_pattern"] == {"x": 6, "y": 2}
    assert training.arguments["alpha_pattern"] == {"x": 12, "y": 4, "z": 8}
    assert "1 module keeps a rank below the uniform rank 8, as in the adapter" in training.notes
    assert str(training.change) == "ranks 66 → 32; 4 modules shrink, 0 grow"


def test_most_below_the_uniform_rank() -> None:
    """`r` is the rank of most modules, so that the patterns stay short."""
    made = lora(adapted(("x", 2, 1.0), ("y", 2, 1.0), ("z", 32, 1.0)))
    assert (made["r"], made["lora_alpha"], made["rank_pattern"], made["alpha_pattern"]) == (2, 2, {"z": 8}, {"z": 8})


@pytest.mark.parametrize("sample", USABLE, ids=lambda sample: sample.file)
def test_real_audits(sample: Sample) -> None:
    """No module of a real adapter gets a larger rank than it has, under any uniform rank."""
    of = read(sample.content)
    for uniform in (1, 8, 64, "audit_median", "audit_p90"):
        training = plan_training(of, select(of), BenchSettings(uniform_rank=uniform))
        assert all(
            rank <= (of.modules.known[name].rank or rank)
            for name, rank in training.ranks.items()
            if name in of.modules.known
        )
        assert set(training.ranks) == set(of.modules.names)
        if training.change:
            assert training.change.grow == 0
            assert training.change.ranks[1] == sum(training.ranks.values()) <= training.change.ranks[0]


MODULES = st.lists(
    st.tuples(st.integers(1, 64), st.sampled_from([0.5, 1.0, 2.0, 3.7]), st.none() | st.integers(1, 80)),
    min_size=1,
    max_size=12,
)


@given(MODULES, st.integers(1, 100), st.booleans())
def test_every_module_as_planned(modules: list[tuple[int, float, int | None]], uniform: int, rslora: bool) -> None:
    """For any adapter, the arguments give each module the planned rank, never a larger one, and its own scaling."""
    named = [(f"layers.{place}.q", rank, scaling) for place, (rank, scaling, _) in enumerate(modules)]
    ranks = {f"layers.{place}.q": k for place, (_, _, k) in enumerate(modules) if k}
    beside = read_adapter_config(json.dumps({"use_rslora": rslora}).encode())
    of = read(adapted(*named, ranks=ranks), beside)
    training = plan_training(of, select(of), BenchSettings(uniform_rank=uniform))
    made = training.arguments
    for name, own, reported in named:
        rank = made["rank_pattern"].get(name, made["r"])
        alpha = made["alpha_pattern"].get(name, made["lora_alpha"])
        assert rank == training.ranks[name] == min(own, ranks.get(name, min(uniform, of.modules.largest_rank or 0)))
        before = reported * own / (own**0.5 if rslora else own)
        assert alpha / (rank**0.5 if made.get("use_rslora") else rank) == pytest.approx(before)


def test_little_is_told() -> None:
    """Arguments that the audit doesn't tell are left out."""
    assert lora(document()) == {"peft_type": "LORA", "r": 8, "rank_pattern": {}, "alpha_pattern": {}}
    everything = document(flagged=[entry("a", k_values=[4])], per_module_gain=[{"module": "a", "r": 8, "scaling": 2.0}])
    assert lora(everything)["lora_alpha"] == 8
    training = planned(document(flagged=[entry("a", k_values=[4])]))
    assert training.change is None
    assert "the audit doesn't tell the adapter's scaling; set lora_alpha yourself" in training.peft_notes


def test_settings() -> None:
    """Focus holds here as it does for Bench; the base's target modules are for Bench alone."""
    focused = planned(THREE_MODULES, focus=True)
    assert focused.arguments["target_modules"] == ["a", "b"]
    assert focused.ranks == {"a": 4, "b": 5}
    assert planned(THREE_MODULES, base={"lora": {"target_modules": ["b"]}}) == planned(THREE_MODULES)


def test_real_lora_config() -> None:
    """The export of a real audit keeps the scalings, although ranks and scalings differ by module."""
    of = read(content("rank_pattern__default.json"))
    made = plan_training(of, select(of)).arguments
    assert made["r"] == 8
    scalings = {name: made["alpha_pattern"].get(name, made["lora_alpha"]) for name in of.modules.names}
    for name, module in of.modules.known.items():
        assert scalings[name] / made["rank_pattern"].get(name, 8) == pytest.approx(module.scaling)


# --- what the adapter's own file tells ------------------------------------------------------------------------


def test_carried() -> None:
    """The arguments have what a training of the same adapter needs. Without the file a note says what is missing."""
    fields = {
        "task_type": "SEQ_CLS",
        "use_dora": True,
        "bias": "all",
        "modules_to_save": ["score"],
        "peft_type": "LORA",
    }
    training = planned(THREE_MODULES, adapter(**fields))
    assert {key: training.arguments[key] for key in fields} == fields
    assert training.notes == training.peft_notes == ()
    [note] = planned(THREE_MODULES).peft_notes
    assert note.startswith("without the adapter's adapter_config.json (--adapter DIR) each alpha assumes")


def test_left_behind() -> None:
    """A field in use that is not carried is named."""
    [note] = planned(THREE_MODULES, adapter(use_qalora=True)).peft_notes
    assert note == "in adapter_config.json and not carried over: use_qalora"


def test_rslora() -> None:
    """`use_rslora` is carried over, with alphas for it. With `may_use_rslora=False` the alphas do without it."""
    of = read(THREE_MODULES, adapter(use_rslora=True))
    training = plan_training(of, select(of), BenchSettings())
    assert training.arguments["use_rslora"] is True
    assert training.arguments["lora_alpha"] == pytest.approx(32 / 16**0.5 * 8**0.5)
    assert training.peft_notes == ("the adapter uses rsLoRA: use_rslora is carried over, with alphas for it",)
    plain = plan_training(of, select(of), BenchSettings(), may_use_rslora=False)
    assert "use_rslora" not in plain.arguments
    assert plain.arguments["lora_alpha"] == 32 / 16**0.5 * 8
    assert plain.peft_notes == ("the adapter uses rsLoRA: each alpha gives its scaling without use_rslora",)


TWO = adapted(("a", 16, 2.0), ("b", 16, 2.0), ranks={"a": 4})
UNAUDITED = "adapted, but not audited by Gradience; at the uniform rank or their own: "


@pytest.mark.parametrize(
    ("fields", "rank", "alpha"),
    [
        ({}, 8, 16),
        ({"rank_pattern": {"embed_tokens": 4}}, 4, 32),
        ({"rank_pattern": {"model.embed_tokens": 4}}, 4, 32),
        ({"rank_pattern": {r".*\.embed_tokens": 4}, "alpha_pattern": {r"model\.embed_tokens": 64}}, 4, 64),
        ({"rank_pattern": {r"$|^model\.embed_tokens": 4, "embed_tokens": 6}}, 4, 32),
    ],
)
def test_embeddings_by_the_adapters_file(fields: dict[str, Any], rank: int, alpha: int) -> None:
    """A target that the audit does not name stays one, at its own rank and scaling as far as patterns tell."""
    fields = {"target_modules": ["a", "b", "embed_tokens"], "lora_alpha": 32, "rank_pattern": {}, **fields}
    training = planned(TWO, adapter(**fields))
    made = training.arguments
    assert made["target_modules"] == ["a", "b", "embed_tokens"]
    assert made["rank_pattern"].get("embed_tokens", made["r"]) == rank
    assert made["alpha_pattern"].get("embed_tokens", made["lora_alpha"]) == alpha
    assert training.peft_notes == (f"{UNAUDITED}embed_tokens",)
    assert training.ranks == {"a": 4, "b": 8}  # what nobody has counted changes no sum
    assert planned(TWO, adapter(**fields), focus=True).arguments["target_modules"] == ["a"]


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["a", "embed"], "exclude_modules": ["embed"]},
        {"target_modules": ["a", "embed"], "layers_to_transform": [1]},
        {"target_modules": ["a", "b"]},
        {"target_modules": None},
        {"target_modules": [3, "", "a"]},
    ],
)
def test_no_embeddings(fields: dict[str, Any]) -> None:
    """Targets that PEFT left out, or that are audited modules, are no embeddings."""
    training = planned(TWO, adapter(r=16, rank_pattern={}, **fields))
    assert training.arguments["target_modules"] == ["a", "b"]
    assert training.peft_notes == ()


def test_embeddings_by_the_weights() -> None:
    """The weights name every module of the adapter with its rank; weights of another adapter don't count."""
    weights = {
        "a": Weights(16, 160),
        "b": Weights(16, 160),
        "model.embed": Weights(4, 400),
        "x.experts": Weights(32, 9),
    }
    fields = {"target_modules": ["a", "b", "embed", "phantom"], "rank_pattern": {"model.embed": 4}, "lora_alpha": 32}
    of = read(TWO, adapter(**fields))
    training = plan_training(of, select(of), BenchSettings(uniform_rank=2), weights=weights)
    assert training.arguments["target_modules"] == ["a", "b", "model.embed"]
    assert training.ranks == {"a": 4, "b": 2, "model.embed": 2}
    assert training.arguments["alpha_pattern"] == {"a": 8, "model.embed": 16}
    assert str(training.change) == "ranks 36 → 8, parameters 720 → 260; 3 modules shrink, 0 grow"
    alone = read(TWO)
    unknown = plan_training(alone, select(alone), BenchSettings(), weights=weights).arguments
    assert (unknown["rank_pattern"]["model.embed"], unknown["alpha_pattern"]["model.embed"]) == (4, 8)
    other = plan_training(of, select(of), BenchSettings(), weights={**weights, "a": Weights(8, 80)})
    assert other.change is not None
    assert (other.change.parameters, other.arguments["target_modules"]) == (None, ["a", "b", "embed", "phantom"])


def test_targets_as_a_pattern() -> None:
    """Of targets that are one pattern nobody can tell what else they hit, and a note says so."""
    [note] = planned(THREE_MODULES, adapter(target_modules=".*")).peft_notes
    assert note == "the adapter's target_modules are one pattern; embeddings that it hits are left out"


def test_fused_experts() -> None:
    """Fused experts keep the adapter's own rank and scaling in target_parameters, because PEFT takes no other."""
    gain = [
        {"module": "experts", "r": 32, "scaling": 0.25},
        {"module": "experts.base_layer", "r": 32, "scaling": 0.25},
        {"module": "q", "r": 4, "scaling": 2.0},
        {"module": "v", "r": 4, "scaling": 2.0},
    ]
    audit = document(flagged=[entry("experts", k_values=[9]), entry("q", k_values=[3])], per_module_gain=gain)
    fields = {"r": 4, "lora_alpha": 8, "rank_pattern": {}, "target_parameters": ["experts.up"]}
    training = planned(audit, adapter(**fields))
    assert training.arguments == {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"q": 3},
        "alpha_pattern": {"q": 6},
        "target_modules": ["q", "v"],
        "target_parameters": ["experts.up"],
    }
    assert str(training.change) == "ranks 8 → 7; 1 module shrinks, 0 grow"
    assert training.peft_notes == ()
    smaller = planned(audit, adapter(**fields), uniform_rank=2)
    assert (smaller.arguments["r"], smaller.arguments["lora_alpha"]) == (2, 4)
    assert smaller.peft_notes == ("fused experts (target_parameters) shrink, too: r 4 → 2",)


def test_experts_of_a_larger_rank() -> None:
    """Fused experts keep the rank of the adapter's file also where all other modules have smaller ones."""
    gain = [{"module": "experts", "r": 64, "scaling": 0.5}, {"module": "q", "r": 2, "scaling": 16.0}]
    fields = {"r": 16, "lora_alpha": 32, "rank_pattern": {"q": 2}, "target_parameters": ["experts.up"]}
    training = planned(document(per_module_gain=gain), adapter(**fields), uniform_rank=32)
    assert (training.arguments["r"], training.arguments["lora_alpha"]) == (16, 32)
    assert (training.arguments["rank_pattern"], training.arguments["alpha_pattern"]) == ({"q": 2}, {})
    assert "the uniform rank is lowered from 32 to 16, the adapter's largest: no rank grows" in training.notes


def test_focus_on_experts_alone() -> None:
    """Where no selected module can be a target there is no focus: the training is of all modules."""
    audit = document(
        flagged=[entry("experts", k_values=[9])], per_module_gain=[{"module": "q", "r": 8, "scaling": 1.0}]
    )
    training = planned(audit, focus=True)
    assert training.ranks == {"q": 8}
    assert training.arguments["lora_alpha"] == 8


# --- what changes ---------------------------------------------------------------------------------------------


def test_parameters() -> None:
    """Parameters come from the audit's rows, else from the caller. If neither has them, they are not counted."""
    rows = [{"name": row["module"], "params": 100 * row["r"]} for row in THREE_GAINS]
    counted = planned({**THREE_MODULES, "layer_data": {"layer_rows": rows}})
    assert str(counted.change) == "ranks 40 → 17, parameters 4,000 → 1,700; 3 modules shrink, 0 grow"
    of = read(THREE_MODULES)
    weights = {"a": Weights(8, 80), "b": Weights(16, 320), "c": Weights(16, 480)}
    told = plan_training(of, select(of), BenchSettings(), weights=weights)
    assert told.change is not None
    assert told.change.parameters == (880, 40 + 100 + 240)
    partly = plan_training(of, select(of), BenchSettings(), weights={"a": Weights(8, 80)})
    assert str(partly.change) == "ranks 40 → 17; 3 modules shrink, 0 grow"


def test_nothing_selected() -> None:
    """If no layer gets a rank, a note says why."""
    training = planned(document(analysis={"analysis_performed": False}, per_module_gain=THREE_GAINS))
    [note] = training.notes
    assert note.startswith("no module gets a custom rank: uniform only: Gradience performed no ")


def test_names_without_an_analysis() -> None:
    """Notes about names are there also where the selection had no look at them."""
    gain = [{"module": f"_orig_mod.{name}", "r": 8} for name in ("q", "mlp.experts")]
    training = planned(
        document(analysis={"analysis_performed": False}, per_module_gain=[*gain, {"module": "q", "r": 4}])
    )
    wrappers, merged, reach, *_ = training.notes[1:]
    assert wrappers.endswith(": _orig_mod")
    assert merged == "two names in the audit are one module, for which the first counts: q"
    assert reach.startswith("no rank and no target: mlp.experts; ")
    assert training.ranks == {"q": 4}  # the smaller one: no rank grows
