"""Decide whether an audit is answered, from its dates and those of its sidecars (docs/spec.md, section 1)."""

from __future__ import annotations

import os
from enum import Enum
from typing import Final, NamedTuple

from benchd.audit.adapter import AdapterConfig
from benchd.bench.seal import Provenance, provenance_of
from benchd.bench.standing import SidecarCheck
from benchd.folder.files import Found

__all__ = ["CLEARLY_NS", "Beside", "Standing", "standing"]

#: Nanoseconds. Dates come from the kernel's coarse clock, which has ticks of up to 10 ms. A file server's clock may be
#: coarser. If two changes are closer than this, their order is in doubt.
CLEARLY_NS: Final = 50_000_000


class Standing(Enum):
    """Whether a sidecar answers the present content of an audit."""

    ANSWERED = "answered"
    IN_DOUBT = "in doubt"
    OPEN = "open"


class Beside(NamedTuple):
    """The files beside an audit: config and error report (content and `stat`), and the adapter's own file.

    None means that the file is absent.
    """

    config: Found | None
    report: Found | None
    adapter: AdapterConfig | None = None


def standing(
    check: SidecarCheck, name: str, info: os.stat_result, beside: Beside, *, now_ns: int
) -> tuple[Standing, Provenance | None]:
    """Return the standing of the audit `name`, and the provenance of its sidecar. Do not read the audit.

    `info` is the audit's `stat`. `now_ns` is the present time by the folder's clock: a sidecar with a future date
    proves nothing.
    """
    doubtful: Provenance | None = None
    adapter = beside.adapter.token if beside.adapter else None
    for found, is_config in ((beside.config, True), (beside.report, False)):
        provenance = provenance_of(found[0]) if found else None
        if found is None or provenance is None:
            continue
        if is_config:
            holds = check.config_holds(provenance, name=name, size=info.st_size, adapter=adapter)
        else:
            holds = check.report_holds(provenance, name=name, size=info.st_size)
        if not holds:
            continue
        if info.st_ctime_ns + CLEARLY_NS < found[1].st_mtime_ns <= now_ns:
            return Standing.ANSWERED, provenance
        doubtful = doubtful or provenance
    if doubtful is not None and doubtful.audit_sha256 is not None:
        return Standing.IN_DOUBT, doubtful
    return Standing.OPEN, None
