"""Identify the system of this process: the host, the boot, and the pid namespace."""

from __future__ import annotations

import os
import platform
from typing import NamedTuple

__all__ = ["System", "this_system"]


class System(NamedTuple):
    """The identity of a system. Two processes with the same number on it are the same one, or one of them is dead.

    A part is empty if the system can't say.
    """

    host: str
    boot: str
    namespace: str


def this_system(proc: str = "/proc") -> System:
    """Return the system of this process. Containers share host name and boot, but have separate pid namespaces."""
    try:
        with open(f"{proc}/sys/kernel/random/boot_id", encoding="ascii", errors="replace") as file:
            boot = file.read().strip()
    except OSError:
        boot = ""
    try:
        namespace = os.readlink(f"{proc}/self/ns/pid")
    except OSError:
        namespace = ""
    return System(platform.node(), boot, namespace)
