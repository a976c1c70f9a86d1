"""The declarations of the records."""

from __future__ import annotations

import re
from typing import Any

import pytest

from benchd.trail.records import RECORDS, Record, ScanFinished, Selected, SelectedNothing
from sample_records import EVERY


def test_every_event_has_one_type():
    """No two types in `RECORDS` have the same event, and there is a sample of each."""
    tags = [kind.__struct_config__.tag for kind in RECORDS]
    assert len(set(tags)) == len(tags)
    assert {record.__struct_config__.tag for record in EVERY} == set(tags)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_named_and_described(kind: type[Record]):
    """An event's name has two parts, and its description is one or two sentences on one line."""
    assert re.fullmatch(r"(audit|config|watch|scan|service|run|trail)\.[a-z_]+", kind.__struct_config__.tag)
    assert kind.__doc__
    assert kind.__doc__.endswith(".")
    assert "\n" not in kind.__doc__


@pytest.mark.parametrize("record", EVERY, ids=lambda record: type(record).__name__)
def test_level(record: Any):
    """A record's level is one of those that its type declares."""
    assert record.level in record.LEVELS


def test_every_level_is_used():
    """Each declared level has a sample."""
    declared = {(kind.__struct_config__.tag, level) for kind in RECORDS for level in kind.LEVELS}
    assert {(record.__struct_config__.tag, record.level) for record in EVERY} == declared


@pytest.mark.parametrize(
    ("cause", "queued", "level"),
    [("rescan", 0, "debug"), ("rescan", 1, "info"), ("start", 0, "info"), ("overflow", 0, "info")],
)
def test_routine_scans_are_quiet(cause: str, queued: int, level: str):
    """A routine scan that queued nothing has the level `debug`; every other scan has `info`."""
    scan = ScanFinished(root="/in", cause=cause, found=1, answered=1, queued=queued, duration_ms=1.0)
    assert scan.level == level


def test_audit_without_layers_is_a_warning():
    """The answer to an audit without layers is a warning, under the same event."""
    assert SelectedNothing.__struct_config__.tag == Selected.__struct_config__.tag
    assert [record.level for record in EVERY if isinstance(record, Selected)] == ["info", "warning"]
