"""Audits a second of `benchd run`, against the floor.

The floor is a bare single-threaded loop over the same files: read, decode into the same types, encode a config of the
same content, write it under a temporary name, rename. No checks, no selection, no hashes, no trail, nothing watched;
with `durable` it flushes each config, as benchd does. Both run in a fresh process, one after the other in every repeat;
the whole process counts, its start too.
"""

import argparse
import os
import subprocess
import sys
import time

import measuring

_FLOOR = """
import os, sys, msgspec
from benchd.reading import _read_fast
inbox, durable, config = sys.argv[1], sys.argv[2] == "true", msgspec.json.decode(sys.stdin.buffer.read())
directory = os.open(inbox, os.O_RDONLY)
encode = msgspec.json.Encoder().encode
for name in sorted(name for name in os.listdir(inbox) if not name.endswith(".bench.json")):
    descriptor = os.open(name, os.O_RDONLY, dir_fd=directory)
    content = os.read(descriptor, os.fstat(descriptor).st_size)
    os.close(descriptor)
    _read_fast(content)
    descriptor = os.open(".floor.tmp", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=directory)
    os.write(descriptor, encode(config))
    if durable:
        os.fdatasync(descriptor)
    os.close(descriptor)
    os.rename(".floor.tmp", name[:-5] + ".bench.json", src_dir_fd=directory, dst_dir_fd=directory)
if durable:
    os.fsync(directory)
"""


def timed(command, **more):
    """Wall-clock and processor seconds of one process."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, **more)
    took, after = time.perf_counter() - start, os.times()
    return took, after.children_user + after.children_system - before.children_user - before.children_system


def clear(inbox, expected, aside):
    """Move the configs away, of which there must be `expected`.

    Moved, not deleted: on ext4, new files are slow to make for a while after thousands were deleted.
    """
    configs = [entry.name for entry in os.scandir(inbox) if entry.name.endswith(".bench.json")]
    if len(configs) != expected:
        raise SystemExit(f"{expected} configs expected, {len(configs)} found")
    aside.mkdir(parents=True)
    for name in configs:
        (inbox / name).rename(aside / name)
    os.sync()


def measure(place, data, *, count, repeats, durable):
    """One row: benchd, the floor, and their ratio."""
    place.mkdir()
    settings = measuring.write_settings(place, durable=durable)
    inbox = place / "inbox"
    for number in range(count):
        (inbox / f"a{number:05}.json").write_bytes(data)
    os.sync()
    run = [*measuring.BENCHD, "run", "--config", str(settings), str(inbox)]
    example = place / "example"
    example.mkdir()
    (example / "a.json").write_bytes(data)
    timed([*run[:-1], str(example)])
    config = (example / "a.bench.json").read_bytes()
    floor = [sys.executable, "-c", _FLOOR, str(inbox), str(durable).lower()]
    benchd_times, floor_times = [], []
    for repeat in range(repeats):
        floor_times.append(timed(floor, input=config))
        clear(inbox, count, place / "aside" / f"floor-{repeat}")
        benchd_times.append(timed(run))
        clear(inbox, count, place / "aside" / f"benchd-{repeat}")
    return [
        f"{len(data) / 1000:.0f} KB",
        str(durable).lower(),
        measuring.spread([count / wall for wall, _ in benchd_times], ".0f"),
        measuring.spread([count / wall for wall, _ in floor_times], ".0f"),
        measuring.spread([b[0] / f[0] for b, f in zip(benchd_times, floor_times, strict=True)]),
        measuring.spread([cpu / count * 1e6 for _, cpu in benchd_times], ".0f"),
        measuring.spread([cpu / count * 1e6 for _, cpu in floor_times], ".0f"),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000, help="audits")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--audit", action="append", help="an audit to use, again for another (default: 4 KB and 58 KB)")
    parser.add_argument("--dir", help="where to make the folders (default: the system's place for temporary files)")
    options = parser.parse_args()
    rows = []
    with measuring.workplace(options.dir) as place:
        for audit in options.audit or [measuring.SMALL, measuring.REAL]:
            data = measuring.audit_bytes(audit)
            for durable in (False, True):
                case = place / str(len(rows))
                rows.append(measure(case, data, count=options.count, repeats=options.repeats, durable=durable))
        facts = measuring.facts(place)
    print(f"{options.count} audits, {options.repeats} times: median (least to largest)\n")
    measuring.table(
        ["audit", "durable", "benchd run, audits/s", "floor, audits/s", "time / floor", "CPU µs/audit", "floor CPU µs"],
        rows,
    )
    print(f"\n{facts}")


if __name__ == "__main__":
    main()
