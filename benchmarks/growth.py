"""Growth: one `benchd run` answers folders of growing size, then a new daemon watches them.

The cost of an answer should not grow with the folder. A restart should cost little more than one stat of each file, and
answered audits should use no memory. The benchmark uses one worker, and the rates exclude the start of the process.
"""

import statistics

import findings
import measuring
from findings import Curve, Row

_LARGE = 100_000


def measure(place, options):
    """Measure one folder size after the other; small folders get more repeats."""
    sizes = [int(size) for size in options.sizes.split(",")] + [1_000_000] * options.full
    curves, base = {"benchd run": [], "floor (b)": []}, None
    for count in sizes:
        here, repeats = place / str(count), max(1, min(options.repeats, 2 * _LARGE // count))
        for name, rate in _rates(here, count, repeats).items():
            curves[name].append((count, findings.short(rate)))
        starts, walks, peaks = [], [], []
        for _ in range(options.repeats):
            walks.append(measuring.timed([*measuring.FLOORS, "walk", str(here / "inbox")]))
            took, peak = measuring.until_line([*measuring.BENCHD, "watch", str(here / "inbox")], b'"scan.finished"')
            starts.append(took)
            peaks.append(peak)
        base = base or (count, statistics.median(peaks))
        what = f"{count:,} answered audits"
        limit = {"most": 3.0} if count >= _LARGE else {}
        yield Row(f"restart over {what}", "s", starts, "scandir and stat", walks, **limit)
        if count > base[0]:
            each = [(peak - base[1]) / (count - base[0]) for peak in peaks]
            limit = {"most": 100.0} if count >= _LARGE else {}
            yield Row(f"memory of a watcher over {what}, above {base[0]:,}", "bytes an audit", each, **limit)
    for name, points in curves.items():
        rates = [rate for _, rate in points]
        limit = {"least": 0.8} if name == "benchd run" else {}
        what = f"{name}: slowest of {', '.join(f'{count:,}' for count in sizes)} by the fastest"
        yield Row(what, "of the audits/s", [min(rates) / max(rates)], **limit)
        yield Curve("growth", name, points)


def _rates(here, count, repeats):
    """Return the audits a second of benchd and of the floor in one folder; benchd's answers stay in it."""
    settings, inbox = measuring.write_settings(here, workers=1), here / "inbox"
    data = measuring.audit_bytes(measuring.SMALL)
    measuring.fill(inbox, data, count)
    commands = {
        "floor (b)": measuring.loop(data, here),
        "benchd run": [*measuring.BENCHD, "run", "--config", str(settings)],
    }
    empty, starts, whole = here / "empty", {name: [] for name in commands}, {name: [] for name in commands}
    empty.mkdir()
    for repeat in range(repeats):
        for name, command in commands.items():
            starts[name].append(measuring.timed([*command, str(empty)]))
            if repeat or name == "benchd run":
                measuring.clear(inbox, count, here / f"aside-{repeat}-{name}")
            whole[name].append(measuring.timed([*command, str(inbox)]))
    took = {name: statistics.median(whole[name]) - statistics.median(starts[name]) for name in commands}
    return {name: count / max(seconds, 0.001) for name, seconds in took.items()}


if __name__ == "__main__":
    findings.main(
        __doc__,
        measure,
        repeats=(5, "maximum number of repeats"),
        sizes=("1000,10000,100000", "audits in a folder"),
        full=(False, "also measure 1,000,000 audits: about 15 minutes and 20 GB"),
    )
