"""Properties of any audit with any settings."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from benchd import (
    Audit,
    AuditError,
    BenchSettings,
    NotAnAudit,
    Selection,
    SelectionSettings,
    bench_config,
    read_audit,
    select,
)
from benchd.audit.values import finite
from benchd.bench.config import error_report, settings_used
from benchd.bench.seal import seal, unbroken
from corpus import checked, document, encoded, tolerantly

# --- audits and settings --------------------------------------------------------------------------------------

NUMBERS = st.sampled_from([0, 0.5, 1, 1.5, 2, 3.5, 8, 16, 1e300, -1]) | st.floats() | st.integers(-1, 70_000)
ODD = st.none() | st.booleans() | NUMBERS | st.text(max_size=5) | st.just([]) | st.just({})
#: Few different names, so that lists, rows and patterns often refer to the same layer.
NAMES = st.sampled_from(["a", "b", "base_model.model.a", "base_model.model.x.q", "x.q", "(.*)", "ü\u2028"]) | st.text(
    min_size=1, max_size=8
)
ANY_NAME = st.one_of(st.sampled_from(["a", "b", "base_model.model.x.q"]), NAMES)


@st.composite
def objects(draw: st.DrawFn, /, **fields: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Return objects with most of these fields, and sometimes with a value of another type."""
    found = {}
    for key, kind in fields.items():
        luck = draw(st.integers(0, 11))
        if luck:
            found[key] = draw(kind if luck > 1 else ODD)
    return found


RATIONALES = objects(
    spread=NUMBERS,
    spread_threshold=NUMBERS,
    meets_spread_threshold=st.booleans(),
    importance_share=NUMBERS,
    uniform_mult=NUMBERS,
    uniform_mult_threshold=NUMBERS,
    priority_score=NUMBERS,
    flagged_as_high_impact=st.booleans(),
    k_values=st.lists(ODD | st.integers(0, 16), max_size=4),
    failed_reasons=st.lists(st.just("insufficient_spread") | ODD, max_size=2),
)
ENTRIES = objects(layer_name=ANY_NAME, flagging_rationale=RATIONALES)
RANKS = st.integers(0, 16) | NUMBERS
POLICIES = st.dictionaries(st.text(max_size=3), objects(k=RANKS), max_size=3)
SUGGESTIONS = objects(
    default_r=RANKS,
    rank_pattern=st.dictionaries(ANY_NAME, RANKS, max_size=3),
    layers=st.lists(objects(name=ANY_NAME, suggested_r=RANKS), max_size=3),
)
ROWS = st.lists(objects(name=ANY_NAME, r=RANKS, adapter_scale=NUMBERS, rank_suggestions=POLICIES), max_size=3)
GAINS = st.lists(objects(module=ANY_NAME, r=RANKS, scaling=NUMBERS), max_size=3)
FACTS = {
    "distribution": objects(
        total_layers=NUMBERS,
        max_uniform_mult=NUMBERS,
        is_flat=st.booleans(),
        flatness_witness=objects(threshold=NUMBERS),
    ),
    "disagreement_focus_set": objects(message=st.text(max_size=9)),
}
ANALYSES = objects(
    analysis_performed=st.just(True),
    reason=st.text(max_size=5),
    flagged_layers=st.lists(ENTRIES, max_size=2),
    all_layers_with_disagreement=st.lists(ENTRIES, max_size=5),
    **FACTS,
)
EVIDENCE = {
    "per_module_gain": GAINS,
    "layer_data": objects(layer_rows=ROWS),
    "layers": ROWS,
    "rank_suggestions": SUGGESTIONS,
    "per_layer_suggestions": SUGGESTIONS,
    "policies": objects(per_layer=st.lists(objects(layer_name=ANY_NAME, suggestions=POLICIES), max_size=3)),
    "suggested_r_global_median": RANKS,
    "suggested_r_global_90": RANKS,
}
#: Any document that has some keys of an audit.
DOCUMENTS = objects(
    policy_disagreement_analysis=ANALYSES,
    policy_disagreement_analysis_error=st.text(max_size=9),
    issues=st.lists(ODD, max_size=3),
    total_lora_params=NUMBERS,
    stable_rank_mean=NUMBERS,
    n_layers=NUMBERS,
    **EVIDENCE,
)


@st.composite
def _audits(draw: st.DrawFn) -> dict[str, Any]:
    flagged = draw(st.just([]) | st.lists(ENTRIES, min_size=1, max_size=2))
    candidates = draw(st.lists(ENTRIES, min_size=draw(st.integers(0, 4)), max_size=6))
    sources = draw(st.sets(st.sampled_from(sorted(EVIDENCE)), max_size=3))
    evidence = {key: draw(EVIDENCE[key]) for key in sorted(sources)}
    return document(flagged=flagged, candidates=candidates, analysis=draw(objects(**FACTS)), **evidence)


#: Audits with layers to select from.
AUDITS = _audits()
JSON = st.recursive(
    ODD, lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3)
)


def _selection_settings(top_n: int, on_flat: Any, require: bool, low: float, more: float) -> SelectionSettings:
    return SelectionSettings(
        top_n=top_n, on_flat=on_flat, require_disagreement=require, medium_priority=low + more, low_priority=low
    )


LOW = st.sampled_from([0.0, 0.5, 1.0])
SELECTIONS = st.builds(
    _selection_settings, st.integers(0, 6), st.sampled_from(["top_n", "uniform_only"]), st.booleans(), LOW, LOW
)
BENCHES = st.builds(
    lambda rank, durable: BenchSettings(uniform_rank=rank, durable=durable),
    st.sampled_from([4, 8, "audit_median", "audit_p90"]),
    st.booleans(),
)


def encode(value: Any, *, ascii_only: bool = True) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "replace")


def outcome(data: bytes) -> Audit | str:
    try:
        return read_audit(data)
    except AuditError as error:
        return error.code


def facts(audit: Audit | str) -> Any:
    """Return the config without its hashes and versions."""
    if isinstance(audit, str):
        return audit
    config = checked(bench_config(audit, select(audit, SelectionSettings(medium_priority=0.0, low_priority=0.0))))
    config["selection"]["notes"] = [note for note in config["selection"]["notes"] if "NaN or Infinity" not in note]
    return config["compression_strategies"], config["selection"], config["provenance"]["gradience_version"]


# --- reading --------------------------------------------------------------------------------------------------


@given(data=st.binary(max_size=60) | st.text(max_size=30).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes(data: bytes) -> None:
    """Reads any bytes, or refuses them with an `AuditError`."""
    assert isinstance(outcome(data), Audit | str)


@given(value=st.dictionaries(st.text(max_size=5), JSON, max_size=4) | DOCUMENTS, ascii_only=st.booleans())
def test_any_object(value: dict[str, Any], ascii_only: bool) -> None:
    """Writes a config for any JSON object, or refuses it with an `AuditError`."""
    facts(outcome(encode(value, ascii_only=ascii_only)))


@given(value=DOCUMENTS)
def test_both_readers_agree(value: dict[str, Any]) -> None:
    """The tolerant reader finds the same as the fast reader in any object."""
    data = encode(value)
    assert facts(outcome(data)) == facts(outcome(tolerantly(data)))


@given(value=DOCUMENTS, before=st.sampled_from(["", "Warning: x\n", "\n", "a: {\n"]), indent=st.sampled_from([None, 2]))
def test_text_around_changes_nothing(value: dict[str, Any], before: str, indent: int | None) -> None:
    """Text lines before the JSON change no answer."""
    if not value:
        return
    data = json.dumps(value, indent=indent).encode()
    assert facts(outcome(before.encode() + data + b"\ndone")) == facts(outcome(data))


@given(value=AUDITS, data=st.data())
def test_any_damage(value: dict[str, Any], data: st.DataObject) -> None:
    """Answers an audit with one byte changed, or cut off anywhere, or refuses it with an `AuditError`."""
    content = bytearray(encode(value))
    place = data.draw(st.integers(0, len(content) - 1))
    facts(outcome(bytes(content[:place])))
    content[place] = data.draw(st.integers(0, 255))
    facts(outcome(bytes(content)))


# --- the answer -----------------------------------------------------------------------------------------------


@given(value=AUDITS, chosen=SELECTIONS, bench=BENCHES, name=st.text(min_size=1, max_size=8))
def test_config(value: dict[str, Any], chosen: SelectionSettings, bench: BenchSettings, name: str) -> None:
    """Every config matches its schema, is sealed, deterministic, and the same object as JSON and as YAML."""
    audits = [read_audit(encode(value), name=f"{name}.json") for _ in range(2)]
    first, second = (bench_config(audit, select(audit, chosen), bench) for audit in audits)
    assert first == second
    assert yaml.safe_load(first.decode()) == checked(first)


@given(value=AUDITS, pair=st.tuples(SELECTIONS, SELECTIONS), benches=st.tuples(BENCHES, BENCHES))
def test_settings_used(
    value: dict[str, Any],
    pair: tuple[SelectionSettings, SelectionSettings],
    benches: tuple[BenchSettings, BenchSettings],
) -> None:
    """Two settings that agree in the recorded keys give the same answer."""
    audit = read_audit(encode(value))
    first, second = (select(audit, chosen) for chosen in pair)
    everywhere = {
        **{f"selection.{key}": getattr(pair[1], key) for key in SelectionSettings.__struct_fields__},
        **{f"bench.{key}": getattr(benches[1], key) for key in BenchSettings.__struct_fields__},
    }
    used = settings_used(first, benches[0])
    if all(everywhere[key] == value for key, value in used.items()):
        assert bench_config(audit, first, benches[0]) == bench_config(audit, second, benches[1])
    else:
        assert bench_config(audit, first, benches[0]) != bench_config(audit, second, benches[1])


@given(value=AUDITS, chosen=SELECTIONS)
def test_rungs(value: dict[str, Any], chosen: SelectionSettings) -> None:
    """The first rung that yields a layer fires, is the last one tried, and yields the right layers."""
    audit = read_audit(encode(value))
    selection = select(audit, chosen)
    names = [layer.layer_name for layer in selection.layers]
    order = ["flagged", "priority_score", "disagreement", "none"]
    tried = [rung.strategy for rung in selection.ladder]
    assert [rung.fired for rung in selection.ladder] == [False] * (len(tried) - 1) + [True]
    assert tried[-1] == selection.strategy
    assert tried == sorted(tried, key=order.index)
    assert selection.reason == selection.ladder[-1].reason
    candidates = [layer.name for layer in audit.candidates]
    if selection.strategy == "flagged":
        assert names == [layer.name for layer in audit.flagged] != []
        return
    assert audit.flagged == ()
    assert len(names) <= chosen.top_n
    assert not chosen.require_disagreement or all(layer.disagrees for layer in selection.layers)
    assert bool(names) == (selection.strategy != "none")
    if selection.strategy == "priority_score":
        scores = [layer.priority_score or 0.0 for layer in selection.layers]
        assert scores == sorted(scores, reverse=True)
        assert min(scores) > 0
    elif selection.strategy == "disagreement":
        assert names == [name for name in candidates if name in names]
        assert all((layer.priority_score or 0) <= 0 for layer in selection.layers)


@given(value=AUDITS, chosen=SELECTIONS)
def test_priorities_follow_the_score(value: dict[str, Any], chosen: SelectionSettings) -> None:
    """Among unflagged layers a higher score never has a lower priority."""
    selection = select(read_audit(encode(value)), chosen)
    order = ["SKIP", "LOW", "MEDIUM"]
    judged = [
        (-1.0 if layer.priority_score is None else max(layer.priority_score, -1.0), order.index(layer.priority))
        for layer in selection.layers
        if layer.priority != "HIGH"
    ]
    for score, priority in judged:
        assert all(priority <= other for more, other in judged if more > score)
    assert selection.strategy != "flagged" or not judged


@given(value=AUDITS, chosen=SELECTIONS)
def test_layers(value: dict[str, Any], chosen: SelectionSettings) -> None:
    """No layer is chosen twice, and a rank is an integer from 1 to the module's rank, with evidence."""
    audit = read_audit(encode(value))
    selection = select(audit, chosen)
    modules = [layer.module for layer in selection.layers]
    assert len(modules) == len(set(modules))
    for layer in selection.layers:
        assert layer.rank is None or (type(layer.rank) is int and layer.rank >= 1)
        assert layer.rank is None or layer.rank_source is not None
        own = audit.modules.of(layer.layer_name)
        if layer.rank and own and own.rank:
            assert layer.rank <= own.rank
        assert layer.alpha is None or layer.alpha > 0
        assert (layer.rank is None) or layer.priority in {"HIGH", "MEDIUM"}


@given(value=AUDITS)
def test_patterns(value: dict[str, Any]) -> None:
    """Each key of a rank pattern is a regular expression that matches its own module."""
    audit = read_audit(encode(value))
    selection: Selection = select(audit, SelectionSettings(medium_priority=0.0, low_priority=0.0))
    strategies = checked(bench_config(audit, selection))["compression_strategies"]
    ranked = [layer for layer in selection.layers if layer.rank]
    assert len(strategies) == 1 + bool(ranked)
    if ranked:
        pattern = strategies[1]["rank_pattern"]
        assert len(pattern) == len(ranked)
        for (key, rank), layer in zip(pattern.items(), ranked, strict=True):
            assert re.match(rf"(.*\.)?({key})$", layer.module)
            assert rank == layer.rank


@given(text=st.text(max_size=20), extra=st.text(max_size=20))
def test_any_text_for_two_readers(text: str, extra: str) -> None:
    """Any text without surrogates is the same in JSON and YAML, and can be sealed."""
    data = seal({extra: text, "provenance": {"audit": text}})
    assert yaml.safe_load(data.decode()) == json.loads(data)
    assert json.loads(data)["provenance"]["audit"] == text
    assert unbroken(data)


@given(name=st.text(st.characters(), min_size=1, max_size=9), data=st.binary(max_size=30))
def test_error_reports(name: str, data: bytes) -> None:
    """The error report of any file is sealed, and the same in JSON and YAML."""
    try:
        read_audit(data)
    except NotAnAudit:
        return
    except AuditError as error:
        report = error_report(name, error, sha256=None, size=len(data))
        assert yaml.safe_load(report.decode()) == checked(report, "error-report")


@settings(max_examples=50)
@given(value=st.recursive(ODD, lambda values: st.lists(values, max_size=3), max_leaves=5))
def test_finite_is_total(value: Any) -> None:
    """`finite` returns a finite number or None for any value."""
    number = finite(value)
    assert number is None or number == value
    assert encoded(number)
