"""Resident memory of the daemon before and after many audits, dropped as fast as they can be written."""

import argparse
import os
from pathlib import Path

import measuring


def resident(pid, field="VmRSS"):
    """A line of /proc/PID/status, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise SystemExit(f"no {field} in /proc/{pid}/status")


def answered(inbox):
    """How many configs there are."""
    return sum(1 for entry in os.scandir(inbox) if entry.name.endswith(".bench.json"))


def measure(place, data, steps):
    """Resident memory at ready and after each of the `steps`, and the largest at any time."""
    with measuring.daemon(place, durable=False) as process:
        inbox, sizes, done = place / "inbox", [resident(process.pid)], 0
        for step in steps:
            for number in range(done, step):
                (inbox / f"a{number}.json").write_bytes(data)
            done = step
            measuring.wait_for(lambda done=done: answered(inbox) == done, seconds=300, process=process)
            sizes.append(resident(process.pid))
        return [*sizes, resident(process.pid, "VmHWM")]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="audits")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--audit", default=measuring.REAL, help="the audit that is dropped")
    parser.add_argument("--dir", help="where to make the folder (default: the system's place for temporary files)")
    options = parser.parse_args()
    data = measuring.audit_bytes(options.audit)
    steps = sorted({max(1, options.count // 10), max(1, options.count // 2), options.count})
    runs = []
    for _ in range(options.repeats):
        with measuring.workplace(options.dir) as place:
            runs.append(measure(place, data, steps))
            facts = measuring.facts(place)
    print(f"{options.count} audits of {len(data)} bytes, {options.repeats} times: median (least to largest)\n")
    names = ["ready", *(f"after {step:,}" for step in steps), "largest at any time"]
    columns = zip(*runs, strict=True)
    measuring.table(
        ["", "resident, MiB"],
        [[name, measuring.spread(values, ".1f")] for name, values in zip(names, columns, strict=True)],
    )
    print(f"\n{facts}")


if __name__ == "__main__":
    main()
