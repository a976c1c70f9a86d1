"""Provide the real audits under `tests/audits`, INDEX.md's expectations of each, and a builder for hand-made audits."""

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
        """Return the audit's own file name."""
        return Path(self.file).name.removesuffix(".gz")

    @property
    def content(self) -> bytes:
        """Return the bytes that Gradience wrote, unpacked."""
        return content(self.file)


@cache
def content(file: str) -> bytes:
    """Return the bytes of the audit `file`, packed or not."""
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
#: All but the largest, for slow tests.
SMALLER = [sample for sample in USABLE if "qwen2moe" not in sample.file]

DESIGN_FLAGGED = "design/flagged.json"
DESIGN_FALLBACK = "design/fallback.json"


def entry(name: Any = "base_model.model.a", **rationale: Any) -> dict[str, Any]:
    """Return one entry of a layer list."""
    return {"layer_name": name, "flagging_rationale": rationale}


def document(
    *, flagged: Any = (), candidates: Any = (), analysis: dict[str, Any] | None = None, **top: Any
) -> dict[str, Any]:
    """Return a hand-made audit; `analysis` and `top` add keys to the analysis and to the top level."""
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
    """Return `value` as Gradience writes it: indented, with NaN tokens, and a newline at the end."""
    return json.dumps(value, indent=2).encode() + b"\n"


def tolerantly(data: bytes) -> bytes:
    """Return the audit with a value that the fast reader refuses (half a surrogate pair)."""
    head, brace, tail = data.partition(b"{")
    return head + brace + b'"irrelevant": [NaN, "\\ud800"]' + (b"" if tail.strip() == b"}" else b",") + tail


@cache
def validator(name: str) -> Draft202012Validator:
    """Return the packaged schema `name` (`config`, `error-report`, `trail-record`)."""
    text = resources.files("benchd").joinpath("schemas", f"{name}.schema.json").read_text(encoding="utf-8")
    schema = json.loads(text)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def checked(data: bytes, schema: str = "config") -> dict[str, Any]:
    """Return the content of a sidecar after checking its seal and its schema."""
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
    """Return the checked config for an audit, given as bytes or as a document."""
    audit = read_audit(data if isinstance(data, bytes) else encoded(data), name=name)
    return checked(bench_config(audit, select(audit, selection), bench))


def refused(data: bytes) -> AuditError:
    """Return the error that reading `data` raises."""
    try:
        read_audit(data)
    except AuditError as error:
        return error
    raise AssertionError("not refused")


def stripped(name: str) -> str:
    """Return `name` as PEFT sees it."""
    return name.removeprefix(PEFT_PREFIX)
