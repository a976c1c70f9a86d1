"""Write the files that are generated from declarations in the code; with --check, only name those that are stale."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import settings_files
import trail_files

TOP = Path(__file__).parents[1]

#: Each file, and the function that returns its new text from its old text ("" for a missing file).
OUTPUTS: dict[str, Callable[[str], str]] = {
    "config.toml": settings_files.config_toml,
    "daemon/benchd/schemas/settings.schema.json": settings_files.schema,
    "docs/configuration.md": settings_files.configuration_page,
    "daemon/benchd/schemas/trail-record.schema.json": trail_files.schema,
    "docs/trail.md": trail_files.page,
}


def main() -> int:
    """Return the exit code: 1 if --check finds a stale file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is stale")
    check = parser.parse_args().check
    stale = []
    for name, generate in OUTPUTS.items():
        path = TOP / name
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        new = generate(old)
        if new != old:
            stale.append(name)
            if not check:
                path.write_text(new, encoding="utf-8")
    for name in stale:
        print(f"{name}: {'stale; run `make generate`' if check else 'written'}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
