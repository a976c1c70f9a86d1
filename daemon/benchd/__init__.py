"""Watch folders for Gradience audits; write a Bench config beside each, and say why.

The library is three pure functions; the daemon is these three and a careful file system around them:

    audit = benchd.read_audit(data)
    selection = benchd.select(audit)
    config = benchd.bench_config(audit, selection)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchd.adapter import AdapterConfig, read_adapter_config
    from benchd.audit import Audit, Layer, read_audit
    from benchd.bench import bench_config
    from benchd.rejection import AuditError, NotAnAudit
    from benchd.selection import SELECTION_VERSION, Rung, SelectedLayer, Selection, select
    from benchd.settings import BenchSettings, SelectionSettings

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

__version__ = "0.1.0"

#: Where each public name comes from. Imported when it is asked for: the commands start faster without the rest.
_HOMES = {
    "SELECTION_VERSION": "selection",
    "AdapterConfig": "adapter",
    "Audit": "audit",
    "AuditError": "rejection",
    "BenchSettings": "settings",
    "Layer": "audit",
    "NotAnAudit": "rejection",
    "Rung": "selection",
    "SelectedLayer": "selection",
    "Selection": "selection",
    "SelectionSettings": "settings",
    "bench_config": "bench",
    "read_adapter_config": "adapter",
    "read_audit": "audit",
    "select": "selection",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
