"""What an audit's JSON has of what benchd reads: its shape, and how to take a value out of it.

Two things keep reading cheap, whatever is in a file. What only few audits are asked for, or only the few layers that
are selected, stays text (`Raw`) until it is asked for (`part`). And each value that is taken from the text at once
needs some of it: an entry its name, a number its digits. So nothing takes many times its size.

The shapes are strict. What does not fit them goes through `fit`, which keeps of it what has the right type.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from functools import cache
from types import UnionType
from typing import Any, Final, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from benchd.values import finite

__all__ = [
    "Analysis",
    "Document",
    "Entry",
    "Gain",
    "Policies",
    "Policy",
    "PolicyRow",
    "Rationale",
    "Row",
    "Rows",
    "Suggestions",
    "fit",
    "part",
]


#: Text of the file that nobody has looked into; what `fit` puts in its place is the value itself.
Unread = Raw | UnsetType


class Rationale(Struct, gc=False):
    """`flagging_rationale`: its numbers are finite; what was missing, null or of a wrong type is None."""

    spread: float | None = None
    spread_threshold: float | None = None
    meets_spread_threshold: bool | None = None
    importance_share: float | None = None
    uniform_mult: float | None = None
    uniform_mult_threshold: float | None = None
    priority_score: float | None = None
    flagged_as_high_impact: bool | None = None
    k_values: list[float | None] | None = None
    failed_reasons: list[str | None] | None = None


class Entry(Struct, gc=False):
    """One layer of `flagged_layers` or `all_layers_with_disagreement`; its rationale is a `Rationale`."""

    layer_name: str
    flagging_rationale: Unread = UNSET


class Witness(Struct, gc=False):
    threshold: float | None = None


class Distribution(Struct, gc=False):
    total_layers: float | None = None
    max_uniform_mult: float | None = None
    is_flat: bool | None = None
    flatness_witness: Witness | None = None


class DisagreementConfig(Struct, gc=False):
    min_uniform_mult_threshold: float | None = None
    uniform_mult_gate: float | None = None
    spread_base_threshold: float | None = None
    spread_dynamic_factor: float | None = None


class Focus(Struct, gc=False):
    message: str | None = None
    high_impact_layers: Unread = UNSET


class ComputedWith(Struct, gc=False):
    gradience_version: str | None = None


class Analysis(Struct, gc=False):
    """`policy_disagreement_analysis`."""

    analysis_performed: bool | None = None
    reason: Unread = UNSET
    distribution: Distribution | None = None
    disagreement_config: DisagreementConfig | None = None
    disagreement_focus_set: Focus | None = None
    computed_with: ComputedWith | None = None
    flagged_layers: list[Entry] | None = None
    all_layers_with_disagreement: list[Entry] | None = None


class Gain(Struct, gc=False):
    """One module of `per_module_gain`: its adapter's rank, and alpha / r."""

    module: str
    r: float | None = None
    scaling: float | None = None


class PerModule(Struct, gc=False):
    gain: list[Gain] | None = None


class Policy(Struct, gc=False):
    """What one rank policy suggests."""

    k: float | None = None


class Row(Struct, gc=False):
    """One layer row, of `--layers` or of Bench's own audits."""

    name: str
    r: float | None = None
    params: float | None = None
    adapter_scale: float | None = None
    rank_suggestions: dict[str, Policy] | None = None


class Rows(Struct, gc=False):
    """`layer_data`."""

    layer_rows: list[Row] | None = None


class Suggested(Struct, gc=False):
    name: str
    suggested_r: float | None = None


class Suggestions(Struct, gc=False):
    """`rank_suggestions` of `--suggest-per-layer`, and Bench's `per_layer_suggestions`."""

    default_r: float | None = None
    rank_pattern: dict[str, float | None] | None = None
    layers: list[Suggested] | None = None


class PolicyRow(Struct, gc=False):
    """One module of `policies.per_layer`."""

    layer_name: str
    suggestions: dict[str, Policy] | None = None


class Policies(Struct, gc=False):
    """`policies`."""

    per_layer: list[PolicyRow] | None = None


class Document(Struct, gc=False):
    """A whole audit. What is unread here is a `PerModule`, `Rows`, a list of `Row`, `Suggestions` or `Policies`."""

    policy_disagreement_analysis: Analysis | UnsetType | None = UNSET
    policy_disagreement_analysis_error: Unread = UNSET
    per_module_gain: list[Gain] | UnsetType | None = UNSET
    per_module: Unread = UNSET
    layer_data: Unread = UNSET
    layers: Unread = UNSET
    rank_suggestions: Unread = UNSET
    per_layer_suggestions: Unread = UNSET
    policies: Unread = UNSET
    issues: Unread = UNSET
    suggested_r_global_median: Unread = UNSET
    suggested_r_global_90: Unread = UNSET
    total_lora_params: Unread = UNSET
    stable_rank_mean: Unread = UNSET
    utilization_mean: Unread = UNSET
    rank_policy_schema_version: Unread = UNSET
    probe_rank: Unread = UNSET
    n_layers: Unread = UNSET
    error: Unread = UNSET

    @property
    def is_audit(self) -> bool:
        """Whether the keys are those that audits have and nothing else does (field-notes, section 2)."""
        return (
            self.policy_disagreement_analysis is not UNSET
            or self.policy_disagreement_analysis_error is not UNSET
            or self.per_module_gain is not UNSET
            or (self.total_lora_params is not UNSET and self.stable_rank_mean is not UNSET)
            or (self.probe_rank is not UNSET and self.suggested_r_global_median is not UNSET)
            or (self.total_lora_params is not UNSET and self.rank_policy_schema_version is not UNSET)
        )


_Part = TypeVar("_Part")


def part(value: object, decode: Callable[[Raw], _Part], shape: Any) -> _Part | None:
    """What a document holds unread, as `shape`, which `decode` decodes; None for what has nothing of that shape."""
    if isinstance(value, Raw):
        try:
            return decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            value = _parsed(value)
    fitted: _Part | None = _fitted(shape, value)
    return fitted


def _parsed(text: Raw) -> Any:
    # Who passed over it has seen that it is JSON, but not whether its strings are UTF-8.
    readable = bytes(text).decode(errors="replace")
    # Python refuses to convert an integer of more than 4300 digits; as a float it is infinite.
    for parse_int in (int, float):
        with contextlib.suppress(ValueError, RecursionError):  # no shape is so deep that Python can't follow
            return json.loads(readable, parse_int=parse_int)
    return None


def fit(shape: Any, value: dict[str, Any]) -> Any:
    """`value` as the struct `shape`: what does not fit is None, in a list an empty entry, as a needed text empty."""
    fields = {}
    for key, kind, needed in _fields(shape):
        if key in value:
            fields[key] = _fitted(kind, value[key])
        if needed and fields.get(key) is None:
            fields[key] = ""
    return shape(**fields)


@cache
def _fields(shape: Any) -> list[tuple[str, Any, bool]]:
    return [(field.name, _kind(field.type), field.required) for field in msgspec.structs.fields(shape)]


def _kind(shape: Any) -> Any:
    # In a union the others are None and UNSET.
    return get_args(shape)[0] if get_origin(shape) in {UnionType, Union} else shape


def _fitted(shape: Any, value: Any) -> Any:
    if shape in _SCALARS:
        return _SCALARS[shape](value)
    if get_origin(shape) is list:
        return [_entry(get_args(shape)[0], entry) for entry in value] if isinstance(value, list) else None
    if not isinstance(value, dict):
        return None
    if get_origin(shape) is dict:
        return {key: _entry(get_args(shape)[1], entry) for key, entry in value.items()}
    return fit(shape, value)


def _entry(shape: Any, value: Any) -> Any:
    kind = _kind(shape)
    return _fitted(kind, value) if kind in _SCALARS else fit(kind, value if isinstance(value, dict) else {})


_SCALARS: Final[dict[Any, Callable[[Any], Any]]] = {
    Raw: lambda value: value,
    object: lambda value: value,
    float: finite,
    bool: lambda value: value if isinstance(value, bool) else None,
    str: lambda value: value if isinstance(value, str) else None,
}
