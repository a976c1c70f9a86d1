"""One audit named on the command line, and what it selects; mistakes end the command."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

import click

from benchd.adapter import AdapterConfig
from benchd.adapter_beside import adapter_beside
from benchd.audit import Audit, read_audit
from benchd.cli.loading import fail, load_settings
from benchd.files import Vanished, look, open_directory, read_regular
from benchd.rejection import AuditError
from benchd.selection import Selection, select
from benchd.settings import FolderSettings, folder_for

__all__ = ["Chosen", "choose"]


class Chosen(NamedTuple):
    """An audit with its answer; `folder` are the settings in force where it lies, `adapter` is the file beside it."""

    audit: Audit
    selection: Selection
    folder: FolderSettings
    adapter: AdapterConfig | None


def choose(command: str, audit: str, config: str | None) -> Chosen:
    """Read the file `audit` and select from it. Ends the command: 1 if it can't be used, 2 if it can't be found."""
    settings = load_settings(config)
    path = os.path.realpath(audit)  # a person may name a link; only folders are watched with suspicion
    folder = folder_for(settings, os.path.dirname(path))
    try:
        parsed, adapter = _read(path, settings.watching.max_bytes)
    except AuditError as error:
        click.echo(f"{audit}: {error.message} [{error.code}]\n  {error.hint}", err=True)
        sys.exit(1)
    except Vanished:
        fail(f"benchd {command}: {audit}: No such file or directory")
    except OSError as error:
        fail(f"benchd {command}: {audit}: {error.strerror}")
    return Chosen(parsed, select(parsed, folder.selection), folder, adapter)


def _read(path: str, max_bytes: int) -> tuple[Audit, AdapterConfig | None]:
    directory = open_directory(os.path.dirname(path))
    try:
        name = os.path.basename(path)
        content, _ = read_regular(directory, name, look(directory, name), max_bytes)
        return read_audit(content, name=name), adapter_beside(directory)
    finally:
        os.close(directory)
