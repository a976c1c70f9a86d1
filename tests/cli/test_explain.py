"""`benchd explain`, and the behaviour of all commands."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import click
import pytest
from click.testing import Result

from benchd import __version__
from commands import invoke
from daemon import AUDITS, DESIGN, audit


def benchd(*arguments: str | Path) -> Result:
    """Run `benchd` in this process."""
    return invoke(*arguments)


def explain(*arguments: str | Path) -> str:
    result = benchd("explain", *arguments)
    assert result.exit_code == 0, result.output
    return result.output


class TestExplain:
    def test_flagged(self):
        """The plan has the rung that fired, each layer's thresholds, and advice."""
        text = explain(DESIGN / "flagged.json")
        assert "✓ flagged (high confidence)" in " ".join(text.split())
        assert "not tried" in text
        assert "HIGH" in text
        assert "validate per layer" in text
        assert "k_values" in text

    def test_hundreds_of_layers(self, tmp_path: Path):
        """The first layers of hundreds are shown, with the number of the others."""
        path = tmp_path / "large.json"
        path.write_bytes(gzip.decompress((AUDITS / "qwen2moe__default.json.gz").read_bytes()))
        assert "… and 633 more; --json lists all layers" in explain(path)
        assert len(json.loads(explain(path, "--json"))["layers"]) == 683

    def test_narrow_terminal(self):
        """On 80 columns each layer takes a few separate lines, without a break inside a name."""
        command = [sys.executable, "-m", "benchd", "explain", str(AUDITS / "llama4_hier0__default.json")]
        environment = {**os.environ, "NO_COLOR": "1", "TERM": "xterm"}
        leader, follower = pty.openpty()
        termios.tcsetwinsize(follower, (40, 80))
        with subprocess.Popen(command, stdout=follower, env=environment) as process:
            os.close(follower)
            text = b""
            with contextlib.suppress(OSError):  # reading at the end of a terminal is an error
                while part := os.read(leader, 4096):
                    text += part
        os.close(leader)
        assert process.returncode == 0
        lines = click.unstyle(text.decode()).splitlines()
        assert max(map(len, lines)) <= 80
        assert " 1  model.layers.1.mlp.gate_proj" in lines
        assert any("not flagged: spread too small, share below the quantile" in line for line in lines)

    def test_fallback(self):
        """For a flat distribution the ladder shows why the first rung did not fire."""
        text = explain(DESIGN / "fallback.json")
        assert "priority_score (medium confidence)" in text
        assert "0 of 4 layers are flagged" in text

    @pytest.mark.parametrize(
        "name",
        [
            "mistral4_flat__default.json",
            "llama2_zero__default.json",
            "llama4_many__gatenan.json",
            "llama4_many__gateinf.json",
            "llama4_many__full.json",
            "r1_nan__default.json",
            "trained_llama8__default.json",
            "unicode__default.json",
            "multi_raw__default.json",
        ],
    )
    def test_real_audits(self, name: str):
        """Every kind of real audit is explained with its rungs and the layers of the rung that fired."""
        text = explain(AUDITS / name)
        for rung in ("flagged", "priority_score", "disagreement", "none"):
            assert rung in text
        assert "Recommendations" in text

    def test_nothing_selected(self):
        """If no layer is selected, the ladder shows why, and there is no table of layers."""
        text = explain(AUDITS / "llama4_many__pol_empty.json")
        assert "no_disagreements" in text
        assert "Recommendations" not in text

    def test_many_layers(self, tmp_path: Path):
        """Some of many layers with one priority are named, and the others are counted."""
        document = json.loads(audit(1))
        analysis = document["policy_disagreement_analysis"]
        entry = analysis["flagged_layers"][0]
        analysis["flagged_layers"] = [{**entry, "layer_name": f"model.layers.{number}"} for number in range(12)]
        (tmp_path / "a.json").write_text(json.dumps(document), encoding="utf-8")
        assert "and 4 more" in explain(tmp_path / "a.json")

    def test_notes(self):
        """Unusual facts about the audit are printed as notes."""
        assert "note: " in explain(AUDITS / "llama4_many__gatenan.json")

    def test_json(self):
        """The JSON is one object with the content of the config."""
        found = json.loads(explain(DESIGN / "fallback.json", "--json"))
        assert found["strategy"] == "priority_score"
        assert [rung["strategy"] for rung in found["ladder"]] == ["flagged", "priority_score"]
        assert {name for group in found["recommendations"] for name in group["layers"]} == {
            layer["layer_name"] for layer in found["layers"]
        }
        assert found["compression_strategies"][0]["variant"] == "uniform"

    def test_settings(self, tmp_path: Path):
        """The settings affect the plan, and those of the watched folder take precedence."""
        config = tmp_path / "config.toml"
        config.write_text(
            '[selection]\ntop_n = 2\n[[watch]]\npath = "inbox"\n[watch.selection]\ntop_n = 1\n', encoding="utf-8"
        )
        (tmp_path / "inbox").mkdir()
        for path in (tmp_path / "a.json", tmp_path / "inbox" / "a.json"):
            path.write_bytes(audit(1, flagged=False))
        count = [
            len(json.loads(explain(path, "--json", "--config", config))["layers"])
            for path in (tmp_path / "a.json", tmp_path / "inbox" / "a.json")
        ]
        assert count == [2, 1]

    def test_writes_nothing(self, tmp_path: Path):
        """The folder is not changed."""
        (tmp_path / "a.json").write_bytes(audit(1))
        explain(tmp_path / "a.json")
        assert [path.name for path in tmp_path.iterdir()] == ["a.json"]

    def test_rejected(self, tmp_path: Path):
        """A file that can't be used gives exit code 1, with message, code and hint."""
        (tmp_path / "a.json").write_bytes(b"Error: Audit failed: no adapter\n")
        result = benchd("explain", tmp_path / "a.json")
        assert result.exit_code == 1
        assert "no adapter [audit_failed]" in result.stderr
        assert len(result.stderr.splitlines()) == 2

    def test_no_audit(self, tmp_path: Path):
        """JSON that is not an audit is refused."""
        (tmp_path / "a.json").write_bytes(b'{"peft_type": "LORA"}')
        result = benchd("explain", tmp_path / "a.json")
        assert result.exit_code == 1
        assert "not an audit" in result.stderr

    @pytest.mark.parametrize("name", ["missing.json", "missing/a.json", "a.json/b.json"])
    def test_missing(self, tmp_path: Path, name: str):
        """A missing file is a usage error."""
        (tmp_path / "a.json").touch()
        result = benchd("explain", tmp_path / name)
        assert result.exit_code == 2
        assert result.stderr.startswith("benchd explain: ")
        assert len(result.stderr.splitlines()) == 1


class TestCommands:
    def test_help(self):
        """Without a command benchd lists all commands, one on each line."""
        for arguments in (["--help"], ["-h"]):
            result = benchd(*arguments)
            assert result.exit_code == 0
            for name in ("watch", "run", "explain", "config"):
                assert f"  {name} " in result.output
                assert benchd(name, "--help").exit_code == 0

    def test_version(self):
        """`--version` prints name and version."""
        assert benchd("--version").output == f"benchd {__version__}\n"

    def test_unknown_command(self):
        """An unknown command is a usage error."""
        result = benchd("wach")
        assert result.exit_code == 2
        assert "No such command" in result.stderr
