"""Answering a backlog with several processes, as `benchd run` does."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from benchd.answering.batch import Answering
from benchd.answering.outcome import Outcome, Result
from benchd.answering.processes import answer_all
from benchd.folder.folder import Folder
from benchd.inbox import Ticket
from benchd.settings.keys import BenchSettings, FolderSettings, TrailSettings
from benchd.trail.trail import Trail
from corpus import content
from daemon import answers, audit, config_of, temporary_files, until

#: Enough audits for several batches in each of two processes.
MANY = 1000

#: Enough audits to fill a pipe several times.
BACKLOG = 2400


def filled(tmp_path: Path, number: int, content: bytes = audit()) -> Path:
    """Return a folder with `number` audits."""
    inbox = tmp_path / "in"
    inbox.mkdir()
    for name in range(number):
        (inbox / f"{name}.json").write_bytes(content)
    return inbox


def records(lines: bytes) -> list[dict[str, Any]]:
    """Return the records of a trail, in which every line must be whole."""
    return [json.loads(line) for line in lines.splitlines()]


class TestAnswerAll:
    """`answer_all` with its trail in a file."""

    @staticmethod
    def answer(
        inbox: Path, *, durable: bool = False, processes: int = 2, answering: type[Answering] = Answering
    ) -> tuple[Counter[Outcome], list[dict[str, Any]]]:
        """Return how often each outcome came, and the records."""
        file = inbox.parent / "trail.jsonl"
        folder = Folder(FolderSettings(path=str(inbox), bench=BenchSettings(durable=durable)), max_bytes=2**20)
        tickets = [Ticket(folder, name, "command") for name in os.listdir(inbox)]
        trail = Trail.open(TrailSettings(file=str(file)))
        answers = answering(trail, settle=0.001)
        found = list(answer_all(answers, tickets, trail=trail, processes=processes, stopped=lambda: False))
        trail.close()
        assert len({result.ticket.relative for result in found}) == len(found) == len(tickets)
        return Counter(result.outcome for result in found), records(file.read_bytes())

    @pytest.mark.parametrize("durable", [False, True])
    def test_every_audit_once(self, tmp_path: Path, durable: bool) -> None:
        """Every audit is answered once, with one whole record in the trail."""
        inbox = filled(tmp_path, MANY)
        (inbox / "bad.json").write_bytes(b"{]")
        outcomes, found = self.answer(inbox, durable=durable)
        assert outcomes == {Outcome.SELECTED: MANY, Outcome.REJECTED: 1}
        assert all(answers(inbox / f"{number}.json") for number in range(MANY))
        assert (inbox / "bad.bench-error.json").exists()
        assert temporary_files(inbox) == []
        assert Counter(record["event"] for record in found) == {"audit.selected": MANY, "audit.rejected": 1}

    def test_odd_names(self, tmp_path: Path) -> None:
        """Worker processes return messages about names that are not UTF-8."""
        inbox = filled(tmp_path, 0)
        for number in range(MANY):
            (inbox / os.fsdecode(b"%d-\xff.json" % number)).write_bytes(b"{]")
        outcomes, _ = self.answer(inbox)
        assert outcomes == {Outcome.REJECTED: MANY}

    def test_one_process(self, tmp_path: Path) -> None:
        """A single process answers every audit too."""
        outcomes, _ = self.answer(filled(tmp_path, MANY), processes=1)
        assert outcomes == {Outcome.SELECTED: MANY}

    def test_processes_that_fail(self, tmp_path: Path) -> None:
        """If a process has a bug, the main process records it once and answers the rest."""

        class Failing(Answering):
            def answer(self, tickets: list[Ticket], *, may_take_long: bool = True) -> list[Result]:
                if multiprocessing.parent_process():
                    raise ValueError("a bug")
                return super().answer(tickets, may_take_long=may_take_long)

        outcomes, found = self.answer(filled(tmp_path, MANY), answering=Failing)
        assert outcomes == {Outcome.SELECTED: MANY}
        failed = [record["error"] for record in found if record["event"] == "service.thread_failed"]
        assert failed == ["ValueError: a bug"]


class Run:
    """A `benchd run` in a separate process group. A full pipe stops a busy worker until `finish`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.output = b""
        self.worker = until(self._started_worker, 60)
        until(self._worker_works, 60)

    def _started_worker(self) -> int:
        """Return the pid of a worker process once it can answer; 0 before."""
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            if _shares_the_trail(pid):
                return int(pid)
        return 0

    def _worker_works(self) -> bool:
        """Read one piece of the trail. Return whether the worker has answered some audits."""
        assert self.process.stdout is not None
        self.output += os.read(self.process.stdout.fileno(), 4096)
        return _written(self.worker) > 20_000

    def finish(self) -> list[dict[str, Any]]:
        """Read the rest of the trail, wait for the end, and return all records."""
        rest, errors = self.process.communicate(timeout=60)
        assert errors == b""
        return records(self.output + rest)


def _shares_the_trail(pid: str) -> bool:
    """Return whether a process has opened the lock file of the trail."""
    place = os.path.join(tempfile.gettempdir(), "benchd-")
    with suppress(FileNotFoundError):
        return any(str(link.readlink()).startswith(place) for link in Path(f"/proc/{pid}/fd").iterdir())
    return False


def _written(pid: int) -> int:
    """Return the number of bytes that a process has written."""
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["wchar"])


def _gone(pid: int) -> bool:
    """Return whether a process has ended."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


@contextmanager
def running(inbox: Path) -> Iterator[Run]:
    """Run `benchd run` over `inbox` with two processes."""
    config = inbox.parent / "config.toml"
    config.write_text("[watching]\nworkers = 2\nsettle = '1ms'\n[bench]\ndurable = false\n")
    command = [sys.executable, "-m", "benchd", "run", "--config", str(config), "--json", str(inbox)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        try:
            yield Run(process)
        finally:
            process.kill()


def test_long_lines_stay_whole_in_a_pipe(tmp_path: Path) -> None:
    """Records that are longer than one atomic write to a pipe are never mixed."""
    document = json.loads(content("llama4_many__default.json"))
    analysis = document["policy_disagreement_analysis"]
    entry = analysis["flagged_layers"][0]
    analysis["flagged_layers"] = [{**entry, "layer_name": f"{'x' * 200}.{number}"} for number in range(20)]
    with running(filled(tmp_path, BACKLOG, json.dumps(document).encode())) as run:
        found = run.finish()
    assert run.process.returncode == 0
    assert found[-1]["selected"] == BACKLOG
    assert len(found) == BACKLOG + 1
    assert min(len(json.dumps(record)) for record in found[:-1]) > 4096


def test_a_worker_that_dies(tmp_path: Path) -> None:
    """If a worker process is killed, the main process records it and answers its remaining audits."""
    inbox = filled(tmp_path, BACKLOG)
    with running(inbox) as run:
        os.kill(run.worker, signal.SIGKILL)
        found = run.finish()
    assert run.process.returncode == 0
    assert all(answers(inbox / f"{number}.json") for number in range(BACKLOG))
    # The worker may have answered audits without reporting them.
    assert found[-1]["selected"] + found[-1]["unchanged"] == BACKLOG
    failed = [record for record in found if record["event"] == "service.thread_failed"]
    assert [record["thread"] for record in failed] == ["worker process"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all(tmp_path: Path, number: signal.Signals) -> None:
    """After a signal each process finishes its present work, starts no new work, and ends."""
    inbox = filled(tmp_path, BACKLOG)
    with running(inbox) as run:
        os.killpg(run.process.pid, number)
        found = run.finish()
    assert run.process.returncode == 130
    recorded = {record["audit"] for record in found if record["event"] == "audit.selected"}
    answered = {str(path) for path in inbox.glob("?*.json") if config_of(path).exists()}
    assert recorded == answered
    assert found[-1]["selected"] == len(answered) < BACKLOG
    assert temporary_files(inbox) == []
    assert _gone(run.worker)


def test_a_main_process_that_is_killed(tmp_path: Path) -> None:
    """If the main process is killed, its workers end too, even if nobody reads the trail."""
    with running(filled(tmp_path, BACKLOG)) as run:
        run.process.kill()
        until(lambda: _gone(run.worker))
