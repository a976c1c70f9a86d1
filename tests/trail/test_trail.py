"""The trail: levels, threads, and the targets that the settings name."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from benchd.settings.keys import TrailSettings
from benchd.trail.console import console_line
from benchd.trail.records import Ignored, RootLost, RootRestored
from benchd.trail.sinks import TrailFile, TrailStream
from benchd.trail.trail import Trail
from sample_records import EVERY


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trail.jsonl"


@pytest.fixture
def trail(path: Path) -> Iterator[Trail]:
    """Return a trail to a file, with every level."""
    trail = Trail(TrailFile(str(path)), level="debug")
    yield trail
    trail.close()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def restored(root: str) -> RootRestored:
    return RootRestored(root=root)


def ignored(number: int, reason: str) -> Ignored:
    return Ignored(audit=f"/in/{number}.json", trigger="scan", reason=reason)


class TestWrite:
    def test_head(self, trail: Trail, path: Path):
        """Every line begins with the time in UTC, the level and the event."""
        for record in EVERY:
            trail.write(record)
        found = lines(path)
        assert len(found) == len(EVERY)
        for line, record in zip(found, EVERY, strict=True):
            assert list(line)[:3] == ["ts", "level", "event"]
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["ts"])
            assert (line["level"], line["event"]) == (record.level, record.__struct_config__.tag)

    @pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
    def test_level(self, path: Path, level: Any):
        """Records below the level are left out."""
        levels = ["debug", "info", "warning", "error"]
        trail = Trail(TrailFile(str(path)), level=level)
        for record in EVERY:
            trail.write(record)
        expected = [record.level for record in EVERY if levels.index(record.level) >= levels.index(level)]
        assert [line["level"] for line in lines(path)] == expected

    def test_written_at_once(self, trail: Trail, path: Path):
        """A record is in the file when `write` returns."""
        for number in range(3):
            trail.write(restored(str(number)))
            assert lines(path)[-1]["root"] == str(number)

    def test_threads(self, trail: Trail, path: Path):
        """Records of several threads never mix."""

        def write() -> None:
            for _ in range(100):
                trail.write(restored("x" * 3000))

        threads = [threading.Thread(target=write) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(lines(path)) == 400

    def test_processes(self, tmp_path: Path):
        """Long records of two processes that share a lock file are never mixed in a pipe."""
        reading, writing = os.pipe()
        trail = Trail(TrailStream(writing))
        trail.share(str(tmp_path / "turns"))
        child = os.fork()
        if child == 0:
            os.close(reading)
            for _ in range(50):
                trail.write(restored("x" * 20_000))
            os._exit(0)
        writer = threading.Thread(target=lambda: [trail.write(restored("y" * 20_000)) for _ in range(50)])
        writer.start()
        threading.Thread(target=lambda: (writer.join(), os.waitpid(child, 0), os.close(writing))).start()
        with open(reading, "rb") as pipe:
            roots = [json.loads(line)["root"] for line in pipe]
        assert sorted(set(roots)) == ["x" * 20_000, "y" * 20_000]
        assert len(roots) == 100
        trail.close()


class TestTogether:
    def test_one_piece(self):
        """Several records reach the sink in one piece and in order, without those below the level."""

        class Pieces:
            name = "pieces"
            written = None
            pieces: ClassVar[list[bytes]] = []

            def write(self, text: bytes) -> None:
                self.pieces.append(text)

            def close(self) -> None:
                pass

        trail = Trail(Pieces(), level="info")
        trail.write(restored("/1"), ignored(2, "below the level"), restored("/3"))
        [piece] = Pieces.pieces
        assert [json.loads(line)["root"] for line in piece.splitlines()] == ["/1", "/3"]

    def test_nothing_to_write(self, trail: Trail, path: Path):
        """Without records nothing is written."""
        trail.write()
        assert not path.exists()


class TestFailures:
    def test_file_cannot_be_written(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
        """Records go to standard error after one `trail.failed` that names the file and the reason."""
        path = str(tmp_path / "missing" / "trail.jsonl")
        trail = Trail(TrailFile(path))
        trail.write(restored("1"))
        trail.write(restored("2"))
        complaint, *rest = map(json.loads, capfd.readouterr().err.splitlines())
        assert complaint.pop("ts")
        assert complaint == {
            "level": "error",
            "event": "trail.failed",
            "file": path,
            "error": "No such file or directory",
        }
        assert [line["root"] for line in rest] == ["1", "2"]

    def test_failing_disk(self, trail: Trail, path: Path, capfd: pytest.CaptureFixture[str]):
        """Records that a flush may have lost are written to standard error."""
        assert trail.unflushed() is None
        trail.write(restored("1"))
        written = trail.unflushed()
        assert written is not None
        assert written.device == path.stat().st_dev
        trail.flushed(None)
        trail.write(restored("2"))
        trail.unflushed()
        trail.flushed(OSError(errno.EIO, os.strerror(errno.EIO)))
        said = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
        assert [line.get("root") or line["error"] for line in said] == ["Input/output error", "2"]
        assert [line["root"] for line in lines(path)] == ["1", "2"]


class TestOpen:
    def test_standard_output(self, capfd: pytest.CaptureFixture[str]):
        """Without a file records go to standard output, as JSON unless it is a terminal."""
        trail = Trail.open(TrailSettings(), console=console_line)
        trail.write(restored("/in"))
        assert trail.unflushed() is None
        trail.close()
        assert json.loads(capfd.readouterr().out)["root"] == "/in"

    def test_console(self, capfd: pytest.CaptureFixture[str]):
        """The format `console` gives text for people, even if standard output is not a terminal."""
        trail = Trail.open(TrailSettings(format="console"), console=console_line)
        trail.write(RootLost(root="/in", reason="gone"))
        assert "! /in: gone" in capfd.readouterr().out

    def test_console_without_a_renderer(self, capfd: pytest.CaptureFixture[str]):
        """The format `console` gives JSON if no function formats the text for people."""
        Trail.open(TrailSettings(format="console")).write(restored("/in"))
        assert json.loads(capfd.readouterr().out)["root"] == "/in"

    def test_file(self, path: Path):
        """A file gets JSON unless the settings ask for `console`."""
        Trail.open(TrailSettings(file=str(path)), console=console_line).write(restored("/in"))
        assert lines(path)[0]["root"] == "/in"
        path.unlink()
        trail = Trail.open(TrailSettings(file=str(path), format="console"), console=console_line)
        trail.write(RootLost(root="/in", reason="gone"))
        assert b"! /in: gone" in path.read_bytes()

    def test_terminal(self, monkeypatch: pytest.MonkeyPatch):
        """A terminal gets text for people, unless the settings ask for JSON."""
        reading, terminal = os.openpty()
        with open(terminal, "w", encoding="utf-8") as stdout, open(reading, "rb", buffering=0) as screen:
            monkeypatch.setattr(sys, "stdout", stdout)
            Trail.open(TrailSettings(), console=console_line).write(RootLost(root="/in", reason="gone"))
            assert b"/in: gone" in screen.read(1000)
            Trail.open(TrailSettings(format="json"), console=console_line).write(restored("/in"))
            assert json.loads(screen.read(1000))["root"] == "/in"

    def test_standard_output_is_closed(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
        """If standard output is closed, records go to standard error."""
        monkeypatch.setattr(sys, "stdout", None)
        Trail.open(TrailSettings()).write(restored("/in"))
        assert json.loads(capfd.readouterr().err)["root"] == "/in"

    def test_journal(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
        """Under systemd each line begins with its priority, which the journal removes."""
        info = os.fstat(sys.stdout.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{info.st_dev}:{info.st_ino}")
        trail = Trail.open(TrailSettings(level="debug"), console=console_line)
        for record in EVERY:
            trail.write(record)
        found = capfd.readouterr().out.splitlines()
        levels = {"<7>": "debug", "<6>": "info", "<4>": "warning", "<3>": "error"}
        assert [levels[line[:3]] for line in found] == [record.level for record in EVERY]
        assert all(json.loads(line[3:])["level"] == levels[line[:3]] for line in found)

    def test_reopen(self, tmp_path: Path, trail: Trail, path: Path):
        """Other settings change the file and the level of the next records."""
        trail.write(restored("1"))
        other = tmp_path / "other"
        trail.reopen(TrailSettings(file=str(other), level="warning"))
        trail.write(restored("2"))
        trail.write(RootLost(root="3", reason="gone"))
        assert [line["root"] for line in lines(path)] == ["1"]
        assert [line["root"] for line in lines(other)] == ["3"]

    def test_replaced_while_others_write(self, tmp_path: Path):
        """A trail that is reopened often while threads write leaves no file open."""
        settings = [TrailSettings(file=str(tmp_path / name)) for name in ("a", "b")]
        trail, done = Trail.open(settings[0]), threading.Event()

        def write() -> None:
            while not done.is_set():
                trail.write(restored("/in"))

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
