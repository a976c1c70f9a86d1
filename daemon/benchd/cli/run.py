"""Run `benchd run`: answer every audit in files and folders once."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import click
import msgspec

from benchd.answering.batch import Answering
from benchd.answering.outcome import Outcome, Result
from benchd.answering.processes import answer_all, count_workers
from benchd.cli.loading import config_option, fail, load_settings
from benchd.folder.folder import Folder
from benchd.folder.names import is_sidecar
from benchd.folder.scan import Scan
from benchd.inbox import Ticket
from benchd.settings.keys import Settings
from benchd.settings.reading import folder_for
from benchd.trail.console import console_line, printable
from benchd.trail.records import RunFinished
from benchd.trail.trail import Trail

__all__ = ["command"]

#: Seconds to keep trying a bad file after it should have settled, because its writer may not have finished.
_PATIENCE_SECONDS: Final = 1.0

#: Seconds between updates of the progress bar.
_REFRESH_SECONDS: Final = 0.1

_NOTHING: Final = "no audits found: no file name matches watch.patterns"
_STRATEGIES: Final = ("flagged", "priority_score", "disagreement", "none")


class _Summary:
    """Counts results, and collects messages about single audits."""

    def __init__(self) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self.strategies: Counter[str] = Counter()
        self.problems: list[tuple[str, str]] = []
        self.before = 0
        self.rejected_before = 0
        self.found = 0
        self.kept: list[tuple[str, str]] = []

    def add(self, result: Result) -> None:
        """Count a final result."""
        self.found += 1
        path = result.ticket.folder.shown(result.ticket.relative)
        if result.outcome is Outcome.UNCHANGED and result.error is not None:
            self.rejected_before += 1
            self.problems.append((path, f"rejected before: {result.error}"))
            return
        self.outcomes[result.outcome] += 1
        if result.outcome is Outcome.SELECTED and result.strategy:
            self.strategies[result.strategy] += 1
        if result.reason is not None:
            self.kept.append((path, result.reason))
        if result.error is not None:
            self.problems.append((path, result.error))

    def counts(self) -> dict[str, Any]:
        """Return the fields of the record `run.finished`."""
        outcomes = self.outcomes
        return {
            "selected": outcomes[Outcome.SELECTED],
            "by_strategy": {name: self.strategies[name] for name in _STRATEGIES},
            "unchanged": outcomes[Outcome.UNCHANGED] + self.before,
            "rejected": outcomes[Outcome.REJECTED],
            "rejected_before": self.rejected_before,
            "failed": outcomes[Outcome.FAILED],
            "unfinished": outcomes[Outcome.DEFERRED],
            "kept": outcomes[Outcome.KEPT],
            "ignored": outcomes[Outcome.IGNORED],
        }


@click.command("run")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=click.Path())
@config_option
@click.option("--force", is_flag=True, help="Answer audits again that have an answer. Edited configs are kept.")
@click.option("--dry-run", is_flag=True, help="Decide, but write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print records and summary as JSON lines, even on a terminal.")
def command(paths: tuple[str, ...], config: str | None, *, force: bool, dry_run: bool, as_json: bool) -> None:
    """Answer every audit in the files and folders PATH once.

    Records go to standard output (as JSON lines unless it is a terminal), the summary to standard error. Exit code 0 if
    all audits are answered, 1 if some were rejected or failed, 2 for a mistake in the call.
    """
    settings = load_settings(config)
    trail_settings = msgspec.structs.replace(settings.trail, format="json") if as_json else settings.trail
    trail = Trail.open(trail_settings, console=console_line)
    summary = _Summary()
    finder = _Finder(settings, summary, force=force, dry_run=dry_run)
    for path in paths:
        finder.add(path)
    if finder.sidecars and len(finder.sidecars) == len(paths):
        finder.mistakes.append(f"benchd run: {finder.sidecars[0]}: written by benchd, not an audit")
    if finder.mistakes:
        fail(*finder.mistakes)
    tickets = list(finder.tickets.values())
    gc.freeze()  # the list lives until the end, so the collector can skip it
    answering = Answering(trail, settle=settings.watching.settle, force=force, dry_run=dry_run)
    with _stop_on_signal() as stopped, _progress(len(tickets), shown=not as_json) as advance:
        results = answer_all(
            answering,
            tickets,
            trail=trail,
            processes=count_workers(settings.watching.workers),
            stopped=lambda: bool(stopped),
        )
        for result in _settled(results, answering, settings.watching.settle, stopped):
            summary.add(result)
            advance()
            if dry_run and not as_json and result.strategy:
                path = os.path.relpath(result.ticket.folder.shown(result.ticket.relative))
                click.echo(f"{printable(path)}: {result.strategy}")
    if as_json:
        trail.write(RunFinished(dry_run=dry_run, **summary.counts()))
    else:
        _print(summary, dry_run=dry_run)
    trail.close()
    if stopped:
        sys.exit(130)
    sys.exit(1 if summary.problems else 0)


class _Finder:
    """Collects the audits to answer, each once, even if the command line names it twice."""

    def __init__(self, settings: Settings, summary: _Summary, *, force: bool, dry_run: bool) -> None:
        self.tickets: dict[str, Ticket] = {}
        self.mistakes: list[str] = []
        self.sidecars: list[str] = []
        self._settings = settings
        self._summary = summary
        self._force = force
        self._dry_run = dry_run
        self._folders: dict[str, Folder] = {}

    def add(self, path: str) -> None:
        """Add a file, or all audits without a valid answer in a folder."""
        absolute = os.path.abspath(path)
        try:
            os.lstat(absolute)
        except OSError as error:
            self.mistakes.append(f"benchd run: {path}: {error.strerror}")
            return
        if os.path.isdir(absolute):  # follows a link, because the user names it
            self._add_folder(self._folder(absolute))
        elif is_sidecar(absolute):
            self.sidecars.append(path)  # `benchd run *.json` names sidecars too
        else:
            self._add(self._folder(os.path.dirname(absolute)), os.path.basename(absolute))

    def _folder(self, path: str) -> Folder:
        if path not in self._folders:
            settings = folder_for(self._settings, path)
            self._folders[path] = Folder(settings, max_bytes=self._settings.watching.max_bytes)
        return self._folders[path]

    def _add_folder(self, folder: Folder) -> None:
        def failed(relative: str, error: OSError) -> None:
            self._summary.problems.append((folder.shown(relative), f"can't be read: {error.strerror}"))

        scan = Scan(folder, failed=failed, force=self._force, tidy=not self._dry_run)
        tally = scan.tally
        for relative in scan:
            self._add(folder, relative)
        self._summary.before += tally.answered - tally.rejected
        self._summary.rejected_before += tally.rejected
        for relative, rejection in tally.rejections:
            self._summary.problems.append((folder.shown(relative), f"rejected before: {rejection}"))
        self._summary.found += tally.found

    def _add(self, folder: Folder, relative: str) -> None:
        self.tickets.setdefault(folder.shown(relative), Ticket(folder, relative, "command"))


def _settled(results: Iterator[Result], answering: Answering, settle: float, stopped: list[int]) -> Iterator[Result]:
    """Yield final results. Retry files that may be unfinished, until they settle or the time is over."""
    waiting: list[Result] = []
    for result in results:
        if result.outcome is Outcome.DEFERRED:
            waiting.append(result)
        else:
            yield result
    deadline = time.monotonic() + settle + _PATIENCE_SECONDS
    while waiting and not stopped:
        time.sleep(min(max(result.retry_in or 0.0, 0.01) for result in waiting))
        again = answering.answer([result.ticket for result in waiting])
        over = time.monotonic() > deadline
        waiting = []
        for result in again:
            if result.outcome is Outcome.DEFERRED and not over:
                waiting.append(result)
            else:
                yield result


@contextmanager
def _stop_on_signal() -> Iterator[list[int]]:
    """Yield a list that collects SIGINT and SIGTERM. They don't end the process, so that the caller can finish."""
    received: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda number, _: received.append(number)) for number in signals]
    try:
        yield received
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _progress(total: int, *, shown: bool) -> Iterator[Any]:
    if not shown or total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console  # noqa: PLC0415 - only for a terminal
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn  # noqa: PLC0415

    columns = ("answering", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Only `advance` refreshes it: a thread would compete with the audits for the GIL.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        task, shown_at = progress.add_task("", total=total), 0.0

        def advance() -> None:
            nonlocal shown_at
            progress.advance(task)
            if time.monotonic() - shown_at > _REFRESH_SECONDS:
                shown_at = time.monotonic()
                progress.refresh()

        yield advance


def _print(summary: _Summary, *, dry_run: bool) -> None:
    counts = summary.counts()
    would = "would be " if dry_run else ""
    lines = [f"{counts['selected']} {would}answered" if summary.found else _NOTHING]
    lines.extend(f"  {name:<15}{number:>7}" for name, number in counts["by_strategy"].items() if number)
    for key, text in (
        ("unchanged", "answered before"),
        ("kept", "kept: a person edited the config"),
        ("ignored", "ignored: JSON, but not an audit"),
        ("rejected", f"{would}rejected"),
        ("rejected_before", "rejected before, and unchanged"),
        ("unfinished", "unfinished: still being written"),
        ("failed", "failed"),
    ):
        if counts[key]:
            lines.append(f"{counts[key]} {text}")
    for path, problem in sorted(summary.problems)[:20] + sorted(summary.kept)[:20]:
        lines.append(f"  {printable(os.path.relpath(path))}: {printable(problem)}")
    if len(summary.problems) > 20:
        lines.append(f"  … and {len(summary.problems) - 20} more; the trail has all of them")
    click.echo("\n".join(lines), err=True)
