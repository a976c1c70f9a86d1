"""The console format: the records of the trail for people."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import msgspec
import pytest

from benchd.trail import records
from benchd.trail.console import TEXTS, console_line
from benchd.trail.records import RECORDS, Layer, Record
from sample_records import EVERY, SELECTED

TS = "2026-01-02T03:04:05.678901Z"

LINES = """\
03:04:05 ✓ /in/a.json → a.bench.json
           priority_score (medium confidence): 2 layers
           for Bench: custom ranks for 1 layer
           note: a note
           note: another
03:04:05 ! /in/a.json → a.bench.json
           none: 2 layers
           note: a note
           note: another
03:04:05 ✗ /in/a.json: a symbolic link; links are not followed [symlink]
           copy or hard-link the audit into the folder instead
03:04:05 · /in/a.json: deferred: maybe unfinished: x
03:04:05 · /in/a.json: ignored: no audit
03:04:05 · /in/a.json: unchanged: same
03:04:05 ✗ /in/caf�.json: benchd failed: x; retrying in 1 s
03:04:05 ! benchd keeps /in/a.bench.json
           edited
03:04:05 ✗ /in/a.json: can't write the answer: full; retrying in 4 s
03:04:05 · watching /in (inotify)
03:04:05 ! /in: full
03:04:05 ! /in: why
03:04:05 ! why
03:04:05 ! /in: gone
03:04:05 · /in is back
03:04:05 · /in: 3 audits, 2 answered before, 0 to do (0 ms)
03:04:05 · /in: 3 audits, 2 answered before, 1 to do (0 ms)
03:04:05 · /in: 3 audits, 2 answered before, 0 to do (0 ms)
03:04:05 · benchd 1.2.3 (pid 7)
03:04:05 · ready in 1 ms; Ctrl-C stops
03:04:05 · new settings: watching /in
03:04:05 ✗ can't use the new settings; the old ones stay active
           a
           b
03:04:05 ✗ t failed: x; y
03:04:05 · stopping: SIGTERM
03:04:05 · stopped: 1 answered, 2 rejected, 3 left for the next start
03:04:05 · 10 answered
03:04:05 ✗ can't write the trail /var/log/trail.jsonl: No space left on device
"""


@pytest.fixture(autouse=True)
def greenwich(monkeypatch: pytest.MonkeyPatch):
    """Set the local time to UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def shown(record: Record) -> str:
    return console_line(TS, record).decode()


def selected(**changes: object) -> records.Selected:
    return msgspec.structs.replace(SELECTED, **changes)


def test_every_event_has_a_text():
    """The table has a text for each event, and no others."""
    assert list(TEXTS) == [kind.__struct_config__.tag for kind in RECORDS]


def test_lines():
    """Each record has its text."""
    short = [record for record in EVERY if not (isinstance(record, records.ReloadFailed) and len(record.problems) > 2)]
    assert "".join(map(shown, short)).splitlines() == LINES.splitlines()


def test_one_audit():
    """The text has the singular for one audit."""
    scan = records.ScanFinished(root="/in", cause="start", found=1, answered=0, queued=1, duration_ms=1.6)
    assert shown(scan) == "03:04:05 · /in: 1 audit, 0 answered before, 1 to do (2 ms)\n"


def test_reloaded_settings():
    """Each new setting is on a separate line."""
    record = records.Reloaded(settings={"watch": ["/in", "/out"], "selection.top_n": 1})
    assert shown(record) == "03:04:05 · new settings: watching /in, /out\n           selection.top_n = 1\n"


def test_local_time(monkeypatch: pytest.MonkeyPatch):
    """The text has the local time, although the record has UTC."""
    monkeypatch.setenv("TZ", "XXX-02:00")
    time.tzset()
    assert shown(SELECTED).startswith("05:04:05 ")


@pytest.mark.parametrize(
    ("ranks", "total", "expected"),
    [
        ([], 0, ""),
        ([None], 1, "for Bench: only the uniform baseline"),
        ([1, None, 2], 3, "for Bench: custom ranks for 2 layers"),
        ([1], 30, "for Bench: custom ranks for 1 or more layers"),
    ],
)
def test_what_bench_gets(ranks: list[int | None], total: int, expected: str):
    """The text about a selection ends with the variants for Bench."""
    layers = tuple(Layer("q", "HIGH", 1.0, rank, None) for rank in ranks)
    lines = shown(selected(layers=layers, layers_total=total, notes=())).splitlines()
    assert [line.strip() for line in lines[2:]] == ([expected] if expected else [])


def test_paths_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A path below the working directory is relative to it, and any other path is absolute."""
    monkeypatch.chdir(tmp_path)
    record = selected(audit=str(tmp_path / "in" / "a.json"))
    assert " in/a.json → " in shown(record)
    os.chdir("/")
    assert f" {str(tmp_path)[1:]}/in/a.json → " in shown(record)


def test_working_directory_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without a working directory paths are absolute."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert " /in/a.json → " in shown(SELECTED)


@pytest.mark.parametrize("record", EVERY, ids=lambda record: type(record).__name__)
def test_terminal_is_safe(record: Record):
    """No record sends control characters to the terminal, and no surrogate breaks the encoding."""
    bad = "/in/\x1b[2J\r" + os.fsdecode(b"caf\xe9") + ".json"
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    changed = {name: bad if isinstance(value, str) else value for name, value in fields.items()}
    changed |= {"problems": [bad]} if "problems" in fields else {}
    changed |= {"settings": {"watch": [bad], "trail.file": bad}} if "settings" in fields else {}
    line = console_line(TS, msgspec.structs.replace(record, **changed))
    assert b"\x1b" not in line
    assert b"\r" not in line
    line.decode()


def test_colours(monkeypatch: pytest.MonkeyPatch):
    """The text has colours on terminals only, unless `NO_COLOR` is set."""
    assert "\x1b[" not in shown(SELECTED)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in shown(SELECTED)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in shown(SELECTED)
