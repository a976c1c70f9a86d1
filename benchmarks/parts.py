"""Parts: where the time of an answer goes, each part by itself.

Back to back, a part is still in the CPU's caches. After a pause, as between two drops, other programs have replaced it
there. An answer in a batch is close to the first, a single answer to the second. Everything runs in one process.
"""

import gc
import hashlib
import statistics
import time

import findings
import measuring
from findings import Row, Table

from benchd import Audit, BenchSettings, SelectionSettings, read_audit, select
from benchd.answering.batch import Answering
from benchd.answering.recording import selected as record_of
from benchd.bench.config import write_config
from benchd.bench.deciding import decide
from benchd.folder.folder import Folder
from benchd.inbox import Ticket
from benchd.settings.keys import FolderSettings
from benchd.trail.sinks import TrailFile
from benchd.trail.trail import Trail

_BATCH = 128


def _median(part, prepare, *, count, pause):
    """Median of the µs that `part` takes, each time with what `prepare` has made just before the pause."""
    took = []
    for _ in range(count):
        value = prepare()
        if pause:
            time.sleep(pause)
        start = time.perf_counter()
        part(value)
        took.append((time.perf_counter() - start) * 1e6)
    return statistics.median(took)


def _parts(place, data):
    """Each part by name: what it does, and what makes its input."""
    trail = Trail(TrailFile(str(place / "parts.jsonl")))
    selection, bench = SelectionSettings(), BenchSettings()
    digest = hashlib.sha256(data).hexdigest()

    def audit() -> Audit:
        return read_audit(data, sha256=digest)

    def selected():
        fresh = audit()
        return fresh, select(fresh, selection)

    def decided():
        return decide(data, name="audit.json", sha256=digest, selection=selection, bench=bench)

    def record(decision):
        config = "/in/audit.bench.json"
        trail.write(record_of(decision, audit="/in/audit.json", trigger="closed", config=config, took=0.001))

    return {
        "SHA-256": (lambda _: hashlib.sha256(data).hexdigest(), int),
        "read_audit": (lambda _: audit(), int),
        "select": (lambda fresh: select(fresh, selection), audit),
        "the config's bytes": (lambda pair: write_config(*pair, bench), selected),
        "all of these": (
            lambda _: decide(data, name="audit.json", selection=selection, bench=bench),
            int,
        ),
        "a record in the trail": (record, decided),
    }


def _answers(place, data, batch, *, count, pause):
    """Return the median of µs for each audit, with `batch` audits answered together, files and trail included."""
    inbox = place / "inbox"
    measuring.fill(inbox, data, count * batch)
    folder = Folder(FolderSettings(path=str(inbox), bench=BenchSettings(durable=False)), max_bytes=2**30)
    answering = Answering(Trail(TrailFile(str(place / "trail.jsonl"))), settle=2.0)
    tickets = (Ticket(folder, f"a{number}.json", "closed") for number in range(count * batch))
    took = _median(answering.answer, lambda: [next(tickets) for _ in range(batch)], count=count, pause=pause)
    if len(measuring.configs(inbox)) != count * batch:
        raise SystemExit("not all were answered")
    return took / batch


def measure(place, options):
    """Yield a table for each audit, and the cost of a pause as a row."""
    gc.freeze()
    for audit in (measuring.SMALL, measuring.REAL):
        data = measuring.audit_bytes(audit)
        home = place / audit.stem
        home.mkdir()
        rows = []
        for name, (part, prepare) in _parts(home, data).items():
            hot, cold = (
                _median(part, prepare, count=options.count, pause=pause) for pause in (0.0, options.pause / 1000)
            )
            rows.append([name, f"{hot:.1f}", f"{cold:.1f}"])
        together = _answers(home / "together", data, _BATCH, count=max(1, options.count // 50), pause=0.0)
        alone = _answers(home / "alone", data, 1, count=options.count, pause=0.0)
        late = _answers(home / "late", data, 1, count=options.count, pause=options.pause / 1000)
        rows += [
            [f"an answer, {_BATCH} at a time", f"{together:.1f}", ""],
            ["an answer, one at a time", f"{alone:.1f}", f"{late:.1f}"],
        ]
        size = f"{len(data) / 1000:.0f} KB"
        yield Table(f"{size}, µs:", ["part", "back to back", f"after a pause of {options.pause:g} ms"], rows)
        yield Row(f"{size}: an answer after a pause", "µs", [late], "back to back", [alone])


if __name__ == "__main__":
    findings.main(__doc__, measure, count=(400, "how often"), pause=(5.0, "ms between two drops"))
