"""Fuzz: any bytes become a config or an `AuditError`, and never cause a crash, a hang, or a wrong choice.

Mutated pieces of the real audits go through `read_audit`, `select` and `bench_config`. Each config must parse, be
sealed, give every rank to one module, and match the choice of a plain implementation of the design (`reference.py`, on
`json`). Some configs are also made twice, read as YAML and validated against the schema. benchd must refuse exactly the
bytes in which `json` finds no audit.

The short form mutates at random for some seconds. The long form is guided by coverage and needs `atheris` (`pip install
atheris`): 10 million executions (`BENCHD_CAMPAIGN_RUNS`), one process a core (`guided.py`). It writes its findings,
minimized, to `findings.jsonl` in its folder.
"""

from __future__ import annotations

import base64
import copy
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

import reference
from benchd import AuditError, BenchSettings, NotAnAudit, SelectionSettings, bench_config, read_audit, select
from benchd.bench.config import error_report
from benchd.bench.seal import unbroken
from corpus import INDEX, checked

MAX_LEN: Final = 6144
RUNS: Final = 10_000_000
SHORT_SECONDS: Final = 8.0

#: Maximum seconds for one input, even on a busy machine.
HANG_SECONDS: Final = 5.0

SETTINGS: Final = (
    (SelectionSettings(), BenchSettings()),
    (SelectionSettings(top_n=7, medium_priority=0.5, low_priority=0.1), BenchSettings(uniform_rank="audit_median")),
    (SelectionSettings(require_disagreement=True, on_flat="uniform_only"), BenchSettings(uniform_rank="audit_p90")),
    (SelectionSettings(top_n=1, medium_priority=0.0, low_priority=0.0), BenchSettings(uniform_rank=4)),
)


#: Scores at which the priority changes.
THRESHOLDS: Final = sorted({value for chosen, _ in SETTINGS for value in (chosen.medium_priority, chosen.low_priority)})


class Finding(Exception):
    """A broken promise. `kind` names it without the details of the input."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind


# --- one input ------------------------------------------------------------------------------------------------


def check(data: bytes) -> str:
    """Check `data` in all steps and return the outcome. Raises `Finding`."""
    sample = zlib.crc32(data)
    selection, bench = SETTINGS[sample % len(SETTINGS)]
    started = time.perf_counter()
    try:
        outcome = _config(data, selection, bench, sample >> 2)
    except (NotAnAudit, AuditError) as error:
        if sample >> 2 & 63 == 0:
            _sealed(error_report("audit.json", error, sha256="0" * 64, size=len(data)))
        outcome = error.code
    except Finding:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{os.path.basename(frame.filename)}:{frame.name}"
        raise Finding(f"crash: {type(error).__name__} in {place}", str(error)) from error
    if time.perf_counter() - started > HANG_SECONDS:
        raise Finding("hang", f"{time.perf_counter() - started:.1f} s for {len(data)} bytes")
    if isinstance(outcome, str):
        # The maximum depth depends on the parser, and bytes that are not UTF-8 may be read or refused.
        if outcome != "too_deep" and _is_utf(data) and _reference(data, selection) is not None:
            raise Finding(f"refused as {outcome}, but json finds an audit")
        return outcome
    wanted = _reference(data, selection)
    if wanted is None:
        raise Finding(f"answered, but json finds no audit ({_complaint(data)})", f"{outcome}")
    if outcome != wanted:
        part = "strategy" if outcome.strategy != wanted.strategy else "layers"
        raise Finding(f"another choice of {part}", f"{outcome}, by the reference {wanted}")
    return "config"


def _is_utf(data: bytes) -> bool:
    try:
        data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _complaint(data: bytes) -> str:
    """Return the error of `json` for these bytes."""
    try:
        json.loads(data)
    except json.JSONDecodeError as error:
        return error.msg
    except (ValueError, RecursionError) as error:
        return type(error).__name__
    return "nothing"


def _reference(data: bytes, settings: SelectionSettings) -> reference.Choice | None:
    try:
        audit = reference.read(data)
    except RecursionError:
        return None
    return None if audit is None else reference.choose(audit, **_asdict(settings))


@cache
def _fields() -> tuple[str, ...]:
    return SelectionSettings.__struct_fields__


def _asdict(settings: SelectionSettings) -> dict[str, Any]:
    return {field: getattr(settings, field) for field in _fields()}


_EXPONENT = re.compile(rb": -?[0-9.]+e")


def _config(data: bytes, selection: SelectionSettings, bench: BenchSettings, sample: int) -> reference.Choice:
    """Make the config, and check everything that does not depend on the audit."""
    audit = read_audit(data)
    chosen = select(audit, selection)
    config = bench_config(audit, chosen, bench)
    value = _sealed(config)
    if sample & 15 == 0:
        again = read_audit(data)
        if bench_config(again, select(again, selection), bench) != config:
            raise Finding("not deterministic")
    odd = not config.isascii() or _EXPONENT.search(config)  # to the one reader or the other
    if sample & (7 if odd else 511) == 0:
        if yaml.safe_load(config.decode()) != value:
            raise Finding("YAML reads another object")
        checked(config)
    _check_patterns(value)
    alphas = {layer.module: layer.alpha for layer in chosen.layers}
    layers = [
        reference.Chosen(
            layer["layer_name"], layer["module"], layer["priority"], layer["rank"], layer["rank_source"],
            alphas[layer["module"]],
        )
        for layer in value["selection"]["layers"]
    ]  # fmt: skip
    return reference.Choice(value["selection"]["strategy"], layers)


def _sealed(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content, parse_constant=_no_constant)
    except ValueError as error:
        raise Finding("a sidecar is not JSON", str(error)) from error
    if not unbroken(content):
        raise Finding("a sidecar's seal is broken")
    assert isinstance(value, dict)
    return value


def _no_constant(token: str) -> float:
    raise ValueError(token)


def _check_patterns(value: dict[str, Any]) -> None:
    """Check that every key of `rank_pattern` matches, as PEFT matches it, the module it was made for."""
    ranked = [layer for layer in value["selection"]["layers"] if layer["rank"]]
    strategies = value["compression_strategies"]
    pattern = strategies[1]["rank_pattern"] if len(strategies) > 1 else {}
    if len(pattern) != len(ranked):
        raise Finding("not exactly one pattern for each layer with a rank")
    for (key, rank), layer in zip(pattern.items(), ranked, strict=True):
        try:
            matches = re.match(rf"(.*\.)?({key})$", layer["module"])
        except re.error as error:
            raise Finding("an invalid pattern", f"{key!r}: {error}") from error
        if not matches or rank != layer["rank"] or not 1 <= rank <= 65536:
            raise Finding("a pattern misses its module", f"{key!r}: {rank} for {layer}")


# --- inputs ---------------------------------------------------------------------------------------------------

#: Words that the readers look for: the dictionary of the mutators.
TOKENS: Final = (
    *b"""
    policy_disagreement_analysis policy_disagreement_analysis_error analysis_performed reason distribution total_layers
    max_uniform_mult is_flat flatness_witness threshold disagreement_config uniform_mult_gate min_uniform_mult_threshold
    disagreement_focus_set message computed_with gradience_version flagged_layers all_layers_with_disagreement
    layer_name flagging_rationale spread spread_threshold meets_spread_threshold importance_share uniform_mult
    uniform_mult_threshold priority_score flagged_as_high_impact k_values failed_reasons insufficient_spread
    per_module_gain per_module gain module r scaling layer_data layer_rows layers name adapter_scale rank_suggestions
    suggested_r default_r rank_pattern per_layer_suggestions policies per_layer suggestions k issues
    suggested_r_global_median suggested_r_global_90 total_lora_params stable_rank_mean rank_policy_schema_version
    probe_rank n_layers error unexpected_audit_result_type base_model.model. energy_90 NaN Infinity -Infinity null true
    false 1e999 -0.0 1e-400 65536 65537 9007199254740993 18446744073709551616 \\ud800 \\u0000 \\u2028 [] {} [[ }} ,
    """.split(),
    *(
        b"\n{\n",
        b"\n}\n",
        b"\r\n",
        b'{"',
        b"\0",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"Error: ",
        b"Warning: Unknown policy 'x'.",
    ),
    *(b"    computing SVD and metrics for layer: a\n", b"Traceback (most recent call last):"),
)

KEYS: Final = frozenset(token.decode("utf-8", "replace") for token in TOKENS)

ODD: Final = (
    None, True, False, 0, 1, 2, 8, 8.0, -1, 0.5, 2.0, 7.25, 1e300, 1e16, 65536, 65537, 2**63, 2**64, 10**400, 5e-324,
    float("nan"), float("inf"), float("-inf"), "", "a", "base_model.model.", "base_model.model.a", "(.*)", "x.q", "8",
    "\ud800", "\0", "\u2028", "ü\x85", "\ufeff", "a" * 255, "a" * 256, [], {}, [[]], [{}], {"k": 4},
    "insufficient_spread",
)  # fmt: skip


@cache
def seeds() -> list[bytes]:
    """Return short pieces of the real audits: shortened whole ones, heads and tails."""
    found = []
    for number, sample in enumerate(INDEX):
        content = sample.content
        if not content:
            continue
        lines = content[: content.find(b"\n{\n") + 1] if not content.startswith(b"{") else b""
        value = json.loads(content[len(lines) :])
        for most in (1, 2):
            shortened = _shortened(value, most)
            found.append(
                lines[:400].rpartition(b"\n")[0] + b"\n" * bool(lines) + json.dumps(shortened, indent=1).encode()
            )
            analysis = {
                key: kept for key, kept in shortened.items() if "disagreement" in key or key == "per_module_gain"
            }
            found.append(json.dumps(analysis, separators=(",", ":")).encode())
        if number % 5 == 0:
            found += [content[:1500], content[-700:]]
    found += [json.dumps(tiny, separators=(",", ":")).encode() for tiny in _tiny()]
    found += [b"{}", b"[]", b"", b"Error: Audit failed: x\n", b"\xef\xbb\xbf{}", '{"n_layers": 0}'.encode("utf-16")]
    return sorted({piece for piece in found if len(piece) <= MAX_LEN}, key=len)


def _tiny() -> Iterator[dict[str, Any]]:
    """Return audits in which nearly every value affects the choice."""
    names = ["base_model.model.a", "base_model.model.b", "c"]
    gains = [{"module": name, "r": rank, "scaling": 2.0} for name, rank in zip(names, (4, 16, 8), strict=True)]
    rows = [{"name": name, "r": 8, "adapter_scale": 0.5, "rank_suggestions": {"knee": {"k": 9}}} for name in names]
    suggested = {"default_r": 3, "rank_pattern": {"c": 7}, "layers": [{"name": names[1], "suggested_r": 12}]}
    policies = {"per_layer": [{"layer_name": name, "suggestions": {"knee": {"k": 5}}} for name in names]}
    for evidence in (
        {"per_module_gain": gains},
        {"layer_data": {"layer_rows": rows}},
        {"per_module_gain": gains[1:], "rank_suggestions": suggested},
        {"layers": rows[:1], "per_layer_suggestions": suggested, "probe_rank": 8},
        {"policies": policies, "per_module": {"gain": gains}, "suggested_r_global_median": 2},
    ):
        for flagged, scores in ((1, (3.0, 2.0, 1.0)), (0, (2.0, 2.5, 0.5)), (0, (0, -1, None))):
            layers = [
                {"layer_name": name, "flagging_rationale": {"priority_score": score, "k_values": [6, 2][:flagged]}}
                for name, score in zip(names, scores, strict=True)
            ]
            layers[0]["flagging_rationale"] |= {"spread": 4, "spread_threshold": 3, "failed_reasons": []}
            analysis = {"flagged_layers": layers[:flagged], "all_layers_with_disagreement": layers}
            yield {"policy_disagreement_analysis": analysis, **evidence}


def _shortened(value: Any, most: int) -> Any:
    if isinstance(value, dict):
        few = len(value) > 12 and not any(key.encode() in TOKENS for key in value)
        return {key: _shortened(part, most) for key, part in list(value.items())[: most if few else None]}
    return [_shortened(part, most) for part in value[:most]] if isinstance(value, list) else value


class Mutator:
    """Makes one input from another: by bytes, or by the structure of the JSON, so that it stays JSON."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._values = [value for seed in seeds() if isinstance(value := reference.parse(seed), dict)]

    def bytes_of(self, data: bytes) -> bytes:
        """Return `data` with a few bytes changed, moved, or replaced by tokens."""
        chance, made = self._chance, bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 4))):
            place = chance.randrange(len(made) + 1)
            length = min(chance.choice((1, 1, 4, 32, 256)), len(made) - place)
            part: bytes = bytes(made[place : place + length])
            kind = chance.randrange(6)
            if kind == 0:
                del made[place : place + length]
            elif kind == 1:
                made[place:place] = part * chance.choice((1, 2, 50))
            elif kind == 2:
                made[place : place + chance.choice((0, length))] = chance.choice(TOKENS)
            elif kind == 3:
                other = chance.choice(seeds())
                start = chance.randrange(len(other) + 1)
                made[place : place + length] = other[start : start + 200]
            elif kind == 4 and place < len(made):
                made[place] = chance.randrange(256)
            else:
                made[place : place + length] = str(chance.choice(ODD)).encode("utf-8", "surrogatepass")
        return bytes(made)

    def structure_of(self, data: bytes) -> bytes:
        """Return the object in `data` with a few values and keys changed, in one of the usual formats."""
        chance = self._chance
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict) or not value:
            value = copy.deepcopy(chance.choice(self._values))
        for _ in range(chance.choice((1, 1, 2, 3, 6))):
            self._change(*self._place_in(value))
        # Python encodes indented JSON slowly.
        text = json.dumps(value, indent=1 if chance.random() < 0.05 else None, ensure_ascii=chance.random() < 0.8)
        made = text.encode("utf-8", "replace")
        luck = chance.randrange(30)
        if luck == 0:
            made = (
                chance.choice((b"\n", b"    computing SVD and metrics for layer: a\n", b"Warning: Unknown policy x\n"))
                + made
            )
        elif luck == 1:
            made += chance.choice((b"\n", b"\ndone", b"\n}\n", b"\0\0", b"\xff"))
        elif luck == 2:
            made = text.encode("utf-16", "replace") if chance.random() < 0.5 else b"\xef\xbb\xbf" + made
        return made

    def _place_in(self, value: Any) -> tuple[Any, Any]:
        """Return a random container and key in the object `value`."""
        if not value:
            value["policy_disagreement_analysis"] = {}
        while True:
            keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
            key = self._chance.choice(keys)
            if isinstance(key, str) and key not in KEYS:  # the readers ignore it: rarely useful
                key = self._chance.choice(keys)
            below = value[key]
            if not isinstance(below, dict | list) or not below or self._chance.random() < 0.15:
                return value, key
            value = below

    def _change(self, holder: Any, key: Any) -> None:
        chance = self._chance
        kind = chance.randrange(7)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            other, name = self._place_in(chance.choice(self._values))
            holder[key] = copy.deepcopy(other[name])
        elif kind == 2 and isinstance(holder, dict):
            holder[chance.choice(TOKENS).decode("utf-8", "replace")] = holder.pop(key)
        elif kind == 3 and isinstance(holder, list):
            holder.insert(chance.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
        elif kind == 4 and reference.a_number(holder[key]) is not None:
            near = holder[key] * 2, -holder[key], holder[key] + 0.5, chance.randrange(9), float(chance.randrange(70))
            holder[key] = chance.choice((*near, *THRESHOLDS))
        else:
            holder[key] = copy.deepcopy(chance.choice(ODD))

    def __call__(self, data: bytes) -> bytes:
        """Mutate by one of the two ways, or by both."""
        luck = self._chance.random()
        if luck < 0.65:
            data = self.structure_of(data)
        return (self.bytes_of(data) if luck > 0.55 else data)[:MAX_LEN]


# --- findings -------------------------------------------------------------------------------------------------


class Findings:
    """Findings, one of each kind, in a file that several processes share."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kinds: set[str] = set()

    def add(self, data: bytes, finding: Finding) -> None:
        """Add a minimized finding, unless its kind is known."""
        if finding.kind in self._kinds:
            return
        self._kinds.add(finding.kind)
        least = minimal(data, finding.kind)
        shown = {"kind": finding.kind, "finding": str(finding)[:2000], "bytes": repr(least), "base64": _base64(least)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(shown) + "\n")

    def assert_none(self) -> None:
        """Raise AssertionError with all findings, if there are any."""
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            found = {value["kind"]: value for value in map(json.loads, lines)}
            shown = "\n".join(f"{value['finding'][:300]}\n    {value['bytes'][:2000]}" for value in found.values())
            raise AssertionError(f"{len(found)} kinds of findings, in {self._path}:\n{shown}")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def minimal(data: bytes, kind: str, seconds: float = 5.0) -> bytes:
    """Return a shorter input with a finding of the same kind."""

    def same(candidate: bytes) -> bool:
        try:
            check(candidate)
        except Finding as finding:
            return finding.kind == kind
        return False

    end, length = time.monotonic() + seconds, max(1, len(data) // 2)
    while time.monotonic() < end:
        place, shorter = 0, False
        while place < len(data) and time.monotonic() < end:
            candidate = data[:place] + data[place + length :]
            if same(candidate):
                data, shorter = candidate, True
            else:
                place += length
        if length == 1 and not shorter:
            break
        length = max(1, length // 2)
    return data


def one(data: bytes, findings: Findings, outcomes: Counter[str]) -> None:
    """Check one input and count its outcome."""
    try:
        outcomes[check(data)] += 1
    except Finding as finding:
        findings.add(data, finding)


# --- the two forms --------------------------------------------------------------------------------------------


def run(place: Path, *, long: bool) -> dict[str, int | float | str]:
    """Fuzz; see the module's docstring."""
    seed = int(os.environ.get("BENCHD_CAMPAIGN_SEED") or random.SystemRandom().randrange(2**31))
    findings = Findings(place / "findings.jsonl")
    figures = (_guided if long else _at_random)(place, seed, findings)
    findings.assert_none()
    assert int(figures["configs"]) > 0.02 * int(figures["executions"]), f"too few inputs are audits: {figures}"
    return {"seed": seed, **figures}


def _at_random(place: Path, seed: int, findings: Findings) -> dict[str, int | float | str]:
    chance = random.Random(seed)
    mutate, pool, outcomes = Mutator(chance), list(seeds()), Counter[str]()
    for piece in pool:
        one(piece, findings, outcomes)
    started = time.monotonic()
    while (took := time.monotonic() - started) < SHORT_SECONDS:
        parents = len(pool) if chance.random() < 0.3 else len(pool) // 4  # shorter inputs are faster
        made = mutate(pool[chance.randrange(parents)])
        one(made, findings, outcomes)
        if chance.random() < 0.02:
            pool[chance.randrange(len(pool))] = made  # so that mutants are mutated again
    executions = outcomes.total()
    return {
        "executions": executions,
        "configs": outcomes["config"],
        "outcomes": len(outcomes),
        "per second": round(executions / took),
        "seconds": round(took, 1),
    }


def _guided(place: Path, seed: int, findings: Findings) -> dict[str, int | float | str]:
    """Fuzz with coverage; one process a core, over one corpus."""
    assert importlib.util.find_spec("atheris"), "the long form needs atheris: pip install atheris"
    runs = int(os.environ.get("BENCHD_CAMPAIGN_RUNS") or RUNS)
    corpus, words = place / "corpus", place / "tokens.dict"
    corpus.mkdir()
    for serial, piece in enumerate(seeds()):
        (corpus / f"seed-{serial:03d}").write_bytes(piece)
    words.write_text("".join(f'"{_escaped(token)}"\n' for token in TOKENS), encoding="ascii")
    number = os.cpu_count() or 1
    started = time.monotonic()
    processes = [
        _start_guided(place, index, seed + index, -(-runs // number), corpus, words) for index in range(number)
    ]
    try:
        codes = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.kill()
    took = time.monotonic() - started
    logs = [(place / f"guided-{index}.log").read_text(encoding="utf-8", errors="replace") for index in range(number)]
    findings.assert_none()
    for index, code in enumerate(codes):
        assert code == 0, f"process {index} ended with {code}: {logs[index][-3000:]}"
    executions = sum(_stat(log, "number_of_executed_units") for log in logs)
    assert executions >= runs, f"{executions} executions, not {runs}"
    outcomes = Counter[str]()
    for index in range(number):
        outcomes.update(json.loads((place / f"outcomes-{index}.json").read_text(encoding="ascii")))
    return {
        "executions": executions,
        "configs": outcomes["config"],
        "outcomes": len(outcomes),
        "corpus": len(list(corpus.iterdir())),
        "edges": max(int(found) for log in logs for found in re.findall(r" cov: (\d+) ", log)),
        "slowest, s": max(_stat(log, "slowest_unit_time_sec") for log in logs),
        "peak MiB": max(_stat(log, "peak_rss_mb") for log in logs),
        "per second": round(executions / took),
        "seconds": round(took, 1),
    }


def _start_guided(place: Path, index: int, seed: int, runs: int, corpus: Path, words: Path) -> subprocess.Popen[bytes]:
    arguments = [
        f"-runs={runs}", f"-max_len={MAX_LEN}", f"-dict={words}", f"-seed={seed % 2**31 or 1}", "-len_control=20",
        "-timeout=20", "-rss_limit_mb=1024", "-print_final_stats=1", f"-artifact_prefix={place}/artifact-{index}-",
    ]  # fmt: skip
    paths = os.pathsep.join([str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "BENCHD_FUZZ": f"{place}:{index}:{seed}"}
    with (place / f"guided-{index}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "campaigns.guided", *arguments, str(corpus)], stdout=log, stderr=log, env=environment
        )


def _stat(log: str, name: str) -> int:
    return int(re.findall(rf"stat::{name}:\s+(\d+)", log)[-1])


def _escaped(token: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in token)
