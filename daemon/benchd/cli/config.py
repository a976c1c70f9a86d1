"""Run `benchd config`: show each setting, with the file that it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from benchd.cli.loading import config_option, fail, load_settings, read_settings
from benchd.settings.base import leaves
from benchd.settings.keys import SECTIONS, Settings, keys
from benchd.settings.reading import SettingsError

__all__ = ["command"]


@click.command("config")
@config_option
@click.option(
    "--check", metavar="FILE", type=click.Path(), help="Only check FILE: print every mistake, or that there are none."
)
def command(config: str | None, check: str | None) -> None:
    """Show each setting, and the file that it comes from."""
    if check:
        try:
            read_settings(check)
        except SettingsError as error:
            fail(*error.problems)
        click.echo(f"{check}: no mistakes")
        return
    rows = list(_rows(load_settings(config)))
    width = max(len(key) + len(value) for key, value, _ in rows) + 3
    for key, value, origin in rows:
        click.echo(f"{key} = {value}".ljust(width) + f"  # {origin}")


def _rows(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Yield key, value and origin. Show a folder's overrides only if it has any."""
    for index, folder in enumerate(settings.watch):
        where = f"watch[{index}]"
        yield from _section_rows(where, folder, settings)
        for name in ("selection", "bench"):
            for row in _section_rows(f"{where}.{name}", getattr(folder, name), settings):
                if row[0] in settings.origins:
                    yield row
    for name in SECTIONS:
        yield from _section_rows(name, getattr(settings, name), settings)


def _section_rows(where: str, section: Any, settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Yield the rows of one table. For `[bench.base]`, yield one row for each key of its tables."""
    rows = [(name, key.rule.write(getattr(section, name))) for name, key in keys(type(section)).items()]
    base = getattr(section, "base", None)
    if base is not None:
        found = {f"base.{name}": value for name, value in leaves(base)} or {"base": base}
        rows += [(name, json.dumps(value, ensure_ascii=False)) for name, value in found.items()]
    for name, text in rows:
        yield f"{where}.{name}", text, settings.origins.get(f"{where}.{name}", "default")
