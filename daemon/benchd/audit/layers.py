"""Collect the usable layers of an audit's analysis, each once, with PEFT's name for the module. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct

from benchd.audit.naming import modules_of, usable
from benchd.audit.shapes import Entry, Rationale
from benchd.audit.unread import UNREADABLE, part

__all__ = ["Layer", "Layers", "layers_of"]

_decode_rationale: Final = msgspec.json.Decoder(Rationale).decode


class Layer(Struct, gc=False, frozen=True, eq=False):
    """One adapted module: its name in the audit, its name in PEFT, and its rationale."""

    name: str
    module: str
    _unread: object

    @property
    def rationale(self) -> Rationale:
        """Return Gradience's figures for the layer. They are decoded at each access, because few layers need them."""
        if not isinstance(self._unread, Raw):
            return self._tolerant_rationale()
        try:
            return _decode_rationale(self._unread)
        except UNREADABLE:
            return self._tolerant_rationale()

    def _tolerant_rationale(self) -> Rationale:
        return part(self._unread, _decode_rationale, Rationale) or Rationale()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layer) and (self.name, self.rationale) == (other.name, other.rationale)

    def __hash__(self) -> int:
        return hash(self.name)


class Layers:
    """The entries of `flagged_layers` and `all_layers_with_disagreement` by module.

    Malformed and repeated entries are skipped, with a note. `names` maps each module to its listed name, and `known`
    maps each listed name to its module. `wrappers` are the wrapper parts that were removed from the names. `merged` are
    the modules with several names.
    """

    def __init__(self, flagged: Sequence[Entry], listed: Sequence[Entry]) -> None:
        self.known: dict[str, str] = {}
        self.wrappers: set[str] = set()
        self.merged: set[str] = set()
        # Usually the flagged layers are also listed, so that their names are checked only once.
        notes: list[str] = []
        self.listed = self._distinct(listed, "all_layers_with_disagreement", notes)
        self.names = {module: entry.layer_name for module, entry in self.listed.items()}
        self.known = dict(zip(self.names.values(), self.names, strict=True))
        flagged_notes: list[str] = []
        self.flagged = self._distinct(flagged, "flagged_layers", flagged_notes)
        self.notes = (*flagged_notes, *notes)

    def __len__(self) -> int:
        return len(self.listed.keys() | self.flagged.keys()) if self.flagged else len(self.listed)

    def _distinct(self, entries: Sequence[Entry], where: str, notes: list[str]) -> dict[str, Entry]:
        """Return the usable entries by module."""
        if not entries:
            return {}
        modules = [self.known.get(entry.layer_name, "") for entry in entries] if self.known else []
        if not modules or "" in modules:
            names = [entry.layer_name for entry in entries]
            named = usable(names)
            if malformed := len(names) - len(named):
                allowed = set(named)
                entries = [entry for entry in entries if entry.layer_name in allowed]
                is_are = "entry is" if malformed == 1 else "entries are"
                notes.append(f"{where}: {malformed} {is_are} malformed (no usable layer_name) and skipped")
            modules, wrappers = modules_of(named)
            self.wrappers.update(wrappers)
        distinct = dict(zip(modules, entries, strict=True))
        return distinct if len(distinct) == len(entries) else self._first_of(modules, entries, where, notes)

    def _first_of(self, modules: list[str], entries: Sequence[Entry], where: str, notes: list[str]) -> dict[str, Entry]:
        """Return the first of several entries for one module."""
        distinct: dict[str, Entry] = {}
        repeated = 0
        for module, entry in zip(modules, entries, strict=True):
            first = distinct.setdefault(module, entry)
            if first is not entry and first.layer_name == entry.layer_name:
                repeated += 1
            elif first is not entry:
                self.merged.add(module)
        if repeated:
            is_are = "entry repeats a layer" if repeated == 1 else "entries repeat layers"
            notes.append(f"{where}: {repeated} {is_are} already named; the first counts")
        return distinct


def layers_of(entries: dict[str, Entry]) -> tuple[Layer, ...]:
    """Return the layers of `entries`, in their order."""
    return tuple([Layer(entry.layer_name, module, entry.flagging_rationale) for module, entry in entries.items()])
