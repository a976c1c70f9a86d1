"""Start: from exec to ready with an empty folder, and short commands until they end.

The reference is a Python that only imports the same libraries. For rich it imports the table module, because `import
rich` alone loads almost nothing.
"""

import sys

import findings
import measuring
from findings import Row

_WATCH = "watchdog.observers.inotify_c, structlog, msgspec, tomli"


def _python(libraries):
    return [sys.executable, "-c", f"import {libraries}; print('done', flush=True)"]


def _until(wanted):
    return lambda command: measuring.until_line(command, wanted)[0]


def measure(place, options):
    """Measure all commands in turn; the first round fills the caches and is dropped."""
    benchd, inbox = measuring.BENCHD, place / "inbox"
    inbox.mkdir()
    to_end = measuring.timed
    cases = [
        ("watch", _until(b'"service.ready"'), [*benchd, "watch", str(inbox)], _until(b"done"), _WATCH),
        ("--version", to_end, [*benchd, "--version"], to_end, "click"),
        (
            "explain",
            to_end,
            [*benchd, "explain", str(measuring.REAL)],
            to_end,
            "click, msgspec, rich.console, rich.table",
        ),
    ]
    times = [([], []) for _ in cases]
    for _ in range(options.repeats + 1):
        for (_, clock, command, other_clock, libraries), (ours, theirs) in zip(cases, times, strict=True):
            theirs.append(other_clock(_python(libraries)) * 1000)
            ours.append(clock(command) * 1000)
    for (what, _, _, _, libraries), (ours, theirs) in zip(cases, times, strict=True):
        yield Row(f"`benchd {what}`", "ms", ours[1:], f"Python importing {libraries}", theirs[1:], most=1.3)
    bare = [measuring.timed([sys.executable, "-c", "pass"]) * 1000 for _ in range(options.repeats)]
    yield Row("Python alone", "ms", bare, note="for comparison")


if __name__ == "__main__":
    findings.main(__doc__, measure, repeats=(20, "number of repeats"))
