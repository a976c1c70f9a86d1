"""Bench's tables in a config: values from the audit, precedence of the base, notes, and `bench.focus`."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from benchd import AdapterConfig, BenchSettings, bench_config, read_adapter_config, read_audit, select
from benchd.bench.config import settings_used, write_config
from benchd.bench.seal import provenance_of
from benchd.bench.tables import base_used
from corpus import THREE_GAINS, THREE_MODULES, USABLE, Sample, checked, document, encoded, entry

BASE: dict[str, Any] = {
    "model": {"name": "m"},
    "task": {"dataset": "glue", "subset": "sst2"},
    "train": {"seed": 42, "learning_rate": 5e-05},
    "lora": {"dropout": 0.0},
    "runtime": {"device": "cpu"},
}
NOTHING_SELECTED = document(per_module_gain=THREE_GAINS)
PEFT_FILE = {"r": 16, "rank_pattern": {"a": 8}, "lora_dropout": 0.1}
ADAPTER = read_adapter_config(json.dumps({**PEFT_FILE, "base_model_name_or_path": "from/adapter"}).encode())
RSLORA = read_adapter_config(json.dumps({**PEFT_FILE, "use_rslora": True}).encode())


def config(
    audit: dict[str, Any] = THREE_MODULES, adapter: AdapterConfig | None = None, *, without: str = "", **changes: Any
) -> dict[str, Any]:
    """Return the checked config with tables for Bench; `lora__r=1` adds a key to a table, `without` removes one."""
    base = {name: dict(table) for name, table in BASE.items()}
    for key in without.split():
        table, _, name = key.partition(".")
        del base[table][name]
    for key in [key for key in changes if "__" in key]:
        table, _, name = key.partition("__")
        base.setdefault(table, {})[name] = changes.pop(key)
    read = read_audit(encoded(audit), adapter=adapter)
    data = bench_config(read, select(read), BenchSettings(base=base, **changes))
    value = checked(data)
    assert yaml.safe_load(data.decode()) == value
    return value


def notes(audit: dict[str, Any] = THREE_MODULES, adapter: AdapterConfig | None = ADAPTER, **changes: Any) -> list[str]:
    """Return the notes of a config, with the adapter's own file beside the audit so that no note requests it."""
    found: list[str] = config(audit, adapter, **changes)["selection"]["notes"]
    return found


# --- what is in it --------------------------------------------------------------------------------------------


def test_without_a_base() -> None:
    """Without a base, a config has no tables for Bench for any other settings."""
    read = read_audit(encoded(THREE_MODULES), adapter=ADAPTER)
    plain = bench_config(read, select(read))
    assert bench_config(read, select(read), BenchSettings(focus=True, adapter_config=True)) == plain
    assert not {"model", "lora", "compression"} & set(json.loads(plain))


def test_filled() -> None:
    """The base's tables come first, at the top level, with missing keys from the audit."""
    value = config()
    assert list(value) == [
        "schema_version", "model", "task", "train", "lora", "compression", "runtime", "compression_strategies",
        "selection", "provenance",
    ]  # fmt: skip
    assert value["model"] == {"name": "m"}
    assert value["train"] == {"seed": 42, "learning_rate": 5e-05}
    assert value["lora"] == {"probe_r": 16, "alpha": 32, "target_modules": ["a", "b", "c"], "dropout": 0.0}
    assert value["compression"] == {"allowed_ranks": [4, 5, 8, 16]}
    assert notes() == []


def test_numbers() -> None:
    """YAML reads every float in the tables as a float, at any depth."""
    read = read_audit(encoded(THREE_MODULES))
    base = {**BASE, "task": {**BASE["task"], "deep": [{"a": [1e-07, 1e22]}]}}
    data = bench_config(read, select(read), BenchSettings(base=base))
    assert b'"learning_rate": 5.0e-05' in data
    assert yaml.safe_load(data)["task"]["deep"] == [{"a": [1e-07, 1e22]}]


@pytest.mark.parametrize("sample", USABLE, ids=lambda sample: sample.file)
@pytest.mark.parametrize("focus", [False, True])
def test_real_audits(sample: Sample, focus: bool) -> None:
    """A real audit fills all keys that Bench needs, if it has facts about its adapter."""
    read = read_audit(sample.content)
    selection = select(read)
    value = checked(bench_config(read, selection, BenchSettings(base=BASE, focus=focus)))
    lacking = [note for note in value["selection"]["notes"] if note.startswith("Bench can't run")]
    if not read.modules.known:
        assert lacking
        return
    assert not lacking
    largest = max(module.rank or 0 for module in read.modules.known.values())
    assert value["lora"]["probe_r"] == largest
    uniform = min(8, largest)
    ranks = {layer.rank for layer in selection.layers if layer.rank} | {uniform, largest}
    ranks |= {module.rank for module in read.modules.known.values() if module.rank and module.rank < uniform}
    assert value["compression"]["allowed_ranks"] == sorted(ranks)
    focused = focus and bool(selection.layers)
    wanted = [layer.module for layer in selection.layers] if focused else list(read.modules.names)
    assert value["lora"]["target_modules"] == wanted


def test_other_keys() -> None:
    """Keys other than Bench's tables follow the tables unchanged."""
    others: dict[str, Any] = {"seed": 7, "message": ["x"], "env": {"A": "1e3", "rate": 1e-07}, "hypothesis": None}
    read = read_audit(encoded(THREE_MODULES))
    data = bench_config(read, select(read), BenchSettings(base={**BASE, **others}))
    value = checked(data)
    assert yaml.safe_load(data.decode()) == value
    assert list(value)[6:-3] == ["runtime", *others]
    assert {key: value[key] for key in others} == others
    provenance = provenance_of(data)
    assert provenance is not None
    assert provenance.audit_sha256 == read.sha256


def test_null() -> None:
    """A value from the audit replaces a null, and a null without one is kept and counts as missing."""
    open_keys: dict[str, Any] = {
        f"lora__{key}": None for key in ("probe_r", "alpha", "target_modules")
    } | {"compression__allowed_ranks": None, "train__max_steps": None}  # fmt: skip
    value = config(**open_keys)
    assert value["lora"] == config()["lora"]
    assert value["compression"] == config()["compression"]
    assert value["train"]["max_steps"] is None
    assert notes(**open_keys) == []
    value = config(document(), model__name=None, **open_keys)
    assert value["lora"] == {"probe_r": None, "alpha": None, "target_modules": None, "dropout": 0.0}
    [note] = value["selection"]["notes"]
    assert note.endswith(" model.name, lora.probe_r, lora.alpha, lora.target_modules, compression.allowed_ranks")
    assert notes(focus=True, **open_keys) == []


# --- precedence of the base -----------------------------------------------------------------------------------


def test_the_base_wins() -> None:
    """Each key of the base takes precedence over the audit."""
    value = config(
        lora__probe_r=16, lora__alpha=32, lora__target_modules=".*", compression__allowed_ranks=[16, 8, 5, 4, 2]
    )
    assert value["lora"] == {"probe_r": 16, "alpha": 32, "target_modules": ".*", "dropout": 0.0}
    assert value["compression"] == {"allowed_ranks": [16, 8, 5, 4, 2]}


def test_another_probe_rank() -> None:
    """A note reports a probe rank that differs from the adapter's, and alpha keeps the adapter's scaling at it."""
    value = config(lora__probe_r=32)
    assert (value["lora"]["probe_r"], value["lora"]["alpha"]) == (32, 64)
    assert value["compression"]["allowed_ranks"] == [4, 5, 8, 32]
    assert notes(lora__probe_r=32) == ["lora.probe_r is 32 (bench.base), the adapter's largest rank is 16"]


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"lora__alpha": 16}, "lora.alpha is 16 (bench.base); 32 would keep the adapter's scaling"),
        (
            {"compression__allowed_ranks": [4, 8]},
            "compression.allowed_ranks of bench.base lacks 5, 16; Bench rounds down to ranks in the list",
        ),
        (
            {"lora__target_modules": ["b", "c"]},
            "lora.target_modules of bench.base leaves out selected layers: a",
        ),
    ],
)
def test_contradictions(changes: dict[str, Any], note: str) -> None:
    """A note describes each contradiction between the base and the audit."""
    assert notes(**changes) == [note]


def test_left_out_layers() -> None:
    """Target modules match as endings, and a note names some of the selected layers that they omit."""
    names = [f"base_model.model.layers.{number}.q_proj" for number in range(5)]
    audit = document(flagged=[entry(name, k_values=[4]) for name in names], per_module_gain=THREE_GAINS)
    assert notes(audit, lora__target_modules=["q_proj"]) == []
    [note] = notes(audit, lora__target_modules=["proj", "layers.4.q_proj"])
    assert note.endswith(" leaves out selected layers: layers.0.q_proj, layers.1.q_proj, layers.2.q_proj and 1 more")


def test_lacking() -> None:
    """A note names the keys that neither the base nor the audit has, because Bench can't run without them."""
    said = "Bench can't run this config: neither bench.base nor the audit has "
    told_nothing = document(flagged=[entry("a")])
    assert notes(told_nothing)[-1] == f"{said}lora.probe_r, lora.alpha, compression.allowed_ranks"
    assert notes(document())[-1] == (
        f"{said}lora.probe_r, lora.alpha, lora.target_modules, compression.allowed_ranks"
    )  # fmt: skip
    assert notes(document(), lora__probe_r=4, lora__alpha=8, lora__target_modules=["q"]) == []
    assert notes(without="model.name train.seed")[-1] == f"{said}model.name, train.seed"


def test_unknown_table() -> None:
    """Omits a table without any known key."""
    assert "compression" not in config(document())


# --- focus ----------------------------------------------------------------------------------------------------


def test_focus() -> None:
    """With focus, the target modules are exactly the selected layers, in the order of the selection."""
    value = config(adapter=ADAPTER, focus=True)
    assert value["lora"]["target_modules"] == ["a", "b"]
    assert value["selection"]["notes"] == []


def test_focus_and_the_base() -> None:
    """Focus overrides the base's own target modules, and a note says so."""
    value = config(adapter=ADAPTER, focus=True, lora__target_modules=["c"])
    assert value["lora"]["target_modules"] == ["a", "b"]
    assert value["selection"]["notes"] == [
        "bench.focus: lora.target_modules are the selected layers', not those of bench.base"
    ]


@pytest.mark.parametrize(("own", "targets"), [({}, ["a", "b", "c"]), ({"lora__target_modules": ["c"]}, ["c"])])
def test_focus_on_nothing(own: dict[str, Any], targets: list[str]) -> None:
    """Focus has no effect if no selected layer can be a target, and a note says so."""
    value = config(NOTHING_SELECTED, focus=True, **own)
    assert value["lora"]["target_modules"] == targets
    assert value["selection"]["notes"] == [
        "bench.focus: no selected layer can be a target, so lora.target_modules are not narrowed"
    ]


def test_focus_on_an_ending() -> None:
    """Focus selects a module alone, even if another module's name ends in its name."""
    both = [entry("base_model.model.a.q", k_values=[4]), entry("base_model.model.b.a.q")]
    value = config(document(flagged=both[:1], candidates=both, per_module_gain=THREE_GAINS), focus=True)
    assert value["lora"]["target_modules"] == r"a\.q"


# --- the adapter's own file -----------------------------------------------------------------------------------


def test_keys_from_the_adapter() -> None:
    """The adapter's own file gives the keys that the base omits."""
    value = config(adapter=ADAPTER, adapter_config=True, without="model.name lora.dropout")
    assert value["model"] == {"name": "from/adapter"}
    assert value["lora"]["dropout"] == 0.1
    assert value["selection"]["notes"] == []
    assert value["provenance"]["adapter_config"] == ADAPTER.token


@pytest.mark.parametrize("asked", [True, False])
def test_the_base_before_the_adapter(asked: bool) -> None:
    """The adapter's own file changes no key of the base, and nothing if `bench.adapter_config` is off."""
    value = config(adapter=ADAPTER, adapter_config=asked)
    assert (value["model"]["name"], value["lora"]["dropout"]) == ("m", 0.0)
    assert value["provenance"]["settings"].get("bench.adapter_config") is None


@pytest.mark.parametrize("adapter", [None, read_adapter_config(b"{}"), read_adapter_config(b"[]")])
def test_no_adapter_file(adapter: AdapterConfig | None) -> None:
    """If no file gives the missing keys, a note names them."""
    found = notes(adapter=adapter, adapter_config=True, without="model.name lora.dropout")
    assert found[-1] == (
        "Bench can't run this config: neither bench.base, the audit nor an adapter_config.json of it has "
        "model.name, lora.dropout"
    )


def test_rslora() -> None:
    """An alpha for an adapter with `use_rslora` keeps its scaling, alpha / sqrt(rank), in a training without it."""
    value = config(adapter=RSLORA)
    assert value["lora"]["alpha"] == 2.0 * 4 * 16  # the scaling 32 / sqrt(16), at rank 16
    alphas = value["compression_strategies"][1]["alpha_pattern"]
    assert alphas == {"a": pytest.approx(2.0 * 8**0.5 * 4), "b": 2.0 * 4 * 5}
    assert value["provenance"]["adapter_config"] == RSLORA.token
    assert "use_rslora" in value["selection"]["notes"][-1]


def test_rslora_without_scaling() -> None:
    """Beside an adapter with `use_rslora`, a module without a known rank gets no alpha."""
    flagged = document(flagged=[entry("a", k_values=[4])])
    assert "alpha_pattern" not in config(flagged, RSLORA)["compression_strategies"][1]
    unranked = document(flagged=[entry("a", k_values=[4])], per_module_gain=[{"module": "a", "scaling": 2.0}])
    assert config(unranked)["compression_strategies"][1]["alpha_pattern"] == {"a": 8}
    assert "alpha_pattern" not in config(unranked, RSLORA)["compression_strategies"][1]


# --- what is recorded -----------------------------------------------------------------------------------------


def test_settings_used() -> None:
    """Records a digest of the base, with `focus`, and with `adapter_config` if the base omits one of its keys."""
    read = read_audit(encoded(THREE_MODULES))
    used = settings_used(select(read), BenchSettings(base=BASE))
    assert set(used) == {"bench.uniform_rank", "bench.base", "bench.focus"}
    assert set(base_used(BenchSettings(base={"train": {}}))) == {"bench.base", "bench.focus", "bench.adapter_config"}
    assert base_used(BenchSettings(focus=True, adapter_config=True)) == {}
    assert config()["provenance"]["settings"] == used


def test_each_input_is_another_decision() -> None:
    """Another base, focus or adapter gives another `decision_id`."""
    inputs: list[tuple[BenchSettings, AdapterConfig | None]] = [
        (BenchSettings(), None),
        (BenchSettings(), RSLORA),
        (BenchSettings(), ADAPTER),
        (BenchSettings(base=BASE), None),
        (BenchSettings(base=BASE), RSLORA),
        (BenchSettings(base=BASE, focus=True), None),
        (BenchSettings(base={**BASE, "runtime": {}}), None),
    ]
    audits = [(read_audit(encoded(THREE_MODULES), adapter=adapter), settings) for settings, adapter in inputs]
    assert len({write_config(read, select(read), settings).decision_id for read, settings in audits}) == len(inputs)


def test_notes() -> None:
    """A decision has the notes of its config."""
    read = read_audit(encoded({**THREE_MODULES, "issues": ["x"]}), adapter=ADAPTER)
    selection = select(read)
    written = write_config(read, selection, BenchSettings(base={**BASE, "lora": {"dropout": 0.0, "probe_r": 4}}))
    assert list(written.notes) == json.loads(written.config)["selection"]["notes"]
    assert written.notes[: len(selection.notes)] == selection.notes
    assert len(written.notes) > len(selection.notes) == 1
