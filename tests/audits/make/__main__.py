"""Make the audits of INDEX.md again.

usage: python tests/audits/make OUT [FILE ...]

FILE is a name from the index. Without one, the script makes all files but the largest. It keeps the adapters in
OUT/adapters, and Bench's runs in OUT/probes. It needs the packages of `make test-interop`, and downloads nothing.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent.parent

#: 4,488 modules: made only on request.
LARGEST = "qwen2moe__default.json.gz"


def isolate(caches: Path) -> None:
    """Set the environment that the libraries read when they are imported: offline, one thread, caches in `caches`."""
    os.environ.update(
        HF_HOME=str(caches),
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        TOKENIZERS_PARALLELISM="false",
        OMP_NUM_THREADS="1",
        PYTHONHASHSEED="0",  # Gradience writes some keys in the order of a set
        # Gradience records the commit of a git checkout that contains its installation. This hides the checkout.
        GIT_DIR=os.devnull,
    )


def main(out: Path, files: list[str]) -> None:
    """Make `files`, or all but the largest, below `out`."""
    out.mkdir(parents=True, exist_ok=True)
    isolate(out.resolve() / "caches")
    sys.path[:0] = [str(TESTS), str(TESTS / "interop")]
    from corpus import INDEX
    from steps import make

    samples = {sample.file: sample for sample in INDEX}
    if unknown := set(files) - set(samples):
        sys.exit(f"not in INDEX.md: {', '.join(sorted(unknown))}")
    for file in files or [file for file in samples if file != LARGEST]:
        start = time.monotonic()
        made = make(samples[file], out.resolve())
        print(f"{made.relative_to(out.resolve())}: {made.stat().st_size} bytes, {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2:])
