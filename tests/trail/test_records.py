"""The declarations of the records."""

from __future__ import annotations

import re

import pytest

from benchd.trail.records import RECORDS, Record, RoutineScan, ScanFinished, Selected, SelectedNothing
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


def test_routine_scans_are_quiet():
    """A routine scan that queued nothing has the level `debug`, under the event of all scans."""
    assert (RoutineScan.level, ScanFinished.level) == ("debug", "info")
    assert RoutineScan.__struct_config__.tag == ScanFinished.__struct_config__.tag


def test_audit_without_layers_is_a_warning():
    """The answer to an audit without layers is a warning, under the same event."""
    assert SelectedNothing.__struct_config__.tag == Selected.__struct_config__.tag
    assert [record.level for record in EVERY if isinstance(record, Selected)] == ["info", "warning"]
