"""One process of the long form of `fuzz`: libFuzzer, through Atheris, guided by the coverage of benchd."""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["benchd"]):  # Atheris instruments modules while they are imported
    import benchd.bench.config
    import benchd.bench.seal  # noqa: F401

from campaigns.fuzz import Findings, Mutator, one


def main() -> None:
    """Fuzz as the command line and `BENCHD_FUZZ` say. libFuzzer ends the process."""
    place, index, seed = os.environ["BENCHD_FUZZ"].rsplit(":", 2)
    findings, outcomes = Findings(Path(place) / "findings.jsonl"), Counter[str]()
    chance = random.Random(int(seed))
    mutate, saved = Mutator(chance), Path(place) / f"outcomes-{index}.json"
    done = 0

    def target(data: bytes) -> None:
        nonlocal done
        one(data, findings, outcomes)
        done += 1
        if done & 4095 == 0 or done < 2:
            saved.write_text(json.dumps(outcomes), encoding="ascii")  # libFuzzer exits without a call to Python

    def custom_mutator(data: bytes, most: int, number: int) -> bytes:
        luck = chance.random()
        if luck < 0.6:
            data = mutate.structure_of(data)[:most]
        return data if luck < 0.5 else bytes(atheris.Mutate(data, most))  # exists only once `Fuzz` runs

    atheris.Setup(["fuzz", *sys.argv[1:]], target, custom_mutator=custom_mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
