"""Read one audit that the command line names, and select its layers. Mistakes end the command."""

from __future__ import annotations

import os
import stat
import sys
from typing import NamedTuple

import click

from benchd.audit.adapter import ADAPTER_CONFIG, MAX_ADAPTER_CONFIG, AdapterConfig, read_adapter_config, unusable
from benchd.audit.audit import Audit, read_audit
from benchd.audit.refusals import AuditError, NotAnAudit
from benchd.cli.loading import fail, load_settings
from benchd.folder.adapter_beside import adapter_beside
from benchd.folder.files import Vanished, look, open_directory, read_regular
from benchd.selection.ladder import select
from benchd.selection.selection import Selection
from benchd.settings.keys import FolderSettings
from benchd.settings.reading import folder_for

__all__ = ["Chosen", "choose"]


class Chosen(NamedTuple):
    """An audit with its selection, the settings for its folder, and the path of its adapter's folder."""

    audit: Audit
    selection: Selection
    folder: FolderSettings
    adapter_folder: str


def choose(command: str, audit: str, config: str | None, adapter_folder: str | None = None) -> Chosen:
    """Read the file `audit` and select its layers. End the command with 1 if it can't be used, with 2 if it is missing.

    `adapter_folder` contains the adapter's own file; by default it is the audit's folder. If that file can't be used,
    the command ends with 2.
    """
    settings = load_settings(config)
    path = os.path.realpath(audit)  # a user may name a link; only files in watched folders are not trusted
    folder = folder_for(settings, os.path.dirname(path))
    try:
        parsed = _read(path, settings.watching.max_bytes, adapter_folder, command)
    except AuditError as error:
        hint = "name the file that `gradience audit --json` wrote" if isinstance(error, NotAnAudit) else error.hint
        click.echo(f"{audit}: {error.message} [{error.code}]\n  {hint}", err=True)
        sys.exit(1)
    except Vanished:
        fail(f"benchd {command}: {audit}: No such file or directory")
    except OSError as error:
        fail(f"benchd {command}: {audit}: {error.strerror}")
    problem = parsed.modules.adapter_problem
    if adapter_folder is not None and problem is not None and not parsed.is_of_nothing:
        fail(f"benchd {command}: --adapter {adapter_folder}: {ADAPTER_CONFIG} can't be used: {problem}")
    home = os.path.dirname(path) if adapter_folder is None else _folder_of(adapter_folder)
    return Chosen(parsed, select(parsed, folder.selection), folder, home)


def _folder_of(adapter: str) -> str:
    """Return the folder of an adapter, given the folder or the file in it."""
    return os.path.dirname(adapter) or "." if os.path.basename(adapter) == ADAPTER_CONFIG else adapter


def _named_adapter(command: str, adapter: str) -> AdapterConfig:
    """Return the file of an adapter that the user named. Follow links, because a download cache has them."""
    path = os.path.join(_folder_of(adapter), ADAPTER_CONFIG)
    try:
        if not adapter:
            fail(f"benchd {command}: --adapter: the name is empty")
        if os.path.isdir(_folder_of(adapter)) and not os.path.exists(path):
            fail(f"benchd {command}: --adapter {adapter}: there is no {ADAPTER_CONFIG} in this folder")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        fail(f"benchd {command}: --adapter {adapter}: {error.strerror}")
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return unusable("not_a_regular_file")
        content = file.read(MAX_ADAPTER_CONFIG + 1)
    return unusable("too_large") if len(content) > MAX_ADAPTER_CONFIG else read_adapter_config(content)


def _read(path: str, max_bytes: int, named: str | None, command: str) -> Audit:
    directory = open_directory(os.path.dirname(path))
    try:
        name = os.path.basename(path)
        content, _ = read_regular(directory, name, look(directory, name), max_bytes)
        adapter = adapter_beside(directory) if named is None else _named_adapter(command, named)
    finally:
        os.close(directory)
    audit = read_audit(content, name=name, adapter=adapter)
    if adapter is None or not adapter.is_costly():
        return audit
    from benchd.answering.sandbox import matchable  # noqa: PLC0415 - few adapters have patterns that need it

    return read_audit(content, name=name, adapter=matchable(audit))
