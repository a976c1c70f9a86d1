"""A backlog over several processes, as `benchd run` answers it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from corpus import content
from daemon import answers, audit, config_of, temporary_files, until

#: Enough for two processes, and for each more than one batch.
MANY = 600


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """A folder with many audits, one of them bad."""
    inbox = tmp_path / "in"
    inbox.mkdir()
    for number in range(MANY):
        (inbox / f"{number}.json").write_bytes(audit(number))
    (inbox / "bad.json").write_bytes(b"{]")
    return inbox


def command(tmp_path: Path, inbox: Path, *, durable: bool = False, patch: str = "") -> list[str]:
    """A `benchd run` with two processes; `patch` is run before it."""
    config = tmp_path / "config.toml"
    config.write_text(f"[watching]\nworkers = 2\nsettle = '1ms'\n[bench]\ndurable = {str(durable).lower()}\n")
    code = f"{patch}\nimport sys\nfrom benchd.cli import main\nsys.argv = ['benchd', *sys.argv[1:]]\nmain()"
    return [sys.executable, "-c", code, "run", "--config", str(config), "--json", str(inbox)]


def records(output: bytes) -> list[dict[str, Any]]:
    """The records of a trail; every line is whole."""
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.parametrize("durable", [False, True])
def test_every_audit_once(tmp_path: Path, inbox: Path, durable: bool) -> None:
    """All are answered, each once, and the summary counts what every process did."""
    done = subprocess.run(command(tmp_path, inbox, durable=durable), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (1, b"")
    said = records(done.stdout)
    assert all(answers(inbox / f"{number}.json") for number in range(MANY))
    assert (inbox / "bad.bench-error.json").exists()
    assert temporary_files(inbox) == []
    assert Counter(record["event"] for record in said) == {
        "audit.selected": MANY,
        "audit.rejected": 1,
        "run.finished": 1,
    }
    assert len({record["audit"] for record in said[:-1]}) == MANY + 1
    assert (said[-1]["selected"], said[-1]["rejected"]) == (MANY, 1)


def test_long_lines_stay_whole_in_a_pipe(tmp_path: Path) -> None:
    """Records longer than what a pipe takes in one piece are never mixed."""
    inbox = tmp_path / "in"
    inbox.mkdir()
    document = json.loads(content("llama4_many__default.json"))
    analysis = document["policy_disagreement_analysis"]
    entry = analysis["flagged_layers"][0]
    analysis["flagged_layers"] = [{**entry, "layer_name": f"{'x' * 200}.{number}"} for number in range(20)]
    for number in range(300):
        (inbox / f"{number}.json").write_text(json.dumps(document))
    done = subprocess.run(command(tmp_path, inbox), capture_output=True, check=True)
    lines = done.stdout.splitlines()
    assert len(records(done.stdout)) == 301
    assert min(len(line) for line in lines[:-1]) > 4096


def test_a_process_that_dies_loses_nothing(tmp_path: Path, inbox: Path) -> None:
    """What a killed process has not told of, its parent answers."""
    patch = (
        "import os\nfrom benchd.answering.batch import Answering\n"
        "real, parent, calls = Answering.answer, os.getpid(), []\n"
        "def answer(self, batch, **more):\n"
        "    calls.append(1)\n"
        "    if os.getpid() != parent and len(calls) == 2: os.kill(os.getpid(), 9)\n"
        "    return real(self, batch, **more)\n"
        "Answering.answer = answer"
    )
    done = subprocess.run(command(tmp_path, inbox, patch=patch), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (1, b"")
    assert all(answers(inbox / f"{number}.json") for number in range(MANY))
    assert records(done.stdout)[-1]["selected"] == MANY


def test_a_process_that_fails_is_said(tmp_path: Path, inbox: Path) -> None:
    """A bug in one is recorded; its audits are answered all the same."""
    patch = (
        "import os\nfrom benchd.answering.batch import Answering\nreal, parent = Answering.answer, os.getpid()\n"
        "def answer(self, batch, **more):\n"
        "    if os.getpid() != parent: raise ValueError('a bug')\n"
        "    return real(self, batch, **more)\n"
        "Answering.answer = answer"
    )
    done = subprocess.run(command(tmp_path, inbox, patch=patch), capture_output=True, check=False)
    failed = [record for record in records(done.stdout) if record["event"] == "service.thread_failed"]
    assert [record["error"] for record in failed] == ["ValueError: a bug"] * 2
    assert all(answers(inbox / f"{number}.json") for number in range(MANY))


def test_a_signal_stops_all(tmp_path: Path, inbox: Path) -> None:
    """SIGTERM to the parent: what is in flight is finished, nothing new begun, no process left."""
    patch = (
        "import os, time\nfrom benchd.answering.batch import Answering\nreal = Answering.answer\n"
        f"started = {str(tmp_path)!r}\n"
        "def answer(self, batch, **more):\n"
        "    open(f'{started}/pid-{os.getpid()}', 'w').close()\n"
        "    while not os.path.exists(f'{started}/go'): time.sleep(0.01)\n"
        "    return real(self, batch, **more)\n"
        "Answering.answer = answer\n"
        "from benchd.answering import processes as parallel\nstop = parallel._stop\n"
        "parallel._stop = lambda children: (stop(children), open(f'{started}/told', 'w').close())"
    )
    with subprocess.Popen(
        command(tmp_path, inbox, patch=patch), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        children = until(lambda: found if len(found := list(tmp_path.glob("pid-*"))) == 2 else None)
        process.send_signal(signal.SIGTERM)
        pids = [int(path.name.removeprefix("pid-")) for path in children]
        until((tmp_path / "told").exists)
        (tmp_path / "go").touch()
        process.communicate(timeout=20)
    assert process.returncode == 130
    answered = [number for number in range(MANY) if config_of(inbox / f"{number}.json").exists()]
    assert 0 < len(answered) <= 256  # a batch each
    assert temporary_files(inbox) == []
    for pid in pids:
        assert not os.path.exists(f"/proc/{pid}")


def test_a_parent_that_is_killed_leaves_no_process(tmp_path: Path, inbox: Path) -> None:
    """Its processes find nobody to tell, and end, however much there is to tell."""
    patch = (
        "import os, time\nfrom benchd.answering import processes as parallel\n"
        f"started = {str(tmp_path)!r}\n"
        "write = parallel._write\n"
        "def waiting(descriptor, content):\n"
        "    open(f'{started}/pid-{os.getpid()}', 'w').close()\n"
        "    while not os.path.exists(f'{started}/go'): time.sleep(0.01)\n"
        "    write(descriptor, content + bytes(1 << 20))\n"
        "parallel._write = waiting"
    )
    with subprocess.Popen(
        command(tmp_path, inbox, patch=patch), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        children = until(lambda: found if len(found := list(tmp_path.glob("pid-*"))) == 2 else None)
        process.kill()
    (tmp_path / "go").touch()
    for path in children:
        pid = path.name.removeprefix("pid-")
        until(lambda pid=pid: not os.path.exists(f"/proc/{pid}") or " Z " in Path(f"/proc/{pid}/stat").read_text())
