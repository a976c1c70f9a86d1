"""The packaged schemas are closed and complete, and all output of benchd matches them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import ValidationError

from benchd import BenchSettings, SelectionSettings, bench_config, read_audit, select
from benchd.audit.refusals import CODES
from benchd.bench.deciding import decide
from benchd.trail.trail import MAX_LAYERS, Trail, TrailFile
from corpus import SMALLER, document, encoded, entry, refused, validator

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
    """Every part of a schema that describes an object's properties or a value."""
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
    """Each schema is of the 2020-12 draft, and every property in it has a description or refers to one."""
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
    """No object of a sidecar takes keys that the schema does not know."""
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
    """The schema accepts the name of every setting that shapes an answer, and no other."""
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
    """A config whose strategy and confidence, priority and validation, or rank and source contradict is invalid."""
    changed = config()
    assert holds("config", changed)
    _at(changed, path[:-1])[path[-1]] = value
    assert not holds("config", changed)


def test_error_report_keys() -> None:
    """An error report with an unknown code or key is invalid."""
    from benchd.bench.config import error_report

    report = json.loads(error_report("a.json", refused(b""), sha256=None, size=0))
    assert holds("error-report", report)
    assert not holds("error-report", {**report, "code": "not_an_audit"})
    assert not holds("error-report", {**report, "more": 1})
    assert not holds("error-report", {key: value for key, value in report.items() if key != "hint"})


# --- trail records --------------------------------------------------------------------------------------------


def write_everything(trail: Trail) -> None:
    """Call every method of the trail that writes a record, some of them in several ways."""
    error = refused(b"{]")
    for sample in SMALLER[:6]:
        decision = decide(sample.content, name="a.json", selection=SelectionSettings(), bench=BenchSettings())
        trail.selected("/in/a.json", "closed", decision=decision, config="/in/a.bench.json", duration_ms=1.23456)
    many = encoded(document(flagged=[entry(f"l.{n}") for n in range(50)], issues=["x"] * 30))
    decision = decide(many, name="a.json", selection=SelectionSettings(), bench=BenchSettings())
    trail.selected("a", "scan", decision=decision, config="b", duration_ms=0)
    for trigger in ("closed", "moved", "scan", "poll", "retry", "command"):
        trail.rejected("/in/\udcff.json", trigger, error)
    trail.deferred("a", "closed", "maybe unfinished")
    trail.ignored("a", "moved", "a JSON object, but not an audit")
    trail.unchanged("a", "poll", "answered before")
    trail.failed("a", "retry", error="KeyError: 'x'", attempt=1, retry_in_s=1.0)
    trail.kept("a", "command", config="b", reason="it was edited")
    trail.write_failed("a", "retry", error="No space left on device", attempt=3, retry_in_s=4.0)
    trail.watch_started("/in", backend="inotify", recursive=True)
    trail.watch_overflow("/in", "the queue was full")
    trail.watch_degraded("/in", "a reason", instead="polling")
    trail.root_lost("/in", "it does not exist")
    trail.root_restored("/in")
    for routine, queued in ((True, 0), (True, 1), (False, 0)):
        trail.scanned("/in", cause="start", found=3, answered=2, queued=queued, duration_ms=0.5, routine=routine)
    trail.started(version="0.1.0", pid=1, settings={"watch": ["/in"], "selection.top_n": 5})
    trail.ready(roots=["/in"], duration_ms=12)
    trail.reloaded(settings={"watch": []})
    trail.reload_failed(["config.toml: x: unknown key"])
    trail.thread_failed("benchd-worker-0", "KeyError: 'x'", recovery="it goes on")
    trail.stopping(signal="SIGTERM")
    trail.stopped(answered=1, rejected=0, waiting=2)
    counted = ("selected", "unchanged", "rejected", "rejected_before", "failed", "unfinished", "kept", "ignored")
    strategies = dict.fromkeys(("flagged", "priority_score", "disagreement", "none"), 0)
    trail.run_finished({"dry_run": False, "by_strategy": strategies, **dict.fromkeys(counted, 0)})


@pytest.fixture
def records(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Every record there is, from a real trail; the last from one whose file can't be written."""
    good = Trail(TrailFile(str(tmp_path / "trail.jsonl")), level="debug")
    write_everything(good)
    good.close()
    broken = Trail(TrailFile(str(tmp_path)), name=str(tmp_path))
    broken.root_restored("/in")
    lines = (tmp_path / "trail.jsonl").read_text(encoding="utf-8").splitlines() + capfd.readouterr().err.splitlines()
    return [json.loads(line) for line in lines]


def test_every_record_holds(records: list[dict[str, Any]]) -> None:
    """Every record that the trail can write matches the schema, and the schema knows no other events."""
    for record in records:
        validator("trail-record").validate(record)
    schema = validator("trail-record").schema
    known = [rule["if"]["properties"]["event"]["const"] for rule in schema["allOf"]]
    assert {record["event"] for record in records} == set(known) == set(schema["properties"]["event"]["enum"])
    assert len(known) == len(set(known))


def test_every_method_is_tried() -> None:
    """`write_everything` calls every method of the trail that writes a record."""
    source = inspect.getsource(write_everything)
    others = {"open", "reopen", "close", "flush_to_disk", "share", "together"}
    methods = {name for name, _ in inspect.getmembers(Trail, inspect.isroutine) if not name.startswith("_")} - others
    assert {name for name in methods if f"trail.{name}(" not in source} == set()


def test_records_are_closed(records: list[dict[str, Any]]) -> None:
    """A record with an unknown key, level or event, or without one of its keys, is invalid."""
    optional = {"instead"}
    for record in records:
        assert not holds("trail-record", {**record, "unknown": 1}), record
        assert not holds("trail-record", {**record, "level": "loud"}), record
        assert not holds("trail-record", {**record, "event": "audit.unknown"}), record
        for key in record.keys() - optional:
            assert not holds("trail-record", {name: record[name] for name in record if name != key}), (record, key)


def test_triggers(records: list[dict[str, Any]]) -> None:
    """A trigger is one of the six, and every record about an audit has one."""
    for record in records:
        if record["event"].startswith(("audit.", "config.")):
            with pytest.raises(ValidationError, match="is not one of"):
                validator("trail-record").validate({**record, "trigger": "created"})


def test_long_records_hold(tmp_path: Path) -> None:
    """A record that is clipped for the journal matches the schema, and says that it is clipped."""
    trail = Trail(TrailFile(str(tmp_path / "t")))
    trail.reload_failed(["x" * 3000] * 30)
    trail.close()
    record = json.loads((tmp_path / "t").read_bytes())
    validator("trail-record").validate(record)
    assert record["clipped"] is True


def test_layers_in_a_record(records: list[dict[str, Any]]) -> None:
    """A record names at most 20 layers and says how many there are."""
    (record,) = (found for found in records if found.get("layers_total") == 50)
    assert len(record["layers"]) == MAX_LAYERS == 20
    assert not holds("trail-record", {**record, "layers": record["layers"] * 2})
