"""Tests inside a booted systemd, as root. `test_systemd.py` runs them; never run them directly."""

import grp
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(os.environ["BENCHD_TEST_ROOT"])
WHEELS = os.environ["BENCHD_TEST_WHEELS"]
AUDIT = ROOT / "tests/audits/design/flagged.json"
INBOX = Path("/var/lib/benchd/inbox")
CONFIG = Path("/etc/benchd/config.toml")
DROPIN = Path("/etc/systemd/system/benchd.service.d/test.conf")


def sh(*command: str, check: bool = True, **more: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **more)
    assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done


def until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """Wait for `condition` and return its value."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            status = sh("systemctl", "status", "benchd", "-n", "30", "--no-pager", check=False).stdout
            raise AssertionError(f"in vain: {what}\n{status[-3000:]}")
        time.sleep(0.02)
    return value


def show(name: str, unit: str = "benchd") -> str:
    return sh("systemctl", "show", unit, "-P", name).stdout.strip()


def journal(unit: str = "benchd", since: float = 0.0) -> list[dict[str, Any]]:
    """Return the records that the service wrote into the journal, with the priority of their entries."""
    out = sh("journalctl", "-u", unit, "-o", "json", "--all", "--no-pager", f"--since=@{since:.6f}").stdout
    entries = [json.loads(line) for line in out.splitlines()]
    return [
        {**json.loads(entry["MESSAGE"]), "PRIORITY": entry["PRIORITY"]}
        for entry in entries
        if isinstance(entry["MESSAGE"], str) and entry["MESSAGE"].startswith("{")
    ]


def events(name: str, since: float = 0.0) -> list[dict[str, Any]]:
    return [record for record in journal(since=since) if record["event"] == name]


def drop(path: Path, audit: Path = AUDIT) -> Path:
    """Move an audit in and return the path of its config."""
    temporary = path.with_name(f".{path.name}.part")
    shutil.copyfile(audit, temporary)
    temporary.rename(path)
    return path.with_name(path.name.removesuffix(".json") + ".bench.json")


def main_pid() -> int:
    return int(show("MainPID"))


@pytest.fixture(scope="session", autouse=True)
def installed() -> None:
    """Install benchd as an operator does, without a network."""
    sh(
        "make", "-C", str(ROOT), "install", "VENV=/tmp/install-venv",
        f"PIP_INSTALL_ARGS=--no-index --find-links {WHEELS}",
        env={**os.environ, "PIP_NO_INDEX": "1"},
    )  # fmt: skip
    sh("useradd", "--create-home", "--groups", "benchd", "alice")


@pytest.fixture
def service() -> Iterator[float]:
    """Start the service on an empty inbox and return the start time."""
    shutil.rmtree(DROPIN.parent, ignore_errors=True)
    sh("systemctl", "daemon-reload")
    for entry in INBOX.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    shutil.copyfile("/opt/benchd/share/benchd/config.toml", CONFIG)
    sh("systemctl", "reset-failed", "benchd", check=False)
    before = time.time()
    sh("systemctl", "start", "benchd")
    yield before
    sh("systemctl", "stop", "benchd", check=False)


def restart_with(dropin: str) -> float:
    DROPIN.parent.mkdir(parents=True, exist_ok=True)
    DROPIN.write_text(dropin)
    sh("systemctl", "daemon-reload")
    before = time.time()
    sh("systemctl", "restart", "benchd")
    return before


# --- the unit files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["benchd.service", "benchd@one.service"])
def test_units_verify_in_silence(unit: str) -> None:
    """`systemd-analyze verify` reports nothing."""
    done = sh("systemd-analyze", "verify", unit, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "")


@pytest.mark.parametrize("unit", ["benchd.service", "benchd@.service"])
def test_units_are_hardened(unit: str) -> None:
    """`systemd-analyze security` reports an exposure of at most 1.0."""
    file = f"/usr/local/lib/systemd/system/{unit}"
    sh("systemd-analyze", "security", "--offline=true", "--threshold=10", "--no-pager", file)


def test_the_template_is_the_service_line_by_line() -> None:
    """`benchd@.service` differs from `benchd.service` in names and paths only."""
    folder = Path("/usr/local/lib/systemd/system")
    plain = (folder / "benchd.service").read_text().splitlines()
    template = (folder / "benchd@.service").read_text()
    template = template.replace("/etc/benchd/%i.toml", "/etc/benchd/config.toml").replace(" (%i)", "")
    template = template.replace("benchd/%i", "benchd").replace("benchd@%i", "benchd")
    extra = [line for line in template.splitlines() if line not in plain and not line.startswith("#")]
    assert extra == [
        "TemporaryFileSystem=/var/lib/benchd:ro /var/log/benchd:ro",
        "BindPaths=/var/lib/benchd /var/log/benchd",
    ]
    assert [line for line in plain if line not in template.splitlines() and not line.startswith("#")] == []


# --- start, drop, stop --------------------------------------------------------------------------------------


def test_a_drop_by_a_member_of_the_group_is_answered_and_readable(service: float) -> None:
    """A member of the group drops an audit; the config belongs to the group and is readable for the member."""
    sh("runuser", "-u", "alice", "--", "cp", str(shutil.copyfile(AUDIT, "/tmp/sample.json")), f"{INBOX}/mine.json")
    config = INBOX / "mine.bench.json"
    until(config.exists, "the config")
    text = sh("runuser", "-u", "alice", "--", "cat", str(config)).stdout
    assert json.loads(text)["selection"]["strategy"] == "flagged"
    assert config.stat().st_gid == grp.getgrnam("benchd").gr_gid
    assert config.stat().st_uid == pwd.getpwnam("benchd").pw_uid


def test_ready_means_watched(service: float) -> None:
    """`systemctl start` returns when the folder is watched, and the status is one useful line."""
    assert show("ActiveState") == "active"
    until((drop(INBOX / "a.json")).exists, "the config")
    until(lambda: events("service.ready", service), "the record")
    assert "1 folder, 0 answered, 0 rejected, 0 waiting" in show("StatusText")


def test_records_reach_the_journal_whole_and_with_their_priority(service: float) -> None:
    """Each answer is one JSON entry in the journal, and `journalctl -p err` shows the rejections."""
    until(drop(INBOX / "good.json").exists, "the config")
    (INBOX / "bad.json").write_text('{"oops": ')
    until((INBOX / "bad.bench-error.json").exists, "the report")
    (selected,) = until(lambda: events("audit.selected", service), "the record")
    assert (selected["audit"], selected["PRIORITY"]) == (f"{INBOX}/good.json", "6")
    errors = sh("journalctl", "-u", "benchd", "-p", "err", "-o", "cat", "--no-pager", f"--since=@{service}").stdout
    (rejected,) = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    assert (rejected["event"], rejected["code"]) == ("audit.rejected", "truncated")


def test_long_records_are_not_split(service: float) -> None:
    """A record with very long names is still one journal entry."""
    deep = INBOX / "/".join("d" * 200 for _ in range(15))
    deep.mkdir(parents=True)
    for folder in (deep, *deep.parents):
        if folder.is_relative_to(INBOX):
            folder.chmod(0o2775)
    until(drop(deep / ("\x01" * 100 + ".json"), ROOT / "tests/audits/llama4_many__default.json").exists, "the config")
    until(lambda: len(events("audit.selected", service)) == 1, "one whole record")


def test_a_stop_is_clean_and_quick(service: float) -> None:
    """A stop under load ends in time, with the result `success` and no temporary file."""
    for number in range(500):
        drop(INBOX / f"{number}.json")
    before = time.monotonic()
    sh("systemctl", "stop", "benchd")
    assert time.monotonic() - before < 5
    assert show("Result") == "success"
    assert not list(INBOX.glob(".benchd-*"))


# --- reload -------------------------------------------------------------------------------------------------


def test_a_reload_changes_what_it_changes_and_loses_nothing(service: float) -> None:
    """A reload applies new settings, answers again only what they change, and answers drops meanwhile."""
    fallback = drop(INBOX / "fallback.json", ROOT / "tests/audits/mistral4_flat__default.json")
    flagged = drop(INBOX / "flagged.json")
    until(lambda: fallback.exists() and flagged.exists(), "both configs")
    inode = flagged.stat().st_ino
    CONFIG.write_text(CONFIG.read_text().replace("top_n = 3", "top_n = 1"))
    sh("systemctl", "reload", "benchd")
    for number in range(200):
        drop(INBOX / f"meanwhile{number}.json")
    until(lambda: len(json.loads(fallback.read_text())["selection"]["layers"]) == 1, "the new answer")
    until(lambda: len(list(INBOX.glob("meanwhile*.bench.json"))) == 200, "all drops answered")
    assert flagged.stat().st_ino == inode
    assert len(events("service.reloaded", service)) == 1
    assert show("ActiveState") == "active"


def test_a_reload_adds_and_removes_folders(service: float) -> None:
    """A reload starts to watch an added folder, and stops to watch a removed one."""
    other = Path("/var/lib/benchd/other")
    other.mkdir(exist_ok=True)
    shutil.chown(other, "benchd", "benchd")
    CONFIG.write_text(CONFIG.read_text().replace('"/var/lib/benchd/inbox"', '"/var/lib/benchd/other"'))
    sh("systemctl", "reload", "benchd")
    until(drop(other / "a.json").exists, "an answer in the new folder")
    config = drop(INBOX / "a.json")
    until(drop(other / "b.json").exists, "another answer in the new folder")
    assert not config.exists()


def test_a_bad_reload_keeps_the_old_settings_and_fails(service: float) -> None:
    """With a mistake in the file `systemctl reload` fails, one record says why, and the old settings stay."""
    CONFIG.write_text(CONFIG.read_text().replace("top_n = 3", 'top_n = "three"'))
    assert sh("systemctl", "reload", "benchd", check=False).returncode != 0
    (failed,) = until(lambda: events("service.reload_failed", service), "the record")
    assert failed["problems"] == [f'{CONFIG}: selection.top_n: expected an integer >= 0, got "three"']
    until(drop(INBOX / "a.json").exists, "an answer by the old settings")
    until(lambda: "reload failed" in show("StatusText"), "the status")
    assert show("ActiveState") == "active"


# --- trouble ------------------------------------------------------------------------------------------------


def test_a_stopped_process_is_killed_and_nothing_is_lost(service: float) -> None:
    """A service that hangs longer than WatchdogSec is restarted, and drops meanwhile are answered."""
    restart_with("[Service]\nWatchdogSec=2\n")
    pid = main_pid()
    os.kill(pid, signal.SIGSTOP)
    configs = [drop(INBOX / f"{number}.json") for number in range(50)]
    until(lambda: main_pid() not in {0, pid}, "a new process", 30)
    until(lambda: all(config.exists() for config in configs), "all answered", 30)
    assert show("NRestarts") == "1"


def test_the_watchdog_is_content_with_an_idle_service(service: float) -> None:
    """An idle service is not killed by the watchdog."""
    restart_with("[Service]\nWatchdogSec=1\n")
    pid, since = main_pid(), time.monotonic()
    until(lambda: time.monotonic() - since > 4, "four times the watchdog's time")
    assert main_pid() == pid


def test_sigkill_in_the_middle_loses_and_tears_nothing(service: float) -> None:
    """After a kill in the middle of 2,000 drops, each is answered once, and no config is torn."""
    configs = []
    for number in range(2000):
        configs.append(drop(INBOX / f"{number}.json"))
        if number == 1000:
            os.kill(main_pid(), signal.SIGKILL)
    until(lambda: all(config.exists() for config in configs), "all answered", 60)
    for config in configs:
        json.loads(config.read_bytes())
    assert not list(INBOX.glob(".benchd-*.tmp"))
    decisions = Counter(record["decision_id"] for record in events("audit.selected", service))
    assert len(decisions) == 2000
    assert sum(decisions.values()) <= 2000 + 64  # after a crash those in flight are recorded again


def test_a_folder_outside_the_sandbox_is_said_and_no_crash(service: float) -> None:
    """A folder missing in ReadWritePaths= gives a record with the fix, and other folders are answered."""
    outside = Path("/srv/outside")
    outside.mkdir(exist_ok=True)
    outside.chmod(0o777)
    CONFIG.write_text(CONFIG.read_text() + f'\n[[watch]]\npath = "{outside}"\n')
    before = time.time()
    sh("systemctl", "restart", "benchd")
    shutil.copyfile(AUDIT, outside / "a.json")
    failed = until(lambda: events("config.write_failed", before), "the record")[0]
    assert f"ReadWritePaths={outside}" in failed["error"]
    until(drop(INBOX / "b.json").exists, "an answer elsewhere")
    assert show("NRestarts") == "0"
    restart_with(f"[Service]\nReadWritePaths={outside}\n")
    until((outside / "a.bench.json").exists, "an answer, with the fix")


def test_a_folder_that_is_missing_is_waited_for(service: float) -> None:
    """A missing folder is recorded, and its drops are answered once it is there."""
    late = Path("/var/lib/benchd/late")
    CONFIG.write_text(CONFIG.read_text() + f'\n[[watch]]\npath = "{late}"\n')
    before = time.time()
    sh("systemctl", "restart", "benchd")
    assert until(lambda: events("watch.root_lost", before), "the record")[0]["root"] == str(late)
    assert f"waiting for {late}" in show("StatusText")
    late.mkdir()
    shutil.chown(late, "benchd", "benchd")
    until(drop(late / "a.json").exists, "an answer")


def test_a_folder_without_rights_names_user_path_and_fix(service: float) -> None:
    """The record about a forbidden folder names the user, the folder and the fix."""
    closed = Path("/var/lib/benchd/closed")
    closed.mkdir(mode=0o700, exist_ok=True)
    CONFIG.write_text(CONFIG.read_text() + f'\n[[watch]]\npath = "{closed}"\n')
    before = time.time()
    sh("systemctl", "restart", "benchd")
    reason = until(lambda: events("watch.root_lost", before), "the record")[0]["reason"]
    uid = pwd.getpwnam("benchd").pw_uid
    assert f"uid {uid}" in reason
    assert str(closed) in reason
    assert "chmod" in reason


def test_a_config_error_reaches_the_start_limit_with_its_reason(service: float) -> None:
    """Broken settings give exit code 2 and the reason in `systemctl status`, and the unit stays failed."""
    sh("systemctl", "stop", "benchd")
    CONFIG.write_text("[selection]\ntop_n = -1\n")
    before = time.time()
    sh("systemctl", "start", "benchd", check=False)
    until(lambda: show("ActiveState") == "failed" and show("NRestarts") == "5", "the start limit", 40)
    assert show("ExecMainStatus") == "2"
    status = sh("systemctl", "status", "benchd", "--no-pager", check=False).stdout
    assert f"{CONFIG}: selection.top_n: expected an integer >= 0, got -1" in status
    assert "Traceback" not in sh("journalctl", "-u", "benchd", f"--since=@{before}", "--no-pager").stdout


# --- the sandbox, from inside -------------------------------------------------------------------------------


PROBE = """
import ctypes, json, os, socket
found = {}
def attempt(name, action):
    try:
        action(); found[name] = "done"
    except OSError as error:
        found[name] = error.errno and os.strerror(error.errno)
attempt("inet", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
attempt("write /etc", lambda: open("/etc/benchd/probe", "w"))
attempt("write /opt", lambda: open("/opt/benchd/probe", "w"))
attempt("write /srv", lambda: open("/srv/probe", "w"))
attempt("home", lambda: os.listdir("/home/alice"))
attempt("write state", lambda: open("/var/lib/benchd/probe", "w").close() or os.unlink("/var/lib/benchd/probe"))
libc = ctypes.CDLL(None, use_errno=True)
def unshare():
    if libc.unshare(0x00020000):
        raise OSError(ctypes.get_errno(), "")
attempt("unshare", unshare)
attempt("setuid", lambda: os.setuid(0))
status = open("/proc/self/status").read()
found["capabilities"] = [line.split()[1] for line in status.splitlines() if line.startswith(("CapEff", "CapBnd"))]
found["no new privileges"] = "NoNewPrivs:\\t1" in status
found["interfaces"] = os.listdir("/sys/class/net")
print(json.dumps(found))
"""


def test_the_sandbox_from_inside(service: float) -> None:
    """A program in place of the service has no network, no privileges, and writes only to its folders."""
    Path("/opt/benchd/probe.py").write_text(PROBE)
    probe = "/opt/benchd/bin/python /opt/benchd/probe.py"
    restart_with(f"[Service]\nType=oneshot\nExecStart=\nExecStart={probe}\nRestart=no\n")
    lines = sh("journalctl", "-u", "benchd", "-o", "cat", "--no-pager", f"--since=@{service}").stdout.splitlines()
    found = json.loads([line for line in lines if '"inet"' in line][-1])
    assert found.pop("write state") == "done"
    assert found.pop("capabilities") == ["0000000000000000"] * 2
    assert found.pop("no new privileges") is True
    assert set(found.pop("interfaces")) <= {"lo"}
    assert "done" not in found.values(), found


# --- instances, upgrade, removal ----------------------------------------------------------------------------


def test_a_bomb_is_defused_within_the_sandbox(service: float) -> None:
    """The sandbox works under systemd: a dense file is refused, the other audits are answered."""
    bomb = INBOX / "bomb.json"
    bomb.write_bytes(b'{"per_module_gain": [' + b"{}," * 8_000_000 + b"{}]}")
    report = INBOX / "bomb.bench-error.json"
    until(drop(INBOX / "a.json").exists, "an answer beside it")
    until(report.exists, "the refusal")
    assert json.loads(report.read_text())["code"] == "too_complex"
    assert not events("audit.failed", service)


def test_instances_share_nothing(service: float) -> None:
    """Each instance has its own settings and state, and does not see those of others."""
    for name in ("one", "two"):
        inbox = Path(f"/var/lib/benchd/{name}/inbox")
        Path(f"/etc/benchd/{name}.toml").write_text(f'[[watch]]\npath = "{inbox}"\n')
        sh("systemctl", "start", f"benchd@{name}")
        sh("install", "-d", "-o", "benchd", "-g", "benchd", "-m", "2775", str(inbox))
        until(drop(inbox / "a.json").exists, f"an answer of {name}")
    pid = show("MainPID", "benchd@one")
    assert sh("nsenter", "-t", pid, "--mount", "ls", "/var/lib/benchd").stdout.split() == ["one"]
    for name in ("one", "two"):
        sh("systemctl", "stop", f"benchd@{name}")


def test_a_trail_in_a_file_is_rotated(service: float) -> None:
    """After a rename, as by logrotate, the next record goes to a new trail file."""
    CONFIG.write_text(CONFIG.read_text().replace('\nfile = ""', '\nfile = "/var/log/benchd/trail.jsonl"'))
    sh("systemctl", "restart", "benchd")
    until(drop(INBOX / "a.json").exists, "an answer")
    trail = Path("/var/log/benchd/trail.jsonl")
    if shutil.which("logrotate"):
        Path("/tmp/rotate.conf").write_text((ROOT / "systemd/benchd.logrotate").read_text())
        sh("logrotate", "--force", "--state", "/tmp/rotate.state", "/tmp/rotate.conf")
    else:
        trail.rename("/var/log/benchd/trail.jsonl.1")
    until(drop(INBOX / "b.json").exists, "another answer")
    assert [json.loads(line)["audit"] for line in trail.read_text().splitlines()] == [f"{INBOX}/b.json"]
    assert "a.json" in Path("/var/log/benchd/trail.jsonl.1").read_text()


def test_an_upgrade_keeps_the_settings_and_uninstall_the_data(service: float) -> None:
    """A second `make install` keeps /etc/benchd; `make uninstall` keeps audits, configs and settings."""
    config = drop(INBOX / "a.json")
    until(config.exists, "an answer")
    CONFIG.write_text("# mine\n" + CONFIG.read_text())
    said = sh(
        "make", "-C", str(ROOT), "install", "VENV=/tmp/install-venv",
        f"PIP_INSTALL_ARGS=--no-index --find-links {WHEELS}", env={**os.environ, "PIP_NO_INDEX": "1"},
    ).stdout  # fmt: skip
    assert CONFIG.read_text().startswith("# mine\n")
    assert re.search(r"config.toml stays as it is", said)
    until(drop(INBOX / "b.json").exists, "an answer of the upgraded service")
    sh("make", "-C", str(ROOT), "uninstall")
    assert not Path("/opt/benchd").exists()
    assert sh("systemctl", "cat", "benchd", check=False).returncode != 0
    assert config.exists()
    assert (INBOX / "a.json").exists()
    assert CONFIG.exists()
