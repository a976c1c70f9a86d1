"""The benchmarks still run. What they measure is no matter of tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("latency.py", ["--seconds", "0.2", "--repeats", "1"]),
        ("throughput.py", ["--count", "5", "--repeats", "1"]),
        ("startup.py", ["--repeats", "1"]),
    ],
)
def test_runs(script: str, arguments: list[str], tmp_path: Path) -> None:
    """A short form of each ends well and prints a table."""
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, *arguments],
        capture_output=True, text=True, check=False, timeout=100, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "|---|" in done.stdout
