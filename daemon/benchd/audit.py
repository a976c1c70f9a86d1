"""One audit, as the selection sees it: every shape that Gradience and Bench write (spec, section 2)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, TypeVar, overload

import msgspec
from msgspec import UNSET, Raw, Struct

from benchd.document import (
    Analysis,
    Document,
    Entry,
    Gain,
    PerModule,
    Policies,
    Policy,
    PolicyRow,
    Rationale,
    Row,
    Rows,
    Suggestions,
    finite,
    part,
    whole,
    words,
)
from benchd.reading import Costly, is_dense, read_document
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


_Value = TypeVar("_Value")


class _Once(Generic[_Value]):
    """An attribute that is computed when it is first asked for.

    `functools.cached_property` takes a lock in Python 3.11, and has every other attribute looked up in a slower way.
    """

    def __init__(self, compute: Callable[[Any], _Value]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> _Once[_Value]: ...

    @overload
    def __get__(self, instance: object, owner: type) -> _Value: ...

    def __get__(self, instance: object | None, owner: type) -> _Once[_Value] | _Value:
        if instance is None:
            return self
        value = self._compute(instance)
        setattr(instance, self._name, value)  # from now on it is found before this is asked
        return value


class Layer(Struct, gc=False, frozen=True, eq=False):
    """One adapted module: its name as the audit has it, as PEFT matches it, and its rationale."""

    name: str
    module: str
    _unread: object

    @property
    def rationale(self) -> Rationale:
        """Gradience's figures for the layer. Read anew each time: of thousands of layers few are asked."""
        return part(self._unread, _decode_rationale, Rationale) or Rationale()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layer) and (self.name, self.rationale) == (other.name, other.rationale)

    def __hash__(self) -> int:
        return hash(self.name)


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

    One that was read frugally raises `Costly` rather than look into a part that may take much more than its size.
    """

    def __init__(
        self, document: Document, *, name: str, sha256: str, size: int, notes: list[str], frugal: bool = False
    ) -> None:
        self._document = document
        self._frugal = frugal
        self.name = name
        self.sha256 = sha256
        self.size = size
        analysis = document.policy_disagreement_analysis
        self._analysis = analysis if isinstance(analysis, Analysis) else Analysis()
        self.no_analysis = self._why_no_analysis()
        performed = self.no_analysis is None
        flagged = self._analysis.flagged_layers if performed else None
        listed = self._analysis.all_layers_with_disagreement if performed else None
        self._flagged = _distinct(flagged, "flagged_layers", notes)
        self._listed = _distinct(listed, "all_layers_with_disagreement", notes)
        self.flagged = _layers(self._flagged)
        self.notes = (*notes, *self._issue_notes()) if document.issues is not UNSET else tuple(notes)

    @_Once
    def candidates(self) -> tuple[Layer, ...]:
        """The layers among which the fallback rungs choose."""
        return _layers(self._listed)

    @property
    def gradience_version(self) -> str | None:
        """The version that computed the analysis, where the audit says so."""
        computed_with = self._analysis.computed_with
        version = computed_with.gradience_version if computed_with else None
        return None if version is None else words(version, 60)

    @_Once
    def total_layers(self) -> int:
        """How many layers the analysis looked at."""
        flagged, listed = self._flagged, self._listed
        named = len(listed.keys() | flagged.keys()) if flagged else len(listed)
        distribution = self._analysis.distribution
        told = whole(distribution.total_layers) if distribution else None
        return max(named, told or 0) or whole(self._value(self._document.n_layers)) or 0

    @property
    def is_flat(self) -> bool:
        """Whether Gradience found the energy distribution flat."""
        distribution = self._analysis.distribution
        return distribution is not None and distribution.is_flat is True

    @property
    def max_uniform_mult(self) -> float | None:
        """The largest share of energy, in multiples of a uniform share."""
        distribution = self._analysis.distribution
        return distribution.max_uniform_mult if distribution else None

    @property
    def flat_threshold(self) -> float | None:
        """Below this `max_uniform_mult` Gradience calls the distribution flat."""
        distribution, config = self._analysis.distribution, self._analysis.disagreement_config
        witness = distribution.flatness_witness if distribution else None
        for threshold in (
            witness.threshold if witness else None,
            config.min_uniform_mult_threshold if config else None,
            config.uniform_mult_gate if config else None,
        ):
            if threshold is not None:
                return threshold
        return None

    @property
    def focus_message(self) -> str | None:
        """Gradience's own advice, one sentence."""
        focus = self._analysis.disagreement_focus_set
        message = focus.message if focus else None
        return words(message, 1000) if message and not message.isspace() else None

    @property
    def suggested_median(self) -> int | None:
        """`suggested_r_global_median`: Gradience's own uniform rank, or None where there is none above 0."""
        return whole(self._value(self._document.suggested_r_global_median)) or None

    @property
    def suggested_p90(self) -> int | None:
        """`suggested_r_global_90`, likewise."""
        return whole(self._value(self._document.suggested_r_global_90)) or None

    def module(self, name: str) -> Module | None:
        """A module's own rank and scaling, from `per_module_gain`, else from its layer row; None without."""
        gain, row = self._gains.get(name), None
        rank, scaling = (whole(gain.r), gain.scaling) if gain else (None, None)
        if not rank or scaling is None:
            row = self._rows.get(name)
        if row is not None:
            rank = rank or whole(row.r)
            scaling = row.adapter_scale if scaling is None else scaling
        return None if gain is None and row is None else Module(rank or None, scaling)

    @_Once
    def names(self) -> tuple[str, ...]:
        """Every adapted module that the audit names, as PEFT does, in the audit's order."""
        return tuple(dict.fromkeys((*_stripped(self._told), *self._flagged, *self._listed)))

    @_Once
    def modules(self) -> dict[str, Module]:
        """What the audit tells of the adapter of each module, by the name that PEFT has for it."""
        told = self._told
        pairs = zip(_stripped(told), told, strict=True)
        return {stripped: module for stripped, name in pairs if (module := self.module(name))}

    @property
    def largest(self) -> Module | None:
        """The first module of the largest rank, or None where no module's rank is told."""
        return max(self.modules.values(), key=lambda module: module.rank or 0, default=None)

    @property
    def _told(self) -> list[str]:
        # They are kept with the last first.
        return _usable([*reversed(self._gains), *reversed(self._rows)])

    def row_rank(self, name: str) -> int | None:
        """The largest `k` over the policies of the module's layer row, or None."""
        row = self._rows.get(name)
        return _largest(row.rank_suggestions) if row else None

    def policy_rank(self, name: str) -> int | None:
        """The largest `k` of the module in `policies.per_layer`, or None."""
        row = self._policy_rows.get(name)
        return _largest(row.suggestions) if row else None

    # Of a module that is named twice the first entry counts. By name: a selection asks for a few of thousands.

    @_Once
    def _gains(self) -> dict[str, Gain]:
        gains = self._document.per_module_gain
        gains = gains if isinstance(gains, list) else []
        if self._document.per_module is not UNSET:
            more = self._part(self._document.per_module, _decode_per_module, PerModule)
            gains = gains + ((more.gain if more else None) or [])
        return {gain.module: gain for gain in reversed(gains)}

    @_Once
    def _rows(self) -> dict[str, Row]:
        rows: list[Row] = []
        if self._document.layer_data is not UNSET:
            data = self._part(self._document.layer_data, _decode_layer_data, Rows)
            rows += (data.layer_rows if data else None) or []
        if self._document.layers is not UNSET:
            rows += self._part(self._document.layers, _decode_rows, list[Row]) or []
        return {row.name: row for row in reversed(rows)}

    @_Once
    def _policy_rows(self) -> dict[str, PolicyRow]:
        policies = self._part(self._document.policies, _decode_policies, Policies)
        rows = (policies.per_layer if policies else None) or []
        return {row.layer_name: row for row in reversed(rows)}

    def suggested_rank(self, name: str) -> int | None:
        """What `--suggest-per-layer` or Bench suggests: the layer's own, the pattern's, the default."""
        for layers, pattern, default in self._suggestions:
            for value in (layers.get(name), pattern.get(name), default):
                rank = whole(value)
                if rank is not None:
                    return rank
        return None

    @_Once
    def _suggestions(self) -> list[tuple[dict[str, float | None], dict[str, float | None], float | None]]:
        texts = (self._document.rank_suggestions, self._document.per_layer_suggestions)
        found = (self._part(text, _decode_suggestions, Suggestions) for text in texts if text is not UNSET)
        return [
            (
                {row.name: row.suggested_r for row in suggestions.layers or []},
                suggestions.rank_pattern or {},
                suggestions.default_r,
            )
            for suggestions in found
            if suggestions is not None
        ]

    # --- what the document holds unread --------------------------------------------------------------------

    def _part(self, unread: object, decode: Callable[[Raw], _Value], shape: Any) -> _Value | None:
        if self._frugal and isinstance(unread, Raw) and is_dense(unread):
            raise Costly
        return part(unread, decode, shape)

    def _value(self, unread: object) -> object:
        return None if unread is UNSET else self._part(unread, _decode_any, object)

    def _why_no_analysis(self) -> str | None:
        """Why there is nothing to select from, in Gradience's own words where it has some; None if there is."""
        document = self._document
        if document.policy_disagreement_analysis is self._analysis:
            if self._analysis.analysis_performed is False:
                reason = self._value(self._analysis.reason)
                why = words(reason) if reason is not None else "no reason given"
                return f"Gradience performed no disagreement analysis: {why}"
            return None
        if document.policy_disagreement_analysis_error is not UNSET:
            why = words(self._value(document.policy_disagreement_analysis_error))
            return f"Gradience's disagreement analysis failed: {why}"
        if document.probe_rank is not UNSET:
            return "the audit has no policy_disagreement_analysis; audits that Bench writes itself never have one"
        if whole(self._value(document.n_layers)) == 0:
            return "the audit has no policy_disagreement_analysis: Gradience could use no adapter layer"
        return "the audit has no policy_disagreement_analysis"

    def _issue_notes(self) -> list[str]:
        issues: object = self._document.issues
        if isinstance(issues, Raw):
            # As text it takes no more than its size; taken apart it could take a hundred times as much.
            if len(issues) > _MAX_ISSUES_BYTES:
                return ["Gradience: more issues than can be shown here"]
            issues = part(issues, _decode_any, object)
        listed = issues if isinstance(issues, list) else []
        notes = [f"Gradience: {words(issue)}" for issue in listed[:_MAX_ISSUES] if issue]
        if len(listed) > _MAX_ISSUES:
            more = len(listed) - _MAX_ISSUES
            notes.append(f"Gradience: {more} more {'issue' if more == 1 else 'issues'}")
        return notes


_decode_any: Final = msgspec.json.Decoder().decode
_decode_rationale: Final = msgspec.json.Decoder(Rationale).decode
_decode_per_module: Final = msgspec.json.Decoder(PerModule).decode
_decode_layer_data: Final = msgspec.json.Decoder(Rows).decode
_decode_rows: Final = msgspec.json.Decoder(list[Row]).decode
_decode_policies: Final = msgspec.json.Decoder(Policies).decode
_decode_suggestions: Final = msgspec.json.Decoder(Suggestions).decode


def _largest(policies: dict[str, Policy] | None) -> int | None:
    ks = [k for policy in (policies or {}).values() if (k := whole(policy.k)) is not None]
    return max(ks) if ks else None


def _distinct(entries: list[Entry] | None, where: str, notes: list[str]) -> dict[str, Entry]:
    """The usable entries by the name that PEFT has for the module; what is not one of them is a note."""
    if not entries:
        return {}
    names = [entry.layer_name for entry in entries]
    usable = _usable(names)
    if malformed := len(names) - len(usable):
        allowed = set(usable)
        entries = [entry for entry in entries if entry.layer_name in allowed]
        is_are = "entry is" if malformed == 1 else "entries are"
        notes.append(f"{where}: {malformed} {is_are} malformed (no usable layer_name) and skipped")
    stripped = _stripped(usable)
    distinct = dict(zip(stripped, entries, strict=True))
    if repeated := len(stripped) - len(distinct):
        distinct = {}
        for module, entry in zip(stripped, entries, strict=True):
            distinct.setdefault(module, entry)
        is_are = "entry repeats a layer" if repeated == 1 else "entries repeat layers"
        notes.append(f"{where}: {repeated} {is_are} already named; the first counts")
    return distinct


def _layers(distinct: dict[str, Entry]) -> tuple[Layer, ...]:
    return tuple([Layer(entry.layer_name, module, entry.flagging_rationale) for module, entry in distinct.items()])


def _usable(names: list[str]) -> list[str]:
    """Those that can be the name of a module. Nearly always all are, and a look at all together is soon done."""
    if "".join(names).isprintable() and "" not in names and len(max(names, key=len, default="")) <= MAX_NAME:
        return names
    return [name for name in names if 0 < len(name) <= MAX_NAME and name.isprintable()]


def _stripped(names: Iterable[str]) -> list[str]:
    return [name.removeprefix(PEFT_PREFIX) or name for name in names]


def read_audit(
    data: bytes, *, name: str = "audit.json", sha256: str | Callable[[], str] | None = None, frugal: bool = False
) -> Audit:
    """Read one audit file.

    `name` is the audit's file name, `sha256` the hex digest of `data` where the caller has it already, or what tells it
    and is asked once the file has been read. Raises `NotAnAudit` for a JSON object that is something else, `AuditError`
    for what can't be used (spec, section 2); and if `frugal`, `Costly` for what may take much more memory or time than
    its size explains.
    """
    document, notes = read_document(data, frugal=frugal)
    if document.error is not UNSET and part(document.error, _decode_any, object) == "unexpected_audit_result_type":
        raise refusal("audit_failed", quote="unexpected_audit_result_type")
    if not document.is_audit:
        raise NotAnAudit
    if not isinstance(sha256, str):
        sha256 = hashlib.sha256(data).hexdigest() if sha256 is None else sha256()
    try:
        return Audit(document, name=name, sha256=sha256, size=len(data), notes=notes, frugal=frugal)
    except RecursionError:
        # Quoting a value takes a little more stack than reading it took.
        raise refusal("too_deep") from None
