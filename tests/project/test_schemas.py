"""The packaged schemas: they are closed and complete, and benchd's real output matches them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from benchd import BenchSettings, SelectionSettings, bench_config, read_audit, select
from benchd.answering.recording import selected
from benchd.audit.refusals import CODES
from benchd.bench.deciding import decide
from benchd.trail.lines import json_line
from benchd.trail.records import MAX_LAYERS, RECORDS, Record, Rejected, ReloadFailed
from corpus import SMALLER, document, encoded, entry, refused, validator
from sample_records import EVERY

FULL = document(
    flagged=[entry("base_model.model.a", k_values=[4], spread=2, priority_score=3.5)],
    per_module_gain=[{"module": "base_model.model.a", "r": 16, "scaling": 2.0}],
)


def config(audit: dict[str, Any] | None = None) -> dict[str, Any]:
    read = read_audit(encoded(audit or FULL))
    value = json.loads(bench_config(read, select(read)))
    assert isinstance(value, dict)
    return value


def holds(schema: str, value: Any) -> bool:
    return bool(validator(schema).is_valid(value))


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every part of a schema that describes an object's properties or a value."""
    if isinstance(schema, dict):
        yield schema
        for value in schema.values():
            yield from objects(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from objects(value)


# --- the schemas themselves -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config", "error-report", "trail-record"])
def test_described(name: str) -> None:
    """Each schema uses the 2020-12 draft, and every property in it has a description or refers to one."""
    schema = validator(name).schema
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["description"]
    for part in objects(schema):
        if part.get("type") == "object" and "required" in part and "properties" in part:
            for key, value in part["properties"].items():
                constant = "const" in value or key in {"level", "watch"}
                assert constant or "description" in value or "$ref" in value, key


@pytest.mark.parametrize("name", ["config", "error-report"])
def test_closed(name: str) -> None:
    """No object of a sidecar accepts keys that the schema does not define."""
    for part in objects(validator(name).schema):
        if "description" in part and part.get("type") == "object":
            assert "additionalProperties" in part
            assert part["additionalProperties"] is not True


def test_codes() -> None:
    """The schemas list exactly the codes of rejections."""
    report, record = validator("error-report").schema, validator("trail-record").schema
    assert report["properties"]["code"]["enum"] == list(CODES)
    assert report["properties"]["provenance"]["properties"]["code"]["enum"] == list(CODES)
    assert record["$defs"]["audit.rejected"]["properties"]["code"]["enum"] == list(CODES)


# --- configs --------------------------------------------------------------------------------------------------


def test_settings_are_known() -> None:
    """The schema accepts every setting that can shape an answer."""
    names = [f"selection.{key}" for key in SelectionSettings.__struct_fields__]
    names += [f"bench.{key}" for key in BenchSettings.__struct_fields__]
    value = config()
    value["provenance"]["settings"] = dict.fromkeys(names, 1)
    assert holds("config", value)
    value["provenance"]["settings"]["other.key"] = 1
    assert not holds("config", value)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from _paths(item, (*path, key))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


OPTIONAL = {"alpha_pattern", "settings"}
KEYED = {"rank_pattern", "alpha_pattern"}


@pytest.mark.parametrize("path", [path for path in _paths(config()) if isinstance(path[-1], str)], ids=str)
def test_every_key_is_needed(path: tuple[Any, ...]) -> None:
    """A config without one of its keys, or with a value of another type there, is invalid."""
    wrong = config()
    _at(wrong, path[:-1])[path[-1]] = [[1]]
    assert not holds("config", wrong)
    if path[-1] not in OPTIONAL or path[-1] == "settings":
        missing = config()
        del _at(missing, path[:-1])[path[-1]]
        assert not holds("config", missing)


@pytest.mark.parametrize("path", [path for path in _paths(config()) if isinstance(_at(config(), path), dict)], ids=str)
def test_no_other_key_is_taken(path: tuple[Any, ...]) -> None:
    """A config with an unknown key below the top level is invalid."""
    value = config()
    _at(value, path)["unknown"] = "x"
    assert not holds("config", value)


@pytest.mark.parametrize("value", ["x", 1, 0.5, True, None, [1], {"a": None}])
def test_other_keys_at_the_top(value: Any) -> None:
    """Bench's YAML may have any key at the top level."""
    assert holds("config", {**config(), "unknown": value})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("schema_version",), 2),
        (("compression_strategies",), []),
        (("compression_strategies", 0, "rank"), 0),
        (("compression_strategies", 1, "rank_pattern", "a"), 0),
        (("compression_strategies", 1, "rank_pattern", "a"), 4.5),
        (("compression_strategies", 1, "alpha_pattern", "a"), 0),
        (("compression_strategies", 1, "rank_pattern"), {}),
        (("compression_strategies", 0, "variant"), "per_layer"),
        (("selection", "strategy"), "none"),
        (("selection", "confidence"), "low"),
        (("selection", "layers"), []),
        (("selection", "ladder"), []),
        (("selection", "layers", 0, "priority"), "LOW"),
        (("selection", "layers", 0, "rank_source"), None),
        (("selection", "layers", 0, "rank"), 0),
        (("provenance", "audit_sha256"), "x"),
        (("provenance", "decision_id"), "0" * 31),
    ],
)
def test_what_belongs_together(path: tuple[Any, ...], value: Any) -> None:
    """A config is invalid if strategy and confidence, priority and validation, or rank and source contradict."""
    changed = config()
    assert holds("config", changed)
    _at(changed, path[:-1])[path[-1]] = value
    assert not holds("config", changed)


def test_error_report_keys() -> None:
    """An error report with an unknown code or an unknown key is invalid."""
    from benchd.bench.config import error_report

    report = json.loads(error_report("a.json", refused(b""), sha256=None, size=0))
    assert holds("error-report", report)
    assert not holds("error-report", {**report, "code": "not_an_audit"})
    assert not holds("error-report", {**report, "more": 1})
    assert not holds("error-report", {key: value for key, value in report.items() if key != "hint"})


# --- trail records --------------------------------------------------------------------------------------------


TRIGGERS = ("closed", "moved", "scan", "poll", "retry", "command")


def line(record: Record) -> dict[str, Any]:
    """Return the line of a record as a reader gets it."""
    value = json.loads(json_line("2026-01-02T03:04:05.678901Z", record))
    assert isinstance(value, dict)
    return value


def decided(data: bytes) -> dict[str, Any]:
    """Return the line about the answer to an audit."""
    decision = decide(data, name="a.json", selection=SelectionSettings(), bench=BenchSettings())
    return line(selected(decision, audit="/in/a.json", trigger="closed", config="/in/a.bench.json", took=0.00123456))


LINES = [line(record) for record in EVERY]


def test_every_record_holds() -> None:
    """A record of each event is valid, and the schema defines no other events."""
    for record in LINES:
        validator("trail-record").validate(record)
    schema = validator("trail-record").schema
    events = [kind.__struct_config__.tag for kind in RECORDS]
    assert schema["properties"]["event"]["enum"] == list(schema["discriminator"]["mapping"]) == events
    assert schema["anyOf"] == [{"$ref": reference} for reference in schema["discriminator"]["mapping"].values()]
    assert {record["event"] for record in LINES} == set(events)


@pytest.mark.parametrize("sample", SMALLER[:6], ids=lambda sample: sample.name)
def test_real_decisions_hold(sample: Any) -> None:
    """The record of each answer to a real audit is valid."""
    validator("trail-record").validate(decided(sample.content))


def test_records_are_closed() -> None:
    """A record is invalid with an unknown key, without one of its keys, or with an unknown level or event."""
    optional = {"instead", "clipped"}
    for record in LINES:
        assert not holds("trail-record", {**record, "unknown": 1}), record
        assert not holds("trail-record", {**record, "level": "loud"}), record
        assert not holds("trail-record", {**record, "event": "audit.unknown"}), record
        for key in record.keys() - optional:
            assert not holds("trail-record", {name: record[name] for name in record if name != key}), (record, key)


PLACES = [(number, *path) for number, record in enumerate(LINES) for path in _paths(record) if "settings" not in path]


@pytest.mark.parametrize("path", PLACES, ids=str)
def test_parts_of_records_are_typed(path: tuple[Any, ...]) -> None:
    """A record is invalid with a value of another type or an unknown key in any place."""
    inside = json.loads(json.dumps(LINES[path[0]]))
    value = _at(inside, path[1:])
    _at(inside, path[1:-1])[path[-1]] = [[1]]
    assert not holds("trail-record", inside)
    if isinstance(value, dict):
        _at(inside, path[1:-1])[path[-1]] = {**value, "unknown": 1}
        assert not holds("trail-record", inside)


@pytest.mark.parametrize("event", ["service.started", "service.reloaded"])
def test_settings_name_the_folders(event: str) -> None:
    """Settings in a record always have the watched folders."""
    [record] = (found for found in LINES if found["event"] == event)
    assert holds("trail-record", {**record, "settings": {"watch": ["/in"], "any.key": 1}})
    assert not holds("trail-record", {**record, "settings": {"any.key": 1}})
    assert not holds("trail-record", {**record, "settings": {"watch": [1]}})


def test_triggers() -> None:
    """A trigger is one of the six, and every record about an audit has one."""
    for record in LINES:
        if record["event"].startswith(("audit.", "config.")):
            for trigger in TRIGGERS:
                assert holds("trail-record", {**record, "trigger": trigger})
            assert not holds("trail-record", {**record, "trigger": "created"})


def test_rejections_hold() -> None:
    """The record of every rejection code is valid, even if the file's name has arbitrary bytes."""
    for code in CODES:
        record = Rejected(audit="/in/\udcff.json", trigger="scan", code=code, message="x", hint="y")
        validator("trail-record").validate(line(record))
    assert not holds("trail-record", {**line(record), "code": "unknown"})


def test_long_records_hold() -> None:
    """A record that is clipped for the journal is valid, and says that it is clipped."""
    record = line(ReloadFailed(problems=["x" * 3000] * 30))
    validator("trail-record").validate(record)
    assert record["clipped"] is True


def test_layers_in_a_record() -> None:
    """A record has at most 20 layers and notes, and says how many layers there are."""
    record = decided(encoded(document(flagged=[entry(f"l.{n}") for n in range(50)], issues=["x"] * 30)))
    validator("trail-record").validate(record)
    assert (len(record["layers"]), record["layers_total"]) == (MAX_LAYERS, 50) == (20, 50)
    assert list(record["layers"][0]) == ["name", "priority", "score", "rank", "rank_source"]
    assert len(record["notes"]) <= 20
    assert not holds("trail-record", {**record, "layers": record["layers"] * 2})
