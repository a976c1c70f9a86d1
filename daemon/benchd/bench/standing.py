"""Decide whether a sidecar is still the right answer to an audit under the present settings. Pure.

The folder compares the time stamps of the two files.
"""

from __future__ import annotations

from typing import Final

import msgspec

from benchd.audit.values import utf8
from benchd.bench.seal import Provenance
from benchd.bench.tables import base_used
from benchd.selection.selection import SELECTION_VERSION
from benchd.settings.keys import BenchSettings, SelectionSettings

__all__ = ["SidecarCheck"]

#: Codes of error reports that are never valid: the file may be readable now, although it is unchanged.
_TRY_AGAIN: Final = frozenset({"unreadable"})


class SidecarCheck:
    """Checks the provenance of sidecars against the settings of one folder.

    `max_bytes` is `watching.max_bytes`. A `too_large` report stays valid only while the file is larger.
    """

    def __init__(self, selection: SelectionSettings, bench: BenchSettings, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._settings = {
            **{f"selection.{key}": value for key, value in msgspec.structs.asdict(selection).items()},
            "bench.uniform_rank": bench.uniform_rank,
            **base_used(bench),
        }

    def config_holds(self, config: Provenance, *, name: str, size: int, adapter: str | None) -> bool:
        """Return whether a config is still valid for the audit `name` of `size` bytes.

        `adapter` is the token of the `adapter_config.json` beside the audit, or None without such a file.
        """
        return self._holds(config, name, size) and config.adapter_config == adapter and self._has_same_settings(config)

    def report_holds(self, report: Provenance, *, name: str, size: int) -> bool:
        """Return whether an error report is still valid for the audit `name` of `size` bytes."""
        return self._holds(report, name, size)

    def _holds(self, sidecar: Provenance, name: str, size: int) -> bool:
        # A copied sidecar names another audit. So does the sidecar of `x` beside `x.json`.
        if sidecar.audit != name and sidecar.audit != utf8(name):
            return False
        if sidecar.selection_version != SELECTION_VERSION or sidecar.code in _TRY_AGAIN:
            return False
        if sidecar.code == "too_large" and size <= self._max_bytes:
            return False
        return sidecar.audit_bytes is None or sidecar.audit_bytes == size

    def _has_same_settings(self, config: Provenance) -> bool:
        """Return whether the settings that affected a config have the same values now."""
        used = config.settings
        if used is None or used.get("bench.base") != self._settings.get("bench.base"):
            return False
        return used.items() <= self._settings.items()
