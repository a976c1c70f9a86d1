"""Declare the fields of an audit that benchd reads, as types. Pure.

Two rules limit the memory for reading, whatever a file contains. First, parts that are rarely needed, or needed only
for selected layers, stay undecoded text (`Raw`); see `benchd.audit.unread`. Second, each value that is decoded at once
takes some bytes of the text: an entry its name, a number its digits. So no file needs many times its size.

The types are strict. Values of other types go through `benchd.audit.fitting`.
"""

from __future__ import annotations

from msgspec import UNSET, Raw, Struct, UnsetType

__all__ = [
    "Analysis",
    "ComputedWith",
    "DisagreementConfig",
    "Distribution",
    "Document",
    "Entry",
    "Focus",
    "Gain",
    "PerModule",
    "Policies",
    "Policy",
    "PolicyRow",
    "Rationale",
    "Row",
    "Rows",
    "Suggested",
    "Suggestions",
    "Witness",
]

#: Text of the file that is not decoded yet. `fit` stores the value itself instead.
Unread = Raw | UnsetType


class Rationale(Struct, gc=False):
    """`flagging_rationale`. Its numbers are finite. A field that is missing, null or of the wrong type is None."""

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
    """`flatness_witness`."""

    threshold: float | None = None


class Distribution(Struct, gc=False):
    """`distribution`: how the energy is spread over the layers."""

    total_layers: float | None = None
    max_uniform_mult: float | None = None
    is_flat: bool | None = None
    flatness_witness: Witness | None = None


class DisagreementConfig(Struct, gc=False):
    """`disagreement_config`: Gradience's thresholds."""

    min_uniform_mult_threshold: float | None = None
    uniform_mult_gate: float | None = None
    spread_base_threshold: float | None = None
    spread_dynamic_factor: float | None = None


class Focus(Struct, gc=False):
    """`disagreement_focus_set`: Gradience's own advice."""

    message: str | None = None
    high_impact_layers: Unread = UNSET


class ComputedWith(Struct, gc=False):
    """`computed_with`."""

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
    """`per_module`."""

    gain: list[Gain] | None = None


class Policy(Struct, gc=False):
    """The rank that one policy suggests."""

    k: float | None = None


class Row(Struct, gc=False):
    """One layer row, from `--layers` or from Bench's own audits."""

    name: str
    r: float | None = None
    params: float | None = None
    adapter_scale: float | None = None
    rank_suggestions: dict[str, Policy] | None = None


class Rows(Struct, gc=False):
    """`layer_data`."""

    layer_rows: list[Row] | None = None


class Suggested(Struct, gc=False):
    """One layer of `Suggestions`."""

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
    """A whole audit. An undecoded field is a `PerModule`, `Rows`, a list of `Row`, `Suggestions` or `Policies`."""

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
        """Return whether the document has keys that only audits have (field-notes, section 2)."""
        return (
            self.policy_disagreement_analysis is not UNSET
            or self.policy_disagreement_analysis_error is not UNSET
            or self.per_module_gain is not UNSET
            or (self.total_lora_params is not UNSET and self.stable_rank_mean is not UNSET)
            or (self.probe_rank is not UNSET and self.suggested_r_global_median is not UNSET)
            or (self.total_lora_params is not UNSET and self.rank_policy_schema_version is not UNSET)
        )
