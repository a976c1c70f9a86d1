"""One audit, as the selection sees it: every shape that Gradience and Bench write (spec, section 2)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, overload

import msgspec
from msgspec import UNSET, Raw, Struct

from benchd.audit.adapter import ADAPTER_CONFIG, AdapterConfig, Applied
from benchd.audit.matching import BadKey
from benchd.audit.naming import modules_of, unaddressable, usable
from benchd.audit.reading import Costly, is_dense, read_document
from benchd.audit.refusals import AuditError, NotAnAudit, refusal
from benchd.audit.shapes import (
    Analysis,
    DisagreementConfig,
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
    part,
)
from benchd.values import MAX_RANK, finite, listed, times, whole, words

__all__ = ["Audit", "AuditError", "Costly", "Layer", "Module", "NotAnAudit", "Rationale", "read_audit"]

_MAX_ISSUES: Final = 20
_MAX_ISSUES_BYTES: Final = 2**20
_MOST_GROUPED: Final = 10_000

#: How many modules are held against an `adapter_config.json`: so many show that it is another adapter's.
_COMPARED: Final = 16


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
    """The rank and the scaling of a module's own adapter; None where unknown."""

    rank: int | None
    scaling: float | None

    def alpha_at(self, rank: int, *, use_rslora: bool = False) -> int | float | None:
        """Return the alpha that keeps the scaling at another rank, or None where the scaling is unknown.

        That is scaling x rank, or scaling x sqrt(rank) for a training with `use_rslora` (field-notes, section 3).
        """
        scaling = self.scaling
        alpha = finite(scaling * (math.sqrt(rank) if use_rslora else rank)) if scaling and scaling > 0 else None
        if alpha is None:
            return None
        return int(alpha) if alpha.is_integer() and alpha < 2**53 else alpha


class Audit:
    """One audit, ready for `benchd.select`. Made by `read_audit`; treat it as immutable.

    `flagged` and `candidates` are `flagged_layers` and `all_layers_with_disagreement` without malformed and
    repeated entries, in the file's order. `no_analysis` says why both are empty where Gradience made no
    analysis, else it is None. `notes` are what a reader should know about the file.

    If the adapter's own file counts, every scaling is the one that PEFT applies. `beside` is that file, even if it does
    not count.

    A `frugal` audit raises `Costly` instead of decoding a part that may take much more memory or time than its size
    explains. A `bounded` audit raises it instead of matching patterns that may take long.
    """

    def __init__(
        self,
        document: Document,
        *,
        name: str,
        sha256: str,
        size: int,
        notes: list[str],
        frugal: bool = False,
        bounded: bool = False,
        adapter: AdapterConfig | None = None,
    ) -> None:
        self._document = document
        self._frugal = frugal
        self._bounded = bounded
        self.beside = adapter
        self.name = name
        self.sha256 = sha256
        self.size = size
        analysis = document.policy_disagreement_analysis
        self._analysis = analysis if isinstance(analysis, Analysis) else Analysis()
        self.no_analysis = self._why_no_analysis()
        performed = self.no_analysis is None
        flagged = self._analysis.flagged_layers if performed else None
        candidates = self._analysis.all_layers_with_disagreement if performed else None
        notes = list(notes)
        self._wrappers: set[str] = set()
        self._merged: set[str] = set()
        self._flagged = self._distinct(flagged, "flagged_layers", notes)
        self._listed = self._distinct(candidates, "all_layers_with_disagreement", notes)
        self.flagged = _layers(self._flagged)
        if document.issues is not UNSET:
            notes.extend(self._issue_notes())
        self.notes = tuple(notes)

    def _distinct(self, entries: list[Entry] | None, where: str, notes: list[str]) -> dict[str, Entry]:
        """The usable entries by the name that PEFT has for the module; what is not one of them is a note."""
        if not entries:
            return {}
        names = [entry.layer_name for entry in entries]
        named = usable(names)
        if malformed := len(names) - len(named):
            allowed = set(named)
            entries = [entry for entry in entries if entry.layer_name in allowed]
            is_are = "entry is" if malformed == 1 else "entries are"
            notes.append(f"{where}: {malformed} {is_are} malformed (no usable layer_name) and skipped")
        modules, wrappers = modules_of(named)
        self._wrappers.update(wrappers)
        distinct = dict(zip(modules, entries, strict=True))
        return distinct if len(distinct) == len(entries) else self._first_of(modules, entries, where, notes)

    def _first_of(self, modules: list[str], entries: list[Entry], where: str, notes: list[str]) -> dict[str, Entry]:
        """Of several entries for one module the first; what the others are is a note."""
        distinct: dict[str, Entry] = {}
        repeated = 0
        for module, entry in zip(modules, entries, strict=True):
            first = distinct.setdefault(module, entry)
            if first is not entry and first.layer_name == entry.layer_name:
                repeated += 1
            elif first is not entry:
                self._merged.add(module)
        if repeated:
            is_are = "entry repeats a layer" if repeated == 1 else "entries repeat layers"
            notes.append(f"{where}: {repeated} {is_are} already named; the first counts")
        return distinct

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
    def spread_constants(self) -> tuple[float, float]:
        """Return the audit's `spread_base_threshold` and `spread_dynamic_factor`; Gradience's are 3 and 0.5."""
        config = self._analysis.disagreement_config or DisagreementConfig()
        base, factor = config.spread_base_threshold, config.spread_dynamic_factor
        return 3.0 if base is None else base, 0.5 if factor is None else factor

    @property
    def focus_message(self) -> str | None:
        """Gradience's own advice, one sentence."""
        focus = self._analysis.disagreement_focus_set
        message = focus.message if focus else None
        return words(message, 1000) or None if message else None

    @property
    def focus_set(self) -> frozenset[str]:
        """Return the layers that Gradience's own advice is about, by their names in the audit."""
        focus = self._analysis.disagreement_focus_set
        names = self._value(focus.high_impact_layers) if focus else None
        return frozenset([name for name in names if isinstance(name, str)]) if isinstance(names, list) else frozenset()

    @property
    def is_of_nothing(self) -> bool:
        """Return whether Gradience found no layer to audit. Its exit code is 0 even if the folder was mistyped."""
        return (
            self.no_analysis is not None
            and self._document.n_layers is not UNSET
            and whole(self._value(self._document.n_layers)) == 0
        )

    @property
    def suggested_median(self) -> int | None:
        """`suggested_r_global_median`: Gradience's own uniform rank, or None where there is none above 0."""
        return whole(self._value(self._document.suggested_r_global_median)) or None

    @property
    def suggested_p90(self) -> int | None:
        """`suggested_r_global_90`, likewise."""
        return whole(self._value(self._document.suggested_r_global_90)) or None

    # --- modules -------------------------------------------------------------------------------------------

    def module(self, name: str) -> Module | None:
        """Return the rank and scaling of the module that the audit calls `name`; None if the audit tells neither.

        They come from `per_module_gain`, else from the layer row. If the adapter's file counts, it gives the scaling.
        """
        told = self._smallest_of(name) if self._named_twice else self._told_of(name)
        if told is None or self.adapter is None:
            return told
        applied = self._applied.get(modules_of([name]).names[0])
        alpha = applied.alpha if applied else None
        if alpha is None and told.rank and told.scaling is not None:
            alpha = told.scaling * told.rank  # as Gradience reports it
        scaling = self.adapter.scaling(alpha, told.rank)
        return told if scaling is None and not self.adapter.use_rslora else Module(told.rank, scaling)

    def _told_of(self, name: str) -> Module | None:
        gain, row = self._gains.get(name), None
        rank, scaling = (whole(gain.r), gain.scaling) if gain else (None, None)
        if not rank or scaling is None:
            row = self._rows.get(name)
        if row is not None:
            rank = rank or whole(row.r)
            scaling = row.adapter_scale if scaling is None else scaling
        return None if gain is None and row is None else Module(rank or None, scaling)

    def _smallest_of(self, name: str) -> Module | None:
        """Of several names that are one module, what is told of that with the smallest rank: no rank grows."""
        [module] = modules_of([name]).names
        told = [found for same in self._names_of.get(module, [name]) if (found := self._told_of(same))]
        return min(told, key=lambda found: found.rank or MAX_RANK, default=None)

    @property
    def _named_twice(self) -> set[str]:
        """Return the modules that have several names in the audit."""
        _ = self._by_module  # finds them
        return self._merged

    @_Once
    def _names_of(self) -> dict[str, list[str]]:
        """Every name that the audit's rows have for a module, by the name that PEFT has for it."""
        names: dict[str, list[str]] = {}
        told = usable([*reversed(self._gains), *reversed(self._rows)])  # both dicts have the last entry first
        for module, name in zip(modules_of(told).names, told, strict=True):
            names.setdefault(module, []).append(name)
        return names

    @_Once
    def _by_module(self) -> dict[str, str]:
        """Return every adapted module: PEFT's name for it -> its first name in the audit."""
        told = [*reversed(self._gains), *reversed(self._rows)]  # both dicts have the last entry first
        known = {entry.layer_name: module for module, entry in self._listed.items()}
        modules = [known.get(name, "") for name in told]
        if "" in modules:  # rare: the analysis usually lists all modules, and their names are checked already
            told = usable(told)
            modules, wrappers = modules_of(told)
            self._wrappers.update(wrappers)
        named = dict(zip(modules, told, strict=True))
        if len(named) < len(told):  # if a module has several names, the first counts
            named |= dict(zip(reversed(modules), reversed(told), strict=True))
            self._merged.update(m for m, name in zip(modules, told, strict=True) if named[m] != name)
        for layers in (self._flagged, self._listed):
            for module, entry in layers.items():
                if named.setdefault(module, entry.layer_name) != entry.layer_name:
                    self._merged.add(module)
        return named

    @_Once
    def name_notes(self) -> tuple[str, ...]:
        """What a reader should know of the modules' names: wrapper parts, and several names for one module."""
        if not self._by_module:  # a look at the names finds what is noted here
            return ()
        notes = []
        if self._wrappers:
            parts = ", ".join(sorted(self._wrappers))
            notes.append(f"wrapper parts are removed from the names, because no unwrapped model has them: {parts}")
        if self._merged:
            notes.append(
                f"two names in the audit are one module, for which the first counts: {listed(sorted(self._merged))}"
            )
        return tuple(notes)

    @_Once
    def out_of_reach(self) -> frozenset[str]:
        """Return the modules that no rank pattern matches: fused experts (`target_parameters`), layers below others."""
        found = unaddressable(self._by_module)
        if self.beside is not None and self.beside.target_parameters and self.adapter is not None:
            found |= self.adapter.holding_parameters(self._by_module)
        return found

    @_Once
    def names(self) -> tuple[str, ...]:
        """Return every module that a rank pattern can match, by PEFT's name, in the audit's order."""
        if not self.out_of_reach:
            return tuple(self._by_module)
        return tuple([module for module in self._by_module if module not in self.out_of_reach])

    @property
    def adapted(self) -> tuple[str, ...]:
        """Return every adapted module by PEFT's name: `names` and those out of reach."""
        return tuple(self._by_module)

    @_Once
    def modules(self) -> dict[str, Module]:
        """Return the rank and scaling of each of `names` that the audit knows."""
        named = self._by_module
        return {module: told for module in self.names if (told := self.module(named[module]))}

    @property
    def largest(self) -> Module | None:
        """The first module of the largest rank, or None where no module's rank is told."""
        return max(self.modules.values(), key=lambda module: module.rank or 0, default=None)

    @_Once
    def largest_rank(self) -> int | None:
        """The largest rank in the adapter, or None where no rank is told.

        Fused experts count with the rank that the file of the adapter has for them: the audit has all experts' in one.
        """
        if self.out_of_reach:
            ranks = {module.rank for module in self.modules.values()}
        else:
            gains = self._gains
            told = {gain.r for gain in gains.values()}
            if self._rows:
                told |= {row.r for name, row in self._rows.items() if name not in gains or not gains[name].r}
            ranks = {whole(rank) for rank in told}
        if self.beside is not None and self.adapter is not None and (self.adapter.target_parameters or not any(ranks)):
            ranks |= self.adapter.ranks
        return max([rank for rank in ranks if rank], default=None)

    @property
    def means(self) -> dict[str, float]:
        """Return `utilization_mean` and `stable_rank_mean` over all layers, as far as the audit has them."""
        texts = {
            "utilization_mean": self._document.utilization_mean,
            "stable_rank_mean": self._document.stable_rank_mean,
        }
        told = {key: finite(self._value(text)) for key, text in texts.items()}
        return {key: value for key, value in told.items() if value is not None}

    def parameters(self) -> dict[str, int]:
        """Return the LoRA parameter count of each of `names` whose layer row has one (`--layers`)."""
        named = self._by_module
        rows = {module: self._rows.get(named[module]) for module in self.names}
        counts = {module: finite(row.params) for module, row in rows.items() if row is not None}
        return {module: int(count) for module, count in counts.items() if count is not None and count > 0}

    # --- the file of the adapter ---------------------------------------------------------------------------

    @_Once
    def adapter(self) -> AdapterConfig | None:
        """Return the adapter's own file beside the audit, if it can be read and belongs to this adapter; else None."""
        return self.beside if self.beside is not None and self.adapter_problem is None else None

    @_Once
    def adapter_problem(self) -> str | None:
        """Return why the adapter's own file beside the audit does not count; None if it counts or is absent."""
        beside = self.beside
        if beside is None or beside.problem is not None:
            return beside.problem if beside else None
        try:
            belongs = self._is_of(beside)
        except BadKey as error:
            return f"it has a pattern that is not a regular expression: {words(str(error), 60)}"
        if belongs:
            return None
        return (
            "its ranks or alphas are not those in the audit: it is of another adapter, or PEFT before 0.15 made it, "
            "which matched patterns in another way"
        )

    def _is_of(self, beside: AdapterConfig) -> bool:
        """Return whether `beside` can be the file of the audited adapter: several audits may share one folder.

        The audit must have the ranks that PEFT gives under this file, and the alphas that Gradience reads from it.
        """
        applied, fused = self._applied, beside.holding_parameters(self._by_module)
        every = max(1, len(applied) // _COMPARED)
        for place, (module, (rank, _)) in enumerate(applied.items()):
            name = self._by_module[module]
            own = self._told_of(name)
            if own is None or own.rank is None or rank is None:
                continue
            if own.rank % rank if module in fused else own.rank != rank:  # experts x rank
                return False
            alpha = beside.alpha_in_audit(name) if place % every == 0 else None
            if alpha is None or own.scaling is None:
                continue
            if not math.isclose(own.scaling * own.rank, alpha, rel_tol=1e-6):
                return False
        return True

    @_Once
    def _applied(self) -> dict[str, Applied]:
        """What PEFT gave each module by the file beside the audit, if there is one. Raises `BadKey`."""
        beside = self.beside
        if self._bounded and beside is not None and beside.is_costly():
            raise Costly
        out = unaddressable(self._by_module)
        return beside.applied([module for module in self._by_module if module not in out]) if beside else {}

    # --- evidence of ranks ---------------------------------------------------------------------------------

    def row_ranks(self, name: str) -> list[int]:
        """Return the `k` of each policy in the module's layer row; empty without a row."""
        row = self._rows.get(name)
        return _ranks(row.rank_suggestions) if row else []

    def policy_ranks(self, name: str) -> list[int]:
        """Return the module's `k` values in `policies.per_layer`: Gradience writes the energy policy's only."""
        row = self._policy_rows.get(name)
        return _ranks(row.suggestions) if row else []

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
            if self._analysis.analysis_performed is not False:
                return None
            reason = self._value(self._analysis.reason)
            why = words(reason) if reason is not None else "no reason given"
            return f"Gradience performed no disagreement analysis: {why}"
        if document.policy_disagreement_analysis_error is not UNSET:
            why = words(self._value(document.policy_disagreement_analysis_error))
            return f"Gradience's disagreement analysis failed: {why}"
        if document.n_layers is not UNSET and whole(self._value(document.n_layers)) == 0:
            return self._why_no_layers()
        missing = "the audit has no policy_disagreement_analysis"
        if document.probe_rank is not UNSET:
            missing += "; audits that Bench writes itself never have one"
        elif document.total_lora_params is not UNSET and document.rank_policy_schema_version is UNSET:
            missing += ": a Gradience before 0.8 wrote it; audit the adapter again with a newer version"
        return missing

    def _why_no_layers(self) -> str:
        kind = self.beside.kind if self.beside else None
        if kind is not None:
            return f"the adapter is {kind} ({ADAPTER_CONFIG}), not LoRA: Gradience audits LoRA layers only, and found 0"
        issues = self._issues()
        why = f": {words(issues[0], 200)}" if issues else "; is the folder right, and the adapter a LoRA?"
        return f"an audit of nothing: Gradience found 0 LoRA layers that it could audit{why}"

    def _issues(self) -> list[str]:
        """Return Gradience's issues, each once; none if they are larger than `_MAX_ISSUES_BYTES`."""
        issues: object = self._document.issues
        if isinstance(issues, Raw):
            # As text it takes no more than its size; taken apart it could take a hundred times as much.
            issues = part(issues, _decode_any, object) if len(issues) <= _MAX_ISSUES_BYTES else None
        told = issues[:_MOST_GROUPED] if isinstance(issues, list) else []
        return _grouped([issue if isinstance(issue, str) else words(issue) for issue in told if issue])

    def _issue_notes(self) -> list[str]:
        issues: object = self._document.issues
        if isinstance(issues, Raw) and len(issues) > _MAX_ISSUES_BYTES:
            return ["Gradience: more issues than can be shown here"]
        grouped = self._issues()
        notes = [f"Gradience: {words(text)}" for text in grouped[:_MAX_ISSUES]]
        if len(grouped) > _MAX_ISSUES:
            more = len(grouped) - _MAX_ISSUES
            notes.append(f"Gradience: {more} more {'issue' if more == 1 else 'issues'}")
        return notes


_decode_any: Final = msgspec.json.Decoder().decode
_decode_rationale: Final = msgspec.json.Decoder(Rationale).decode
_decode_per_module: Final = msgspec.json.Decoder(PerModule).decode
_decode_layer_data: Final = msgspec.json.Decoder(Rows).decode
_decode_rows: Final = msgspec.json.Decoder(list[Row]).decode
_decode_policies: Final = msgspec.json.Decoder(Policies).decode
_decode_suggestions: Final = msgspec.json.Decoder(Suggestions).decode


def _ranks(policies: dict[str, Policy] | None) -> list[int]:
    return [k for policy in (policies or {}).values() if (k := whole(policy.k)) is not None]


def _grouped(issues: list[str]) -> list[str]:
    """Return each issue once, with a count. Issues that differ only in the module's name become one."""
    groups: dict[tuple[str, str], list[str]] = {}
    for issue in issues:
        what, _, rest = issue.partition(" for ")
        module, colon, why = rest.partition(": ")
        key = (what, why) if colon and " " not in module else (issue, "")
        groups.setdefault(key, []).append(issue)
    texts = []
    for (what, why), members in groups.items():
        modules = len(set(members))
        if modules > 1:
            texts.append(f"{modules} modules: {what[:1].lower()}{what[1:]}: {why}")
        else:
            texts.append(times(members[0], len(members)))
    return texts


def _layers(distinct: dict[str, Entry]) -> tuple[Layer, ...]:
    return tuple([Layer(entry.layer_name, module, entry.flagging_rationale) for module, entry in distinct.items()])


def read_audit(
    data: bytes,
    *,
    name: str = "audit.json",
    sha256: str | Callable[[], str] | None = None,
    frugal: bool = False,
    bounded: bool = False,
    adapter: AdapterConfig | None = None,
) -> Audit:
    """Read one audit file.

    `name` is the audit's file name, `sha256` the hex digest of `data` where the caller has it already, or a function
    that returns it, called once the file has been read. `adapter` is the adapter's own `adapter_config.json`. Raises
    `NotAnAudit` for JSON that is something else, `AuditError` for what can't be used (spec, section 2). Raises `Costly`
    where the work may take much more memory or time than the size explains: in the file if `frugal`, in the patterns of
    `adapter` if `bounded`. The `Audit` may raise it later, too.
    """
    document, notes = read_document(data, frugal=frugal)
    if document.error is not UNSET and part(document.error, _decode_any, object) == "unexpected_audit_result_type":
        raise refusal("audit_failed", quote="unexpected_audit_result_type")
    if not document.is_audit:
        raise NotAnAudit
    if not isinstance(sha256, str):
        sha256 = hashlib.sha256(data).hexdigest() if sha256 is None else sha256()
    try:
        return Audit(
            document,
            name=name,
            sha256=sha256,
            size=len(data),
            notes=notes,
            frugal=frugal,
            bounded=bounded,
            adapter=adapter,
        )
    except RecursionError:
        # Quoting a value takes a little more stack than reading it took.
        raise refusal("too_deep") from None
