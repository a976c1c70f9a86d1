"""One audit, as the selection sees it: every shape that Gradience and Bench write (spec, section 2)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import cached_property
from typing import Final

import msgspec
from msgspec import UNSET, Struct

from benchd.document import (
    Analysis,
    Document,
    Entry,
    Gain,
    Policy,
    PolicyRow,
    Rationale,
    Row,
    finite,
    whole,
    words,
)
from benchd.reading import Costly, read_document
from benchd.rejection import AuditError, NotAnAudit, refusal

__all__ = ["Audit", "AuditError", "Costly", "Layer", "Module", "NotAnAudit", "Rationale", "read_audit"]

#: PEFT wraps the model twice, so an audit's names start with this; `rank_pattern` keys must not
#: (PEFT 0.21.2 warns and ignores such a key, older ones ignore it silently).
PEFT_PREFIX: Final = "base_model.model."

#: Longer names are no module of any model, and as a key they would not be YAML any more (PyYAML gives
#: up on a key beyond 1024 characters; escaping can make four of one, and a pattern adds a few).
MAX_NAME: Final = 254

_MAX_ISSUES: Final = 20
_MAX_ISSUES_BYTES: Final = 2**20


class Layer(Struct, gc=False, frozen=True):
    """One adapted module: its name as the audit has it, as PEFT matches it, and its rationale."""

    name: str
    module: str
    rationale: Rationale


class Module(Struct, gc=False, frozen=True):
    """What the audit tells of a module's own adapter: rank and scaling (alpha / r), where it does."""

    rank: int | None
    scaling: float | None

    def alpha_at(self, rank: int, *, use_rslora: bool = False) -> int | float | None:
        """The alpha that keeps the scaling at another rank: scaling x rank (field-notes, section 3), or None if untold.

        With `use_rslora` PEFT scales this module by alpha / sqrt(rank); Gradience reports alpha / rank all the same.
        """
        scaling = self.scaling
        if use_rslora and scaling is not None:
            scaling = scaling * math.sqrt(self.rank) if self.rank else None
        alpha = finite(scaling * rank) if scaling is not None and scaling > 0 else None
        if alpha is None:
            return None
        return int(alpha) if alpha.is_integer() and alpha < 2**53 else alpha


class Audit:
    """One audit, ready for `benchd.select`. Made by `read_audit`; treat it as immutable.

    `flagged` and `candidates` are `flagged_layers` and `all_layers_with_disagreement` without malformed and
    repeated entries, in the file's order. `no_analysis` says why both are empty where Gradience made no
    analysis, else it is None. `notes` are what a reader should know about the file.
    """

    def __init__(self, document: Document, *, name: str, sha256: str, size: int, notes: list[str]) -> None:
        self._document = document
        self.name = name
        self.sha256 = sha256
        self.size = size
        analysis = document.policy_disagreement_analysis
        self._analysis = analysis if isinstance(analysis, Analysis) else Analysis()
        self.no_analysis = _why_no_analysis(document)
        performed = self.no_analysis is None
        self.flagged = _layers(self._analysis.flagged_layers, "flagged_layers", notes) if performed else ()
        self.candidates = (
            _layers(self._analysis.all_layers_with_disagreement, "all_layers_with_disagreement", notes)
            if performed
            else ()
        )
        self.notes = tuple(notes + _issue_notes(document.issues))

    @property
    def gradience_version(self) -> str | None:
        """The version that computed the analysis, where the audit says so."""
        computed_with = self._analysis.computed_with
        version = computed_with.gradience_version if computed_with else None
        return words(version, 60) if isinstance(version, str) else None

    @cached_property
    def total_layers(self) -> int:
        """How many layers the analysis looked at."""
        named = len({layer.module for layer in self.candidates} | {layer.module for layer in self.flagged})
        distribution = self._analysis.distribution
        told = whole(distribution.total_layers) if distribution else None
        return max(named, told or 0) or whole(self._document.n_layers) or 0

    @property
    def is_flat(self) -> bool:
        """Whether Gradience found the energy distribution flat."""
        distribution = self._analysis.distribution
        return distribution is not None and distribution.is_flat is True

    @property
    def max_uniform_mult(self) -> float | None:
        """The largest share of energy, in multiples of a uniform share."""
        distribution = self._analysis.distribution
        return finite(distribution.max_uniform_mult) if distribution else None

    @property
    def flat_threshold(self) -> float | None:
        """Below this `max_uniform_mult` Gradience calls the distribution flat."""
        distribution, config = self._analysis.distribution, self._analysis.disagreement_config
        witness = distribution.flatness_witness if distribution else None
        for value in (
            witness.threshold if witness else None,
            config.min_uniform_mult_threshold if config else None,
            config.uniform_mult_gate if config else None,
        ):
            threshold = finite(value)
            if threshold is not None:
                return threshold
        return None

    @property
    def focus_message(self) -> str | None:
        """Gradience's own advice, one sentence."""
        focus = self._analysis.disagreement_focus_set
        message = focus.message if focus else None
        return words(message, 1000) if isinstance(message, str) and message.strip() else None

    @property
    def suggested_median(self) -> int | None:
        """`suggested_r_global_median`: Gradience's own uniform rank, or None where there is none above 0."""
        return whole(self._document.suggested_r_global_median) or None

    @property
    def suggested_p90(self) -> int | None:
        """`suggested_r_global_90`, likewise."""
        return whole(self._document.suggested_r_global_90) or None

    def module(self, name: str) -> Module | None:
        """A module's own rank and scaling, from `per_module_gain`, else from its layer row; None without."""
        gain, row = self._gains.get(name), self._rows.get(name)
        if gain is None and row is None:
            return None
        rank = (whole(gain.r) if gain else None) or (whole(row.r) if row else None) or None
        scaling = finite(gain.scaling) if gain else None
        if scaling is None and row is not None:
            scaling = finite(row.adapter_scale)
        return Module(rank, scaling)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Every adapted module that the audit names, as PEFT does, in the audit's order."""
        listed = (layer.module for layer in (*self.flagged, *self.candidates))
        return tuple(dict.fromkeys((*(_stripped(name) for name in self._told), *listed)))

    @cached_property
    def modules(self) -> dict[str, Module]:
        """What the audit tells of the adapter of each module, by the name that PEFT has for it."""
        return {_stripped(name): module for name in self._told if (module := self.module(name))}

    @property
    def largest(self) -> Module | None:
        """The first module of the largest rank, or None where no module's rank is told."""
        return max(self.modules.values(), key=lambda module: module.rank or 0, default=None)

    @property
    def _told(self) -> Iterator[str]:
        # They are kept with the last first.
        return (name for told in (self._gains, self._rows) for name in reversed(told) if _usable(name))

    def row_rank(self, name: str) -> int | None:
        """The largest `k` over the policies of the module's layer row, or None."""
        row = self._rows.get(name)
        return _largest(row.rank_suggestions) if row else None

    def policy_rank(self, name: str) -> int | None:
        """The largest `k` of the module in `policies.per_layer`, or None."""
        row = self._policy_rows.get(name)
        return _largest(row.suggestions) if row else None

    # Of a module that is named twice the first entry counts. By name: a selection asks for a few of thousands.

    @cached_property
    def _gains(self) -> dict[str, Gain]:
        document = self._document
        gains = document.per_module_gain if isinstance(document.per_module_gain, list) else []
        if document.per_module is not None:
            gains = gains + (document.per_module.gain or [])
        return {gain.module: gain for gain in reversed(gains) if isinstance(gain.module, str)}

    @cached_property
    def _rows(self) -> dict[str, Row]:
        layer_data = self._document.layer_data
        rows = ((layer_data.layer_rows or []) if layer_data else []) + (self._document.layers or [])
        return {row.name: row for row in reversed(rows) if isinstance(row.name, str)}

    @cached_property
    def _policy_rows(self) -> dict[str, PolicyRow]:
        policies = self._document.policies
        rows = (policies.per_layer or []) if policies else []
        return {row.layer_name: row for row in reversed(rows) if isinstance(row.layer_name, str)}

    def suggested_rank(self, name: str) -> int | None:
        """What `--suggest-per-layer` or Bench suggests: the layer's own, the pattern's, the default."""
        for layers, pattern, default in self._suggestions:
            for value in (layers.get(name), pattern.get(name), default):
                rank = whole(value)
                if rank is not None:
                    return rank
        return None

    @cached_property
    def _suggestions(self) -> list[tuple[dict[str, object], dict[str, object], object]]:
        found = (self._document.rank_suggestions, self._document.per_layer_suggestions)
        return [
            (
                {row.name: row.suggested_r for row in suggestions.layers or [] if isinstance(row.name, str)},
                suggestions.rank_pattern or {},
                suggestions.default_r,
            )
            for suggestions in found
            if suggestions is not None
        ]


def _largest(policies: dict[str, Policy] | None) -> int | None:
    ks = [k for policy in (policies or {}).values() if (k := whole(policy.k)) is not None]
    return max(ks) if ks else None


def _why_no_analysis(document: Document) -> str | None:
    """Why there is nothing to select from, in Gradience's own words where it has some; None if there is."""
    analysis = document.policy_disagreement_analysis
    if isinstance(analysis, Analysis):
        if analysis.analysis_performed is False:
            why = words(analysis.reason) if analysis.reason is not None else "no reason given"
            return f"Gradience performed no disagreement analysis: {why}"
        return None
    error = document.policy_disagreement_analysis_error
    if error is not UNSET:
        return f"Gradience's disagreement analysis failed: {words(error)}"
    if document.probe_rank is not UNSET:
        return "the audit has no policy_disagreement_analysis; audits that Bench writes itself never have one"
    if whole(document.n_layers) == 0:
        return "the audit has no policy_disagreement_analysis: Gradience could use no adapter layer"
    return "the audit has no policy_disagreement_analysis"


def _layers(entries: list[Entry] | None, where: str, notes: list[str]) -> tuple[Layer, ...]:
    layers: dict[str, Layer] = {}
    malformed = repeated = 0
    for entry in entries or ():
        name = entry.layer_name
        if not isinstance(name, str) or not _usable(name):
            malformed += 1
            continue
        module = _stripped(name)
        if module in layers:
            repeated += 1
            continue
        layers[module] = Layer(name, module, entry.flagging_rationale or Rationale())
    if malformed:
        is_are = "entry is" if malformed == 1 else "entries are"
        notes.append(f"{where}: {malformed} {is_are} malformed (no usable layer_name) and skipped")
    if repeated:
        is_are = "entry repeats a layer" if repeated == 1 else "entries repeat layers"
        notes.append(f"{where}: {repeated} {is_are} already named; the first counts")
    return tuple(layers.values())


def _usable(name: str) -> bool:
    return 0 < len(name) <= MAX_NAME and name.isprintable()


def _stripped(name: str) -> str:
    return name.removeprefix(PEFT_PREFIX) or name


def _issue_notes(issues: object) -> list[str]:
    if isinstance(issues, msgspec.Raw):
        # As text it takes no more than its size; taken apart it could take a hundred times as much.
        if len(issues) > _MAX_ISSUES_BYTES:
            return ["Gradience: more issues than can be shown here"]
        # The decoder has not looked into it: it need not be UTF-8.
        issues = msgspec.json.decode(bytes(issues).decode(errors="replace")) if issues else None
    listed = issues if isinstance(issues, list) else []
    notes = [f"Gradience: {words(issue)}" for issue in listed[:_MAX_ISSUES] if issue]
    if len(listed) > _MAX_ISSUES:
        more = len(listed) - _MAX_ISSUES
        notes.append(f"Gradience: {more} more {'issue' if more == 1 else 'issues'}")
    return notes


def read_audit(data: bytes, *, name: str = "audit.json", sha256: str | None = None, frugal: bool = False) -> Audit:
    """Read one audit file.

    `name` is the audit's file name, `sha256` the hex digest of `data` where the caller has it already. Raises
    `NotAnAudit` for a JSON object that is something else, `AuditError` for what can't be used (spec, section 2); and
    if `frugal`, `Costly` for what may take much more memory or time than its size explains.
    """
    digest = sha256 or hashlib.sha256(data).hexdigest()
    document, notes = read_document(data, frugal=frugal)
    if document.error == "unexpected_audit_result_type":
        raise refusal("audit_failed", quote="unexpected_audit_result_type")
    if not document.is_audit:
        raise NotAnAudit
    try:
        return Audit(document, name=name, sha256=digest, size=len(data), notes=notes)
    except RecursionError:
        # Quoting a value takes a little more stack than reading it took.
        raise refusal("too_deep") from None
