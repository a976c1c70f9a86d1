"""An answer -> what becomes of it: a sidecar, nothing, or another attempt."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from benchd.answering.outcome import Outcome
from benchd.audit.refusals import refusal
from benchd.bench.config import error_report
from benchd.bench.seal import unbroken
from benchd.folder.scan import Scan
from corpus import AUDITS
from daemon import answers, audit, config_of, read_json, report_of
from desk import Desk, Meddled, raises


def edit(path: Path) -> bytes:
    """Change a number in a config, as a person does; return the new content."""
    edited = path.read_bytes().replace(b'"rank": 8', b'"rank": 9')
    assert edited != path.read_bytes()
    path.write_bytes(edited)
    return edited


class TestSelected:
    def test_config_and_record(self, desk: Desk, path: Path) -> None:
        """An audit gets its config and its record."""
        result = desk.answer(path.name)
        assert result[1:] == (Outcome.SELECTED, "flagged", None, None, None)
        assert answers(path)
        assert unbroken(config_of(path).read_bytes())
        [record] = desk.records()
        assert (record["event"], record["audit"], record["config"]) == (
            "audit.selected",
            str(path),
            str(config_of(path)),
        )

    @pytest.mark.parametrize("file", ["llama2_allnan__default.json", "llama4_many__pol_empty.json"])
    def test_audit_of_nothing(self, desk: Desk, file: str) -> None:
        """The record of an audit in which Gradience found no layer is a warning that says so; no other is."""
        desk.add(file, (AUDITS / file).read_bytes())
        assert desk.answer(file).outcome is Outcome.SELECTED
        [record] = desk.records()
        is_of_nothing = file.startswith("llama2_allnan")
        assert record["level"] == ("warning" if is_of_nothing else "info")
        assert ("an audit of nothing: Gradience found 0 LoRA layers" in record["reason"]) is is_of_nothing

    def test_same_bytes_everywhere(self, tmp_path: Path, path: Path) -> None:
        """The config does not depend on the folder, the time or the trigger."""
        (tmp_path / "other").mkdir()
        desk, other = Desk(tmp_path), Desk(tmp_path / "other")
        shutil.copy(path, other.path)
        desk.answer(path.name, "closed")
        other.answer(path.name, "scan")
        assert config_of(path).read_bytes() == config_of(other.path / path.name).read_bytes()

    def test_two_with_one_config(self, desk: Desk, path: Path) -> None:
        """Of `x` and `x.json` in one batch the first is answered; the other waits, and then keeps that config."""
        twin = path.with_suffix("")
        shutil.copy(path, twin)
        assert desk.outcomes(path.name, twin.name) == {path.name: Outcome.SELECTED, twin.name: Outcome.DEFERRED}
        assert desk.events() == ["audit.selected"]
        assert desk.answer(twin.name).outcome is Outcome.KEPT
        assert answers(path)


class TestUnchanged:
    def test_answered_before(self, desk: Desk, path: Path) -> None:
        """A second event for the same content changes nothing, whatever the dates say."""
        desk.answer(path.name)
        before = config_of(path).stat().st_ino
        for _ in range(3):
            assert desk.answer(path.name).outcome is Outcome.UNCHANGED
        assert config_of(path).stat().st_ino == before
        assert desk.events() == ["audit.selected"] + ["audit.unchanged"] * 3

    def test_by_dates(self, desk: Desk, path: Path) -> None:
        """A config that is clearly later than its audit is not dated again."""
        desk.answer(path.name)
        later = path.stat().st_ctime_ns + 60_000_000
        while os.stat(config_of(path)).st_mtime_ns <= later:
            os.utime(config_of(path))
        before = os.stat(config_of(path)).st_mtime_ns
        assert desk.answer(path.name, "scan").outcome is Outcome.UNCHANGED
        assert desk.records()[-1]["reason"] == "answered before"
        assert os.stat(config_of(path)).st_mtime_ns == before

    def test_by_hash(self, desk: Desk, path: Path) -> None:
        """If only the hash shows that a config holds, it is dated after its audit."""
        desk.answer(path.name)
        old = os.stat(config_of(path)).st_mtime_ns
        os.utime(config_of(path), ns=(old - 10**9, old - 10**9))
        assert desk.answer(path.name, "scan").outcome is Outcome.UNCHANGED
        assert config_of(path).stat().st_mtime_ns >= old
        assert desk.records()[-1]["reason"] == "same content, same answer"

    def test_changed_while_its_config_is_dated(self, desk: Desk, path: Path) -> None:
        """If the audit changes meanwhile, its config gets a date that proves nothing."""
        desk.answer(path.name)
        disk = Meddled(touch=lambda: path.write_bytes(audit(2)))
        assert desk.answer(path.name, disk=disk).outcome is Outcome.UNCHANGED
        assert config_of(path).stat().st_mtime_ns == 0
        assert list(Scan(desk.folder)) == [path.name]

    def test_deleted_while_its_config_is_dated(self, desk: Desk, path: Path) -> None:
        """If the audit is deleted meanwhile, its config gets a date that proves nothing."""
        desk.answer(path.name)
        assert desk.answer(path.name, disk=Meddled(touch=path.unlink)).outcome is Outcome.UNCHANGED
        assert config_of(path).stat().st_mtime_ns == 0

    def test_sidecar_of_another_user(self, desk: Desk, path: Path) -> None:
        """A config that may not be dated holds all the same."""
        desk.answer(path.name)
        disk = Meddled(touch=raises(PermissionError(1, "Operation not permitted")))
        assert desk.answer(path.name, disk=disk).outcome is Outcome.UNCHANGED

    def test_force(self, desk: Desk, path: Path) -> None:
        """With `force` the audit is answered again, with the same bytes."""
        desk.answer(path.name)
        before = config_of(path).read_bytes()
        assert desk.answer(path.name, force=True).outcome is Outcome.SELECTED
        assert config_of(path).read_bytes() == before

    def test_a_stale_report_goes(self, desk: Desk, path: Path) -> None:
        """A report about bad content is removed when the good content is back, also if a config is kept."""
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

    def test_a_report_that_can_not_be_removed(self, desk: Desk, path: Path) -> None:
        """A stale report that may not be removed does not hinder the answer."""
        path.write_bytes(b"rubbish")
        desk.answer(path.name)
        path.write_bytes(audit(1))
        disk = Meddled(remove=raises(PermissionError(1, "Operation not permitted")))
        assert desk.answer(path.name, disk=disk).outcome is Outcome.SELECTED
        assert answers(path)
        assert report_of(path).exists()

    @pytest.mark.parametrize("edited", [True, False])
    def test_a_report_that_changes_meanwhile(self, desk: Desk, path: Path, edited: bool) -> None:
        """A report that a person edits meanwhile stays, and one that a person deletes does not hinder the answer."""
        path.write_bytes(b"rubbish")
        desk.answer(path.name)
        path.write_bytes(audit(1))
        change = (lambda: report_of(path).write_bytes(b"a note")) if edited else report_of(path).unlink
        assert desk.answer(path.name, disk=Meddled(read_sidecar=change)).outcome is Outcome.SELECTED
        assert report_of(path).exists() is edited

    def test_rejected_before(self, desk: Desk, path: Path) -> None:
        """A second event for the same bad content is no second rejection, but still an error in a summary."""
        path.write_bytes(b"rubbish")
        desk.answer(path.name)
        result = desk.answer(path.name)
        assert (result.outcome, result.error) == (
            Outcome.UNCHANGED,
            "not JSON at line 1, column 1: Expecting value; near: rubbish [not_json]",
        )
        assert desk.events().count("audit.rejected") == 1

    def test_same_report_again(self, desk: Desk, path: Path) -> None:
        """A bad file that is written again with the same content keeps its report, which gets a new date."""
        path.write_bytes(b"rubbish")
        desk.answer(path.name)
        before = report_of(path).stat().st_ino
        os.utime(report_of(path), (1, 1))
        assert desk.answer(path.name).outcome is Outcome.UNCHANGED
        assert report_of(path).stat().st_ino == before
        assert report_of(path).stat().st_mtime > 1
        assert desk.events().count("audit.rejected") == 1

    @pytest.mark.parametrize("dry_run", [True, False])
    def test_same_report_without_a_hash(self, desk: Desk, dry_run: bool) -> None:
        """A link that was rejected before keeps its report, which gets a new date unless nothing may be written."""
        path = desk.path / "link.json"
        path.symlink_to("audit.json")
        desk.answer(path.name)
        before = report_of(path).stat().st_ino
        os.utime(report_of(path), (1, 1))
        result = desk.answer(path.name, dry_run=dry_run)
        assert (result.outcome, result.error) == (
            Outcome.UNCHANGED,
            "a symbolic link; links are not followed [symlink]",
        )
        assert desk.records()[-1]["reason"] == "rejected before, for the same reason"
        assert report_of(path).stat().st_ino == before
        assert (report_of(path).stat().st_mtime == 1) is dry_run


class TestRejected:
    def test_report(self, desk: Desk, path: Path) -> None:
        """The report has the code, message and hint of the record."""
        path.write_bytes(b"{]")
        result = desk.answer(path.name)
        assert result.outcome is Outcome.REJECTED
        report, [record] = read_json(report_of(path)), desk.records()
        assert {key: report[key] for key in ("code", "message", "hint")} == {
            key: record[key] for key in ("code", "message", "hint")
        }
        assert result.error == f"{report['message']} [{report['code']}]"
        assert unbroken(report_of(path).read_bytes())

    def test_force(self, desk: Desk, path: Path) -> None:
        """With `force` a bad file is rejected again, and its report written again."""
        path.write_bytes(b"{]")
        desk.answer(path.name)
        before = report_of(path).stat().st_ino, report_of(path).read_bytes()
        assert desk.answer(path.name, force=True).outcome is Outcome.REJECTED
        assert report_of(path).stat().st_ino != before[0]
        assert report_of(path).read_bytes() == before[1]
        assert desk.events() == ["audit.rejected"] * 2

    def test_fixed(self, desk: Desk, path: Path) -> None:
        """The report is removed when the config is published."""
        path.write_bytes(b"{]")
        desk.answer(path.name)
        path.write_bytes(audit(1))
        assert desk.answer(path.name).outcome is Outcome.SELECTED
        assert answers(path)
        assert not report_of(path).exists()

    def test_foreign_report(self, desk: Desk, path: Path) -> None:
        """A person's file in the report's place stays, when the audit is bad and when it is good again."""
        report_of(path).write_bytes(b"notes")
        path.write_bytes(b"{]")
        assert desk.answer(path.name).outcome is Outcome.REJECTED
        assert report_of(path).read_bytes() == b"notes"
        assert list(Scan(desk.folder)) == []
        report_of(path).unlink()
        assert list(Scan(desk.folder)) == [path.name]
        report_of(path).write_bytes(b"notes")
        path.write_bytes(audit(1))
        desk.answer(path.name)
        assert report_of(path).read_bytes() == b"notes"
        assert answers(path)

    def test_no_reports(self, tmp_path: Path) -> None:
        """With `error_reports = false` only the trail has the rejection, and the next scan skips the file."""
        desk = Desk(tmp_path, error_reports=False)
        desk.add("bad.json", b"{]")
        assert desk.answer("bad.json").outcome is Outcome.REJECTED
        assert desk.names() == ["bad.json"]
        assert desk.events() == ["audit.rejected"]
        assert list(Scan(desk.folder)) == []

    @pytest.mark.parametrize(("letters", "has_report"), [(238, True), (239, False), (244, False)])
    def test_no_room_for_a_report(self, desk: Desk, letters: int, has_report: bool) -> None:
        """If the report's name would be too long, only the trail has the rejection."""
        name = "x" * letters + ".json"
        desk.add(name, b"{]")
        assert desk.answer(name).outcome is Outcome.REJECTED
        assert desk.events() == ["audit.rejected"]
        assert (desk.names() != [name]) is has_report
        if not has_report:
            assert list(Scan(desk.folder)) == []

    def test_too_large(self, tmp_path: Path) -> None:
        """The size is in the report, so that a higher limit makes the report invalid."""
        desk = Desk(tmp_path, max_bytes=10)
        path = desk.add("a.json", audit(1))
        assert desk.answer("a.json").outcome is Outcome.REJECTED
        assert read_json(report_of(path))["provenance"]["audit_bytes"] == len(audit(1))

    def test_ignored(self, desk: Desk) -> None:
        """JSON that is not an audit gets no sidecar, and the next scan skips it."""
        desk.add("other.json", b"{}")
        assert desk.answer("other.json").outcome is Outcome.IGNORED
        assert desk.names() == ["other.json"]
        assert desk.events() == ["audit.ignored"]
        assert list(Scan(desk.folder)) == []


class TestUnfinished:
    def test_recorded_once(self, desk: Desk, path: Path) -> None:
        """A file that may be unfinished is recorded once, however often it is tried."""
        ticket = desk.ticket(path.name, "created")
        with path.open("wb") as file:
            file.write(b"{")
            file.flush()
            for _ in range(3):
                result = desk.answer(ticket)
                assert result.outcome is Outcome.DEFERRED
                assert result.error.startswith("the JSON ends in the middle")
        [record] = desk.records()
        assert (record["event"], record["reason"]) == ("audit.deferred", f"maybe unfinished: {result.error}")
        assert desk.names() == [path.name]

    def test_what_waits_holds_no_content(self, desk: Desk, path: Path) -> None:
        """The verdict on a file that may be unfinished does not keep the file in memory."""
        path.write_bytes(b'{"x": "' + b"y" * 100_000)
        ticket = desk.ticket(path.name, "scan")
        with path.open("ab"):
            assert desk.answer(ticket).outcome is Outcome.DEFERRED
        verdict = ticket.history.verdict
        assert (verdict.__traceback__, verdict.__context__) == (None, None)

    def test_good_file_with_a_writer(self, desk: Desk, path: Path) -> None:
        """A whole audit is answered, even if its writer still holds it open."""
        with path.open("wb") as file:
            file.write(audit(1))
            file.flush()
            assert desk.answer(path.name, "created").outcome is Outcome.SELECTED


class TestKept:
    def test_edited(self, desk: Desk, path: Path) -> None:
        """An edited config stays; once a person has moved it away the next scan finds the audit."""
        desk.answer(path.name)
        edited = edit(config_of(path))
        path.write_bytes(audit(12345678))
        result = desk.answer(path.name)
        assert result.outcome is Outcome.KEPT
        assert result.reason.startswith(f"{config_of(path).name}: it was edited after benchd wrote it")
        assert config_of(path).read_bytes() == edited
        assert desk.records()[-1]["config"] == str(config_of(path))
        assert list(Scan(desk.folder)) == []
        config_of(path).unlink()
        assert list(Scan(desk.folder)) == [path.name]

    def test_force_keeps_too(self, desk: Desk, path: Path) -> None:
        """Even `force` does not replace a person's work."""
        config_of(path).write_bytes(b"mine")
        assert desk.answer(path.name, force=True).outcome is Outcome.KEPT
        assert config_of(path).read_bytes() == b"mine"

    def test_of_another_audit(self, desk: Desk, path: Path) -> None:
        """The config of `audit` has the name of that of `audit.json`: the first audit keeps it."""
        desk.add("audit", audit(2))
        assert desk.answer("audit").outcome is Outcome.SELECTED
        assert desk.answer("audit.json").outcome is Outcome.KEPT
        assert "answers another audit, audit" in desk.records()[-1]["reason"]

    def test_sealed_copy(self, desk: Desk, path: Path) -> None:
        """A config that was copied from another audit is nobody's work: it is replaced."""
        desk.answer(path.name)
        other = desk.add("other.json", audit(2))
        shutil.copy(config_of(path), config_of(other))
        assert desk.answer("other.json").outcome is Outcome.SELECTED
        assert answers(other)

    def test_place_is_a_folder(self, desk: Desk, path: Path) -> None:
        """A folder in the config's place is left alone, like any other thing that benchd did not make."""
        config_of(path).mkdir()
        assert desk.answer(path.name).outcome is Outcome.KEPT
        assert desk.names() == sorted([path.name, config_of(path).name])


class TestDryRun:
    def test_writes_nothing(self, desk: Desk, path: Path) -> None:
        """A dry run decides, and leaves the folder and the trail as they are."""
        desk.add("bad.json", b"{]")
        outcomes = desk.outcomes("audit.json", "bad.json", dry_run=True)
        assert outcomes == {"audit.json": Outcome.SELECTED, "bad.json": Outcome.REJECTED}
        assert desk.names() == ["audit.json", "bad.json"]
        assert desk.events() == []

    def test_dates_nothing(self, desk: Desk, path: Path) -> None:
        """A dry run does not date a config again, and removes no stale report."""
        desk.answer(path.name)
        os.utime(config_of(path), (1, 1))
        error = refusal("empty")
        report_of(path).write_bytes(error_report(path.name, error, sha256="0" * 64, size=path.stat().st_size))
        assert desk.answer(path.name, dry_run=True).outcome is Outcome.UNCHANGED
        assert config_of(path).stat().st_mtime == 1
        assert report_of(path).exists()
