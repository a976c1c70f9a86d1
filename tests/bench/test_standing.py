"""Validity of a sidecar: content, settings, adapter and selection version."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from benchd.audit.adapter import read_adapter_config
from benchd.audit.audit import read_audit
from benchd.audit.refusals import AuditError
from benchd.bench.config import bench_config, error_report
from benchd.bench.seal import Provenance, provenance_of
from benchd.bench.standing import SidecarCheck
from benchd.selection.ladder import select
from benchd.settings.keys import BenchSettings, SelectionSettings
from daemon import DESIGN

AUDIT = (DESIGN / "fallback.json").read_bytes()
ADAPTER = read_adapter_config(b"{}")
BASE: dict[str, Any] = {"model": {"name": "m"}}


def config(
    *,
    selection: SelectionSettings | None = None,
    bench: BenchSettings | None = None,
    name: str = "audit.json",
    adapter: bool = False,
) -> Provenance:
    """Return the provenance in the config for `AUDIT`."""
    audit = read_audit(AUDIT, name=name, adapter=ADAPTER if adapter else None)
    found = provenance_of(bench_config(audit, select(audit, selection), bench))
    assert found is not None
    return found


def report(code: str, size: int = 10) -> Provenance:
    """Return the provenance in an error report."""
    error = AuditError(code, "message", "hint")
    found = provenance_of(error_report("audit.json", error, sha256="0" * 64, size=size))
    assert found is not None
    return found


def holds(
    sidecar: Provenance,
    *,
    selection: SelectionSettings | None = None,
    bench: BenchSettings | None = None,
    name: str = "audit.json",
    size: int = len(AUDIT),
    adapter: str | None = None,
) -> bool:
    """Return whether the config is still valid for the audit."""
    check = SidecarCheck(selection or SelectionSettings(), bench or BenchSettings(), max_bytes=100)
    return check.config_holds(sidecar, name=name, size=size, adapter=adapter)


def test_holds() -> None:
    """A config is valid for the audit and the settings that it was made from."""
    assert holds(config())


@pytest.mark.parametrize("change", [{"name": "other.json"}, {"size": 1}, {"adapter": "another"}])
def test_another_audit(change: dict[str, Any]) -> None:
    """A config is not valid for another name, size or adapter."""
    assert not holds(config(), **change)


def test_name_that_is_not_utf8() -> None:
    """A sidecar has the escaped form of a name that is not UTF-8."""
    assert holds(config(name="a\udcff.json"), name="a\udcff.json")


def test_adapter() -> None:
    """A config that used an adapter's own file is valid only with this file."""
    assert holds(config(adapter=True), adapter=ADAPTER.token)
    assert not holds(config(adapter=True))


def test_settings_that_affected_it() -> None:
    """A config becomes invalid only if a setting changes that affected it."""
    assert not holds(config(), selection=SelectionSettings(top_n=1))
    assert not holds(config(), bench=BenchSettings(uniform_rank=4))
    assert holds(config(selection=SelectionSettings(top_n=1)), selection=SelectionSettings(top_n=1))
    assert holds(config(), bench=BenchSettings(durable=False, focus=True))


def test_base() -> None:
    """A config with Bench's tables is not valid without them, and the reverse."""
    assert holds(config(bench=BenchSettings(base=BASE)), bench=BenchSettings(base=BASE))
    assert not holds(config(bench=BenchSettings(base=BASE)))
    assert not holds(config(), bench=BenchSettings(base=BASE))


def test_without_settings() -> None:
    """A config without recorded settings is not valid."""
    assert not holds(msgspec.structs.replace(config(), settings=None))


def test_selection_version() -> None:
    """A config of another selection version is not valid."""
    assert not holds(msgspec.structs.replace(config(), selection_version=1))


@pytest.mark.parametrize(
    ("sidecar", "size", "expected"),
    [
        (report("empty"), 10, True),
        (report("empty"), 11, False),
        (msgspec.structs.replace(report("empty"), audit_bytes=None), 11, True),
        (report("too_large", 101), 101, True),
        (report("too_large", 100), 100, False),
        (report("unreadable"), 10, False),
    ],
)
def test_report(sidecar: Provenance, size: int, expected: bool) -> None:
    """A report is valid for a file of its size, unless reading it again may succeed."""
    check = SidecarCheck(SelectionSettings(), BenchSettings(), max_bytes=100)
    assert check.report_holds(sidecar, name="audit.json", size=size) is expected
