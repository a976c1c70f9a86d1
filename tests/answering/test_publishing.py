"""Sidecars -> the folder, in the order that the reliability of benchd is built on."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchd.answering.disk import Disk
from benchd.answering.outcome import Outcome
from benchd.bench.deciding import Decision, decide
from benchd.folder.files import Temporary
from benchd.folder.flushing import FileSystems, Flusher
from benchd.trail.sinks import TrailFile, TrailStream
from benchd.trail.trail import Trail
from daemon import answers, audit, config_of, read_json, report_of, temporary_files
from desk import Desk, LoggedDisk, LoggedSystems, LoggedTrail, Meddled, raises

FULL = OSError(errno.ENOSPC, "No space left on device")
BROKEN = OSError(errno.EIO, "Input/output error")


def logged(desk: Desk, *, together: bool = False) -> tuple[list[str], dict[str, Any]]:
    """Return a log of all steps to the disk, and the options of an `Answering` that writes it."""
    log: list[str] = []
    desk.trail = Trail(LoggedTrail(desk.trail_path, log), level="debug")
    return log, {"disk": LoggedDisk(log), "flusher": Flusher(systems=LoggedSystems(log, together=together))}


class FullServer(Disk):
    """A file server that has no room when a file is closed. Another file gets the descriptor at once."""

    def __init__(self) -> None:
        self.reused: list[int] = []

    def close(self, directory: int, temporary: Temporary) -> Any:
        Disk.close(directory, temporary)
        self.reused.append(os.open("/", os.O_RDONLY))
        assert self.reused[-1] == temporary.descriptor
        raise FULL


def decide_without_record(*arguments: Any, **options: Any) -> Decision:
    """Decide, but so that no record can be made of it."""
    return msgspec.structs.replace(decide(*arguments, **options), selection=None)


class TestOrder:
    def test_of_one(self, desk: Desk, path: Path) -> None:
        """First the record and the content are on the disk, then the config gets its name, then that is on the disk."""
        log, seams = logged(desk)
        assert desk.answer(path.name, **seams).outcome is Outcome.SELECTED
        assert log == [
            "write",
            "record audit.selected",
            "flush file",
            "flush file",
            "close",
            f"publish {config_of(path).name}",
            "flush directory",
        ]

    def test_of_a_rejection(self, desk: Desk, path: Path) -> None:
        """A report is published as a config is."""
        path.write_bytes(b"{]")
        log, seams = logged(desk)
        assert desk.answer(path.name, **seams).outcome is Outcome.REJECTED
        assert log == [
            "write",
            "record audit.rejected",
            "flush file",
            "flush file",
            "close",
            f"publish {report_of(path).name}",
            "flush directory",
        ]

    def test_report_goes_first(self, desk: Desk, path: Path) -> None:
        """A stale report is removed before the config is visible, so that no crash leaves an audit with both."""
        path.write_bytes(b"{]")
        desk.answer(path.name)
        path.write_bytes(audit(1))
        log, seams = logged(desk)
        desk.answer(path.name, **seams)
        assert log[-3:] == [f"remove {report_of(path).name}", f"publish {config_of(path).name}", "flush directory"]

    @pytest.mark.parametrize("together", [True, False])
    def test_of_a_batch(self, desk: Desk, together: bool) -> None:
        """A batch waits once for all contents and the trail if that is possible, and once for each directory."""
        (desk.path / "sub").mkdir()
        for number, name in enumerate(["a.json", "b.json", "sub/c.json"]):
            desk.add(name, audit(number))
        log, seams = logged(desk, together=together)
        assert set(desk.outcomes("a.json", "b.json", "sub/c.json", **seams).values()) == {Outcome.SELECTED}
        visible = [step for name in "abc" for step in ("close", f"publish {name}.bench.json")]
        assert log == [
            *["write"] * 3,
            *["record audit.selected"] * 3,
            *(["flush all"] if together else ["flush file"] * 4),
            *visible,
            *(["flush all"] if together else ["flush directory"] * 2),
        ]

    def test_not_durable(self, tmp_path: Path) -> None:
        """Without `durable` nothing waits for the disk."""
        desk = Desk(tmp_path, durable=False)
        desk.add("audit.json", audit(1))
        log, seams = logged(desk)
        assert desk.answer("audit.json", **seams).outcome is Outcome.SELECTED
        assert log == ["write", "record audit.selected", "publish audit.bench.json"]

    def test_trail_that_can_not_be_flushed(self, desk: Desk, path: Path) -> None:
        """A trail that is no file, such as a pipe, is not flushed; the config is."""
        log: list[str] = []
        reader, writer = os.pipe()
        try:
            desk.trail = Trail(TrailStream(writer))
            assert desk.answer(path.name, flusher=Flusher(systems=LoggedSystems(log))).outcome is Outcome.SELECTED
        finally:
            os.close(reader)
            os.close(writer)
        assert log == ["flush file", "flush directory"]

    def test_trail_that_fails(self, desk: Desk, path: Path) -> None:
        """If only the trail can't be flushed, its records go to standard error and the config is published."""
        second = desk.add("second.json", audit(2))
        fallback = desk.path.parent / "stderr"

        class Failing(LoggedSystems):
            def flush_file(self, descriptor: int) -> None:
                if os.fstat(descriptor).st_ino == desk.trail_path.stat().st_ino:
                    raise BROKEN

        with fallback.open("wb") as stderr:
            desk.trail = Trail(TrailFile(str(desk.trail_path)), fallback=stderr.fileno())
            desk.answer(path.name)
            assert desk.answer(second.name, flusher=Flusher(systems=Failing([]))).outcome is Outcome.SELECTED
        assert answers(second)
        assert [b"trail.failed" in line for line in fallback.read_bytes().splitlines()] == [True, False]


class TestChangedMeanwhile:
    def test_audit_is_changed(self, desk: Desk, path: Path) -> None:
        """An answer to content that has just changed is thrown away without a record, and soon made again."""
        ticket = desk.ticket(path.name)
        disk = Meddled(write=lambda: path.write_bytes(audit(12345678)))
        result = desk.answer(ticket, disk=disk)
        assert result.outcome is Outcome.DEFERRED
        assert 0 < result.retry_in < 0.1
        assert desk.events() == []
        assert desk.names() == [path.name]
        assert desk.answer(ticket).outcome is Outcome.SELECTED
        assert answers(path)

    def test_audit_is_deleted(self, desk: Desk, path: Path) -> None:
        """An audit that is deleted meanwhile gets no config."""
        ticket = desk.ticket(path.name)
        assert desk.answer(ticket, disk=Meddled(write=path.unlink)).outcome is Outcome.DEFERRED
        assert desk.answer(ticket).outcome is Outcome.GONE
        assert desk.names() == []

    def test_audit_changes_all_the_time(self, desk: Desk, path: Path) -> None:
        """A file that changes faster than it can be answered is tried less and less often."""
        ticket, numbers = desk.ticket(path.name), iter(range(100))
        disk = Meddled(write=lambda: path.write_bytes(audit(next(numbers))))
        waits = [desk.answer(ticket, disk=disk).retry_in for _ in range(9)]
        assert waits == [0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]

    def test_report_is_edited(self, desk: Desk) -> None:
        """An error report that a person puts there meanwhile is not replaced."""
        path = desk.add("bad.json", b"{]")
        disk = Meddled(write=lambda: report_of(path).write_bytes(b"a note"))
        assert desk.answer(path.name, disk=disk).outcome is Outcome.DEFERRED
        assert report_of(path).read_bytes() == b"a note"
        assert not temporary_files(desk.path)

    @pytest.mark.parametrize("has_config", [False, True])
    def test_config_is_edited(self, desk: Desk, path: Path, has_config: bool) -> None:
        """A file that a person saves in the config's place before it is published is not replaced."""
        if has_config:
            desk.answer(path.name)
            path.write_bytes(audit(12345678))
        disk = Meddled(close=lambda: config_of(path).write_bytes(b"mine"))
        result = desk.answer(path.name, disk=disk)
        assert (result.outcome, result.error) == (Outcome.DEFERRED, f"{config_of(path).name} changed meanwhile")
        assert desk.answer(path.name).outcome is Outcome.KEPT
        assert config_of(path).read_bytes() == b"mine"
        assert not temporary_files(desk.path)

    def test_config_is_edited_in_place(self, desk: Desk, path: Path) -> None:
        """An edit in place that keeps the size is found by its date."""
        desk.answer(path.name)
        path.write_bytes(audit(12345678))
        edited = bytes(config_of(path).stat().st_size)

        def edit() -> None:
            config_of(path).write_bytes(edited)
            os.utime(config_of(path))

        assert desk.answer(path.name, disk=Meddled(close=edit)).outcome is Outcome.DEFERRED
        assert config_of(path).read_bytes() == edited

    def test_config_is_deleted(self, desk: Desk, path: Path) -> None:
        """A config that is deleted meanwhile is made by the next attempt."""
        desk.answer(path.name)
        path.write_bytes(audit(12345678))
        ticket = desk.ticket(path.name)
        assert desk.answer(ticket, disk=Meddled(close=config_of(path).unlink)).outcome is Outcome.DEFERRED
        assert desk.answer(ticket).outcome is Outcome.SELECTED
        assert answers(path)


class TestTrouble:
    def test_write_fails(self, desk: Desk, path: Path) -> None:
        """A write that fails is recorded, and tried again after 1 s to 1 min until it works."""
        ticket, disk = desk.ticket(path.name), Meddled(write=raises(FULL))
        waits = []
        for _ in range(8):
            result = desk.answer(ticket, disk=disk)
            assert (result.outcome, result.error) == (
                Outcome.FAILED,
                f"can't write: No space left on device: {desk.path}; free some",
            )
            waits.append(result.retry_in)
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
        assert [record["attempt"] for record in desk.records()] == list(range(1, 9))
        assert [record["retry_in_s"] for record in desk.records()] == waits
        assert set(desk.events()) == {"config.write_failed"}
        assert desk.answer(ticket).outcome is Outcome.SELECTED

    def test_folder_is_removed(self, desk: Desk, path: Path) -> None:
        """A folder that is deleted meanwhile is no failed write."""
        result = desk.answer(path.name, disk=Meddled(write=raises(FileNotFoundError(errno.ENOENT, "No such file"))))
        assert (result.outcome, result.error) == (Outcome.DEFERRED, "its folder changed meanwhile")
        assert desk.events() == []

    def test_rename_fails(self, desk: Desk, path: Path) -> None:
        """A rename that fails leaves no temporary file, and is tried again."""
        result = desk.answer(path.name, disk=Meddled(publish=raises(BROKEN)))
        assert (result.outcome, result.retry_in) == (Outcome.FAILED, 1.0)
        assert desk.events() == ["audit.selected", "config.write_failed"]
        assert desk.names() == [path.name]

    def test_close_fails(self, desk: Desk, path: Path) -> None:
        """If closing the file fails, its descriptor is not closed twice: by then it may be another thread's file."""
        disk = FullServer()
        assert desk.answer(path.name, disk=disk).outcome is Outcome.FAILED
        [descriptor] = disk.reused
        os.close(descriptor)  # raises OSError if it was closed
        assert desk.names() == [path.name]

    def test_content_can_not_be_flushed(self, desk: Desk) -> None:
        """Content that can't be flushed is not published; the others of its batch are."""
        for name in ("a.json", "b.json"):
            desk.add(name, audit(len(name)))
        numbers = iter(range(100))

        class Failing(FileSystems):
            def sync(self, *_: int) -> bool:
                return False

            def flush_file(self, _: int) -> None:
                if next(numbers) == 0:
                    raise BROKEN

        outcomes = desk.outcomes("a.json", "b.json", flusher=Flusher(1, Failing()))
        assert outcomes == {"a.json": Outcome.FAILED, "b.json": Outcome.SELECTED}
        assert desk.names() == ["a.json", "b.bench.json", "b.json"]

    def test_names_can_not_be_flushed(self, desk: Desk, path: Path) -> None:
        """If the directory can't be flushed, the write has failed: the config may not last."""

        class Failing(LoggedSystems):
            def flush_directory(self, _: int) -> None:
                raise BROKEN

        result = desk.answer(path.name, flusher=Flusher(systems=Failing([])))
        assert (result.outcome, result.error) == (Outcome.FAILED, "can't write: Input/output error")

    @pytest.mark.parametrize("name", ["audit.json", "bad.json"])
    def test_directory_without_flush(self, desk: Desk, path: Path, name: str) -> None:
        """A file system that refuses to flush directories is no failed write."""
        desk.add("bad.json", b"{]")

        class Refusing(LoggedSystems):
            def flush_directory(self, _: int) -> None:
                raise OSError(errno.EINVAL, "Invalid argument")

        outcome = desk.answer(name, flusher=Flusher(systems=Refusing([]))).outcome
        assert outcome is (Outcome.SELECTED if name == path.name else Outcome.REJECTED)

    def test_no_record_can_be_made(self, desk: Desk, path: Path) -> None:
        """A bug between writing and publishing costs one retry, and leaves no temporary file."""
        result = desk.answer(path.name, decide=decide_without_record)
        assert result.outcome is Outcome.FAILED
        assert desk.events() == ["audit.failed"]
        assert desk.names() == [path.name]

    def test_two_steps_fail(self, desk: Desk, path: Path) -> None:
        """If several steps fail in one batch, no temporary file stays, and no descriptor stays open."""
        desk.add("b.json", audit(2))
        desk.add("c.json", b"{]")
        disk = FullServer()

        def decide_one(content: bytes, *, name: str, **options: Any) -> Decision:
            return (decide_without_record if name == "b.json" else decide)(content, name=name, **options)

        before = len(os.listdir("/proc/self/fd"))
        outcomes = desk.outcomes("audit.json", "b.json", "c.json", disk=disk, decide=decide_one)
        desk.trail.close()
        for descriptor in disk.reused:
            os.close(descriptor)
        assert set(outcomes.values()) == {Outcome.FAILED}
        assert desk.names() == ["audit.json", "b.json", "c.json"]
        assert len(os.listdir("/proc/self/fd")) == before
        assert desk.outcomes("audit.json", "b.json", "c.json") == {
            "audit.json": Outcome.SELECTED,
            "b.json": Outcome.SELECTED,
            "c.json": Outcome.REJECTED,
        }


def test_group_of_the_folder(desk: Desk, path: Path) -> None:
    """A config has the group of its folder."""
    if os.geteuid() == 0:
        os.chown(desk.path, -1, 12345)
    desk.answer(path.name)
    assert config_of(path).stat().st_gid == desk.path.stat().st_gid


def test_record_of_a_selection(desk: Desk, path: Path) -> None:
    """The record has the decision's id, hash and duration."""
    desk.answer(path.name, "moved")
    [record] = desk.records()
    provenance = read_json(config_of(path))["provenance"]
    assert (record["trigger"], record["decision_id"]) == ("moved", provenance["decision_id"])
    assert (record["audit_sha256"], record["audit_bytes"]) == (provenance["audit_sha256"], len(audit(1)))
    assert 0 < record["duration_ms"] < 60_000
