"""Bytes -> `Decision`: the three pure steps in one, for whoever answers an audit and in whichever process."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import Struct

from benchd.adapter import AdapterConfig
from benchd.audit import read_audit
from benchd.bench import write_config
from benchd.selection import Selection, select
from benchd.settings import BenchSettings, SelectionSettings

__all__ = ["Decision", "decide"]


class Decision(Struct, frozen=True, gc=False):
    """The answer to one audit: the config's bytes, and what the trail says of it."""

    selection: Selection
    config: bytes
    decision_id: str
    audit_sha256: str
    audit_bytes: int


def decide(
    content: bytes,
    *,
    name: str,
    selection: SelectionSettings,
    bench: BenchSettings,
    adapter: AdapterConfig | None = None,
    sha256: str | Callable[[], str] | None = None,
    frugal: bool = False,
) -> Decision:
    """Decide what the audit `content`, named `name`, is answered. `sha256`, `frugal` and errors are as of `read_audit`.

    `adapter` is the `adapter_config.json` that lies beside it, if any.
    """
    audit = read_audit(content, name=name, sha256=sha256, frugal=frugal)
    chosen = select(audit, selection)
    written = write_config(audit, chosen, bench, adapter)
    return Decision(
        selection=msgspec.structs.replace(chosen, notes=written.notes),
        config=written.config,
        decision_id=written.decision_id,
        audit_sha256=audit.sha256,
        audit_bytes=audit.size,
    )
