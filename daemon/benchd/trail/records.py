"""Declare the records of the trail, one type for each event.

A type declares the event, its fields, its level and its description. The JSON Schema and the tables in docs/trail.md
are generated from these types.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal, TypedDict

from msgspec import UNSET, Meta, Struct, UnsetType

from benchd.audit.refusals import CODES
from benchd.selection.evidence import RankSource
from benchd.selection.selection import Confidence, Priority, Strategy
from benchd.settings.keys import Level

__all__ = [
    "MAX_LAYERS",
    "MAX_NOTES",
    "RECORDS",
    "AuditFailed",
    "ByStrategy",
    "Deferred",
    "Degraded",
    "Ignored",
    "Kept",
    "Layer",
    "Overflow",
    "Ready",
    "Record",
    "Rejected",
    "ReloadFailed",
    "Reloaded",
    "RootLost",
    "RootRestored",
    "RoutineScan",
    "RunFinished",
    "Rung",
    "ScanFinished",
    "Selected",
    "SelectedNothing",
    "Started",
    "Stopped",
    "Stopping",
    "ThreadFailed",
    "TrailFailed",
    "Trigger",
    "Unchanged",
    "WatchStarted",
    "WriteFailed",
]

#: Maximum layers and notes in a record. `layers_total` counts all layers, and the config has all layers and notes.
MAX_LAYERS: Final = 20
MAX_NOTES: Final = 20

#: The reason why benchd read an audit.
Trigger = Literal["closed", "moved", "scan", "poll", "retry", "command"]

# --- fields that several records share -------------------------------------------------------------------------

_Audit = Annotated[str, Meta(description="The audit's path. Bytes that are not UTF-8 are escaped.", min_length=1)]
_Config = Annotated[str, Meta(description="The config's path. Bytes that are not UTF-8 are escaped.", min_length=1)]
_Trigger = Annotated[
    Trigger,
    Meta(
        description="Why benchd read the file: written and closed, moved or linked into the folder, found by a scan, "
        "found by polling, tried again, or named by `benchd run`."
    ),
]
_Root = Annotated[str, Meta(description="The watched folder.", min_length=1)]
_Reason = Annotated[str, Meta(description="The reason, in words.", min_length=1)]
_Error = Annotated[str, Meta(description="The error, in the system's words where it has some.")]
_Attempt = Annotated[int, Meta(description="The number of failures in a row, from 1.", ge=1)]
_RetryIn = Annotated[float, Meta(description="Seconds until the next attempt.", ge=0)]
_Duration = Annotated[float, Meta(description="Duration in milliseconds.", ge=0)]
_Text = Annotated[str, Meta(min_length=1)]
_Count = Annotated[int, Meta(ge=0)]
_Settings = Annotated[
    dict[str, Any],
    Meta(
        description="The watched folders, and every setting that differs from its default, by dotted key.",
        extra_json_schema={
            "required": ["watch"],
            "properties": {"watch": {"type": "array", "items": {"type": "string"}}},
        },
    ),
]


class Record(Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True, tag_field="event"):
    """One event. The tag is its name, and `level` its level. A subclass can have the same tag and another level."""

    level: ClassVar[Level] = "info"


# --- about an audit --------------------------------------------------------------------------------------------


class Rung(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One rung that was tried."""

    strategy: Annotated[Strategy, Meta(description="The rung's name.")]
    fired: Annotated[bool, Meta(description="Whether this rung chose the layers.")]
    reason: Annotated[str, Meta(description="Why it fired or did not, in words with numbers.", min_length=1)]


class Layer(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One selected layer."""

    name: Annotated[str, Meta(description="The layer's name in the audit.")]
    priority: Annotated[Priority, Meta(description="The layer's priority.")]
    score: Annotated[float | None, Meta(description="The layer's priority score.")]
    rank: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="The rank to validate, if there is one.")]
    rank_source: Annotated[RankSource | None, Meta(description="The evidence for the rank.")]


class Selected(Record, frozen=True, kw_only=True, gc=False, tag="audit.selected"):
    """The answer to an audit is known. This record is written before the config becomes visible."""

    level: ClassVar[Level] = "info"

    audit: _Audit
    trigger: _Trigger
    config: _Config
    decision_id: Annotated[
        str,
        Meta(
            description="Identifies the decision. After a crash a second record can have the same one.",
            pattern="^[0-9a-f]{32}$",
        ),
    ]
    strategy: Annotated[Strategy, Meta(description="The rung that fired.")]
    confidence: Annotated[Confidence, Meta(description="How reliable this rung's signal is.")]
    reason: Annotated[str, Meta(description="Why it fired, in words with numbers.", min_length=1)]
    ladder: Annotated[
        tuple[Rung, ...],
        Meta(description="Every rung that was tried, in order. The last one fired.", min_length=1, max_length=4),
    ]
    layers: Annotated[tuple[Layer, ...], Meta(description="The first selected layers.", max_length=MAX_LAYERS)]
    layers_total: Annotated[_Count, Meta(description="The number of selected layers.")]
    notes: Annotated[tuple[str, ...], Meta(description="The first of the config's notes.", max_length=MAX_NOTES)]
    audit_sha256: Annotated[str, Meta(description="The SHA-256 of the audit's bytes.", pattern="^[0-9a-f]{64}$")]
    audit_bytes: Annotated[_Count, Meta(description="The audit's size in bytes.")]
    duration_ms: Annotated[
        float, Meta(description="Milliseconds to read, decide and write, without waits for the disk.", ge=0)
    ]


class SelectedNothing(Selected, frozen=True, kw_only=True, gc=False, tag="audit.selected"):
    """`Selected` for an audit in which Gradience found no layer. A person should check why."""

    level: ClassVar[Level] = "warning"


class Rejected(Record, frozen=True, kw_only=True, gc=False, tag="audit.rejected"):
    """The file can't be used."""

    level: ClassVar[Level] = "error"

    audit: _Audit
    trigger: _Trigger
    code: Annotated[str, Meta(description="The kind of error, for programs.", extra_json_schema={"enum": list(CODES)})]
    message: Annotated[str, Meta(description="What is wrong, and where.", min_length=1)]
    hint: Annotated[str, Meta(description="How to fix it.", min_length=1)]


class Deferred(Record, frozen=True, kw_only=True, gc=False, tag="audit.deferred"):
    """The file may be unfinished. benchd reads it again later."""

    level: ClassVar[Level] = "debug"

    audit: _Audit
    trigger: _Trigger
    reason: _Reason


class Ignored(Record, frozen=True, kw_only=True, gc=False, tag="audit.ignored"):
    """The file is JSON, but not an audit."""

    level: ClassVar[Level] = "debug"

    audit: _Audit
    trigger: _Trigger
    reason: _Reason


class Unchanged(Record, frozen=True, kw_only=True, gc=False, tag="audit.unchanged"):
    """The audit already has its answer."""

    level: ClassVar[Level] = "debug"

    audit: _Audit
    trigger: _Trigger
    reason: _Reason


class AuditFailed(Record, frozen=True, kw_only=True, gc=False, tag="audit.failed"):
    """benchd itself failed on an audit, and tries again."""

    level: ClassVar[Level] = "error"

    audit: _Audit
    trigger: _Trigger
    error: _Error
    attempt: _Attempt
    retry_in_s: _RetryIn


class Kept(Record, frozen=True, kw_only=True, gc=False, tag="config.kept"):
    """The config's path holds a person's file, or the answer to another audit. benchd keeps that file."""

    level: ClassVar[Level] = "warning"

    audit: _Audit
    trigger: _Trigger
    config: _Config
    reason: _Reason


class WriteFailed(Record, frozen=True, kw_only=True, gc=False, tag="config.write_failed"):
    """The answer is known but could not be written. benchd tries again."""

    level: ClassVar[Level] = "error"

    audit: _Audit
    trigger: _Trigger
    error: _Error
    attempt: _Attempt
    retry_in_s: _RetryIn


# --- about a folder --------------------------------------------------------------------------------------------


class WatchStarted(Record, frozen=True, kw_only=True, gc=False, tag="watch.started"):
    """benchd sees every audit that arrives in the folder from now on."""

    root: _Root
    backend: Annotated[
        str,
        Meta(
            description="The source of events.",
            extra_json_schema={"enum": ["inotify", "polling", "observer"]},
        ),
    ]
    recursive: Annotated[bool, Meta(description="Whether benchd watches subfolders too.")]


class Overflow(Record, frozen=True, kw_only=True, gc=False, tag="watch.overflow"):
    """Events were lost. benchd scans the folder at once."""

    level: ClassVar[Level] = "warning"

    root: _Root
    reason: _Reason


class Degraded(Record, frozen=True, kw_only=True, gc=False, tag="watch.degraded"):
    """Something can't be watched as it should be."""

    level: ClassVar[Level] = "warning"

    root: Annotated[str, Meta(description="The watched folder. Empty if the record is about all of them.")]
    reason: _Reason
    instead: Annotated[_Text | UnsetType, Meta(description="What benchd does instead.")] = UNSET


class RootLost(Record, frozen=True, kw_only=True, gc=False, tag="watch.root_lost"):
    """The folder can't be watched. benchd waits for it."""

    level: ClassVar[Level] = "warning"

    root: _Root
    reason: _Reason


class RootRestored(Record, frozen=True, kw_only=True, gc=False, tag="watch.root_restored"):
    """The folder is watched again."""

    root: _Root


class ScanFinished(Record, frozen=True, kw_only=True, gc=False, tag="scan.finished"):
    """A scan of the folder has ended. A routine scan that queued nothing has the level `debug`."""

    level: ClassVar[Level] = "info"

    root: _Root
    cause: Annotated[
        str,
        Meta(
            description="Why benchd scanned: `start`, `rescan` (routine), `overflow`, `restored`, `degraded` or "
            "`inbox full`.",
            min_length=1,
        ),
    ]
    found: Annotated[_Count, Meta(description="Files whose names are those of audits.")]
    answered: Annotated[_Count, Meta(description="Audits that have their answer.")]
    queued: Annotated[
        _Count,
        Meta(
            description="Audits that were queued for an answer. Audits that waited already, or that only need a "
            "comparison of the hash, do not count."
        ),
    ]
    duration_ms: _Duration


class RoutineScan(ScanFinished, frozen=True, kw_only=True, gc=False, tag="scan.finished"):
    """`ScanFinished` for a routine scan that queued nothing."""

    level: ClassVar[Level] = "debug"


# --- about the service -----------------------------------------------------------------------------------------


class Started(Record, frozen=True, kw_only=True, gc=False, tag="service.started"):
    """The daemon starts."""

    version: Annotated[_Text, Meta(description="benchd's version.")]
    pid: Annotated[int, Meta(description="The daemon's process ID.", ge=1)]
    settings: _Settings


class Ready(Record, frozen=True, kw_only=True, gc=False, tag="service.ready"):
    """Every folder that exists is watched."""

    roots: Annotated[list[str], Meta(description="The watched folders.")]
    duration_ms: Annotated[float, Meta(description="Milliseconds since the process started.", ge=0)]


class Reloaded(Record, frozen=True, kw_only=True, gc=False, tag="service.reloaded"):
    """The new settings are active."""

    settings: _Settings


class ReloadFailed(Record, frozen=True, kw_only=True, gc=False, tag="service.reload_failed"):
    """The new settings can't be used. The old ones stay active."""

    level: ClassVar[Level] = "error"

    problems: Annotated[list[str], Meta(description="One line for each mistake.", min_length=1)]


class ThreadFailed(Record, frozen=True, kw_only=True, gc=False, tag="service.thread_failed"):
    """A bug raised an exception in a thread or a worker process."""

    level: ClassVar[Level] = "error"

    thread: Annotated[_Text, Meta(description="The name of the thread or process.")]
    error: _Error
    recovery: Annotated[_Text, Meta(description="What happens next.")]


class Stopping(Record, frozen=True, kw_only=True, gc=False, tag="service.stopping"):
    """The daemon stops: it finishes the audits that it has begun, and begins no others."""

    signal: Annotated[_Text, Meta(description="The signal that ends it, or a failure.")]


class Stopped(Record, frozen=True, kw_only=True, gc=False, tag="service.stopped"):
    """The daemon has stopped. The numbers count this run."""

    answered: Annotated[_Count, Meta(description="Configs written.")]
    rejected: Annotated[_Count, Meta(description="Files rejected.")]
    waiting: Annotated[_Count, Meta(description="Audits still waiting. The next start finds them.")]


_Audits = Annotated[int, Meta(description="The number of audits.", ge=0)]


class ByStrategy(TypedDict):
    """The answered audits by the rung that fired."""

    flagged: _Audits
    priority_score: _Audits
    disagreement: _Audits
    none: _Audits


class RunFinished(Record, frozen=True, kw_only=True, gc=False, tag="run.finished"):
    """The summary of `benchd run --json`."""

    dry_run: Annotated[bool, Meta(description="Whether benchd only decided, and wrote nothing.")]
    selected: Annotated[_Count, Meta(description="Audits answered.")]
    by_strategy: Annotated[ByStrategy, Meta(description="The answered audits by the rung that fired.")]
    unchanged: Annotated[_Count, Meta(description="Audits that had their answer before.")]
    rejected: Annotated[_Count, Meta(description="Files that can't be used.")]
    rejected_before: Annotated[_Count, Meta(description="Files that an earlier run rejected, unchanged since.")]
    failed: Annotated[_Count, Meta(description="Audits on which benchd itself failed.")]
    unfinished: Annotated[_Count, Meta(description="Files that are still being written.")]
    kept: Annotated[_Count, Meta(description="Configs that a person edited.")]
    ignored: Annotated[_Count, Meta(description="JSON files that are not audits.")]


# --- about the trail -------------------------------------------------------------------------------------------


class TrailFailed(Record, frozen=True, kw_only=True, gc=False, tag="trail.failed"):
    """The trail can't be written or flushed. Its records go to standard error until it can."""

    level: ClassVar[Level] = "error"

    file: Annotated[_Text, Meta(description="The trail file, or `standard output`.")]
    error: _Error


#: One type for each event, in the order of the documentation.
RECORDS: Final[tuple[type[Record], ...]] = (
    Selected,
    Rejected,
    Deferred,
    Ignored,
    Unchanged,
    AuditFailed,
    Kept,
    WriteFailed,
    WatchStarted,
    Overflow,
    Degraded,
    RootLost,
    RootRestored,
    ScanFinished,
    Started,
    Ready,
    Reloaded,
    ReloadFailed,
    ThreadFailed,
    Stopping,
    Stopped,
    RunFinished,
    TrailFailed,
)
