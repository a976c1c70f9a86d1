"""Report whether one checkout is slower than another, by the ratios of one run.

    compare.py OLD NEW

Each repeat measures both, in alternating order, and gives one ratio new/old. A benchmark is slower if the median of its
ratios is above the threshold and noise can't explain it: the whole 95 % confidence interval of the median (from order
statistics, without assumptions) is above 1. The exit code is 1 if a benchmark is slower. Each checkout gets a separate
virtual environment, unless `--python` names one for both.
"""

import argparse
import math
import statistics
import subprocess
import sys
import venv
from pathlib import Path

import drops
import findings
import measuring


def interval(ratios):
    """The 95 % confidence interval of the median; without bounds where the ratios are too few to tell."""
    ordered, number = sorted(ratios), len(ratios)
    outside, chance = 0, 2 * 0.5**number
    while chance <= 0.05:
        outside += 1
        chance += 2 * math.comb(number, outside) * 0.5**number
    return (ordered[outside - 1], ordered[-outside]) if outside else (0.0, math.inf)


def slower(ratios, threshold):
    """Whether the ratios new/old show that the new one is slower by more than the threshold."""
    return statistics.median(ratios) > threshold and interval(ratios)[0] > 1.0


def _environment(checkout, place):
    """A Python that has the checkout installed."""
    venv.create(place, with_pip=True)
    python = str(place / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--editable", str(checkout)], check=True)
    return python


def _run(audit, count):
    """Time to answer a backlog."""

    def measure(benchd, place):
        measuring.fill(place / "inbox", measuring.audit_bytes(audit), count)
        settings = measuring.write_settings(place)
        return measuring.timed([*benchd, "run", "--config", str(settings), str(place / "inbox")])

    return measure


def _latency(seconds, *, durable):
    """The median latency at 200 drops a second."""

    def measure(benchd, place):
        with measuring.daemon(place, durable=durable, command=benchd):
            took, _ = drops.paced(place / "inbox", measuring.audit_bytes(measuring.SMALL), rate=200, seconds=seconds)
        return statistics.median(took)

    return measure


def _ready(benchd, place):
    (place / "inbox").mkdir(parents=True)
    return measuring.until_line([*benchd, "watch", str(place / "inbox")], b'"service.ready"')[0]


def _explain(benchd, _):
    return measuring.timed([*benchd, "explain", str(measuring.REAL)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--repeats", type=int, default=10, help="six or more, or nothing can be told from noise")
    parser.add_argument("--count", type=int, default=2000, help="audits in a backlog")
    parser.add_argument("--seconds", type=float, default=2.0, help="of drops")
    parser.add_argument("--threshold", type=float, default=1.1, help="new/old above which it is slower")
    parser.add_argument("--python", help="the Python for both, in place of new virtual environments")
    options = parser.parse_args()
    benchmarks = {
        "run, 4 KB": _run(measuring.SMALL, options.count),
        "run, 58 KB": _run(measuring.REAL, options.count),
        "watch, close to config": _latency(options.seconds, durable=False),
        "the same, durable": _latency(options.seconds, durable=True),
        "watch, exec to ready": _ready,
        "explain": _explain,
    }
    times = {name: ([], []) for name in benchmarks}
    with measuring.workplace() as place:
        sides = []
        for name, checkout in (("old", options.old.resolve()), ("new", options.new.resolve())):
            python = options.python or _environment(checkout, place / name)
            sides.append(["env", f"PYTHONPATH={checkout / 'daemon'}", python, "-m", "benchd"])
        first = 0 if options.python else -1  # in new environments a round that only fills the caches
        for repeat in range(first, options.repeats):
            for index, (name, measure) in enumerate(benchmarks.items()):
                for side in (0, 1) if repeat % 2 else (1, 0):
                    times[name][side].append(measure(sides[side], place / f"{index}-{repeat}-{side}"))
    rows, worse = [], False
    for name, sides in times.items():
        old, new = (values[-options.repeats :] for values in sides)
        ratios = [after / before for before, after in zip(old, new, strict=True)]
        low, high = interval(ratios)
        verdict = "**slower**" if slower(ratios, options.threshold) else "faster" if high < 1.0 else "–"
        worse = worse or slower(ratios, options.threshold)
        ours, theirs = (findings.spread([value * 1000 for value in values]) for values in (new, old))
        rows.append(
            [name, theirs, ours, findings.figure(statistics.median(ratios)), f"{low:.3g} to {high:.3g}", verdict]
        )
    print(findings.markdown(["ms", "old", "new", "new/old", "95 % interval", ""], rows))
    sys.exit(worse)


if __name__ == "__main__":
    main()
