"""The version that the build writes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

TOP = Path(__file__).parents[2]
SOURCES = TOP / "daemon"


def test_sources_without_a_build(tmp_path: Path) -> None:
    """Reports version 0.0.0 if the sources were never built or installed."""
    shutil.copytree(SOURCES, tmp_path / "daemon", ignore=shutil.ignore_patterns("_version.py", "__pycache__"))
    done = subprocess.run(
        [sys.executable, "-m", "benchd", "--version"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "daemon")}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "benchd 0.0.0\n"


def test_version_without_tags() -> None:
    """A clone without tags counts from the last release in the changelog, so its version is not below that."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))
    releases = re.findall(r"^## (\d+\.\d+\.\d+)", (TOP / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert project["tool"]["hatch"]["version"]["fallback-version"] == releases[0]
