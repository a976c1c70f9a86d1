"""Configs that depend on `[bench.base]` and on an `adapter_config.json` beside the audit.

The next scan answers an audit again after each change of these, and after no other change.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchd.answering.batch import Answering
from benchd.bench.seal import unbroken
from benchd.cli import main
from benchd.folder.adapter_beside import adapter_beside
from benchd.folder.files import read_regular
from benchd.folder.folder import Folder
from benchd.folder.scan import Scan
from benchd.inbox import Ticket
from benchd.settings.keys import BenchSettings, FolderSettings
from benchd.trail.sinks import TrailFile
from benchd.trail.trail import Trail
from corpus import AUDITS
from daemon import Daemon, answers, config_of, read_json, report_of, until
from limits import no_descriptors

RSLORA = json.dumps({"peft_type": "LORA", "r": 64, "lora_alpha": 128, "use_rslora": True})
PLAIN = json.dumps({"peft_type": "LORA", "r": 64, "lora_alpha": 128, "use_rslora": False})
BASE = {
    "model": {"name": "m"},
    "task": {"dataset": "glue", "subset": "sst2"},
    "train": {"seed": 42},
    "lora": {"dropout": 0.0},
}
OPEN = {name: table for name, table in BASE.items() if name != "model"}


class Shelf:
    """A folder with audits and an `adapter_config.json`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.audit = self.add("audit.json")
        self.adapter = home / "adapter_config.json"
        self.trail = home / "trail.log"
        self.set()

    def set(self, **bench: Any) -> None:
        """Open the folder again, as a restart with these settings does."""
        settings = FolderSettings(path=str(self.home), bench=BenchSettings(**bench))
        self.folder = Folder(settings, max_bytes=2**25)

    def add(self, name: str) -> Path:
        """Add an audit and wait until it is old enough to be answered."""
        path = self.home / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((AUDITS / "r64_rslora__default.json").read_bytes())
        self.settle()
        return path

    def settle(self) -> None:
        """Wait until the next file will have a clearly later date."""
        last = max(path.stat().st_ctime_ns for path in self.home.rglob("*.json"))
        until(lambda: time.time_ns() - last > 60_000_000)

    def scan(self) -> list[str]:
        """Scan, answer the audits found, and return their names."""

        def failed(_: str, error: OSError) -> None:
            raise error

        found = sorted(Scan(self.folder, failed=failed))
        desk = Answering(Trail(TrailFile(str(self.trail))), settle=0.0)
        desk.answer([Ticket(self.folder, name, "scan") for name in found])
        self.settle()
        return [name for name in found if not name.endswith("adapter_config.json")]

    def config(self) -> dict[str, Any]:
        """Return the config."""
        assert unbroken(config_of(self.audit).read_bytes())
        return read_json(config_of(self.audit))

    def alpha(self) -> float:
        """Return the scaling (alpha / rank) of one layer in the config."""
        strategy = self.config()["compression_strategies"][1]
        [alpha, *_] = [strategy["alpha_pattern"][name] / rank for name, rank in strategy["rank_pattern"].items()]
        return float(alpha)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


class TestBase:
    def test_another_base_is_another_answer(self, shelf: Shelf):
        """Adding, changing or removing the base answers an audit again, once each."""
        assert shelf.scan() == ["audit.json"]
        for bench in ({"base": BASE}, {"base": {**BASE, "runtime": {}}}, {"base": BASE, "focus": True}, {}):
            shelf.set(**bench)
            assert shelf.scan() == ["audit.json"], bench
            assert ("model" in shelf.config()) is ("base" in bench)
            assert shelf.scan() == []
            shelf.set(**bench)
            assert shelf.scan() == []

    @pytest.mark.parametrize("bench", [{"focus": True}, {"adapter_config": True}])
    def test_settings_without_effect(self, shelf: Shelf, bench: dict[str, Any]):
        """Without a base, settings that need one cause no new answer."""
        assert shelf.scan() == ["audit.json"]
        shelf.set(**bench)
        assert shelf.scan() == []

    def test_asking_without_effect(self, shelf: Shelf):
        """`adapter_config = true` causes no new answer if the base is complete."""
        shelf.adapter.write_text(PLAIN)
        shelf.set(base=BASE)
        shelf.scan()
        shelf.set(base=BASE, adapter_config=True)
        assert shelf.scan() == []


class TestAdapter:
    def test_added_changed_removed(self, shelf: Shelf):
        """The next scan answers an audit again after `adapter_config.json` is added, changed or removed."""
        assert shelf.scan() == ["audit.json"]
        assert shelf.alpha() == 2.0
        shelf.adapter.write_text(RSLORA)
        assert shelf.scan() == ["audit.json"]
        assert shelf.alpha() == 16.0
        assert shelf.scan() == []
        shelf.adapter.write_text(PLAIN)
        assert shelf.scan() == ["audit.json"]
        assert shelf.alpha() == 2.0
        shelf.adapter.write_text(RSLORA)
        assert shelf.scan() == ["audit.json"]
        shelf.adapter.unlink()
        assert shelf.scan() == ["audit.json"]
        assert shelf.alpha() == 2.0
        assert shelf.scan() == []

    @pytest.mark.parametrize("before", [None, RSLORA])
    def test_changed_while_stopped(self, shelf: Shelf, before: str | None):
        """The first scan after a start finds a change that was made while benchd was stopped."""
        if before:
            shelf.adapter.write_text(before)
        shelf.scan()
        shelf.adapter.unlink() if before else shelf.adapter.write_text(RSLORA)
        shelf.set()
        assert shelf.scan() == ["audit.json"]

    def test_moved_in_with_an_old_date(self, shelf: Shelf):
        """A file with an old date counts once it is moved in."""
        shelf.scan()
        elsewhere = shelf.home / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "adapter_config.json").write_text(RSLORA)
        os.utime(elsewhere / "adapter_config.json", (0, 0))
        shelf.settle()
        assert shelf.scan() == []
        (elsewhere / "adapter_config.json").rename(shelf.adapter)
        assert shelf.scan() == ["audit.json"]

    def test_is_no_audit(self, shelf: Shelf):
        """A plain file changes no rank and no alpha, removes the note about its absence, and is not an audit."""
        shelf.scan()
        before = shelf.config()["compression_strategies"]
        assert "adapter_config.json beside the audit" in shelf.config()["selection"]["notes"][-1]
        shelf.adapter.write_text(PLAIN)
        assert shelf.scan() == ["audit.json"]
        assert shelf.config()["compression_strategies"] == before
        assert shelf.config()["selection"]["notes"] == []
        assert not config_of(shelf.adapter).exists()
        assert not report_of(shelf.adapter).exists()

    def test_its_own_folder_only(self, shelf: Shelf):
        """The file applies only to audits in the same folder."""
        shelf.add("below/audit.json")
        shelf.scan()
        (shelf.home / "below" / "adapter_config.json").write_text(RSLORA)
        assert shelf.scan() == ["below/audit.json"]

    def test_asked_for(self, shelf: Shelf):
        """The file supplies keys that the base lacks, so another base model gives another answer."""
        shelf.set(base=OPEN, adapter_config=True)
        assert shelf.scan() == ["audit.json"]
        assert "has model.name" in shelf.config()["selection"]["notes"][-1]
        for name in ("one", "other"):
            shelf.adapter.write_text(json.dumps({**json.loads(PLAIN), "base_model_name_or_path": name}))
            assert shelf.scan() == ["audit.json"]
            assert shelf.config()["model"] == {"name": name}
            assert shelf.config()["selection"]["notes"] == []

    def test_malformed(self, shelf: Shelf):
        """An unusable file is noted in the config and the trail until it is fixed."""
        shelf.adapter.write_text(RSLORA[:-5])
        assert shelf.scan() == ["audit.json"]
        [note] = shelf.config()["selection"]["notes"]
        assert note.startswith("adapter_config.json is not used: it is not JSON")
        lines = [json.loads(line) for line in shelf.trail.read_text(encoding="utf-8").splitlines()]
        [record] = [line for line in lines if line["event"] == "audit.selected"]
        assert record["notes"] == [note]
        assert shelf.scan() == []
        shelf.adapter.write_text(PLAIN)
        assert shelf.scan() == ["audit.json"]
        assert shelf.config()["selection"]["notes"] == []

    def test_link(self, shelf: Shelf, tmp_path: Path):
        """A symbolic link is not followed."""
        (tmp_path / "secret").write_text(RSLORA)
        shelf.adapter.symlink_to(tmp_path / "secret")
        assert shelf.scan() == ["audit.json"]
        assert "links are not followed" in shelf.config()["selection"]["notes"][0]
        assert shelf.config()["provenance"]["adapter_config"] == "symlink"
        assert shelf.alpha() == 2.0
        assert shelf.scan() == []

    def test_pipe(self, shelf: Shelf):
        """A pipe is not opened."""
        os.mkfifo(shelf.adapter)
        assert shelf.scan() == ["audit.json"]
        assert "not a regular file" in shelf.config()["selection"]["notes"][0]

    def test_too_large(self, shelf: Shelf):
        """A file of more than 1 MiB is not read."""
        shelf.adapter.write_bytes(RSLORA.encode() + b" " * 2**20)
        assert shelf.scan() == ["audit.json"]
        assert "more than 1048576 bytes" in shelf.config()["selection"]["notes"][0]
        shelf.adapter.write_bytes(RSLORA.encode().ljust(2**20))
        assert shelf.scan() == ["audit.json"]
        assert shelf.alpha() == 16.0

    def test_gone_while_it_is_read(self, shelf: Shelf):
        """A file that is deleted just before it is opened counts as missing."""
        shelf.adapter.write_text(RSLORA)

        def too_late(*arguments: Any) -> tuple[bytes, os.stat_result]:
            shelf.adapter.unlink()
            return read_regular(*arguments)

        directory = shelf.folder.open()
        try:
            assert adapter_beside(directory, too_late) is None
            assert adapter_beside(directory) is None
        finally:
            os.close(directory)

    def test_edited_config_is_kept(self, shelf: Shelf):
        """A config that a person edited stays when `adapter_config.json` appears."""
        shelf.scan()
        config = config_of(shelf.audit)
        config.write_text(config.read_text(encoding="utf-8").replace('"rank": 8', '"rank": 9'), encoding="utf-8")
        shelf.adapter.write_text(RSLORA)
        shelf.settle()
        shelf.scan()
        assert '"rank": 9' in config.read_text(encoding="utf-8")

    def test_after_a_failed_scan(self, shelf: Shelf):
        """If a scan can't list the folder, the next scan finds the change."""
        shelf.scan()
        shelf.adapter.write_text(RSLORA)
        shelf.settle()
        failures: list[OSError] = []
        found = Scan(shelf.folder, failed=lambda _, error: failures.append(error))
        with no_descriptors():
            assert list(found) == []
        assert len(failures) == 1
        assert shelf.scan() == ["audit.json"]


def test_in_a_separate_process(shelf: Shelf):
    """A very large audit, decided in a separate process, gets the same answer from the same base and adapter."""
    shelf.adapter.write_text(RSLORA)
    shelf.set(base=OPEN, adapter_config=True, focus=True)
    shelf.scan()
    before = shelf.config()
    assert shelf.alpha() == 16.0
    with shelf.audit.open("ab") as file:
        file.write(b" " * 16 * 2**20)
    shelf.settle()
    assert shelf.scan() == ["audit.json"]
    after = shelf.config()
    assert {key for key in before if before[key] != after[key]} == {"provenance"}
    for key in ("settings", "base_sha256", "adapter_config"):
        assert after["provenance"].get(key) == before["provenance"].get(key)


class TestPatterns:
    """A separate process matches keys that are regular expressions, within a limit of CPU time."""

    def test_honest(self, shelf: Shelf):
        """A regular expression matches as in PEFT."""
        shelf.adapter.write_text(json.dumps({**json.loads(PLAIN), "alpha_pattern": {r".*\.layers\.\d+\..*": 256}}))
        assert shelf.scan() == ["audit.json"]
        assert shelf.alpha() == 4.0
        assert shelf.config()["selection"]["notes"] == []
        assert shelf.scan() == []

    @pytest.mark.timeout(400)
    def test_hostile(self, shelf: Shelf):
        """If matching takes too long, the file is ignored, and the audit is still answered."""
        shelf.adapter.write_text(json.dumps({**json.loads(PLAIN), "alpha_pattern": {r"(([a-z_.0-9])+.)+\[": 256}}))
        assert shelf.scan() == ["audit.json"]
        # On a busy machine the process may not get its CPU time at the first attempts.
        until(lambda: config_of(shelf.audit).exists() or not shelf.scan(), 300, "the audit is answered")
        assert shelf.alpha() == 2.0
        [note] = shelf.config()["selection"]["notes"]
        assert note == "adapter_config.json is not used: its patterns take too long to match"
        assert shelf.scan() == []

    @pytest.mark.parametrize("command", [["explain"], ["export", "--peft"]])
    def test_commands(self, shelf: Shelf, command: list[str]):
        """Commands stop matching after the same time."""
        shelf.adapter.write_text(json.dumps({**json.loads(PLAIN), "alpha_pattern": {r"(([a-z_.0-9])+.)+\[": 256}}))
        done = CliRunner().invoke(main, [*command, str(shelf.audit)], env={"BENCHD_CONFIG": ""})
        assert done.exit_code == 0
        assert "its patterns take too long to match" in done.output


class TestUnderADaemon:
    def test_adapter(self, start: Callable[..., Daemon]):
        """A running daemon answers audits again within one scan after `adapter_config.json` changes."""
        daemon = start(watching='rescan_interval = "200ms"')
        audit = daemon.drop("audit.json", (AUDITS / "r64_rslora__default.json").read_bytes())
        until(lambda: answers(audit))
        for content in (RSLORA, PLAIN, RSLORA):
            daemon.drop("adapter_config.json", content.encode())
            expected = 16.0 if content == RSLORA else 2.0
            until(lambda expected=expected: daemon_alpha(audit) == expected, what=f"a scaling of {expected}")
        (daemon.folder / "adapter_config.json").unlink()
        until(lambda: daemon_alpha(audit) == 2.0)
        assert not daemon.records("audit.rejected")

    def test_reload(self, start: Callable[..., Daemon]):
        """SIGHUP with a new base answers audits again, and an incomplete base changes nothing."""
        daemon = start()
        audit = daemon.drop("audit.json")
        until(lambda: answers(audit))
        before = daemon.config.read_text(encoding="utf-8")
        daemon.config.write_text(f"{before}[bench.base]\nmodel = {{ name = 'm' }}\n", encoding="utf-8")
        os.kill(daemon.pid, signal.SIGHUP)
        [record] = until(lambda: daemon.records("service.reload_failed"))
        assert "bench.base.train.seed: missing" in json.dumps(record)
        assert "model" not in read_json(config_of(audit))
        tables = "\n".join(f"{name} = {toml(table)}" for name, table in BASE.items())
        daemon.config.write_text(f"{before}[bench.base]\n{tables}\n", encoding="utf-8")
        os.kill(daemon.pid, signal.SIGHUP)
        until(lambda: read_json(config_of(audit)).get("model") == {"name": "m"})


def daemon_alpha(audit: Path) -> float:
    strategy = read_json(config_of(audit))["compression_strategies"][1]
    return float(next(strategy["alpha_pattern"][name] / rank for name, rank in strategy["rank_pattern"].items()))


def toml(table: dict[str, Any]) -> str:
    """Return a table as inline TOML."""
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + " }"
