"""`benchd export`: what one audit selects, in the form that PEFT or Bench takes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, Literal

import click

from benchd.bench import bench_config, lora_config, noted
from benchd.cli.chosen import choose
from benchd.cli.loading import config_option
from benchd.sidecar import number_text, quoted

__all__ = ["command"]


@click.command("export")
@click.argument("audit", metavar="AUDIT", type=click.Path())
@click.option("--peft", "form", flag_value="peft", help="JSON with what peft.LoraConfig takes to retrain the adapter.")
@click.option("--bench-yaml", "form", flag_value="bench-yaml", help="The config as YAML, for gradience-bench.")
@config_option
def command(audit: str, form: Literal["peft", "bench-yaml"] | None, config: str | None) -> None:
    """Print what AUDIT selects in the form that PEFT or Bench takes.

    Writes nothing. Exit code 1 if the file can't be used.
    """
    if form is None:
        raise click.UsageError("which form? Give --peft or --bench-yaml.")
    parsed, selection, folder, adapter = choose("export", audit, config)
    for note in noted(parsed, selection, folder.bench, adapter).notes:
        click.echo(f"note: {note}", err=True)
    if form == "peft":
        arguments = lora_config(parsed, selection, folder.bench, adapter)
        if "lora_alpha" not in arguments:
            click.echo("note: the audit doesn't tell the adapter's scaling; set lora_alpha yourself", err=True)
        click.echo(json.dumps(arguments, indent=2, ensure_ascii=False))
        return
    if not folder.bench.base:
        click.echo("note: Bench can't run this config: there is no [bench.base] in the settings", err=True)
    for line in _block(json.loads(bench_config(parsed, selection, folder.bench, adapter)), ""):
        click.echo(line)


# --- YAML: what a config holds, and no more -------------------------------------------------------------------

#: Text that no YAML reader takes for anything but itself: a name or a path, and no word with a meaning of its own.
_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:[./-][A-Za-z0-9_]+)*")
_WORDS: Final = frozenset({"null", "true", "false", "yes", "no", "on", "off", "y", "n"})


def _block(value: dict[str, Any] | list[Any], indent: str) -> Iterator[str]:
    """The lines of a mapping or a list that is not empty, in block style."""
    items = value.items() if isinstance(value, dict) else [(None, item) for item in value]
    for key, item in items:
        head = f"{indent}-" if key is None else f"{indent}{_scalar(key)}:"
        if not item or not isinstance(item, dict | list):
            yield f"{head} {_scalar(item)}"
        elif key is None:
            first, *rest = _block(item, indent + "  ")
            yield f"{head} {first.lstrip()}"
            yield from rest
        else:
            yield head
            yield from _block(item, indent + "  ")


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value.lower() not in _WORDS else quoted(value)
    if isinstance(value, float):
        return number_text(value)
    return json.dumps(value)  # null, true, false, integers, {} and []
