"""`benchd run`: answer what is there, once."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from daemon import answers, audit, config_of, report_of, reports, until


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "benchd", "run", *map(str, arguments)]


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`benchd run` in the folder `cwd`, with a short settle."""
    environment = {**os.environ, "BENCHD_CONFIG": str(cwd / "config.toml")}
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=60, cwd=cwd, env=environment, check=False
    )


def json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with settings, and an inbox with two audits in it."""
    (tmp_path / "config.toml").write_text('[watching]\nsettle = "50ms"\n', encoding="utf-8")
    (tmp_path / "inbox" / "sub").mkdir(parents=True)
    (tmp_path / "inbox" / "a.json").write_bytes(audit(1))
    (tmp_path / "inbox" / "sub" / "b.json").write_bytes(audit(2, flagged=False))
    return tmp_path


def test_answers_all(home: Path):
    """Every audit below a folder is answered; the summary counts by strategy, the trail has the records."""
    (home / "inbox" / "adapter_config.json").write_bytes(b"{}")
    result = run("inbox", cwd=home)
    assert result.returncode == 0
    assert answers(home / "inbox" / "a.json")
    assert answers(home / "inbox" / "sub" / "b.json")
    assert "2 answered" in result.stderr
    assert "flagged" in result.stderr
    assert "1 left alone: JSON, but no audit" in result.stderr
    assert [record["trigger"] for record in json_lines(result.stdout)] == ["command", "command"]


YAML = "model: {name: m}\ntask: {dataset: d, subset: s}\ntrain: {seed: 1}\nlora: {dropout: 0}\nrun_type: smoke\n"


@pytest.mark.parametrize("named", [False, True])
def test_yaml_only_when_needed(home: Path, named: bool, monkeypatch: pytest.MonkeyPatch):
    """PyYAML is imported only for a base file. The answers have the file's keys."""
    (home / "bench.yaml").write_text(YAML, encoding="utf-8")
    if named:
        (home / "config.toml").write_text("[bench]\nbase_file = 'bench.yaml'\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    result = run("inbox", cwd=home)
    assert result.returncode == 0
    imported = {
        line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time")
    }
    assert ("yaml" in imported) is named
    assert "benchd.settings.reading" in imported
    assert ("run_type" in json.loads(config_of(home / "inbox" / "a.json").read_bytes())) is named


def test_second_run(home: Path):
    """A second run has nothing to do; `--force` answers anew, with the same bytes."""
    run("inbox", cwd=home)
    before = config_of(home / "inbox" / "a.json").read_bytes()
    result = run("inbox", cwd=home)
    assert result.returncode == 0
    assert "2 answered before" in result.stderr
    result = run("inbox", "--force", cwd=home)
    assert "2 answered\n" in result.stderr
    assert config_of(home / "inbox" / "a.json").read_bytes() == before


def test_link_to_a_folder(home: Path):
    """A link that the user names counts as the folder that it points to."""
    (home / "link").symlink_to("inbox")
    assert run("link", cwd=home).returncode == 0
    assert answers(home / "inbox" / "a.json")
    assert not (home / "link.bench-error.json").exists()


def test_a_pattern_of_the_shell(home: Path):
    """Configs that `benchd run *.json` names too, from the second time on, are skipped."""
    run("inbox/a.json", cwd=home)
    (home / "inbox" / "c.json").write_bytes(audit(3))
    names = ["inbox/a.json", "inbox/a.bench.json", "inbox/c.json"]
    assert run(*names, cwd=home).returncode == 0
    assert answers(home / "inbox" / "c.json")
    alone = run("inbox/a.bench.json", cwd=home)
    assert (alone.returncode, alone.stderr) == (
        2,
        "benchd run: inbox/a.bench.json: written by benchd, not an audit\n",
    )


def test_nothing_found(home: Path):
    """A folder without audits is no failure, but it is said."""
    (home / "empty").mkdir()
    result = run("empty", cwd=home)
    assert (result.returncode, "no audits found" in result.stderr) == (0, True)


def test_a_name_without_room(home: Path):
    """A name to which no ending fits any more is rejected once, and hides nothing behind it."""
    (home / "inbox" / ("x" * 247 + ".json")).write_bytes(audit(3))
    result = run("inbox", cwd=home)
    assert result.returncode == 1
    assert "[name_too_long]" in result.stderr
    assert answers(home / "inbox" / "a.json")
    assert answers(home / "inbox" / "sub" / "b.json")


def test_the_terminal_is_safe(home: Path):
    """Names in the summary can't play with the terminal."""
    (home / "inbox" / "a\x1b[31m\n.json").write_bytes(b"{]")
    stderr = run("inbox", cwd=home).stderr
    assert "\x1b" not in stderr
    assert "a�[31m�.json" in stderr


def test_a_working_directory_that_is_gone(home: Path):
    """One line, no traceback."""
    gone = home / "gone"
    gone.mkdir()
    command = ["sh", "-c", 'rmdir "$PWD" && exec "$0" -P -m benchd run .', sys.executable]
    result = subprocess.run(command, cwd=gone, capture_output=True, text=True, check=False)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)


def test_single_files(home: Path):
    """A file that is named is answered, whatever its ending; named twice it is answered once."""
    (home / "inbox" / "odd.txt").write_bytes(audit(3))
    result = run("inbox/odd.txt", "inbox/a.json", "inbox/../inbox/a.json", "--json", cwd=home)
    assert result.returncode == 0
    assert (home / "inbox" / "odd.txt.bench.json").exists()
    assert json_lines(result.stdout)[-1]["selected"] == 2
    assert not config_of(home / "inbox" / "sub" / "b.json").exists()


def test_rejected(home: Path):
    """A bad file makes the exit code 1, now and as long as it is bad; the others are answered."""
    bad = home / "inbox" / "bad.json"
    bad.write_bytes(b"{]")
    for summary in ("1 rejected", "1 rejected before"):
        result = run("inbox", cwd=home)
        assert result.returncode == 1
        assert summary in result.stderr
        assert "inbox/bad.json: " in result.stderr
        assert reports(bad, "not_json")
        assert answers(home / "inbox" / "a.json")
    bad.write_bytes(audit(5))
    assert run("inbox", cwd=home).returncode == 0
    assert not report_of(bad).exists()


def test_rejected_file_that_is_named(home: Path):
    """A bad file that is named itself is rejected; the next time it counts as rejected before, not as answered."""
    (home / "bad.json").write_bytes(b"{]")
    for summary, problem in (
        ("1 rejected\n", "  bad.json: "),
        ("1 rejected before, and unchanged\n", "  bad.json: rejected before: "),
    ):
        result = run("bad.json", cwd=home)
        assert result.returncode == 1
        assert summary in result.stderr
        assert problem in result.stderr
        assert "[not_json]" in result.stderr
        assert "answered before" not in result.stderr


def test_many_problems(home: Path):
    """Of many bad files the summary names some, and says how many there are."""
    for number in range(25):
        (home / "inbox" / f"bad{number}.json").write_bytes(b"{]")
    result = run("inbox", cwd=home)
    assert "… and 5 more; the trail has them all" in result.stderr


def test_dry_run(home: Path):
    """A dry run says what would be, and writes nothing."""
    (home / "inbox" / "bad.json").write_bytes(b"{]")
    before = sorted(path.name for path in (home / "inbox").rglob("*"))
    result = run("inbox", "--dry-run", cwd=home)
    assert result.returncode == 1
    assert "2 would be answered" in result.stderr
    assert "1 would be rejected" in result.stderr
    assert sorted(result.stdout.splitlines()) == ["inbox/a.json: flagged", "inbox/sub/b.json: priority_score"]
    assert sorted(path.name for path in (home / "inbox").rglob("*")) == before


def test_json(home: Path):
    """With `--json` stdout has JSON lines alone, the summary last, and stderr nothing."""
    result = run("inbox", "--json", cwd=home)
    lines = json_lines(result.stdout)
    assert [line["event"] for line in lines] == ["audit.selected", "audit.selected", "run.finished"]
    assert lines[-1]["selected"] == 2
    assert lines[-1]["by_strategy"] == {"flagged": 1, "priority_score": 1, "disagreement": 0, "none": 0}
    assert lines[-1]["dry_run"] is False
    assert result.stderr == ""


def test_kept(home: Path):
    """An edited config stays, and is no failure."""
    config_of(home / "inbox" / "a.json").write_bytes(b"mine")
    result = run("inbox", "--force", cwd=home)
    assert result.returncode == 0
    assert "1 kept" in result.stderr


def test_unfinished(home: Path):
    """A file that is still being written is left as unfinished, without a report, after some patience."""
    path = home / "inbox" / "slow.json"
    with path.open("wb") as file:
        file.write(b"{")
        file.flush()
        result = run("inbox", cwd=home)
    assert result.returncode == 1
    assert "1 unfinished" in result.stderr
    assert not report_of(path).exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "Missing argument"),
        (["missing"], "benchd run: missing: No such file or directory"),
        (["inbox/a.bench.json"], "written by benchd, not an audit"),
        (["inbox", "--config", "missing.toml"], "missing.toml: can't be read"),
    ],
)
def test_usage(home: Path, arguments: list[str], expected: str):
    """A mistake in the call is exit code 2, and nothing is answered."""
    (home / "inbox" / "a.bench.json").write_bytes(b"{}")
    result = run(*arguments, cwd=home)
    assert result.returncode == 2
    assert expected in result.stderr
    assert "Traceback" not in result.stderr
    assert not config_of(home / "inbox" / "sub" / "b.json").exists()


def test_settings_of_the_folder(home: Path):
    """A folder that the settings file names has its own settings here too."""
    (home / "config.toml").write_text('[[watch]]\npath = "inbox"\n[watch.selection]\ntop_n = 1\n', encoding="utf-8")
    run("inbox/sub", cwd=home)
    config = json.loads((home / "inbox" / "sub" / "b.bench.json").read_bytes())
    assert len(config["selection"]["layers"]) == 1


def test_on_a_terminal(home: Path):
    """On a terminal there is a progress bar, and the records are for people."""
    master, slave = pty.openpty()
    with subprocess.Popen(command("inbox"), stdout=slave, stderr=slave, cwd=home) as process:
        os.close(slave)
        seen = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:
                break  # the other end is closed
            if not part:
                break
            seen += part
    os.close(master)
    assert process.returncode == 0
    assert b"answering" in seen
    assert b"a.bench.json" in seen
    assert b'"event"' not in seen


def test_stops_on_a_signal(home: Path):
    """SIGINT ends it with 130 after what is in flight; a second run answers the rest."""
    slow = home / "inbox" / "slow.json"
    (home / "config.toml").write_text('[watching]\nsettle = "30s"\n', encoding="utf-8")
    with slow.open("wb"):
        process = subprocess.Popen(
            command("inbox", "--config", "config.toml"), cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        until(lambda: answers(home / "inbox" / "sub" / "b.json") and answers(home / "inbox" / "a.json"))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 130
    assert b"Traceback" not in errors


def test_beside_a_daemon(start: Any):
    """It works beside a running daemon, and finds all answered."""
    daemon = start()
    path = daemon.drop("a.json", audit(1))
    until(lambda: answers(path))
    result = run(daemon.folder, cwd=daemon.home)
    assert result.returncode == 0
    assert "1 answered before" in result.stderr
