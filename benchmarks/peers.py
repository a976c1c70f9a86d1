"""Peers: what people would use instead, each answering a burst of drops; audits a second from the first drop.

`watchmedo shell-command`, an `inotifywait` loop and a systemd path unit start a script with the ladder for each file.
The naive watcher does everything in one process.
"""

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
import time

import drops
import findings
import measuring
from findings import Row

_HERE = measuring.HERE / "peers"
_SCRIPT = f"'{sys.executable}' '{_HERE / 'golden.py'}' --generate-config"
_SANDBOX = measuring.HERE.parent / "tests" / "system" / "with-systemd.sh"

#: Without `--wait` a burst would start all of the scripts at once.
_WATCHMEDO = [
    *(sys.executable, "-m", "watchdog.watchmedo", "shell-command", "--wait"),
    *("--patterns=**/*.json", "--ignore-patterns=**/*.bench.json"),
    f'--command=[ "$watch_event_type" != closed ] || {_SCRIPT} "$watch_src_path"',
]
_INOTIFYWAIT = f"""
inotifywait --monitor --quiet --event close_write --format %w%f "$0" | while read -r file; do
    case "$file" in *.bench.json) ;; *.json) {_SCRIPT} "$file" ;; esac
done"""


def _watched(command, place):
    return measuring.running([*command, str(place / "inbox")], output=place / "said")


def _burst(start, place, count, data):
    """Audits a second of the watcher that `start` starts on `place`, and how many drops it left unanswered."""
    inbox = place / "inbox"
    inbox.mkdir(parents=True)
    with start(place):
        number = 0
        while not measuring.configs(inbox):  # not all of them say when they are ready
            drops.drop(f"{inbox}/ready{number}.json", data)
            number, deadline = number + 1, time.monotonic() + 1.0
            while not measuring.configs(inbox) and time.monotonic() < deadline:
                time.sleep(0.02)
            if number > 30:
                raise SystemExit(f"{place.name} answers nothing: {(place / 'said').read_text(encoding='utf-8')}")
        time.sleep(0.5)  # until the last of these is answered
        arrivals = drops.Arrivals(inbox)
        first = time.monotonic()
        for number in range(count):
            drops.drop(f"{inbox}/a{number}.json", data)
        arrivals.until_all(count, pause=0.005)
        arrivals.close()
    if not arrivals.seen:
        raise SystemExit(f"{place.name} answered nothing")
    return len(arrivals.seen) / (max(arrivals.seen.values()) - first), count - len(arrivals.seen)


def _path_unit(place, count):
    """Measure a path unit in a systemd that this boots. Its service answers all files when the folder changes."""
    environment = {**os.environ, "WITH_SYSTEMD_TIMEOUT": "120"}
    command = [str(_SANDBOX), sys.executable, str(_HERE / "path_unit.py"), str(place), str(count), str(measuring.SMALL)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    answered, took = done.stdout.split()
    return int(answered) / float(took), count - int(answered)


def measure(place, options):
    """All of them in each repeat."""
    data = measuring.audit_bytes(measuring.SMALL)
    watchers = {
        "benchd": (measuring.daemon, options.count, None),
        "naive": (functools.partial(_watched, [sys.executable, str(_HERE / "naive.py")]), options.count, 3.0),
        "watchmedo": (functools.partial(_watched, _WATCHMEDO), options.scripts, 500.0),
        "inotifywait": (functools.partial(_watched, ["sh", "-c", _INOTIFYWAIT]), options.scripts, 500.0),
    }
    missing = {
        "watchmedo": None if importlib.util.find_spec("yaml") else "needs watchdog[watchmedo]",
        "inotifywait": None if shutil.which("inotifywait") else "needs inotify-tools",
    }
    rates, lost = {name: [] for name in (*watchers, "path unit")}, dict.fromkeys((*watchers, "path unit"), 0)
    for repeat in range(options.repeats):
        for name, (start, count, _) in watchers.items():
            if not missing.get(name):
                rate, left = _burst(start, place / f"{repeat}-{name}", count, data)
                rates[name].append(rate)
                lost[name] += left
        if options.systemd and (found := _path_unit(place / f"{repeat}-path", options.scripts)):
            rates["path unit"].append(found[0])
            lost["path unit"] += found[1]
    if not rates["path unit"]:
        missing["path unit"] = "no systemd could be booted" if options.systemd else "needs --systemd, and root"
    yield Row(f"not answered of {options.count:,} drops", "drops", [lost["benchd"]], most=0)
    for name, least in [*((name, least) for name, (*_, least) in watchers.items() if least), ("path unit", 500.0)]:
        ours = rates["benchd"] if rates[name] else []
        note = missing.get(name) or (f"{lost[name]} drops unanswered" if lost[name] else "")
        yield Row("burst", "audits/s", ours, name, rates[name], least=least, note=note)


if __name__ == "__main__":
    findings.main(
        __doc__,
        measure,
        repeats=(3, "how often"),
        count=(5000, "drops for benchd and the naive watcher"),
        scripts=(30, "drops for those that start a script for each"),
        systemd=(False, "a path unit too, in a systemd that is booted for it"),
    )
