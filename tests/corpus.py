"""The real audits under `tests/audits` with what INDEX.md expects of each, and a builder for hand-made ones."""

from __future__ import annotations

import gzip
import json
import re
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator

from benchd import AuditError, BenchSettings, SelectionSettings, bench_config, read_audit, select
from benchd.audit.naming import PEFT_PREFIX
from benchd.bench.seal import unbroken

AUDITS = Path(__file__).parent / "audits"


class Sample(NamedTuple):
    """One row of the index. `strategy` is None if the file is not usable. `made` is a command or a recipe."""

    file: str
    strategy: str | None
    count: int
    made: str

    @property
    def name(self) -> str:
        """The audit's own file name."""
        return Path(self.file).name.removesuffix(".gz")

    @property
    def content(self) -> bytes:
        """What Gradience wrote, unpacked."""
        return content(self.file)


@cache
def content(file: str) -> bytes:
    """The bytes of the audit `file`, whether it is stored packed or not."""
    path = AUDITS / file.removesuffix(".gz")
    return path.read_bytes() if path.exists() else gzip.decompress(path.with_name(path.name + ".gz").read_bytes())


def _index() -> list[Sample]:
    samples = []
    for line in (AUDITS / "INDEX.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not re.search(r"\.json(\.gz)?$", cells[0]):
            continue
        strategy, _, count = cells[4].partition(" ")
        samples.append(Sample(cells[0], strategy or None, int(count or 0), cells[5].strip("`")))
    return samples


INDEX = _index()
USABLE = [sample for sample in INDEX if sample.strategy is not None]
#: Without the largest, for tests that are slow by nature.
SMALLER = [sample for sample in USABLE if "qwen2moe" not in sample.file]

DESIGN_FLAGGED = "design/flagged.json"
DESIGN_FALLBACK = "design/fallback.json"


def entry(name: Any = "base_model.model.a", **rationale: Any) -> dict[str, Any]:
    """One entry of a layer list."""
    return {"layer_name": name, "flagging_rationale": rationale}


def document(
    *, flagged: Any = (), candidates: Any = (), analysis: dict[str, Any] | None = None, **top: Any
) -> dict[str, Any]:
    """A hand-made audit; `analysis` and `top` add keys to the analysis and to the top level."""
    lists = {"flagged_layers": flagged, "all_layers_with_disagreement": candidates}
    return {"policy_disagreement_analysis": {"analysis_performed": True, **lists, **(analysis or {})}, **top}


#: Three modules of ranks 8, 16 and 16: the first two are flagged with 4 and 5, the third has a disagreement.
THREE_GAINS = [
    {"module": "base_model.model.a", "r": 8, "scaling": 2.0},
    {"module": "base_model.model.b", "r": 16, "scaling": 2.0},
    {"module": "base_model.model.c", "r": 16, "scaling": 2.0},
]
THREE_MODULES = document(
    flagged=[entry("base_model.model.a", k_values=[4]), entry("base_model.model.b", k_values=[5])],
    candidates=[entry("base_model.model.c")],
    per_module_gain=THREE_GAINS,
)


def encoded(value: Any) -> bytes:
    """`value` as Gradience writes it: indented, with NaN tokens, and a newline at the end."""
    return json.dumps(value, indent=2).encode() + b"\n"


def tolerantly(data: bytes) -> bytes:
    """The same audit with a value that no fast parser takes (half a character), so that the tolerant way reads it."""
    head, brace, tail = data.partition(b"{")
    return head + brace + b'"irrelevant": [NaN, "\\ud800"]' + (b"" if tail.strip() == b"}" else b",") + tail


@cache
def validator(name: str) -> Draft202012Validator:
    """The packaged schema `name` (`config`, `error-report`, `trail-record`)."""
    text = resources.files("benchd").joinpath("schemas", f"{name}.schema.json").read_text(encoding="utf-8")
    schema = json.loads(text)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def checked(data: bytes, schema: str = "config") -> dict[str, Any]:
    """What is in a sidecar, once it is known to be sealed and to hold to its schema."""
    value = json.loads(data)
    validator(schema).validate(value)
    assert unbroken(data)
    assert isinstance(value, dict)
    return value


def answer(
    data: bytes | dict[str, Any],
    selection: SelectionSettings | None = None,
    bench: BenchSettings | None = None,
    name: str = "audit.json",
) -> dict[str, Any]:
    """The checked config for an audit, given as bytes or as a document."""
    audit = read_audit(data if isinstance(data, bytes) else encoded(data), name=name)
    return checked(bench_config(audit, select(audit, selection), bench))


def refused(data: bytes) -> AuditError:
    """The error that `data` is refused with."""
    try:
        read_audit(data)
    except AuditError as error:
        return error
    raise AssertionError("not refused")


def stripped(name: str) -> str:
    """`name` as PEFT sees it."""
    return name.removeprefix(PEFT_PREFIX)
