"""One walk through a folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchd.folder.clock import FolderClock
from benchd.folder.folder import Folder
from benchd.folder.scan import Scan
from daemon import audit, config_of, report_of
from limits import no_descriptors, no_rights
from sidecars import LONG_AGO, answer, clearly_later, report

Make = Callable[..., Folder]


def fail(_: str, error: OSError) -> None:
    raise error


def scan(folder: Folder, **options: Any) -> list[str]:
    """Return the audits that a scan finds, in order of names. A path that can't be read is an error."""
    return sorted(Scan(folder, **{"failed": fail, **options}))


def drop(path: Path, content: bytes | None = None, *, answered: bool = False) -> Path:
    """Write an audit, and perhaps a config that is clearly later."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(audit() if content is None else content)
    if answered:
        answer(path)
        clearly_later(path)
    return path


class Unreadable(Folder):
    """A folder on a disk that fails for one file."""

    def standing(self, name: str, *rest: Any) -> Any:
        if name == "b.json":
            raise OSError(5, "Input/output error")
        return super().standing(name, *rest)


class TestFinds:
    def test_what_is_open(self, make: Make, tmp_path: Path) -> None:
        """A scan yields every audit without an answer, but none in hidden folders or behind links."""
        for place in ("", "a", "a/b", ".hidden"):
            drop(tmp_path / place / "audit.json")
        (tmp_path / "loop").symlink_to(tmp_path)
        (tmp_path / "note.txt").touch()
        whole = Scan(make(), failed=fail)
        assert sorted(whole) == ["a/audit.json", "a/b/audit.json", "audit.json"]
        assert (whole.tally.found, whole.tally.answered, whole.tally.in_doubt) == (3, 0, 0)

    def test_not_what_is_answered(self, make: Make, tmp_path: Path) -> None:
        """Answered audits are counted, and rejected ones are named; `force` yields both."""
        bad = drop(tmp_path / "bad.json", b"x")
        report(bad, size=1)
        drop(tmp_path / "good.json", answered=True)
        clearly_later(bad)
        whole = Scan(make(), failed=fail)
        assert list(whole) == []
        assert (whole.tally.found, whole.tally.answered, whole.tally.rejected) == (2, 2, 1)
        assert whole.tally.rejections == [("bad.json", "the file has no content [empty]")]
        forced = Scan(make(), force=True)
        assert sorted(forced) == ["bad.json", "good.json"]
        assert (forced.tally.found, forced.tally.answered) == (2, 0)

    def test_what_is_in_doubt(self, make: Make, tmp_path: Path) -> None:
        """An audit whose hash has to decide is yielded, and counted apart."""
        os.utime(config_of(drop(tmp_path / "a.json", answered=True)), (1, 1))
        whole = Scan(make(), failed=fail)
        assert list(whole) == ["a.json"]
        assert (whole.tally.answered, whole.tally.in_doubt) == (0, 1)

    def test_below(self, make: Make, tmp_path: Path) -> None:
        """A scan can begin at a subfolder; it is not a whole scan."""
        for place in ("", "a", "a/b", "c"):
            drop(tmp_path / place / "audit.json")
        folder = make()
        assert scan(folder, below="a") == ["a/audit.json", "a/b/audit.json"]
        assert folder.scanned_until_ns == 0
        scan(folder)
        assert folder.scanned_until_ns > 0

    def test_not_recursive(self, make: Make, tmp_path: Path) -> None:
        """Folders that are not watched are not entered."""
        drop(tmp_path / "sub" / "audit.json")
        assert scan(make(recursive=False)) == []
        assert scan(make(nested=frozenset({"sub"}))) == []

    def test_link(self, make: Make, tmp_path: Path) -> None:
        """A link with an audit's name is yielded, so that it is rejected."""
        (tmp_path / "a.json").symlink_to("nowhere")
        assert scan(make()) == ["a.json"]

    def test_watch_first_then_list(self, make: Make, tmp_path: Path) -> None:
        """A file that appears while its directory is being entered is found."""
        (tmp_path / "sub").mkdir()

        def entering(_: str, descriptor: int) -> None:
            os.close(os.open("late.json", os.O_CREAT | os.O_WRONLY, dir_fd=descriptor))

        assert scan(make(), entering=entering) == ["late.json", "sub/late.json"]

    def test_pauses_and_many_rejections(self, make: Make, tmp_path: Path) -> None:
        """A long scan pauses now and then; it counts all rejections, and describes a thousand."""
        for number in range(1001):
            path = tmp_path / f"{number}.json"
            path.touch()
            report(path)
        clearly_later(path)
        for sidecar in tmp_path.glob("*.bench-error.json"):
            os.utime(sidecar)
        pauses: list[int] = []
        whole = Scan(make(), failed=fail, pause=lambda: pauses.append(whole.tally.found))
        assert list(whole) == []
        assert (whole.tally.rejected, len(whole.tally.rejections)) == (1001, 1000)
        assert len(pauses) == 2002 // 512
        assert pauses == sorted(pauses)
        assert pauses[0] < 512


class TestNextScan:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """An answered audit."""
        return drop(tmp_path / "audit.json", answered=True)

    def test_sees_a_deleted_sidecar(self, make: Make, path: Path) -> None:
        """The next scan is cheap, and still finds that a sidecar is gone."""
        folder = make()
        assert scan(folder) == []
        clearly_later(path)
        assert scan(folder) == []
        config_of(path).unlink()
        assert scan(folder) == ["audit.json"]

    def test_forgotten(self, make: Make, path: Path) -> None:
        """After `forget_scans` every sidecar is read again."""
        folder = make()
        scan(folder)
        config_of(path).write_bytes(b"{}")
        assert scan(folder) == []
        folder.forget_scans()
        assert scan(folder) == ["audit.json"]

    def test_forgotten_during_a_scan(self, make: Make, path: Path, tmp_path: Path) -> None:
        """After `forget_scans` in the middle of a scan the next one reads every sidecar again."""
        drop(tmp_path / "b.json")
        folder = make()
        for _ in Scan(folder):
            folder.forget_scans()
        config_of(path).write_bytes(b"{}")
        assert scan(folder) == ["audit.json", "b.json"]

    def test_abandoned(self, make: Make, path: Path, tmp_path: Path) -> None:
        """A scan that is not finished does not count, and leaves no descriptor open."""
        drop(tmp_path / "b.json")
        drop(tmp_path / "c.json")
        before = len(os.listdir("/proc/self/fd"))
        folder = make()
        found = iter(Scan(folder))
        next(found)
        found.close()
        assert folder.scanned_until_ns == 0
        assert len(os.listdir("/proc/self/fd")) == before

    def test_after_a_failure(self, make: Make, path: Path, tmp_path: Path) -> None:
        """A directory that fails costs its own audits only, and the next scan reads every sidecar again."""
        (tmp_path / "bad").mkdir()
        folder, failures = make(), []

        def entering(relative: str, _: int) -> None:
            if relative == "bad":
                raise PermissionError(13, "no")

        def failed(relative: str, _: OSError) -> None:
            failures.append(relative)

        whole = Scan(folder, entering=entering, failed=failed)
        assert list(whole) == []
        assert (whole.tally.answered, failures) == (1, ["bad"])
        config_of(path).write_bytes(b"{}")
        assert scan(folder, entering=entering, failed=failed) == ["audit.json"]

    @pytest.mark.parametrize("change", ["added", "changed", "removed"])
    def test_after_another_adapter(self, make: Make, path: Path, tmp_path: Path, change: str) -> None:
        """The next scan reads every sidecar beside an `adapter_config.json` that was added, changed or removed."""
        adapter, folder = tmp_path / "adapter_config.json", make(ignore=("adapter_config.json",))
        if change != "added":
            adapter.write_text('{"peft_type": "LORA", "r": 8}')
        scan(folder)
        config_of(path).write_bytes(b"{}")
        clearly_later(path)
        if change == "added":
            assert scan(folder) == []
        adapter.unlink() if change == "removed" else adapter.write_text('{"peft_type": "LORA", "r": 9}')
        assert scan(folder) == ["audit.json"]

    def test_cheap_again_without_an_adapter(self, make: Make, path: Path, tmp_path: Path) -> None:
        """After one scan that misses an `adapter_config.json` the next is cheap again."""
        adapter, folder = tmp_path / "adapter_config.json", make(ignore=("adapter_config.json",))
        adapter.write_text('{"peft_type": "LORA", "r": 8}')
        assert scan(folder) == ["audit.json"]  # its config was made without the file
        adapter.unlink()
        clearly_later(path)
        assert scan(folder) == []
        config_of(path).write_bytes(b"{}")
        assert scan(folder) == []

    def test_skips_what_is_remembered(self, make: Make, tmp_path: Path) -> None:
        """Content that needs no sidecar is skipped until it changes."""
        path = drop(tmp_path / "eval.json", b"{}")
        folder = make()
        folder.remember("eval.json", path.stat())
        assert scan(folder) == []
        path.chmod(0o600)
        assert scan(folder) == ["eval.json"]

    def test_remembers_while_the_other_file_exists(self, make: Make, tmp_path: Path) -> None:
        """An audit whose config's place was taken is found once that place is free."""
        path = drop(tmp_path / "audit.json")
        config_of(path).write_bytes(b"mine")
        folder = make()
        folder.remember("audit.json", path.stat(), beside=config_of(path).name)
        assert scan(folder) == []
        config_of(path).unlink()
        assert scan(folder) == ["audit.json"]


class TestClock:
    @pytest.mark.parametrize("seconds", [300, -300])
    def test_off(self, make: Make, tmp_path: Path, seconds: int) -> None:
        """With a wrong system clock changed audits are found, and answered ones are not found again and again."""
        path = drop(tmp_path / "a.json", audit(1), answered=True)
        folder = make(clock=FolderClock(lambda: time.time_ns() + seconds * 10**9))
        assert scan(folder) == []
        assert scan(folder) == []
        path.write_bytes(audit(2))
        assert scan(folder) == ["a.json"]

    def test_set_back(self, make: Make, tmp_path: Path) -> None:
        """When the system's clock is set back, what a scan has seen by the old clock is read again."""
        path, ahead = drop(tmp_path / "a.json", audit(1), answered=True), [300]
        folder = make(clock=FolderClock(lambda: time.time_ns() + ahead[0] * 10**9))
        assert scan(folder, check_clock=False) == []  # everything with a date within five minutes counts as seen
        ahead[0] = 0
        path.write_bytes(audit(2))
        assert scan(folder, check_clock=False) == ["a.json"]

    @pytest.mark.parametrize("options", [{"tidy": False}, {"check_clock": False}, {"below": "sub"}])
    def test_not_read(self, make: Make, tmp_path: Path, options: dict[str, Any]) -> None:
        """The folder's clock is read only by a whole scan that may write."""
        (tmp_path / "sub").mkdir()
        folder = make(clock=FolderClock(lambda: time.time_ns() + 300 * 10**9))
        scan(folder, **options)
        assert folder.now_ns() > time.time_ns() + 10**9


class TestTidies:
    def test_temporary_files(self, make: Make, tmp_path: Path) -> None:
        """Temporary files of dead processes are removed, in subfolders too; other hidden files stay."""
        (tmp_path / "sub").mkdir()
        stale = tmp_path / "sub" / ".benchd-00000000-1-1.tmp"
        stale.touch()
        os.utime(stale, (LONG_AGO, LONG_AGO))
        (tmp_path / ".benchd-mine.tmp").touch()
        scan(make(), tidy=False)
        assert stale.exists()
        scan(make())
        assert not stale.exists()
        assert (tmp_path / ".benchd-mine.tmp").exists()

    def test_reports_without_a_file(self, make: Make, tmp_path: Path) -> None:
        """A report of benchd about a file that is gone is removed; a person's report is not."""
        for name in ("gone.json", "gone", "here.json", "here2"):
            report(tmp_path / name, sha256=None)
        (tmp_path / "here.json").touch()
        (tmp_path / "here2").touch()
        (tmp_path / "other.bench-error.json").write_bytes(b"{}")
        before = sorted(os.listdir(tmp_path))
        scan(make(), tidy=False)
        assert sorted(os.listdir(tmp_path)) == before
        scan(make())
        assert sorted(path.name for path in tmp_path.glob("*.bench-error.json")) == [
            "here.bench-error.json",
            "here2.bench-error.json",
            "other.bench-error.json",
        ]

    def test_report_beside_a_config_that_holds(self, make: Make, tmp_path: Path) -> None:
        """A slower daemon's report about earlier content is removed; one about the present content stays."""
        for name in ("fixed", "broken"):
            path = drop(tmp_path / f"{name}.json", answered=True)
            report(path)
        (tmp_path / "broken.json").write_bytes(b"[]")
        clearly_later(tmp_path / "fixed.json")
        scan(make())
        assert not report_of(tmp_path / "fixed.json").exists()
        assert report_of(tmp_path / "broken.json").exists()

    def test_report_that_can_not_be_removed(self, make: Make, tmp_path: Path, directory: int) -> None:
        """A stale report that may not be removed does not hinder the scan."""

        class Opened(Folder):
            def open(self, relative: str = "") -> int:
                return os.dup(directory)

        drop(tmp_path / "audit.json")
        report(tmp_path / "gone.json")
        tmp_path.chmod(0o555)
        try:
            with no_rights():
                assert scan(make(Opened), check_clock=False) == ["audit.json"]
        finally:
            tmp_path.chmod(0o755)
        assert report_of(tmp_path / "gone.json").exists()

    def test_report_that_vanishes(self, make: Make, tmp_path: Path) -> None:
        """A stale report that another daemon removes at the same moment is no error."""
        for number in range(20):
            report(tmp_path / f"{number}.json")
        found = iter(Scan(make(), failed=fail))
        drop(tmp_path / "audit.json")
        assert next(found) == "audit.json"
        for path in tmp_path.glob("*.bench-error.json"):
            path.unlink()
        assert list(found) == []


class TestTrouble:
    def test_missing_root(self, make: Make, tmp_path: Path) -> None:
        """A folder that is missing is reported, and the scan ends."""
        folder, failures = make(), []
        tmp_path.rmdir()
        assert scan(folder, failed=lambda relative, error: failures.append((relative, type(error)))) == []
        assert failures == [("", FileNotFoundError)]
        assert folder.scanned_until_ns == 0

    def test_directory_that_vanishes(self, make: Make, tmp_path: Path) -> None:
        """A subfolder that is deleted before it is entered is not an error."""
        (tmp_path / "sub").mkdir()
        drop(tmp_path / "audit.json")
        found = iter(Scan(make(), failed=fail))
        assert next(found) == "audit.json"
        (tmp_path / "sub").rmdir()
        assert list(found) == []

    def test_directory_without_rights(self, make: Make, tmp_path: Path) -> None:
        """A subfolder that may not be opened is reported."""

        class Locked(Folder):
            def open(self, relative: str = "") -> int:
                if relative == "closed":
                    raise PermissionError(13, "Permission denied")
                return super().open(relative)

        (tmp_path / "closed").mkdir()
        drop(tmp_path / "sub" / "audit.json")
        failures: list[str] = []
        found = scan(make(Locked), failed=lambda relative, _: failures.append(relative))
        assert (found, failures) == (["sub/audit.json"], ["closed"])

    def test_no_descriptor_left(self, make: Make, tmp_path: Path) -> None:
        """If the folder can't be opened, that is reported, and the next scan reads every sidecar."""
        folder, failures = make(), []
        with no_descriptors():
            assert scan(folder, failed=lambda _, error: failures.append(error)) == []
        assert len(failures) == 1
        assert folder.scanned_until_ns == 0

    def test_files_that_vanish(self, make: Make, tmp_path: Path) -> None:
        """Audits that are deleted after the listing are skipped."""
        for number in range(5):
            drop(tmp_path / f"{number}.json")
        found = iter(Scan(make(), failed=fail))
        first = next(found)
        for path in tmp_path.glob("*.json"):
            path.unlink()
        assert list(found) == []
        assert first.endswith(".json")

    def test_one_bad_entry(self, make: Make, tmp_path: Path) -> None:
        """An audit whose sidecar can't be read is yielded and reported, and the others are found."""
        for name in "abc":
            drop(tmp_path / f"{name}.json")
        config_of(tmp_path / "b.json").write_bytes(b"not to be read")
        failures: list[str] = []
        found = scan(make(Unreadable), failed=lambda path, _: failures.append(path))
        assert found == ["a.json", "b.json", "c.json"]
        assert failures == ["b.json"]
