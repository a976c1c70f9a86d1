"""Declare every setting once: type, default, rule and description (spec, section 7). Pure.

Annotations are evaluated only when a settings file is parsed, so a start without a file doesn't pay for them.
`make generate` writes `config.toml`, the JSON Schema and the tables in docs/configuration.md from them.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Final, Literal, get_args, get_type_hints

import msgspec

from benchd.audit.values import MAX_RANK
from benchd.settings.base import Base
from benchd.settings.rules import (
    ANY_PATH,
    ANY_TEXT,
    FLAG,
    PATH,
    Key,
    Section,
    choice,
    duration,
    integer,
    list_of,
    number,
    size,
    text,
)

__all__ = [
    "SECTIONS",
    "BenchSettings",
    "FolderSettings",
    "Level",
    "SelectionSettings",
    "Settings",
    "TrailSettings",
    "WatchingSettings",
    "keys",
    "sections",
]

Auto = Literal["auto"]
Backend = Literal["auto", "inotify", "polling"]
Format = Literal["auto", "json", "console"]
Level = Literal["debug", "info", "warning", "error"]
OnFlat = Literal["top_n", "uniform_only"]
Suggested = Literal["audit_median", "audit_p90"]


class SelectionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the ladder (spec, section 3)."""

    top_n: Annotated[
        int,
        Key(
            integer(0),
            "Number of layers that the fallback rungs choose; 0 turns them off",
            "The fallback rungs are `priority_score` and `disagreement`.",
        ),
    ] = 3
    on_flat: Annotated[
        OnFlat,
        Key(
            choice(get_args(OnFlat)),
            "What to do if the distribution is flat and nothing is flagged",
            '`"top_n"` continues down the ladder. `"uniform_only"` selects no layer.',
        ),
    ] = "top_n"
    require_disagreement: Annotated[bool, Key(FLAG, "Fall back only to layers on which the policies disagree")] = False
    medium_priority: Annotated[
        float,
        Key(
            number(),
            "Lowest priority score that is `MEDIUM`",
            "It can't be below `low_priority`.",
        ),
    ] = 2.0
    low_priority: Annotated[float, Key(number(), "Lowest priority score that is `LOW`; a lower one is `SKIP`")] = 1.0


class BenchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings for the content of configs and for writing them (spec, section 4).

    `base_file` is an absolute path, or empty for no file. `base` has the content of the file already.
    """

    uniform_rank: Annotated[
        int | Suggested,
        Key(
            integer(1, MAX_RANK, get_args(Suggested)),
            "Rank of the uniform baseline, or the audit's own suggestion",
            "An audit without a suggestion gets 8. A config never exceeds the adapter's largest rank.",
        ),
    ] = 8
    error_reports: Annotated[bool, Key(FLAG, "Write `NAME.bench-error.json` beside a file that can't be used")] = True
    durable: Annotated[
        bool,
        Key(
            FLAG,
            "Flush record and config to the disk before the config is visible",
            "benchd flushes several at once if little else waits to be written. `false` is faster, but a power failure"
            " may lose recent answers. The next scan makes them again.",
        ),
    ] = True
    focus: Annotated[
        bool,
        Key(
            FLAG,
            "With `[bench.base]`: Bench trains and validates only the selected layers",
            "`lora.target_modules` are then exactly the selected layers.",
        ),
    ] = False
    adapter_config: Annotated[
        bool,
        Key(
            FLAG,
            "With `[bench.base]`: take missing keys from the `adapter_config.json` beside the audit",
            "These keys are the base model's name and the dropout.",
        ),
    ] = False
    base_file: Annotated[
        str,
        Key(
            text("the path of a YAML file, or an empty string for none", ANY_PATH, path=True),
            "YAML file for Bench; keys of `[bench.base]` override its keys",
            "See [below](#base_file-benchs-own-yaml).",
        ),
    ] = ""
    base: Annotated[
        Base,
        Section(
            "Bench's own tables; with them Bench can run each config as it is",
            "See [below](#benchbase-configs-that-bench-can-run).",
        ),
    ] = {}


class FolderSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One watched folder: a `[[watch]]` table, with its overrides applied to the general settings.

    `path` is absolute. `poll_interval` is in seconds.
    """

    path: Annotated[
        str,
        Key(text("a path", PATH, path=True), "The folder; benchd waits for it if it is missing", example="inbox"),
    ]
    recursive: Annotated[bool, Key(FLAG, "Watch its subfolders too, but never hidden ones")] = True
    patterns: Annotated[
        tuple[str, ...],
        Key(
            list_of(text("a string", ANY_TEXT), "a list of strings"),
            "Shell patterns of files that may be audits",
            "A pattern with a slash is matched against the path inside the folder, any other against the name.",
        ),
    ] = ("*.json",)
    ignore: Annotated[
        tuple[str, ...],
        Key(
            list_of(text("a string", ANY_TEXT), "a list of strings"),
            "Patterns of files to ignore and of subfolders not to enter",
        ),
    ] = ()
    backend: Annotated[
        Backend,
        Key(
            choice(get_args(Backend)),
            "How to notice new files",
            'Use `"polling"` where other hosts write: NFS, SMB, most FUSE. `"auto"` chooses by the file system.',
        ),
    ] = "auto"
    poll_interval: Annotated[float, Key(duration(0.05), "Time between two polls of a polled folder")] = 1.0
    selection: Annotated[SelectionSettings, Section("Keys of `[selection]` for this folder alone")] = (
        SelectionSettings()
    )
    bench: Annotated[BenchSettings, Section("Keys of `[bench]` for this folder alone")] = BenchSettings()


class WatchingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings for watching all folders. Times are in seconds, sizes in bytes."""

    rescan_interval: Annotated[
        float,
        Key(
            duration(0.1),
            "Time between two scans of each folder",
            "A scan finds what events don't report: a deleted config, changed permissions.",
        ),
    ] = 60.0
    settle: Annotated[
        float,
        Key(
            duration(0.0),
            "Time that a bad file must stay unchanged before it is rejected",
            "Good files never wait for it.",
        ),
    ] = 2.0
    max_bytes: Annotated[
        int,
        Key(size(), "Maximum size of an audit; larger files are rejected unread", "The rejection code is `too_large`."),
    ] = 256 * 2**20
    workers: Annotated[
        int | Auto,
        Key(
            integer(1, 256, get_args(Auto)),
            "Processes of `benchd run`; in `benchd watch`, waits for a slow disk that may overlap",
            '`"auto"` is one for each CPU core, at most 4. On a Python without the GIL it is also the number of threads'
            " that the folders of `benchd watch` share. One thread answers all drops of a folder.",
        ),
    ] = "auto"


class TrailSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the audit trail. `file` is an absolute path, or empty for standard output."""

    file: Annotated[
        str,
        Key(
            text("a path, or an empty string for standard output", ANY_PATH, path=True),
            "File for the audit trail; empty for standard output",
        ),
    ] = ""
    level: Annotated[
        Level,
        Key(
            choice(get_args(Level)),
            "Lowest level of the records to write",
            '`"debug"` adds audits that were ignored, deferred or found unchanged.',
        ),
    ] = "info"
    format: Annotated[
        Format,
        Key(
            choice(get_args(Format)),
            "Form of the records",
            '`"auto"` is `"console"` on a terminal, else `"json"`. Under systemd\'s journal it is always JSON.',
        ),
    ] = "auto"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings. `origins` maps each key that a file sets, such as `selection.top_n`, to that file."""

    watch: Annotated[tuple[FolderSettings, ...], Section("One table for each folder to watch")] = ()
    watching: Annotated[WatchingSettings, Section("How benchd watches the folders")] = WatchingSettings()
    selection: Annotated[SelectionSettings, Section("How benchd selects layers and ranks")] = SelectionSettings()
    bench: Annotated[BenchSettings, Section("What configs contain, and how benchd writes them")] = BenchSettings()
    trail: Annotated[TrailSettings, Section("Where the audit trail goes")] = TrailSettings()
    origins: dict[str, str] = {}


#: The tables at the top level, except `[[watch]]`.
SECTIONS: Final[dict[str, type[msgspec.Struct]]] = {
    "watching": WatchingSettings,
    "selection": SelectionSettings,
    "bench": BenchSettings,
    "trail": TrailSettings,
}


def keys(shape: type[msgspec.Struct]) -> dict[str, Key]:
    """Return the keys that `shape`, one of the types above, declares."""
    return _declared(shape)[0]


def sections(shape: type[msgspec.Struct]) -> dict[str, Section]:
    """Return the tables that `shape` declares."""
    return _declared(shape)[1]


@cache
def _declared(shape: type[msgspec.Struct]) -> tuple[dict[str, Key], dict[str, Section]]:
    hints = get_type_hints(shape, include_extras=True)
    declared = {name: getattr(hint, "__metadata__", (None,))[0] for name, hint in hints.items()}
    return (
        {name: item for name, item in declared.items() if isinstance(item, Key)},
        {name: item for name, item in declared.items() if isinstance(item, Section)},
    )
