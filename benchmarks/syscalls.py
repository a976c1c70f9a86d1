"""System calls: how many an answer takes, by name, as strace counts them.

The difference between two runs counts, one with twice as many audits, so the start and the end of the process don't.
`watch` gets its drops one by one, so that it answers each alone.
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
    """The calls by name in what `strace -c` wrote."""
    lines = (line.split() for line in file.read_text(encoding="ascii").splitlines())
    return Counter(
        {words[-1]: int(words[3]) for words in lines if words and words[0][0].isdigit() and words[-1] != "total"}
    )


def _run(place, data, count, *, durable):
    """Calls of `benchd run` over `count` audits."""
    settings = measuring.write_settings(place, durable=durable)
    measuring.fill(place / "inbox", data, count)
    log = place / "strace"
    command = ["strace", "-f", "-c", "-o", str(log), *measuring.BENCHD, "run", "--config", str(settings)]
    measuring.timed([*command, str(place / "inbox")])
    return _counted(log)


def _watch(place, data, count, *, durable):
    """Calls of `benchd watch` for `count` drops, one after the other."""
    log = place / "strace"
    # -D: strace is the child of what it traces, which so gets the signals that are meant for it.
    strace = ("strace", "-D", "-f", "-c", "-o", str(log), *measuring.BENCHD)
    with measuring.daemon(place, durable=durable, command=strace):
        for _ in drops.one_by_one(place / "inbox", data, count):
            time.sleep(0.01)  # a flush comes after the config
    measuring.wait_for(lambda: log.exists() and b"total" in log.read_bytes())
    return _counted(log)


def measure(place, options):
    """Each command, durable or not."""
    if not shutil.which("strace") or subprocess.run(["strace", "-o", os.devnull, "true"], check=False).returncode:
        yield Row("system calls", note="needs strace, and the right to use it")
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
    findings.main(__doc__, measure, count=(200, "answers, and twice as many"))
