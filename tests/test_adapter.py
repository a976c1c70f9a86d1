"""`adapter_config.json` beside an audit: what is read from it, what is wrong with it, when it counts."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from benchd import AdapterConfig, Audit, BenchSettings, read_adapter_config, read_audit
from benchd.adapter import adapter_used, counted, unusable
from corpus import content, document, encoded

#: What PEFT 0.21 writes, less what is of no interest here.
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
OPEN = BenchSettings(base={"train": {"seed": 1}}, adapter_config=True)
ASKED_FOR_NOTHING = [BenchSettings(), BenchSettings(adapter_config=True), BenchSettings(base={"train": {"seed": 1}})]


def adapter(**changes: Any) -> AdapterConfig:
    """What is read of PEFT's file with some of its keys changed; `...` leaves one out."""
    value = {key: item for key, item in {**WRITTEN, **changes}.items() if item is not ...}
    return read_adapter_config(json.dumps(value).encode())


def audit(*modules: tuple[Any, Any]) -> Audit:
    """An audit of modules with these ranks and scalings."""
    gain = [{"module": f"m{place}", "r": rank, "scaling": scaling} for place, (rank, scaling) in enumerate(modules)]
    return read_audit(encoded(document(per_module_gain=gain)))


# --- reading --------------------------------------------------------------------------------------------------


def test_as_peft_writes_it() -> None:
    """Of PEFT's file the base model, the dropout, the scaling and the ranks are read."""
    data = json.dumps(WRITTEN, indent=2).encode()
    assert read_adapter_config(data) == AdapterConfig(
        token=hashlib.sha256(data).hexdigest(),
        base_model="meta-llama/Llama-3.2-1B",
        dropout=0.05,
        ranks=frozenset({16}),
        alpha=32.0,
    )


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"use_rslora": True}, "use_rslora", True),
        ({"use_rslora": "yes"}, "use_rslora", False),
        ({"rank_pattern": {"q": 4, "v": 8}}, "ranks", {4, 8, 16}),
        ({"rank_pattern": {"q": 0}}, "ranks", set()),
        ({"rank_pattern": {"q": "4"}}, "ranks", set()),
        ({"rank_pattern": [4]}, "ranks", set()),
        ({"rank_pattern": None}, "ranks", {16}),
        ({"rank_pattern": {"q": 16}}, "ranks", {16}),
        ({"r": None}, "ranks", set()),
        ({"r": ...}, "ranks", set()),
        ({"alpha_pattern": {"q": 4}}, "alpha", None),
        ({"lora_alpha": "32"}, "alpha", None),
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
    """A field of the wrong kind tells nothing; the others count all the same."""
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
        (b'{"peft_type": "IA3", "use_rslora": true}', "it is of another kind of adapter: IA3"),
        (b'{"peft_type": null}', "it is of another kind of adapter: null"),
    ],
)
def test_malformed(data: bytes, problem: str) -> None:
    """What can't be used is no failure: it says what is wrong, and nothing of it counts."""
    read = read_adapter_config(data)
    assert read.problem is not None
    assert read.problem.startswith(problem)
    assert read == AdapterConfig(token=hashlib.sha256(data).hexdigest(), problem=read.problem)


@pytest.mark.parametrize(
    "value", [b'"\xff"', b"1e999", b"1" * 5000, b'"' + b"x" * 10**6 + b'"', b"[" * 900 + b"]" * 900, b'{"a": "\xff"}']
)
def test_odd_values(value: bytes) -> None:
    """Whatever stands in place of a value tells nothing, and costs nothing."""
    keys = ["base_model_name_or_path", "lora_dropout", "use_rslora", "r", "lora_alpha", "rank_pattern", "alpha_pattern"]
    data = b"{" + b", ".join(f'"{key}": '.encode() + value for key in keys) + b', "\xff": 1}'
    assert read_adapter_config(data) == AdapterConfig(token=hashlib.sha256(data).hexdigest())


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
    """A file that could not be read has its reason for a name."""
    assert unusable(code) == AdapterConfig(token=code, problem=problem)


# --- whose it is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "modules", "belongs"),
    [
        ({}, [(16, 2.0)], True),
        ({}, [(16, 2.0), (None, None), (16, None)], True),
        ({}, [], True),
        ({}, [(8, 4.0)], False),
        ({}, [(16, 2.0), (8, 4.0)], False),
        ({"rank_pattern": {"q": 8}}, [(16, 2.0), (8, 4.0)], True),
        ({}, [(16, 1.0)], False),
        ({"alpha_pattern": {"q": 16}}, [(16, 1.0)], True),
        ({"r": ..., "lora_alpha": ...}, [(8, 1.0)], True),
        ({"lora_alpha": 0.1}, [(16, 0.1 / 16)], True),
    ],
)
def test_is_of(changes: dict[str, Any], modules: list[tuple[Any, Any]], belongs: bool) -> None:
    """It is the audited adapter's if the audit's ranks and alphas are those that it tells, as far as both do."""
    assert adapter(**changes).is_of(audit(*modules)) is belongs


def test_is_of_a_real_one() -> None:
    """The file of the adapter with `use_rslora` that is among the real audits belongs to its audit, and to no other."""
    own = adapter(r=64, lora_alpha=128, use_rslora=True)
    assert own.is_of(read_audit(content("r64_rslora__default.json")))
    assert not own.is_of(read_audit(content("r2__default.json")))


# --- when it counts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", ASKED_FOR_NOTHING)
def test_nothing_to_say(settings: BenchSettings) -> None:
    """Where nobody asks for what it tells, the file is not looked at any further, and nothing records it."""
    plain = adapter()
    assert adapter_used(settings, plain) is adapter_used(settings, None) is None
    assert counted(settings, plain, audit((16, 2.0))) == (None, ())


@pytest.mark.parametrize("settings", [*ASKED_FOR_NOTHING, OPEN])
def test_scaling_always_counts(settings: BenchSettings) -> None:
    """`use_rslora` counts under any settings, and a note says so."""
    scaled = adapter(use_rslora=True)
    assert adapter_used(settings, scaled) == scaled.token
    found, notes = counted(settings, scaled, audit((16, 2.0)))
    assert found == scaled
    assert notes == ("adapter_config.json says use_rslora: each alpha here gives that scaling without it",)


def test_asked_for() -> None:
    """Where the settings leave something to it, it counts."""
    plain = adapter()
    assert adapter_used(OPEN, plain) == plain.token
    assert counted(OPEN, plain, audit((16, 2.0))) == (plain, ())
    assert counted(OPEN, None, audit((16, 2.0))) == (None, ())


@pytest.mark.parametrize("settings", [*ASKED_FOR_NOTHING, OPEN])
def test_unusable_is_noted(settings: BenchSettings) -> None:
    """A file that can't be used might have said anything: a note says that it is not used, and why."""
    broken = read_adapter_config(b"[]")
    assert adapter_used(settings, broken) == broken.token
    found, notes = counted(settings, broken, audit((16, 2.0)))
    assert (found, notes) == (None, ("adapter_config.json beside the audit is not used: it is not a JSON object",))


def test_of_another_adapter() -> None:
    """The file of another adapter does not count, and a note says so."""
    found, [note] = counted(OPEN, adapter(), audit((8, 2.0)))
    assert found is None
    assert note.startswith("adapter_config.json beside the audit is not used: it is of another adapter: ")
