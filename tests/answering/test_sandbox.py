"""Large and odd audits, decided in a process of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchd import AuditError, NotAnAudit
from benchd.answering import sandbox as isolated
from benchd.answering.sandbox import Verdict, decide_isolated
from benchd.bench.deciding import Decision, decide
from benchd.settings.keys import BenchSettings, SelectionSettings
from corpus import INDEX
from daemon import audit, until

MIB = 2**20


def verdict(path: Path, *, name: str = "a.json") -> Verdict:
    """What the process says of the file `path`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return decide_isolated(
            descriptor,
            size=os.fstat(descriptor).st_size,
            name=name,
            selection=SelectionSettings(top_n=3),
            bench=BenchSettings(uniform_rank=4),
        )
    finally:
        os.close(descriptor)


def decided(path: Path, *, name: str = "a.json") -> Decision:
    """The same without a process."""
    return decide(
        path.read_bytes(), name=name, selection=SelectionSettings(top_n=3), bench=BenchSettings(uniform_rank=4)
    )


@pytest.mark.parametrize("number", range(0, len(INDEX), 12))
def test_the_same_decision(number: int, tmp_path: Path) -> None:
    """It decides what is decided without it, to the byte."""
    path = tmp_path / "audit.json"
    path.write_bytes(INDEX[number].content)
    found = verdict(path, name="Ä\\xff.json")
    try:
        expected: Decision | AuditError = decided(path, name="Ä\\xff.json")
    except AuditError as refused:
        expected = refused
    if isinstance(expected, AuditError):
        assert found.refusal == (expected.code, expected.message, expected.hint)
    else:
        assert found.unwrap() == expected


def test_no_audit(tmp_path: Path) -> None:
    """Another JSON object is no audit here either."""
    path = tmp_path / "a.json"
    path.write_bytes(b"{}")
    with pytest.raises(NotAnAudit):
        verdict(path).unwrap()


@pytest.mark.parametrize(
    "bomb",
    [
        b'{"per_module_gain": [' + b"{}," * (4 * MIB) + b"{}]}",
        b'{"policy_disagreement_analysis": {"all_layers_with_disagreement": [' + b"[]," * (8 * MIB) + b"[]]}}",
        b'{"policy_disagreement_analysis": {"reason": [' + b"1.5," * (8 * MIB) + b"NaN]}}",
    ],
    ids=["objects", "lists", "numbers"],
)
def test_bombs(bomb: bytes, tmp_path: Path) -> None:
    """What takes a multiple of its size is refused by the process's own limits, with the hash of what it was."""
    path = tmp_path / "a.json"
    path.write_bytes(bomb)
    with pytest.raises(AuditError) as raised:
        verdict(path).unwrap()
    assert raised.value.code == "too_complex"
    assert str(len(bomb)) in raised.value.message


def test_its_time_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever ends the process, the file is the reason: a limit of the kernel's ends it by a signal."""
    path = tmp_path / "a.json"
    path.write_bytes(audit())
    command = (sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGXCPU)")
    monkeypatch.setattr(isolated, "_COMMAND", command)
    with pytest.raises(AuditError, match="can't be read") as raised:
        verdict(path).unwrap()
    assert raised.value.code == "too_complex"


def test_a_busy_machine_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes too long by the clock is tried again later; its process does not outlive the attempt."""
    path = tmp_path / "a.json"
    path.write_bytes(audit())
    pid = tmp_path / "pid"
    code = f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    monkeypatch.setattr(isolated, "_COMMAND", (sys.executable, "-c", code))
    monkeypatch.setattr(isolated, "_PATIENCE_SECONDS", 1.0)
    with pytest.raises(TimeoutError, match="more than 1 s"):
        verdict(path)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text() or 2**22), 0)


def test_a_process_that_fails_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in it is benchd's own trouble, not the file's."""
    path = tmp_path / "a.json"
    path.write_bytes(audit())
    monkeypatch.setattr(isolated, "_COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(ChildProcessError, match="code 3"):
        verdict(path)


def test_a_bug_in_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What went wrong in it is in the error that its parent records."""
    path = tmp_path / "a.json"
    path.write_bytes(audit())
    code = (
        "from benchd.answering import sandbox as isolated\n"
        "def fail(*_, **__): raise IndexError('a bug')\n"
        "isolated.decide = fail\nisolated.main()"
    )
    monkeypatch.setattr(isolated, "_COMMAND", (sys.executable, "-c", code))
    with pytest.raises(ChildProcessError, match="IndexError: a bug"):
        verdict(path)


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    """A daemon that is killed leaves no process behind."""
    fifo = tmp_path / "audit.json"
    os.mkfifo(fifo)
    code = (
        "import os, sys\nfrom benchd.answering import sandbox as isolated\nfrom benchd.settings.keys import *\n"
        "isolated.os.lseek = lambda *_: 0\n"
        f"isolated.decide_isolated(os.open({str(fifo)!r}, os.O_RDWR), size=10, name='a', "
        "selection=SelectionSettings(), bench=BenchSettings())"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        child = until(lambda: children.read_text().split())[0]
        until(lambda: b"sandbox" in Path(f"/proc/{child}/cmdline").read_bytes())
        parent.send_signal(signal.SIGKILL)
    until(lambda: not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text())


def test_signals_are_its_own(tmp_path: Path) -> None:
    """Its parent's threads block signals; a limit that ends it by one must not be blocked."""
    path = tmp_path / "a.json"
    path.write_bytes(audit())
    found: list[Verdict] = []

    def run() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGXCPU})
        found.append(verdict(path))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    assert json.loads(found[0].unwrap().config)["selection"]["strategy"] == "flagged"
