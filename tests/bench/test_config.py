"""The config and the error report: keys and their order, the two strategies, determinism."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchd import BenchSettings, SelectionSettings, bench_config, read_audit, select
from benchd.audit.naming import MAX_NAME
from benchd.audit.refusals import CODES, AuditError, refusal
from benchd.audit.values import MAX_RANK
from benchd.bench.config import error_report, settings_used, write_config
from corpus import AUDITS, DESIGN_FLAGGED, answer, checked, content, document, encoded, entry

GAIN = {"per_module_gain": [{"module": "base_model.model.a", "r": 16, "scaling": 2.0}]}
FLAGGED = document(flagged=[entry("base_model.model.a", k_values=[4])], candidates=[entry("b"), entry("c")], **GAIN)


def raw(audit: dict[str, Any] | bytes, name: str = "audit.json", **bench: Any) -> bytes:
    read = read_audit(audit if isinstance(audit, bytes) else encoded(audit), name=name)
    return bench_config(read, select(read), BenchSettings(**bench))


def patterns(*names: str) -> dict[str, int]:
    """Return the rank pattern of an audit that flags the modules `names`."""
    config = answer(document(flagged=[entry(name, k_values=[4]) for name in names]))
    pattern: dict[str, int] = config["compression_strategies"][1]["rank_pattern"]
    return pattern


# --- shape ----------------------------------------------------------------------------------------------------


def test_keys_and_their_order() -> None:
    """The keys have the order of the contract at every level."""
    config = answer(FLAGGED)
    assert list(config) == ["schema_version", "compression_strategies", "selection", "provenance"]
    uniform, per_layer = config["compression_strategies"]
    assert list(uniform) == ["variant", "rank", "description"]
    assert list(per_layer) == [
        "variant", "rank_pattern", "alpha_pattern", "description", "focus_justification", "layers_tested",
        "layers_skipped",
    ]  # fmt: skip
    selection = config["selection"]
    assert list(selection) == ["strategy", "confidence", "reason", "ladder", "layers", "notes"]
    assert list(selection["ladder"][0]) == ["strategy", "fired", "reason"]
    assert list(selection["layers"][0]) == [
        "layer_name", "module", "priority", "validation", "rank", "rank_source", "rank_is_upper_bound",
        "priority_score", "spread", "spread_threshold", "uniform_mult", "uniform_mult_threshold", "importance_share",
        "disagrees", "failed_reasons",
    ]  # fmt: skip
    assert list(config["provenance"]) == [
        "audit", "audit_sha256", "audit_bytes", "gradience_version", "selection_version", "settings", "decision_id",
        "config_sha256",
    ]  # fmt: skip


def test_strategies() -> None:
    """The baseline comes first, followed by the layers with a rank and with alphas that keep the adapter's scaling."""
    uniform, per_layer = answer(FLAGGED)["compression_strategies"]
    assert uniform == {"variant": "uniform", "rank": 8, "description": "Conservative uniform baseline"}
    assert per_layer == {
        "variant": "per_layer",
        "rank_pattern": {"a": 4},
        "alpha_pattern": {"a": 8},
        "description": "Per-layer optimization for 1 critical layer",
        "focus_justification": "Selected by flagged: 1 of 3 layers is flagged as high-impact",
        "layers_tested": 1,
        "layers_skipped": 2,
    }


def test_more_layers() -> None:
    """The description is in the plural for several layers, and there is no alpha pattern without any scaling."""
    config = answer(document(flagged=[entry(name, k_values=[2]) for name in "ab"] + [entry("c")]))
    per_layer = config["compression_strategies"][1]
    assert per_layer["rank_pattern"] == {"a": 2, "b": 2}
    assert per_layer["description"] == "Per-layer optimization for 2 critical layers"
    assert (per_layer["layers_tested"], per_layer["layers_skipped"]) == (2, 1)
    assert "alpha_pattern" not in per_layer


def test_alpha_needs_a_scaling() -> None:
    """A layer without a known scaling has a rank but no alpha."""
    flagged = [entry("base_model.model.a", k_values=[4]), entry("b", k_values=[4])]
    per_layer = answer(document(flagged=flagged, **GAIN))["compression_strategies"][1]
    assert (list(per_layer["rank_pattern"]), per_layer["alpha_pattern"]) == (["a", "b"], {"a": 8})


def test_no_strategy_without_ranks() -> None:
    """Without any rank, the config has only the baseline, but still lists the layers."""
    config = answer(document(flagged=[entry("a")]))
    assert [strategy["variant"] for strategy in config["compression_strategies"]] == ["uniform"]
    assert [layer["layer_name"] for layer in config["selection"]["layers"]] == ["a"]


OURS = "Selected by flagged: 1 of 3 layers is flagged as high-impact"


@pytest.mark.parametrize(
    ("focus", "justification"),
    [
        (["base_model.model.a"], "Focus Bench validation on 1 layer"),
        (["base_model.model.a", "base_model.model.a"], "Focus Bench validation on 1 layer"),
        ([], OURS),
        (["base_model.model.b"], OURS),
        (["base_model.model.a", "b"], OURS),
        ("base_model.model.a", OURS),
        (None, OURS),
    ],
)
def test_focus_justification(focus: Any, justification: str) -> None:
    """The justification is Gradience's advice if it is about these layers, else the reason of the rung."""
    audit = {**FLAGGED}
    audit["policy_disagreement_analysis"] = {
        **FLAGGED["policy_disagreement_analysis"],
        "disagreement_focus_set": {"message": "Focus Bench validation on\n1 layer", "high_impact_layers": focus},
    }
    assert answer(audit)["compression_strategies"][1]["focus_justification"] == justification


@pytest.mark.parametrize(
    ("own", "setting", "rank", "notes"),
    [
        ([16, 4], 8, 8, []),
        ([4, 2], 8, 4, ["the uniform rank is lowered from 8 to 4, the adapter's largest: no rank grows"]),
        ([4], "audit_p90", 4, ["the uniform rank is lowered from 6 to 4, the adapter's largest: no rank grows"]),
        ([None], 8, 8, []),
        ([], 8, 8, []),
    ],
)
def test_uniform_at_most_the_adapters_rank(own: list[Any], setting: Any, rank: int, notes: list[str]) -> None:
    """The baseline is at most the adapter's own largest rank, and a note says if that lowers it."""
    gain = [{"module": f"m{place}", "r": r} for place, r in enumerate(own)]
    config = answer(document(per_module_gain=gain, suggested_r_global_90=6), bench=BenchSettings(uniform_rank=setting))
    assert config["compression_strategies"][0]["rank"] == rank
    assert config["selection"]["notes"] == notes


@pytest.mark.parametrize(
    ("setting", "top", "rank", "description"),
    [
        (8, {}, 8, "Conservative uniform baseline"),
        (16, {"suggested_r_global_median": 3}, 16, "Conservative uniform baseline"),
        (
            "audit_median",
            {"suggested_r_global_median": 3},
            3,
            "Uniform baseline at the audit's own suggestion (median)",
        ),
        (
            "audit_p90",
            {"suggested_r_global_median": 3, "suggested_r_global_90": 5},
            5,
            "Uniform baseline at the audit's own suggestion (90th percentile)",
        ),
        ("audit_median", {}, 8, "Conservative uniform baseline"),
        ("audit_p90", {"suggested_r_global_90": 0}, 8, "Conservative uniform baseline"),
        ("audit_p90", {"suggested_r_global_90": "x"}, 8, "Conservative uniform baseline"),
        (10**9, {}, MAX_RANK, "Conservative uniform baseline"),
    ],
)
def test_uniform_rank(setting: Any, top: dict[str, Any], rank: int, description: str) -> None:
    """The baseline's rank is the setting, or the audit's own suggestion, or 8 without a suggestion."""
    config = answer(document(**top), bench=BenchSettings(uniform_rank=setting))
    assert config["compression_strategies"] == [{"variant": "uniform", "rank": rank, "description": description}]
    assert config["provenance"]["settings"] == {"bench.uniform_rank": setting}


def test_numbers() -> None:
    """Copies the audit's metrics, with whole spreads as integers and values that are not numbers as null."""
    rationale = {"spread": 6.0, "spread_threshold": 4, "uniform_mult": 5e-05, "priority_score": 1e300, "k_values": [1]}
    data = raw(document(flagged=[entry("a", importance_share=float("nan"), **rationale)]))
    (layer,) = checked(data)["selection"]["layers"]
    assert b'"spread": 6,' in data
    assert b'"spread_threshold": 4.0,' in data
    assert b'"uniform_mult": 5.0e-05,' in data
    assert b'"priority_score": 1.0e+300,' in data
    assert layer["importance_share"] is None
    assert yaml.safe_load(data.decode()) == json.loads(data)


@pytest.mark.parametrize(("spread", "text"), [(2.5, b"2.5"), (1e300, b"1.0e+300"), (None, b"null"), (-0.0, b"0")])
def test_spread(spread: Any, text: bytes) -> None:
    """Writes small whole spreads as integers, other spreads as floats, and a missing spread as null."""
    assert b'"spread": ' + text + b"," in raw(document(flagged=[entry("a", spread=spread)]))


def test_no_path_and_no_time() -> None:
    """The config has no path and no time."""
    data = raw({**FLAGGED, "peft_dir": "/home/somebody/adapter", "audit_timestamp": "2026-01-01"})
    assert b"somebody" not in data
    assert b"2026" not in data


# --- names ----------------------------------------------------------------------------------------------------

NAMES = [
    "base_model.model.model.layers.1.self_attn.q_proj", "model.layers.1.q_proj", "a b", "a-b", "q(uote", "x|y", "a*b",
    "a+", "a?", "[a]", "{3}", "^a", "a$", "back\\slash", 'quo"te', "it's", "ü", "層.0", "😀", "a#b: c", "<<", "null",
    "~", "1e3", "a/b", "%s", "{}", ".*", "(.*)", "a|.*", "\\d", "-", "=", "x" * MAX_NAME, "\\" * MAX_NAME,
    "😀" * MAX_NAME, '"\\' * (MAX_NAME // 2),
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:30]))
def test_a_pattern_hits_its_own_module(name: str) -> None:
    """PEFT matches each key, as a regular expression, only with its own module."""
    ((key, rank),) = patterns(name).items()
    module = name.removeprefix("base_model.model.")
    others = {other.removeprefix("base_model.model.") for other in NAMES} | {"aab", "a", "b", "x", "y", "aaa", "q"}
    matched = {other for other in others if re.match(rf"(.*\.)?({key})$", other)}
    assert (matched, rank) == ({module}, 4)


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:30]))
def test_names_for_two_readers(name: str) -> None:
    """JSON and YAML read the same config for any names of audits and layers."""
    data = raw(document(flagged=[entry(name, k_values=[4], failed_reasons=[name[:100]])]), name=f"{name}.json")
    assert yaml.safe_load(data.decode()) == checked(data)


def test_plain_names_are_their_own_patterns() -> None:
    """A key is the module's name, unless the name has other special characters than the dot."""
    assert patterns("base_model.model.model.layers.1.q-proj", "a b") == {"model.layers.1.q-proj": 4, "a b": 4}
    assert patterns("a.b(c)") == {r"$|^a\.b\(c\)": 4}


def test_name_that_ends_another() -> None:
    """A key matches only its module, even if the name of an unselected module ends in it."""
    flagged, other = entry("base_model.model.layers.1.q", k_values=[4]), entry("base_model.model.model.layers.1.q")
    config = answer(document(flagged=[flagged], candidates=[flagged, other]))
    assert config["compression_strategies"][1]["rank_pattern"] == {r"$|^layers\.1\.q": 4}


@pytest.mark.parametrize("name", ["a\u2028.json", "a\x85.json", "a\x7f\n.json", "😀\ufeff.json", "gr\udcfcn.json"])
def test_any_file_name(name: str) -> None:
    """An audit may have any file name, and bytes that are not UTF-8 are escaped."""
    data = raw(FLAGGED, name=name)
    assert yaml.safe_load(data.decode()) == checked(data)
    assert checked(data)["provenance"]["audit"] == name.replace("\udcfc", "\\xfc")


# --- determinism ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", ["1", "4711"])
def test_same_bytes_in_another_process(seed: str) -> None:
    """Another process, hash seed and locale give the same bytes."""
    file = "llama4_hier0__default.json"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": "C", "TZ": "Asia/Tokyo"}
    script = Path(__file__).with_name("print_config.py")
    result = subprocess.run([sys.executable, script, AUDITS / file], capture_output=True, check=True, env=environment)
    assert result.stdout == raw(content(file), name="a.json")


def test_answers_depend_on_name_and_bytes() -> None:
    """Another name or other bytes give another `decision_id`."""
    audits = [read_audit(encoded(FLAGGED)), read_audit(encoded(FLAGGED), name="b.json"), read_audit(encoded(GAIN))]
    settings = BenchSettings()
    assert len({write_config(audit, select(audit), settings).decision_id for audit in audits}) == 3
    assert (
        write_config(audits[0], select(audits[0]), settings).decision_id == answer(FLAGGED)["provenance"]["decision_id"]
    )


def test_settings_used() -> None:
    """The recorded settings are the uniform rank and those of the selection."""
    selection = select(read_audit(encoded(document(candidates=[entry("a", priority_score=5)]))))
    assert settings_used(selection, BenchSettings(uniform_rank=4, durable=False)) == {
        "bench.uniform_rank": 4,
        "selection.medium_priority": 2.0,
        "selection.require_disagreement": False,
        "selection.top_n": 3,
    }


@pytest.mark.parametrize("value", [1e-05, 2.0, 1e16])
def test_settings_for_two_readers(value: float) -> None:
    """JSON and YAML read float settings as floats."""
    config = answer(
        document(candidates=[entry("a", priority_score=5e17)]),
        SelectionSettings(medium_priority=value, low_priority=0.0),
    )
    assert config["provenance"]["settings"]["selection.medium_priority"] == value


def test_provenance_names_the_content() -> None:
    """The digest and the size are those of the file itself."""
    data = content(DESIGN_FLAGGED)
    provenance = answer(data, name="n.json")["provenance"]
    assert provenance["audit"] == "n.json"
    assert provenance["audit_sha256"] == hashlib.sha256(data).hexdigest()
    assert provenance["audit_bytes"] == len(data)


def test_defaults() -> None:
    """Uses the default settings if none are given."""
    audit = read_audit(encoded(FLAGGED))
    assert bench_config(audit, select(audit)) == bench_config(audit, select(audit), BenchSettings())


# --- error reports --------------------------------------------------------------------------------------------


def test_error_report() -> None:
    """A report has the code, the message, the hint, and the identity of the content."""
    error = refusal("too_deep")
    report = checked(error_report("a.json", error, sha256="0" * 64, size=5), "error-report")
    assert list(report) == ["schema_version", "code", "message", "hint", "provenance"]
    assert list(report["provenance"]) == [
        "audit",
        "audit_sha256",
        "audit_bytes",
        "selection_version",
        "code",
        "config_sha256",
    ]
    assert (report["code"], report["message"], report["hint"]) == (error.code, error.message, error.hint)
    assert report["provenance"]["audit_bytes"] == 5


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_its_report(code: str) -> None:
    """Reports of every code match the schema, even for a file that could not be read."""
    report = checked(error_report("a.json", AuditError(code, "m", "h"), sha256=None, size=None), "error-report")
    assert report["code"] == report["provenance"]["code"] == code
    assert report["provenance"]["audit_sha256"] is report["provenance"]["audit_bytes"] is None


def test_error_report_for_two_readers() -> None:
    """Messages are printable lines of at most 1000 characters, for any file name."""
    error = AuditError("not_json", "x\n\u2028\ud800" + "y" * 2000, "h\x1b")
    data = error_report("gr\udcfcn\x85.json", error, sha256=None, size=3)
    report = checked(data, "error-report")
    assert yaml.safe_load(data.decode()) == report
    assert report["message"].startswith("x yyy")
    assert len(report["message"]) == 1000
    assert (report["hint"], report["provenance"]["audit"]) == ("h", "gr\\xfcn\x85.json")
