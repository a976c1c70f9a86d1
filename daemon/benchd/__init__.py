"""Watch folders for Gradience audits, write a Bench config beside each audit, and record why.

The library has three pure functions. The daemon calls them and adds careful file handling:

    audit = benchd.read_audit(data)
    selection = benchd.select(audit)
    config = benchd.bench_config(audit, selection)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchd.audit.adapter import AdapterConfig, read_adapter_config
    from benchd.audit.audit import Audit, read_audit
    from benchd.audit.layers import Layer
    from benchd.audit.refusals import AuditError, NotAnAudit
    from benchd.bench.config import bench_config
    from benchd.selection.ladder import select
    from benchd.selection.selection import SELECTION_VERSION, Rung, SelectedLayer, Selection
    from benchd.settings.keys import BenchSettings, SelectionSettings

__all__ = [
    "SELECTION_VERSION",
    "AdapterConfig",
    "Audit",
    "AuditError",
    "BenchSettings",
    "Layer",
    "NotAnAudit",
    "Rung",
    "SelectedLayer",
    "Selection",
    "SelectionSettings",
    "__version__",
    "bench_config",
    "read_adapter_config",
    "read_audit",
    "select",
]

try:
    from benchd._version import __version__
except ImportError:  # sources that were never installed
    __version__ = "0.0.0"

#: The module of each public name. A name is imported at its first access, so that commands start faster.
_HOMES = {
    "SELECTION_VERSION": "selection.selection",
    "AdapterConfig": "audit.adapter",
    "Audit": "audit.audit",
    "AuditError": "audit.refusals",
    "BenchSettings": "settings.keys",
    "Layer": "audit.layers",
    "NotAnAudit": "audit.refusals",
    "Rung": "selection.selection",
    "SelectedLayer": "selection.selection",
    "Selection": "selection.selection",
    "SelectionSettings": "settings.keys",
    "bench_config": "bench.config",
    "read_adapter_config": "audit.adapter",
    "read_audit": "audit.audit",
    "select": "selection.ladder",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
