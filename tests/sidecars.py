"""Sidecars beside an audit, written as benchd would, and their dates."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchd import SelectionSettings, bench_config, read_audit, select
from benchd.audit.refusals import refusal
from benchd.bench.config import error_report
from daemon import config_of, report_of, until

__all__ = ["LONG_AGO", "answer", "clearly_later", "report"]

LONG_AGO = time.time() - 7200


def answer(path: Path, *, selection: SelectionSettings | None = None) -> None:
    """Write the config of the audit at `path`."""
    parsed = read_audit(path.read_bytes(), name=path.name)
    config_of(path).write_bytes(bench_config(parsed, select(parsed, selection or SelectionSettings())))


def report(path: Path, code: str = "empty", *, sha256: str | None = "0" * 64, size: int | None = 0) -> None:
    """Write an error report about the audit at `path`."""
    error = refusal(code, error="", who="", size=1, limit=1)
    report_of(path).write_bytes(error_report(path.name, error, sha256=sha256, size=size))


def clearly_later(path: Path) -> None:
    """Date the sidecars of `path` after it, as if they had been written a while later, but not in the future."""
    until(lambda: time.time_ns() - path.stat().st_ctime_ns > 60_000_000)
    for sidecar in (config_of(path), report_of(path)):
        if sidecar.exists():
            os.utime(sidecar)
