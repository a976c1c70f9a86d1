"""Write the audit trail: one line for each event, to a file, standard output or the journal.

The operating system has the record when `Trail.write` returns. While the trail can't be written, its records go to
standard error.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from typing import Any, Final

from benchd.settings.keys import Level, TrailSettings
from benchd.trail.lines import Render, journal_line, json_line
from benchd.trail.records import Record, TrailFailed
from benchd.trail.sinks import Output, Sink, TrailFile, TrailStream, Written, is_journal

# structlog imports rich for tracebacks on terminals, and no public module of structlog avoids that. Records have no
# tracebacks. With None in `sys.modules` Python does not find rich, and `import benchd.cli.watch` takes 110 ms of CPU
# time instead of 165 ms.
_rich = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment]
try:
    import structlog
finally:
    del sys.modules["rich"]
    if _rich is not None:
        sys.modules["rich"] = _rich

__all__ = ["Trail"]

_LEVELS: Final[dict[Level, int]] = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class Trail:
    """Writes records. Thread-safe."""

    def __init__(self, sink: Sink, *, level: Level = "info", render: Render = json_line, fallback: int = 2) -> None:
        self._output = Output(sink, complain=_complaint, fallback=fallback)
        self._log = _logger(level, render)

    @classmethod
    def open(cls, settings: TrailSettings, *, console: Render | None = None) -> Trail:
        """Return the trail that the settings describe. The first record opens a file.

        `console` formats the lines for people, if the settings ask for them.
        """
        sink, render = _described(settings, console)
        return cls(sink, level=settings.level, render=render)

    def reopen(self, settings: TrailSettings, *, console: Render | None = None) -> None:
        """Continue with other settings. Open a file again, even if it is the same."""
        sink, render = _described(settings, console)
        self._output.replace(sink)
        self._log = _logger(settings.level, render)

    def share(self, path: str) -> None:
        """Lock the file `path` for each write. Without it a pipe mixes the long lines of several processes."""
        self._output.share(path)

    def write(self, *records: Record) -> None:
        """Write records in one piece. Skip those below the trail's level."""
        lines = [line for record in records if (line := getattr(self._log, record.level)(record)) is not None]
        if lines:
            self._output.write(lines)

    def unflushed(self) -> Written | None:
        """Return the file to flush for all records so far. Report the result to `flushed`.

        None means that there is nothing to flush and nothing to report.
        """
        return self._output.unflushed()

    def flushed(self, error: OSError | None) -> None:
        """Take the result of the flush that `unflushed` asked for.

        After an error, write every record since the last good flush to standard error.
        """
        self._output.flushed(error)

    def close(self) -> None:
        """Flush and close the trail's file, if it is open. The next record opens it again."""
        self._output.close()


def _logger(level: Level, render: Render) -> Any:
    """Return a logger whose methods return the line of a record, or None below `level`."""
    return structlog.wrap_logger(
        structlog.ReturnLogger(),
        processors=[_add_time, lambda _logger, _level, event: render(event["ts"], event["event"])],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
    ).bind()


def _add_time(_logger: Any, _level: str, event: Any) -> Any:
    event["ts"] = _now()
    return event


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")[: -len("+00:00")] + "Z"


def _complaint(name: str, error: str) -> bytes:
    return json_line(_now(), TrailFailed(file=name, error=error))


def _described(settings: TrailSettings, console: Render | None) -> tuple[Sink, Render]:
    lines = console or json_line
    if settings.file:
        return TrailFile(settings.file), lines if settings.format == "console" else json_line
    stdout = sys.stdout.fileno() if sys.stdout is not None else 2  # standard output may be closed
    if is_journal(stdout):
        return TrailStream(stdout), journal_line
    for_people = settings.format == "console" or (settings.format == "auto" and os.isatty(stdout))
    return TrailStream(stdout), lines if for_people else json_line
