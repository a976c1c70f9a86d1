"""What the benchmarks share: a daemon in a folder of its own, facts about the machine, a Markdown table."""

import contextlib
import gzip
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

AUDITS = Path(__file__).resolve().parent.parent / "tests" / "audits"
SMALL = AUDITS / "from-the-design" / "sample_audit_for_explain.json"  # 4 KB
REAL = AUDITS / "llama4_many__default.json"  # 58 KB, 28 modules
BENCHD = [sys.executable, "-m", "benchd"]


def audit_bytes(path):
    """The content of an audit; one that is stored compressed is unpacked."""
    data = Path(path).read_bytes()
    return gzip.decompress(data) if str(path).endswith(".gz") else data


@contextlib.contextmanager
def workplace(parent):
    """A temporary folder that is gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix="benchd-benchmark-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def write_settings(place, *, durable, more=""):
    """A settings file in `place`: the folder `inbox` below it, the trail in a file."""
    (place / "inbox").mkdir(exist_ok=True)
    config = place / "config.toml"
    config.write_text(
        f'[[watch]]\npath = "inbox"\n[bench]\ndurable = {str(durable).lower()}\n[trail]\nfile = "trail.jsonl"\n{more}',
        encoding="utf-8",
    )
    return config


@contextlib.contextmanager
def daemon(place, *, durable):
    """`benchd watch` on `place/inbox`, ready; stopped afterwards."""
    config, trail = write_settings(place, durable=durable), place / "trail.jsonl"
    trail.unlink(missing_ok=True)
    process = subprocess.Popen([*BENCHD, "watch", "--config", str(config)])
    try:
        wait_for(lambda: trail.exists() and b'"service.ready"' in trail.read_bytes(), process=process)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def wait_for(condition, *, seconds=60.0, process=None):
    """Wait without using the processor that is being measured."""
    import time

    deadline = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            raise SystemExit(f"benchd ended with exit code {process.returncode}")
        if time.monotonic() > deadline:
            raise SystemExit("this takes too long; given up")
        time.sleep(0.05)


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
    """One line about the machine."""
    load = os.getloadavg()[0]
    return (
        f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} cores, "
        f"{file_system(path)}, load {load:.1f} at the end"
    )


def spread(values, form=".2f"):
    """The median, with the least and the largest in brackets."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def percentile(ordered, share):
    """The value below which `share` of the ordered values lie."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def table(headers, rows):
    """Print a Markdown table."""
    print("| " + " | ".join(headers) + " |")
    print("|" + "---|" * len(headers))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")


def records(trail):
    """The records in a trail file."""
    return [json.loads(line) for line in Path(trail).read_bytes().splitlines()]
