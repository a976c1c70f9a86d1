"""Run `benchd watch`: start the daemon."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from benchd.cli.loading import config_option, fail, find_settings, with_folders
from benchd.service.process import Service, block_signals
from benchd.service.systemd import notify
from benchd.settings.keys import Settings
from benchd.settings.reading import SettingsError
from benchd.trail.console import console_line
from benchd.trail.trail import Trail
from benchd.watching.lock import Occupied

__all__ = ["command"]


@click.command("watch")
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=click.Path())
@config_option
def command(paths: tuple[str, ...], config: str | None) -> None:
    """Answer every audit in the folders PATH, present and future, until SIGTERM or SIGINT.

    Without PATH, watch the folders of the settings file. Records go to standard output. SIGHUP reads the settings
    file again.
    """
    block_signals()

    def read() -> Settings:
        try:
            settings = find_settings(config)
            if paths:
                settings = with_folders(settings, paths)
        except OSError as error:  # the working directory is gone, so relative paths have no meaning
            raise SettingsError([f"benchd watch: {error.strerror}; relative paths can't be found"]) from None
        if not settings.watch:
            raise SettingsError(
                ["benchd watch: no folder to watch: name one (benchd watch DIR), or a file with [[watch]] tables"]
            )
        return settings

    try:
        settings = read()
    except SettingsError as error:
        _refuse(*error.problems)
    for folder in settings.watch:
        if os.path.exists(folder.path) and not os.path.isdir(folder.path):
            _refuse(f"benchd watch: {folder.path}: not a folder; `benchd run` answers single files")
    trail = Trail.open(settings.trail, console=console_line)
    service = Service(settings, trail, reread=read, console=console_line)
    try:
        service.claim()
    except Occupied as error:
        _refuse(f"benchd watch: {error}")
    sys.exit(service.run())


def _refuse(*lines: str) -> NoReturn:
    """End with exit code 2 because of a mistake of the user. Show the mistake in `systemctl status`."""
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    notify(STATUS=lines[0] + more)
    fail(*lines)
