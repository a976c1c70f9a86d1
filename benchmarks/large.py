"""Large audits: from close() to config, one after the other.

Against reading, SHA-256 and msgspec's decoding into the same types. The audits are as Gradience writes them, with
lines of text before the JSON; what these cost is measured by itself, in this process.
"""

import time

import drops
import findings
import floors
import measuring
from findings import Row

import benchd


def _seconds(read, data):
    start = time.perf_counter()
    read(data)
    return time.perf_counter() - start


def measure(place, options):
    """Drop and read in turn. After that, read with and without the text."""
    decode = floors.decoder()
    for what, audit, most in (("560 modules", measuring.LARGE, None), ("4488 modules", measuring.LARGEST, 3.0)):
        data, inbox = measuring.audit_bytes(audit), place / audit.name / "inbox"
        ours, theirs = [], []
        with measuring.daemon(inbox.parent) as process:
            before = measuring.memory(process.pid)
            for number, took in enumerate(drops.one_by_one(inbox, data, options.repeats)):
                ours.append(took * 1000)
                theirs.append(floors.read_hash_decode(inbox / f"a{number}.json", decode) * 1000)
            peak = (measuring.memory(process.pid, "VmHWM") - before) / len(data)
        size = f"{what}, {len(data) / 1e6:.1f} MB"
        yield Row(f"{size}: close to config", "ms", ours, "read, hash, decode", theirs, most=1.3, slack=1.0)
        yield Row(f"{size}: most memory, above ready", "× its size", [peak], most=most)
    data = measuring.audit_bytes(measuring.LARGE)
    clean, ours, theirs = data[data.find(b"\n{\n") + 1 :], [], []
    for _ in range(options.repeats * 5):
        ours.append(_seconds(benchd.read_audit, data) * 1000)
        theirs.append(_seconds(benchd.read_audit, clean) * 1000)
    what = f"560 modules: read_audit with {len(data) - len(clean):,} bytes of text before the JSON"
    yield Row(what, "ms", ours, "without", theirs, most=1.02)


if __name__ == "__main__":
    findings.main(__doc__, measure, repeats=(20, "drops of each"))
