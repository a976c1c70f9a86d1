"""`make install` refuses folders with other content."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


def script(name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", TOP / "systemd" / name], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(shutil.which("python3", path="/usr/bin") is None, reason="needs the system's own Python")
def test_a_folder_of_others_is_not_replaced(tmp_path: Path) -> None:
    """Install and uninstall refuse a PREFIX that holds other files, and change nothing in it."""
    precious = tmp_path / "usr" / "local" / "bin" / "precious"
    precious.parent.mkdir(parents=True)
    precious.touch()
    environment = {
        "DESTDIR": str(tmp_path), "PREFIX": "/usr/local", "PIP": "false", "PYTHON": "/usr/bin/python3",
        "PIP_INSTALL_ARGS": "", "UNITDIR": "/u", "USERUNITDIR": "/uu", "SYSUSERSDIR": "/s", "TMPFILESDIR": "/t",
        "CONFDIR": "/c",
    }  # fmt: skip
    for name in ("install.sh", "uninstall.sh"):
        done = script(name, **environment)
        assert done.returncode == 1
        assert "did not create" in done.stderr
        assert precious.exists()
