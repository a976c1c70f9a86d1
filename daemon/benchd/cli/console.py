"""The records of the trail, for people: one or two lines each."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any, Final

import click

__all__ = ["console_line"]

_MARKS: Final = {
    "debug": ("·", "bright_black"),
    "info": ("·", "cyan"),
    "warning": ("!", "yellow"),
    "error": ("✗", "red"),
}
_FIXED: Final = {"ts", "level", "event"}


def console_line(record: Mapping[str, Any]) -> bytes:
    """One record as coloured text; the colours go where standard output is no terminal."""
    mark, colour = _MARKS.get(record["level"], ("·", "white"))
    event = str(record["event"])
    if event == "audit.selected":
        mark, colour = "✓", "green"
    head = click.style(record["ts"][11:19], dim=True)
    texts = _TEXTS.get(event, _anything)(record)
    lines = [f"{head} {click.style(mark, fg=colour, bold=True)} {texts[0]}"]
    lines.extend(" " * 11 + click.style(text, dim=True) for text in texts[1:] if text)
    text = "\n".join(lines) + "\n"
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        text = click.unstyle(text)
    return text.encode("utf-8", "backslashreplace")


def _short(path: object) -> str:
    """`path` as seen from here, where that is shorter; control characters can't play with the terminal."""
    text = str(path)
    try:
        relative = os.path.relpath(text)
    except (OSError, ValueError):
        relative = text
    shorter = relative if len(relative) < len(text) and not relative.startswith("..") else text
    return "".join(character if character.isprintable() else "�" for character in shorter)


def _selected(record: Mapping[str, Any]) -> list[str]:
    config = os.path.basename(_short(record["config"]))
    first = f"{_short(record['audit'])} → {click.style(config, bold=True)}"
    why = f"{record['strategy']} ({record['confidence']} confidence): {record['reason']}"
    return [first, why, *(f"note: {note}" for note in record["notes"])]


def _rejected(record: Mapping[str, Any]) -> list[str]:
    return [f"{_short(record['audit'])}: {record['message']} [{record['code']}]", record["hint"]]


def _kept(record: Mapping[str, Any]) -> list[str]:
    return [f"{_short(record['config'])} stays as it is", record["reason"]]


def _write_failed(record: Mapping[str, Any]) -> list[str]:
    return [
        f"{_short(record['audit'])}: can't write the answer: {record['error']}; again in {record['retry_in_s']:g} s"
    ]


def _started(record: Mapping[str, Any]) -> list[str]:
    return [f"benchd {record['version']} (pid {record['pid']})"]


def _watching(record: Mapping[str, Any]) -> list[str]:
    return [f"watching {_short(record['root'])} ({record['backend']})"]


def _scanned(record: Mapping[str, Any]) -> list[str]:
    counts = f"{record['found']} audits, {record['answered']} answered before, {record['queued']} to do"
    return [f"{_short(record['root'])}: {counts} ({record['duration_ms']:.0f} ms)"]


def _ready(record: Mapping[str, Any]) -> list[str]:
    return [f"ready in {record['duration_ms']:.0f} ms; Ctrl-C stops"]


def _stopping(record: Mapping[str, Any]) -> list[str]:
    return [f"stopping: {record['signal']}"]


def _stopped(record: Mapping[str, Any]) -> list[str]:
    return [
        f"stopped: {record['answered']} answered, {record['rejected']} rejected, {record['waiting']} left for next time"
    ]


def _lost(record: Mapping[str, Any]) -> list[str]:
    return [f"{_short(record['root'])}: {record['reason']}"]


def _audit_reason(record: Mapping[str, Any]) -> list[str]:
    return [f"{_short(record['audit'])}: {str(record['event']).removeprefix('audit.')}: {record['reason']}"]


def _anything(record: Mapping[str, Any]) -> list[str]:
    rest = " ".join(f"{key}={value}" for key, value in record.items() if key not in _FIXED)
    return [f"{record['event']} {''.join(c if c.isprintable() else '�' for c in rest)}".rstrip()]


_TEXTS: Final = {
    "audit.selected": _selected,
    "audit.rejected": _rejected,
    "audit.deferred": _audit_reason,
    "audit.ignored": _audit_reason,
    "audit.unchanged": _audit_reason,
    "config.kept": _kept,
    "config.write_failed": _write_failed,
    "service.started": _started,
    "service.ready": _ready,
    "service.stopping": _stopping,
    "service.stopped": _stopped,
    "watch.started": _watching,
    "watch.root_lost": _lost,
    "watch.degraded": _lost,
    "scan.finished": _scanned,
}
