"""The files that are generated from declarations in the code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parents[2]
SCHEMA = Path("daemon", "benchd", "schemas", "trail-record.schema.json")


def generate(top: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, top / "tools" / "generate.py", *options]
    environment = {**os.environ, "PYTHONPATH": str(top / "daemon")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_generated_files_are_current() -> None:
    """`tools/generate.py --check` finds no stale file."""
    done = generate(TOP, "--check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_stale_files(tmp_path: Path) -> None:
    """`--check` names stale and missing files and leaves them; without it they are written again."""
    for folder in ("tools", "docs", "daemon"):
        shutil.copytree(TOP / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(TOP / "config.toml", tmp_path)
    page = tmp_path / "docs" / "trail.md"
    whole = page.read_text(encoding="utf-8")
    page.write_text(whole.replace("### `audit.selected`", "### `audit.chosen`"), encoding="utf-8")
    (tmp_path / SCHEMA).unlink()
    done = generate(tmp_path, "--check")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [f"{name}: stale; run `make generate`" for name in (SCHEMA, "docs/trail.md")]
    assert not (tmp_path / SCHEMA).exists()
    assert generate(tmp_path).returncode == 0
    assert page.read_text(encoding="utf-8") == whole
    assert (tmp_path / SCHEMA).read_bytes() == (TOP / SCHEMA).read_bytes()
