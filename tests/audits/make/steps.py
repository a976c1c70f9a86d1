"""Make one audit: run the command or the recipe in the last column of INDEX.md."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from corpus import Sample
from design import write_sample
from probe import audit_as_probe, train_probe
from recipes import ADAPTERS


def make(sample: Sample, out: Path) -> Path:
    """Make one audit and return its path below `out`. It is uncompressed, even if the index has a compressed file."""
    file = out / sample.file.removesuffix(".gz")
    file.parent.mkdir(parents=True, exist_ok=True)
    match shlex.split(sample.made):
        case ["gradience", "audit", "--peft-dir", folder, *options]:
            ADAPTERS[Path(folder).name].save(out / folder)
            command = [Path(sys.executable).parent / "gradience", "audit", "--peft-dir", folder, *options]
            # No check: the index also has outputs of commands that fail.
            with file.open("wb") as output:
                subprocess.run(command, cwd=out, stdout=output, stderr=subprocess.DEVNULL, check=False)
        case ["probe", name]:
            train_probe(name, out).replace(file)
        case ["probe-audit", name]:
            ADAPTERS[name].save(out / "adapters" / name)
            audit_as_probe(name, out).replace(file)
        case ["design", name]:
            write_sample(name, file)
        case _:
            raise ValueError(f"INDEX.md names no recipe for {sample.file}: {sample.made!r}")
    return file
