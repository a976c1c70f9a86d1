"""Run `benchd explain`: show the validation plan of one audit to people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import click
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchd.audit.audit import Audit
from benchd.bench.config import bench_config
from benchd.bench.plan import Plan, plan_config
from benchd.cli.chosen import Chosen, choose
from benchd.cli.loading import config_option
from benchd.selection.selection import SelectedLayer, Selection
from benchd.settings.keys import SelectionSettings

__all__ = ["command"]

_BAR: Final = 20

#: Columns. On narrower terminals a table would break every name.
_WIDE: Final = 118

#: Maximum number of layers to show.
_MOST: Final = 50
_COLOURS: Final = {"HIGH": "red", "MEDIUM": "yellow", "LOW": "cyan", "SKIP": "bright_black"}
_ADVICE: Final = {
    "HIGH": "validate per layer",
    "MEDIUM": "validate per layer",
    "LOW": "validate with a focused uniform rank",
    "SKIP": "the uniform baseline is enough",
}
_REASONS: Final = {
    "insufficient_spread": "spread too small",
    "below_quantile_threshold": "share below the quantile",
    "below_uniform_mult_threshold": "uniform mult too small",
    "flat_distribution": "flat distribution",
}
_PLAIN: Final[dict[str, Any]] = {"title_justify": "left", "title_style": "bold", "box": None, "pad_edge": False}
_RUNGS: Final = ("flagged", "priority_score", "disagreement", "none")


@click.command("explain")
@click.argument("audit", metavar="AUDIT", type=click.Path())
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print the same as one JSON object.")
def command(audit: str, config: str | None, *, as_json: bool) -> None:
    """Show which layers benchd selects from AUDIT and why: the ladder, each layer's thresholds, and advice.

    Writes no files. Exit code 1 if AUDIT can't be used.
    """
    chosen = choose("explain", audit, config)
    if as_json:
        click.echo(json.dumps(_as_json(chosen), indent=2, ensure_ascii=False))
        return
    _show(chosen)


def _as_json(chosen: Chosen) -> dict[str, Any]:
    audit, selection, folder, _ = chosen
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


def _show(chosen: Chosen) -> None:
    audit, selection, folder, _ = chosen
    console = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 140)
    version = f", Gradience {audit.gradience_version}" if audit.gradience_version else ""
    console.print(Text.assemble((audit.name, "bold"), f": {_count(audit.total_layers)}{version}"))
    console.print()
    console.print(_ladder(audit, selection))
    if selection.layers:
        console.print()
        console.print(_layers(selection, folder.selection, console.width))
        console.print()
        console.print(_recommendations(selection))
        if any(layer.spread_threshold is None for layer in selection.layers):
            hint = "this audit omits some thresholds; to include them: gradience audit --disagreement-rationale full"
            console.print(Text(hint, "dim"))
    plan = plan_config(audit, selection, folder.bench)
    console.print(Text.assemble(("For Bench: ", "bold"), _strategies(plan)))
    for note in (*selection.notes, *plan.notes):
        console.print(Text(f"note: {note}", "yellow"))


def _ladder(audit: Audit, selection: Selection) -> Table:
    tried = {rung.strategy: rung for rung in selection.ladder}
    untried = "not tried" if audit.no_analysis is None else "not tried: the audit has no analysis"
    table = Table("", "rung", "why", show_header=False, title="Ladder", **_PLAIN)
    for name in _RUNGS:
        rung = tried.get(name)
        if rung is None:
            table.add_row("·", Text(name, "dim"), Text(untried, "dim"))
        elif rung.fired:
            confidence = f" ({selection.confidence} confidence)" if name != "none" else ""
            table.add_row(Text("✓", "bold green"), Text(name + confidence, "bold"), Text(rung.reason))
        else:
            table.add_row(Text("✗", "red"), Text(name), Text(rung.reason))
    return table


class _Row(NamedTuple):
    """The cells of one layer."""

    number: str
    name: Text
    priority: Text
    score: Text
    spread: Text
    uniform_mult: Text
    share: Text
    rank: Text
    failed: Text


def _rows(selection: Selection, settings: SelectionSettings) -> list[_Row]:
    medium, low = settings.medium_priority, settings.low_priority
    top = max([layer.priority_score or 0.0 for layer in selection.layers] + [medium * 1.25])
    rows = []
    for number, layer in enumerate(selection.layers[:_MOST], 1):
        reasons = layer.failed_reasons
        row = _Row(
            number=str(number),
            name=Text(layer.module),
            priority=Text(layer.priority, _COLOURS[layer.priority]),
            score=_bar(layer, top, low, medium),
            spread=_against(layer.spread, layer.spread_threshold, "g", failed="insufficient_spread" in reasons),
            uniform_mult=_against(
                layer.uniform_mult,
                layer.uniform_mult_threshold,
                ".2f",
                failed="below_uniform_mult_threshold" in reasons,
            ),
            share=Text("–" if layer.importance_share is None else f"{layer.importance_share:.1%}"),
            rank=_rank(layer),
            failed=Text(", ".join(_REASONS.get(reason, reason) for reason in reasons) or "–", "dim"),
        )
        rows.append(row)
    return rows


def _layers(selection: Selection, settings: SelectionSettings, width: int) -> RenderableType:
    """Return a table, or on a narrow terminal a few lines for each layer."""
    thresholds = f"low {settings.low_priority:g} ┆ medium {settings.medium_priority:g} │"
    rows = _rows(selection, settings)
    left = len(selection.layers) - len(rows)
    more = [Text(f"… and {left} more; --json lists all layers", "dim")] if left else []
    if width < _WIDE:
        head = Text.assemble(("Layers", "bold"), (f"   score: {thresholds}", "dim"))
        return Group(head, *(line for row in rows for line in _block(row)), *more)
    table = Table(title="Layers", **_PLAIN)
    score = f"score ({thresholds})"
    for header in ("#", "layer", "priority", score, "spread", "uniform mult", "share", "rank", "not flagged because"):
        table.add_column(header, justify="right" if header in {"#", "share"} else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return Group(table, *more)


def _block(row: _Row) -> Iterator[Text]:
    yield Text.assemble(f"{row.number:>2}  ", (row.name.plain, "bold"))
    yield Text.assemble("    ", row.priority, "  score ", row.score, "  rank ", row.rank)
    yield Text.assemble("    spread ", row.spread, "   uniform mult ", row.uniform_mult, "   share ", row.share)
    if row.failed.plain != "–":
        yield Text.assemble(("    not flagged: ", "dim"), row.failed)


def _bar(layer: SelectedLayer, top: float, low: float, medium: float) -> Text:
    """Return the score as a bar, with marks for the two thresholds."""
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
    """Return text such as `6 ≥ 4 ✓`. A condensed rationale has no thresholds, only the failed conditions."""
    if value is None:
        return Text("–")
    shown = format(value, form) if abs(value) < 1e6 else f"{value:.3g}"
    holds = value >= threshold if threshold is not None else not failed
    sign = "≥" if holds else "<"
    against = f" {sign} {format(threshold, form)}" if threshold is not None else ""
    return Text.assemble(f"{shown}{against} ", ("✓", "green") if holds else ("✗", "red"))


def _strategies(plan: Plan) -> str:
    """Return the variants of the config as a phrase."""
    uniform, *others = plan.strategies
    text = f"the uniform baseline at rank {uniform['rank']}"
    for strategy in others:
        text += f", and custom ranks for {_count(strategy['layers_tested'])}"
    return text


def _count(layers: int) -> str:
    return "1 layer" if layers == 1 else f"{layers} layers"


def _rank(layer: SelectedLayer) -> Text:
    if layer.rank is None:
        return Text("–", "dim")
    at_most = "≤ " if layer.rank_is_upper_bound else ""
    return Text.assemble((f"{at_most}{layer.rank}", "bold"), (f" ({layer.rank_source})", "dim"))


def _recommendations(selection: Selection) -> Table:
    table = Table(title="Recommendations", show_header=False, **_PLAIN)
    for priority, layers in _by_priority(selection):
        names = ", ".join(layer.module for layer in layers[:8])
        more = f" and {len(layers) - 8} more" if len(layers) > 8 else ""
        count = _count(len(layers))
        table.add_row(Text(priority, _COLOURS[priority]), f"{count}: {_ADVICE[priority]}", Text(names + more, "dim"))
    return table
