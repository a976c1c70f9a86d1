"""The audit trail: records, files, and what happens when they can't be written."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from benchd.audit.refusals import refusal
from benchd.bench.deciding import Decision, decide
from benchd.settings.keys import BenchSettings, SelectionSettings, TrailSettings
from benchd.trail import trail as module
from benchd.trail.console import console_line
from benchd.trail.trail import MAX_LAYERS, Trail, TrailFile, TrailStream, json_line
from daemon import audit


def decided(content: bytes) -> Decision:
    """The answer to an audit by the default settings."""
    return decide(content, name="a.json", selection=SelectionSettings(), bench=BenchSettings())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trail.jsonl"


@pytest.fixture
def trail(path: Path) -> Iterator[Trail]:
    """A trail to a file, with every level."""
    trail = Trail(TrailFile(str(path)), level="debug", name=str(path))
    yield trail
    trail.close()


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def say_everything(trail: Trail, audit_path: str = "/in/a.json") -> None:
    """One record of each kind."""
    decision = decided(audit(1, flagged=False))
    trail.started(version="1", pid=1, settings={"watch": ["/in"], "selection.top_n": 1})
    trail.watch_started("/in", backend="inotify", recursive=True)
    trail.ready(roots=["/in"], duration_ms=1.23456)
    trail.scanned("/in", cause="start", found=1, answered=0, queued=1, duration_ms=1.0, routine=False)
    trail.selected(
        audit_path,
        "closed",
        decision=decision,
        config="/in/a.bench.json",
        duration_ms=1.0,
    )
    trail.rejected(audit_path, "scan", refusal("symlink"))
    trail.deferred(audit_path, "closed", "maybe unfinished: x")
    trail.ignored(audit_path, "poll", "no audit")
    trail.unchanged(audit_path, "retry", "same")
    trail.kept(audit_path, "moved", config="/in/a.bench.json", reason="edited")
    trail.failed(audit_path, "command", error="x", attempt=1, retry_in_s=1.0)
    trail.write_failed(audit_path, "closed", error="x", attempt=1, retry_in_s=1.0)
    trail.watch_overflow("/in", "full")
    trail.watch_degraded("/in", "why", instead="what")
    trail.root_lost("/in", "gone")
    trail.root_restored("/in")
    trail.thread_failed("t", "x", recovery="y")
    trail.reloaded(settings={"watch": ["/in"]})
    trail.reload_failed(["a", "b"])
    trail.stopping(signal="SIGTERM")
    trail.stopped(answered=1, rejected=2, waiting=3)


class TestRecords:
    def test_head(self, trail: Trail, path: Path):
        """Every record begins with when, how bad and what."""
        say_everything(trail)
        for record in records(path):
            assert list(record)[:3] == ["ts", "level", "event"]
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", record["ts"])

    def test_schema(self, trail: Trail, path: Path):
        """Every kind of record is what the schema says."""
        schema = json.loads((resources.files("benchd") / "schemas" / "trail-record.schema.json").read_text("utf-8"))
        validator = Draft202012Validator(schema)
        say_everything(trail)
        seen = records(path)
        assert len({record["event"] for record in seen}) == 21
        problems = [f"{record['event']}: {error.message}" for record in seen for error in validator.iter_errors(record)]
        assert problems == []
        assert list(validator.iter_errors({**seen[0], "event": "audit.selected"})), "the schema can refuse"

    @pytest.mark.parametrize(("level", "expected"), [("debug", 21), ("info", 18), ("warning", 9), ("error", 5)])
    def test_level(self, path: Path, level: str, expected: int):
        """Records below the level are left out."""
        say_everything(Trail(TrailFile(str(path)), level=level))
        assert len(records(path)) == expected

    def test_few_layers(self, trail: Trail, path: Path):
        """A record names a few layers, and says how many there are."""
        document = json.loads(audit(1))
        analysis = document["policy_disagreement_analysis"]
        entry = analysis["flagged_layers"][0]
        analysis["flagged_layers"] = [{**entry, "layer_name": f"layers.{number}"} for number in range(50)]
        decision = decided(json.dumps(document).encode())
        trail.selected("/a.json", "scan", decision=decision, config="/a", duration_ms=0.0)
        [record] = records(path)
        assert len(record["layers"]) == MAX_LAYERS
        assert record["layers_total"] == 50
        assert list(record["layers"][0]) == ["name", "priority", "score", "rank", "rank_source"]

    def test_routine_scans_are_quiet(self, trail: Trail, path: Path):
        """A rescan that found nothing is a matter of debugging; one that did is not."""
        counts = {"cause": "rescan", "found": 1, "answered": 1, "duration_ms": 1.0, "routine": True}
        trail.scanned("/in", queued=0, **counts)
        trail.scanned("/in", queued=1, **counts)
        assert [record["level"] for record in records(path)] == ["debug", "info"]

    def test_on_the_disk_when_said(self, trail: Trail, path: Path):
        """A record is in the file when the call returns."""
        for number in range(3):
            trail.root_restored(str(number))
            assert records(path)[-1]["root"] == str(number)

    def test_threads(self, trail: Trail, path: Path):
        """Records of many threads never mix."""
        threads = [
            threading.Thread(target=lambda: [trail.root_restored("x" * 3000) for _ in range(100)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(records(path)) == 400

    def test_together(self, trail: Trail, path: Path):
        """What a thread says together comes at the end, in order; others need not wait for it."""
        with trail.together():
            trail.ignored("/in/1.json", "scan", "first")
            trail.ignored("/in/2.json", "scan", "second")
            thread = threading.Thread(target=lambda: trail.ignored("/in/3.json", "scan", "between"))
            thread.start()
            thread.join()
            assert [record["reason"] for record in records(path)] == ["between"]
        trail.ignored("/in/4.json", "scan", "after")
        assert [record["reason"] for record in records(path)] == ["between", "first", "second", "after"]

    def test_together_and_not_on_the_disk_yet(self, trail: Trail, path: Path):
        """Each record counts for the bound of what is kept until it is on the disk; a reopened trail keeps nothing."""
        trail.flush_to_disk()
        with trail.together():
            for number in range(3):
                trail.ignored(f"/in/{number}.json", "scan", "together")
        assert len(trail._sink._unflushed or ()) == 3
        trail.reopen(TrailSettings(file=str(path)))
        assert trail._sink._unflushed is None

    def test_flushed_with_other_things(self, trail: Trail, path: Path, monkeypatch: pytest.MonkeyPatch):
        """Whoever flushes the trail's device spares it the wait; else it waits by itself."""
        waits: list[int] = []
        monkeypatch.setattr(os, "fdatasync", waits.append)
        asked: list[int | None] = []
        trail.flush_to_disk(lambda device: asked.append(device) is None)
        trail.ignored("/in/1.json", "scan", "written")
        trail.flush_to_disk(lambda device: asked.append(device) is None)
        assert (asked, waits) == ([None, path.stat().st_dev], [])
        trail.flush_to_disk(lambda _: False)
        assert len(waits) == 1

    def test_nothing_together(self, trail: Trail, path: Path):
        """Whoever had nothing to say writes nothing, and speaks for itself again afterwards, whatever happened."""
        with contextlib.suppress(KeyError), trail.together():
            raise KeyError
        assert not path.exists()
        trail.ignored("/in/1.json", "scan", "alone")
        assert len(records(path)) == 1


class TestAnythingCanBeSaid:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (os.fsdecode(b"caf\xe9"), None),
            (2**70, 2**70),
            ([os.fsdecode(b"\xe9"), 2**70], ["\\xe9", str(2**70)]),
            ({1: {2**70: "x"}}, {"1": {str(2**70): "x"}}),
            ([("a", {"b"})], None),
            (float("nan"), None),
            (object, None),
            (b"bytes", None),
            (True, True),
            (None, None),
        ],
        ids=lambda value: str(value)[:12].encode("ascii", "replace").decode(),
    )
    def test_never_fails(self, value: Any, expected: Any):
        """Surrogates, huge integers, strange keys and objects become something readable."""
        line = json_line({"event": "x", "value": value})
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        found = json.loads(line)
        assert found["event"] == "x"
        if expected is not None:
            assert found["value"] == expected

    def test_surrogates_stay_readable(self):
        """What is readable in a broken name stays so."""
        assert "caf" in json.loads(json_line({"path": os.fsdecode(b"/in/caf\xe9.json")}))["path"]

    def test_records_with_strange_names(self, trail: Trail, path: Path):
        """No record fails for the name of a file."""
        say_everything(trail, os.fsdecode(b"/in/caf\xe9\n.json"))
        assert len(records(path)) == 21

    def test_long_records_are_clipped(self, trail: Trail, path: Path):
        """A record never gets longer than the journal takes in one line, and says that it was clipped."""
        trail.reload_failed(["x" * 10_000] * 20)
        [record] = records(path)
        assert record["clipped"] is True
        assert len(record["problems"]) == 5
        assert path.stat().st_size < 48 * 1024


class TestFile:
    def test_appends(self, path: Path):
        """What is in the file stays."""
        for number in range(2):
            trail = Trail(TrailFile(str(path)))
            trail.root_restored(str(number))
            trail.close()
        assert [record["root"] for record in records(path)] == ["0", "1"]

    def test_rights(self, path: Path):
        """A new file is not for everybody."""
        Trail(TrailFile(str(path))).root_restored("x")
        assert path.stat().st_mode & 0o777 == 0o640

    @pytest.mark.parametrize("rotate", [os.unlink, lambda path: os.rename(path, f"{path}.1")], ids=["delete", "rename"])
    def test_rotation(self, trail: Trail, path: Path, rotate: Callable[[Path], None]):
        """A file that was moved or deleted is made anew; no descriptor is left behind."""
        trail.root_restored("1")
        before = len(os.listdir("/proc/self/fd"))
        rotate(path)
        trail.root_restored("2")
        assert [record["root"] for record in records(path)] == ["2"]
        assert len(os.listdir("/proc/self/fd")) == before

    def test_copytruncate(self, trail: Trail, path: Path):
        """A file that was cut short is written from its start."""
        trail.root_restored("1")
        os.truncate(path, 0)
        trail.root_restored("2")
        assert [record["root"] for record in records(path)] == ["2"]

    def test_torn_by_an_earlier_run(self, trail: Trail, path: Path):
        """A line that an earlier run could not finish does not spoil the next record."""
        path.write_bytes(b'{"ts": "2026')
        trail.root_restored("1")
        torn, whole = path.read_bytes().splitlines()
        assert torn == b'{"ts": "2026'
        assert json.loads(whole)["root"] == "1"

    def test_whole_lines_of_several(
        self, trail: Trail, path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ):
        """A disk that fills up between two records leaves no torn line, and none is thought of."""
        real = os.write

        def write(descriptor: int, text: bytes) -> int:
            if descriptor == 2:
                return real(descriptor, text)
            line = text.partition(b"\n")[0] + b"\n"
            if b'"1"' not in line:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(descriptor, line)

        trail.root_restored("0")
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with trail.together():
                trail.root_restored("1")
                trail.root_restored("2")
        trail.root_restored("3")
        assert [record["root"] for record in records(path)] == ["0", "1", "3"]
        assert '"2"' in capfd.readouterr().err

    def test_torn_by_a_full_disk(
        self, trail: Trail, path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ):
        """A record that was cut off is said on stderr, and the next one begins on a line of its own."""
        real = os.write
        trail.root_restored("1")
        room = [20]

        def write(descriptor: int, line: bytes) -> int:
            if descriptor == 2:
                return real(descriptor, line)
            if not room[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            part = line[: room[0]]
            room[0] -= len(part)
            return real(descriptor, part)

        monkeypatch.setattr(module.os, "write", write)
        trail.root_restored("2")
        monkeypatch.undo()
        trail.root_restored("3")
        lines = path.read_bytes().splitlines()
        assert [json.loads(lines[index])["root"] for index in (0, 2)] == ["1", "3"]
        assert len(lines[1]) == 20
        complaint, record = map(json.loads, capfd.readouterr().err.splitlines())
        assert (complaint["event"], complaint["file"], complaint["error"]) == (
            "trail.failed",
            str(path),
            "No space left on device",
        )
        assert record["root"] == "2"

    def test_falls_back(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
        """While the file can't be opened records go to stderr, with one complaint; then back to the file."""
        path = tmp_path / "missing" / "trail.jsonl"
        trail = Trail(TrailFile(str(path)), name=str(path))
        trail.root_restored("1")
        trail.root_restored("2")
        path.parent.mkdir()
        trail.root_restored("3")
        path.unlink()
        path.parent.rmdir()
        trail.root_restored("4")
        seen = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
        assert [record["event"] for record in seen] == [
            "trail.failed",
            *(["watch.root_restored"] * 2),
            "trail.failed",
            "watch.root_restored",
        ]
        assert seen[0]["level"] == "error"

    def test_pipe_without_a_reader(self, path: Path, capfd: pytest.CaptureFixture[str]):
        """A named pipe that nobody reads is not waited for."""
        os.mkfifo(path)
        Trail(TrailFile(str(path)), name=str(path)).root_restored("1")
        assert "trail.failed" in capfd.readouterr().err

    def test_flush(self, path: Path):
        """Flushing is safe before the first record, on a pipe, and after closing."""
        trail = Trail(TrailFile(str(path)))
        trail.flush_to_disk()
        trail.root_restored("1")
        trail.flush_to_disk()
        trail.close()
        trail.close()
        trail.flush_to_disk()
        trail.root_restored("2")
        assert len(records(path)) == 2

    def test_replaced_while_others_write(self, tmp_path: Path):
        """A trail that is replaced again and again under its writers leaves no file open but the last."""
        settings = [TrailSettings(file=str(tmp_path / name)) for name in ("a", "b")]
        trail, done = Trail.open(settings[0]), threading.Event()

        def write() -> None:
            while not done.is_set():
                trail.root_restored("/in")

        writers = [threading.Thread(target=write) for _ in range(3)]
        before = len(os.listdir("/proc/self/fd"))
        for writer in writers:
            writer.start()
        for number in range(400):
            trail.reopen(settings[number % 2])
        done.set()
        for writer in writers:
            writer.join()
        trail.close()
        assert len(os.listdir("/proc/self/fd")) <= before

    def test_failing_disk(self, path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
        """What a flush could not put on the disk may be lost: it is said again on stderr, with the reason."""
        trail = Trail(TrailFile(str(path)), name=str(path))
        trail.flush_to_disk()
        trail.root_restored("1")
        trail.flush_to_disk()

        def fail(_: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        trail.root_restored("2")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            trail.flush_to_disk()
            trail.root_restored("3")
            trail.close()
        said = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
        assert [record.get("root") or record["error"] for record in said] == ["Input/output error", "2", "3"]
        assert [record["root"] for record in records(path)] == ["1", "2", "3"]


class TestOpen:
    def test_standard_output(self, capfd: pytest.CaptureFixture[str]):
        """Without a file records go to stdout, as JSON where that is no terminal."""
        trail = Trail.open(TrailSettings(), console=console_line)
        trail.root_restored("/in")
        trail.flush_to_disk()
        trail.close()
        assert json.loads(capfd.readouterr().out)["root"] == "/in"

    def test_console(self, capfd: pytest.CaptureFixture[str]):
        """`console` is for people, also where stdout is no terminal."""
        Trail.open(TrailSettings(format="console"), console=console_line).root_lost("/in", "gone")
        assert "! /in: gone" in capfd.readouterr().out

    def test_console_without_a_renderer(self, capfd: pytest.CaptureFixture[str]):
        """Who brings no renderer gets JSON."""
        Trail.open(TrailSettings(format="console")).root_restored("/in")
        assert json.loads(capfd.readouterr().out)["root"] == "/in"

    def test_file(self, path: Path):
        """A file gets JSON unless the settings say otherwise."""
        Trail.open(TrailSettings(file=str(path)), console=console_line).root_restored("/in")
        assert records(path)[0]["root"] == "/in"
        path.unlink()
        Trail.open(TrailSettings(file=str(path), format="console"), console=console_line).root_lost("/in", "gone")
        assert b"! /in: gone" in path.read_bytes()

    def test_terminal(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
        """A terminal gets text for people, unless the settings want JSON."""
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        Trail.open(TrailSettings(), console=console_line).root_lost("/in", "gone")
        assert "gone" in capfd.readouterr().out
        Trail.open(TrailSettings(format="json"), console=console_line).root_restored("/in")
        assert json.loads(capfd.readouterr().out)

    def test_reopen(self, tmp_path: Path, trail: Trail, path: Path):
        """Other settings take the next records elsewhere, at another level."""
        trail.root_restored("1")
        other = tmp_path / "other"
        trail.reopen(TrailSettings(file=str(other), level="error"))
        trail.root_restored("2")
        trail.rejected("/a", "scan", refusal("symlink"))
        assert len(records(path)) == 1
        assert [record["event"] for record in records(other)] == ["audit.rejected"]

    def test_journal(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
        """Under systemd each line carries its priority, which the journal takes off again."""
        info = os.fstat(sys.stdout.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{info.st_dev}:{info.st_ino}")
        trail = Trail.open(TrailSettings(level="debug"), console=console_line)
        say_everything(trail)
        lines = capfd.readouterr().out.splitlines()
        levels = {"<7>": "debug", "<6>": "info", "<4>": "warning", "<3>": "error"}
        assert len(lines) == 21
        for line in lines:
            assert json.loads(line[3:])["level"] == levels[line[:3]]

    def test_nobody_listens(self, monkeypatch: pytest.MonkeyPatch):
        """With neither stdout nor stderr the records are lost, and nothing else."""

        def refuse(*_: object) -> int:
            raise OSError(errno.EPIPE, "Broken pipe")

        trail = Trail(TrailStream(1))
        monkeypatch.setattr(module.os, "write", refuse)
        trail.root_restored("1")
