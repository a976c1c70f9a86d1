"""The life of the daemon: reload, notifications, health. The units themselves: tests/system/."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from benchd.answering.batch import Answering
from benchd.folder.folder import Folder
from benchd.inbox import Inbox
from benchd.service.process import _Health, changed_settings
from benchd.service.workers import Counts, Workers
from benchd.settings.keys import FolderSettings
from benchd.settings.reading import parse_settings
from benchd.trail.trail import Trail, TrailFile
from daemon import Daemon, answers, audit, config_of, read_json, until

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def daemon(tmp_path: Path):
    running = Daemon(tmp_path)
    yield running
    running.kill()


def test_sighup_answers_anew_what_the_new_settings_change(daemon):
    """Another top_n: the fallback audit gets another answer, the flagged one keeps its config untouched."""
    daemon.start()
    fallback, flagged = daemon.drop("fallback.json", audit(1, flagged=False)), daemon.drop("flagged.json", audit(2))
    until(lambda: answers(fallback) and answers(flagged))
    before = config_of(flagged).stat().st_ino
    daemon.config.write_text(daemon.config.read_text() + "\n[selection]\ntop_n = 1\n")
    os.kill(daemon.pid, signal.SIGHUP)
    until(lambda: len(read_json(config_of(fallback))["selection"]["layers"]) == 1)
    (reloaded,) = until(lambda: daemon.records("service.reloaded"))
    assert reloaded["settings"]["selection.top_n"] == 1
    daemon.mark()
    assert config_of(flagged).stat().st_ino == before
    daemon.stop()


def test_a_bad_file_keeps_the_old_settings(daemon):
    """One record says every mistake; drops are answered as before."""
    daemon.start()
    daemon.config.write_text(daemon.config.read_text() + '\n[selection]\ntop_n = "many"\nlow_prio = 1\n')
    os.kill(daemon.pid, signal.SIGHUP)
    (failed,) = until(lambda: daemon.records("service.reload_failed"))
    assert [problem.split(": ", 1)[1] for problem in failed["problems"]] == [
        'selection.top_n: expected an integer >= 0, got "many"',
        'selection.low_prio: unknown key; did you mean "low_priority"?',
    ]
    until(lambda: answers(daemon.drop("a.json")))
    daemon.stop()


def test_no_yaml_without_a_base_file(daemon, monkeypatch):
    """A daemon whose settings name no base file never imports PyYAML."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    daemon.start()
    daemon.mark()
    os.kill(daemon.pid, signal.SIGHUP)
    until(lambda: daemon.records("service.reloaded"))
    daemon.kill()
    imported = {line.rpartition("|")[2].strip() for line in daemon.stderr.splitlines()}
    assert "benchd.settings.reading" in imported
    assert not {"benchd.settings.base_file", "yaml"} & imported


BASE = """\
run_type: {0}
model: {{name: m}}
task: {{dataset: glue, subset: sst2}}
train: {{seed: 42, weight_decay: {1}}}
lora: {{dropout: 0.05}}
"""


def test_a_reload_reads_the_base_file_again(daemon):
    """If only the YAML file changes, its audits are answered again. With a mistake in it the old settings stay."""
    file = daemon.home / "bench.yaml"
    file.write_text(BASE.format("first", 0))
    daemon.config.write_text(daemon.config.read_text().replace("[bench]", "[bench]\nbase_file = 'bench.yaml'"))
    daemon.start()
    path = daemon.drop("a.json")
    until(lambda: answers(path))
    assert read_json(config_of(path))["run_type"] == "first"
    file.write_text(BASE.format("second", "2e-4"))
    os.kill(daemon.pid, signal.SIGHUP)
    (failed,) = until(lambda: daemon.records("service.reload_failed"))
    assert failed["problems"] == [
        f'{file}: line 4: train.weight_decay: expected a number >= 0, got "2e-4"; YAML reads 2e-4 as text: write 2.0e-4'
    ]
    daemon.mark()
    assert read_json(config_of(path))["run_type"] == "first"
    file.write_text(BASE.format("second", "0"))
    os.kill(daemon.pid, signal.SIGHUP)
    until(lambda: read_json(config_of(path))["run_type"] == "second")
    (reloaded,) = until(lambda: daemon.records("service.reloaded"))
    assert reloaded["settings"]["bench.base_file"] == str(file)
    file.write_text(BASE.format("second", "0.0"))  # equal in Python, but not in a config
    os.kill(daemon.pid, signal.SIGHUP)
    until(lambda: '"weight_decay": 0.0' in config_of(path).read_text())
    daemon.stop()


def test_folders_come_and_go_with_a_reload_and_no_drop_is_lost(daemon, tmp_path):
    """A new folder is watched, a dropped one is not, and what arrives in a kept one meanwhile is answered."""
    daemon.start()
    other = tmp_path / "other"
    other.mkdir()
    text = daemon.config.read_text()
    daemon.config.write_text(f'[[watch]]\npath = "{other}"\n' + text)
    os.kill(daemon.pid, signal.SIGHUP)
    paths = [daemon.drop(f"{number}.json", audit(number)) for number in range(100)]
    until(lambda: all(answers(path) for path in paths))
    (other / "a.json").write_bytes(audit())
    until(lambda: answers(other / "a.json"))
    daemon.config.write_text(text)
    os.kill(daemon.pid, signal.SIGHUP)
    until(lambda: len(daemon.records("service.reloaded")) == 2)
    (other / "b.json").write_bytes(audit())
    daemon.mark()
    assert not config_of(other / "b.json").exists()
    assert max(daemon.selections().values()) == 1
    assert not (other / ".benchd.lock").exists()
    daemon.stop()


def test_the_trail_moves_with_a_reload(daemon, tmp_path):
    """Another file in the settings: the next record is in it."""
    daemon.start()
    moved = tmp_path / "moved.jsonl"
    daemon.config.write_text(daemon.config.read_text().replace(str(daemon.trail), str(moved)))
    os.kill(daemon.pid, signal.SIGHUP)
    daemon.trail = moved
    until(lambda: daemon.records("service.reloaded"))
    until(lambda: answers(daemon.drop("a.json")))
    assert daemon.records("audit.selected")
    daemon.stop()


def test_systemd_hears_ready_reloading_watchdog_and_stopping(daemon, tmp_path, monkeypatch):
    """The states come in their order; the status names what matters; pings come while all is well."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "300000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        daemon.start(wait=False)

        def hear(wanted: str) -> dict[str, str]:
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                states = dict(line.split("=", 1) for line in receiver.recv(4096).decode().split("\n"))
                if wanted in states:
                    return states
            raise AssertionError(wanted)

        assert hear("READY")["STATUS"] == "1 folder, 0 answered, 0 rejected, 0 waiting"
        hear("WATCHDOG")
        path = daemon.drop("a.json")
        until(lambda: answers(path))
        until(lambda: f"1 answered, 0 rejected, 0 waiting, last: {path}" in hear("WATCHDOG")["STATUS"])
        os.kill(daemon.pid, signal.SIGHUP)
        assert "MONOTONIC_USEC" in hear("RELOADING")
        hear("READY")
        daemon.stop()
        hear("STOPPING")


def test_a_mistake_at_the_start_is_the_status(daemon, tmp_path, monkeypatch):
    """Exit code 2, the first mistake in `STATUS=`, all of them on stderr."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        daemon.config.write_text("[selection]\ntop_n = -1\nlow = 1\n")
        daemon.start(wait=False)
        status = receiver.recv(4096).decode()
    assert status == f"STATUS={daemon.config}: selection.top_n: expected an integer >= 0, got -1 (and 1 more)"
    until(lambda: not daemon.running)
    assert daemon._process.returncode == 2
    assert len(daemon.stderr.splitlines()) == 2


class _Blocked(Answering):
    """An answering that hangs, as on a dead file server."""

    def __init__(self, trail: Trail) -> None:
        super().__init__(trail, settle=0)
        self.release = threading.Event()

    def answer(self, batch, *, large=True):
        self.release.wait(30)
        return super().answer(batch, large=large)


def test_a_stuck_worker_and_a_dead_thread_are_trouble(tmp_path):
    """The watchdog hears nothing while a worker is at one batch for longer than its limit, or a thread has died."""
    trail = Trail(TrailFile(str(tmp_path / "trail")))
    inbox, counts, answering = Inbox(), Counts(), _Blocked(trail)
    workers = Workers(inbox, answering, trail, counts, count=1, waits=False)
    health = _Health(inbox, counts)
    workers.start()
    assert health.trouble(workers, [], limit=0.2) is None
    (tmp_path / "a.json").write_bytes(audit())
    folder = Folder(FolderSettings(path=str(tmp_path)), max_bytes=2**20)
    inbox.put(folder, "a.json", "closed")
    inbox.put(folder, "b.json", "closed")
    until(lambda: health.trouble(workers, [], limit=0.2) == "worker 0 is stuck")
    assert health.trouble(workers, [], limit=60) is None
    answering.release.set()
    until(lambda: counts.total == 2)
    assert health.trouble(workers, [], limit=0.2) is None
    inbox.close()
    assert workers.join(5)
    assert health.trouble(workers, [], limit=0.2) == "thread benchd-worker-0 is dead"


def test_work_that_nobody_takes_is_trouble(tmp_path):
    """Audits that wait while no worker answers any: work does not move."""
    trail = Trail(TrailFile(str(tmp_path / "trail")))
    inbox, counts = Inbox(), Counts()
    workers = Workers(inbox, Answering(trail, settle=0), trail, counts, count=1, waits=False)
    workers.threads.clear()
    health = _Health(inbox, counts)
    inbox.put(Folder(FolderSettings(path=str(tmp_path)), max_bytes=1), "a.json", "closed")
    assert health.trouble(workers, [], limit=0.05) is None
    until(lambda: health.trouble(workers, [], limit=0.05) == "1 audits wait and none is answered")


def test_the_started_record_has_the_settings_that_differ():
    """Folders, and every setting that is not the default."""
    settings = parse_settings('[[watch]]\npath = "/a"\n[selection]\ntop_n = 5\n[watching]\nsettle = "2s"\n')
    assert changed_settings(settings) == {"watch": ["/a"], "selection.top_n": 5}
    assert json.dumps(changed_settings(settings))


def test_the_started_record_has_the_folders_own_settings():
    """What a folder has of its own is named as `benchd config` names it."""
    text = '[[watch]]\npath = "/a"\nignore = ["x"]\n[watch.selection]\ntop_n = 5\n[watch.bench]\nuniform_rank = 4\n'
    assert changed_settings(parse_settings(text)) == {
        "watch": ["/a"],
        "watch[0].ignore": ("x",),
        "watch[0].selection.top_n": 5,
        "watch[0].bench.uniform_rank": 4,
    }


def test_a_stop_while_a_folder_is_slow_to_open(tmp_path):
    """A signal counts also before every folder is watched."""
    code = (
        "import sys, time; from benchd.watching.lock import FolderLock; "
        "FolderLock.acquire = lambda self: sys.stderr.write('slow') and sys.stderr.flush() or time.sleep(30); "
        "from benchd.service.process import Service; Service.claim = lambda self: None; "
        "from benchd.cli import main; main(['watch', sys.argv[1]])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr.read(4) == b"slow"
        process.terminate()
        assert process.wait(5) == 0


def test_folders_are_given_back_when_one_is_taken(daemon, tmp_path):
    """A daemon that can't have all its folders leaves none claimed."""
    daemon.start()
    free = tmp_path / "free"
    free.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "benchd", "watch", str(free), str(daemon.folder)], capture_output=True, check=False
    )
    assert done.returncode == 2
    assert not (free / ".benchd.lock").exists()
    daemon.stop()


def test_without_standard_output(tmp_path):
    """A caller that has closed standard output gets the trail on standard error, and no traceback."""
    (tmp_path / "a.json").write_bytes(audit())
    command = f"exec {sys.executable} -m benchd run {tmp_path} >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert '"event":"audit.selected"' in done.stderr


def _run(home: Path, patch: str) -> subprocess.Popen[bytes]:
    """`benchd watch` over `home/in` after `patch`, with its trail on standard output."""
    (home / "in").mkdir()
    code = f"{patch}\nfrom benchd.cli import main\nmain(['watch', {str(home / 'in')!r}])"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_thread_that_dies_is_never_silent(tmp_path):
    """It is recorded, and ends the process with a failure, so that a service manager starts it again."""
    patch = "from benchd.service.workers import Workers\nWorkers._run = lambda self, index, large: 1 / 0"
    with _run(tmp_path, patch) as process:
        out, _ = process.communicate(timeout=20)
        assert process.returncode == 1
    records = [json.loads(line) for line in out.splitlines()]
    failed = [record for record in records if record["event"] == "service.thread_failed"]
    assert "ZeroDivisionError" in failed[0]["error"]
    assert records[-1]["event"] == "service.stopped"


def test_without_inotify_it_polls(tmp_path):
    """No more inotify instances to be had: said, with the remedy, and polled instead."""
    patch = (
        "import benchd.service.process\n"
        "def refuse(after):\n    raise OSError(24, 'inotify instance limit reached')\n"
        "benchd.service.process.open_reader = refuse"
    )
    with _run(tmp_path, patch) as process:
        records = []
        while not records or records[-1]["event"] != "service.ready":
            records.append(json.loads(process.stdout.readline()))
        (tmp_path / "in" / "a.json").write_bytes(audit())
        until(lambda: answers(tmp_path / "in" / "a.json"))
        process.terminate()
        process.communicate(timeout=20)
        assert process.returncode == 0
    assert "max_user_instances" in next(r["reason"] for r in records if r["event"] == "watch.degraded")
    assert [r["backend"] for r in records if r["event"] == "watch.started"] == ["polling"]
