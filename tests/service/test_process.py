"""The daemon's process: reload, notifications, failures. The systemd units are tested in tests/system/."""

import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchd.service.process import Service, block_signals, changed_settings
from benchd.settings.keys import FolderSettings, Settings
from benchd.settings.reading import parse_settings
from benchd.trail.sinks import TrailFile
from benchd.trail.trail import Trail
from benchd.watching.lock import FolderLock
from daemon import Daemon, answers, audit, config_of, read_json, until

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def daemon(tmp_path: Path):
    running = Daemon(tmp_path)
    yield running
    running.kill()


def test_sighup_answers_affected_audits_again(daemon):
    """A reload with another top_n answers the fallback audit again, and the flagged audit keeps its config."""
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
    """A reload with mistakes writes one record with all of them, and drops are answered as before."""
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
    """A reload reads a changed YAML file and answers its audits again, and a mistake in it keeps the old settings."""
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
    file.write_text(BASE.format("second", "0.0"))  # equal in Python, but other text in a config
    os.kill(daemon.pid, signal.SIGHUP)
    until(lambda: '"weight_decay": 0.0' in config_of(path).read_text())
    daemon.stop()


def test_folders_come_and_go_with_a_reload_and_no_drop_is_lost(daemon, tmp_path):
    """A reload watches a new folder, stops watching a removed one, and loses no drop in a kept one."""
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


def test_a_folder_is_polled_and_watched_again_by_reloads(daemon):
    """A reload can change the source of events and the loop of a folder, and each source finds later drops."""
    daemon.start()
    text = daemon.config.read_text()
    polled = text.replace("[watching]", 'backend = "polling"\npoll_interval = "50ms"\n[watching]')
    for number, settings in enumerate((polled, text), 1):
        daemon.config.write_text(settings)
        os.kill(daemon.pid, signal.SIGHUP)
        until(lambda number=number: len(daemon.records("service.reloaded")) == number)
        path = daemon.drop(f"{number}.json", audit(number))
        until(lambda path=path: answers(path))
    assert [record["backend"] for record in daemon.records("watch.started")] == ["inotify", "polling", "inotify"]
    daemon.stop()


@pytest.mark.parametrize("watching", ["", "workers = 2"])
def test_a_reload_that_lacks_descriptors(daemon, tmp_path, watching):
    """If the process can't open what new settings need, the old ones stay active, and another reload may succeed."""
    daemon.start()
    polled = [tmp_path / f"polled-{number}" for number in range(8)]
    tables = [f'[[watch]]\npath = "{path}"\nbackend = "polling"\npoll_interval = "50ms"\n' for path in polled]
    text = daemon.config.read_text().replace("[watching]", f"[watching]\n{watching}")
    daemon.config.write_text(text + "".join(tables))
    for path in polled:
        path.mkdir()
    descriptors = Path(f"/proc/{daemon.pid}/fd")
    before = len(list(descriptors.iterdir()))
    highest = max(int(path.name) for path in descriptors.iterdir())
    soft, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (highest + 6, hard))
    os.kill(daemon.pid, signal.SIGHUP)
    [failed] = until(lambda: daemon.records("service.reload_failed"))
    assert failed["problems"] == ["benchd watch: Too many open files; the old settings stay active"]
    until(lambda: len(list(descriptors.iterdir())) <= before, what="what it had opened is closed")
    until(lambda: answers(daemon.drop("a.json")))
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (soft, hard))
    os.kill(daemon.pid, signal.SIGHUP)
    until(lambda: daemon.records("service.reloaded"))
    for path in (daemon.folder, *polled):
        (path / "b.json").write_bytes(audit(1))
    until(lambda: all(answers(path / "b.json") for path in (daemon.folder, *polled)))
    daemon.stop()


def test_the_trail_moves_with_a_reload(daemon, tmp_path):
    """After a reload with another trail file, the next record is in that file."""
    daemon.start()
    moved = tmp_path / "moved.jsonl"
    daemon.config.write_text(daemon.config.read_text().replace(str(daemon.trail), str(moved)))
    os.kill(daemon.pid, signal.SIGHUP)
    daemon.trail = moved
    until(lambda: daemon.records("service.reloaded"))
    until(lambda: answers(daemon.drop("a.json")))
    assert daemon.records("audit.selected")
    daemon.stop()


def test_states_reach_systemd_in_order(daemon, tmp_path, monkeypatch):
    """The states reach systemd in order, the status has the counts, and watchdog messages come while all is well."""
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
    """A mistake at the start gives exit code 2, the first mistake in `STATUS=`, and all of them on stderr."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        daemon.config.write_text("[selection]\ntop_n = -1\nlow = 1\n")
        daemon.start(wait=False)
        status = receiver.recv(4096).decode()
    assert status == f"STATUS={daemon.config}: selection.top_n: expected an integer >= 0, got -1 (and 1 more)"
    assert daemon.wait(10) == 2
    assert len(daemon.stderr.splitlines()) == 2


def test_the_started_record_has_the_settings_that_differ():
    """The record has the folders and every setting that is not the default."""
    settings = parse_settings('[[watch]]\npath = "/a"\n[selection]\ntop_n = 5\n[watching]\nsettle = "2s"\n')
    assert changed_settings(settings) == {"watch": ["/a"], "selection.top_n": 5}
    assert json.dumps(changed_settings(settings))


def test_the_started_record_has_the_folders_own_settings():
    """The settings of one folder have the names that `benchd config` shows."""
    text = '[[watch]]\npath = "/a"\nignore = ["x"]\n[watch.selection]\ntop_n = 5\n[watch.bench]\nuniform_rank = 4\n'
    assert changed_settings(parse_settings(text)) == {
        "watch": ["/a"],
        "watch[0].ignore": ("x",),
        "watch[0].selection.top_n": 5,
        "watch[0].bench.uniform_rank": 4,
    }


def test_folders_are_given_back_when_one_is_taken(daemon, tmp_path):
    """A daemon that can't lock all its folders locks none."""
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
    """If standard output is closed, the trail goes to standard error, without a traceback."""
    (tmp_path / "a.json").write_bytes(audit())
    command = f"exec {sys.executable} -m benchd run {tmp_path} >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert '"event":"audit.selected"' in done.stderr


class Reacting(TrailFile):
    """A trail file that calls `react` with each event after it was written."""

    def __init__(self, path: Path, react: Callable[[str], None]) -> None:
        super().__init__(str(path))
        self._react = react

    def write(self, text: bytes) -> None:
        super().write(text)
        for line in text.splitlines():
            self._react(json.loads(line)["event"])


class Child:
    """A service in a fork of this process: signals reach any thread of a process, and tests may run beside others."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._trail = home / "trail.jsonl"
        (home / "in").mkdir()

    def run(self, react: Callable[[str], None] = lambda _: None, **options: Any) -> int:
        """Run it to its end; return the exit code."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
            child = os.fork()
        if child == 0:
            code = 99
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the test runner has a handler
                signal.alarm(20)
                block_signals()
                settings = Settings(watch=(FolderSettings(path=str(self._home / "in")),))
                trail = Trail(Reacting(self._trail, react), level="debug")
                code = Service(settings, trail, **options).run()
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def records(self, event: str) -> list[dict[str, Any]]:
        return [record for record in map(json.loads, self._trail.read_bytes().splitlines()) if record["event"] == event]

    @property
    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self._trail.read_bytes().splitlines()]


@pytest.fixture
def child(tmp_path: Path) -> Child:
    return Child(tmp_path)


def when_ready(*acts: Callable[[], object]) -> Callable[[str], None]:
    """Return a function that does `acts` on another thread once the service is ready."""

    def react(event: str) -> None:
        if event == "service.ready":
            threading.Thread(target=lambda: [act() for act in acts], name="another").start()

    return react


def stop() -> None:
    """Stop this process as a service manager does."""
    os.kill(os.getpid(), signal.SIGTERM)


class TestFailures:
    def test_a_thread_that_dies_is_never_silent(self, child: Child):
        """It is recorded, and ends the process with a failure, so that a service manager starts it again."""
        assert child.run(when_ready(lambda: 1 / 0)) == 1
        [failed] = child.records("service.thread_failed")
        assert failed["thread"] == "another"
        assert "ZeroDivisionError" in failed["error"]
        assert "another" in child.records("service.stopping")[0]["signal"]
        assert child.events[-1] == "service.stopped"

    def test_an_exception_that_can_not_be_raised_is_recorded(self, child: Child):
        """An exception in a finalizer is recorded; the service goes on."""

        class Broken:
            def __del__(self) -> None:
                raise ValueError("in a finalizer")

        assert child.run(when_ready(lambda: Broken() and None, stop)) == 0
        [failed] = child.records("service.thread_failed")
        assert "in a finalizer" in failed["error"]

    def test_library_warnings_are_in_the_trail(self, child: Child):
        """What a library logs as a warning is a record."""
        assert child.run(when_ready(lambda: logging.getLogger("a library").warning("something is odd"), stop)) == 0
        assert [record["reason"] for record in child.records("watch.degraded")] == ["a library: something is odd"]

    def test_a_stop_while_a_folder_is_slow_to_open(self, child: Child):
        """A signal counts also before every folder is watched."""

        class SlowLock(FolderLock):
            def acquire(self) -> str | None:
                stop()
                threading.Event().wait(30)
                return super().acquire()

        assert child.run(make_lock=SlowLock) == 0
        assert child.events == ["service.started", "service.ready", "service.stopping", "service.stopped"]


def in_a_namespace(*command: str) -> list[str]:
    """Return the command in a user namespace that allows no inotify instance."""
    script = 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", *command]


def can_unshare() -> bool:
    try:
        return subprocess.run(in_a_namespace("true"), capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_unshare(), reason="needs user namespaces")
def test_without_inotify_it_polls(tmp_path):
    """If no inotify instance is left, the folder is polled, and the record names the fix."""
    folder = tmp_path / "in"
    folder.mkdir()
    command = in_a_namespace(sys.executable, "-m", "benchd", "watch", str(folder))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        records = []
        while not records or records[-1]["event"] != "service.ready":
            records.append(json.loads(process.stdout.readline()))
        (folder / "a.json").write_bytes(audit())
        until(lambda: answers(folder / "a.json"))
        process.terminate()
        process.communicate(timeout=20)
        assert process.returncode == 0
    assert "max_user_instances" in next(r["reason"] for r in records if r["event"] == "watch.degraded")
    assert [r["backend"] for r in records if r["event"] == "watch.started"] == ["polling"]
