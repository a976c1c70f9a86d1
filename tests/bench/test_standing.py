"""Whether a sidecar still answers an audit under the present settings."""

from __future__ import annotations

import os
from typing import Any

import pytest

from benchd.bench.seal import Provenance
from benchd.bench.standing import SidecarCheck
from benchd.selection.selection import SELECTION_VERSION
from benchd.settings.keys import BenchSettings, SelectionSettings
from benchd.values import utf8

NAME, SIZE = "audit.json", 100


def sidecar(**changes: Any) -> Provenance:
    known = {"audit": NAME, "audit_sha256": "0", "audit_bytes": SIZE, "selection_version": SELECTION_VERSION}
    return Provenance(**{**known, "settings": {}, **changes})


def check(*, max_bytes: int = 1000, base: dict[str, Any] | None = None, **selection: Any) -> SidecarCheck:
    bench = BenchSettings() if base is None else BenchSettings(base=base)
    return SidecarCheck(SelectionSettings(**selection), bench, max_bytes=max_bytes)


def holds(provenance: Provenance, *, name: str = NAME, adapter: str | None = None, **settings: Any) -> bool:
    return check(**settings).config_holds(provenance, name=name, size=SIZE, adapter=adapter)


class TestConfig:
    def test_holds(self) -> None:
        """A config for this name, size and version holds."""
        assert holds(sidecar())

    @pytest.mark.parametrize(
        "changes",
        [
            {"audit": "other.json"},
            {"audit_bytes": SIZE + 1},
            {"selection_version": SELECTION_VERSION + 1},
            {"selection_version": None},
            {"settings": None},
            {"settings": {"selection.top_n": 1}},
            {"settings": {"bench.base": "0"}},
            {"adapter_config": "0"},
        ],
        ids="-".join,
    )
    def test_does_not_hold(self, changes: dict[str, Any]) -> None:
        """A config for another audit, or made in another way, does not hold."""
        assert not holds(sidecar(**changes))

    def test_of_any_size(self) -> None:
        """A sidecar that has no size holds for any."""
        assert holds(sidecar(audit_bytes=None))

    def test_settings_that_shaped_it(self) -> None:
        """Only the settings that shaped a config have to be the same now."""
        assert holds(sidecar(), top_n=1)
        assert holds(sidecar(settings={"selection.top_n": 1}), top_n=1, low_priority=0.5)
        assert not holds(sidecar(settings={"selection.top_n": 1}), top_n=2)

    def test_adapter(self) -> None:
        """The `adapter_config.json` has to be the same now, or absent as it was."""
        assert holds(sidecar(adapter_config="a"), adapter="a")
        assert not holds(sidecar(adapter_config="a"), adapter="b")
        assert not holds(sidecar(), adapter="a")

    def test_base(self) -> None:
        """A config without a base does not hold with one."""
        assert not holds(sidecar(), base={"model": {"name": "m"}})

    def test_name_that_is_not_utf8(self) -> None:
        """A name of other bytes is compared as the sidecar shows it."""
        name = os.fsdecode(b"caf\xe9.json")
        assert holds(sidecar(audit=utf8(name)), name=name)
        assert holds(sidecar(audit=name), name=name)


class TestReport:
    @pytest.mark.parametrize(
        ("code", "limit", "expected"),
        [
            ("empty", 1000, True),
            ("unreadable", 1000, False),
            ("too_large", SIZE - 1, True),
            ("too_large", SIZE, False),
        ],
    )
    def test_codes(self, code: str, limit: int, expected: bool) -> None:
        """A report holds unless the file may be readable by now, or small enough."""
        report = sidecar(code=code, settings=None)
        assert check(max_bytes=limit).report_holds(report, name=NAME, size=SIZE) is expected

    def test_of_another_audit(self) -> None:
        """A report about another audit does not hold."""
        assert not check().report_holds(sidecar(audit="other.json", code="empty"), name=NAME, size=SIZE)
