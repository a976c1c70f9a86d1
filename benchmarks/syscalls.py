"""System calls: how many an answer takes, by name, as strace counts them.

The start and the end of the process are subtracted: a second run answers twice as many audits, and the difference
counts. `watch` gets its drops one by one, so that it answers each one separately.
"""

import os
import shutil
import subprocess
import time
from collections import Counter

import drops
import findings
import measuring
from findings import Row, Table


def _counted(file):
    """Return the calls by name from the output of `strace -c`."""
    lines = (line.split() for line in file.read_text(encoding="ascii").splitlines())
    return Counter(
        {words[-1]: int(words[3]) for words in lines if words and words[0][0].isdigit() and words[-1] != "total"}
    )


def _run(place, data, count, *, durable):
    """Return the calls of `benchd run` over `count` audits."""
    settings = measuring.write_settings(place, durable=durable)
    measuring.fill(place / "inbox", data, count)
    log = place / "strace"
    command = ["strace", "-f", "-c", "-o", str(log), *measuring.BENCHD, "run", "--config", str(settings)]
    measuring.timed([*command, str(place / "inbox")])
    return _counted(log)


def _watch(place, data, count, *, durable):
    """Return the calls of `benchd watch` for `count` drops, one after the other."""
    log = place / "strace"
    # -D makes strace the child, so that signals to this PID reach the daemon.
    strace = ("strace", "-D", "-f", "-c", "-o", str(log), *measuring.BENCHD)
    with measuring.daemon(place, durable=durable, command=strace):
        for _ in drops.one_by_one(place / "inbox", data, count):
            time.sleep(0.01)  # the flush follows the config
    measuring.wait_for(lambda: log.exists() and b"total" in log.read_bytes())
    return _counted(log)


def measure(place, options):
    """Measure each command with and without `durable`."""
    if not shutil.which("strace") or subprocess.run(["strace", "-o", os.devnull, "true"], check=False).returncode:
        yield Row("system calls", note="needs strace and permission to use it")
        return
    data, columns = measuring.audit_bytes(measuring.SMALL), {}
    for name, count in (("run", _run), ("watch", _watch)):
        for durable in (False, True):
            case = f"{name}{', durable' * durable}"
            once = count(place / f"{case}-1", data, options.count, durable=durable)
            twice = count(place / f"{case}-2", data, options.count * 2, durable=durable)
            twice.subtract(once)
            columns[case] = {call: calls / options.count for call, calls in twice.items()}
    for case, calls in columns.items():
        yield Row(f"system calls, {case}", "an answer", [sum(calls.values())])
    calls = sorted({call for column in columns.values() for call, number in column.items() if abs(number) >= 0.05})
    rows = [[f"`{call}`", *(f"{column.get(call, 0):.1f}" for column in columns.values())] for call in calls]
    yield Table("System calls an answer, by name:", ["call", *columns], rows)


if __name__ == "__main__":
    findings.main(__doc__, measure, count=(200, "answers in the first run; the second has twice this number"))
