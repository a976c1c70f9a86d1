"""`config.toml` -> `Settings`: every key, its default, what it accepts (spec, section 7).

Everything here is pure: text in, settings or a list of all mistakes out. The command line reads the file, and passes
in the function that reads the YAML files it names. The defaults are those of the structs below, and nowhere else.
"""

from __future__ import annotations

import errno
import math
import os.path
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from benchd.settings.base import LEFT_OPEN, Base, check, leaves, merged, missing, shown

__all__ = [
    "BenchSettings",
    "FolderSettings",
    "SelectionSettings",
    "Settings",
    "SettingsError",
    "TrailSettings",
    "WatchingSettings",
    "folder_for",
    "lacking",
    "parse_settings",
]

Origins = dict[str, str]

#: Returns the bytes of the file with this absolute path. Raises OSError.
ReadFile = Callable[[str], bytes]


class SelectionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What shapes the ladder (spec, section 3)."""

    top_n: int = 3
    on_flat: Literal["top_n", "uniform_only"] = "top_n"
    require_disagreement: bool = False
    medium_priority: float = 2.0
    low_priority: float = 1.0


class BenchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What shapes the config and how it reaches the disk (spec, section 4).

    `base_file` is absolute, or empty for none; its content is in `base` already.
    """

    uniform_rank: int | Literal["audit_median", "audit_p90"] = 8
    error_reports: bool = True
    durable: bool = True
    focus: bool = False
    adapter_config: bool = False
    base_file: str = ""
    base: Base = {}


class FolderSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One watched folder: a `[[watch]]` table with its overrides already applied.

    `path` is absolute. `poll_interval` is in seconds.
    """

    path: str
    recursive: bool = True
    patterns: tuple[str, ...] = ("*.json",)
    ignore: tuple[str, ...] = ()
    backend: Literal["auto", "inotify", "polling"] = "auto"
    poll_interval: float = 1.0
    selection: SelectionSettings = SelectionSettings()
    bench: BenchSettings = BenchSettings()


class WatchingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the folders are watched. Times in seconds, sizes in bytes."""

    rescan_interval: float = 60.0
    settle: float = 2.0
    max_bytes: int = 256 * 2**20
    workers: int | Literal["auto"] = "auto"


class TrailSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the audit trail goes; `file` is absolute, or empty for standard output."""

    file: str = ""
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything in force. `origins` says for each key (`selection.top_n`) where its value came from."""

    watch: tuple[FolderSettings, ...] = ()
    watching: WatchingSettings = WatchingSettings()
    selection: SelectionSettings = SelectionSettings()
    bench: BenchSettings = BenchSettings()
    trail: TrailSettings = TrailSettings()
    origins: Origins = {}


class SettingsError(Exception):
    """The settings can't be used. `problems` has one line for each mistake, all of them at once."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class _Rule(NamedTuple):
    """What a key accepts: in words, and as a function that raises ValueError for anything else."""

    expected: str
    parse: Callable[[Any], Any]


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(minimum: int) -> _Rule:
    def parse(value: Any) -> int:
        if not _is_integer(value) or not minimum <= value <= 10**9:
            raise ValueError
        return int(value)

    return _Rule(f"an integer >= {minimum}", parse)


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError  # noqa: TRY004 - every rule speaks through ValueError
    return value


def _choice(*choices: str) -> _Rule:
    def parse(value: Any) -> str:
        if value not in choices:
            raise ValueError
        return str(value)

    return _Rule("one of " + ", ".join(f'"{choice}"' for choice in choices), parse)


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    return value


def _path(value: Any) -> str:
    if not _text(value):
        raise ValueError
    return os.path.expanduser(str(value))


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise ValueError
    return tuple(value)


_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9,
    "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip
_WITH_UNIT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", re.ASCII)


def _with_unit(value: Any, units: Mapping[str, float]) -> float:
    match = _WITH_UNIT.fullmatch(value) if isinstance(value, str) else None
    unit = units.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ValueError
    return float(match[1]) * unit


def _duration(minimum: float) -> _Rule:
    def parse(value: Any) -> float:
        seconds = _with_unit(value, _SECONDS) if isinstance(value, str) else _finite(value)
        if not minimum <= seconds <= 366 * 86400:
            raise ValueError
        return seconds

    return _Rule(f'a duration >= {minimum:g}s such as "500ms", "2s", "5m" (a bare number is seconds)', parse)


def _size(value: Any) -> int:
    size = int(_with_unit(value, _BYTES) if isinstance(value, str) else _finite(value))
    if not 1 <= size <= 2**50:
        raise ValueError
    return size


def _workers(value: Any) -> int | str:
    if value == "auto" and isinstance(value, str):
        return value
    if not _is_integer(value) or not 1 <= value <= 256:
        raise ValueError
    return int(value)


def _uniform_rank(value: Any) -> int | str:
    if isinstance(value, str) and value in {"audit_median", "audit_p90"}:
        return value
    if not _is_integer(value) or not 1 <= value <= 65536:
        raise ValueError
    return int(value)


_BOOLEAN = _Rule("true or false", _boolean)
_NUMBER = _Rule("a number >= 0", lambda value: _at_least_zero(_finite(value)))
_STRINGS = _Rule("a list of strings", _texts)


def _at_least_zero(value: float) -> float:
    if value < 0:
        raise ValueError
    return value


_SELECTION = {
    "top_n": _integer(0),
    "on_flat": _choice("top_n", "uniform_only"),
    "require_disagreement": _BOOLEAN,
    "medium_priority": _NUMBER,
    "low_priority": _NUMBER,
}
_BENCH = {
    "uniform_rank": _Rule('an integer from 1 to 65536, "audit_median" or "audit_p90"', _uniform_rank),
    "error_reports": _BOOLEAN,
    "durable": _BOOLEAN,
    "focus": _BOOLEAN,
    "adapter_config": _BOOLEAN,
    "base_file": _Rule("the path of a YAML file, or an empty string for none", _text),
}
_WATCHING = {
    "rescan_interval": _duration(0.1),
    "settle": _duration(0.0),
    "max_bytes": _Rule('a size such as "256MiB" or "10MB" (a bare number is bytes)', _size),
    "workers": _Rule('an integer from 1 to 256 or "auto"', _workers),
}
_TRAIL = {
    "file": _Rule("a path, or an empty string for standard output", _text),
    "level": _choice("debug", "info", "warning", "error"),
    "format": _choice("auto", "json", "console"),
}
_WATCH = {
    "path": _Rule("a path", _path),
    "recursive": _BOOLEAN,
    "patterns": _STRINGS,
    "ignore": _STRINGS,
    "backend": _choice("auto", "inotify", "polling"),
    "poll_interval": _duration(0.05),
}
_SECTIONS: dict[str, dict[str, _Rule]] = {
    "watching": _WATCHING,
    "selection": _SELECTION,
    "bench": _BENCH,
    "trail": _TRAIL,
}
_TABLES_IN: dict[str, tuple[str, ...]] = {"watching": (), "selection": (), "bench": ("base",), "trail": ()}


class _Bench(NamedTuple):
    """The `[bench]` settings, general or of one folder, and the two parts of their base.

    `file` has the keys of the base file, `tables` those of `[bench.base]`. Each is None if it has a mistake. Then the
    base is not `usable`: nobody knows which keys it lacks.
    """

    settings: BenchSettings
    file: Base | None
    tables: Base | None

    @property
    def usable(self) -> bool:
        return self.file is not None and self.tables is not None


class _Reader:
    """Walks one parsed document and collects every mistake it meets. Relative paths are relative to `folder`."""

    def __init__(self, source: str, folder: str, read_file: ReadFile) -> None:
        self.source = source
        self.problems: list[str] = []
        self.origins: Origins = {}
        self._folder = folder
        self._read_file = read_file
        self._base_files: dict[str, Base | None] = {}

    def problem(self, where: str, text: str) -> None:
        self.problems.append(f"{self.source}: {where}: {text}")

    def table(self, value: object, where: str) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        self.problem(where, f"expected a table, got {shown(value)}")
        return {}

    def unknown(self, key: str, where: str, known: list[str]) -> None:
        import difflib  # noqa: PLC0415 - only a mistake needs it

        near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
        hint = f'did you mean "{near[0]}"?' if near else "known here: " + ", ".join(known)
        self.problem(where, f"unknown key; {hint}")

    def values(self, table: Mapping[str, Any], rules: Mapping[str, _Rule], where: str, *also: str) -> dict[str, Any]:
        """The parsed values of the keys that are there; a mistake costs its key, not the others."""
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key in also:
                continue
            rule = rules.get(key)
            if rule is None:
                self.unknown(key, f"{where}.{key}", [*rules, *also])
                continue
            try:
                values[key] = rule.parse(value)
            except (ValueError, OverflowError):
                self.problem(f"{where}.{key}", f"expected {rule.expected}, got {shown(value)}")
            else:
                self.origins[f"{where}.{key}"] = self.source
        return values

    def absolute(self, path: str) -> str:
        return os.path.normpath(os.path.join(self._folder or ".", os.path.expanduser(path)))

    def bench(self, values: Mapping[str, Any], section: object, where: str, general: _Bench) -> _Bench:
        """Return the settings of `section`, whose parsed `values` are given, over the `general` ones."""
        own = self._own_base(section, f"{where}.base")
        tables = None if own is None or general.tables is None else merged(general.tables, own)
        path, file = general.settings.base_file, general.file
        if "base_file" in values:
            path = self.absolute(values["base_file"]) if values["base_file"] else ""
            file = self._base_file(path, f"{where}.base_file") if path else {}
        elif isinstance(section, dict) and "base_file" in section:
            file = None  # not a path: that mistake is recorded already
        base = None if tables is None or file is None else merged(file, tables)
        if tables is not None and base is not None and "base_file" in values:
            in_tables = {key for key, _ in leaves(tables)}
            self.origins[f"{where}.base"] = self.source
            self.origins.update({f"{where}.base.{key}": path for key, _ in leaves(base) if key not in in_tables})
            self.origins.update({f"{where}.base.{key}": self.source for key in in_tables})
        settings = msgspec.structs.replace(general.settings, **{**values, "base_file": path}, base=base or {})
        return _Bench(settings, file, tables)

    def _own_base(self, section: object, where: str) -> Base | None:
        """Return the tables of `[bench.base]` in `section`; None if they have mistakes."""
        if not isinstance(section, dict) or "base" not in section:
            return {}
        tables = self.table(section["base"], where)
        mistakes = list(check(tables))
        for mistake in mistakes:
            self.problem(f"{where}.{mistake.where}", mistake.text)
        if mistakes:
            return None
        self.origins[where] = self.source
        self.origins.update({f"{where}.{key}": self.source for key, _ in leaves(tables)})
        return merged({}, tables)

    def _base_file(self, path: str, where: str) -> Base | None:
        """Return the base in the YAML file `path`; None if it can't be used. Reports the mistakes of each file once."""
        from benchd.settings.base_file import BaseFileError, parse_base_file  # noqa: PLC0415 - most settings name no file

        if path not in self._base_files:
            self._base_files[path] = None
            try:
                self._base_files[path] = parse_base_file(self._read_file(path))
            except OSError as error:
                self.problem(where, f"{path} can't be read: {error.strerror}")
            except BaseFileError as error:
                self.problems.extend(f"{path}: {problem}" for problem in error.problems)
        return self._base_files[path]

    def check_runnable(self, bench: BenchSettings, where: str) -> None:
        for line in lacking(bench, where):
            problem = f"{self.source}: {line}"
            if problem not in self.problems:  # folders share the general tables, and what these lack
                self.problems.append(problem)


def lacking(bench: BenchSettings, where: str = "bench") -> list[str]:
    """Return a line for each key that the base lacks: reported now, not after hours of training."""
    lines = []
    also = f", also in {bench.base_file}" if bench.base_file else ""
    for key in missing(bench.base, adapter_config=bench.adapter_config):
        line = f"{where}.base.{key}: missing{also}; Bench can't run without it"
        if key in LEFT_OPEN:
            line += f" ({where}.adapter_config = true would take it from the adapter's own file)"
        lines.append(line)
    return lines


def _no_files(path: str) -> bytes:
    raise FileNotFoundError(errno.ENOENT, "no function that reads files was given", path)


def parse_settings(
    text: str, *, source: str = "config.toml", base: str = "", read_file: ReadFile = _no_files
) -> Settings:
    """Read `config.toml`.

    `source` names the file in messages; relative paths in it are relative to `base` (the file's own
    folder). `read_file` reads the files that `base_file` names, each once. Raises `SettingsError` with every mistake
    in the file, and in those files.
    """
    import tomli  # noqa: PLC0415 - nobody waits for it whom the defaults suit

    reader = _Reader(source, base, read_file)
    try:
        document = tomli.loads(text)
    except (ValueError, RecursionError) as error:
        # TOMLDecodeError is a ValueError; integers of thousands of digits and deep nesting raise their own.
        raise SettingsError([f"{source}: not valid TOML: {error}"]) from None
    known = ["watch", *_SECTIONS]
    for key in document:
        if key not in known:
            homes = [f"{name}.{key}" for name, rules in _SECTIONS.items() if key in rules]
            reader.unknown(homes[0] if homes else key, key, [*known, *homes])
    sections = {
        name: reader.values(reader.table(document.get(name, {}), name), rules, name, *_TABLES_IN[name])
        for name, rules in _SECTIONS.items()
    }
    watching = WatchingSettings(**sections["watching"])
    selection = SelectionSettings(**sections["selection"])
    bench = reader.bench(sections["bench"], document.get("bench"), "bench", _Bench(BenchSettings(), {}, {}))
    if sections["trail"].get("file"):
        sections["trail"]["file"] = reader.absolute(sections["trail"]["file"])
    trail = TrailSettings(**sections["trail"])
    _check_priorities(reader, selection, "selection")
    folders = _folders(reader, document.get("watch", []), selection, bench)
    if not folders and bench.usable:
        reader.check_runnable(bench.settings, "bench")
    if reader.problems:
        raise SettingsError(reader.problems)
    return Settings(
        watch=folders,
        watching=watching,
        selection=selection,
        bench=bench.settings,
        trail=trail,
        origins=reader.origins,
    )


def _check_priorities(reader: _Reader, selection: SelectionSettings, where: str) -> None:
    medium, low = selection.medium_priority, selection.low_priority
    if medium >= low:
        return
    if f"{where}.medium_priority" in reader.origins:
        text = f"expected a number >= {where}.low_priority ({low:g}), got {medium:g}"
        reader.problem(f"{where}.medium_priority", text)
    else:
        text = f"expected a number <= {where}.medium_priority ({medium:g}), got {low:g}"
        reader.problem(f"{where}.low_priority", text)


def _folders(
    reader: _Reader, tables: object, selection: SelectionSettings, general: _Bench
) -> tuple[FolderSettings, ...]:
    if not isinstance(tables, list):
        reader.problem("watch", f"expected [[watch]] tables, one for each folder, got {shown(tables)}")
        return ()
    folders: list[FolderSettings] = []
    for index, value in enumerate(tables):
        where = f"watch[{index}]"
        table = reader.table(value, where)
        values = reader.values(table, _WATCH, where, "selection", "bench")
        overrides = {
            name: reader.values(
                reader.table(table.get(name, {}), at := f"{where}.{name}"), rules, at, *_TABLES_IN[name]
            )
            for name, rules in (("selection", _SELECTION), ("bench", _BENCH))
        }
        bench = reader.bench(overrides["bench"], table.get("bench"), f"{where}.bench", general)
        if "path" not in table and isinstance(value, dict):
            reader.problem(f"{where}.path", "missing; every [[watch]] table names its folder")
        if "path" not in values:
            continue
        values["path"] = reader.absolute(values["path"])
        folder = FolderSettings(
            **values,
            selection=msgspec.structs.replace(selection, **overrides["selection"]),
            bench=bench.settings,
        )
        its_own = bench.tables != general.tables or {"adapter_config", "base_file"} & set(overrides["bench"])
        if bench.usable:
            reader.check_runnable(folder.bench, f"{where}.bench" if its_own else "bench")
        if overrides["selection"]:
            _check_priorities(reader, folder.selection, f"{where}.selection")
        for earlier, other in enumerate(folders):
            if other.path == folder.path:
                reader.problem(f"{where}.path", f"the same folder as watch[{earlier}].path: {shown(folder.path)}")
        folders.append(folder)
    return tuple(folders)


def folder_for(settings: Settings, path: str) -> FolderSettings:
    """The settings for the absolute `path`: of the deepest watched folder that holds it, else the general ones."""
    best: FolderSettings | None = None
    for folder in settings.watch:
        inside = path == folder.path or path.startswith(os.path.join(folder.path, ""))
        if inside and (best is None or len(folder.path) > len(best.path)):
            best = folder
    if best is not None:
        return msgspec.structs.replace(best, path=path)
    return FolderSettings(path=path, selection=settings.selection, bench=settings.bench)
