"""One audit, end to end, on real files with a real trail."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from benchd.answering import batch as module
from benchd.answering import retry as patience
from benchd.answering import sandbox as isolated
from benchd.answering.batch import Answering, Outcome, Result, give_back
from benchd.audit.refusals import refusal
from benchd.bench.seal import unbroken
from benchd.folder import flushing
from benchd.folder.folder import Folder, Tally
from benchd.inbox import Inbox, Trigger, Work
from benchd.settings.keys import BenchSettings, FolderSettings
from benchd.trail.trail import Trail, TrailFile
from corpus import AUDITS
from daemon import answers, audit, config_of, read_json, report_of, reports, temporary_files, until


class Desk:
    """A folder, a trail, and what answers."""

    def __init__(self, home: Path, *, settle: float = 0.0, max_bytes: int = 10**6, **bench: Any) -> None:
        self.home = home
        self.path = home / "inbox"
        self.path.mkdir(exist_ok=True)
        self.folder = self.over(max_bytes=max_bytes, **bench)
        self.trail_path = home / "trail.jsonl"
        self.trail = Trail(TrailFile(str(self.trail_path)), level="debug")
        self.answering = Answering(self.trail, settle=settle)

    def over(self, *, max_bytes: int = 10**6, **bench: Any) -> Folder:
        """The folder under such settings."""
        settings = FolderSettings(path=str(self.path), bench=BenchSettings(**bench))
        return Folder(settings, max_bytes=max_bytes)

    def work(self, name: str, trigger: Trigger = "closed") -> Work:
        return Work(self.folder, name, trigger)

    def answer(self, name: str, trigger: Trigger = "closed") -> Result:
        [result] = self.answering.answer([self.work(name, trigger)])
        return result

    def records(self) -> list[dict[str, Any]]:
        if not self.trail_path.exists():
            return []
        return [json.loads(line) for line in self.trail_path.read_bytes().splitlines()]

    def events(self) -> list[str]:
        return [record["event"] for record in self.records()]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def path(desk: Desk) -> Path:
    path = desk.path / "audit.json"
    path.write_bytes(audit(1))
    return path


class TestSelected:
    def test_answers(self, desk: Desk, path: Path):
        """An audit gets its config and its record."""
        result = desk.answer(path.name)
        assert (result.outcome, result.strategy, result.error, result.retry_in) == (
            Outcome.SELECTED,
            "flagged",
            None,
            None,
        )
        assert answers(path)
        assert unbroken(config_of(path).read_bytes())
        assert desk.events() == ["audit.selected"]

    @pytest.mark.parametrize("file", ["llama2_allnan__default.json", "llama4_many__pol_empty.json"])
    def test_audit_of_nothing(self, desk: Desk, file: str):
        """An audit in which Gradience found no layer is answered with a warning that says so; no other audit is."""
        (desk.path / file).write_bytes((AUDITS / file).read_bytes())
        assert desk.answer(file).outcome is Outcome.SELECTED
        [record] = desk.records()
        is_of_nothing = file.startswith("llama2_allnan")
        assert record["level"] == ("warning" if is_of_nothing else "info")
        assert ("an audit of nothing: Gradience found 0 LoRA layers" in record["reason"]) is is_of_nothing

    def test_record_is_first(self, desk: Desk, path: Path, monkeypatch: pytest.MonkeyPatch):
        """When the config is published its record is in the trail, and on the disk."""
        seen: list[list[str]] = []
        flushed: list[bool] = []
        publish, flush = module.publish, Trail.flushed

        def publishing(*arguments: Any) -> None:
            seen.append(desk.events())
            assert flushed
            publish(*arguments)

        monkeypatch.setattr(module, "publish", publishing)
        monkeypatch.setattr(Trail, "flushed", lambda self, error: flushed.append(True) or flush(self, error))
        desk.answer(path.name)
        assert seen == [["audit.selected"]]

    def test_not_durable(self, tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch):
        """Without `durable` nobody waits for the disk."""

        def wait(*_: Any) -> None:
            raise AssertionError

        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, wait)
        monkeypatch.setattr(flushing, "syncfs", wait)
        assert Desk(tmp_path, durable=False).answer(path.name).outcome is Outcome.SELECTED

    @pytest.mark.parametrize("together", [True, False])
    def test_durable(self, desk: Desk, together: bool, monkeypatch: pytest.MonkeyPatch):
        """All that a batch writes is waited for at once where that can be, else file by file; then its directories."""
        waits: list[str] = []
        for name in ("fsync", "fdatasync"):
            monkeypatch.setattr(os, name, lambda _, name=name: waits.append(name))
        monkeypatch.setattr(module, "begin_to_flush", lambda _: waits.append("begin"))

        def flush_together(_descriptor: int, _device: int, spared: int) -> bool:
            return together and spared > 1 and waits.append("together") is None

        monkeypatch.setattr(module, "flush_together", flush_together)
        (desk.path / "sub").mkdir()
        names = ["a.json", "b.json", "sub/c.json"]
        for number, name in enumerate(names):
            (desk.path / name).write_bytes(audit(number))
        results = desk.answering.answer([desk.work(name) for name in names])
        assert {result.outcome for result in results} == {Outcome.SELECTED}
        # The trail and three contents, then two directories.
        alone = ["fdatasync"] + ["begin"] * 3 + ["fdatasync"] * 3 + ["fsync"] * 2
        assert waits == (["together"] * 2 if together else alone)
        waits.clear()
        (desk.path / "lone.json").write_bytes(audit())
        assert desk.answer("lone.json").outcome is Outcome.SELECTED
        assert waits == ["begin", *(["together"] if together else ["fdatasync"] * 2), "fsync"]

    def test_batch(self, desk: Desk):
        """One bad file, one that is gone and one that is no audit cost the others of their batch nothing."""
        (desk.path / "sub").mkdir()
        contents = {"a.json": audit(1), "b.json": b"{", "c.json": b"{}", "sub/d.json": audit(2)}
        for name, content in contents.items():
            (desk.path / name).write_bytes(content)
        batch = [desk.work(name) for name in (*contents, "gone.json", "no/such/place.json")]
        results = {result.work.relative: result.outcome for result in desk.answering.answer(batch)}
        assert results == {
            "a.json": Outcome.SELECTED,
            "b.json": Outcome.REJECTED,
            "c.json": Outcome.IGNORED,
            "sub/d.json": Outcome.SELECTED,
            "gone.json": Outcome.GONE,
            "no/such/place.json": Outcome.GONE,
        }

    def test_leaks_nothing(self, desk: Desk, path: Path):
        """All descriptors are closed again."""
        desk.answer(path.name)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            desk.answer(path.name)
        assert len(os.listdir("/proc/self/fd")) == before

    def test_same_bytes_everywhere(self, tmp_path: Path, path: Path):
        """The folder, the time and the trigger leave no mark in the config."""
        (tmp_path / "other").mkdir()
        desk, other = Desk(tmp_path), Desk(tmp_path / "other")
        shutil.copy(path, other.path)
        desk.answer(path.name, "closed")
        other.answer(path.name, "scan")
        assert config_of(path).read_bytes() == config_of(other.path / path.name).read_bytes()

    def test_link_on_the_way(self, desk: Desk, path: Path, tmp_path: Path):
        """A folder that was swapped for a link since its event is not entered."""
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "audit.json").write_bytes(audit(1))
        (desk.path / "sub").symlink_to(outside)
        assert desk.answer("sub/audit.json").outcome is Outcome.GONE
        assert os.listdir(outside) == ["audit.json"]

    def test_changed_while_it_was_answered(self, desk: Desk, path: Path, monkeypatch: pytest.MonkeyPatch):
        """An answer to content that has just changed is thrown away, unrecorded, and made again at once."""
        real = module.write_temporary

        def write(*arguments: Any, **options: Any) -> str:
            path.write_bytes(audit(12345678))
            return real(*arguments, **options)

        monkeypatch.setattr(module, "write_temporary", write)
        result = desk.answer(path.name)
        assert result.outcome is Outcome.DEFERRED
        assert 0 < result.retry_in < 0.1
        assert desk.events() == []
        assert not config_of(path).exists()
        assert not temporary_files(desk.path)
        monkeypatch.undo()
        assert desk.answer(path.name).outcome is Outcome.SELECTED
        assert answers(path)

    def test_deleted_while_it_was_answered(self, desk: Desk, path: Path, monkeypatch: pytest.MonkeyPatch):
        """An audit that is deleted meanwhile gets no config."""
        real = module.write_temporary

        def write(*arguments: Any, **options: Any) -> str:
            path.unlink()
            return real(*arguments, **options)

        monkeypatch.setattr(module, "write_temporary", write)
        work = desk.work(path.name)
        [result] = desk.answering.answer([work])
        assert result.outcome is Outcome.DEFERRED
        assert desk.answering.answer([work])[0].outcome is Outcome.GONE
        assert os.listdir(desk.path) == []

    def test_report_edited_while_it_was_answered(self, desk: Desk, monkeypatch: pytest.MonkeyPatch):
        """An error report that a person puts there meanwhile is looked at before it is replaced."""
        path = desk.path / "bad.json"
        path.write_bytes(b"{]")
        real = module.write_temporary

        def write(*arguments: Any, **options: Any) -> str:
            report_of(path).write_bytes(b"a note")
            return real(*arguments, **options)

        monkeypatch.setattr(module, "write_temporary", write)
        assert desk.answer(path.name).outcome is Outcome.DEFERRED
        assert report_of(path).read_bytes() == b"a note"
        assert not temporary_files(desk.path)

    def test_two_with_one_config(self, desk: Desk, path: Path):
        """Of `x` and `x.json` in one batch one is answered, and the other told so; no record says otherwise."""
        twin = path.with_suffix("")
        shutil.copy(path, twin)
        works = [desk.work(path.name), desk.work(twin.name)]
        assert [result.outcome for result in desk.answering.answer(works)] == [Outcome.DEFERRED, Outcome.SELECTED]
        assert desk.events() == ["audit.selected"]
        assert desk.answering.answer(works[1:])[0].outcome is Outcome.KEPT
        assert answers(path)


class TestUnchanged:
    def test_answered_before(self, desk: Desk, path: Path):
        """A second hint about the same content changes nothing, whatever the clock can tell."""
        desk.answer(path.name)
        before = config_of(path).stat().st_ino
        for _ in range(3):
            assert desk.answer(path.name).outcome is Outcome.UNCHANGED
        assert config_of(path).stat().st_ino == before
        assert desk.events() == ["audit.selected"] + ["audit.unchanged"] * 3

    def test_touched(self, desk: Desk, path: Path):
        """A newer time stamp on the same content makes the hash decide, once."""
        desk.answer(path.name)
        old = os.stat(config_of(path)).st_mtime_ns
        os.utime(config_of(path), ns=(old - 10**9, old - 10**9))
        assert desk.answer(path.name).outcome is Outcome.UNCHANGED
        assert config_of(path).stat().st_mtime_ns >= old
        assert desk.records()[-1]["reason"] == "same content, same answer"

    def test_force(self, desk: Desk, path: Path):
        """`force` answers anew; the bytes are the same."""
        desk.answer(path.name)
        before = config_of(path).read_bytes()
        forced = Answering(desk.trail, settle=0, force=True)
        [result] = forced.answer([desk.work(path.name)])
        assert result.outcome is Outcome.SELECTED
        assert config_of(path).read_bytes() == before

    def test_a_stale_report_goes(self, desk: Desk, path: Path):
        """Good, bad, the same good again: the config answers it, and the report about the bad one is gone."""
        good = path.read_bytes()
        desk.answer(path.name)
        path.write_bytes(b"rubbish")
        assert desk.answer(path.name).outcome is Outcome.REJECTED
        path.write_bytes(good)
        assert desk.answer(path.name).outcome is Outcome.UNCHANGED
        assert not report_of(path).exists()
        path.write_bytes(b"rubbish")
        desk.answer(path.name)
        config_of(path).write_bytes(b"mine")
        path.write_bytes(good)
        assert desk.answer(path.name).outcome is Outcome.KEPT
        assert not report_of(path).exists()

    def test_rejected_before(self, desk: Desk, path: Path):
        """A second look at the same bad content is no second rejection, but still an error for a summary."""
        path.write_bytes(b"rubbish")
        desk.answer(path.name)
        result = desk.answer(path.name)
        assert (result.outcome, result.error) == (
            Outcome.UNCHANGED,
            "not JSON at line 1, column 1: Expecting value; near: rubbish [not_json]",
        )
        assert desk.events().count("audit.rejected") == 1

    def test_same_report_again(self, desk: Desk, path: Path):
        """A bad file that is written anew with the same content keeps its report."""
        path.write_bytes(b"rubbish")
        desk.answer(path.name)
        before = report_of(path).stat().st_ino
        os.utime(report_of(path), (1, 1))
        assert desk.answer(path.name).outcome is Outcome.UNCHANGED
        assert report_of(path).stat().st_ino == before
        assert desk.events().count("audit.rejected") == 1


class TestRejected:
    def test_report(self, desk: Desk, path: Path):
        """The report says code, message and hint, as the record does."""
        path.write_bytes(b"{]")
        result = desk.answer(path.name)
        assert result.outcome is Outcome.REJECTED
        report, [record] = read_json(report_of(path)), desk.records()
        assert {key: report[key] for key in ("code", "message", "hint")} == {
            key: record[key] for key in ("code", "message", "hint")
        }
        assert unbroken(report_of(path).read_bytes())

    def test_mended(self, desk: Desk, path: Path):
        """The report goes with the config's arrival."""
        path.write_bytes(b"{]")
        desk.answer(path.name)
        path.write_bytes(audit(1))
        assert desk.answer(path.name).outcome is Outcome.SELECTED
        assert answers(path)
        assert not report_of(path).exists()

    def test_foreign_report(self, desk: Desk, path: Path):
        """A person's file in the report's place stays, when the audit is bad and when it is good again."""
        report_of(path).write_bytes(b"notes")
        path.write_bytes(b"{]")
        assert desk.answer(path.name).outcome is Outcome.REJECTED
        assert report_of(path).read_bytes() == b"notes"
        path.write_bytes(audit(1))
        desk.answer(path.name)
        assert report_of(path).read_bytes() == b"notes"
        assert answers(path)

    def test_no_reports(self, tmp_path: Path):
        """With `error_reports = false` the trail alone tells."""
        desk = Desk(tmp_path, error_reports=False)
        bad = desk.path / "bad.json"
        bad.write_bytes(b"{]")
        assert desk.answer("bad.json").outcome is Outcome.REJECTED
        assert os.listdir(desk.path) == ["bad.json"]
        assert desk.events() == ["audit.rejected"]

    def test_too_large(self, tmp_path: Path):
        """The size is in the report, so that a higher limit lifts it."""
        desk = Desk(tmp_path, max_bytes=10)
        (desk.path / "a.json").write_bytes(audit(1))
        assert desk.answer("a.json").outcome is Outcome.REJECTED
        assert read_json(desk.path / "a.bench-error.json")["provenance"]["audit_bytes"] == len(audit(1))


class TestUnfinished:
    def test_closed_and_bad_waits_for_settle(self, tmp_path: Path):
        """A bad file is looked at again until it has been unchanged for `settle`, then rejected; recorded once."""
        desk = Desk(tmp_path, settle=0.15)
        (desk.path / "a.json").write_bytes(b"{")
        work = desk.work("a.json")
        waits = []
        while (result := desk.answering.answer([work])[0]).outcome is Outcome.DEFERRED:
            assert result.retry_in is not None
            waits.append(result.retry_in)
        assert result.outcome is Outcome.REJECTED
        assert 0 < min(waits) <= max(waits) <= 0.15
        assert desk.events() == ["audit.deferred", "audit.rejected"]

    def test_long_unchanged(self, desk: Desk):
        """A bad file that has been lying there for longer than `settle` is rejected at the first look."""
        desk.answering = Answering(desk.trail, settle=0.05)
        path = desk.path / "a.json"
        path.write_bytes(b"{")
        changed = path.stat().st_ctime
        until(lambda: time.time() > changed + 0.06)
        assert desk.answer("a.json", "scan").outcome is Outcome.REJECTED

    def test_writer_is_waited_for(self, desk: Desk):
        """While a process holds the file open for writing it is never rejected, and the waits grow."""
        path = desk.path / "a.json"
        work = desk.work("a.json", "created")
        with path.open("wb") as file:
            waits = [desk.answering.answer([work])[0].retry_in for _ in range(4)]
            assert waits == [0.05, 0.1, 0.2, 0.4]
            file.write(b"{")
            file.flush()
            assert desk.answering.answer([work])[0].retry_in == 0.05
        assert desk.answering.answer([work])[0].outcome is Outcome.REJECTED

    @pytest.mark.parametrize(
        ("content", "expected"),
        [(b"", Outcome.DEFERRED), (b"    computing SVD and metrics for layer: x\n", Outcome.DEFERRED)],
        ids=["empty", "progress lines"],
    )
    def test_nobody_can_tell(self, desk: Desk, content: bytes, expected: Outcome, monkeypatch: pytest.MonkeyPatch):
        """Where the system doesn't tell of writers, what a running gradience leaves gets an hour, the rest doesn't."""
        monkeypatch.setattr(module, "has_writer", lambda *_: None)
        (desk.path / "a.json").write_bytes(content)
        (desk.path / "b.json").write_bytes(b"{")
        assert desk.answer("a.json", "scan").outcome is expected
        assert desk.answer("b.json", "scan").outcome is Outcome.REJECTED
        monkeypatch.setattr(patience, "_ABANDONED", 0.0)
        assert desk.answer("a.json", "scan").outcome is Outcome.REJECTED

    def test_unchanged_content_is_not_read_again(self, desk: Desk, monkeypatch: pytest.MonkeyPatch):
        """While only the time passes, the earlier verdict stands without another read."""
        path = desk.path / "a.json"
        work = desk.work("a.json", "created")
        with path.open("wb") as file:
            file.write(b"{")
            file.flush()
            desk.answering.answer([work])

            def read(*_: Any) -> None:
                raise AssertionError

            monkeypatch.setattr(module, "read_regular", read)
            assert desk.answering.answer([work])[0].outcome is Outcome.DEFERRED

    def test_good_file_with_a_writer(self, desk: Desk):
        """A file that is whole is answered, though its writer still holds it."""
        path = desk.path / "a.json"
        with path.open("wb") as file:
            file.write(audit(1))
            file.flush()
            assert desk.answer("a.json", "created").outcome is Outcome.SELECTED


class TestKept:
    def test_edited(self, desk: Desk, path: Path):
        """An edited config stays; when a person moves it away the next scan gives the answer."""
        desk.answer(path.name)
        edited = config_of(path).read_bytes().replace(b'"rank": 8', b'"rank": 9')
        config_of(path).write_bytes(edited)
        path.write_bytes(audit(12345678))
        assert desk.answer(path.name).outcome is Outcome.KEPT
        assert config_of(path).read_bytes() == edited
        assert desk.records()[-1]["config"] == str(config_of(path))
        assert self.scan(desk) == []
        config_of(path).unlink()
        assert self.scan(desk) == [path.name]

    @staticmethod
    def scan(desk: Desk) -> list[str]:
        def failed(relative: str, error: OSError) -> None:
            raise error

        return list(desk.folder.scan(Tally(), entering=lambda *_: None, failed=failed))

    def test_force_keeps_too(self, desk: Desk, path: Path):
        """Not even `force` overwrites a person's work."""
        config_of(path).write_bytes(b"mine")
        [result] = Answering(desk.trail, settle=0, force=True).answer([desk.work(path.name)])
        assert result.outcome is Outcome.KEPT
        assert config_of(path).read_bytes() == b"mine"

    def test_of_another_audit(self, desk: Desk, path: Path):
        """The config of `audit` without an ending stands where that of `audit.json` would: the first keeps it."""
        (desk.path / "audit").write_bytes(audit(2))
        assert desk.answer("audit").outcome is Outcome.SELECTED
        assert desk.answer("audit.json").outcome is Outcome.KEPT
        assert "answers another audit, audit" in desk.records()[-1]["reason"]

    def test_sealed_copy(self, desk: Desk, path: Path):
        """A config of benchd's that was copied or renamed with its audit is nobody's work: the audit gets its own."""
        desk.answer(path.name)
        other = desk.path / "other.json"
        other.write_bytes(audit(2))
        shutil.copy(config_of(path), config_of(other))
        assert desk.answer("other.json").outcome is Outcome.SELECTED
        assert answers(other)


class TestTrouble:
    def test_write_failed(self, desk: Desk, path: Path, monkeypatch: pytest.MonkeyPatch):
        """A write that fails is recorded with a growing wait, at most a minute, until it works."""

        def fail(*_: Any, **__: Any) -> str:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module, "write_temporary", fail)
        work = desk.work(path.name)
        waits = []
        for _ in range(8):
            [result] = desk.answering.answer([work])
            assert result.outcome is Outcome.FAILED
            assert "can't write: No space left on device" in str(result.error)
            waits.append(result.retry_in)
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
        assert [record["attempt"] for record in desk.records()] == list(range(1, 9))
        assert set(desk.events()) == {"config.write_failed"}
        monkeypatch.undo()
        assert desk.answering.answer([work])[0].outcome is Outcome.SELECTED

    def test_place_is_a_folder(self, desk: Desk, path: Path):
        """A folder in the config's place is left alone, like any other thing that is not benchd's."""
        config_of(path).mkdir()
        assert desk.answer(path.name).outcome is Outcome.KEPT
        assert not temporary_files(desk.path)

    def test_publishing_fails(self, desk: Desk, path: Path, monkeypatch: pytest.MonkeyPatch):
        """A rename that fails leaves no temporary file, and is tried again."""

        def fail(*_: Any, **__: Any) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "rename", fail)
        result = desk.answer(path.name)
        assert (result.outcome, result.retry_in) == (Outcome.FAILED, 1.0)
        assert desk.events() == ["audit.selected", "config.write_failed"]
        assert not temporary_files(desk.path)

    @pytest.mark.parametrize("before", [False, True])
    def test_a_person_is_quicker(self, desk: Desk, path: Path, monkeypatch: pytest.MonkeyPatch, before: bool):
        """What a person saves in the config's place between the decision and its publication is not overwritten."""
        if before:
            desk.answer(path.name)
            path.write_bytes(audit(12345678))
        real = module._changed

        def changed(*arguments: Any) -> bool:
            config_of(path).write_bytes(b"mine")  # after the last look at the config's place
            return real(*arguments)

        monkeypatch.setattr(module, "_changed", changed)
        assert desk.answer(path.name).outcome is Outcome.DEFERRED
        monkeypatch.undo()
        assert desk.answer(path.name).outcome is Outcome.KEPT
        assert config_of(path).read_bytes() == b"mine"
        assert not temporary_files(desk.path)

    def test_directory_that_knows_no_flush(self, desk: Desk, path: Path, monkeypatch: pytest.MonkeyPatch):
        """Some file systems refuse to flush a directory: that is no failed write."""

        def refuse(_: int) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr(os, "fsync", refuse)
        assert desk.answer(path.name).outcome is Outcome.SELECTED

    def test_changing_all_the_time(self, desk: Desk, path: Path, monkeypatch: pytest.MonkeyPatch):
        """A file that changes faster than it can be answered is looked at less and less often."""
        monkeypatch.setattr(module, "_changed", lambda *_: True)
        work = desk.work(path.name)
        answering = Answering(desk.trail, settle=0)
        waits = [answering.answer([work])[0].retry_in or 0.0 for _ in range(12)]
        assert waits == sorted(waits)
        assert waits[-1] == 1.0

    def test_flush_fails(self, desk: Desk, path: Path, monkeypatch: pytest.MonkeyPatch):
        """A directory that can't be flushed is a failed write: the answer may not last."""

        def fail(_: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fsync", fail)
        result = desk.answer(path.name)
        assert result.outcome is Outcome.FAILED
        assert "can't write: Input/output error" in str(result.error)

    @pytest.mark.parametrize(
        ("error", "reason"),
        [(ValueError("a bug"), "ValueError: a bug"), (OSError(24, "Too many open files"), "Too many open files")],
    )
    def test_own_trouble(self, desk: Desk, path: Path, error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch):
        """A bug or a lack of descriptors costs one record and a retry, never the batch."""
        real = module.decide

        def fail(content: bytes, *, name: str, **options: Any) -> Any:
            if name == "audit.json":
                raise error
            return real(content, name=name, **options)

        monkeypatch.setattr(module, "decide", fail)
        (desk.path / "good.json").write_bytes(audit(2))
        results = desk.answering.answer([desk.work("audit.json"), desk.work("good.json")])
        assert [result.outcome for result in results] == [Outcome.FAILED, Outcome.SELECTED]
        [record] = [record for record in desk.records() if record["event"] == "audit.failed"]
        assert (record["error"], record["attempt"], record["retry_in_s"]) == (reason, 1, 1.0)

    def test_trouble_after_the_temporary_file(self, desk: Desk, path: Path, monkeypatch: pytest.MonkeyPatch):
        """Whatever goes wrong between writing and publishing, the temporary file goes."""

        def fail(*_: Any, **__: Any) -> str:
            raise RuntimeError("a bug")

        monkeypatch.setattr(module, "selected", fail)
        assert desk.answer(path.name).outcome is Outcome.FAILED
        assert os.listdir(desk.path) == ["audit.json"]

    def test_folder_that_may_not_be_opened(self, desk: Desk, path: Path, monkeypatch: pytest.MonkeyPatch):
        """A lack of rights on the folder is tried again; it is nothing that the audit did."""

        def fail(_: str = "") -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(desk.folder, "open", fail)
        result = desk.answer(path.name)
        assert (result.outcome, result.error) == (Outcome.FAILED, "Permission denied")


def large(number: int = 0, *, size: int = 2 * 2**20, more: bytes = b"") -> bytes:
    """A usable audit of at least `size` bytes, most of them text before the JSON."""
    text = b"    computing SVD and metrics for layer: x\n"
    return text * (size // len(text) + 1) + b"{\n" + audit(number)[1:-1] + more + b"}\n"


def test_what_waits_holds_no_content(desk: Desk, path: Path):
    """The verdict on a file that may be unfinished does not keep the file in memory."""
    path.write_bytes(b'{"x": "' + b"y" * 100_000)
    work = desk.work(path.name, "scan")
    with path.open("ab"):
        [result] = desk.answering.answer([work])
    assert result.outcome is Outcome.DEFERRED
    assert work.verdict is not None
    assert (work.verdict.__traceback__, work.verdict.__context__) == (None, None)


class TestLarge:
    @pytest.fixture
    def apart(self, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """The sizes of what was decided in a process of its own."""
        sizes: list[int] = []
        real = isolated.decide_isolated

        def note(descriptor: int, *, size: int, **options: Any) -> Any:
            sizes.append(size)
            return real(descriptor, size=size, **options)

        monkeypatch.setattr(isolated, "decide_isolated", note)
        return sizes

    @pytest.fixture
    def desk(self, tmp_path: Path) -> Desk:
        return Desk(tmp_path, max_bytes=40 * 2**20)

    def test_passed_over(self, desk: Desk, path: Path):
        """Who answers the small ones leaves the large ones, whatever they are, to the lane of those."""
        path.write_bytes(large())
        small = desk.path / "small.json"
        small.write_bytes(audit(2))
        results = desk.answering.answer([desk.work("audit.json"), desk.work("small.json")], large=False)
        outcomes = {result.work.relative: result.outcome for result in results}
        assert outcomes == {"audit.json": Outcome.LARGE, "small.json": Outcome.SELECTED}
        assert not answers(path)

    def test_as_gradience_writes_it(self, desk: Desk, path: Path, apart: list[int]):
        """A large audit that looks like one is read at once, without a process."""
        path.write_bytes(large())
        assert desk.answer(path.name).outcome is Outcome.SELECTED
        assert answers(path)
        assert apart == []

    @pytest.mark.parametrize(
        "more",
        [
            b', "per_module": {"gain": [' + b"[]," * 10**5 + b"[]]}",
            b', "per_module_gain": [' + b'{"module":""},' * 10**5 + b'{"module":""}]',
            b', "per_module_gain": [5]',
        ],
        ids=["dense", "crowded", "odd"],
    )
    def test_odd(self, desk: Desk, path: Path, apart: list[int], more: bytes):
        """What is dense, or wants the tolerant reader, goes to a process of its own, and gets its answer."""
        path.write_bytes(large(more=more))
        assert desk.answer(path.name).outcome is Outcome.SELECTED
        assert answers(path)
        assert apart == [path.stat().st_size]
        assert temporary_files(desk.path) == []

    def test_very_large(self, desk: Desk, path: Path, apart: list[int]):
        """Beyond 16 MiB everything goes there; a second look compares hashes without one."""
        path.write_bytes(large(size=17 * 2**20))
        assert desk.answer(path.name).outcome is Outcome.SELECTED
        assert answers(path)
        os.utime(path)
        os.utime(config_of(path))
        assert desk.answer(path.name).outcome is Outcome.UNCHANGED
        assert apart == [path.stat().st_size]

    def test_bad(self, desk: Desk, path: Path):
        """A rejection from there has the content's hash."""
        path.write_bytes(large()[:-3])
        assert desk.answer(path.name).outcome is Outcome.REJECTED
        report = read_json(report_of(path))
        assert report["code"] == "truncated"
        assert report["provenance"]["audit_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


class TestDryRun:
    def test_writes_nothing(self, desk: Desk, path: Path):
        """A dry run decides, and leaves the folder and the trail as they are."""
        (desk.path / "bad.json").write_bytes(b"{]")
        dry = Answering(desk.trail, settle=0, dry_run=True)
        results = dry.answer([desk.work("audit.json"), desk.work("bad.json")])
        assert [result.outcome for result in results] == [Outcome.SELECTED, Outcome.REJECTED]
        assert sorted(os.listdir(desk.path)) == ["audit.json", "bad.json"]
        assert desk.events() == []


def test_give_back(desk: Desk, path: Path):
    """What needs another look waits in the inbox; the rest is done."""
    inbox = Inbox()
    for name in ("again", "done"):
        inbox.put(desk.folder, name, "closed")
    again, done = inbox.take(2)
    give_back(inbox, Result(again, Outcome.DEFERRED, retry_in=60.0))
    give_back(inbox, Result(done, Outcome.SELECTED))
    assert inbox.counts() == (0, 1)


@pytest.mark.parametrize(("trigger", "shown"), [("created", "moved"), ("scan", "scan"), ("retry", "retry")])
def test_trigger(desk: Desk, path: Path, trigger: Trigger, shown: str):
    """A link appears whole, as what is moved in does: the trail knows no `created`."""
    desk.answer(path.name, trigger)
    assert desk.records()[0]["trigger"] == shown


def test_names_that_are_not_utf8(desk: Desk):
    """A name of any bytes is answered, and its sidecars are known for its own."""
    path = desk.path / os.fsdecode(b"caf\xe9.json")
    path.write_bytes(audit(1))
    assert desk.answer(path.name).outcome is Outcome.SELECTED
    assert desk.answer(path.name).outcome is Outcome.UNCHANGED
    path.write_bytes(audit(12345678))
    assert desk.answer(path.name).outcome is Outcome.SELECTED
    path.write_bytes(b"{")
    assert desk.answer(path.name).outcome is Outcome.REJECTED
    assert reports(path, "truncated")


class TestWriters:
    def test_a_second_writer_counts_anew(self, tmp_path: Path):
        """Closed and empty, then opened again by a second run: the file has a writer, and is not rejected."""
        desk = Desk(tmp_path)
        path = desk.path / "audit.json"
        path.touch()
        work = desk.work(path.name, "closed")
        answering = Answering(desk.trail, settle=0.05)
        assert answering.answer([work])[0].outcome is Outcome.DEFERRED
        with path.open("wb") as writer:
            os.utime(path)  # as a truncation would
            work.trigger = "retry"
            limit = time.monotonic() + 0.3
            while time.monotonic() < limit:
                assert answering.answer([work])[0].outcome is Outcome.DEFERRED
            writer.write(audit(1))
        assert answering.answer([work])[0].outcome is Outcome.SELECTED

    def test_the_clock_of_a_file_server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """Where nobody tells of writers, a file that seems old is not rejected at its first look: clocks differ."""
        desk = Desk(tmp_path, settle=10.0)
        path = desk.path / "audit.json"
        path.write_bytes(b'{"half": ')
        monkeypatch.setattr(module, "has_writer", lambda *_: None)
        now = time.time() + 3600
        monkeypatch.setattr(time, "time", lambda: now)
        answering = Answering(desk.trail, settle=10.0)
        assert answering.answer([desk.work(path.name, "scan")])[0].outcome is Outcome.DEFERRED
        assert answering.answer([desk.work(path.name, "closed")])[0].outcome is Outcome.REJECTED

    def test_unreadable_is_tried_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """That a file could not be read says nothing of its content: the next look reads it."""
        desk = Desk(tmp_path, settle=10.0)
        path = desk.path / "audit.json"
        path.write_bytes(audit(1))

        def refuse(*_: Any) -> None:
            raise refusal("unreadable", error="Input/output error", who="me")

        monkeypatch.setattr(module, "read_regular", refuse)
        work, answering = desk.work(path.name), Answering(desk.trail, settle=10.0)
        assert answering.answer([work])[0].outcome is Outcome.DEFERRED
        monkeypatch.undo()
        assert answering.answer([work])[0].outcome is Outcome.SELECTED
