"""The life of the daemon: reload, notifications, failures. The units themselves: tests/system/."""

import gc
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchd.service.process import Service, block_signals, changed_settings
from benchd.settings.keys import FolderSettings, Settings
from benchd.settings.reading import parse_settings
from benchd.trail.trail import Trail
from benchd.watching.lock import FolderLock
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


def test_a_folder_is_polled_and_watched_again_by_reloads(daemon):
    """The source of events and the loop of a folder change with its settings; each finds what comes."""
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
    assert daemon.wait(20) == 2
    assert len(daemon.stderr.splitlines()) == 2


def test_the_started_record_has_the_settings_that_differ():
    """Folders, and every setting that is not the default."""
    settings = parse_settings('[[watch]]\npath = "/a"\n[selection]\ntop_n = 5\n[watching]\nsettle = "2s"\n')
    assert changed_settings(settings) == {"watch": ["/a"], "selection.top_n": 5}
    assert json.dumps(changed_settings(settings))


def test_the_started_record_has_the_folders_own_settings():
    """Settings of one folder have the names that `benchd config` shows."""
    text = '[[watch]]\npath = "/a"\nignore = ["x"]\n[watch.selection]\ntop_n = 5\n[watch.bench]\nuniform_rank = 4\n'
    assert changed_settings(parse_settings(text)) == {
        "watch": ["/a"],
        "watch[0].ignore": ("x",),
        "watch[0].selection.top_n": 5,
        "watch[0].bench.uniform_rank": 4,
    }


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


class Recording:
    """A sink that keeps the records, and calls `react` with each event before the write returns."""

    name = "memory"
    written = None

    def __init__(self, react: Callable[[str], None] = lambda _: None) -> None:
        self.records: list[dict[str, Any]] = []
        self._react = react

    def write(self, text: bytes) -> None:
        for line in text.splitlines():
            self.records.append(json.loads(line))
            self._react(self.records[-1]["event"])

    def close(self) -> None:
        """Keep nothing open."""

    @property
    def events(self) -> list[str]:
        return [record["event"] for record in self.records]


@pytest.fixture
def process() -> Iterator[None]:
    """Let this process be a service, and undo that afterwards."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    hooks, handlers = (threading.excepthook, sys.unraisablehook), list(logging.getLogger().handlers)
    block_signals()
    yield
    while signal.sigpending() - mask:
        signal.sigwait(signal.sigpending())
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    threading.excepthook, sys.unraisablehook = hooks
    logging.getLogger().handlers[:] = handlers
    gc.unfreeze()


def service(folder: Path, sink: Recording, **options: Any) -> Service:
    """A service in this process."""
    return Service(Settings(watch=(FolderSettings(path=str(folder)),)), Trail(sink, level="debug"), **options)


@pytest.mark.usefixtures("process")
class TestInThisProcess:
    def test_a_thread_that_dies_is_never_silent(self, tmp_path: Path):
        """It is recorded, and ends the process with a failure, so that a service manager starts it again."""

        def die(event: str) -> None:
            if event == "service.ready":
                threading.Thread(target=lambda: 1 / 0, name="doomed").start()

        sink = Recording(die)
        assert service(tmp_path, sink).run() == 1
        [failed] = [record for record in sink.records if record["event"] == "service.thread_failed"]
        assert failed["thread"] == "doomed"
        assert "ZeroDivisionError" in failed["error"]
        assert "doomed" in next(record["signal"] for record in sink.records if record["event"] == "service.stopping")
        assert sink.events[-1] == "service.stopped"

    def test_an_exception_that_can_not_be_raised_is_recorded(self, tmp_path: Path):
        """An exception in a finalizer is recorded; the service goes on."""

        class Broken:
            def __del__(self) -> None:
                raise ValueError("in a finalizer")

        def break_one(event: str) -> None:
            if event == "service.ready":
                done.append(threading.Thread(target=finalize))
                done[0].start()

        def finalize() -> None:
            Broken()
            os.kill(os.getpid(), signal.SIGTERM)

        done: list[threading.Thread] = []
        sink = Recording(break_one)
        assert service(tmp_path, sink).run() == 0
        [failed] = [record for record in sink.records if record["event"] == "service.thread_failed"]
        assert "in a finalizer" in failed["error"]

    def test_library_warnings_are_in_the_trail(self, tmp_path: Path):
        """What a library logs as a warning is a record."""

        def react(event: str) -> None:
            if event == "service.ready":
                threading.Thread(target=lambda: (warn(), os.kill(os.getpid(), signal.SIGTERM))).start()

        def warn() -> None:
            logging.getLogger("a library").warning("something is odd")

        sink = Recording(react)
        assert service(tmp_path, sink).run() == 0
        assert "a library: something is odd" in [record.get("reason") for record in sink.records]

    def test_a_stop_while_a_folder_is_slow_to_open(self, tmp_path: Path):
        """A signal counts also before every folder is watched."""
        release = threading.Event()

        class SlowLock(FolderLock):
            def acquire(self) -> str | None:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
                release.wait(30)
                return super().acquire()

        sink = Recording()
        slow = service(tmp_path, sink, make_lock=SlowLock)
        assert slow.run() == 0
        assert sink.events == ["service.started", "service.ready", "service.stopping", "service.stopped"]
        release.set()


def in_a_namespace(*command: str) -> list[str]:
    """Return the command for a user namespace in which nobody can have an inotify instance."""
    script = 'echo 0 > /proc/sys/user/max_inotify_instances && exec "$@"'
    return ["unshare", "--user", "--map-root-user", "sh", "-c", script, "sh", *command]


def can_unshare() -> bool:
    try:
        return subprocess.run(in_a_namespace("true"), capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_unshare(), reason="needs user namespaces")
def test_without_inotify_it_polls(tmp_path):
    """With no inotify instance left it polls, and records the remedy."""
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
