"""`benchd export`: what one audit selects, in the form that PEFT, Axolotl or Bench takes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

import click

from benchd.adapter import ADAPTER_CONFIG
from benchd.adapter_weights import read_parameters
from benchd.audit import Audit
from benchd.bench import bench_config, noted
from benchd.cli.chosen import Chosen, choose
from benchd.cli.loading import config_option, fail
from benchd.cli.yaml_text import yaml_text
from benchd.exports import axolotl, bench_audit, bench_audit_notes, plan_training

__all__ = ["command"]

_FORMS: Final = "--peft, --adapter-config DIR, --axolotl, --bench-audit or --bench-yaml"


@click.command("export")
@click.argument("audit", metavar="AUDIT", type=click.Path())
@click.option("--peft", is_flag=True, help="JSON with what peft.LoraConfig takes to retrain the adapter.")
@click.option(
    "--adapter-config",
    metavar="DIR",
    type=click.Path(),
    help=f"Write the same as DIR/{ADAPTER_CONFIG}, which LoraConfig.from_pretrained reads.",
)
@click.option("--axolotl", "as_axolotl", is_flag=True, help="The same as YAML, with Axolotl's keys.")
@click.option(
    "--bench-audit", "as_bench_audit", is_flag=True, help="The probe audit whose ranks gradience-bench --resume trains."
)
@click.option("--bench-yaml", is_flag=True, help="The config as YAML, for gradience-bench.")
@click.option(
    "--adapter",
    metavar="DIR",
    type=click.Path(),
    help=f"The audited adapter's folder, where its {ADAPTER_CONFIG} is not beside AUDIT.",
)
@config_option
def command(
    audit: str,
    config: str | None,
    adapter: str | None,
    adapter_config: str | None,
    *,
    peft: bool,
    as_axolotl: bool,
    as_bench_audit: bool,
    bench_yaml: bool,
) -> None:
    """Print what AUDIT selects in the form that PEFT, Axolotl or Bench takes.

    Standard error says what changes, and what to know. Exit code 1 if the file can't be used.
    """
    forms = [peft, adapter_config is not None, as_axolotl, as_bench_audit, bench_yaml]
    if sum(forms) != 1:
        raise click.UsageError(f"which form? Give one of {_FORMS}.")
    chosen = choose("export", audit, config, adapter)
    if chosen.audit.is_of_nothing:
        click.echo(f"benchd export: {audit}: {chosen.audit.no_analysis}", err=True)
        sys.exit(1)
    parsed, selection, folder, adapter_folder = chosen
    training = plan_training(
        parsed,
        selection,
        folder.bench,
        parameters=parsed.parameters() or read_parameters(adapter_folder),
        may_use_rslora=not as_axolotl,  # with it alphas are hardly ever whole, and Axolotl takes no others
    )
    _note(noted(parsed, selection, folder.bench).notes)
    if as_bench_audit:
        _note(bench_audit_notes(parsed, training, folder.bench))
    elif not bench_yaml:
        _note(training.notes)
    click.echo(str(training.change or "the audit doesn't tell the modules' own ranks: no change to show"), err=True)
    if bench_yaml:
        _print_bench_yaml(chosen)
    elif as_bench_audit:
        _print_json(bench_audit(parsed, training))
    elif as_axolotl:
        _print_axolotl(audit, training.arguments)
    elif adapter_config is not None:
        _write_adapter_config(adapter_config, parsed, training.arguments)
    else:
        _print_json(training.arguments)


def _note(notes: tuple[str, ...] | list[str]) -> None:
    for note in notes:
        click.echo(f"note: {note}", err=True)


def _print_json(value: Mapping[str, Any]) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _print_bench_yaml(chosen: Chosen) -> None:
    audit, selection, folder, _ = chosen
    if not folder.bench.base:
        _note(["Bench can't run this config: the settings have neither [bench.base] nor bench.base_file"])
    click.echo(yaml_text(json.loads(bench_config(audit, selection, folder.bench))), nl=False)


def _print_axolotl(audit: str, arguments: Mapping[str, Any]) -> None:
    try:
        options, notes = axolotl(arguments)
    except ValueError as error:
        click.echo(f"benchd export: {audit}: {error}", err=True)
        sys.exit(1)
    _note(notes)
    click.echo(yaml_text(options), nl=False)


def _write_adapter_config(folder: str, audit: Audit, arguments: Mapping[str, Any]) -> None:
    base_model = audit.adapter.base_model if audit.adapter else None
    value = {"base_model_name_or_path": base_model, **arguments} if base_model else arguments
    path = os.path.join(folder, ADAPTER_CONFIG)
    try:
        os.makedirs(folder, exist_ok=True)
        _write_new(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    except FileExistsError:
        fail(f"benchd export: {path} is there already; name a new folder, or move that file away")
    except OSError as error:
        fail(f"benchd export: {path}: {error.strerror}")
    click.echo(f"wrote {path}", err=True)


def _write_new(path: str, text: str) -> None:
    """Write a file that is not there yet, whole or not at all. Raises OSError."""
    with open(path, "x", encoding="utf-8") as file:
        try:
            file.write(text)
            file.flush()
        except OSError:
            os.unlink(path)
            raise
