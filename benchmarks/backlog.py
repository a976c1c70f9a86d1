"""Backlog: `benchd run` over a folder of audits, with the trail in a file.

The reference is floor (b), a bare loop over the same files. With `durable`, that loop flushes each file. Both run in a
new process, and the time includes its start.
"""

import findings
import measuring
from findings import Row

#: Number of workers, and the target ratio without flushing.
_WORKERS = {1: 0.6, 2: 1.0}


def measure(place, options):
    """Measure each size with and without `durable`; the floor and benchd take turns over the same audits."""
    for number, audit in enumerate((options.small, options.real)):
        data = measuring.audit_bytes(audit)
        for durable in (False, True):
            yield from _rows(place / f"{number}-{durable}", data, options, durable=durable)


def _rows(case, data, options, *, durable):
    inbox = case / "inbox"
    measuring.fill(inbox, data, options.count)
    commands = [measuring.loop(data, case, durable=durable)]
    for workers in _WORKERS:
        settings = measuring.write_settings(case / str(workers), durable=durable, workers=workers)
        commands.append([*measuring.BENCHD, "run", "--config", str(settings)])
    rates, processor = [[] for _ in commands], [[] for _ in commands]
    for repeat in range(options.repeats):
        for index, command in list(enumerate(commands))[:: -1 if repeat % 2 else 1]:
            took, busy = measuring.cost([*command, str(inbox)])
            rates[index].append(options.count / took)
            processor[index].append(busy / options.count * 1e6)
            measuring.clear(inbox, options.count, case / f"aside-{repeat}-{index}")
    against = "the loop that flushes each" if durable else "floor (b)"
    for (workers, least), ours, busy in zip(_WORKERS.items(), rates[1:], processor[1:], strict=True):
        size = f"{options.count:,} × {len(data) / 1000:.0f} KB"
        what = f"{size}{', durable' * durable}, workers = {workers}"
        yield Row(what, "audits/s", ours, against, rates[0], least=3.0 if durable else least)
        yield Row(f"{what}: processor", "µs an audit", busy, against, processor[0])


if __name__ == "__main__":
    findings.main(
        __doc__,
        measure,
        repeats=(5, "number of repeats"),
        count=(20_000, "audits"),
        small=(str(measuring.SMALL), "the smaller audit"),
        real=(str(measuring.REAL), "the larger audit"),
    )
