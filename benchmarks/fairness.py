"""Fairness: the latency of steady drops in one folder while two processes flood another folder.

The reference is the latency of the same drops without a flood. A drop that is never answered counts as 10 s.
"""

import contextlib
import itertools
import os
import subprocess
import sys

import drops
import findings
import measuring
from findings import Row, percentile

FLOODS = ("new audits", "renames")
#: Processes that flood.
_FLOODERS = 2
#: Target: the 99th percentile beside any flood.
_P99_MS = 100.0


def flood(kind, folder, name):
    """Flood a folder until this process is killed."""
    data = measuring.audit_bytes(measuring.SMALL)
    drops.drop(f"{folder}/{name}-0.json", data)
    for number in itertools.count():
        if kind == "renames":
            os.rename(f"{folder}/{name}-{number}.json", f"{folder}/{name}-{number + 1}.json")
        else:
            drops.drop(f"{folder}/{name}-{number}.json", data)


@contextlib.contextmanager
def _flooded(kind, folder):
    """Flood a folder until the end of the block."""
    flooders = [
        subprocess.Popen([sys.executable, __file__, "flood", kind, str(folder), f"f{number}"])
        for number in range(_FLOODERS if kind else 0)
    ]
    try:
        yield
    finally:
        for flooder in flooders:
            flooder.kill()
            flooder.wait()


def _latencies(kind, place, options):
    config, trail = measuring.write_settings(place), place / "trail.jsonl"
    (place / "flooded").mkdir()
    config.write_text(f'[[watch]]\npath = "flooded"\n{config.read_text(encoding="utf-8")}', encoding="utf-8")
    command = [*measuring.BENCHD, "watch", "--config", str(config)]
    with (
        measuring.running(command, says=b'"service.ready"', into=trail),
        _flooded(kind, place / "flooded"),
    ):
        data = measuring.audit_bytes(measuring.SMALL)
        return drops.paced(place / "inbox", data, rate=options.rate, seconds=options.seconds)


def measure(place, options):
    """Measure the drops without a flood and beside each kind of flood, in every repeat."""
    kinds = (None, *FLOODS)
    runs, lost = {kind: [] for kind in kinds}, {kind: [] for kind in kinds}
    for repeat in range(options.repeats):
        for index, kind in enumerate(kinds):
            took, missing = _latencies(kind, place / f"{repeat}-{index}", options)
            runs[kind].append(took)
            lost[kind].append(missing)
    quiet = [percentile(took, 99) * 1000 for took in runs[None]]
    yield Row(f"{options.rate} drops/s, no flood, p99", "ms", quiet)
    for kind in FLOODS:
        took = [percentile(each, 99) * 1000 for each in runs[kind]]
        yield Row(f"{options.rate} drops/s beside a flood of {kind}, p99", "ms", took, "no flood", quiet)
        yield Row(f"beside a flood of {kind}, p99", "ms", took, most=_P99_MS)
        yield Row(f"not answered beside a flood of {kind}", "drops", lost[kind], most=0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["flood"]:
        flood(*sys.argv[2:])
    findings.main(
        __doc__,
        measure,
        repeats=(5, "number of repeats"),
        rate=(50, "drops a second"),
        seconds=(5.0, "seconds of drops in each run"),
    )
