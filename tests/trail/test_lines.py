"""The JSON lines of records, which programs read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchd.trail.lines import MAX_LINE, journal_line, json_line
from benchd.trail.records import Degraded, Reloaded, ReloadFailed, Stopping, WriteFailed
from sample_records import EVERY

LINES = Path(__file__).with_name("lines.jsonl")
TS = "2026-01-02T03:04:05.678901Z"


def test_every_line():
    """Each record keeps its line: the same keys in the same order, with the same values."""
    assert [json_line(TS, record).decode() for record in EVERY] == LINES.read_text("utf-8").splitlines(keepends=True)


@pytest.mark.parametrize("record", EVERY, ids=lambda record: type(record).__name__)
def test_journal(record: Any):
    """A line for the journal is the priority of its level and the JSON line."""
    priorities = {"debug": b"<7>", "info": b"<6>", "warning": b"<4>", "error": b"<3>"}
    assert journal_line(TS, record) == priorities[record.level] + json_line(TS, record)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (os.fsdecode(b"caf\xe9"), "caf\\xe9"),
        ("\udc00\ud800", "\\udc00\\ud800"),
        (2**70, 2**70),
        ([os.fsdecode(b"\xe9"), 2**70], ["\\xe9", str(2**70)]),
        ({1: {2**70: "x"}}, {"1": {str(2**70): "x"}}),
        ([("a", object), os.fsdecode(b"\xe9")], [["a", "<class 'object'>"], "\\xe9"]),
        ([Stopping(signal="x"), object], [{"event": "service.stopping", "signal": "x"}, "<class 'object'>"]),
        (float("nan"), None),
        (object, "<class 'object'>"),
        (b"bytes", "Ynl0ZXM="),
        ([True, None, 1.5, object], [True, None, 1.5, "<class 'object'>"]),
    ],
    ids=lambda value: str(value)[:12].encode("ascii", "replace").decode(),
)
def test_never_fails(value: Any, expected: Any):
    """Surrogates, huge integers, unusual keys and objects become readable text."""
    line = json_line(TS, Reloaded(settings={"watch": ["/in"], "value": value}))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    found = json.loads(line)
    assert list(found) == ["ts", "level", "event", "settings"]
    assert found["settings"] == {"watch": ["/in"], "value": expected}


def test_optional_field_with_unusual_text():
    """A field that a record lacks stays absent when other fields need repair."""
    found = json.loads(json_line(TS, Degraded(root=os.fsdecode(b"/\xe9"), reason="why")))
    assert list(found.items())[2:] == [("event", "watch.degraded"), ("root", "/\\xe9"), ("reason", "why")]


@pytest.mark.parametrize("text", ["x", "\udce9"], ids=["plain", "surrogates"])
def test_long_records_are_clipped(text: str):
    """A long record keeps its first items and the start of each text, and has `clipped`."""
    line = json_line(TS, ReloadFailed(problems=[text * 10_000] * 20))
    assert len(line) <= MAX_LINE + 1
    record = json.loads(line)
    assert list(record) == ["ts", "level", "event", "problems", "clipped"]
    assert record["clipped"] is True
    assert [len(problem) for problem in record["problems"]] == [2000] * 5
    assert all(problem.endswith("…") for problem in record["problems"])


def test_numbers_are_not_clipped():
    """Clipping changes only long texts and lists."""
    record = WriteFailed(audit="/in/a.json", trigger="scan", error="x" * MAX_LINE, attempt=3, retry_in_s=4.0)
    found = json.loads(json_line(TS, record))
    assert (found["attempt"], found["retry_in_s"], len(found["error"])) == (3, 4.0, 2000)


def test_longest_whole_line():
    """A record of `MAX_LINE` bytes is complete, and one more byte clips it."""
    empty = len(json_line(TS, ReloadFailed(problems=[""])))
    for more, clipped in ((0, False), (1, True)):
        line = json_line(TS, ReloadFailed(problems=["x" * (MAX_LINE + 1 - empty + more)]))
        assert (b'"clipped":true' in line) is clipped
        assert clipped or len(line) == MAX_LINE + 1
