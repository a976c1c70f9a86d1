"""A plain reading of the design, to compare benchd with: `json`, lists and dicts, and nothing of benchd's.

It is total: any bytes have an audit in them or not, and any audit has its choice, however malformed its parts are. It
is slow, and says nothing of why: for that there is benchd.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

PREFIX = "base_model.model."
LISTS = ("flagged_layers", "all_layers_with_disagreement")


class Chosen(NamedTuple):
    """One chosen layer."""

    name: str
    module: str
    priority: str
    rank: int | None
    source: str | None
    alpha: float | None


class Choice(NamedTuple):
    """What the ladder chooses."""

    strategy: str
    layers: list[Chosen]


# --- bytes -> the audit's object ------------------------------------------------------------------------------


def read(data: bytes) -> dict[str, Any] | None:
    """The audit in `data`; None where there is none, be it refused or something else. Raises RecursionError."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            data = data.decode("utf-16").encode()
        except UnicodeDecodeError:
            return None
    data = data.removeprefix(b"\xef\xbb\xbf")
    objects = [value for start in starts(data) if isinstance(value := parse(data[start:]), dict) and is_sound(value)]
    return next((value for value in objects if is_audit(value)), None)


def starts(data: bytes) -> list[int]:
    """Where the JSON may begin, the likeliest first: the first line that is exactly `{`, or begins a compact object."""
    if re.match(rb"[ \t\r\n]*\{[ \t]*(\r?\n|\})", data):
        return [0]
    exact, opening, place = [], [], 0
    lines = data.split(b"\n")
    for number, line in enumerate(lines):
        if line == b"{" and 0 < number < len(lines) - 1:
            exact.append(place)
        if re.fullmatch(rb"\{[ \t]*\r?", line) or line.startswith(b'{"'):
            opening.append(place)
        place += len(line) + 1
    likeliest = (exact or opening or [0])[0]
    return [likeliest, 0] if likeliest and data.lstrip(b" \t\r\n").startswith(b"{") else [likeliest]


def parse(data: bytes) -> Any:
    """The JSON value that `data` begins with, whatever comes behind it; None where there is none.

    Bytes that are not UTF-8 are read all the same: they stand where nobody looks, or make a name no name.
    """
    text = data.decode("utf-8", "surrogateescape").lstrip(" \t\r\n")
    # Where a number should stand, NaN and Infinity say no more than null does.
    decoder = json.JSONDecoder(parse_constant=lambda _: None, parse_int=integer)
    try:
        return decoder.raw_decode(text)[0]
    except json.JSONDecodeError:
        return None


def integer(digits: str) -> float:
    """Python refuses to convert more than 4300 digits; no number of this size counts anyway."""
    return int(digits) if len(digits) < 4300 else math.inf


def is_sound(value: dict[str, Any]) -> bool:
    """Whether the analysis and its lists, where there are any, are of the right kind."""
    analysis = value.get("policy_disagreement_analysis")
    if analysis is None:
        return True
    return isinstance(analysis, dict) and all(isinstance(analysis.get(key), list | None) for key in LISTS)


def is_audit(value: dict[str, Any]) -> bool:
    """Whether it has the keys that audits have and nothing else does."""
    if value.get("error") == "unexpected_audit_result_type":
        return False
    pairs = [
        ("total_lora_params", "stable_rank_mean"),
        ("probe_rank", "suggested_r_global_median"),
        ("total_lora_params", "rank_policy_schema_version"),
    ]
    single = {"policy_disagreement_analysis", "policy_disagreement_analysis_error", "per_module_gain"}
    return bool(single & value.keys()) or any(one in value and other in value for one, other in pairs)


# --- the audit's object -> the choice -------------------------------------------------------------------------


def choose(
    audit: dict[str, Any],
    *,
    top_n: int = 3,
    medium_priority: float = 2.0,
    low_priority: float = 1.0,
    on_flat: str = "top_n",
    require_disagreement: bool = False,
) -> Choice:
    """Climb down the ladder."""
    pd = audit.get("policy_disagreement_analysis")
    if not isinstance(pd, dict) or pd.get("analysis_performed") is False:
        return Choice("none", [])
    candidates = layers_of(pd.get("all_layers_with_disagreement"))
    if require_disagreement:
        candidates = [layer for layer in candidates if disagrees(layer[1])]
    scored = [layer for layer in candidates if score_of(layer) > 0]
    rungs = [
        ("flagged", layers_of(pd.get("flagged_layers"))),
        ("priority_score", sorted(scored, key=score_of, reverse=True)[:top_n]),
        ("disagreement", candidates[:top_n]),
    ]
    if on_flat == "uniform_only" and an_object(pd.get("distribution")).get("is_flat") is True:
        del rungs[1:]
    strategy, layers = next((rung for rung in rungs if rung[1]), ("none", []))

    def described(layer: tuple[str, dict[str, Any]]) -> Chosen:
        name, rationale = layer
        score, rank, source, alpha = score_of(layer), None, None, None
        if strategy == "flagged" or rationale.get("flagged_as_high_impact") is True:
            priority = "HIGH"
        else:
            priority = "MEDIUM" if score >= medium_priority else "LOW" if score >= low_priority else "SKIP"
        if priority in {"HIGH", "MEDIUM"}:
            source, rank = next(((source, found) for source, found in evidence(audit, *layer)), (None, None))
            gain, row = first(gains(audit), "module", name), first(layer_rows(audit), "name", name)
            own = a_rank(gain.get("r")) or a_rank(row.get("r")) or rank
            rank = min(rank, own) if rank and own else None
            scaling = a_number(gain.get("scaling"))
            scaling = a_number(row.get("adapter_scale")) if scaling is None else scaling
            alpha = a_number(scaling * rank) if rank and scaling and scaling > 0 else None
        return Chosen(name, module_of(name), priority, rank, source, alpha)

    return Choice(strategy, [described(layer) for layer in layers])


def layers_of(entries: Any) -> list[tuple[str, dict[str, Any]]]:
    """(name, rationale) of each usable entry; of two about the same module the first."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for entry in objects_in(entries):
        name = entry.get("layer_name")
        if isinstance(name, str) and 0 < len(name) <= 254 and name.isprintable():
            found.setdefault(module_of(name), (name, an_object(entry.get("flagging_rationale"))))
    return list(found.values())


def module_of(name: str) -> str:
    """The name as PEFT sees it."""
    return name.removeprefix(PREFIX) or name


def score_of(layer: tuple[str, dict[str, Any]]) -> float:
    """A layer's priority score; what is not a finite number ranks below everything."""
    score = a_number(layer[1].get("priority_score"))
    return -math.inf if score is None else score


def disagrees(rationale: dict[str, Any]) -> bool:
    """Whether the policies disagree on a layer, by the first of the signs that its rationale has."""
    if isinstance(meets := rationale.get("meets_spread_threshold"), bool):
        return meets
    if isinstance(failed := rationale.get("failed_reasons"), list):
        return "insufficient_spread" not in failed
    spread, threshold = a_number(rationale.get("spread")), a_number(rationale.get("spread_threshold"))
    return spread is not None and spread > 0 and (threshold is None or spread >= threshold)


def evidence(audit: dict[str, Any], name: str, rationale: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """What the audit tells of a layer's rank, the best first."""
    ks = rationale.get("k_values")
    if found := ranks(ks if isinstance(ks, list) else []):
        yield "k_values", max(found)
    if found := ranks_of_policies(first(layer_rows(audit), "name", name).get("rank_suggestions")):
        yield "layer_rows", max(found)
    for key in ("rank_suggestions", "per_layer_suggestions"):
        suggestions = an_object(audit.get(key))
        about = {row["name"]: row for row in objects_in(suggestions.get("layers")) if isinstance(row.get("name"), str)}
        pattern = an_object(suggestions.get("rank_pattern"))
        values = [about.get(name, {}).get("suggested_r"), pattern.get(name), suggestions.get("default_r")]
        yield from (("suggestions", rank) for rank in ranks(values))
    rows = objects_in(an_object(audit.get("policies")).get("per_layer"))
    if found := ranks_of_policies(first(rows, "layer_name", name).get("suggestions")):
        yield "policies", max(found)


def first(rows: list[dict[str, Any]], key: str, name: str) -> dict[str, Any]:
    """The first row about a module; an empty one if there is none."""
    return next((row for row in rows if row.get(key) == name), {})


def gains(audit: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that tell of each module's own rank and scaling."""
    return objects_in(audit.get("per_module_gain")) + objects_in(an_object(audit.get("per_module")).get("gain"))


def layer_rows(audit: dict[str, Any]) -> list[dict[str, Any]]:
    """Gradience's rows of layers, and Bench's."""
    return objects_in(an_object(audit.get("layer_data")).get("layer_rows")) + objects_in(audit.get("layers"))


# --- values ---------------------------------------------------------------------------------------------------


def an_object(value: Any) -> dict[str, Any]:
    """`value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def objects_in(value: Any) -> list[dict[str, Any]]:
    """The entries of a list; one that is no object is an empty one."""
    return [an_object(entry) for entry in value] if isinstance(value, list) else []


def a_number(value: Any) -> float | None:
    """`value` if it is a finite number (true is none), else None."""
    try:
        return float(value) if type(value) in {int, float} and math.isfinite(value) else None
    except OverflowError:
        return None


def a_rank(value: Any) -> int | None:
    """`value` as a rank, a whole number that an adapter can have, else None."""
    number = a_number(value)
    return int(number) if number is not None and number.is_integer() and 0 <= number <= 65536 else None


def ranks(values: list[Any]) -> list[int]:
    """Those that are ranks."""
    return [rank for value in values if (rank := a_rank(value)) is not None]


def ranks_of_policies(policies: Any) -> list[int]:
    """The `k` of each policy."""
    return ranks([an_object(policy).get("k") for policy in an_object(policies).values()])
