"""What an audit's JSON has of what benchd reads: its shape, and how to take a value out of it.

Every value may be missing, null or of a wrong type: `object` says so. Read numbers through `finite` and `whole`,
text through `words`.
"""

from __future__ import annotations

import json
import math
from functools import cache
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

import msgspec
from msgspec import UNSET, Struct, UnsetType

__all__ = [
    "MAX_RANK",
    "Analysis",
    "Document",
    "Entry",
    "Gain",
    "Policy",
    "PolicyRow",
    "Rationale",
    "Row",
    "finite",
    "fit",
    "utf8",
    "whole",
    "words",
]

#: No adapter has a rank beyond this; a larger number is not evidence for one.
MAX_RANK: Final = 65536


class Rationale(Struct, gc=False):
    """`flagging_rationale` as the file has it: any value may be missing, null or of a wrong type.

    Read numbers through `finite` and `whole`.
    """

    spread: object = None
    spread_threshold: object = None
    meets_spread_threshold: object = None
    importance_share: object = None
    uniform_mult: object = None
    uniform_mult_threshold: object = None
    priority_score: object = None
    flagged_as_high_impact: object = None
    k_values: object = None
    failed_reasons: object = None


class Entry(Struct, gc=False):
    """One layer of `flagged_layers` or `all_layers_with_disagreement`."""

    layer_name: object = None
    flagging_rationale: Rationale | None = None


class Witness(Struct, gc=False):
    threshold: object = None


class Distribution(Struct, gc=False):
    total_layers: object = None
    max_uniform_mult: object = None
    is_flat: object = None
    flatness_witness: Witness | None = None


class DisagreementConfig(Struct, gc=False):
    min_uniform_mult_threshold: object = None
    uniform_mult_gate: object = None


class Focus(Struct, gc=False):
    message: object = None


class ComputedWith(Struct, gc=False):
    gradience_version: object = None


class Analysis(Struct, gc=False):
    """`policy_disagreement_analysis`."""

    analysis_performed: object = None
    reason: object = None
    distribution: Distribution | None = None
    disagreement_config: DisagreementConfig | None = None
    disagreement_focus_set: Focus | None = None
    computed_with: ComputedWith | None = None
    flagged_layers: list[Entry] | None = None
    all_layers_with_disagreement: list[Entry] | None = None


class Gain(Struct, gc=False):
    """One module of `per_module_gain`: its adapter's rank, and alpha / r."""

    module: object = None
    r: object = None
    scaling: object = None


class PerModule(Struct, gc=False):
    gain: list[Gain] | None = None


class Policy(Struct, gc=False):
    """What one rank policy suggests."""

    k: object = None


class Row(Struct, gc=False):
    """One layer row, of `--layers` or of Bench's own audits."""

    name: object = None
    r: object = None
    adapter_scale: object = None
    rank_suggestions: dict[str, Policy] | None = None


class LayerData(Struct, gc=False):
    layer_rows: list[Row] | None = None


class Suggested(Struct, gc=False):
    name: object = None
    suggested_r: object = None


class Suggestions(Struct, gc=False):
    default_r: object = None
    rank_pattern: dict[str, object] | None = None
    layers: list[Suggested] | None = None


class PolicyRow(Struct, gc=False):
    """One module of `policies.per_layer`."""

    layer_name: object = None
    suggestions: dict[str, Policy] | None = None


class Policies(Struct, gc=False):
    per_layer: list[PolicyRow] | None = None


class Document(Struct, gc=False):
    """A whole audit."""

    policy_disagreement_analysis: Analysis | UnsetType | None = UNSET
    policy_disagreement_analysis_error: object = UNSET
    per_module_gain: list[Gain] | UnsetType | None = UNSET
    per_module: PerModule | None = None
    layer_data: LayerData | None = None
    layers: list[Row] | None = None
    rank_suggestions: Suggestions | None = None
    per_layer_suggestions: Suggestions | None = None
    policies: Policies | None = None
    issues: msgspec.Raw = msgspec.Raw()
    suggested_r_global_median: object = UNSET
    suggested_r_global_90: object = None
    total_lora_params: object = UNSET
    stable_rank_mean: object = UNSET
    rank_policy_schema_version: object = UNSET
    probe_rank: object = UNSET
    n_layers: object = None
    error: object = None

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


def finite(value: object) -> float | None:
    """`value` as a finite number, or None for anything else (null, NaN, a string, a bool)."""
    kind = type(value)  # exact types are what parsers make; and a bool is no number here
    if kind is float:
        return value if math.isfinite(value) else None  # type: ignore[arg-type,return-value]
    if kind is not int:
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return None


def whole(value: object) -> int | None:
    """`value` as a rank, an integer from 0 to `MAX_RANK`, or None. `8.0` is 8; `True` is not 1."""
    number = finite(value)
    if number is None or not number.is_integer() or not 0 <= number <= MAX_RANK:
        return None
    return int(number)


def words(value: object, limit: int = 300) -> str:
    """`value` as one short printable line, for quoting in messages."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    text = text[: limit * 4]
    if not text.isprintable():
        text = "".join(character if character.isprintable() else " " for character in text)
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def utf8(text: str) -> str:
    r"""`text` without surrogates: bytes of a file name that are not UTF-8 become `\xff`, others `\udc00`."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def fit(shape: Any, value: Any) -> Any:
    """`value` as the struct `shape`; what does not fit becomes the field's default, in a list an empty entry."""
    return shape(**{key: _fit_value(kind, value[key]) for key, kind in _field_types(shape) if key in value})


@cache
def _field_types(shape: Any) -> list[tuple[str, Any]]:
    # In a union the others are None and UNSET.
    unions = (UnionType, Union)
    types = ((field.name, field.type) for field in msgspec.structs.fields(shape))
    return [(name, get_args(kind)[0] if get_origin(kind) in unions else kind) for name, kind in types]


def _fit_value(shape: Any, value: Any) -> Any:
    if shape in {object, msgspec.Raw}:
        return value
    if get_origin(shape) is list:
        item = get_args(shape)[0]
        entries = value if isinstance(value, list) else ()
        return [fit(item, entry if isinstance(entry, dict) else {}) for entry in entries]
    if not isinstance(value, dict):
        return None
    if get_origin(shape) is dict:
        item = get_args(shape)[1]
        if item is object:
            return value
        return {key: fit(item, entry if isinstance(entry, dict) else {}) for key, entry in value.items()}
    return fit(shape, value)
