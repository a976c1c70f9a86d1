"""The notifications to systemd, through a real socket."""

import os
import socket
from pathlib import Path

import pytest

from benchd.service.systemd import notify, reloading, watchdog_seconds


@pytest.fixture
def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield receiver


def test_states_arrive_one_a_line(listener):
    """All states of a call are in one datagram, and a line break in a value can't forge another state."""
    notify(READY="1", STATUS="two\nSTOPPING=1 \udcff")
    assert listener.recv(4096) == b"READY=1\nSTATUS=two STOPPING=1 \\udcff"


def test_abstract_sockets_are_reached(monkeypatch):
    """A socket name that starts with @ is an abstract one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0benchd-test-{os.getpid()}")
        receiver.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@benchd-test-{os.getpid()}")
        notify(WATCHDOG="1")
        assert receiver.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/at/all"])
def test_without_a_listener_nothing_happens(monkeypatch, address):
    """A missing or invalid socket raises no exception."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify(READY="1")


def test_reloading_has_the_monotonic_time(listener):
    """`RELOADING=1` comes with `MONOTONIC_USEC`, which systemd 253 requires."""
    reloading()
    first, second = listener.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    assert second.removeprefix("MONOTONIC_USEC=").isdecimal()


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [("2000000", None, 2.0), ("2000000", "self", 2.0), ("2000000", "1", None), ("", None, None), ("0", None, None)],
)
def test_watchdog_only_for_this_process(monkeypatch, usec, pid, expected):
    """The interval is `WATCHDOG_USEC` in seconds, if `WATCHDOG_PID` is this process or absent."""
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "self" else pid)
    assert watchdog_seconds() == expected
