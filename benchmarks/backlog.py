"""Backlog: `benchd run` over a folder of audits, the trail in a file.

Against floor (b), a bare loop over the same files; durable, against that loop flushing file by file. Both in a fresh
process, whose start counts.
"""

import findings
import measuring
from findings import Row

#: How many workers there are, and the target where nothing is flushed.
_WORKERS = {1: 0.6, 2: 1.0}


def measure(place, options):
    """Each size, durable or not: the floor and benchd in turn over the same audits."""
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
        repeats=(5, "how often"),
        count=(20_000, "audits"),
        small=(str(measuring.SMALL), "the first audit"),
        real=(str(measuring.REAL), "the second"),
    )
