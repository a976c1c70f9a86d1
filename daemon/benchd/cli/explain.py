"""`benchd explain`: the validation plan of one audit, for people."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchd.audit import Audit
from benchd.bench import bench_config
from benchd.cli.loading import config_option, fail, load_settings
from benchd.files import Vanished, look, open_directory, read_regular
from benchd.rejection import AuditError
from benchd.selection import SelectedLayer, Selection, select
from benchd.settings import FolderSettings, SelectionSettings, folder_for

__all__ = ["command"]

_BAR: Final = 20
_COLOURS: Final = {"HIGH": "red", "MEDIUM": "yellow", "LOW": "cyan", "SKIP": "bright_black"}
_ADVICE: Final = {
    "HIGH": "validate per layer",
    "MEDIUM": "validate per layer",
    "LOW": "validate with a focused uniform rank",
    "SKIP": "the uniform baseline is enough",
}
_REASONS: Final = {
    "insufficient_spread": "spread too small",
    "below_quantile_threshold": "importance below the quantile",
    "below_uniform_mult_threshold": "importance below the uniform multiple",
    "flat_distribution": "flat distribution",
}
_RUNGS: Final = ("flagged", "priority_score", "disagreement", "none")


@click.command("explain")
@click.argument("audit", metavar="AUDIT", type=click.Path())
@config_option
@click.option("--json", "as_json", is_flag=True, help="The same as one JSON object.")
def command(audit: str, config: str | None, *, as_json: bool) -> None:
    """Show what AUDIT selects and why: the ladder, each layer against its thresholds, what to do.

    Writes nothing. Exit code 1 if the file can't be used.
    """
    settings = load_settings(config)
    path = os.path.abspath(audit)
    folder = folder_for(settings, os.path.dirname(path))
    try:
        parsed = _read(path, settings.watching.max_bytes)
    except AuditError as error:
        click.echo(f"{audit}: {error.message} [{error.code}]\n  {error.hint}", err=True)
        sys.exit(1)
    except Vanished:
        fail(f"benchd explain: {audit}: no such file")
    except OSError as error:
        fail(f"benchd explain: {audit}: {error.strerror}")
    selection = select(parsed, folder.selection)
    if as_json:
        click.echo(json.dumps(_as_json(parsed, selection, folder), indent=2, ensure_ascii=False))
        return
    _show(parsed, selection, folder.selection)


def _read(path: str, max_bytes: int) -> Audit:
    from benchd.audit import read_audit  # noqa: PLC0415

    directory = open_directory(os.path.dirname(path))
    try:
        name = os.path.basename(path)
        content, _ = read_regular(directory, name, look(directory, name), max_bytes)
    finally:
        os.close(directory)
    return read_audit(content, name=name)


def _as_json(audit: Audit, selection: Selection, folder: FolderSettings) -> dict[str, Any]:
    config = json.loads(bench_config(audit, selection, folder.bench))
    return {
        "audit": config["provenance"]["audit"],
        "gradience_version": audit.gradience_version,
        "total_layers": audit.total_layers,
        **config["selection"],
        "recommendations": [
            {"priority": priority, "advice": _ADVICE[priority], "layers": [layer.layer_name for layer in layers]}
            for priority, layers in _by_priority(selection)
        ],
        "compression_strategies": config["compression_strategies"],
    }


def _by_priority(selection: Selection) -> list[tuple[str, list[SelectedLayer]]]:
    groups = [(name, [layer for layer in selection.layers if layer.priority == name]) for name in _ADVICE]
    return [(name, layers) for name, layers in groups if layers]


def _show(audit: Audit, selection: Selection, settings: SelectionSettings) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    version = f", Gradience {audit.gradience_version}" if audit.gradience_version else ""
    console.print(Text.assemble((audit.name, "bold"), f": {audit.total_layers} layers{version}"))
    console.print()
    console.print(_ladder(selection))
    if selection.layers:
        console.print()
        console.print(_layers(selection, settings))
        console.print()
        console.print(_recommendations(selection))
    for note in selection.notes:
        console.print(Text(f"note: {note}", "yellow"))


def _ladder(selection: Selection) -> Table:
    tried = {rung.strategy: rung for rung in selection.ladder}
    table = Table("", "rung", "why", title="Ladder", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in _RUNGS:
        rung = tried.get(name)
        if rung is None:
            table.add_row("·", Text(name, "dim"), Text("not tried", "dim"))
        elif rung.fired:
            confidence = f" ({selection.confidence} confidence)" if name != "none" else ""
            table.add_row(Text("✓", "bold green"), Text(name + confidence, "bold"), Text(rung.reason))
        else:
            table.add_row(Text("✗", "red"), Text(name), Text(rung.reason))
    return table


def _layers(selection: Selection, settings: SelectionSettings) -> Table:
    medium, low = settings.medium_priority, settings.low_priority
    table = Table(title="Layers", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for header, justify in (
        ("#", "right"), ("layer", "left"), ("priority", "left"), (f"score (low {low:g} ┆ medium {medium:g} │)", "left"),
        ("spread", "left"), ("uniform mult", "left"), ("share", "right"), ("rank", "left"), ("failed", "left"),
    ):  # fmt: skip
        table.add_column(header, justify=justify, overflow="fold")  # type: ignore[arg-type]
    top = max([layer.priority_score or 0.0 for layer in selection.layers] + [medium * 1.25])
    for number, layer in enumerate(selection.layers, 1):
        failed = ", ".join(_REASONS.get(reason, reason) for reason in layer.failed_reasons)
        table.add_row(
            str(number),
            Text(layer.module),
            Text(layer.priority, _COLOURS[layer.priority]),
            _bar(layer, top, low, medium),
            _against(layer.spread, layer.spread_threshold, "g", failed="insufficient_spread" in layer.failed_reasons),
            _against(
                layer.uniform_mult,
                layer.uniform_mult_threshold,
                ".2f",
                failed="below_uniform_mult_threshold" in layer.failed_reasons,
            ),
            "–" if layer.importance_share is None else f"{layer.importance_share:.1%}",
            _rank(layer),
            Text(failed or "–", "dim"),
        )
    return table


def _bar(layer: SelectedLayer, top: float, low: float, medium: float) -> Text:
    """The score as a bar, with the places of the two thresholds marked in it."""
    score = layer.priority_score
    filled = 0 if score is None else min(_BAR, max(0, round(score / top * _BAR))) if top > 0 else 0
    cells = ["█" if index < filled else "·" for index in range(_BAR)]
    for threshold, mark in ((low, "┆"), (medium, "│")):
        place = int(threshold / top * _BAR) if top > 0 else 0
        if place < _BAR:
            cells[place] = mark
    number = "    –" if score is None else f"{score:5.2f}" if abs(score) < 1000 else f"{score:5.0e}"
    return Text.assemble(number, " ", ("".join(cells), _COLOURS[layer.priority]))


def _against(value: float | None, threshold: float | None, form: str, *, failed: bool) -> Text:
    """`6 ≥ 4 ✓`; a condensed rationale has no threshold, but says what failed."""
    if value is None:
        return Text("–")
    shown = format(value, form) if abs(value) < 1e6 else f"{value:.3g}"
    holds = value >= threshold if threshold is not None else not failed
    sign = "≥" if holds else "<"
    against = f" {sign} {format(threshold, form)}" if threshold is not None else ""
    return Text.assemble(f"{shown}{against} ", ("✓", "green") if holds else ("✗", "red"))


def _rank(layer: SelectedLayer) -> Text:
    if layer.rank is None:
        return Text("–", "dim")
    return Text.assemble((str(layer.rank), "bold"), (f" ({layer.rank_source})", "dim"))


def _recommendations(selection: Selection) -> Table:
    table = Table(
        title="Recommendations", title_justify="left", title_style="bold", box=None, show_header=False, pad_edge=False
    )
    for priority, layers in _by_priority(selection):
        names = ", ".join(layer.module for layer in layers[:8])
        more = f" and {len(layers) - 8} more" if len(layers) > 8 else ""
        count = f"{len(layers)} layer{'' if len(layers) == 1 else 's'}"
        table.add_row(Text(priority, _COLOURS[priority]), f"{count}: {_ADVICE[priority]}", Text(names + more, "dim"))
    return table
