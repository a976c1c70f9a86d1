"""`benchd config`: the settings in force, each with where it came from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import click
import msgspec

from benchd.cli.loading import config_option, fail, load_settings, read_settings
from benchd.settings.base import leaves
from benchd.settings.reading import FolderSettings, Settings, SettingsError

__all__ = ["command"]


@click.command("config")
@config_option
@click.option(
    "--check", metavar="FILE", type=click.Path(), help="Only check FILE: every mistake in it, or that there is none."
)
def command(config: str | None, check: str | None) -> None:
    """Show the settings in force, each with where it came from."""
    if check:
        try:
            read_settings(check)
        except SettingsError as error:
            fail(*error.problems)
        click.echo(f"{check}: no mistakes")
        return
    settings = load_settings(config)
    rows = _rows(settings)
    width = max(len(key) + len(value) for key, value, _ in rows) + 3
    for key, value, origin in rows:
        click.echo(f"{key} = {value}".ljust(width) + f"  # {origin}")


def _rows(settings: Settings) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    for index, folder in enumerate(settings.watch):
        rows.extend(_folder_rows(index, folder, settings))
    for section in ("watching", "selection", "bench", "trail"):
        for key, value in _keys(getattr(settings, section)):
            rows.append((f"{section}.{key}", _shown(key, value), settings.origins.get(f"{section}.{key}", "default")))
    return rows


def _folder_rows(index: int, folder: FolderSettings, settings: Settings) -> list[tuple[str, str, str]]:
    where = f"watch[{index}]"
    rows = []
    for key, value in msgspec.structs.asdict(folder).items():
        if key not in {"selection", "bench"}:
            rows.append((f"{where}.{key}", _shown(key, value), settings.origins.get(f"{where}.{key}", "default")))
    for section in ("selection", "bench"):
        for key, value in _keys(getattr(folder, section)):
            origin = settings.origins.get(f"{where}.{section}.{key}")
            if origin:  # the others are the general ones, shown below
                rows.append((f"{where}.{section}.{key}", _shown(key, value), origin))
    return rows


def _keys(section: Any) -> Iterator[tuple[str, Any]]:
    """Each key of a section with its value; of `[bench.base]` each key of its tables."""
    for key, value in msgspec.structs.asdict(section).items():
        if key == "base" and value:
            yield from ((f"base.{name}", item) for name, item in leaves(value))
        else:
            yield key, value


_DURATIONS: Final = frozenset({"rescan_interval", "settle", "poll_interval"})


def _shown(key: str, value: Any) -> str:
    """A value as a settings file has it."""
    if key in _DURATIONS:
        return f'"{value:g}s"' if value >= 1 else f'"{value * 1000:g}ms"'
    if key == "max_bytes":
        return f'"{value // 2**20}MiB"' if value % 2**20 == 0 else str(value)
    return json.dumps(value, ensure_ascii=False)
