"""`tests/audits/make`: the script makes each file as INDEX.md describes it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchd import AuditError, read_audit, select
from corpus import AUDITS, INDEX, Sample

MAKE = AUDITS / "make"
sys.path.insert(0, str(MAKE))

from design import SAMPLES  # noqa: E402
from probe import PROBES  # noqa: E402
from recipes import ADAPTERS  # noqa: E402

#: Files that the script itself made: it must reproduce their numbers.
AGAIN = [
    *(sample for sample in INDEX if "_spread__" in sample.file),
    *(sample for sample in INDEX if sample.made.startswith(("probe ", "design "))),
]
#: Older files of every special kind: the script reproduces the rung and the number of layers.
ALIKE = [
    sample
    for sample in INDEX
    if sample.file
    in {
        "bench_run_probe_audit__llama4_many.json",
        "dora__default.json",
        "embed__default.json",
        "llama2_allnan__default.json",
        "llama2_ties__default.json",
        "llama2_zero__gate0_full.json",
        "llama4_hier0__default.json",
        "llama4_many__perlayer_without_layers.json",
        "llama4_many__pol_empty.json",
        "llama32x7__default.json",
        "multi_raw__default.json",
        "r1_nan__default.json",
        "r64_rslora__default.json",
        "rank_pattern__default.json",
        "unicode__default.json",
    }
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the script made every file that these tests need."""
    out = tmp_path_factory.mktemp("made")
    files = [sample.file for sample in AGAIN + ALIKE]
    done = subprocess.run([sys.executable, MAKE, out, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value below `value` with its path, except the times of the audit."""
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            if key not in ("computed_at", "audit_timestamp"):
                yield from leaves(item, f"{path}/{key}")
    else:
        yield path, value


def document(data: bytes) -> dict[str, Any]:
    """Return the JSON of an audit, without the lines of text before it."""
    found = json.loads(data[data.index(b"{\n") :])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("sample", INDEX, ids=lambda sample: sample.file)
def test_every_file_has_a_recipe(sample: Sample) -> None:
    """The last column of the index names an existing recipe."""
    kind, name, *rest = sample.made.split()
    if kind == "gradience":
        assert (name, rest[0]) == ("audit", "--peft-dir")
        assert rest[1].removeprefix("adapters/") in ADAPTERS
    else:
        assert name in {"probe": PROBES, "probe-audit": ADAPTERS, "design": SAMPLES}[kind]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("sample", AGAIN + ALIKE, ids=lambda sample: sample.file)
def test_as_the_index_says(sample: Sample, made: Path) -> None:
    """The rung that applies to a new file, and the number of layers, are those of the index."""
    try:
        selection = select(read_audit((made / sample.file).read_bytes()))
    except AuditError:
        assert sample.strategy is None
    else:
        assert (selection.strategy, len(selection.layers)) == (sample.strategy, sample.count)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("sample", AGAIN, ids=lambda sample: sample.file)
def test_the_same_numbers(sample: Sample, made: Path) -> None:
    """The script reproduces the files that it made; only the last digits of numbers may differ."""
    again = (made / sample.file).read_bytes()
    if sample.file.startswith("design/"):
        assert again == sample.content
        return
    expected, found = dict(leaves(document(sample.content))), dict(leaves(document(again)))
    assert found.keys() == expected.keys()
    # Training amplifies differences between processors.
    tolerance = 0.01 if sample.made.startswith("probe ") else 1e-5
    for path, value in expected.items():
        if isinstance(value, float):
            assert found[path] == pytest.approx(value, rel=tolerance, abs=1e-9), path
        else:
            assert found[path] == value, path


def test_no_path_of_a_machine() -> None:
    """No audit contains an absolute path."""
    for sample in INDEX:
        assert b'"/' not in sample.content, sample.file
