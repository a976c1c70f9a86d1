"""Implement the design a second time, as simply as possible, to compare benchd with it. Imports nothing of benchd.

It accepts any bytes: they contain an audit or not, and any audit has a choice, however malformed its parts are. It is
slow, and gives no reasons.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

WRAPPERS = {
    "_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module", "_forward_module",
}  # fmt: skip
HELD = r"(?s)(?:(?:module|_module|model|pretrained_model)\.)*base_model\.model\.(.+)"
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
    """The choice of the ladder."""

    strategy: str
    layers: list[Chosen]


# --- bytes -> the audit's object ------------------------------------------------------------------------------


def read(data: bytes) -> dict[str, Any] | None:
    """Return the audit in `data`, or None. Raises RecursionError."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            data = data.decode("utf-16").encode()
        except UnicodeDecodeError:
            return None
    data = data.removeprefix(b"\xef\xbb\xbf")
    objects = [value for start in starts(data) if isinstance(value := parse(data[start:]), dict) and is_sound(value)]
    return next((value for value in objects if is_audit(value)), None)


def starts(data: bytes) -> list[int]:
    """Return where the JSON may begin: first the first line that is exactly `{` or begins a compact object."""
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
    """Return the JSON value at the start of `data`, whatever follows it. None if there is none.

    Accepts bytes that are not UTF-8: they are in unused parts, or make a name invalid.
    """
    text = data.decode("utf-8", "surrogateescape").lstrip(" \t\r\n")
    # In place of a number, NaN and Infinity mean the same as null.
    decoder = json.JSONDecoder(parse_constant=lambda _: None, parse_int=integer)
    try:
        return decoder.raw_decode(text)[0]
    except json.JSONDecodeError:
        return None


def integer(digits: str) -> float:
    """Return an integer, or infinity where Python refuses to convert it. benchd ignores numbers of this size."""
    return int(digits) if len(digits) < 4300 else math.inf


def is_sound(value: dict[str, Any]) -> bool:
    """Return whether the analysis and its lists have the right types, if they exist."""
    analysis = value.get("policy_disagreement_analysis")
    if analysis is None:
        return True
    return isinstance(analysis, dict) and all(isinstance(analysis.get(key), list | None) for key in LISTS)


def is_audit(value: dict[str, Any]) -> bool:
    """Return whether the object has keys that only audits have."""
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
    """Return the choice of the ladder."""
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
    unreachable, names = out_of_reach(audit), names_in(audit)

    def described(layer: tuple[str, dict[str, Any]]) -> Chosen:
        name, rationale = layer
        score, rank, source, alpha = score_of(layer), None, None, None
        if strategy == "flagged" or rationale.get("flagged_as_high_impact") is True:
            priority = "HIGH"
        else:
            priority = "MEDIUM" if score >= medium_priority else "LOW" if score >= low_priority else "SKIP"
        if priority in {"HIGH", "MEDIUM"}:
            own, scaling = own_of(audit, name, names)
            reached = module_of(name) not in unreachable
            source, found = next(evidence(audit, *layer, own), (None, None)) if reached else (None, None)
            spread = a_rank(rationale.get("spread")) or 0
            rank = min(max(found, spread), own or 65536) or None if found is not None else None
            alpha = a_number(scaling * rank) if rank and scaling and scaling > 0 else None
        return Chosen(name, module_of(name), priority, rank, source, alpha)

    return Choice(strategy, [described(layer) for layer in layers])


def names_in(audit: dict[str, Any]) -> list[str]:
    """Return the names of the rows with ranks and scalings. A repeated name has the place of its last row."""
    told = [row.get("module") for row in gains(audit)], [row.get("name") for row in layer_rows(audit)]
    return [same for texts in told for same in [*dict.fromkeys(map(a_name, reversed(texts)))][::-1] if same]


def own_of(audit: dict[str, Any], name: str, names: list[str]) -> tuple[int | None, float | None]:
    """Return the rank and scaling of a module. If it has several of the `names`, use those with the smallest rank."""
    found = []
    for same in [same for same in names if module_of(same) == module_of(name)] or [name]:
        gain, row = first(gains(audit), "module", same), first(layer_rows(audit), "name", same)
        scaling = a_number(gain.get("scaling"))
        scaling = a_number(row.get("adapter_scale")) if scaling is None else scaling
        found.append((a_rank(gain.get("r")) or a_rank(row.get("r")) or None, scaling))
    return min(found, key=lambda rank_and_scaling: rank_and_scaling[0] or 65536)


def layers_of(entries: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return (name, rationale) of each usable entry, and of two entries for one module only the first."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for entry in objects_in(entries):
        if name := a_name(entry.get("layer_name")):
            found.setdefault(module_of(name), (name, an_object(entry.get("flagging_rationale"))))
    return list(found.values())


@cache
def module_of(name: str) -> str:
    """Return the name as PEFT sees it: without wrapper parts, and without attributes that hold a whole PEFT model."""
    parts = [part for part in name.split(".") if part not in WRAPPERS]
    text = ".".join(parts)
    while match := re.match(HELD, text):
        text = match[1]
    if text == ".".join(parts):
        text = re.sub(r"^(module\.)+(?=.)", "", text) if text.strip(".") != "module" else text
    return text or name


def out_of_reach(audit: dict[str, Any]) -> set[str]:
    """Return the modules below another adapter layer, and those directly above them."""
    pd = an_object(audit.get("policy_disagreement_analysis"))
    names = {name for key in LISTS for name, _ in layers_of(pd.get(key))}
    told = [*names, *(row.get("module") for row in gains(audit)), *(row.get("name") for row in layer_rows(audit))]
    modules = {module_of(name) for text in told if (name := a_name(text))}
    below = {name for name in modules if "base_layer" in name.split(".")[1:]}
    fused = {name for name in modules if name.split(".")[-1] == "experts"}
    return below | fused | {name.partition(".base_layer")[0] for name in below} & modules


def score_of(layer: tuple[str, dict[str, Any]]) -> float:
    """Return a layer's priority score, or a value below every score if it is not a finite number."""
    score = a_number(layer[1].get("priority_score"))
    return -math.inf if score is None else score


def disagrees(rationale: dict[str, Any]) -> bool:
    """Return whether the policies disagree on a layer, by the first sign in its rationale."""
    if isinstance(meets := rationale.get("meets_spread_threshold"), bool):
        return meets
    if isinstance(failed := rationale.get("failed_reasons"), list):
        return "insufficient_spread" not in failed
    spread, threshold = a_number(rationale.get("spread")), a_number(rationale.get("spread_threshold"))
    return spread is not None and spread > 0 and (threshold is None or spread >= threshold)


def evidence(audit: dict[str, Any], name: str, rationale: dict[str, Any], own: int | None) -> Iterator[tuple[str, int]]:
    """Yield the evidence for a layer's rank, the best first."""
    ks = rationale.get("k_values")
    if found := ranks(ks if isinstance(ks, list) else []):
        yield "k_values", max(found)
    row = ranks_of_policies(first(layer_rows(audit), "name", name).get("rank_suggestions"))
    spread = a_number(rationale.get("spread"))
    if row and (spread is None or max(row) - min(row) >= spread):
        yield "layer_rows", max(row)
    policy_rows = objects_in(an_object(audit.get("policies")).get("per_layer"))
    policies = ranks_of_policies(first(policy_rows, "layer_name", name).get("suggestions"))
    if (found := derived(audit, rationale, policies or row, own)) is not None:
        yield "rationale", found
    for key in ("rank_suggestions", "per_layer_suggestions"):
        suggestions = an_object(audit.get(key))
        about = {row["name"]: row for row in objects_in(suggestions.get("layers")) if isinstance(row.get("name"), str)}
        pattern = an_object(suggestions.get("rank_pattern"))
        values = [about.get(name, {}).get("suggested_r"), pattern.get(name), suggestions.get("default_r")]
        yield from (("suggestions", rank) for rank in ranks(values))
    if row:
        yield "layer_rows", max(row)
    if policies:
        yield "policies", max(policies)


def derived(audit: dict[str, Any], rationale: dict[str, Any], known: list[int], own: int | None) -> int | None:
    """Return the largest rank of any policy, or a bound for it, from the threshold of a layer."""
    config = an_object(an_object(audit.get("policy_disagreement_analysis")).get("disagreement_config"))
    base, factor = a_number(config.get("spread_base_threshold")), a_number(config.get("spread_dynamic_factor"))
    base, factor = 3.0 if base is None else base, 0.5 if factor is None else factor
    spread, mult, score, threshold = (
        a_number(rationale.get(key)) for key in ("spread", "uniform_mult", "priority_score", "spread_threshold")
    )
    if not threshold:
        told = spread and mult and score and min(spread, mult, score) > 0
        threshold = a_number(spread * mult / score) if told else None
    if threshold is None or factor <= 0 or base < 0 or threshold < base * 0.99:
        return None
    if (k := a_rank(round(min(threshold / factor, 131072.0)))) is None:
        return None
    if threshold > base * (1 + 1e-9) and k * factor > base:
        return k
    if (bound := a_rank(int(min(base / factor, 65536.0) + 1e-9))) in {None, 0}:
        return None
    lowest = a_rank(spread) or 0
    return max([min([bound, own or 65536, *(k + lowest for k in known)]), lowest, *known])


def first(rows: list[dict[str, Any]], key: str, name: str) -> dict[str, Any]:
    """Return the first row about a module, or an empty row."""
    return next((row for row in rows if row.get(key) == name), {})


def gains(audit: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that have each module's own rank and scaling."""
    return objects_in(audit.get("per_module_gain")) + objects_in(an_object(audit.get("per_module")).get("gain"))


def layer_rows(audit: dict[str, Any]) -> list[dict[str, Any]]:
    """Return Gradience's and Bench's rows of layers."""
    return objects_in(an_object(audit.get("layer_data")).get("layer_rows")) + objects_in(audit.get("layers"))


# --- values ---------------------------------------------------------------------------------------------------


def an_object(value: Any) -> dict[str, Any]:
    """Return `value` if it is an object, else an empty object."""
    return value if isinstance(value, dict) else {}


def objects_in(value: Any) -> list[dict[str, Any]]:
    """Return the entries of a list, with an empty object for each entry that is not an object."""
    return [an_object(entry) for entry in value] if isinstance(value, list) else []


def a_name(value: Any) -> str | None:
    """Return `value` if it can name a module, else None."""
    return value if isinstance(value, str) and 0 < len(value) <= 254 and value.isprintable() else None


def a_number(value: Any) -> float | None:
    """Return `value` if it is a finite number and not a bool, else None."""
    try:
        return float(value) if type(value) in {int, float} and math.isfinite(value) else None
    except OverflowError:
        return None


def a_rank(value: Any) -> int | None:
    """Return `value` as a rank, a whole number that an adapter can have, else None."""
    number = a_number(value)
    return int(number) if number is not None and number.is_integer() and 0 <= number <= 65536 else None


def ranks(values: list[Any]) -> list[int]:
    """Return the values that are ranks."""
    return [rank for value in values if (rank := a_rank(value)) is not None]


def ranks_of_policies(policies: Any) -> list[int]:
    """Return the `k` of each policy."""
    return ranks([an_object(policy).get("k") for policy in an_object(policies).values()])
