"""Format the records of the trail for people, one or more lines for each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import click
import msgspec

from benchd.settings.keys import Level
from benchd.trail import records
from benchd.trail.records import Record

__all__ = ["TEXTS", "console_line", "printable"]

_MARKS: Final[dict[Level, tuple[str, str]]] = {
    "debug": ("·", "bright_black"),
    "info": ("·", "cyan"),
    "warning": ("!", "yellow"),
    "error": ("✗", "red"),
}


def console_line(ts: str, record: Record) -> bytes:
    """Return `record` as text, with colours if standard output is a terminal."""
    mark, colour = _MARKS[record.level]
    if isinstance(record, records.Selected) and record.level == "info":
        mark, colour = "✓", "green"
    # People read local time. Records contain UTC.
    head = click.style(f"{datetime.fromisoformat(ts).astimezone():%H:%M:%S}", dim=True)
    texts = TEXTS[record.__struct_config__.tag](_clean(record))
    lines = [f"{head} {click.style(mark, fg=colour, bold=True)} {texts[0]}"]
    lines.extend(" " * 11 + click.style(text, dim=True) for text in texts[1:] if text)
    text = "\n".join(lines) + "\n"
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        text = click.unstyle(text)
    return text.encode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """Return `text` without control characters, because a terminal would execute them."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "�" for c in text)


def _clean(value: Any) -> Any:
    """Return `value`, a record or a part of one, without control characters."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, msgspec.Struct):
        return type(value)(**_clean(msgspec.structs.asdict(value)))
    return value


def _short(path: str) -> str:
    """Return `path`, relative to the working directory if it is inside."""
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):
        relative = path
    # The name of the working directory may contain control characters, too.
    return printable(relative if len(relative) < len(path) and not relative.startswith("..") else path)


def _selected(record: records.Selected) -> list[str]:
    config = os.path.basename(_short(record.config))
    first = f"{_short(record.audit)} → {click.style(config, bold=True)}"
    confidence = f" ({record.confidence} confidence)" if record.confidence != "none" else ""
    why = f"{record.strategy}{confidence}: {record.reason}"
    return [first, why, _outcome(record), *(f"note: {note}" for note in record.notes)]


def _outcome(record: records.Selected) -> str:
    """Return a phrase about the variants for Bench. The record has only the first layers."""
    ranked = sum(1 for layer in record.layers if layer.rank)
    if not ranked:
        return "for Bench: only the uniform baseline" if record.layers_total else ""
    more = " or more" if record.layers_total > len(record.layers) else ""
    return f"for Bench: custom ranks for {ranked}{more} {'layer' if ranked == 1 and not more else 'layers'}"


def _reloaded(record: records.Reloaded) -> list[str]:
    settings = dict(record.settings)
    folders = ", ".join(map(_short, settings.pop("watch", [])))
    return [f"new settings: watching {folders}", *(f"{key} = {value}" for key, value in settings.items())]


def _scanned(record: records.ScanFinished) -> list[str]:
    audits = "1 audit" if record.found == 1 else f"{record.found} audits"
    counts = f"{audits}, {record.answered} answered before, {record.queued} to do"
    return [f"{_short(record.root)}: {counts} ({record.duration_ms:.0f} ms)"]


def _degraded(record: records.Degraded) -> list[str]:
    return [f"{_short(record.root)}: {record.reason}" if record.root else record.reason]


def _about(record: records.Deferred | records.Ignored | records.Unchanged) -> list[str]:
    event = str(record.__struct_config__.tag).removeprefix("audit.")
    return [f"{_short(record.audit)}: {event}: {record.reason}"]


#: The lines for each event. The first line follows the time, and the others are below it.
TEXTS: Final[dict[Any, Callable[[Any], list[str]]]] = {
    "audit.selected": _selected,
    "audit.rejected": lambda record: [f"{_short(record.audit)}: {record.message} [{record.code}]", record.hint],
    "audit.deferred": _about,
    "audit.ignored": _about,
    "audit.unchanged": _about,
    "audit.failed": lambda record: [
        f"{_short(record.audit)}: benchd failed: {record.error}; retrying in {record.retry_in_s:g} s"
    ],
    "config.kept": lambda record: [f"benchd keeps {_short(record.config)}", record.reason],
    "config.write_failed": lambda record: [
        f"{_short(record.audit)}: can't write the answer: {record.error}; retrying in {record.retry_in_s:g} s"
    ],
    "watch.started": lambda record: [f"watching {_short(record.root)} ({record.backend})"],
    "watch.overflow": lambda record: [f"{_short(record.root)}: {record.reason}"],
    "watch.degraded": _degraded,
    "watch.root_lost": lambda record: [f"{_short(record.root)}: {record.reason}"],
    "watch.root_restored": lambda record: [f"{_short(record.root)} is back"],
    "scan.finished": _scanned,
    "service.started": lambda record: [f"benchd {record.version} (pid {record.pid})"],
    "service.ready": lambda record: [f"ready in {record.duration_ms:.0f} ms; Ctrl-C stops"],
    "service.reloaded": _reloaded,
    "service.reload_failed": lambda record: ["can't use the new settings; the old ones stay active", *record.problems],
    "service.thread_failed": lambda record: [f"{record.thread} failed: {record.error}; {record.recovery}"],
    "service.stopping": lambda record: [f"stopping: {record.signal}"],
    "service.stopped": lambda record: [
        f"stopped: {record.answered} answered, {record.rejected} rejected, {record.waiting} left for the next start"
    ],
    "run.finished": lambda record: [f"{record.selected} answered"],
    "trail.failed": lambda record: [f"can't write the trail {_short(record.file)}: {record.error}"],
}
