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

#: Seconds, as in the settings of `Daemon`.
SETTLE = 0.3

REJECTED = "audit.rejected"
SELECTED = "audit.selected"


class Shell:
    """A shell that runs `script` in parallel with the test, and waits in each of its `read` commands."""

    def __init__(self, script: str, **variables: Path | str) -> None:
        environment = {**os.environ, **{key: str(value) for key, value in variables.items()}}
        self._process = subprocess.Popen(["/bin/sh", "-ec", script], env=environment, stdin=subprocess.PIPE, text=True)

    def go_on(self) -> None:
        """Let one `read` return."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def ends(self) -> None:
        """Wait until the script has succeeded."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(30) == 0


def run_shell(script: str, **variables: Path | str) -> None:
    """Run `script` to its end."""
    Shell(script, **variables).ends()


def settled(path: Path) -> bool:
    """Return whether `path` has been unchanged for longer than `settle`."""
    return time.time() - path.stat().st_ctime > 2 * SETTLE


def watch(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`benchd watch` that is expected to end by itself."""
    command = [sys.executable, "-m", "benchd", "watch", *map(str, arguments)]
    environment = {key: value for key, value in os.environ.items() if key != "BENCHD_CONFIG"}
    return subprocess.run(command, capture_output=True, text=True, timeout=30, cwd=cwd, env=environment, check=False)


class TestArrivals:
    """An audit is answered however it arrives in the folder."""

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
        """An audit is answered once, after its event, however it arrives."""
        target = daemon.folder / "audit.json"
        run_shell(command, source=source, target=target)
        until(lambda: answers(target))
        daemon.mark()
        [record] = daemon.about(target, SELECTED)
        assert record["trigger"] == trigger
        assert not daemon.records(REJECTED)

    def test_config_says_what_the_audit_selects(self, daemon: Daemon):
        """The config and the trail record name the same strategy and the same decision."""
        path = daemon.drop("audit.json", audit(flagged=False))
        until(lambda: answers(path))
        config = read_json(config_of(path))
        [record] = daemon.about(path, SELECTED)
        assert config["selection"]["strategy"] == record["strategy"] == "priority_score"
        assert config["provenance"]["decision_id"] == record["decision_id"]
        assert record["config"] == str(config_of(path))

    def test_slow_redirect(self, daemon: Daemon, source: Path):
        """A redirect that stays empty for longer than `settle` and is then filled is deferred, never rejected."""
        target = daemon.folder / "slow.json"
        writer = Shell('(read line; cat "$source") > "$target"', source=source, target=target)
        until(lambda: daemon.about(target, "audit.deferred") and settled(target))
        assert not config_of(target).exists()
        writer.go_on()
        until(lambda: answers(target))
        writer.ends()
        daemon.mark()
        assert not daemon.records(REJECTED)
        assert not report_of(target).exists()
        assert len(daemon.about(target, SELECTED)) == 1

    def test_dribbling_writer(self, daemon: Daemon, source: Path):
        """A file whose writer pauses longer than `settle` is not rejected while the writer has it open."""
        target = daemon.folder / "dribble.json"
        script = 'exec > "$target"; head -c 900 "$source"; read line; tail -c +901 "$source" | head -c 900; read line;'
        writer = Shell(script + 'tail -c +1801 "$source"', source=source, target=target)
        for size in (900, 1800):
            until(lambda size=size: target.exists() and target.stat().st_size == size and settled(target))
            daemon.mark()
            assert daemon.about(target, "audit.deferred")
            writer.go_on()
        until(lambda: answers(target))
        writer.ends()
        daemon.mark()
        assert not daemon.records(REJECTED)
        assert len(daemon.about(target, SELECTED)) == 1

    @pytest.mark.parametrize("again", [8, 12345678], ids=["same size", "other size"])
    def test_rewrite_in_place(self, daemon: Daemon, again: int):
        """An audit that is rewritten in place is answered again, even if its size is the same."""
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
        """Progress lines of Gradience before the JSON are skipped, since real models always have them."""
        lines = b"    computing SVD and metrics for layer: base_model.model.layers.0.mlp\n" * 11
        text = (Path(__file__).parents[1] / "audits" / "trained_llama8__default.json").read_bytes()
        path = daemon.drop("real.json", lines + text)
        until(lambda: answers(path))
        [note] = read_json(config_of(path))["selection"]["notes"]
        assert note.startswith("each alpha assumes")

    def test_tree_moved_in(self, daemon: Daemon, tmp_path: Path):
        """Every audit in a folder tree that is moved in is answered, and so is every later drop into it."""
        tree = tmp_path / "tree"
        for place in ("", "a", "a/b", "c d"):
            (tree / place).mkdir(parents=True, exist_ok=True)
            (tree / place / "audit.json").write_bytes(audit(len(place)))
        os.rename(tree, daemon.folder / "tree")
        paths = [daemon.folder / "tree" / place / "audit.json" for place in ("", "a", "a/b", "c d")]
        until(lambda: all(answers(path) for path in paths))
        later = daemon.drop("tree/a/b/later.json", audit(1))
        until(lambda: answers(later))
        assert set(daemon.selections().values()) == {1}

    def test_moved_folder_is_still_watched(self, daemon: Daemon):
        """A subfolder that is renamed within the folder is watched under its new name."""
        (daemon.folder / "old").mkdir()
        first = daemon.drop("old/a.json", audit(1))
        until(lambda: answers(first))
        os.rename(daemon.folder / "old", daemon.folder / "new")
        second = daemon.drop("new/b.json", audit(2))
        until(lambda: answers(second))
        assert daemon.about(second, SELECTED)

    def test_folder_moved_away_and_made_again(self, daemon: Daemon, tmp_path: Path):
        """A subfolder can be created, moved out and deleted again and again, and the folder stays watched."""
        for _ in range(3):
            (daemon.folder / "sub").mkdir()
            path = daemon.drop("sub/a.json", audit(3))
            until(lambda path=path: answers(path))
            os.rename(daemon.folder / "sub", tmp_path / "away")
            shutil.rmtree(tmp_path / "away")
        daemon.mark()
        assert not daemon.records("service.thread_failed")

    def test_new_subfolder_filled_at_once(self, daemon: Daemon):
        """2,000 audits in a subfolder that is filled as soon as it is created are each answered once."""
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
        """Audits whose names have spaces, newlines, quotes or bytes that are not UTF-8 are answered."""
        names = [b"with space.json", b"new\nline.json", b"caf\xe9.json", "größe😀.json".encode(), b'quo"te.json']
        paths = [daemon.folder / os.fsdecode(name) for name in names]
        for number, path in enumerate(paths):
            path.write_bytes(audit(number))
        until(lambda: all(answers(path) for path in paths))
        assert len(daemon.records(SELECTED)) == len(names)


class TestBadFiles:
    """A bad file gets one record and one error report."""

    def test_broken_audit(self, start: Start):
        """A broken audit gets a report and a record with a code and a hint; the next audit is answered."""
        daemon = start()
        bad = daemon.drop("bad.json", audit()[:1500])
        good = daemon.drop("good.json")
        until(lambda: answers(good))
        until(lambda: reports(bad, "truncated"))
        [record] = daemon.about(bad, REJECTED)
        assert (record["code"], record["level"]) == ("truncated", "error")
        assert "column" in record["message"]
        assert record["hint"]
        assert not config_of(bad).exists()

    def test_fixed(self, start: Start):
        """The error report is removed once the audit is fixed."""
        daemon = start()
        path = daemon.drop("audit.json", audit()[:1500])
        until(lambda: reports(path, "truncated"))
        path.write_bytes(audit())
        until(lambda: answers(path))
        assert not report_of(path).exists()

    def test_broken_later(self, start: Start):
        """An audit that is overwritten with an error message is rejected, with that message in the record."""
        daemon = start()
        path = daemon.drop("audit.json")
        until(lambda: answers(path))
        path.write_bytes(b"Error: Audit failed: no such adapter\n")
        until(lambda: reports(path, "audit_failed"))
        [record] = daemon.about(path, REJECTED)
        assert "no such adapter" in record["message"]

    def test_empty(self, start: Start):
        """An empty file that its writer has closed is rejected after `settle`, not before."""
        daemon = start()
        path = daemon.folder / "empty.json"
        began = time.monotonic()
        path.touch()
        until(lambda: reports(path, "empty"))
        assert time.monotonic() - began >= 0.29
        assert len(daemon.about(path, REJECTED)) == 1

    def test_special_files(self, start: Start, tmp_path: Path):
        """Links and pipes that are named like audits are rejected, and benchd never blocks on them."""
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
        """A symbolic link to a folder is not followed."""
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
        """A file that is deleted before benchd reads it causes no failure."""
        daemon = start()
        for number in range(50):
            path = daemon.drop(f"{number}.json", b"{")
            path.unlink()
        daemon.mark()
        assert not daemon.records("audit.failed")


class TestLeftAlone:
    """Files that benchd does not touch."""

    def test_other_json_is_ignored(self, start: Start):
        """An `adapter_config.json` is ignored: it gets a debug record and no sidecar."""
        daemon = start()
        path = daemon.drop("adapter_config.json", b'{"peft_type": "LORA", "r": 8}')
        until(lambda: daemon.about(path, "audit.ignored"))
        assert daemon.about(path, "audit.ignored")[0]["level"] == "debug"
        daemon.mark()
        assert not config_of(path).exists()
        assert not report_of(path).exists()

    def test_sidecars_and_hidden_files_are_no_audits(self, start: Start):
        """Sidecars, hidden files and files in hidden folders are never answered."""
        daemon = start()
        (daemon.folder / ".hidden").mkdir()
        for name in ("x.bench.json", "x.bench-error.json", ".x.json", ".hidden/x.json", "x.txt", ".benchd-1.tmp"):
            daemon.drop(name, audit(1))
        daemon.mark()
        daemon.mark()  # the config of the first mark is not answered either
        answered = {os.path.basename(path) for path, _ in daemon.selections()}
        assert all(name.startswith("mark-") for name in answered)
        assert len(answered) == 2

    def test_edited_config_is_kept(self, start: Start):
        """A config that a person edited is kept, and the trail says so."""
        daemon = start()
        path = daemon.drop("audit.json", audit(1))
        until(lambda: answers(path))
        edited = config_of(path).read_bytes().replace(b'"rank": 8', b'"rank": 9', 1)
        config_of(path).write_bytes(edited)
        path.write_bytes(audit(2))
        record = until(lambda: daemon.about(path, "config.kept"))[0]  # a scan may have met it too
        assert record["level"] == "warning"
        assert "edited" in record["reason"]
        daemon.mark()
        assert config_of(path).read_bytes() == edited
        assert len(daemon.about(path, SELECTED)) == 1

    def test_edited_config_moved_away(self, start: Start):
        """The next rescan writes the new config once the edited config is moved away."""
        daemon = start(watching='rescan_interval = "200ms"')
        path = daemon.drop("audit.json", audit(1))
        until(lambda: answers(path))
        config_of(path).write_bytes(config_of(path).read_bytes().replace(b'"rank": 8', b'"rank": 9', 1))
        path.write_bytes(audit(2))
        until(lambda: daemon.about(path, "config.kept"))
        os.rename(config_of(path), daemon.home / "mine.json")
        until(lambda: answers(path))

    def test_foreign_file_is_kept(self, start: Start):
        """A file in the config's place that benchd did not write is kept."""
        daemon = start()
        foreign = daemon.folder / "audit.bench.json"
        foreign.write_bytes(b'{"mine": true}')
        path = daemon.drop("audit.json")
        [record] = until(lambda: daemon.about(path, "config.kept"))
        assert "did not write this file" in record["reason"]
        assert foreign.read_bytes() == b'{"mine": true}'

    def test_patterns_and_ignore(self, start: Start):
        """Only files that match `patterns` and not `ignore` are answered."""
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
        """Subfolders are not watched if `recursive` is false."""
        daemon = start(watch="recursive = false")
        (daemon.folder / "sub").mkdir()
        inside = daemon.drop("sub/audit.json", audit(1))
        daemon.mark()
        assert not config_of(inside).exists()

    def test_audit_is_never_changed(self, start: Start):
        """An answered audit keeps its bytes, timestamps and permissions."""
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
    """The folder is the only state of benchd."""

    def test_nothing_is_answered_twice(self, start: Start):
        """A restart answers nothing again and replaces no config."""
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
        """A restart does not read an audit whose config is clearly younger."""
        daemon = start()
        path = daemon.drop("audit.json")
        # The answer to a very recent audit needs a check; the answer to an older one does not.
        os.utime(path)
        until(lambda: answers(path))
        daemon.stop()
        until(lambda: time.time_ns() - path.stat().st_ctime_ns > 60_000_000, what="the audit is clearly older")
        os.utime(config_of(path))
        daemon.start()
        scan = until(lambda: daemon.records("scan.finished", cause="start")[1:])[0]
        assert (scan["found"], scan["answered"], scan["queued"]) == (1, 1, 0)

    def test_dropped_while_stopped(self, start: Start):
        """Audits that were dropped or rewritten while no daemon ran are answered at the next start."""
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
        """An audit of the same size with an older mtime, moved in while no daemon ran, is answered."""
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
        """A changed `top_n` answers a fallback again, and leaves a flagged answer alone."""
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
        """A restart does not reject a file again that has an error report."""
        daemon = start()
        path = daemon.drop("bad.json", b"nonsense")
        until(lambda: reports(path, "not_json"))
        daemon.stop()
        daemon.start()
        daemon.mark()
        until(lambda: daemon.records("scan.finished", cause="start")[1:])
        assert len(daemon.about(path, REJECTED)) == 1

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_stops(self, start: Start, number: signal.Signals):
        """SIGTERM and SIGINT end the daemon with exit code 0, and the last record counts its answers."""
        daemon = start()
        path = daemon.drop("audit.json")
        until(lambda: answers(path))
        daemon.stop(number)
        [stopping], [stopped] = daemon.records("service.stopping"), daemon.records("service.stopped")
        assert stopping["signal"] == number.name
        assert (stopped["answered"], stopped["rejected"]) == (1, 0)
        assert daemon.records()[-1] == stopped

    def test_stops_with_work_left(self, start: Start):
        """The daemon stops in the middle of a flood, and the next one answers the rest."""
        daemon = start(durable=True)
        paths = [daemon.folder / f"{number}.json" for number in range(400)]
        for number, path in enumerate(paths):
            path.write_bytes(audit(number))
        daemon.stop()
        assert not temporary_files(daemon.folder)
        daemon.start()
        until(lambda: all(answers(path) for path in paths), 30)
        assert set(daemon.selections().values()) == {1}

    def test_second_daemon(self, start: Start, tmp_path: Path):
        """A second daemon exits with code 2 and names the PID of the first; after kill -9 a new one starts."""
        daemon = start()
        result = watch(daemon.folder, cwd=tmp_path)
        assert result.returncode == 2
        assert f"pid {daemon.pid}" in result.stderr
        assert len(result.stderr.splitlines()) == 1
        daemon.kill()
        daemon.start()
        daemon.mark()

    def test_killed_in_the_middle(self, start: Start):
        """After kill -9 in a flood the next start answers the rest, leaves no temporary file, and lacks no record."""
        daemon = start(durable=True)
        paths: list[Path] = []

        def answered_in_a_flood() -> int:
            for _ in range(30):
                paths.append(daemon.folder / f"{len(paths)}.json")
                paths[-1].write_bytes(audit(len(paths)))
            return len(daemon.records(SELECTED))

        until(lambda: answered_in_a_flood() >= 20)
        daemon.kill()
        answered_in_a_flood()
        daemon.start()
        until(lambda: all(answers(path) for path in paths), 30)
        until(lambda: daemon.records("scan.finished", cause="start"))
        assert not temporary_files(daemon.folder)
        recorded = {record["decision_id"] for record in daemon.records(SELECTED)}
        assert {read_json(config_of(path))["provenance"]["decision_id"] for path in paths} <= recorded


class TestRoot:
    """The watched folder may appear, disappear and be replaced."""

    def test_missing_at_start(self, start: Start):
        """A folder that is missing at the start is recorded, and watched once it exists."""
        daemon = start(make=False)
        [lost] = daemon.records("watch.root_lost")
        assert "does not exist" in lost["reason"]
        assert daemon.records("service.ready")[0]["roots"] == []
        daemon.folder.mkdir()
        path = daemon.drop("audit.json")
        until(lambda: answers(path))
        assert len(daemon.records("watch.root_restored")) == 1

    def test_deleted_and_made_again(self, start: Start):
        """A deleted folder is recorded as lost, and watched again once it is back."""
        daemon = start()
        daemon.mark()
        shutil.rmtree(daemon.folder)
        until(lambda: daemon.records("watch.root_lost"))
        daemon.folder.mkdir()
        path = daemon.drop("audit.json")
        until(lambda: answers(path))
        later = daemon.drop("later.json", audit(1))
        until(lambda: answers(later))
        assert len(daemon.records("watch.root_lost")) == len(daemon.records("watch.root_restored")) == 1

    def test_renamed_away_and_replaced(self, start: Start, tmp_path: Path):
        """If another folder replaces the watched one, benchd watches the new one only."""
        daemon = start()
        daemon.mark()
        os.rename(daemon.folder, tmp_path / "away")
        daemon.folder.mkdir()
        until(lambda: daemon.records("watch.root_restored"))
        path = daemon.drop("audit.json")
        until(lambda: answers(path))
        old = tmp_path / "away" / "late.json"
        old.write_bytes(audit(5))
        daemon.mark()
        assert not config_of(old).exists()
        assert daemon.records("watch.root_lost")

    def test_replaced_by_a_file(self, start: Start):
        """A file in the folder's place counts as a lost folder."""
        daemon = start()
        shutil.rmtree(daemon.folder)
        daemon.folder.touch()
        until(lambda: daemon.records("watch.root_lost"))
        daemon.folder.unlink()
        daemon.folder.mkdir()
        until(lambda: daemon.records("watch.root_restored"))
        daemon.mark()

    def test_two_folders(self, start: Start, tmp_path: Path):
        """Audits in nested watched folders are answered once, with the settings of the inner folder."""
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
    """Polling finds changes without events, as network file systems need it."""

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
        """A file that is still empty is not rejected when polling finds it."""
        daemon = start(watch=self.POLLING)
        source, target = tmp_path / "source", daemon.folder / "slow.json"
        source.write_bytes(audit(1))
        writer = Shell('(read line; cat "$source") > "$target"', source=source, target=target)
        until(lambda: daemon.about(target, "audit.deferred") and settled(target))
        writer.go_on()
        until(lambda: answers(target))
        writer.ends()
        assert not daemon.records(REJECTED)

    def test_root_deleted(self, start: Start):
        """A polled folder that is deleted and created again is watched again."""
        daemon = start(watch=self.POLLING)
        shutil.rmtree(daemon.folder)
        until(lambda: daemon.records("watch.root_lost"))
        daemon.folder.mkdir()
        until(lambda: daemon.records("watch.root_restored"))
        daemon.mark()


class TestOverflow:
    """A scan finds changes whose events were lost."""

    def test_lost_events(self, start: Start):
        """An overflow of the kernel's queue is recorded, and a scan finds the audits that it hid."""
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
    """Every config has a record in the trail."""

    def test_every_record_is_what_the_schema_says(self, start: Start):
        """Every record of an eventful run matches the schema."""
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
        """When a config becomes visible, its record is already in the trail."""
        daemon = start()
        for number in range(30):
            path = daemon.drop(f"{number}.json", audit(number))
            end = time.monotonic() + 10
            while not config_of(path).exists():
                assert time.monotonic() < end
            assert daemon.about(path, SELECTED)

    def test_rotation_by_rename(self, start: Start):
        """After logrotate renames the trail, the next record goes to a new file, and none is lost."""
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
        """After the trail is truncated, the next record goes to its beginning."""
        daemon = start()
        first = daemon.drop("first.json", audit(1))
        until(lambda: answers(first))
        os.truncate(daemon.trail, 0)
        second = daemon.drop("second.json", audit(2))
        until(lambda: answers(second))
        assert daemon.about(second, SELECTED)
        assert b"\0" not in daemon.trail.read_bytes()

    def test_unwritable(self, start: Start, tmp_path: Path):
        """If the trail can't be written, records go to standard error, and audits are still answered."""
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
        """The trail goes to standard output by default, one JSON object a line."""
        (tmp_path / "audit.json").write_bytes(audit())
        command = [sys.executable, "-m", "benchd", "watch", str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if '"audit.selected"' in line:
                    break
            process.terminate()
            rest = process.stdout.read()
            assert process.wait(20) == 0
        assert '"service.stopped"' in rest
        assert answers(tmp_path / "audit.json")


class TestFullDisk:
    """A full disk delays answers, and loses none."""

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
        """Each failed attempt is recorded with a growing delay, and the audit is answered once there is room."""
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
    """A mistake of the user is reported in one line, with exit code 2 and no traceback."""

    def test_no_folder(self, tmp_path: Path):
        """A call without a folder says that one is needed."""
        result = watch(cwd=tmp_path)
        assert result.returncode == 2
        assert len(result.stderr.splitlines()) == 1
        assert "no folder to watch" in result.stderr
        assert result.stdout == ""

    def test_not_a_folder(self, tmp_path: Path):
        """A file in place of a folder is refused."""
        (tmp_path / "audit.json").write_bytes(audit())
        result = watch("audit.json", cwd=tmp_path)
        assert result.returncode == 2
        assert "not a folder" in result.stderr

    def test_broken_settings(self, tmp_path: Path):
        """All mistakes in the settings file are reported at once, with file and key."""
        config = tmp_path / "config.toml"
        config.write_text('[selection]\ntop_n = "three"\n[watching]\nsetle = "2s"\n', encoding="utf-8")
        result = watch(tmp_path, "--config", config, cwd=tmp_path)
        assert result.returncode == 2
        assert f'{config}: selection.top_n: expected an integer >= 0, got "three"' in result.stderr
        assert 'did you mean "settle"?' in result.stderr
        assert "Traceback" not in result.stderr

    def test_missing_settings(self, tmp_path: Path):
        """A missing settings file is an error."""
        result = watch(tmp_path, "--config", "missing.toml", cwd=tmp_path)
        assert result.returncode == 2
        assert "missing.toml" in result.stderr
        assert "Traceback" not in result.stderr
