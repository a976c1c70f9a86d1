"""`python -m campaigns [--long] [NAME]...`, in the folder of the tests: run campaigns and print their figures."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
import traceback
from pathlib import Path

from campaigns import CAMPAIGNS


def main() -> int:
    """Run the named campaigns; the exit code is the number of those that found a broken promise."""
    parser = argparse.ArgumentParser(prog="campaigns")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(CAMPAIGNS))
    parser.add_argument("--long", action="store_true", help="the long form: minutes to hours")
    parser.add_argument("--place", type=Path, help="working folder (default: the system's temporary folder)")
    options = parser.parse_args()
    unknown = set(options.names) - set(CAMPAIGNS)
    if unknown:
        parser.error(f"unknown campaign: {', '.join(sorted(unknown))}")
    broken = 0
    for name in options.names or CAMPAIGNS:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"benchd-{name}-", dir=options.place) as place:
            try:
                figures = importlib.import_module(f"campaigns.{name}").run(Path(place), long=options.long)
            except AssertionError:
                traceback.print_exc()
                broken += 1
                continue
        figures["wall_s"] = round(time.monotonic() - started, 1)
        print(json.dumps({"campaign": name, **figures}), flush=True)
    return broken


if __name__ == "__main__":
    sys.exit(main())
