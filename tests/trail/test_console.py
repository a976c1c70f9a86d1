"""The records of the trail, for people."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchd.trail.console import console_line

HEAD = {"ts": "2026-01-02T03:04:05.678901Z", "level": "info"}

SELECTED = {
    "event": "audit.selected",
    "audit": "/in/a.json",
    "config": "/in/a.bench.json",
    "strategy": "flagged",
    "confidence": "high",
    "reason": "1 of 28 layers is flagged",
    "layers": [{"rank": 8}],
    "layers_total": 1,
    "notes": ["a note"],
}


@pytest.fixture(autouse=True)
def greenwich(monkeypatch: pytest.MonkeyPatch):
    """The clock on the wall shows UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def shown(**record: Any) -> str:
    return console_line({**HEAD, **record}).decode()


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            SELECTED,
            (
                "03:04:05 ✓ /in/a.json → a.bench.json\n"
                "           flagged (high confidence): 1 of 28 layers is flagged\n"
                "           for Bench: a rank of its own for 1 layer\n"
                "           note: a note\n"
            ),
        ),
        (
            {**SELECTED, "level": "warning", "strategy": "none", "confidence": "none", "layers": [], "layers_total": 0},
            (
                "03:04:05 ! /in/a.json → a.bench.json\n"
                "           none: 1 of 28 layers is flagged\n"
                "           note: a note\n"
            ),
        ),
        (
            {
                "event": "audit.rejected",
                "level": "error",
                "audit": "/in/a.json",
                "code": "empty",
                "message": "no",
                "hint": "do",
            },
            "03:04:05 ✗ /in/a.json: no [empty]\n           do\n",
        ),
        (
            {
                "event": "config.kept",
                "level": "warning",
                "audit": "/in/a.json",
                "config": "/in/a.bench.json",
                "reason": "edited",
            },
            "03:04:05 ! /in/a.bench.json stays as it is\n           edited\n",
        ),
        (
            {
                "event": "config.write_failed",
                "level": "error",
                "audit": "/in/a.json",
                "error": "full",
                "retry_in_s": 2.0,
            },
            "03:04:05 ✗ /in/a.json: can't write the answer: full; again in 2 s\n",
        ),
        (
            {"event": "audit.deferred", "level": "debug", "audit": "/in/a.json", "reason": "maybe unfinished"},
            "03:04:05 · /in/a.json: deferred: maybe unfinished\n",
        ),
        ({"event": "service.started", "version": "1", "pid": 7}, "03:04:05 · benchd 1 (pid 7)\n"),
        ({"event": "service.ready", "duration_ms": 12.34}, "03:04:05 · ready in 12 ms; Ctrl-C stops\n"),
        (
            {"event": "watch.started", "root": "/in", "backend": "inotify"},
            "03:04:05 · watching /in (inotify)\n",
        ),
        ({"event": "watch.root_lost", "level": "warning", "root": "/in", "reason": "gone"}, "03:04:05 ! /in: gone\n"),
        (
            {"event": "scan.finished", "root": "/in", "found": 3, "answered": 1, "queued": 2, "duration_ms": 1.6},
            "03:04:05 · /in: 3 audits, 1 answered before, 2 to do (2 ms)\n",
        ),
        (
            {"event": "service.stopped", "answered": 1, "rejected": 2, "waiting": 3},
            "03:04:05 · stopped: 1 answered, 2 rejected, 3 left for next time\n",
        ),
        ({"event": "service.stopping", "signal": "SIGTERM"}, "03:04:05 · stopping: SIGTERM\n"),
        ({"event": "new", "level": "odd"}, "03:04:05 · new\n"),
        ({"event": "watch.root_restored", "root": "/in"}, "03:04:05 · /in is back\n"),
        (
            {"event": "service.reloaded", "settings": {"watch": ["/in"], "selection.top_n": 1}},
            "03:04:05 · new settings: watching /in\n           selection.top_n = 1\n",
        ),
        (
            {"event": "service.reload_failed", "level": "error", "problems": ["a", "b"]},
            "03:04:05 ✗ the settings can't be used; the old ones stay\n           a\n           b\n",
        ),
    ],
    ids=lambda value: value["event"] if isinstance(value, dict) else "",
)
def test_lines(record: dict[str, Any], expected: str):
    """Each kind of record in the words of people; an unknown one with all that it holds."""
    assert shown(**record) == expected


def test_local_time(monkeypatch: pytest.MonkeyPatch):
    """People see the time of their own clock; the record itself is in UTC."""
    monkeypatch.setenv("TZ", "XXX-02:00")
    time.tzset()
    assert shown(event="new").startswith("05:04:05 ")


@pytest.mark.parametrize(
    ("layers", "total", "expected"),
    [
        ([], 0, ""),
        ([{"rank": None}], 1, "for Bench: the uniform baseline alone"),
        ([{"rank": 1}, {"rank": None}, {"rank": 2}], 3, "for Bench: a rank of its own for 2 layers"),
        ([{"rank": 1}], 30, "for Bench: a rank of its own for 1 or more layers"),
    ],
)
def test_what_bench_gets(layers: list[Any], total: int, expected: str):
    """The line about a selection ends with what the config asks of Bench."""
    lines = shown(**{**SELECTED, "layers": layers, "layers_total": total, "notes": []}).splitlines()
    assert [line.strip() for line in lines[2:]] == ([expected] if expected else [])


def test_paths_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A path below the present folder is shown from there, one elsewhere as it is."""
    monkeypatch.chdir(tmp_path)
    record = {**SELECTED, "audit": str(tmp_path / "in" / "a.json")}
    assert " in/a.json → " in shown(**record)
    os.chdir("/")
    assert f" {str(tmp_path)[1:]}/in/a.json → " in shown(**record)


def test_present_folder_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without a present folder paths are shown whole."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert " /in/a.json → " in shown(**SELECTED)


def test_terminal_is_safe():
    """Control characters in a name can't play with the terminal, and no surrogate breaks the encoding."""
    name = "/in/\x1b[2J\r" + os.fsdecode(b"caf\xe9") + ".json"
    for record in ({**SELECTED, "audit": name}, {"event": "new", "audit": name}):
        line = console_line({**HEAD, **record})
        assert b"\x1b" not in line
        assert b"\r" not in line
        line.decode()


def test_colours(monkeypatch: pytest.MonkeyPatch):
    """Colours are for terminals, unless `NO_COLOR` is set."""
    assert "\x1b[" not in shown(**SELECTED)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[" in shown(**SELECTED)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in shown(**SELECTED)
