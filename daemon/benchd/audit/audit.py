"""Provide the facts of one audit, in any form that Gradience or Bench writes (spec, section 2). Pure."""

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
    """One audit, ready for `benchd.select`. `read_audit` returns it; treat it as immutable.

    `flagged` and `candidates` are the layers in `flagged_layers` and `all_layers_with_disagreement`, in the file's
    order, without malformed and repeated entries. `no_analysis` says why Gradience made no analysis, or is None; if it
    is set, there are no layers. `total_layers` is the number of layers in the analysis. `is_of_nothing` is true if
    Gradience found no layer to audit. Its exit code is 0 then, even if the folder's name was mistyped.
    `gradience_version` is the version that computed the analysis, or None. `name` is the file's name without
    surrogates. `notes` are remarks about the file for a person. `beside` is the adapter's own file, even if benchd
    ignores it; `modules` has the reason.

    With `frugal`, the properties raise `Costly` instead of decoding a part that may need much more memory or time than
    its size suggests. With `bounded`, they raise `Costly` instead of matching patterns that may take long.
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
        """Return the layers that the fallback rungs choose from."""
        return layers_of(self._layers.listed)

    @property
    def is_flat(self) -> bool:
        """Return whether Gradience found the energy distribution flat."""
        distribution = self._analysis.distribution
        return distribution is not None and distribution.is_flat is True

    @property
    def max_uniform_mult(self) -> float | None:
        """Return the largest share of energy, as a multiple of the uniform share."""
        distribution = self._analysis.distribution
        return distribution.max_uniform_mult if distribution else None

    @property
    def flat_threshold(self) -> float | None:
        """Return Gradience's threshold: a smaller `max_uniform_mult` means a flat distribution."""
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
        """Return `spread_base_threshold` and `spread_dynamic_factor`. Gradience's defaults are 3 and 0.5."""
        config = self._analysis.disagreement_config or DisagreementConfig()
        base, factor = config.spread_base_threshold, config.spread_dynamic_factor
        return 3.0 if base is None else base, 0.5 if factor is None else factor

    @property
    def focus_message(self) -> str | None:
        """Return Gradience's own advice, one sentence."""
        focus = self._analysis.disagreement_focus_set
        message = focus.message if focus else None
        return words(message, 1000) or None if message else None

    @property
    def focus_set(self) -> frozenset[str]:
        """Return the names in the audit of the layers that Gradience's own advice is about."""
        focus = self._analysis.disagreement_focus_set
        names = value(focus.high_impact_layers, frugal=self._frugal) if focus else None
        return frozenset([name for name in names if isinstance(name, str)]) if isinstance(names, list) else frozenset()

    @property
    def suggested_median(self) -> int | None:
        """Return `suggested_r_global_median`, Gradience's own uniform rank. None if it is absent or 0."""
        return whole(value(self._document.suggested_r_global_median, frugal=self._frugal)) or None

    @property
    def suggested_p90(self) -> int | None:
        """Return `suggested_r_global_90`, Gradience's rank for the 90th percentile. None if it is absent or 0."""
        return whole(value(self._document.suggested_r_global_90, frugal=self._frugal)) or None

    @property
    def means(self) -> dict[str, float]:
        """Return `utilization_mean` and `stable_rank_mean` over all layers. Empty if the audit lacks them."""
        texts = {
            "utilization_mean": self._document.utilization_mean,
            "stable_rank_mean": self._document.stable_rank_mean,
        }
        told = {key: finite(value(text, frugal=self._frugal)) for key, text in texts.items()}
        return {key: mean for key, mean in told.items() if mean is not None}

    # --- modules and their ranks ---------------------------------------------------------------------------

    @cached_property
    def modules(self) -> Modules:
        """Return every adapted module, with the facts from the audit and the adapter's file."""
        return Modules(self._document, self._layers, beside=self.beside, frugal=self._frugal, bounded=self._bounded)

    def policy_ranks(self, name: str) -> list[int]:
        """Return the module's `k` values in `policies.per_layer`. Gradience writes only the energy policy's."""
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

    `data` is the content of the file and `name` its name. `sha256` is the hex digest of `data`; by default it is
    computed. `adapter` is the adapter's own `adapter_config.json`, see `read_adapter_config`.

    `frugal` and `bounded` are for files from untrusted sources. With `frugal`, reading raises `Costly` (of
    `benchd.audit.unread`) if `data` may need much more memory or time than its size suggests. With `bounded`, it raises
    `Costly` if the patterns in `adapter` may take long to match. Properties and methods of the `Audit` may raise
    `Costly` later, too.

    Raises `NotAnAudit` for JSON that is not an audit, and `AuditError` for a file that can't be used (spec, section 2).
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
        # Quoting a value needs a little more stack than reading it.
        raise refusal("too_deep") from None
