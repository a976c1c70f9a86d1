"""The case of a ticket: its directory, its sidecars and its content."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from benchd.answering.case import Case, Places
from benchd.answering.disk import Disk
from benchd.answering.outcome import Outcome, Result
from benchd.answering.reading import Reader, Route, route
from benchd.audit.refusals import AuditError, refusal
from benchd.bench.seal import Provenance
from benchd.folder.files import Vanished
from benchd.inbox import Ticket
from daemon import answers, audit, config_of, read_json, report_of, reports, until
from desk import Desk, Meddled, raises

MIB = 2**20

UNREAD = Meddled(read=raises(AssertionError("the audit is read")))


def read(ticket: Ticket, *, disk: Disk | None = None, force: bool = False, may_take_long: bool = True) -> Case | Result:
    with Places() as places:
        return Reader(disk or Disk(), force=force).read(ticket, places, may_take_long=may_take_long)


def case_of(ticket: Ticket, *, disk: Disk | None = None, force: bool = False) -> Case:
    case = read(ticket, disk=disk, force=force)
    assert isinstance(case, Case)
    return case


def answered(desk: Desk, path: Path) -> None:
    """Answer the audit, and give its config a clearly later date."""
    changed = path.stat().st_ctime_ns
    assert desk.answer(path.name).outcome in {Outcome.SELECTED, Outcome.REJECTED}

    def is_later() -> bool:
        sidecar = config_of(path) if config_of(path).exists() else report_of(path)
        os.utime(sidecar)
        return sidecar.stat().st_mtime_ns > changed + 60_000_000

    until(is_later)


class TestRoute:
    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            (0, Route.HERE),
            (MIB, Route.HERE),
            (MIB + 1, Route.LARGE_LANE),
            (16 * MIB, Route.LARGE_LANE),
            (16 * MIB + 1, Route.SANDBOX),
            (64 * MIB, Route.SANDBOX),
            (64 * MIB + 1, Route.HERE),
        ],
    )
    def test_by_size(self, size: int, expected: Route) -> None:
        """A file above 1 MiB goes to the large lane and one above 16 MiB to the sandbox, unless it is too large."""
        assert route(size, 64 * MIB) is expected

    def test_large_is_left(self, desk: Desk) -> None:
        """Unless it may take long, a large file is left unread."""
        desk.folder.max_bytes = 64 * MIB
        desk.add("large.json", bytes(MIB + 1))
        assert read(desk.ticket("large.json"), disk=UNREAD, may_take_long=False).outcome is Outcome.LEFT
        assert len(case_of(desk.ticket("large.json")).content) == MIB + 1

    def test_very_large_is_for_the_sandbox(self, desk: Desk) -> None:
        """A very large file is not read here."""
        desk.folder.max_bytes = 64 * MIB
        os.truncate(desk.add("large.json", b""), 16 * MIB + 1)
        case = case_of(desk.ticket("large.json"), disk=UNREAD)
        assert (case.content, case.answer) == (None, None)

    def test_too_large_is_refused_here(self, desk: Desk) -> None:
        """A file above the limit is refused by its size."""
        desk.folder.max_bytes = 100
        os.truncate(desk.add("large.json", b""), 20 * MIB)
        case = read(desk.ticket("large.json"), may_take_long=False)
        assert case.answer.code == "too_large"


class TestContent:
    def test_content_and_stat(self, desk: Desk, path: Path) -> None:
        """An audit without an answer is read, together with its `stat`."""
        case = case_of(desk.ticket(path.name))
        assert (case.content, case.answer, case.answered) == (audit(1), None, None)
        assert case.info == path.stat()
        assert (case.path, case.config, case.report) == (str(path), config_of(path).name, report_of(path).name)

    @pytest.mark.parametrize("name", ["gone.json", "no/such/place.json", "audit.json/below.json"])
    def test_gone(self, desk: Desk, path: Path, name: str) -> None:
        """A missing file or folder raises `Vanished`."""
        with pytest.raises(Vanished):
            read(desk.ticket(name))

    def test_link_on_the_way(self, desk: Desk, tmp_path: Path) -> None:
        """A folder that was replaced by a link after its event is not entered."""
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "audit.json").write_bytes(audit(1))
        (desk.path / "sub").symlink_to(outside)
        assert desk.answer("sub/audit.json").outcome is Outcome.GONE
        assert os.listdir(outside) == ["audit.json"]

    def test_refused(self, desk: Desk) -> None:
        """A file that can't be read as an audit gets its refusal as the answer."""
        (desk.path / "link.json").symlink_to("audit.json")
        case = case_of(desk.ticket("link.json"))
        assert (case.answer.code, case.digest) == ("symlink", None)

    @pytest.mark.parametrize(("letters", "is_refused"), [("x" * 244, False), ("x" * 245, True), ("é" * 123, True)])
    def test_long_name(self, desk: Desk, letters: str, is_refused: bool) -> None:
        """A name that leaves no room for its sidecar's name, counted in bytes, is refused."""
        name = f"{letters}.json"
        desk.add(name, audit())
        case = case_of(desk.ticket(name))
        assert (isinstance(case.answer, AuditError) and case.answer.code == "name_too_long") is is_refused

    def test_trouble_of_the_system(self, desk: Desk, path: Path) -> None:
        """A lack of descriptors is raised, because it is not an error of the file."""
        with pytest.raises(OSError, match="Too many"):
            read(desk.ticket(path.name), disk=Meddled(read=raises(OSError(24, "Too many open files"))))


class TestAnswered:
    def test_by_dates(self, desk: Desk, path: Path) -> None:
        """A scan trusts the dates of audit and config, and reads no audit."""
        answered(desk, path)
        case = case_of(desk.ticket(path.name, "scan"), disk=UNREAD)
        assert isinstance(case.answer, Provenance)
        assert (case.digest, case.content) == (None, None)

    @pytest.mark.parametrize("hint", ["closed", "moved", "created", "poll"])
    def test_after_an_event(self, desk: Desk, path: Path, hint: str) -> None:
        """After an event the hash decides, not the dates."""
        answered(desk, path)
        case = case_of(desk.ticket(path.name, hint))
        assert case.answer is None
        assert case.answered.audit_sha256 == read_json(config_of(path))["provenance"]["audit_sha256"]
        assert case.content == audit(1)

    def test_in_doubt(self, desk: Desk, path: Path) -> None:
        """A scan reads an audit whose dates prove nothing, so that the hash can decide."""
        answered(desk, path)
        os.utime(config_of(path), (1, 1))
        case = case_of(desk.ticket(path.name, "scan"))
        assert (case.answer, case.content) == (None, audit(1))
        assert case.answered is not None

    def test_by_a_report(self, desk: Desk) -> None:
        """An error report answers too."""
        path = desk.add("bad.json", b"{]")
        answered(desk, path)
        case = case_of(desk.ticket(path.name, "scan"), disk=UNREAD)
        assert case.answer.code == read_json(report_of(path))["code"]

    def test_force(self, desk: Desk, path: Path) -> None:
        """With `force` an answered audit is read, and its sidecar is ignored."""
        answered(desk, path)
        case = case_of(desk.ticket(path.name, "scan"), force=True)
        assert (case.answer, case.answered, case.content) == (None, None, audit(1))

    def test_copied_config(self, desk: Desk, path: Path) -> None:
        """The config of another audit answers nothing."""
        answered(desk, path)
        other = desk.add("other.json", audit(2))
        shutil.copy(config_of(path), config_of(other))
        case = case_of(desk.ticket(other.name, "scan"))
        assert (case.answer, case.answered) == (None, None)


class TestJudgedBefore:
    def test_unchanged_content_is_not_read_again(self, desk: Desk) -> None:
        """While a bad file is unchanged, its earlier verdict is used without another read."""
        path = desk.path / "a.json"
        ticket = desk.ticket(path.name, "created")
        with path.open("wb") as file:
            file.write(b"{")
            file.flush()
            assert desk.answer(ticket).outcome is Outcome.DEFERRED
            assert desk.answer(ticket, disk=UNREAD).outcome is Outcome.DEFERRED
            case = case_of(ticket, disk=UNREAD)
            assert case.answer.code == "truncated"
            assert case.digest is not None
            file.write(b"}")
            file.flush()
            assert case_of(ticket).content == b"{}"

    def test_unreadable_is_tried_again(self, tmp_path: Path) -> None:
        """After a failed read the next attempt reads the content again."""
        desk = Desk(tmp_path, settle=10.0)
        path = desk.add("audit.json", audit(1))
        ticket = desk.ticket(path.name)
        failing = Meddled(read=raises(refusal("unreadable", error="Input/output error", who="me")))
        assert desk.answer(ticket, disk=failing).outcome is Outcome.DEFERRED
        assert desk.answer(ticket).outcome is Outcome.SELECTED

    def test_history_without_a_verdict(self, desk: Desk, path: Path) -> None:
        """A ticket that failed for another reason is read again."""
        ticket = desk.ticket(path.name)
        assert desk.answer(ticket, disk=Meddled(write=raises(OSError(5, "no")))).outcome is Outcome.FAILED
        assert case_of(ticket).content == audit(1)


def test_names_that_are_not_utf8(desk: Desk) -> None:
    """A name of any bytes is answered, and its sidecars are recognized."""
    path = desk.add(os.fsdecode(b"caf\xe9.json"), audit(1))
    assert desk.answer(path.name).outcome is Outcome.SELECTED
    assert desk.answer(path.name).outcome is Outcome.UNCHANGED
    path.write_bytes(audit(12345678))
    assert desk.answer(path.name).outcome is Outcome.SELECTED
    assert answers(path)
    path.write_bytes(b"{")
    assert desk.answer(path.name).outcome is Outcome.REJECTED
    assert reports(path, "truncated")
