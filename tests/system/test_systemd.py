"""Boots a temporary systemd and runs the tests of `inside_systemd.py` in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SANDBOX = HERE / "with-systemd.sh"


def missing() -> str | None:
    """Return why systemd can't be booted here, or None."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "needs root on Linux"
    probe = subprocess.run([SANDBOX, "true"], capture_output=True, text=True, timeout=60, check=False)
    return None if probe.returncode == 0 else f"no systemd can be booted here: {probe.stderr.strip()}"


@pytest.fixture(scope="module")
def sandbox() -> Path:
    reason = missing()
    if reason:
        pytest.skip(reason)
    return SANDBOX


BUILD_TOOLS = ("hatchling", "hatch-vcs", "editables")


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_the_service_under_a_real_systemd(sandbox: Path, tmp_path: Path) -> None:
    """All tests in `inside_systemd.py` pass with an installation by `make install` under a real systemd."""
    python = shutil.which("python3", path="/usr/bin:/bin")
    old = [python or "", "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    if python is None or subprocess.run(old, check=False).returncode:
        pytest.skip("the system's own Python is missing or older than 3.11; a service user can enter no other")
    wheels = tmp_path / "wheels"
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", wheels, ROOT, *BUILD_TOOLS],
        check=True,
        timeout=240,
    )
    environment = {
        **os.environ,
        "WITH_SYSTEMD_TIMEOUT": "360",
        "BENCHD_TEST_WHEELS": str(wheels),
        "BENCHD_TEST_ROOT": str(ROOT),
    }
    done = subprocess.run(
        [
            sandbox, sys.executable, "-m", "pytest", "-q", "--tb=short", "-rs", "-p", "no:cacheprovider",
            "-c", "/dev/null", "--rootdir", str(HERE), str(HERE / "inside_systemd.py"),
        ],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(done.stdout[-20000:], done.stderr[-5000:])
    assert done.returncode == 0
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
