"""Notify systemd with the protocol of sd_notify(3): one datagram for each message.

Without `NOTIFY_SOCKET` in the environment all functions do nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

__all__ = ["notify", "reloading", "watchdog_seconds"]


def notify(**states: str) -> None:
    """Send states such as `READY="1"` and `STATUS="…"`. Never raise: a failed message must not stop the service."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address or address[0] not in "/@":
        return
    # A line break ends a state, and the values may contain any text.
    lines = [f"{key}={' '.join(value.split())}" for key, value in states.items()]
    message = "\n".join(lines).encode("utf-8", "backslashreplace")[:4096]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.sendto(message, "\0" + address[1:] if address[0] == "@" else address)


def reloading() -> None:
    """Announce a reload of the settings. `notify(READY="1")` ends it."""
    notify(RELOADING="1", MONOTONIC_USEC=str(time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000))


def watchdog_seconds() -> float | None:
    """Return the seconds within which systemd expects `WATCHDOG=1` from this process; None if it expects none."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()) or not microseconds.isdecimal():
        return None
    return int(microseconds) / 1e6 or None
