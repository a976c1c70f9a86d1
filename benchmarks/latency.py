"""Latency: from close() of an audit to its config being visible, at a steady rate of drops.

The reference is floor (a), an inotify loop that only creates an empty sidecar. At a higher rate it is the naive
watcher. A drop without an answer counts as 10 s.
"""

import contextlib
import os
import sys

import drops
import findings
import floors
import measuring
from findings import Curve, Row, percentile

NAIVE = (sys.executable, str(measuring.HERE / "peers" / "naive.py"))


@contextlib.contextmanager
def _watching(kind, place, *, durable):
    """A watcher of `place/inbox`, and how its configs come: under a temporary name first, or not."""
    if kind == "benchd":
        with measuring.daemon(place, durable=durable):
            yield floors.MOVED_TO
    else:
        command = [*(NAIVE if kind == "naive" else (*measuring.FLOORS, "inotify")), *["--durable"] * durable]
        with measuring.watcher(command, place / "inbox"):
            yield floors.CREATE if kind == "floor" and not durable else floors.MOVED_TO


def measure(place, options):
    """Every case once in each repeat, forwards and backwards in turn."""
    data = measuring.audit_bytes(options.audit)
    cases = [
        ("floor", False, options.rate),
        ("benchd", False, options.rate),
        ("floor", True, options.rate),
        ("benchd", True, options.rate),
        ("benchd", False, options.fast),
        ("naive", False, options.fast),
    ]
    runs, lost = {case: [] for case in cases}, {case: [] for case in cases}
    for repeat in range(options.repeats):
        for case in cases[:: -1 if repeat % 2 else 1]:
            kind, durable, rate = case
            here = place / f"{repeat}-{kind}-{durable}-{rate}"
            os.sync()  # what was written before is not to be waited for
            with _watching(kind, here, durable=durable) as mask:
                took, missing = drops.paced(here / "inbox", data, rate=rate, seconds=options.seconds, mask=mask)
            runs[case].append(took)
            lost[case].append(missing)

    def at(share, *case):
        return [percentile(took, share) * 1000 for took in runs[case]]

    for durable, most in ((False, 2.0), (True, 1.5)):
        ours, floor = ("benchd", durable, options.rate), ("floor", durable, options.rate)
        how = f"{options.rate:g}/s" + ", durable" * durable
        pair = {"against": "floor (a)", "unit": "ms"}
        yield Row(f"p50, {how}", benchd=at(0.5, *ours), reference=at(0.5, *floor), most=most, **pair)
        if not durable:
            yield Row(f"p50, {how}", "ms", benchd=at(0.5, *ours), most=1.0)
        limit = None if durable else 3.0
        yield Row(f"p99, {how}", benchd=at(0.99, *ours), reference=at(0.99, *floor), most=limit, **pair)
        yield Row(f"largest, {how}", benchd=at(1.0, *ours), reference=at(1.0, *floor), **pair)
        yield Row(f"not answered, {how}", "drops", lost[ours], most=0)
    ours, naive = ("benchd", False, options.fast), ("naive", False, options.fast)
    for share, most in ((0.5, None), (0.99, 0.1)):
        what, pair = f"p{share * 100:g}, {options.fast:g}/s", {"against": "naive", "unit": "ms"}
        yield Row(what, benchd=at(share, *ours), reference=at(share, *naive), most=most, **pair)
    note = f"naive: {findings.spread(lost[naive])}"
    yield Row(f"not answered, {options.fast:g}/s", "drops", lost[ours], most=0, note=note)
    for kind, durable, rate in cases:
        together = sorted(took for run in runs[kind, durable, rate] for took in run)
        points = [(findings.short(percentile(together, share / 100) * 1000), share) for share in range(1, 100)]
        yield Curve("latency", f"{kind}, {rate:g}/s" + ", durable" * durable, points)


if __name__ == "__main__":
    findings.main(
        __doc__,
        measure,
        repeats=(5, "how often"),
        rate=(200.0, "drops a second"),
        fast=(500.0, "drops a second, against the naive watcher"),
        seconds=(10.0, "for how long, each time"),
        audit=(str(measuring.SMALL), "the audit that is dropped"),
    )
