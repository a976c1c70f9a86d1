"""`benchd watch` as people and systemd run it: real processes over real folders."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from daemon import (
    Daemon,
    answers,
    audit,
    config_of,
    read_json,
    report_of,
    reports,
    temporary_files,
    until,
)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc, inotify")

Start = Callable[..., Daemon]

REJECTED = "audit.rejected"
SELECTED = "audit.selected"


def shell(script: str, **variables: Path | str) -> subprocess.Popen[bytes]:
    """A shell that runs `script` beside the test."""
    environment = {**os.environ, **{key: str(value) for key, value in variables.items()}}
    return subprocess.Popen(["/bin/sh", "-c", script], env=environment)


def run_shell(script: str, **variables: Path | str) -> None:
    """Run `script` to its end."""
    assert shell(script, **variables).wait(30) == 0


def answers_quietly(path: Path) -> bool:
    """Whether `path` is there and answered."""
    return path.exists() and answers(path)


def watch(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`benchd watch` that is expected to end by itself."""
    command = [sys.executable, "-m", "benchd", "watch", *map(str, arguments)]
    environment = {key: value for key, value in os.environ.items() if key != "BENCHD_CONFIG"}
    return subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=cwd, env=environment, check=False)


class TestArrivals:
    """The ways in which an audit comes into a folder."""

    @pytest.fixture
    def daemon(self, start: Start) -> Daemon:
        return start()

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        path = tmp_path / "source"
        path.write_bytes(audit(7))
        return path

    @pytest.mark.parametrize(
        ("command", "trigger"),
        [
            ('cp "$source" "$target"', "closed"),
            ('mv "$source" "$target"', "moved"),
            ('ln "$source" "$target"', "moved"),
            ('cat "$source" > "$target"', "closed"),
            ('cp "$source" "$target.part" && mv "$target.part" "$target"', "moved"),
            ('dd if="$source" of="$target" bs=100 status=none', "closed"),
        ],
        ids=["cp", "mv", "ln", "redirect", "rename", "small writes"],
    )
    def test_is_answered(self, daemon: Daemon, source: Path, command: str, trigger: str):
        """However an audit arrives it is answered, once, long before any settling or rescan."""
        target = daemon.folder / "audit.json"
        began = time.monotonic()
        run_shell(command, source=source, target=target)
        until(lambda: answers(target), 2)
        assert time.monotonic() - began < 2
        daemon.mark()
        [record] = daemon.about(target, SELECTED)
        assert record["trigger"] == trigger
        assert not daemon.records(REJECTED)

    def test_config_says_what_the_audit_selects(self, daemon: Daemon):
        """The config beside the audit holds the strategy, and the record agrees with it."""
        path = daemon.drop("audit.json", audit(flagged=False))
        until(lambda: answers(path))
        config = read_json(config_of(path))
        [record] = daemon.about(path, SELECTED)
        assert config["selection"]["strategy"] == record["strategy"] == "priority_score"
        assert config["provenance"]["decision_id"] == record["decision_id"]
        assert record["config"] == str(config_of(path))

    def test_slow_redirect(self, daemon: Daemon, source: Path):
        """A redirect that stays empty far longer than `settle` and then fills is deferred, and never rejected."""
        target = daemon.folder / "slow.json"
        writer = shell('(sleep 1.5; cat "$source") > "$target"', source=source, target=target)
        until(lambda: daemon.about(target, "audit.deferred"), 1.5, "the empty file is waited for")
        assert not config_of(target).exists()
        until(lambda: answers(target))
        assert writer.wait(10) == 0
        daemon.mark()
        assert not daemon.records(REJECTED)
        assert not report_of(target).exists()
        assert len(daemon.about(target, SELECTED)) == 1

    def test_dribbling_writer(self, daemon: Daemon, source: Path):
        """A writer that pauses longer than `settle` in the middle of the JSON is waited for while it holds the file."""
        target = daemon.folder / "dribble.json"
        script = 'exec > "$target"; head -c 900 "$source"; sleep 0.8; tail -c +901 "$source" | head -c 900; sleep 0.8;'
        writer = shell(script + 'tail -c +1801 "$source"', source=source, target=target)
        until(lambda: answers_quietly(target))
        assert writer.wait(10) == 0
        daemon.mark()
        assert daemon.about(target, "audit.deferred")
        assert not daemon.records(REJECTED)
        assert len(daemon.about(target, SELECTED)) == 1

    @pytest.mark.parametrize("again", [8, 12345678], ids=["same size", "other size"])
    def test_rewrite_in_place(self, daemon: Daemon, again: int):
        """An audit that is written anew in its place is answered anew, also if it has the same size."""
        target = daemon.folder / "audit.json"
        target.write_bytes(audit(7))
        until(lambda: answers(target))
        target.write_bytes(audit(again))
        until(lambda: answers(target))
        daemon.mark()
        assert sorted(number for (path, _), number in daemon.selections().items() if path == str(target)) == [1, 1]
        assert not daemon.records(REJECTED)

    def test_touched(self, daemon: Daemon):
        """A file that is opened for writing and closed without a change is not answered again."""
        path = daemon.drop("audit.json")
        until(lambda: answers(path))
        before = config_of(path).stat()
        with path.open("ab"):
            pass
        until(lambda: daemon.about(path, "audit.unchanged"))
        assert config_of(path).stat().st_ino == before.st_ino
        assert len(daemon.about(path, SELECTED)) == 1

    def test_text_before_the_json(self, daemon: Daemon):
        """Gradience's progress lines before the JSON are the normal case of a real model, not an error."""
        lines = b"    computing SVD and metrics for layer: base_model.model.layers.0.mlp\n" * 11
        text = (Path(__file__).parents[1] / "audits" / "trained_llama8__default.json").read_bytes()
        path = daemon.drop("real.json", lines + text)
        until(lambda: answers(path))
        [note] = read_json(config_of(path))["selection"]["notes"]
        assert note.startswith("each alpha assumes")

    def test_tree_moved_in(self, daemon: Daemon, tmp_path: Path):
        """Of a folder tree that is moved in every audit is answered, and later drops into it too."""
        tree = tmp_path / "tree"
        for place in ("", "a", "a/b", "c d"):
            (tree / place).mkdir(parents=True, exist_ok=True)
            (tree / place / "audit.json").write_bytes(audit(len(place)))
        os.rename(tree, daemon.folder / "tree")
        paths = [daemon.folder / "tree" / place / "audit.json" for place in ("", "a", "a/b", "c d")]
        until(lambda: all(answers(path) for path in paths))
        later = daemon.drop("tree/a/b/later.json", audit(1))
        until(lambda: answers(later), 2)
        assert set(daemon.selections().values()) == {1}

    def test_moved_folder_is_still_watched(self, daemon: Daemon):
        """A subfolder that is renamed within the folder is watched under its new name."""
        (daemon.folder / "old").mkdir()
        first = daemon.drop("old/a.json", audit(1))
        until(lambda: answers(first))
        os.rename(daemon.folder / "old", daemon.folder / "new")
        second = daemon.drop("new/b.json", audit(2))
        until(lambda: answers(second), 2)
        assert daemon.about(second, SELECTED)

    def test_folder_moved_away_and_made_again(self, daemon: Daemon, tmp_path: Path):
        """A subfolder that is moved out, made again and deleted leaves the others watched."""
        for _ in range(3):
            (daemon.folder / "sub").mkdir()
            path = daemon.drop("sub/a.json", audit(3))
            until(lambda path=path: answers(path), 2)
            os.rename(daemon.folder / "sub", tmp_path / "away")
            shutil.rmtree(tmp_path / "away")
        daemon.mark()
        assert not daemon.records("service.thread_failed")

    def test_new_subfolder_filled_at_once(self, daemon: Daemon):
        """2,000 audits in a folder that is made just before: all answered, each content once, none rejected."""
        place = daemon.folder / "many"
        place.mkdir()
        paths = [place / f"{number}.json" for number in range(2000)]
        for number, path in enumerate(paths):
            path.write_bytes(audit(number))
        until(lambda: sum(1 for name in os.listdir(place) if name.endswith(".bench.json")) == 2000, 60)
        assert all(answers(path) for path in paths)
        daemon.mark()
        counts = daemon.selections()
        assert set(counts.values()) == {1}
        assert {path for path, _ in counts} >= {str(path) for path in paths}
        assert not daemon.records(REJECTED)

    def test_unusual_names(self, daemon: Daemon):
        """Names with spaces, newlines, no UTF-8 or no `.json` at all before the dot are answered like others."""
        names = [b"with space.json", b"new\nline.json", b"caf\xe9.json", "größe😀.json".encode(), b'quo"te.json']
        paths = [daemon.folder / os.fsdecode(name) for name in names]
        for number, path in enumerate(paths):
            path.write_bytes(audit(number))
        until(lambda: all(answers(path) for path in paths))
        assert len(daemon.records(SELECTED)) == len(names)


class TestBadFiles:
    """One bad file costs one record, and gets its report."""

    def test_broken_audit(self, start: Start):
        """A broken audit gets a report and a record with a code and a hint; the next audit is answered."""
        daemon = start()
        bad = daemon.drop("bad.json", audit()[:1500])
        good = daemon.drop("good.json")
        until(lambda: answers(good), 2)
        until(lambda: reports(bad, "truncated"))
        [record] = daemon.about(bad, REJECTED)
        assert (record["code"], record["level"]) == ("truncated", "error")
        assert "column" in record["message"]
        assert record["hint"]
        assert not config_of(bad).exists()

    def test_mended(self, start: Start):
        """The report goes as soon as the audit can be used."""
        daemon = start()
        path = daemon.drop("audit.json", audit()[:1500])
        until(lambda: reports(path, "truncated"))
        path.write_bytes(audit())
        until(lambda: answers(path))
        assert not report_of(path).exists()

    def test_broken_later(self, start: Start):
        """An audit that is overwritten by rubbish is rejected; what its earlier content selected is still there."""
        daemon = start()
        path = daemon.drop("audit.json")
        until(lambda: answers(path))
        path.write_bytes(b"Error: Audit failed: no such adapter\n")
        until(lambda: reports(path, "audit_failed"))
        [record] = daemon.about(path, REJECTED)
        assert "no such adapter" in record["message"]

    def test_empty(self, start: Start):
        """An empty file that its writer has closed is rejected once it has settled, not before."""
        daemon = start()
        path = daemon.folder / "empty.json"
        began = time.monotonic()
        path.touch()
        until(lambda: reports(path, "empty"))
        assert time.monotonic() - began >= 0.29
        assert len(daemon.about(path, REJECTED)) == 1

    def test_special_files(self, start: Start, tmp_path: Path):
        """A link, a pipe and a socket that are named like audits are rejected; nothing blocks on them."""
        daemon = start()
        outside = tmp_path / "outside"
        outside.write_bytes(audit(1))
        (daemon.folder / "link.json").symlink_to(outside)
        (daemon.folder / "loop.json").symlink_to("loop.json")
        os.mkfifo(daemon.folder / "pipe.json")
        until(lambda: reports(daemon.folder / "link.json", "symlink"))
        until(lambda: reports(daemon.folder / "loop.json", "symlink"))
        until(lambda: reports(daemon.folder / "pipe.json", "not_a_regular_file"))
        daemon.mark()
        assert len(daemon.records(REJECTED)) == 3

    def test_link_to_a_folder_is_not_entered(self, start: Start, tmp_path: Path):
        """Audits behind a link to a folder are not benchd's business."""
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "audit.json").write_bytes(audit(1))
        daemon = start()
        (daemon.folder / "linked").symlink_to(outside)
        daemon.mark()
        assert os.listdir(outside) == ["audit.json"]

    def test_too_large(self, start: Start):
        """A file over `max_bytes` is rejected without being read."""
        daemon = start(watching='max_bytes = "10kB"')
        path = daemon.drop("large.json", audit() + b" " * 10_000)
        until(lambda: reports(path, "too_large"))

    def test_vanished(self, start: Start):
        """A file that is deleted before it is looked at leaves no trace."""
        daemon = start()
        for number in range(50):
            path = daemon.drop(f"{number}.json", b"{")
            path.unlink()
        daemon.mark()
        assert not daemon.records("audit.failed")


class TestLeftAlone:
    """What benchd does not touch."""

    def test_other_json_is_ignored(self, start: Start):
        """An `adapter_config.json` is no audit: a debug record, and no sidecar."""
        daemon = start()
        path = daemon.drop("adapter_config.json", b'{"peft_type": "LORA", "r": 8}')
        until(lambda: daemon.about(path, "audit.ignored"))
        assert daemon.about(path, "audit.ignored")[0]["level"] == "debug"
        daemon.mark()
        assert not config_of(path).exists()
        assert not report_of(path).exists()

    def test_sidecars_and_hidden_files_are_no_audits(self, start: Start):
        """Benchd's own files, hidden files and what is in hidden folders are never answered."""
        daemon = start()
        (daemon.folder / ".hidden").mkdir()
        for name in ("x.bench.json", "x.bench-error.json", ".x.json", ".hidden/x.json", "x.txt", ".benchd-1.tmp"):
            daemon.drop(name, audit(1))
        daemon.mark()
        daemon.mark()  # the config of the first mark is no audit either
        answered = {os.path.basename(path) for path, _ in daemon.selections()}
        assert all(name.startswith("mark-") for name in answered)
        assert len(answered) == 2

    def test_edited_config_is_kept(self, start: Start):
        """A config that a person has edited is left as it is, and the trail says so."""
        daemon = start()
        path = daemon.drop("audit.json", audit(1))
        until(lambda: answers(path))
        edited = config_of(path).read_bytes().replace(b'"rank": 8', b'"rank": 9', 1)
        config_of(path).write_bytes(edited)
        path.write_bytes(audit(2))
        [record] = until(lambda: daemon.about(path, "config.kept"))
        assert record["level"] == "warning"
        assert "edited" in record["reason"]
        daemon.mark()
        assert config_of(path).read_bytes() == edited
        assert len(daemon.about(path, SELECTED)) == 1

    def test_edited_config_moved_away(self, start: Start):
        """Once the edited config is moved away, the next rescan gives the new answer."""
        daemon = start(watching='rescan_interval = "200ms"')
        path = daemon.drop("audit.json", audit(1))
        until(lambda: answers(path))
        config_of(path).write_bytes(config_of(path).read_bytes().replace(b'"rank": 8', b'"rank": 9', 1))
        path.write_bytes(audit(2))
        until(lambda: daemon.about(path, "config.kept"))
        os.rename(config_of(path), daemon.home / "mine.json")
        until(lambda: answers_quietly(path))

    def test_foreign_file_is_kept(self, start: Start):
        """A file in the config's place that is not benchd's stays."""
        daemon = start()
        foreign = daemon.folder / "audit.bench.json"
        foreign.write_bytes(b'{"mine": true}')
        path = daemon.drop("audit.json")
        [record] = until(lambda: daemon.about(path, "config.kept"))
        assert "not benchd's" in record["reason"]
        assert foreign.read_bytes() == b'{"mine": true}'

    def test_patterns_and_ignore(self, start: Start):
        """Only what the patterns name and `ignore` doesn't is answered."""
        daemon = start(watch='patterns = ["*.audit", "deep/*.json"]\nignore = ["not-*", "skip"]')
        (daemon.folder / "deep").mkdir()
        (daemon.folder / "skip").mkdir()
        wanted = [daemon.drop("a.audit"), daemon.drop("deep/b.json")]
        for name in ("c.json", "not-d.audit", "skip/e.audit"):
            daemon.drop(name)
        until(lambda: all(daemon.about(path, SELECTED) for path in wanted))
        daemon.drop("z.audit", audit(9))
        until(lambda: len(daemon.records(SELECTED)) == 3)
        assert (daemon.folder / "a.audit.bench.json").exists()

    def test_not_recursive(self, start: Start):
        """Without `recursive` subfolders are left alone."""
        daemon = start(watch="recursive = false")
        (daemon.folder / "sub").mkdir()
        inside = daemon.drop("sub/audit.json", audit(1))
        daemon.mark()
        assert not config_of(inside).exists()

    def test_audit_is_never_changed(self, start: Start):
        """The audit keeps its bytes, its time stamps and its rights."""
        daemon = start()
        path = daemon.drop("audit.json")
        path.chmod(0o440)
        before = path.stat()
        until(lambda: answers(path))
        after = path.stat()
        assert (after.st_mtime_ns, after.st_ctime_ns, after.st_mode) == (
            before.st_mtime_ns,
            before.st_ctime_ns,
            before.st_mode,
        )


class TestRestart:
    """The folder is the only state."""

    def test_nothing_is_answered_twice(self, start: Start):
        """After a restart the trail has no second answer, and the configs are the same files."""
        daemon = start()
        paths = [daemon.drop(f"{number}.json", audit(number, flagged=number % 2 == 0)) for number in range(20)]
        until(lambda: all(answers(path) for path in paths))
        before = {path: config_of(path).stat().st_ino for path in paths}
        daemon.stop()
        daemon.start()
        scan = until(lambda: daemon.records("scan.finished", cause="start")[1:])[0]
        assert scan["found"] == 20
        daemon.mark()
        assert {path: config_of(path).stat().st_ino for path in paths} == before
        assert set(daemon.selections().values()) == {1}

    def test_settled_audits_are_not_even_read(self, start: Start):
        """An answer that is clearly younger than its audit holds by its `stat` alone."""
        daemon = start()
        path = daemon.drop("audit.json")
        # The answer to an audit that was dropped just now is in doubt; an older audit's is not.
        os.utime(path)
        until(lambda: answers(path))
        daemon.stop()
        until(lambda: time.time_ns() - path.stat().st_ctime_ns > 60_000_000, what="the audit is clearly older")
        os.utime(config_of(path))
        daemon.start()
        scan = until(lambda: daemon.records("scan.finished", cause="start")[1:])[0]
        assert (scan["found"], scan["answered"], scan["queued"]) == (1, 1, 0)

    def test_dropped_while_stopped(self, start: Start):
        """What was dropped, and what was rewritten, while no daemon ran is answered at the next start."""
        daemon = start()
        first = daemon.drop("first.json", audit(1))
        until(lambda: answers(first))
        daemon.stop()
        second = daemon.drop("second.json", audit(2))
        first.write_bytes(audit(3))
        daemon.start()
        until(lambda: answers(second) and answers(first))
        assert daemon.about(second, SELECTED)[0]["trigger"] == "scan"
        assert len(daemon.about(first, SELECTED)) == 2

    def test_old_content_moved_in_while_stopped(self, start: Start):
        """Another audit of the same size and an older mtime, moved into place while no daemon ran, is answered."""
        daemon = start()
        path = daemon.drop("audit.json", audit(1))
        until(lambda: answers(path))
        daemon.stop()
        other = daemon.home / "other"
        other.write_bytes(audit(2))
        os.utime(other, (1, 1))
        os.rename(other, path)
        daemon.start()
        until(lambda: answers(path))

    def test_changed_setting(self, start: Start):
        """Another `top_n` answers anew what it shaped, a fallback, and leaves a flagged answer alone."""
        daemon = start(settings="[selection]\ntop_n = 3")
        flagged, fallback = daemon.drop("flagged.json", audit(1)), daemon.drop("flat.json", audit(2, flagged=False))
        until(lambda: answers(flagged) and answers(fallback))
        daemon.stop()
        daemon.config.write_text(daemon.config.read_text().replace("top_n = 3", "top_n = 1"))
        daemon.start()
        until(lambda: len(read_json(config_of(fallback))["selection"]["layers"]) == 1)
        daemon.mark()
        assert len(daemon.about(flagged, SELECTED)) == 1
        assert len(daemon.about(fallback, SELECTED)) == 2

    def test_rejected_before(self, start: Start):
        """An error report answers too: the bad file is not rejected again at every start."""
        daemon = start()
        path = daemon.drop("bad.json", b"nonsense")
        until(lambda: reports(path, "not_json"))
        daemon.stop()
        daemon.start()
        daemon.mark()
        until(lambda: daemon.records("scan.finished", cause="start")[1:])
        assert len(daemon.about(path, REJECTED)) == 1

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_stops_at_once(self, start: Start, number: signal.Signals):
        """SIGTERM and SIGINT end it within a second, with 0, and the last record says what was done."""
        daemon = start()
        path = daemon.drop("audit.json")
        until(lambda: answers(path))
        daemon.stop(number, within=1.0)
        [stopping], [stopped] = daemon.records("service.stopping"), daemon.records("service.stopped")
        assert stopping["signal"] == number.name
        assert (stopped["answered"], stopped["rejected"], stopped["waiting"]) == (1, 0, 0)
        assert daemon.records()[-1] == stopped

    def test_stops_with_work_left(self, start: Start):
        """In the middle of a flood it stops in time too; what is left is answered by the next one."""
        daemon = start(durable=True)
        paths = [daemon.folder / f"{number}.json" for number in range(400)]
        for number, path in enumerate(paths):
            path.write_bytes(audit(number))
        daemon.stop(within=2.0)
        assert not temporary_files(daemon.folder)
        daemon.start()
        until(lambda: all(answers(path) for path in paths), 30)
        assert set(daemon.selections().values()) == {1}

    def test_second_daemon(self, start: Start, tmp_path: Path):
        """A second daemon on the folder names the first one's pid and exits with 2; after kill -9 one may start."""
        daemon = start()
        result = watch(daemon.folder, cwd=tmp_path)
        assert result.returncode == 2
        assert f"pid {daemon.pid}" in result.stderr
        assert len(result.stderr.splitlines()) == 1
        daemon.kill()
        daemon.start()
        daemon.mark()

    def test_killed_in_the_middle(self, start: Start):
        """After kill -9 in a flood the next start answers the rest; nothing unfinished stays, no record is missing."""
        daemon = start(durable=True)
        paths = [daemon.folder / f"{number}.json" for number in range(300)]
        for number, path in enumerate(paths):
            path.write_bytes(audit(number))
        until(lambda: len(daemon.records(SELECTED)) >= 20)
        daemon.kill()
        assert sum(answers(path) for path in paths) < 300, "the kill came too late to show anything"
        daemon.start()
        until(lambda: all(answers(path) for path in paths), 30)
        until(lambda: daemon.records("scan.finished", cause="start"))
        assert not temporary_files(daemon.folder)
        recorded = {record["decision_id"] for record in daemon.records(SELECTED)}
        assert {read_json(config_of(path))["provenance"]["decision_id"] for path in paths} <= recorded


class TestRoot:
    """The watched folder itself comes and goes."""

    def test_missing_at_start(self, start: Start):
        """A folder that does not exist yet is waited for, and said to be missing."""
        daemon = start(make=False)
        [lost] = daemon.records("watch.root_lost")
        assert "does not exist" in lost["reason"]
        assert daemon.records("service.ready")[0]["roots"] == []
        daemon.folder.mkdir()
        path = daemon.drop("audit.json")
        until(lambda: answers(path))
        assert len(daemon.records("watch.root_restored")) == 1

    def test_deleted_and_made_again(self, start: Start):
        """A folder that is deleted is missed at once, and watched again when it is back."""
        daemon = start()
        daemon.mark()
        shutil.rmtree(daemon.folder)
        until(lambda: daemon.records("watch.root_lost"), 2)
        daemon.folder.mkdir()
        path = daemon.drop("audit.json")
        until(lambda: answers(path))
        later = daemon.drop("later.json", audit(1))
        until(lambda: answers(later), 2)
        assert len(daemon.records("watch.root_lost")) == len(daemon.records("watch.root_restored")) == 1

    def test_renamed_away_and_replaced(self, start: Start, tmp_path: Path):
        """When another folder stands in its place, that one is watched, and the old one no more."""
        daemon = start()
        daemon.mark()
        os.rename(daemon.folder, tmp_path / "away")
        daemon.folder.mkdir()
        until(lambda: daemon.records("watch.root_restored"))
        path = daemon.drop("audit.json")
        until(lambda: answers(path), 2)
        old = tmp_path / "away" / "late.json"
        old.write_bytes(audit(5))
        daemon.mark()
        assert not config_of(old).exists()
        assert daemon.records("watch.root_lost")

    def test_replaced_by_a_file(self, start: Start):
        """A file in the folder's place is no folder: it is said so, and waited."""
        daemon = start()
        shutil.rmtree(daemon.folder)
        daemon.folder.touch()
        until(lambda: daemon.records("watch.root_lost"))
        daemon.folder.unlink()
        daemon.folder.mkdir()
        until(lambda: daemon.records("watch.root_restored"))
        daemon.mark()

    def test_two_folders(self, start: Start, tmp_path: Path):
        """Several folders, one inside another with settings of its own, are each answered once by their own."""
        inner = tmp_path / "inbox" / "inner"
        inner.mkdir(parents=True)
        table = f'[[watch]]\npath = "{inner}"\n[watch.selection]\ntop_n = 1'
        daemon = start(settings=table)
        outside = daemon.drop("a.json", audit(1, flagged=False))
        inside = daemon.drop("inner/b.json", audit(2, flagged=False))
        until(lambda: answers(outside) and answers(inside))
        daemon.mark()
        assert len(read_json(config_of(outside))["selection"]["layers"]) == 3
        assert len(read_json(config_of(inside))["selection"]["layers"]) == 1
        assert set(daemon.selections().values()) == {1}


class TestPolling:
    """Network file systems tell nothing; polling does."""

    POLLING = 'backend = "polling"\npoll_interval = "100ms"'

    def test_answers(self, start: Start):
        """New, rewritten and moved audits are found by polling, in subfolders too."""
        daemon = start(watch=self.POLLING)
        assert daemon.records("watch.started")[0]["backend"] == "polling"
        (daemon.folder / "sub").mkdir()
        first, second = daemon.drop("first.json", audit(1)), daemon.drop("sub/second.json", audit(2))
        until(lambda: answers(first) and answers(second))
        first.write_bytes(audit(12345678))
        until(lambda: answers(first))
        moved = daemon.folder / "moved.json"
        os.rename(second, moved)
        until(lambda: answers(moved))
        assert daemon.about(moved, SELECTED)[0]["trigger"] == "poll"
        assert not daemon.records(REJECTED)

    def test_slow_writer(self, start: Start, tmp_path: Path):
        """A slow redirect is not rejected under polling either."""
        daemon = start(watch=self.POLLING)
        source, target = tmp_path / "source", daemon.folder / "slow.json"
        source.write_bytes(audit(1))
        writer = shell('(sleep 1; cat "$source") > "$target"', source=source, target=target)
        until(lambda: answers_quietly(target))
        assert writer.wait(10) == 0
        assert not daemon.records(REJECTED)

    def test_root_deleted(self, start: Start):
        """A polled folder that is deleted and made again is watched again."""
        daemon = start(watch=self.POLLING)
        shutil.rmtree(daemon.folder)
        until(lambda: daemon.records("watch.root_lost"))
        daemon.folder.mkdir()
        until(lambda: daemon.records("watch.root_restored"))
        daemon.mark()


class TestOverflow:
    """Events are hints; the folder is the truth."""

    def test_lost_events(self, start: Start):
        """When the kernel's queue overflows the loss is recorded, and what it hid is found by a scan."""
        room = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text(encoding="ascii"))
        if room > 100_000:
            pytest.skip(f"fs.inotify.max_queued_events is {room}: too many events to make")
        daemon = start()
        os.kill(daemon.pid, signal.SIGSTOP)
        threads = Path(f"/proc/{daemon.pid}/task")
        try:
            until(lambda: all("\nState:\tT" in status.read_text("utf-8") for status in threads.glob("*/status")))
            for number in range(room + 10):  # two names by turns: the kernel merges events that are alike
                os.close(os.open(daemon.folder / f"{number % 2}.txt", os.O_CREAT | os.O_WRONLY, 0o600))
            paths = [daemon.drop(f"{number}.json", audit(number)) for number in range(5)]
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
        until(lambda: all(answers(path) for path in paths))
        until(lambda: daemon.records("watch.overflow"))  # the first scan may have been sooner
        assert {record["trigger"] for record in daemon.records(SELECTED)} == {"scan"}
        daemon.mark()


class TestTrail:
    """Every config on disk has its record."""

    def test_every_record_is_what_the_schema_says(self, start: Start):
        """All records of a run in which much happens validate."""
        schema = json.loads((resources.files("benchd") / "schemas" / "trail-record.schema.json").read_text("utf-8"))
        validator = Draft202012Validator(schema)
        daemon = start(settings="[selection]\ntop_n = 2")
        path = daemon.drop("audit.json", audit(1))
        daemon.drop("flat.json", audit(2, flagged=False))
        daemon.drop(os.fsdecode(b"caf\xe9.json"), audit(3))
        daemon.drop("other.json", b"{}")
        bad = daemon.drop("bad.json", b"{")
        huge = audit(4, flagged=False).replace(b'"priority_score": 1', b'"priority_score": ' + b"9" * 40, 1)
        daemon.drop("huge.json", huge)
        until(lambda: answers(path) and reports(bad, "truncated"))
        with path.open("ab"):
            pass
        until(lambda: daemon.about(path, "audit.unchanged"))
        config_of(path).write_bytes(b"mine")
        path.write_bytes(audit(5))
        until(lambda: daemon.about(path, "config.kept"))
        os.rename(daemon.folder, daemon.home / "away")
        until(lambda: daemon.records("watch.root_lost"))
        os.rename(daemon.home / "away", daemon.folder)
        until(lambda: daemon.records("watch.root_restored"))
        daemon.stop()
        seen = {record["event"] for record in daemon.records()}
        assert seen >= {
            "audit.deferred",
            "audit.ignored",
            "audit.rejected",
            "audit.selected",
            "audit.unchanged",
            "config.kept",
            "scan.finished",
            "service.ready",
            "service.started",
            "service.stopped",
            "service.stopping",
            "watch.root_lost",
            "watch.root_restored",
            "watch.started",
        }
        problems = [
            f"{record['event']}: {error.message}"
            for record in daemon.records()
            for error in validator.iter_errors(record)
        ]
        assert problems == []

    def test_record_comes_before_the_config(self, start: Start):
        """At the moment a config can be seen its record is in the trail already."""
        daemon = start()
        for number in range(30):
            path = daemon.drop(f"{number}.json", audit(number))
            end = time.monotonic() + 5
            while not config_of(path).exists():
                assert time.monotonic() < end
            assert daemon.about(path, SELECTED)

    def test_rotation_by_rename(self, start: Start):
        """After logrotate's rename the next record is in a new file, none is lost."""
        daemon = start()
        first = daemon.drop("first.json", audit(1))
        until(lambda: answers(first))
        rotated = daemon.trail.with_suffix(".1")
        os.rename(daemon.trail, rotated)
        second = daemon.drop("second.json", audit(2))
        until(lambda: answers(second))
        assert daemon.about(second, SELECTED)
        assert not daemon.about(first, SELECTED)
        assert b"first.json" in rotated.read_bytes()
        assert b"second.json" not in rotated.read_bytes()

    def test_rotation_by_copytruncate(self, start: Start):
        """After a truncation records start at the beginning of the file, without a hole."""
        daemon = start()
        first = daemon.drop("first.json", audit(1))
        until(lambda: answers(first))
        os.truncate(daemon.trail, 0)
        second = daemon.drop("second.json", audit(2))
        until(lambda: answers(second))
        assert daemon.about(second, SELECTED)
        assert b"\0" not in daemon.trail.read_bytes()

    def test_unwritable(self, start: Start, tmp_path: Path):
        """A trail that can't be written falls back to stderr, says so once, and answering goes on."""
        daemon = start()
        trail = daemon.trail
        trail.unlink()
        trail.mkdir()
        for number in range(3):
            path = daemon.drop(f"{number}.json", audit(number))
            until(lambda path=path: answers(path))
        assert daemon.stderr.count('"trail.failed"') == 1
        assert daemon.stderr.count('"audit.selected"') == 3
        trail.rmdir()
        path = daemon.drop("later.json", audit(9))
        until(lambda: answers(path))
        assert daemon.about(path, SELECTED)
        os.kill(daemon.pid, signal.SIGTERM)
        until(lambda: not daemon.running)

    def test_standard_output(self, tmp_path: Path):
        """Without a file the trail is on standard output, one JSON object a line."""
        (tmp_path / "audit.json").write_bytes(audit())
        command = [sys.executable, "-m", "benchd", "watch", str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if '"audit.selected"' in line:
                    break
            process.terminate()
            rest = process.stdout.read()
            assert process.wait(5) == 0
        assert '"service.stopped"' in rest
        assert answers(tmp_path / "audit.json")


class TestFullDisk:
    """A disk without room delays answers, and loses none."""

    @pytest.fixture
    def small(self, tmp_path: Path) -> Iterator[Path]:
        if os.geteuid() != 0:
            pytest.skip("only root can mount a small file system")
        place = tmp_path / "small"
        place.mkdir()
        options = ["-t", "tmpfs", "-o", "size=256k", "none", str(place)]
        mounted = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
        if mounted.returncode:
            pytest.skip(f"can't mount: {mounted.stderr.strip()}")
        yield place
        subprocess.run(["umount", "-l", str(place)], check=True)

    def test_no_space(self, start: Start, small: Path):
        """Each failed attempt is recorded with a growing wait; once there is room the audit is answered."""
        daemon = start(folder=small)
        path = small / "audit.json"
        path.write_bytes(audit())
        until(lambda: answers(path))
        filler = small / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        other = small / "other.json"
        os.link(path, other)
        until(lambda: len(daemon.about(other, "config.write_failed")) >= 2)
        assert not config_of(other).exists()
        assert not temporary_files(small)
        failures = daemon.about(other, "config.write_failed")
        assert [record["attempt"] for record in failures[:2]] == [1, 2]
        assert [record["retry_in_s"] for record in failures[:2]] == [1.0, 2.0]
        assert "space" in failures[0]["error"]
        filler.unlink()
        until(lambda: answers(other))
        assert not daemon.records("service.thread_failed")


class TestUsage:
    """Mistakes of a user: one line each, exit code 2, no traceback."""

    def test_no_folder(self, tmp_path: Path):
        """Without any folder it says what to name."""
        result = watch(cwd=tmp_path)
        assert result.returncode == 2
        assert len(result.stderr.splitlines()) == 1
        assert "no folder to watch" in result.stderr
        assert result.stdout == ""

    def test_not_a_folder(self, tmp_path: Path):
        """A file is no folder."""
        (tmp_path / "audit.json").write_bytes(audit())
        result = watch("audit.json", cwd=tmp_path)
        assert result.returncode == 2
        assert "not a folder" in result.stderr

    def test_broken_settings(self, tmp_path: Path):
        """Every mistake in the settings is named at once, with file and key."""
        config = tmp_path / "config.toml"
        config.write_text('[selection]\ntop_n = "three"\n[watching]\nsetle = "2s"\n', encoding="utf-8")
        result = watch(tmp_path, "--config", config, cwd=tmp_path)
        assert result.returncode == 2
        assert f'{config}: selection.top_n: expected an integer >= 0, got "three"' in result.stderr
        assert 'did you mean "settle"?' in result.stderr
        assert "Traceback" not in result.stderr

    def test_missing_settings(self, tmp_path: Path):
        """A settings file that is not there is a mistake, not a default."""
        result = watch(tmp_path, "--config", "missing.toml", cwd=tmp_path)
        assert result.returncode == 2
        assert "missing.toml" in result.stderr
        assert "Traceback" not in result.stderr
