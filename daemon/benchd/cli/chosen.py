"""One audit named on the command line, and what it selects; mistakes end the command."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple

import click

from benchd.adapter import ADAPTER_CONFIG, AdapterConfig
from benchd.adapter_beside import adapter_beside
from benchd.audit import Audit, read_audit
from benchd.cli.loading import fail, load_settings
from benchd.files import Vanished, look, open_directory, read_regular
from benchd.rejection import AuditError
from benchd.selection import Selection, select
from benchd.settings import FolderSettings, folder_for

__all__ = ["Chosen", "choose"]


class Chosen(NamedTuple):
    """An audit with its answer; `folder` are the settings for its folder, `adapter_folder` is the adapter's."""

    audit: Audit
    selection: Selection
    folder: FolderSettings
    adapter_folder: str


def choose(command: str, audit: str, config: str | None, adapter_folder: str | None = None) -> Chosen:
    """Read the file `audit` and select from it. Ends the command: 1 if it can't be used, 2 if it can't be found.

    `adapter_folder` is where the adapter's own file is, if not beside the audit.
    """
    settings = load_settings(config)
    path = os.path.realpath(audit)  # a person may name a link; only folders are watched with suspicion
    folder = folder_for(settings, os.path.dirname(path))
    named = None if adapter_folder is None else _named_adapter(command, adapter_folder)
    try:
        parsed = _read(path, settings.watching.max_bytes, named)
    except AuditError as error:
        click.echo(f"{audit}: {error.message} [{error.code}]\n  {error.hint}", err=True)
        sys.exit(1)
    except Vanished:
        fail(f"benchd {command}: {audit}: No such file or directory")
    except OSError as error:
        fail(f"benchd {command}: {audit}: {error.strerror}")
    return Chosen(parsed, select(parsed, folder.selection), folder, adapter_folder or os.path.dirname(path))


def _named_adapter(command: str, folder: str) -> AdapterConfig:
    path = os.path.realpath(folder)
    if os.path.basename(path) == ADAPTER_CONFIG:  # the file itself will do
        path = os.path.dirname(path)
    try:
        directory = open_directory(path)
        try:
            adapter = adapter_beside(directory)
        finally:
            os.close(directory)
    except OSError as error:
        fail(f"benchd {command}: {folder}: {error.strerror}")
    if adapter is None:
        fail(f"benchd {command}: {folder}: there is no {ADAPTER_CONFIG} in this folder")
    return adapter


def _read(path: str, max_bytes: int, adapter: AdapterConfig | None) -> Audit:
    directory = open_directory(os.path.dirname(path))
    try:
        name = os.path.basename(path)
        content, _ = read_regular(directory, name, look(directory, name), max_bytes)
        adapter = adapter or adapter_beside(directory)
    finally:
        os.close(directory)
    audit = read_audit(content, name=name, adapter=adapter)
    if adapter is None or not adapter.is_costly():
        return audit
    from benchd.isolated import matchable  # noqa: PLC0415 - few adapters have patterns that need it

    return read_audit(content, name=name, adapter=matchable(audit))
