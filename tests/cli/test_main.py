"""The behaviour that all commands share."""

from __future__ import annotations

import subprocess
import sys

import pytest

from corpus import AUDITS

AUDIT = str(AUDITS / "llama4_one__default.json")


@pytest.mark.parametrize(
    "command", [["explain", AUDIT], ["export", "--peft", AUDIT], ["export", "--axolotl", AUDIT], ["config"]]
)
def test_full_output(command: list[str]) -> None:
    """If the output goes to a full disk, the last line says so, without a traceback."""
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "benchd", *command], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "benchd: can't write the output: No space left on device"
    assert "Traceback" not in ended.stderr


def test_closed_output() -> None:
    """If the reader ends early, as `head` does, the command ends without a message."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchd", "explain", AUDIT], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait()
