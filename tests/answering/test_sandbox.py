"""Decisions about large and unusual audits in a separate process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from benchd import AuditError, NotAnAudit, read_adapter_config, read_audit
from benchd.answering.sandbox import Verdict, decide_isolated, matchable
from benchd.bench.deciding import Decision, decide
from benchd.settings.keys import BenchSettings, SelectionSettings
from corpus import INDEX
from daemon import audit, until

MIB = 2**20


def verdict(path: Path, *, name: str = "a.json", flags: int = os.O_RDONLY, **options: Any) -> Verdict:
    """Return the verdict of the process about the file `path`."""
    descriptor = os.open(path, flags)
    try:
        return decide_isolated(
            descriptor,
            size=os.fstat(descriptor).st_size,
            name=name,
            selection=SelectionSettings(top_n=3),
            bench=BenchSettings(uniform_rank=4),
            **options,
        )
    finally:
        os.close(descriptor)


def decided(path: Path, *, name: str = "a.json") -> Decision:
    """Return the decision about the file `path` without a process."""
    return decide(
        path.read_bytes(), name=name, selection=SelectionSettings(top_n=3), bench=BenchSettings(uniform_rank=4)
    )


@pytest.mark.parametrize("number", range(0, len(INDEX), 12))
def test_the_same_decision(number: int, tmp_path: Path) -> None:
    """The separate process makes the same decision as this one, byte for byte."""
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
    """A JSON object that is not an audit raises `NotAnAudit`."""
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
    """A file that needs many times its size in memory is refused, because the process exceeds its limits."""
    path = tmp_path / "a.json"
    path.write_bytes(bomb)
    with pytest.raises(AuditError) as raised:
        verdict(path).unwrap()
    assert raised.value.code == "too_complex"
    assert str(len(bomb)) in raised.value.message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a usual audit."""
    path = tmp_path / "a.json"
    path.write_bytes(audit())
    return path


def test_its_time_is_limited(path: Path) -> None:
    """A process that a signal ends has exceeded a limit, so the file is refused."""
    with pytest.raises(AuditError, match="can't be read") as raised:
        verdict(path, command=("sh", "-c", "kill -s XCPU $$")).unwrap()
    assert raised.value.code == "too_complex"


def test_timeout_gives_no_verdict(path: Path) -> None:
    """A process that takes too long is ended, with an error that leads to a retry."""
    before = children(os.getpid())
    with pytest.raises(TimeoutError, match=r"more than 0\.1 s"):
        verdict(path, command=("sleep", "60"), timeout=0.1)
    assert children(os.getpid()) == before


def test_failed_process_gives_no_verdict(path: Path) -> None:
    """A process that fails without a signal gives an error, not a verdict."""
    with pytest.raises(ChildProcessError, match="code 3"):
        verdict(path, command=("sh", "-c", "exit 3"))


def test_an_error_in_it_is_reported(path: Path) -> None:
    """The error in the record describes the failure of the process."""
    with pytest.raises(ChildProcessError, match=r"OSError: .*Bad file descriptor"):
        verdict(path, flags=os.O_WRONLY)


def children(pid: int) -> list[int]:
    """Return the child processes of the main thread of `pid`."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    """The process ends when `benchd` is killed."""
    path = tmp_path / "large.json"
    path.write_bytes(b'{"per_module_gain": "' + b"x" * 20 * MIB + b'"}')
    with subprocess.Popen([sys.executable, "-m", "benchd", "run", str(path)]) as parent:
        child = until(lambda: children(parent.pid))[0]
        os.kill(child, signal.SIGSTOP)  # prevents it from ending by itself
        parent.kill()
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGCONT)  # it may have been stopped before it set its parent-death signal
    until(lambda: not Path(f"/proc/{child}").exists() or ") Z " in Path(f"/proc/{child}/stat").read_text())
    assert not (tmp_path / "large.bench.json").exists()


def test_signals_are_not_blocked(tmp_path: Path) -> None:
    """A signal that the parent's thread blocks is not blocked in the process, because limits send signals."""
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


@pytest.mark.parametrize("seconds", [1e-6, 1e-3, 60.0])
def test_matching_is_limited(seconds: float) -> None:
    """Matching ends after its CPU time at the latest, and the signal handler is always restored."""
    keys = {f"m{number}": 4 for number in range(20_000)}
    adapter = read_adapter_config(json.dumps({"peft_type": "LORA", "r": 8, "rank_pattern": keys}).encode())
    before = signal.getsignal(signal.SIGVTALRM)
    found = matchable(read_audit(audit(), adapter=adapter), seconds=seconds)
    assert found is not None
    assert found is adapter or found.problem == "its patterns take too long to match"
    assert (found is adapter) or seconds < 60
    assert signal.getsignal(signal.SIGVTALRM) == before
