"""Standing: whether an audit is answered, by its dates and those of its sidecars."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchd.folder.adapter_beside import adapter_beside
from benchd.folder.files import look, read_sidecar
from benchd.folder.folder import Folder
from benchd.folder.names import config_name, error_name
from benchd.folder.standing import CLEARLY_NS, Beside, Standing
from benchd.settings.keys import SelectionSettings
from daemon import audit, config_of, report_of
from sidecars import LONG_AGO, answer, clearly_later, report

Make = Callable[..., Folder]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "audit.json"
    path.write_bytes(audit(1, flagged=False))
    return path


def standing(folder: Folder, name: str = "audit.json") -> Standing:
    """Return the standing of the audit `name`."""
    directory = folder.open()
    try:
        config, error = (read_sidecar(directory, of(name)) for of in (config_name, error_name))
        found, provenance = folder.standing(
            name, look(directory, name), Beside(config, error, adapter_beside(directory))
        )
        assert (provenance is None) is (found is Standing.OPEN)
        return found
    finally:
        os.close(directory)


def test_without_sidecar(make: Make, path: Path) -> None:
    """An audit without a sidecar is open."""
    assert standing(make()) is Standing.OPEN


def test_answered(make: Make, path: Path) -> None:
    """A clearly later config for the same size and settings answers an audit without its hash."""
    answer(path)
    clearly_later(path)
    assert standing(make()) is Standing.ANSWERED


class TestDates:
    @pytest.mark.parametrize(
        ("later", "expected"),
        [(0, Standing.IN_DOUBT), (CLEARLY_NS, Standing.IN_DOUBT), (CLEARLY_NS + 1, Standing.ANSWERED)],
    )
    def test_of_nearly_the_same_moment(self, make: Make, path: Path, later: int, expected: Standing) -> None:
        """If the dates are less than 50 ms apart, the standing is in doubt."""
        answer(path)
        clearly_later(path)
        date = path.stat().st_ctime_ns + later
        os.utime(config_of(path), ns=(date, date))
        assert standing(make()) is expected

    def test_in_the_future(self, make: Make, path: Path) -> None:
        """A sidecar with a date in the future proves nothing."""
        answer(path)
        os.utime(config_of(path), (time.time() + 3600,) * 2)
        assert standing(make()) is Standing.IN_DOUBT

    def test_moved_in_with_an_old_mtime(self, make: Make, path: Path, tmp_path: Path) -> None:
        """The ctime proves that an audit came after its sidecar, because `mv` and `cp -p` keep the mtime."""
        answer(path)
        clearly_later(path)
        other = tmp_path / "other"
        other.write_bytes(audit(2, flagged=False))
        os.utime(other, (LONG_AGO, LONG_AGO))
        os.rename(other, path)
        assert standing(make()) is Standing.IN_DOUBT

    def test_config_in_doubt_beside_a_report(self, make: Make, path: Path) -> None:
        """A clearly later report answers, although the config is in doubt."""
        answer(path)
        report(path, size=path.stat().st_size)
        clearly_later(path)
        os.utime(config_of(path), (LONG_AGO, LONG_AGO))
        assert standing(make()) is Standing.ANSWERED

    def test_both_in_doubt(self, make: Make, path: Path, directory: int) -> None:
        """If both sidecars are in doubt, the config's provenance is returned."""
        answer(path)
        report(path, size=path.stat().st_size)
        for sidecar in (config_of(path), report_of(path)):
            os.utime(sidecar, (LONG_AGO, LONG_AGO))
        beside = Beside(*(read_sidecar(directory, of(path.name)) for of in (config_name, error_name)))
        found, provenance = make().standing(path.name, path.stat(), beside)
        assert (found, provenance.code) == (Standing.IN_DOUBT, None)

    def test_report_without_a_hash(self, make: Make, path: Path) -> None:
        """If the dates prove nothing and the report has no hash, the audit is open."""
        report(path, "symlink", sha256=None, size=None)
        os.utime(report_of(path), (LONG_AGO, LONG_AGO))
        assert standing(make()) is Standing.OPEN


class TestSidecarsThatDoNotHold:
    @pytest.mark.parametrize("name", ["audit", "copied.json"])
    def test_of_another_audit(self, make: Make, path: Path, tmp_path: Path, name: str) -> None:
        """A sidecar that names another audit answers nothing, even if the size is the same."""
        answer(path)
        other = tmp_path / name
        other.write_bytes(audit(2, flagged=False))
        if config_of(other) != config_of(path):
            config_of(other).write_bytes(config_of(path).read_bytes())
        clearly_later(other)
        assert standing(make(), name) is Standing.OPEN

    def test_other_size(self, make: Make, path: Path) -> None:
        """A sidecar for another size answers nothing."""
        answer(path)
        with path.open("ab") as file:
            file.write(b"\n")
        clearly_later(path)
        assert standing(make()) is Standing.OPEN

    @pytest.mark.parametrize(
        ("setting", "expected"),
        [({"top_n": 1}, Standing.OPEN), ({"low_priority": 0.0}, Standing.OPEN), ({"top_n": 3}, Standing.ANSWERED)],
    )
    def test_other_settings(self, make: Make, path: Path, setting: dict[str, Any], expected: Standing) -> None:
        """A config for other settings does not answer."""
        answer(path)
        clearly_later(path)
        assert standing(make(selection=SelectionSettings(**setting))) is expected

    def test_adapter_beside(self, make: Make, path: Path, tmp_path: Path) -> None:
        """A config for another `adapter_config.json` does not answer."""
        answer(path)
        clearly_later(path)
        (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
        assert standing(make()) is Standing.OPEN

    def test_foreign_file(self, make: Make, path: Path) -> None:
        """JSON, a folder or a link that benchd did not write does not answer."""
        config_of(path).write_bytes(b'{"provenance": 3}')
        report_of(path).mkdir()
        assert standing(make()) is Standing.OPEN


@pytest.mark.parametrize(
    ("code", "limit", "expected"),
    [
        ("empty", 10**6, Standing.ANSWERED),
        ("unreadable", 10**6, Standing.OPEN),
        ("too_large", 10, Standing.ANSWERED),
        ("too_large", 10**6, Standing.OPEN),
    ],
)
def test_rejected(make: Make, path: Path, code: str, limit: int, expected: Standing) -> None:
    """A report answers too, unless changed permissions or settings may make the file usable."""
    report(path, code, size=path.stat().st_size)
    clearly_later(path)
    assert standing(make(max_bytes=limit)) is expected
