"""Provide the modules of the audited adapter: PEFT's names, ranks and scalings. Pure."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Final

import msgspec
from msgspec import UNSET, Struct

from benchd.audit.adapter import AdapterConfig, Applied
from benchd.audit.layers import Layers
from benchd.audit.matching import BadKey
from benchd.audit.naming import modules_of, unaddressable, usable
from benchd.audit.shapes import Document, Gain, PerModule, Policy, Row, Rows
from benchd.audit.unread import Costly, part
from benchd.audit.values import MAX_RANK, finite, whole, words

__all__ = ["Module", "Modules", "ranks_of"]

#: Maximum modules to compare with the alphas of an `adapter_config.json`. They are enough to detect another adapter's.
_COMPARED: Final = 16

_decode_per_module: Final = msgspec.json.Decoder(PerModule).decode
_decode_layer_data: Final = msgspec.json.Decoder(Rows).decode
_decode_rows: Final = msgspec.json.Decoder(list[Row]).decode


class Module(Struct, gc=False, frozen=True):
    """The rank and the scaling of a module's own adapter. None means unknown."""

    rank: int | None
    scaling: float | None

    def alpha_at(self, rank: int, *, use_rslora: bool = False) -> int | float | None:
        """Return the alpha that keeps the scaling at another rank. None if the scaling is unknown.

        The alpha is scaling x rank, or scaling x sqrt(rank) for a training with `use_rslora` (field-notes, section 3).
        """
        if not self.scaling or self.scaling < 0:
            return None
        alpha = self.scaling * (math.sqrt(rank) if use_rslora else rank)
        if not math.isfinite(alpha):
            return None
        return int(alpha) if alpha.is_integer() and alpha < 2**53 else alpha


class Modules:
    """Every adapted module of an audit.

    `adapted` are PEFT's names for all modules, in the audit's order. `out_of_reach` are the modules that no rank
    pattern can match: fused experts (`target_parameters`) and layers below other layers. `names` are the rest.
    `adapter` is the adapter's own file, or None. With it, all scalings are those that PEFT applies. `adapter_problem`
    says why benchd ignores the file; it is None if the file is used or absent.

    `largest_rank` is the largest rank in the adapter, or None. `wrappers` are the wrapper parts that were removed from
    the names. `merged` are the modules that have several names in the audit.

    With `frugal`, it raises `Costly` instead of decoding a part that may need many times its size. With `bounded`, it
    raises `Costly` instead of matching patterns that may take long.
    """

    def __init__(
        self, document: Document, layers: Layers, *, beside: AdapterConfig | None, frugal: bool, bounded: bool
    ) -> None:
        # Reversed, so that the first entry of a name is kept.
        self._gains = {gain.module: gain for gain in reversed(_gains(document, frugal=frugal))}
        self._rows = {row.name: row for row in reversed(_rows(document, frugal=frugal))}
        self.wrappers = set(layers.wrappers)
        self.merged = set(layers.merged)
        self._first_names = self._named(layers)
        self.adapted = tuple(self._first_names)
        told = {gain.r for gain in self._gains.values()}
        if self._rows:
            told |= {row.r for row in self._rows.values()}
        self._ranks = {rank: whole(rank) for rank in told}  # most modules have the same rank
        unnamed = unaddressable(self.adapted)
        self._applied: dict[str, Applied] = {}
        self.adapter_problem: str | None = None
        self.adapter: AdapterConfig | None = None
        if beside is not None:
            self.adapter_problem = beside.problem or self._compare(beside, unnamed, bounded=bounded)
            if self.adapter_problem is None:
                self.adapter = beside
                unnamed |= beside.holding_parameters(self.adapted)
        self.out_of_reach = unnamed
        self.names = tuple([module for module in self.adapted if module not in unnamed]) if unnamed else self.adapted
        self.largest_rank = self._largest_rank()

    def _named(self, layers: Layers) -> dict[str, str]:
        """Return PEFT's name for every adapted module, with the module's first name in the audit."""
        told = [*reversed(self._gains), *reversed(self._rows)]
        modules = [layers.known.get(name, "") for name in told]
        if "" in modules:  # rare: the analysis usually lists all modules, and their names are checked already
            told = usable(told)
            modules, wrappers = modules_of(told)
            self.wrappers.update(wrappers)
        named = dict(zip(modules, told, strict=True))
        if len(named) < len(told):  # keep the first of several names
            named |= dict(zip(reversed(modules), reversed(told), strict=True))
            self.merged.update(module for module, name in zip(modules, told, strict=True) if named[module] != name)
        for module, entry in layers.flagged.items():
            if named.setdefault(module, entry.layer_name) != entry.layer_name:
                self.merged.add(module)
        if not layers.names.items() <= named.items():
            for module, name in layers.names.items():
                if named.setdefault(module, name) != name:
                    self.merged.add(module)
        return named

    @cached_property
    def known(self) -> dict[str, Module]:
        """Return the rank and scaling of each of `names` for which the audit has one of them."""
        return {module: found for module in self.names if (found := self.of(self._first_names[module]))}

    def of(self, name: str) -> Module | None:
        """Return the rank and scaling of the module that the audit calls `name`. None if the audit has neither.

        They come from `per_module_gain`, else from the layer row. If the adapter's file is used, it sets the scaling.
        """
        found = self._smallest_of(name) if self.merged else self._told(name)
        adapter = self.adapter
        if found is None or adapter is None:
            return found
        applied = self._applied.get(modules_of([name]).names[0])
        alpha = applied.alpha if applied else None
        if alpha is None and found.rank and found.scaling is not None:
            alpha = found.scaling * found.rank  # as Gradience reports it
        scaling = adapter.scaling(alpha, found.rank)
        return found if scaling is None and not adapter.use_rslora else Module(found.rank, scaling)

    def _told(self, name: str) -> Module | None:
        """Return the rank and scaling that the audit has for a module under this name."""
        gain, row = self._gains.get(name), None
        rank, scaling = (self._ranks[gain.r], gain.scaling) if gain else (None, None)
        if not rank or scaling is None:
            row = self._rows.get(name)
        if row is not None:
            rank = rank or self._ranks[row.r]
            scaling = row.adapter_scale if scaling is None else scaling
        return None if gain is None and row is None else Module(rank or None, scaling)

    def _smallest_of(self, name: str) -> Module | None:
        """Return the values of the module under the name with the smallest rank, so that no rank grows."""
        [module] = modules_of([name]).names
        found = [told for same in self._names_of.get(module, [name]) if (told := self._told(same))]
        return min(found, key=lambda told: told.rank or MAX_RANK, default=None)

    @cached_property
    def _names_of(self) -> dict[str, list[str]]:
        """Return every name that the gains and rows have for a module, by PEFT's name."""
        names: dict[str, list[str]] = {}
        told = usable([*reversed(self._gains), *reversed(self._rows)])
        for module, name in zip(modules_of(told).names, told, strict=True):
            names.setdefault(module, []).append(name)
        return names

    @property
    def largest(self) -> Module | None:
        """Return the first module with the largest rank. None if no rank is known."""
        return max(self.known.values(), key=lambda module: module.rank or 0, default=None)

    def _largest_rank(self) -> int | None:
        """Return the largest rank in the adapter.

        Fused experts count with the rank in the adapter's file, because the audit's rank is experts x rank.
        """
        gains = self._gains
        if self.out_of_reach:
            ranks = {module.rank for module in self.known.values()}
        elif not self._rows:
            ranks = set(self._ranks.values())
        else:
            told = {gain.r for gain in gains.values()}
            told |= {row.r for name, row in self._rows.items() if name not in gains or not gains[name].r}
            ranks = {self._ranks[rank] for rank in told}
        if self.adapter is not None and (self.adapter.target_parameters or not any(ranks)):
            ranks |= self.adapter.ranks
        return max([rank for rank in ranks if rank], default=None)

    def row_ranks(self, name: str) -> list[int]:
        """Return the `k` of each policy in a module's layer row, by its name in the audit. Empty without a row."""
        row = self._rows.get(name)
        return ranks_of(row.rank_suggestions) if row else []

    def parameters(self) -> dict[str, int]:
        """Return the LoRA parameter count of each of `names` whose layer row has one (`--layers`)."""
        rows = {module: self._rows.get(self._first_names[module]) for module in self.names}
        counts = {module: finite(row.params) for module, row in rows.items() if row is not None}
        return {module: int(count) for module, count in counts.items() if count is not None and count > 0}

    # --- the file of the adapter ---------------------------------------------------------------------------

    def _compare(self, beside: AdapterConfig, unnamed: frozenset[str], *, bounded: bool) -> str | None:
        """Return why `beside` is not the audited adapter's file. Otherwise keep its values and return None."""
        if bounded and beside.is_costly():
            raise Costly
        try:
            self._applied = beside.applied([module for module in self.adapted if module not in unnamed])
        except BadKey as error:
            return f"it has a pattern that is not a regular expression: {words(str(error), 60)}"
        if self._belongs(beside):
            return None
        return (
            "its ranks or alphas are not those in the audit: it is of another adapter, or PEFT before 0.15 made it, "
            "which matched patterns in another way"
        )

    def _belongs(self, beside: AdapterConfig) -> bool:
        """Return whether `beside` can be the file of the audited adapter: several audits may share one folder.

        The audit must have the ranks that PEFT applies under this file, and the alphas that Gradience reads from it.
        """
        applied, fused = self._applied, beside.holding_parameters(self.adapted)
        every = max(1, len(applied) // _COMPARED)
        for place, (module, (rank, _)) in enumerate(applied.items()):
            name = self._first_names[module]
            own = self._told(name)
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


def ranks_of(policies: dict[str, Policy] | None) -> list[int]:
    """Return the rank that each policy suggests."""
    return [k for policy in (policies or {}).values() if (k := whole(policy.k)) is not None]


def _gains(document: Document, *, frugal: bool) -> list[Gain]:
    told = document.per_module_gain
    gains = told if isinstance(told, list) else []
    if document.per_module is not UNSET:
        more = part(document.per_module, _decode_per_module, PerModule, frugal=frugal)
        gains = gains + ((more.gain if more else None) or [])
    return gains


def _rows(document: Document, *, frugal: bool) -> list[Row]:
    rows: list[Row] = []
    if document.layer_data is not UNSET:
        data = part(document.layer_data, _decode_layer_data, Rows, frugal=frugal)
        rows += (data.layer_rows if data else None) or []
    if document.layers is not UNSET:
        rows += part(document.layers, _decode_rows, list[Row], frugal=frugal) or []
    return rows
