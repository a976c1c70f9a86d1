"""Watch folders for Gradience audits; write a Bench config beside each, and say why.

The library is three pure functions; the daemon is these three and a careful file system around them:

    audit = benchd.read_audit(data)
    selection = benchd.select(audit)
    config = benchd.bench_config(audit, selection)
"""

from benchd.audit import Audit, Layer, read_audit
from benchd.bench import bench_config
from benchd.rejection import AuditError, NotAnAudit
from benchd.selection import SELECTION_VERSION, Rung, SelectedLayer, Selection, select
from benchd.settings import BenchSettings, SelectionSettings

__all__ = [
    "SELECTION_VERSION",
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
    "read_audit",
    "select",
]

__version__ = "0.1.0"
