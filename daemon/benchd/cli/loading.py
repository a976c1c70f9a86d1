"""From the command line and the environment to `Settings`; mistakes end the command with exit code 2."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Sequence
from typing import NoReturn

import click
import msgspec

from benchd.settings.reading import Settings, SettingsError, folder_for, lacking, parse_settings

__all__ = ["config_option", "fail", "find_settings", "load_settings", "read_settings", "with_folders"]

ENVIRONMENT = "BENCHD_CONFIG"

config_option = click.option(
    "--config",
    "config",
    metavar="FILE",
    type=click.Path(),
    help=f"Settings file; {ENVIRONMENT} names one too. Without any, the defaults hold.",
)


def fail(*lines: str) -> NoReturn:
    """End the command as a mistake of the user: what is wrong on stderr, exit code 2."""
    for line in lines:
        click.echo(line, err=True)
    sys.exit(2)


def read_settings(path: str) -> Settings:
    """Return the settings in the file `path` and the YAML files that it names. Raises `SettingsError`."""
    try:
        with open(path, "rb") as file:
            text = file.read().decode()
    except OSError as error:
        raise SettingsError([f"{path}: can't be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise SettingsError([f"{path}: not UTF-8 at byte {error.start}"]) from None
    folder = os.path.dirname(os.path.abspath(path))
    return parse_settings(text, source=path, base=folder, read_file=_read_base_file)


def _read_base_file(path: str) -> bytes:
    """Return the file's content, at most one byte more than allowed. Never waits for a pipe. Raises OSError."""
    from benchd.settings.base_file import MAX_BASE_FILE  # noqa: PLC0415 - most settings name no file

    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", path)
        return file.read(MAX_BASE_FILE + 1)


def find_settings(config: str | None) -> Settings:
    """The settings of `--config`, else of the environment's file, else the defaults. Raises `SettingsError`."""
    path = config or os.environ.get(ENVIRONMENT)
    return read_settings(path) if path else Settings()


def load_settings(config: str | None) -> Settings:
    """`find_settings`, or the end of the command."""
    try:
        return find_settings(config)
    except SettingsError as error:
        fail(*error.problems)


def with_folders(settings: Settings, paths: Sequence[str]) -> Settings:
    """`settings` watching `paths` and nothing else; a folder that the file names too keeps its own settings there.

    Raises `SettingsError` where the file's tables for Bench are whole only for its own folders, and not for these.
    """
    folders = {path: folder_for(settings, path) for path in (os.path.abspath(path) for path in paths)}
    problems = [f"{path}: {line}" for path, folder in folders.items() for line in lacking(folder.bench)]
    if problems:
        raise SettingsError(problems)
    return msgspec.structs.replace(settings, watch=tuple(folders.values()))
