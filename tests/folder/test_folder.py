"""A watched folder: names, what is answered, scans."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchd import bench_config, read_audit, select
from benchd.audit.refusals import refusal
from benchd.bench.config import error_report
from benchd.folder.adapter_beside import adapter_beside
from benchd.folder.files import look, read_sidecar
from benchd.folder.folder import Beside, Folder, Standing, Tally
from benchd.folder.names import config_name, error_name
from benchd.settings.keys import FolderSettings, SelectionSettings
from daemon import audit, config_of, report_of

Make = Callable[..., Folder]

LONG_AGO = time.time() - 3600


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes the `Folder` over `tmp_path`."""

    def make_folder(*, max_bytes: int = 10**6, nested: frozenset[str] = frozenset(), **settings: Any) -> Folder:
        return Folder(FolderSettings(path=str(tmp_path), **settings), max_bytes=max_bytes, nested=nested)

    return make_folder


def answer(path: Path, *, selection: SelectionSettings | None = None) -> None:
    """Write the config of the audit at `path`."""
    parsed = read_audit(path.read_bytes(), name=path.name)
    config_of(path).write_bytes(bench_config(parsed, select(parsed, selection or SelectionSettings())))


def clearly_later(path: Path) -> None:
    """Date a sidecar after its audit, as if it had been written a while later, but not in the future."""
    limit = time.monotonic() + 5
    while time.time_ns() - path.stat().st_ctime_ns < 60_000_000:
        assert time.monotonic() < limit
    for sidecar in (config_of(path), report_of(path)):
        if sidecar.exists():
            os.utime(sidecar)


def standing(folder: Folder, name: str) -> Standing:
    """How the file `name` stands."""
    directory = folder.open()
    try:
        config, report = (read_sidecar(directory, of(name)) for of in (config_name, error_name))
        return folder.standing(name, look(directory, name), Beside(config, report, adapter_beside(directory)))[0]
    finally:
        os.close(directory)


def scan(folder: Folder, **options: Any) -> tuple[list[str], Tally]:
    """What a scan finds to do, in order of names, and its tally. A folder that can't be read is an error."""

    def failed(relative: str, error: OSError) -> None:
        raise error

    tally = Tally()
    options = {"entering": lambda *_: None, "failed": failed, **options}
    return sorted(folder.scan(tally, **options)), tally


class TestNames:
    @pytest.mark.parametrize("name", ["a.json", "sub/a.json", "a b.json", "bench.json", "x.bench.json.json"])
    def test_wanted(self, make: Make, name: str):
        """Every `*.json` is a candidate, in subfolders too."""
        assert make().wants(name)

    @pytest.mark.parametrize(
        "name", ["a.bench.json", "sub/a.bench-error.json", ".a.json", "sub/.a.json", "a.txt", "a.JSON", "a.json.gz"]
    )
    def test_not_wanted(self, make: Make, name: str):
        """Sidecars, hidden files and other endings are not."""
        assert not make().wants(name)

    def test_sidecars_are_no_audits_whatever_the_patterns(self, make: Make):
        """A pattern can't make benchd eat its own files."""
        folder = make(patterns=("*", "*.bench.json"))
        assert not folder.wants("a.bench.json")
        assert folder.wants("a.txt")

    def test_patterns_with_a_slash_match_the_path(self, make: Make):
        """`deep/*.json` is about the path, `*.json` about the name."""
        folder = make(patterns=("deep/*.json",))
        assert folder.wants("deep/a.json")
        assert not folder.wants("a.json")
        assert not folder.wants("other/a.json")

    def test_no_patterns(self, make: Make):
        """Without any pattern nothing is an audit."""
        assert not make(patterns=()).wants("a.json")

    def test_ignore(self, make: Make):
        """What `ignore` names is neither answered nor entered."""
        folder = make(ignore=("skip*", "/deep/no.json"))
        assert not folder.wants("skip.json")
        assert not folder.enters("skipped")
        assert not folder.wants("deep/no.json")
        assert folder.wants("deep/yes.json")
        assert folder.enters("deep")

    def test_enters(self, make: Make):
        """Subfolders are entered unless hidden, nested (another watch's own), or not wanted at all."""
        folder = make(nested=frozenset({"a/own"}))
        assert folder.enters("a")
        assert folder.enters("own")
        assert not folder.enters("a/own")
        assert not folder.enters("a/.hidden")
        assert not make(recursive=False).enters("a")


class TestStanding:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "audit.json"
        path.write_bytes(audit(1, flagged=False))
        return path

    def test_alone(self, make: Make, path: Path):
        """An audit without a sidecar is open."""
        assert standing(make(), path.name) is Standing.OPEN

    def test_answered(self, make: Make, path: Path):
        """A config clearly younger than the audit, of the same size and settings, answers it without its hash."""
        answer(path)
        clearly_later(path)
        assert standing(make(), path.name) is Standing.ANSWERED

    @pytest.mark.parametrize("name", ["audit", "copied.json"])
    def test_written_for_another_audit(self, make: Make, path: Path, tmp_path: Path, name: str):
        """A sidecar that names another audit, of the same size as it may be, answers nothing."""
        answer(path)
        other = tmp_path / name
        other.write_bytes(audit(2, flagged=False))
        if config_of(other) != config_of(path):
            config_of(other).write_bytes(config_of(path).read_bytes())
        clearly_later(other)
        assert standing(make(), name) is Standing.OPEN

    def test_written_at_the_same_moment(self, make: Make, path: Path):
        """Where the clock can't tell which was first, the hash has to."""
        answer(path)
        os.utime(config_of(path), ns=(path.stat().st_ctime_ns, path.stat().st_ctime_ns))
        assert standing(make(), path.name) is Standing.IN_DOUBT

    def test_sidecar_of_the_future(self, make: Make, path: Path):
        """A sidecar dated in the future proves nothing."""
        answer(path)
        os.utime(config_of(path), (time.time() + 3600,) * 2)
        assert standing(make(), path.name) is Standing.IN_DOUBT

    def test_moved_in_with_an_old_mtime(self, make: Make, path: Path, tmp_path: Path):
        """`mv` and `cp -p` keep the mtime; the ctime tells that the audit came after its sidecar."""
        answer(path)
        clearly_later(path)
        other = tmp_path / "other"
        other.write_bytes(audit(2, flagged=False))
        os.utime(other, (LONG_AGO, LONG_AGO))
        os.rename(other, path)
        assert standing(make(), path.name) is Standing.IN_DOUBT

    def test_other_size(self, make: Make, path: Path):
        """Another size is another content."""
        answer(path)
        with path.open("ab") as file:
            file.write(b"\n")
        clearly_later(path)
        assert standing(make(), path.name) is Standing.OPEN

    @pytest.mark.parametrize(
        ("setting", "expected"),
        [({"top_n": 1}, Standing.OPEN), ({"low_priority": 0.0}, Standing.OPEN), ({"top_n": 3}, Standing.ANSWERED)],
    )
    def test_other_settings(self, make: Make, path: Path, setting: dict[str, Any], expected: Standing):
        """A config that other settings shaped does not answer."""
        answer(path)
        clearly_later(path)
        assert standing(make(selection=SelectionSettings(**setting)), path.name) is expected

    def test_other_way_of_selecting(self, make: Make, path: Path):
        """A config of another `selection_version` does not answer."""
        answer(path)
        text = config_of(path).read_bytes()
        config_of(path).write_bytes(text.replace(b'"selection_version": ', b'"selection_version": 9'))
        clearly_later(path)
        assert standing(make(), path.name) is Standing.OPEN

    def test_foreign_file(self, make: Make, path: Path):
        """A file that is not benchd's does not answer, be it JSON, a folder or a link."""
        config_of(path).write_bytes(b'{"provenance": 3}')
        report_of(path).mkdir()
        assert standing(make(), path.name) is Standing.OPEN

    @pytest.mark.parametrize(
        ("code", "limit", "expected"),
        [
            ("empty", 10**6, Standing.ANSWERED),
            ("unreadable", 10**6, Standing.OPEN),
            ("too_large", 10, Standing.ANSWERED),
            ("too_large", 10**6, Standing.OPEN),
        ],
    )
    def test_rejected(self, make: Make, path: Path, code: str, limit: int, expected: Standing):
        """A report answers too, unless rights or settings may by now allow what they did not."""
        error = refusal(code, error="", who="", size=1, limit=1)
        report_of(path).write_bytes(error_report(path.name, error, sha256="0" * 64, size=path.stat().st_size))
        clearly_later(path)
        assert standing(make(max_bytes=limit), path.name) is expected

    def test_report_without_a_hash_in_doubt(self, make: Make, path: Path):
        """Where the hash can't decide, the file is looked at again."""
        report_of(path).write_bytes(error_report(path.name, refusal("symlink"), sha256=None, size=None))
        os.utime(report_of(path), (LONG_AGO, LONG_AGO))
        assert standing(make(), path.name) is Standing.OPEN


class TestScan:
    def test_finds_what_is_open(self, make: Make, tmp_path: Path):
        """A scan yields every audit without an answer, below hidden folders and links none."""
        for place in ("", "a", "a/b", ".hidden"):
            (tmp_path / place).mkdir(exist_ok=True)
            (tmp_path / place / "audit.json").write_bytes(audit())
        (tmp_path / "loop").symlink_to(tmp_path)
        (tmp_path / "note.txt").touch()
        found, tally = scan(make())
        assert found == ["a/audit.json", "a/b/audit.json", "audit.json"]
        assert (tally.found, tally.answered) == (3, 0)

    def test_passes_by_what_is_answered(self, make: Make, tmp_path: Path):
        """Answered audits are counted, rejected ones named."""
        good, bad = tmp_path / "good.json", tmp_path / "bad.json"
        good.write_bytes(audit())
        bad.write_bytes(b"x")
        answer(good)
        report_of(bad).write_bytes(error_report(bad.name, refusal("empty"), sha256="0" * 64, size=1))
        clearly_later(bad)
        clearly_later(good)
        found, tally = scan(make())
        assert found == []
        assert (tally.found, tally.answered, tally.rejected) == (2, 2, 1)
        assert tally.rejections == [("bad.json", "the file has no content [empty]")]
        assert scan(make(), force=True)[0] == ["bad.json", "good.json"]

    def test_one_bad_entry_hides_no_other(self, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """A sidecar that can't be read (a failing disk) costs its audit a closer look, and the others nothing."""
        for name in "abc":
            (tmp_path / f"{name}.json").write_bytes(audit())
        config_of(tmp_path / "b.json").write_bytes(b"not to be read")
        folder, failures = make(), []
        real = folder.standing

        def fail(name: str, *rest: Any) -> Any:
            if name == "b.json":
                raise OSError(5, "Input/output error")
            return real(name, *rest)

        monkeypatch.setattr(folder, "standing", fail)
        found = list(folder.scan(Tally(), entering=lambda *_: None, failed=lambda path, _: failures.append(path)))
        assert sorted(found) == ["a.json", "b.json", "c.json"]
        assert failures == ["b.json"]

    def test_forgetting_during_a_scan_lasts(self, make: Make, tmp_path: Path):
        """`forget_scans` in the middle of a scan: the next one looks at every sidecar again."""
        path = tmp_path / "a.json"
        path.write_bytes(audit())
        answer(path)
        clearly_later(path)
        (tmp_path / "b.json").write_bytes(audit())
        folder = make()
        for _ in folder.scan(Tally(), entering=lambda *_: None, failed=lambda *_: None):
            folder.forget_scans()
        assert folder._scanned_until_ns == 0

    def test_report_beside_a_config_that_holds_goes(self, make: Make, tmp_path: Path):
        """What a slower daemon reported about earlier content is removed; a report about the present content stays."""
        for name in ("mended", "broken"):
            path = tmp_path / f"{name}.json"
            path.write_bytes(audit())
            answer(path)
            report_of(path).write_bytes(error_report(path.name, refusal("empty"), sha256="0" * 64, size=0))
        (tmp_path / "broken.json").write_bytes(b"[]")
        clearly_later(tmp_path / "mended.json")
        scan(make())
        assert not report_of(tmp_path / "mended.json").exists()
        assert report_of(tmp_path / "broken.json").exists()

    @pytest.mark.parametrize("seconds", [300, -300])
    def test_a_clock_that_is_off(self, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int):
        """What was replaced is found though our clock says otherwise; what is answered is not looked at for ever."""
        path = tmp_path / "a.json"
        path.write_bytes(audit(1))
        answer(path)
        clearly_later(path)
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() + seconds * 10**9)
        folder = make()
        assert scan(folder)[0] == []
        assert scan(folder)[0] == []
        path.write_bytes(audit(2))
        assert scan(folder)[0] == ["a.json"]

    def test_a_clock_that_is_set_back(self, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """What a scan has seen by the old clock is looked at again by the new one."""
        path = tmp_path / "a.json"
        path.write_bytes(audit(1))
        answer(path)
        clearly_later(path)
        folder, real, ahead = make(), time.time_ns, [300]
        monkeypatch.setattr(time, "time_ns", lambda: real() + ahead[0] * 10**9)
        assert scan(folder, check_clock=False)[0] == []  # all that is dated within five minutes counts as seen
        ahead[0] = 0
        path.write_bytes(audit(2))
        assert scan(folder, check_clock=False)[0] == ["a.json"]

    def test_orphaned_reports_go(self, make: Make, tmp_path: Path):
        """A report of ours about a file that is gone is removed by the next scan; another's is not."""
        for name in ("gone.json", "gone", "here.json"):
            report_of(tmp_path / name).write_bytes(error_report(name, refusal("empty"), sha256=None, size=0))
        (tmp_path / "here.json").touch()
        (tmp_path / "other.bench-error.json").write_bytes(b"{}")
        scan(make())
        assert sorted(path.name for path in tmp_path.glob("*.bench-error.json")) == [
            "here.bench-error.json",
            "other.bench-error.json",
        ]

    def test_second_scan_sees_a_deleted_sidecar(self, make: Make, tmp_path: Path):
        """The next scan is cheap, and still notices that a sidecar is gone."""
        path = tmp_path / "audit.json"
        path.write_bytes(audit())
        answer(path)
        clearly_later(path)
        folder = make()
        assert scan(folder)[0] == []
        clearly_later(path)
        assert scan(folder)[0] == []
        config_of(path).unlink()
        assert scan(folder)[0] == ["audit.json"]

    def test_forgotten_scans(self, make: Make, tmp_path: Path):
        """After `forget_scans` every sidecar is looked at again."""
        path = tmp_path / "audit.json"
        path.write_bytes(audit())
        answer(path)
        clearly_later(path)
        folder = make()
        scan(folder)
        config_of(path).write_bytes(b"{}")
        assert scan(folder)[0] == []
        folder.forget_scans()
        assert scan(folder)[0] == ["audit.json"]

    def test_remembers(self, make: Make, tmp_path: Path):
        """What needs no sidecar is passed by, until it changes."""
        path = tmp_path / "eval.json"
        path.write_bytes(b"{}")
        folder = make()
        folder.remember("eval.json", path.stat())
        assert scan(folder)[0] == []
        path.write_bytes(b"[]")
        os.utime(path, (LONG_AGO, LONG_AGO))
        clearly_later(path)
        path.chmod(0o600)
        assert scan(folder)[0] == ["eval.json"]

    def test_remembers_only_while_the_other_file_stands(self, make: Make, tmp_path: Path):
        """An audit whose config's place was taken is found again once that place is free."""
        path = tmp_path / "audit.json"
        path.write_bytes(audit())
        config_of(path).write_bytes(b"mine")
        folder = make()
        folder.remember("audit.json", path.stat(), beside=config_of(path).name)
        assert scan(folder)[0] == []
        config_of(path).unlink()
        assert scan(folder)[0] == ["audit.json"]

    def test_memory_is_bounded(self, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """Remembering more than the limit forgets rather than grows."""
        monkeypatch.setattr("benchd.folder.folder._MAX_REMEMBERED", 2)
        folder = make()
        for name in ("a.json", "b.json", "c.json"):
            (tmp_path / name).write_bytes(b"{}")
            folder.remember(name, (tmp_path / name).stat())
        assert scan(folder)[0] == ["a.json", "b.json"]

    def test_removes_what_a_crash_left(self, make: Make, tmp_path: Path):
        """Temporary files of dead processes go, in subfolders too; other hidden files stay."""
        (tmp_path / "sub").mkdir()
        stale = tmp_path / "sub" / ".benchd-00000000-1-1.tmp"
        stale.touch()
        os.utime(stale, (LONG_AGO - 1, LONG_AGO - 1))
        (tmp_path / ".benchd-mine.tmp").touch()
        scan(make())
        assert not stale.exists()
        assert (tmp_path / ".benchd-mine.tmp").exists()

    def test_watch_first_then_look(self, make: Make, tmp_path: Path):
        """A file that appears while its directory is being entered is found."""
        (tmp_path / "sub").mkdir()

        def entering(relative: str, descriptor: int) -> None:
            os.close(os.open("late.json", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))

        assert scan(make(), entering=entering)[0] == ["late.json", "sub/late.json"]

    def test_missing_root(self, make: Make, tmp_path: Path):
        """A root that is gone is told, and the scan ends."""
        folder = make()
        tmp_path.rmdir()
        failures: list[str] = []
        assert scan(folder, failed=lambda relative, _: failures.append(relative))[0] == []
        assert failures == [""]

    def test_directory_that_can_not_be_entered(self, make: Make, tmp_path: Path):
        """A directory that fails costs its own audits, not the others', and the next scan trusts nothing."""
        (tmp_path / "bad").mkdir()
        (tmp_path / "audit.json").write_bytes(audit())
        answer(tmp_path / "audit.json")
        clearly_later(tmp_path / "audit.json")
        folder = make()
        failures: list[str] = []

        def entering(relative: str, _: int) -> None:
            if relative == "bad":
                raise PermissionError(13, "no")

        options = {"entering": entering, "failed": lambda relative, _: failures.append(relative)}
        assert scan(folder, **options)[1].answered == 1
        assert failures == ["bad"]
        config_of(tmp_path / "audit.json").write_bytes(b"{}")
        assert scan(folder, **options)[0] == ["audit.json"]
