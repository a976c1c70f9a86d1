"""Which system this process runs on: the host, this boot of it, and the namespace that its process number counts in."""

from __future__ import annotations

import os
import platform
from typing import NamedTuple

__all__ = ["System", "this_system"]


class System(NamedTuple):
    """Two processes with the same number are the same, or one of them is dead, if all of this is alike.

    Empty parts are what the system doesn't tell.
    """

    host: str
    boot: str
    namespace: str


def this_system(proc: str = "/proc") -> System:
    """Return the system of this process. Containers share a host name and a boot; each has its own process 1."""
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
