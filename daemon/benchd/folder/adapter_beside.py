"""The `adapter_config.json` that lies beside an audit, read as everything there is: without trust."""

from __future__ import annotations

import os

from benchd.audit.adapter import ADAPTER_CONFIG, MAX_ADAPTER_CONFIG, AdapterConfig, read_adapter_config, unusable
from benchd.audit.refusals import AuditError
from benchd.folder.files import Vanished, read_regular, seems_there

__all__ = ["adapter_beside"]


def adapter_beside(directory: int) -> AdapterConfig | None:
    """The `adapter_config.json` in an open directory, or None where there is none. Raises OSError as `read_regular`."""
    if not seems_there(directory, ADAPTER_CONFIG):
        return None
    try:
        info = os.stat(ADAPTER_CONFIG, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    try:
        return read_adapter_config(read_regular(directory, ADAPTER_CONFIG, info, MAX_ADAPTER_CONFIG)[0])
    except Vanished:
        return None
    except AuditError as error:
        return unusable(error.code)
