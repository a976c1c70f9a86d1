"""Files that come from declarations in the code are as the generator writes them."""

import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parents[2]


def test_generated_files_are_current():
    """Each generated file is committed as `make generate` writes it."""
    command = [sys.executable, "tools/generate.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=TOP)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
