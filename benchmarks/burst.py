"""Burst: one program renames drops into the folder as fast as it can, and `benchd watch` answers them.

A burst ends when the last config is visible. The reference is the time that the producer needs, or the time of floor
(b), a bare loop, for the same audits, whichever is longer.
"""

import subprocess
import sys
import time

import drops
import findings
import measuring
from findings import Row

PRODUCER = (sys.executable, str(measuring.HERE / "drops.py"))


def burst(inbox, count, audit):
    """Return the seconds until the producer ends and until the last config, and the number of missing configs."""
    arrivals = drops.Arrivals(inbox)
    with subprocess.Popen([*PRODUCER, inbox, str(count), audit], stdout=subprocess.PIPE) as producer:
        arrivals.until_all(count, pause=0.005)
        start, end = map(float, producer.stdout.read().split())
    arrivals.close()
    done = max(arrivals.seen.values(), default=time.monotonic())
    return end - start, done - start, count - len(arrivals.seen)


def measure(place, options):
    """Measure bursts, each followed by floor (b) over the same audits."""
    loop = measuring.loop(measuring.audit_bytes(options.audit), place)
    producers, ours, floors, lost, grown = [], [], [], [], []
    for repeat in range(options.repeats):
        here = place / str(repeat)
        inbox = here / "inbox"
        with measuring.daemon(here) as process:
            before = measuring.memory(process.pid)
            made, done, missing = burst(inbox, options.count, options.audit)
            grown.append((measuring.memory(process.pid, "VmHWM") - before) / 2**20)
        producers.append(made)
        ours.append(done)
        lost.append(missing)
        measuring.clear(inbox, options.count - missing, here / "aside")
        floors.append(measuring.timed([*loop, str(inbox)]))
    slower = [max(1.3 * made, floor / 0.6) for made, floor in zip(producers, floors, strict=True)]
    what = f"{options.count:,} drops"
    yield Row(
        f"{what}, all answered", "s", ours, "the slower of 1.3 × the producer and floor (b) / 0.6", slower, most=1.0
    )
    yield Row(f"{what}, all answered", "s", ours, "the producer", producers)
    yield Row(f"{what}, all answered", "s", ours, "floor (b)", floors)
    yield Row("not answered", "drops", lost, most=0)
    yield Row("peak memory above ready", "MiB", grown)


if __name__ == "__main__":
    findings.main(
        __doc__,
        measure,
        repeats=(5, "number of repeats"),
        count=(20_000, "drops"),
        audit=(str(measuring.SMALL), "the audit to drop"),
    )
