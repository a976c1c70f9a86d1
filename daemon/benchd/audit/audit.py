"""One audit as the selection sees it, from every form that Gradience and Bench write (spec, section 2). Pure."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Final

import msgspec
from msgspec import UNSET

from benchd.audit.adapter import AdapterConfig
from benchd.audit.issues import issue_notes, why_no_analysis
from benchd.audit.layers import Layer, Layers, layers_of
from benchd.audit.modules import Modules, ranks_of
from benchd.audit.reading import read_document
from benchd.audit.refusals import refusal
from benchd.audit.shapes import Analysis, DisagreementConfig, Document, Policies, PolicyRow, Suggestions
from benchd.audit.unread import part, value
from benchd.audit.values import finite, utf8, whole, words

__all__ = ["Audit", "read_audit"]

_decode_policies: Final = msgspec.json.Decoder(Policies).decode
_decode_suggestions: Final = msgspec.json.Decoder(Suggestions).decode


class Audit:
    """One audit, ready for `benchd.select`. Made by `read_audit`; treat it as immutable.

    `flagged` and `candidates` are `flagged_layers` and `all_layers_with_disagreement` without malformed and repeated
    entries, in the file's order. `no_analysis` says why both are empty if Gradience made no analysis, else it is None.
    `total_layers` is the number of layers that the analysis looked at. `is_of_nothing` is true if Gradience found no
    layer to audit; its exit code is 0 even if the folder was mistyped. `gradience_version` is the version that computed
    the analysis, if the audit has it. `name` is the file's name without surrogates. `notes` are what a reader should
    know about the file. `beside` is the adapter's own file beside the audit, even if it does not count; see `modules`.

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
        self.name = utf8(name)
        self.sha256 = sha256
        self.size = size
        analysis = document.policy_disagreement_analysis
        self._analysis = analysis if isinstance(analysis, Analysis) else Analysis()
        self.no_analysis = why_no_analysis(document, adapter.kind if adapter else None, frugal=frugal)
        used = self._analysis if self.no_analysis is None else Analysis()
        self._layers = Layers(used.flagged_layers or (), used.all_layers_with_disagreement or ())
        self.flagged = layers_of(self._layers.flagged)
        self.notes = (*notes, *self._layers.notes, *issue_notes(document))
        distribution, computed_with = self._analysis.distribution, self._analysis.computed_with
        n_layers = whole(value(document.n_layers, frugal=frugal))
        told = whole(distribution.total_layers) if distribution else None
        self.total_layers = max(len(self._layers), told or 0) or n_layers or 0
        self.is_of_nothing = self.no_analysis is not None and n_layers == 0
        version = computed_with.gradience_version if computed_with else None
        self.gradience_version = None if version is None else words(version, 60)

    @cached_property
    def candidates(self) -> tuple[Layer, ...]:
        """The layers among which the fallback rungs choose."""
        return layers_of(self._layers.listed)

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
        """The audit's `spread_base_threshold` and `spread_dynamic_factor`; Gradience's are 3 and 0.5."""
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
        """The layers that Gradience's own advice is about, by their names in the audit."""
        focus = self._analysis.disagreement_focus_set
        names = value(focus.high_impact_layers, frugal=self._frugal) if focus else None
        return frozenset([name for name in names if isinstance(name, str)]) if isinstance(names, list) else frozenset()

    @property
    def suggested_median(self) -> int | None:
        """`suggested_r_global_median`: Gradience's own uniform rank, or None if there is none above 0."""
        return whole(value(self._document.suggested_r_global_median, frugal=self._frugal)) or None

    @property
    def suggested_p90(self) -> int | None:
        """`suggested_r_global_90`: the same for the 90th percentile."""
        return whole(value(self._document.suggested_r_global_90, frugal=self._frugal)) or None

    @property
    def means(self) -> dict[str, float]:
        """`utilization_mean` and `stable_rank_mean` over all layers, if the audit has them."""
        texts = {
            "utilization_mean": self._document.utilization_mean,
            "stable_rank_mean": self._document.stable_rank_mean,
        }
        told = {key: finite(value(text, frugal=self._frugal)) for key, text in texts.items()}
        return {key: mean for key, mean in told.items() if mean is not None}

    # --- modules and their ranks ---------------------------------------------------------------------------

    @cached_property
    def modules(self) -> Modules:
        """Every adapted module, with what the audit and the adapter's file tell of it."""
        return Modules(self._document, self._layers, beside=self.beside, frugal=self._frugal, bounded=self._bounded)

    def policy_ranks(self, name: str) -> list[int]:
        """Return the module's `k` values in `policies.per_layer`: Gradience writes the energy policy's only."""
        row = self._policy_rows.get(name)
        return ranks_of(row.suggestions) if row else []

    def suggested_rank(self, name: str) -> int | None:
        """Return the rank that `--suggest-per-layer` or Bench suggests: the layer's, the pattern's, or the default."""
        for layers, pattern, default in self._suggestions:
            for suggested in (layers.get(name), pattern.get(name), default):
                rank = whole(suggested)
                if rank is not None:
                    return rank
        return None

    @cached_property
    def _policy_rows(self) -> dict[str, PolicyRow]:
        policies = part(self._document.policies, _decode_policies, Policies, frugal=self._frugal)
        rows = (policies.per_layer if policies else None) or []
        return {row.layer_name: row for row in reversed(rows)}

    @cached_property
    def _suggestions(self) -> list[tuple[dict[str, float | None], dict[str, float | None], float | None]]:
        texts = (self._document.rank_suggestions, self._document.per_layer_suggestions)
        found = [
            part(text, _decode_suggestions, Suggestions, frugal=self._frugal) for text in texts if text is not UNSET
        ]
        return [
            (
                {row.name: row.suggested_r for row in suggestions.layers or []},
                suggestions.rank_pattern or {},
                suggestions.default_r,
            )
            for suggestions in found
            if suggestions is not None
        ]


def read_audit(
    data: bytes,
    *,
    name: str = "audit.json",
    sha256: str | None = None,
    frugal: bool = False,
    bounded: bool = False,
    adapter: AdapterConfig | None = None,
) -> Audit:
    """Read one audit file.

    `name` is the audit's file name, `sha256` the hex digest of `data` if the caller has it already, `adapter` the
    adapter's own `adapter_config.json`. Raises `NotAnAudit` for JSON that is something else, `AuditError` for what
    can't be used (spec, section 2). Raises `Costly` if the work may take much more memory or time than the size
    explains: in the file if `frugal`, in the patterns of `adapter` if `bounded`. The `Audit` may raise it later, too.
    """
    document, notes = read_document(data, frugal=frugal)
    try:
        return Audit(
            document,
            name=name,
            sha256=sha256 or hashlib.sha256(data).hexdigest(),
            size=len(data),
            notes=notes,
            frugal=frugal,
            bounded=bounded,
            adapter=adapter,
        )
    except RecursionError:
        # Quoting a value takes a little more stack than reading it took.
        raise refusal("too_deep") from None
