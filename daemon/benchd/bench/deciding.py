"""Decide the answer to an audit: read it, select layers, and write the config. Pure."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from benchd.audit.adapter import AdapterConfig
from benchd.audit.audit import read_audit
from benchd.bench.config import write_config
from benchd.selection.ladder import select
from benchd.selection.selection import Selection
from benchd.settings.keys import BenchSettings, SelectionSettings

__all__ = ["Decision", "decide"]


class Decision(Struct, frozen=True, gc=False):
    """The answer to one audit: the config's bytes, and the facts for the trail.

    If `is_of_nothing` is true, Gradience found no layer to audit, and a person should find out why.
    """

    selection: Selection
    config: bytes
    decision_id: str
    audit_sha256: str
    audit_bytes: int
    is_of_nothing: bool = False


def decide(
    content: bytes,
    *,
    name: str,
    selection: SelectionSettings,
    bench: BenchSettings,
    adapter: AdapterConfig | None = None,
    sha256: str | None = None,
    frugal: bool = False,
    bounded: bool = False,
) -> Decision:
    """Return the answer to the audit `content`, named `name`.

    `adapter` is the `adapter_config.json` beside the audit, or None. The other parameters and the errors are those of
    `read_audit`.
    """
    audit = read_audit(content, name=name, sha256=sha256, frugal=frugal, bounded=bounded, adapter=adapter)
    chosen = select(audit, selection)
    written = write_config(audit, chosen, bench)
    return Decision(
        selection=msgspec.structs.replace(chosen, notes=written.notes),
        config=written.config,
        decision_id=written.decision_id,
        audit_sha256=audit.sha256,
        audit_bytes=audit.size,
        is_of_nothing=audit.is_of_nothing,
    )
