"""Hops: the functions that one durable drop of 58 KB goes through.

Runs `benchd watch` in this process with a profiler on every thread. A profiled section begins when a thread wakes up
from its wait for events and ends when the thread waits again. A drop is the section that decides. Only calls of
benchd's Python functions count, with lambdas and each resumption of a generator function. A comprehension belongs to
the function around it, as in Python 3.12 and later. Python 3.11 enters a frame for it; a separate row counts these
frames.
"""

import os
import signal
import threading
from collections import Counter
from itertools import pairwise
from pathlib import Path

import drops
import findings
import measuring
from findings import Row, Table

import benchd
from benchd.bench.deciding import decide
from benchd.cli import main as benchd_command

_ROOT = str(Path(benchd.__file__).parent) + os.sep
#: The first drops import modules and fill caches.
_WARM = 5
#: Targets for one drop.
_CALLS, _MODULES, _PACKAGES = 240, 100, 50
_COMPREHENSIONS = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}


class Profiler:
    """Records the code objects that each section calls, in order, for the sections that decide."""

    def __init__(self):
        self.sections = []
        self._own = threading.local()

    def __call__(self, frame, event, called):
        if event == "c_call" and called.__name__ == "poll":
            self._end()
        elif event == "call" and frame.f_code.co_filename.startswith(_ROOT):
            self._add(frame.f_code)

    def _add(self, code):
        if not hasattr(self._own, "calls"):
            self._own.calls = []
        self._own.calls.append(code)

    def _end(self):
        calls = getattr(self._own, "calls", [])
        if decide.__code__ in calls:
            self.sections.append(calls)
        self._own.calls = []


def _module(code):
    return code.co_filename.removeprefix(_ROOT).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _package(module):
    return module.partition(".")[0]


def _changes(names):
    """Return how many names differ from the previous one."""
    return sum(one != other for one, other in pairwise(names))


def _drop(inbox, data, count, failures):
    """Drop audits one by one, then stop the daemon."""
    try:
        measuring.wait_for(lambda: b'"service.ready"' in (inbox.parent / "trail.jsonl").read_bytes())
        for _ in drops.one_by_one(inbox, data, count, rename=True):
            pass
    except SystemExit as error:
        failures.append(str(error))
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


def _sections(place, data, count):
    """Return the calls of each of `count` drops; the first drops are left out."""
    config = measuring.write_settings(place, durable=True)
    (place / "trail.jsonl").touch()
    (place / "inbox.part").mkdir()
    # The daemon waits for its signals on this thread, so no other thread may receive them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    failures = []
    dropping = threading.Thread(target=_drop, args=(place / "inbox", data, _WARM + count, failures))
    dropping.start()
    profiler = Profiler()
    threading.setprofile(profiler)
    try:
        benchd_command(["watch", "--config", str(config)], standalone_mode=False)
    except SystemExit as error:
        if error.code:
            failures.append(f"benchd watch ended with {error.code}")
    finally:
        threading.setprofile(None)
    dropping.join()
    if failures or len(profiler.sections) != _WARM + count:
        raise SystemExit("; ".join(failures) or f"{len(profiler.sections)} of {_WARM + count} drops were profiled")
    return profiler.sections[_WARM:]


def measure(place, options):
    """Yield the counts of a drop, then a table of the calls."""
    entered = _sections(place, measuring.audit_bytes(measuring.REAL), options.count)
    sections = [
        [(_module(code), code.co_qualname) for code in section if code.co_name not in _COMPREHENSIONS]
        for section in entered
    ]
    inline = [len(every) - len(section) for every, section in zip(entered, sections, strict=True)]
    modules = [[module for module, _ in section] for section in sections]
    yield Row("calls of benchd's functions", "a drop", [*map(len, sections)], most=_CALLS)
    yield Row("changes of module", "a drop", [*map(_changes, modules)], most=_MODULES)
    packages = [_changes([_package(module) for module in names]) for names in modules]
    yield Row("changes of package", "a drop", packages, most=_PACKAGES)
    yield Row("comprehensions that enter a frame", "a drop", inline)
    typical = sorted(sections, key=len)[len(sections) // 2]
    by_module = Counter(module for module, _ in typical)
    yield Table("Calls by module:", ["module", "calls"], [[f"`{name}`", str(n)] for name, n in by_module.most_common()])
    if options.by == "function":
        by_function = Counter(f"{module}.{function}" for module, function in typical)
        rows = [[f"`{name}`", str(n)] for name, n in by_function.most_common()]
        yield Table("Calls by function:", ["function", "calls"], rows)
    if options.by == "order":
        rows = [[f"`{module}`", f"`{function}`"] for module, function in typical]
        yield Table("Calls in order:", ["module", "function"], rows)


if __name__ == "__main__":
    findings.main(
        __doc__, measure, count=(9, "drops to count"), by=("module", "also list the calls by `function` or in `order`")
    )
