"""Read the `adapter_config.json` beside an audit. It is untrusted input, like the audit."""

from __future__ import annotations

from collections.abc import Callable

from benchd.audit.adapter import ADAPTER_CONFIG, MAX_ADAPTER_CONFIG, AdapterConfig, read_adapter_config, unusable
from benchd.audit.refusals import AuditError
from benchd.folder.files import Vanished, look, read_regular, seems_there

__all__ = ["adapter_beside"]


def adapter_beside(directory: int, read: Callable[..., tuple[bytes, object]] = read_regular) -> AdapterConfig | None:
    """Return the `adapter_config.json` in an open directory, or None if it is absent.

    `read` reads the file. Raises OSError as `read_regular` does.
    """
    if not seems_there(directory, ADAPTER_CONFIG):
        return None
    try:
        info = look(directory, ADAPTER_CONFIG)
        return read_adapter_config(read(directory, ADAPTER_CONFIG, info, MAX_ADAPTER_CONFIG)[0])
    except Vanished:
        return None
    except AuditError as error:
        return unusable(error.code)
