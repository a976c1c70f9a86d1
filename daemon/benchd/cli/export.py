"""Run `benchd export`: print the selected ranks of one audit for PEFT, Axolotl or Bench."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn

import click

from benchd.audit.adapter import ADAPTER_CONFIG, Weights
from benchd.bench.axolotl import axolotl
from benchd.bench.config import write_config
from benchd.bench.probe_audit import bench_audit, bench_audit_notes
from benchd.bench.training import Training, plan_training
from benchd.cli.chosen import Chosen, choose
from benchd.cli.loading import config_option, fail
from benchd.cli.yaml_text import yaml_text
from benchd.folder.adapter_weights import read_weights

__all__ = ["command"]

_FORMS: Final = "--peft, --adapter-config DIR, --axolotl, --bench-audit or --bench-yaml"


@click.command("export")
@click.argument("audit", metavar="AUDIT", type=click.Path())
@click.option("--peft", is_flag=True, help="Print JSON with the arguments of peft.LoraConfig for retraining.")
@click.option(
    "--adapter-config",
    metavar="DIR",
    type=click.Path(),
    help=f"Write the same as DIR/{ADAPTER_CONFIG}, which LoraConfig.from_pretrained reads.",
)
@click.option("--axolotl", "as_axolotl", is_flag=True, help="Print the same as YAML with Axolotl's keys.")
@click.option("--bench-audit", "as_bench_audit", is_flag=True, help="Print a probe audit for gradience-bench --resume.")
@click.option("--bench-yaml", is_flag=True, help="Print the config as YAML for gradience-bench.")
@click.option(
    "--adapter",
    metavar="DIR",
    type=click.Path(),
    help=f"The audited adapter's folder, if its {ADAPTER_CONFIG} is not beside AUDIT.",
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
    """Print the ranks selected from AUDIT for PEFT, Axolotl or Bench.

    Standard error has the notes and the change in parameters. Exit code 1 if there is nothing to export.
    """
    forms = {
        "--peft": peft,
        "--adapter-config": adapter_config is not None,
        "--axolotl": as_axolotl,
        "--bench-audit": as_bench_audit,
        "--bench-yaml": bench_yaml,
    }
    given = [name for name, asked in forms.items() if asked]
    if len(given) != 1:
        raise click.UsageError(f"{' and '.join(given)}: choose one form." if given else f"no form: give {_FORMS}.")
    path = None if adapter_config is None else _new_file(adapter_config, audit)
    chosen = choose("export", audit, config, adapter)
    parsed, selection, folder, adapter_folder = chosen
    if parsed.is_of_nothing or not parsed.modules.adapted:
        _end(audit, parsed.no_analysis if parsed.is_of_nothing else "nothing to export: the audit names no modules")
    weights = read_weights(adapter_folder)
    training = plan_training(parsed, selection, folder.bench, weights=weights)
    if bench_yaml:
        written = write_config(parsed, selection, folder.bench)
        notes = [*written.notes]
        if not folder.bench.base:
            notes.append("Bench can't run this config: the settings have neither [bench.base] nor bench.base_file")
        _print(notes, training, yaml_text(json.loads(written.config)))
    elif as_bench_audit:
        try:
            probe = bench_audit(parsed, training, folder.bench)
        except ValueError as error:
            _end(audit, str(error))
        notes = [*selection.notes, *training.notes, *bench_audit_notes(parsed, training, folder.bench)]
        _print(notes, training, _as_json(probe))
    elif as_axolotl:
        options, training, lacks = _axolotl(audit, chosen, training, weights)
        _print((*selection.notes, *training.notes, *training.peft_notes, *lacks), training, yaml_text(options))
    else:
        arguments = training.arguments
        if path is not None and parsed.modules.adapter is not None and parsed.modules.adapter.base_model is not None:
            arguments = {"base_model_name_or_path": parsed.modules.adapter.base_model, **arguments}
        text = _as_json(arguments)
        _print((*selection.notes, *training.notes, *training.peft_notes), training, None if path else text)
        if path is not None:
            _write_new(path, text)


def _end(audit: str, why: str | None) -> NoReturn:
    """End the command, because there is nothing to export or it can't be exported in this form."""
    click.echo(f"benchd export: {audit}: {why}", err=True)
    sys.exit(1)


def _print(notes: Iterable[str], training: Training, text: str | None) -> None:
    for note in notes:
        click.echo(f"note: {note}", err=True)
    click.echo(str(training.change or "the audit lacks the modules' present ranks: no change to show"), err=True)
    if text is not None:
        click.echo(text, nl=False)


def _as_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _axolotl(
    name: str, chosen: Chosen, training: Training, weights: Mapping[str, Weights]
) -> tuple[dict[str, Any], Training, tuple[str, ...]]:
    """Return Axolotl's options. Without use_rslora if that makes some alphas fractions. End the command if none fit."""
    audit, selection, folder, _ = chosen
    plain = plan_training(audit, selection, folder.bench, weights=weights, may_use_rslora=False)
    for attempt in (training, plain):
        try:
            options, notes = axolotl(attempt.arguments)
        except ValueError as error:
            if attempt is plain:
                _end(name, str(error))
        else:
            return options, attempt, notes
    raise AssertionError  # the last attempt has ended the command


def _new_file(folder: str, audit: str) -> str:
    """Return the path of the file to write in `folder`. Mistakes end the command."""
    path = os.path.join(folder, ADAPTER_CONFIG)
    if not folder or (os.path.exists(folder) and not os.path.isdir(folder)):
        fail(f'benchd export: --adapter-config: "{folder}" is not a folder')
    if os.path.realpath(folder) == os.path.dirname(os.path.realpath(audit)):
        fail(
            f"benchd export: --adapter-config: {folder} is the audit's folder, where benchd would read the new "
            f"{ADAPTER_CONFIG} as the audited adapter's; name another folder"
        )
    if os.path.lexists(path):
        fail(f"benchd export: {path} exists already; name a new folder, or move that file away")
    return path


def _write_new(path: str, text: str) -> None:
    """Write a new file, completely or not at all. Errors end the command."""
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            try:
                file.write(text)
                file.flush()
            except OSError:
                os.unlink(path)
                raise
    except OSError as error:
        click.echo(f"benchd export: {path}: {error.strerror}", err=True)
        sys.exit(1)
    click.echo(f"wrote {path}", err=True)
