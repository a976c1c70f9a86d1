"""The base of all benchmarks: temporary folders, processes, values from /proc, and facts about the machine."""

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
os.environ.pop("BENCHD_CONFIG", None)  # the user's settings must not change the results
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed benchd has compiled modules, too


def audit_bytes(path):
    """Return the content of an audit, decompressed."""
    data = Path(path).read_bytes()
    return gzip.decompress(data) if str(path).endswith(".gz") else data


@contextlib.contextmanager
def workplace(parent=None, *, keep=False):
    """Make a temporary folder, and delete it at the end unless `keep` is set."""
    path = Path(tempfile.mkdtemp(prefix="benchd-benchmark-", dir=parent))
    try:
        yield path
    finally:
        if not keep:
            shutil.rmtree(path, ignore_errors=True)


def write_settings(place, *, durable=False, **watching):
    """Write a settings file for `place/inbox`, with the trail in a file and these keys in `[watching]`."""
    (place / "inbox").mkdir(parents=True, exist_ok=True)
    config = place / "config.toml"
    config.write_text(
        f'[[watch]]\npath = "inbox"\n[bench]\ndurable = {str(durable).lower()}\n[trail]\nfile = "trail.jsonl"\n'
        + "\n".join(["[watching]", *(f"{key} = {json.dumps(value)}" for key, value in watching.items())]),
        encoding="utf-8",
    )
    return config


def fill(inbox, data, count):
    """Put `count` audits into a folder and flush them to the disk."""
    inbox.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (inbox / f"a{number}.json").write_bytes(data)
    os.sync()


def loop(data, place, *, durable=False):
    """Return the command of floor (b) without the folder; it writes the config for the audit `data`."""
    audit = benchd.read_audit(data)
    config = place / "floor.bench.json"
    config.write_bytes(benchd.bench_config(audit, benchd.select(audit)))
    return [*FLOORS, "loop", *["--durable"] * durable, str(config)]


def configs(inbox):
    """Return the names of the configs in a folder."""
    return [entry.name for entry in os.scandir(inbox) if entry.name.endswith(CONFIG)]


def clear(inbox, expected, aside):
    """Move the configs out of the folder. Raises SystemExit unless there are `expected` of them.

    They are not deleted: on ext4, creating files is slow for a while after thousands were deleted.
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
    """Wait for `condition`, and use hardly any CPU time meanwhile."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            raise SystemExit(f"{process.args} ended with exit code {process.returncode}")
        if time.monotonic() > deadline:
            raise SystemExit("timed out")
        time.sleep(0.02)


@contextlib.contextmanager
def running(command, *, says=None, into=None, output=None):
    """Run a process, once the file `into` contains `says`; its output goes to the file `output`."""
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(Path(output).open("wb")) if output else subprocess.DEVNULL
        process = subprocess.Popen(command, stdout=target, stderr=target if output else None, start_new_session=True)
        try:
            if says is not None:
                wait_for(lambda: into.exists() and says in into.read_bytes(), process=process)
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)  # a shell loop has several processes
            process.wait(20)


def daemon(place, *, durable=False, command=BENCHD, **watching):
    """Run `benchd watch` on `place/inbox` from its readiness until the end of the block."""
    config, trail = write_settings(place, durable=durable, **watching), place / "trail.jsonl"
    trail.unlink(missing_ok=True)
    return running([*command, "watch", "--config", str(config)], says=b'"service.ready"', into=trail)


def watcher(command, inbox):
    """Run a watcher that prints `ready`: a floor or the naive watcher."""
    inbox.mkdir(parents=True, exist_ok=True)
    said = inbox.parent / "said"
    return running([*command, str(inbox)], says=b"ready", into=said, output=said)


def cost(command):
    """Return the wall-clock and CPU seconds of a process with its start. Its output is dropped unless it fails."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    took, after = time.perf_counter() - start, os.times()
    if done.returncode:
        raise SystemExit(f"{command}: exit code {done.returncode}\n{done.stderr.decode()}")
    return took, after.children_user + after.children_system - before.children_user - before.children_system


def timed(command):
    """Return the wall-clock seconds of a process with its start."""
    return cost(command)[0]


def until_line(command, wanted):
    """Start a process, wait for an output line that contains `wanted`, and stop it.

    Returns the seconds until the line, and the peak memory in bytes until then.
    """
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            if wanted in line:
                took = time.perf_counter() - start
                peak = memory(process.pid, "VmHWM")
                process.send_signal(signal.SIGTERM)
                process.stdout.read()  # avoids an error message about a broken pipe
                return took, peak
    raise SystemExit(f"{command} ended without printing {wanted.decode()}")


def memory(pid, field="VmRSS"):
    """Return a size from /proc/PID/status in bytes; 0 if the process has ended."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines())
    if field in status:
        return int(status[field].split()[0]) * 1024
    if status["State"].split()[0] in {"Z", "X"}:
        return 0
    raise SystemExit(f"no {field} in /proc/{pid}/status")


# --- facts -------------------------------------------------------------------------------------------------


def file_system(path):
    """Return the type of the file system that contains `path`."""
    best, kind = "", "?"
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, point, name, *_ = line.split(" ")
        inside = os.path.realpath(path).startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, name
    return kind


def facts(path):
    """Return facts about the machine and the versions, by topic."""
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
