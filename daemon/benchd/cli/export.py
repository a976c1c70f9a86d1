"""`benchd export`: what one audit selects, in the form that PEFT or Bench takes."""

from __future__ import annotations

import json
from typing import Literal

import click

from benchd.bench import bench_config, lora_config, noted
from benchd.cli.chosen import choose
from benchd.cli.loading import config_option
from benchd.cli.yaml_text import yaml_text

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
        click.echo(
            "note: Bench can't run this config: the settings have neither [bench.base] nor bench.base_file", err=True
        )
    click.echo(yaml_text(json.loads(bench_config(parsed, selection, folder.bench, adapter))), nl=False)
