"""The version that the build writes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "daemon"


def test_sources_without_a_build(tmp_path: Path) -> None:
    """Reports version 0.0.0 if the sources were never built or installed."""
    shutil.copytree(SOURCES, tmp_path / "daemon", ignore=shutil.ignore_patterns("_version.py", "__pycache__"))
    done = subprocess.run(
        [sys.executable, "-m", "benchd", "--version"],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "daemon")}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "benchd 0.0.0\n"
