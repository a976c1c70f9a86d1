"""Folders, processes, figures from /proc and facts about the machine, for all benchmarks."""

import contextlib
import gzip
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import benchd

HERE = Path(__file__).resolve().parent
AUDITS = HERE.parent / "tests" / "audits"
SMALL = AUDITS / "design" / "flagged.json"  # 4.6 KB
REAL = AUDITS / "llama4_many__default.json"  # 58 KB, 28 modules
LARGE = AUDITS / "llama80x7__default.json.gz"  # 0.9 MB, 560 modules
LARGEST = AUDITS / "qwen2moe__default.json.gz"  # 7.8 MB, 4488 modules
BENCHD = (sys.executable, "-m", "benchd")
FLOORS = (sys.executable, str(HERE / "floors.py"))
CONFIG = ".bench.json"
os.environ.pop("BENCHD_CONFIG", None)  # else the settings of the user count
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed benchd is compiled, too


def audit_bytes(path):
    """The content of an audit; one that is stored compressed is unpacked."""
    data = Path(path).read_bytes()
    return gzip.decompress(data) if str(path).endswith(".gz") else data


@contextlib.contextmanager
def workplace(parent=None, *, keep=False):
    """A temporary folder that is gone afterwards, unless its owner wants to `keep` it."""
    path = Path(tempfile.mkdtemp(prefix="benchd-benchmark-", dir=parent))
    try:
        yield path
    finally:
        if not keep:
            shutil.rmtree(path, ignore_errors=True)


def write_settings(place, *, durable=False, **watching):
    """A settings file in `place`: the folder `inbox` below it, the trail in a file, and what `[watching]` holds."""
    (place / "inbox").mkdir(parents=True, exist_ok=True)
    config = place / "config.toml"
    config.write_text(
        f'[[watch]]\npath = "inbox"\n[bench]\ndurable = {str(durable).lower()}\n[trail]\nfile = "trail.jsonl"\n'
        + "\n".join(["[watching]", *(f"{key} = {json.dumps(value)}" for key, value in watching.items())]),
        encoding="utf-8",
    )
    return config


def fill(inbox, data, count):
    """Put `count` audits into a folder, and have them on the disk before anything is measured."""
    inbox.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (inbox / f"a{number}.json").write_bytes(data)
    os.sync()


def loop(data, place, *, durable=False):
    """The command of floor (b) less the folder; the config that it writes is the one for the audit `data`."""
    audit = benchd.read_audit(data)
    config = place / "floor.bench.json"
    config.write_bytes(benchd.bench_config(audit, benchd.select(audit)))
    return [*FLOORS, "loop", *["--durable"] * durable, str(config)]


def configs(inbox):
    """The names of the configs in a folder."""
    return [entry.name for entry in os.scandir(inbox) if entry.name.endswith(CONFIG)]


def clear(inbox, expected, aside):
    """Move the configs away, of which there must be `expected`.

    Moved, not deleted: on ext4, new files are slow to make for a while after thousands were deleted.
    """
    found = configs(inbox)
    if len(found) != expected:
        raise SystemExit(f"{expected} configs expected, {len(found)} found")
    aside.mkdir(parents=True)
    for name in found:
        (inbox / name).rename(aside / name)
    os.sync()


# --- processes ---------------------------------------------------------------------------------------------


def wait_for(condition, *, seconds=60.0, process=None):
    """Wait, with next to no work for the processor that is being measured."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            raise SystemExit(f"{process.args} ended with exit code {process.returncode}")
        if time.monotonic() > deadline:
            raise SystemExit("this takes too long; given up")
        time.sleep(0.02)


@contextlib.contextmanager
def running(command, *, says=None, into=None, output=None):
    """A process, once the file `into` holds `says`; `output` is the file that takes what it writes, if any."""
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(Path(output).open("wb")) if output else subprocess.DEVNULL
        process = subprocess.Popen(command, stdout=target, stderr=target if output else None, start_new_session=True)
        try:
            if says is not None:
                wait_for(lambda: into.exists() and says in into.read_bytes(), process=process)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)  # a loop in a shell is more than one process
            process.wait(20)


def daemon(place, *, durable=False, command=BENCHD, **watching):
    """`benchd watch` on `place/inbox`, ready; stopped afterwards."""
    config, trail = write_settings(place, durable=durable, **watching), place / "trail.jsonl"
    trail.unlink(missing_ok=True)
    return running([*command, "watch", "--config", str(config)], says=b'"service.ready"', into=trail)


def watcher(command, inbox):
    """A watcher that says `ready`: a floor, or the naive one."""
    inbox.mkdir(parents=True, exist_ok=True)
    said = inbox.parent / "said"
    return running([*command, str(inbox)], says=b"ready", into=said, output=said)


def cost(command):
    """Wall-clock and processor seconds of a process, its start included. Its words are not wanted; a failure is."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    took, after = time.perf_counter() - start, os.times()
    if done.returncode:
        raise SystemExit(f"{command}: exit code {done.returncode}\n{done.stderr.decode()}")
    return took, after.children_user + after.children_system - before.children_user - before.children_system


def timed(command):
    """Wall-clock seconds of a process, its start included."""
    return cost(command)[0]


def until_line(command, wanted):
    """Seconds from before a process is made until it writes a line that holds `wanted`, and its memory at most so far.

    It is stopped then.
    """
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            if wanted in line:
                took = time.perf_counter() - start
                peak = memory(process.pid, "VmHWM")
                process.send_signal(signal.SIGTERM)
                process.stdout.read()  # to its end, so that it need not complain of a broken pipe
                return took, peak
    raise SystemExit(f"{command} ended without saying {wanted.decode()}")


def memory(pid, field="VmRSS"):
    """A size from /proc/PID/status, in bytes; 0 once the process has ended."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines())
    if field in status:
        return int(status[field].split()[0]) * 1024
    if status["State"].split()[0] in {"Z", "X"}:
        return 0
    raise SystemExit(f"no {field} in /proc/{pid}/status")


# --- facts -------------------------------------------------------------------------------------------------


def file_system(path):
    """The type of the file system that `path` is on."""
    best, kind = "", "?"
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, point, name, *_ = line.split(" ")
        inside = os.path.realpath(path).startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, name
    return kind


def facts(path):
    """The machine and the versions, by what they are of."""
    processor = "?"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            processor = line.partition(": ")[2]
    packages = ("benchd", "msgspec", "structlog", "watchdog", "click", "rich")
    return {
        "processor": f"{os.cpu_count()} × {processor}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"Linux {platform.release()}, {file_system(path)}",
        "versions": f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages),
        "load": f"{os.getloadavg()[0]:.1f} at the end",
    }
