"""From exec to `service.ready` with an empty folder, against a Python that only imports the same libraries."""

import argparse
import signal
import subprocess
import sys
import time

import measuring

_IMPORTS = "import click, msgspec, structlog, tomli, watchdog.observers.inotify_c, watchdog.observers.polling"


def until_line(command, wanted):
    """Milliseconds from before the process is made until it writes a line that holds `wanted`."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        for line in process.stdout:
            if wanted in line:
                took = time.perf_counter() - start
                process.send_signal(signal.SIGTERM)
                process.stdout.read()  # to its end, so that it need not complain of a broken pipe
                return took * 1000
    raise SystemExit(f"{command[0]} ended without saying {wanted.decode()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--dir", help="where to make the folder (default: the system's place for temporary files)")
    options = parser.parse_args()
    with measuring.workplace(options.dir) as place:
        (place / "inbox").mkdir()
        cases = {
            "`python -c print`": [sys.executable, "-c", "print('done', flush=True)"],
            "Python, the libraries": [sys.executable, "-c", f"{_IMPORTS}; print('done', flush=True)"],
            "`benchd watch`, ready": [*measuring.BENCHD, "watch", str(place / "inbox")],
        }
        times = {name: [] for name in cases}
        for repeat in range(options.repeats + 1):
            for name, command in cases.items():
                took = until_line(command, b"service.ready" if "benchd" in name else b"done")
                if repeat:  # the first fills the caches
                    times[name].append(took)
        facts = measuring.facts(place)
    print(f"exec to ready, {options.repeats} times: median (least to largest)\n")
    measuring.table(["", "ms"], [[name, measuring.spread(values, ".0f")] for name, values in times.items()])
    print(f"\n{facts}")


if __name__ == "__main__":
    main()
