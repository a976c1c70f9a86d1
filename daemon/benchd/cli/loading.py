"""Find and read the settings of a command. Mistakes in them end the command with exit code 2."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Sequence
from typing import NoReturn

import click
import msgspec

from benchd.settings.keys import Settings
from benchd.settings.reading import SettingsError, folder_for, lacking, parse_settings

__all__ = ["config_option", "fail", "find_settings", "load_settings", "read_settings", "with_folders"]

ENVIRONMENT = "BENCHD_CONFIG"

config_option = click.option(
    "--config",
    "config",
    metavar="FILE",
    type=click.Path(),
    help=f"Settings file. Default: the file that {ENVIRONMENT} names, else none (all defaults).",
)


def fail(*lines: str) -> NoReturn:
    """Print `lines` to stderr and end the command with exit code 2, the code for mistakes of the user."""
    for line in lines:
        click.echo(line, err=True)
    sys.exit(2)


def read_settings(path: str, source: str | None = None) -> Settings:
    """Return the settings in the file `path` and in the YAML files that it names. Raises `SettingsError`.

    `source` is the name of the file in messages, by default its path.
    """
    source = source or path
    try:
        with open(path, "rb") as file:
            text = file.read().decode()
    except OSError as error:
        raise SettingsError([f"{source}: can't be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise SettingsError([f"{source}: not UTF-8 at byte {error.start}"]) from None
    folder = os.path.dirname(os.path.abspath(path))
    return parse_settings(text, source=source, base=folder, read_file=_read_base_file, expand_user=os.path.expanduser)


def _read_base_file(path: str) -> bytes:
    """Return at most one byte more than the maximum. Never wait for a pipe. Raises OSError."""
    from benchd.settings.base_file import MAX_BASE_FILE  # noqa: PLC0415 - most settings name no file

    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", path)
        return file.read(MAX_BASE_FILE + 1)


def find_settings(config: str | None) -> Settings:
    """Return the settings from `--config`, else from the environment's file, else the defaults.

    Raises `SettingsError`. Its messages say if the environment named the file.
    """
    if config:
        return read_settings(config)
    path = os.environ.get(ENVIRONMENT)
    return read_settings(path, f"{path} (from {ENVIRONMENT})") if path else Settings()


def load_settings(config: str | None) -> Settings:
    """Return the result of `find_settings`. Mistakes end the command."""
    try:
        return find_settings(config)
    except SettingsError as error:
        fail(*error.problems)


def with_folders(settings: Settings, paths: Sequence[str]) -> Settings:
    """Return `settings` with only `paths` to watch. A path inside a folder of the file gets that folder's settings.

    Raises `SettingsError` if the base of a path lacks keys that only the file's folders set.
    """
    folders = {path: folder_for(settings, path) for path in (os.path.abspath(path) for path in paths)}
    problems = [f"{path}: {line}" for path, folder in folders.items() for line in lacking(folder.bench)]
    if problems:
        raise SettingsError(problems)
    return msgspec.structs.replace(settings, watch=tuple(folders.values()))
