"""The records of the trail, for people: one or two lines each."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import click

__all__ = ["console_line", "printable"]

_MARKS: Final = {
    "debug": ("·", "bright_black"),
    "info": ("·", "cyan"),
    "warning": ("!", "yellow"),
    "error": ("✗", "red"),
}
_FIXED: Final = {"ts", "level", "event"}


def console_line(record: Mapping[str, Any]) -> bytes:
    """One record as coloured text; the colours go where standard output is no terminal."""
    record = _clean(dict(record))
    mark, colour = _MARKS.get(record["level"], ("·", "white"))
    event = str(record["event"])
    if event == "audit.selected" and record["level"] == "info":
        mark, colour = "✓", "green"
    # People live in local time; the records themselves are in UTC.
    head = click.style(f"{datetime.fromisoformat(record['ts']).astimezone():%H:%M:%S}", dim=True)
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
    return printable(shorter)


def printable(text: str) -> str:
    """`text` without control characters, which could play with a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "�" for c in text)


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    return value


def _selected(record: Mapping[str, Any]) -> list[str]:
    config = os.path.basename(_short(record["config"]))
    first = f"{_short(record['audit'])} → {click.style(config, bold=True)}"
    confidence = f" ({record['confidence']} confidence)" if record["confidence"] != "none" else ""
    why = f"{record['strategy']}{confidence}: {record['reason']}"
    return [first, why, _outcome(record), *(f"note: {note}" for note in record["notes"])]


def _outcome(record: Mapping[str, Any]) -> str:
    """What Bench gets; the record names only the first layers."""
    ranked = sum(1 for layer in record["layers"] if layer["rank"])
    if not ranked:
        return "for Bench: the uniform baseline alone" if record["layers_total"] else ""
    more = " or more" if record["layers_total"] > len(record["layers"]) else ""
    return f"for Bench: a rank of its own for {ranked}{more} {'layer' if ranked == 1 and not more else 'layers'}"


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
    audits = "1 audit" if record["found"] == 1 else f"{record['found']} audits"
    counts = f"{audits}, {record['answered']} answered before, {record['queued']} to do"
    return [f"{_short(record['root'])}: {counts} ({record['duration_ms']:.0f} ms)"]


def _ready(record: Mapping[str, Any]) -> list[str]:
    return [f"ready in {record['duration_ms']:.0f} ms; Ctrl-C stops"]


def _restored(record: Mapping[str, Any]) -> list[str]:
    return [f"{_short(record['root'])} is back"]


def _reloaded(record: Mapping[str, Any]) -> list[str]:
    settings = dict(record["settings"])
    folders = ", ".join(map(_short, settings.pop("watch", [])))
    return [f"new settings: watching {folders}", *(f"{key} = {value}" for key, value in settings.items())]


def _reload_failed(record: Mapping[str, Any]) -> list[str]:
    return ["the settings can't be used; the old ones stay", *record["problems"]]


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
    return [f"{record['event']} {rest}".rstrip()]


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
    "service.reloaded": _reloaded,
    "service.reload_failed": _reload_failed,
    "service.stopping": _stopping,
    "service.stopped": _stopped,
    "watch.started": _watching,
    "watch.root_lost": _lost,
    "watch.root_restored": _restored,
    "watch.overflow": _lost,
    "watch.degraded": _lost,
    "scan.finished": _scanned,
}
