"""`benchd watch`: the daemon."""

from __future__ import annotations

import os
import sys

import click

from benchd.cli.console import console_line
from benchd.cli.loading import config_option, fail, load_settings, with_folders
from benchd.lock import Occupied
from benchd.service import Service, block_signals
from benchd.trail import Trail

__all__ = ["command"]


@click.command("watch")
@click.argument("paths", nargs=-1, metavar="[PATH]...", type=click.Path())
@config_option
def command(paths: tuple[str, ...], config: str | None) -> None:
    """Answer every audit in the folders PATH, and every one that arrives, until SIGTERM or SIGINT.

    Without PATH the folders of the settings file are watched. Standard output carries the audit trail.
    """
    block_signals()
    settings = load_settings(config)
    if paths:
        settings = with_folders(settings, paths)
    if not settings.watch:
        fail("benchd watch: no folder to watch: name one (benchd watch DIR), or a settings file with a [[watch]] table")
    for folder in settings.watch:
        if os.path.exists(folder.path) and not os.path.isdir(folder.path):
            fail(f"benchd watch: {folder.path}: not a folder; `benchd run` answers single files")
    service = Service(settings, Trail.open(settings.trail, console=console_line))
    try:
        service.claim()
    except Occupied as error:
        fail(f"benchd watch: {error}")
    sys.exit(service.run())
