"""Idle: one folder with a few answered audits, and no events.

Wake-ups are the voluntary context switches of all threads, without a rescan in that time. CPU time and memory are those
of a second daemon with the default settings, which rescans in that time.
"""

import contextlib
import time
from pathlib import Path

import findings
import measuring
from findings import Row


def _switches(pid):
    """Return the voluntary context switches of all threads so far."""
    lines = [
        line
        for status in Path(f"/proc/{pid}/task").glob("*/status")
        for line in status.read_text(encoding="ascii").splitlines()
    ]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def _processor_seconds(pid):
    """Return the CPU seconds of all threads so far, more precisely than the ticks of /proc/PID/stat."""
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text(encoding="ascii").split()[0]) for file in files) / 1e9


def measure(place, options):
    """Measure both daemons at the same time."""
    with contextlib.ExitStack() as stack:
        pids = []
        for name, more in (("quiet", {"rescan_interval": "1h"}), ("default", {})):
            measuring.write_settings(place / name)
            measuring.fill(place / name / "inbox", measuring.audit_bytes(measuring.SMALL), 10)
            pids.append(stack.enter_context(measuring.daemon(place / name, **more)).pid)
            measuring.wait_for(lambda name=name: len(measuring.configs(place / name / "inbox")) == 10)
        quiet, default = pids
        time.sleep(1.0)  # until the last threads sleep
        before = _switches(quiet), _processor_seconds(default)
        time.sleep(options.seconds)
        woken, busy = _switches(quiet) - before[0], _processor_seconds(default) - before[1]
        how = f"in {options.seconds:g} s"
        yield Row(f"no rescan {how}", "wake-ups", [woken], most=0)
        yield Row(f"processor {how}, default settings", "% of one core", [busy / options.seconds * 100], most=0.05)
        yield Row("resident memory", "MiB", [measuring.memory(default) / 2**20], most=40.0)


if __name__ == "__main__":
    findings.main(__doc__, measure, seconds=(60.0, "duration"))
