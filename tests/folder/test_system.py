"""The system that this process runs on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from benchd.folder.system import this_system


def test_of_this_process() -> None:
    """On Linux host, boot and PID namespace identify the system of a process."""
    assert this_system() == this_system()
    assert this_system().host == platform.node()
    assert this_system().namespace == os.readlink("/proc/self/ns/pid")
    assert this_system().boot


def test_without_proc(tmp_path: Path) -> None:
    """A part that the system does not report is empty."""
    assert this_system(str(tmp_path)) == (platform.node(), "", "")


def test_another_boot(tmp_path: Path) -> None:
    """The boot comes from the kernel's file."""
    place = tmp_path / "sys" / "kernel" / "random"
    place.mkdir(parents=True)
    (place / "boot_id").write_text("abc\n")
    assert this_system(str(tmp_path)).boot == "abc"
