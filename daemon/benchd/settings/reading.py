"""Read `config.toml` into `Settings` (spec, section 7). Pure: the caller passes the text and a function to read files.

`keys` declares all keys, with their rules and defaults.
"""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from benchd.settings.base import LEFT_OPEN, Base, check, leaves, merged, missing
from benchd.settings.keys import (
    SECTIONS,
    BenchSettings,
    FolderSettings,
    SelectionSettings,
    Settings,
    TrailSettings,
    WatchingSettings,
    keys,
    sections,
)
from benchd.settings.rules import shown

__all__ = ["SettingsError", "folder_for", "lacking", "parse_settings"]

#: Returns the bytes of the file with this absolute path. Raises OSError.
ReadFile = Callable[[str], bytes]

Shape = type[msgspec.Struct]


class SettingsError(Exception):
    """Raised if the settings can't be used. `problems` has one line for each mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _no_files(path: str) -> bytes:
    raise FileNotFoundError(errno.ENOENT, "no function that reads files was given", path)


def parse_settings(
    text: str,
    *,
    source: str = "config.toml",
    base: str = "",
    read_file: ReadFile = _no_files,
    expand_user: Callable[[str], str] = str,
) -> Settings:
    """Return the settings in `text`, a TOML document. Raises `SettingsError` with every mistake in it.

    `source` names the file in messages. Relative paths are relative to `base`, the file's own folder. `expand_user`
    replaces the `~` at the start of a path with the home folder; by default `~` stays. `read_file` reads the files
    that `base_file` names, each once. Their mistakes are reported, too.
    """
    import tomli  # noqa: PLC0415 - a start without a settings file doesn't need it

    try:
        document = tomli.loads(text)
    except (ValueError, RecursionError) as error:
        # TOMLDecodeError is a ValueError; integers of thousands of digits and deep nesting raise their own.
        raise SettingsError([f"{source}: not valid TOML: {error}"]) from None
    reader = _Reader(source, lambda path: posixpath.normpath(posixpath.join(base, expand_user(path))), read_file)
    settings = reader.settings(document)
    if reader.problems:
        raise SettingsError(reader.problems)
    return settings


def lacking(bench: BenchSettings, where: str = "bench") -> list[str]:
    """Return a line for each key that the base lacks. Bench would notice some of them only after hours of training."""
    lines = []
    also = f", also in {bench.base_file}" if bench.base_file else ""
    for key in missing(bench.base, adapter_config=bench.adapter_config):
        line = f"{where}.base.{key}: missing{also}; Bench can't run without it"
        if key in LEFT_OPEN:
            line += f" ({where}.adapter_config = true would take it from the adapter's own file)"
        lines.append(line)
    return lines


def folder_for(settings: Settings, path: str) -> FolderSettings:
    """Return the settings for the absolute `path`.

    They are the settings of the deepest watched folder that contains it, or the general ones if there is none.
    """
    best: FolderSettings | None = None
    for folder in settings.watch:
        inside = path == folder.path or path.startswith(posixpath.join(folder.path, ""))
        if inside and (best is None or len(folder.path) > len(best.path)):
            best = folder
    if best is not None:
        return msgspec.structs.replace(best, path=path)
    return FolderSettings(path=path, selection=settings.selection, bench=settings.bench)


class _Bench(NamedTuple):
    """The `[bench]` settings, general or of one folder, and the two parts of their base.

    `file` has the keys of the base file, `tables` those of `[bench.base]`. Each is None if it has a mistake. Then the
    base is not `usable`, because its missing keys are unknown. `where` is the place to report missing keys.
    """

    settings: BenchSettings
    file: Base | None
    tables: Base | None
    where: str

    @property
    def usable(self) -> bool:
        return self.file is not None and self.tables is not None


class _Reader:
    """Reads one parsed document and collects the mistakes. A key with a mistake keeps its default."""

    def __init__(self, source: str, absolute: Callable[[str], str], read_file: ReadFile) -> None:
        self.problems: list[str] = []
        self._source = source
        self._absolute = absolute
        self._read_file = read_file
        self._origins: dict[str, str] = {}
        self._base_files: dict[str, Base | None] = {}

    def settings(self, document: dict[str, Any]) -> Settings:
        """Return the settings in `document`."""
        self._check_names(document)
        watching = WatchingSettings(**self._section(document, "watching", WatchingSettings))
        selection = SelectionSettings(**self._section(document, "selection", SelectionSettings))
        bench = self._bench(document, "bench", _Bench(BenchSettings(), {}, {}, "bench"))
        trail = TrailSettings(**self._section(document, "trail", TrailSettings))
        self._check_priorities(selection, "selection")
        folders = self._folders(document.get("watch", []), selection, bench)
        if not folders:
            self._check_base(bench)
        return Settings(
            watch=folders,
            watching=watching,
            selection=selection,
            bench=bench.settings,
            trail=trail,
            origins=self._origins,
        )

    def _folders(self, tables: object, selection: SelectionSettings, bench: _Bench) -> tuple[FolderSettings, ...]:
        if not isinstance(tables, list):
            self._problem("watch", f"expected [[watch]] tables, one for each folder, got {shown(tables)}")
            return ()
        first: dict[str, int] = {}
        folders = []
        for index, table in enumerate(tables):
            where = f"watch[{index}]"
            folder = self._folder(self._table(table, where), where, selection, bench)
            if isinstance(table, dict) and "path" not in table:
                self._problem(f"{where}.path", "missing; every [[watch]] table names its folder")
            if folder is None:
                continue
            earlier = first.setdefault(folder.path, index)
            if earlier != index:
                self._problem(f"{where}.path", f"the same folder as watch[{earlier}].path: {shown(folder.path)}")
            folders.append(folder)
        return tuple(folders)

    def _folder(
        self, table: dict[str, Any], where: str, selection: SelectionSettings, bench: _Bench
    ) -> FolderSettings | None:
        """Return the settings in one `[[watch]]` table over the general ones. None if its path has a mistake."""
        values = self._values(table, where, FolderSettings)
        overrides = self._section(table, f"{where}.selection", SelectionSettings)
        selection = msgspec.structs.replace(selection, **overrides)
        own = self._bench(table, f"{where}.bench", bench)
        if "path" not in values:
            return None
        self._check_base(own)
        if overrides:
            self._check_priorities(selection, f"{where}.selection")
        return FolderSettings(**values, selection=selection, bench=own.settings)

    # --- tables and values ------------------------------------------------------------------------------------

    def _problem(self, where: str, text: str) -> None:
        self.problems.append(f"{self._source}: {where}: {text}")

    def _check_names(self, document: Mapping[str, Any]) -> None:
        """Report unknown keys at the top level. A key that a section has is probably in the wrong place."""
        known = list(sections(Settings))
        inside = {name: keys(shape) for name, shape in SECTIONS.items()}
        for key in document:
            if key not in known:
                homes = [f"{name}.{key}" for name, declared in inside.items() if key in declared]
                self._unknown(homes[0] if homes else key, key, [*known, *homes])

    def _unknown(self, key: str, where: str, known: Iterable[str]) -> None:
        import difflib  # noqa: PLC0415 - only a mistake needs it

        near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
        hint = f'did you mean "{near[0]}"?' if near else "known here: " + ", ".join(known)
        self._problem(where, f"unknown key; {hint}")

    def _table(self, value: object, where: str) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        self._problem(where, f"expected a table, got {shown(value)}")
        return {}

    def _section(self, outer: Mapping[str, Any], where: str, shape: Shape) -> dict[str, Any]:
        """Return the values in the table of `outer` that the last part of `where` names."""
        return self._values(self._table(outer.get(where.rpartition(".")[2], {}), where), where, shape)

    def _values(self, table: Mapping[str, Any], where: str, shape: Shape) -> dict[str, Any]:
        """Return the parsed values of the keys in `table`, without those that have a mistake."""
        declared, below = keys(shape), sections(shape)
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key in below:
                continue
            if key not in declared:
                self._unknown(key, f"{where}.{key}", [*declared, *below])
                continue
            rule = declared[key].rule
            try:
                parsed = rule.parse(value)
            except ValueError:
                self._problem(f"{where}.{key}", f"expected {rule.expected}, got {shown(value)}")
                continue
            values[key] = self._absolute(parsed) if rule.path and parsed else parsed
            self._origins[f"{where}.{key}"] = self._source
        return values

    def _check_priorities(self, selection: SelectionSettings, where: str) -> None:
        medium, low = selection.medium_priority, selection.low_priority
        if medium >= low:
            return
        if f"{where}.medium_priority" in self._origins:
            text = f"expected a number >= {where}.low_priority ({low:g}), got {medium:g}"
            self._problem(f"{where}.medium_priority", text)
        else:
            text = f"expected a number <= {where}.medium_priority ({medium:g}), got {low:g}"
            self._problem(f"{where}.low_priority", text)

    # --- [bench] and its base ---------------------------------------------------------------------------------

    def _bench(self, outer: Mapping[str, Any], where: str, general: _Bench) -> _Bench:
        """Return the settings in the table `bench` of `outer`, over the `general` ones."""
        table = self._table(outer.get("bench", {}), where)
        values = self._values(table, where, BenchSettings)
        tables = self._tables(table, f"{where}.base", general.tables)
        file = general.file
        if "base_file" in values:
            file = self._base_file(values["base_file"], f"{where}.base_file")
        elif "base_file" in table:
            file = None  # it has a mistake, which is recorded
        base: Base = {} if tables is None or file is None else merged(file, tables)
        settings = msgspec.structs.replace(general.settings, **values, base=base)
        if "base_file" in values:
            self._set_origins(base, tables or {}, where, settings.base_file)
        own = tables != general.tables or not values.keys().isdisjoint({"adapter_config", "base_file"})
        return _Bench(settings, file, tables, where if own else general.where)

    def _tables(self, table: Mapping[str, Any], where: str, general: Base | None) -> Base | None:
        """Return the tables of `[bench.base]` over the `general` ones. None if either has mistakes."""
        if "base" not in table:
            return general
        own = self._table(table["base"], where)
        mistakes = list(check(own))
        for mistake in mistakes:
            self._problem(f"{where}.{mistake.where}", mistake.text)
        if mistakes or general is None:
            return None
        self._origins[where] = self._source
        self._origins.update({f"{where}.{key}": self._source for key, _ in leaves(own)})
        return merged(general, own)

    def _base_file(self, path: str, where: str) -> Base | None:
        """Return the base in the YAML file `path`, or None if it can't be used. Report each file only once."""
        if not path:
            return {}
        from benchd.settings.base_file import BaseFileError, parse_base_file  # noqa: PLC0415 - most settings name no file

        if path not in self._base_files:
            self._base_files[path] = None
            try:
                self._base_files[path] = parse_base_file(self._read_file(path))
            except OSError as error:
                self._problem(where, f"{path} can't be read: {error.strerror}")
            except BaseFileError as error:
                self.problems.extend(f"{path}: {problem}" for problem in error.problems)
        return self._base_files[path]

    def _set_origins(self, base: Base, tables: Base, where: str, path: str) -> None:
        """Record for each key of `base` whether it comes from the base file `path` or from `tables`."""
        in_tables = {key for key, _ in leaves(tables)}
        self._origins[f"{where}.base"] = self._source
        for key, _ in leaves(base):
            self._origins[f"{where}.base.{key}"] = self._source if key in in_tables else path

    def _check_base(self, bench: _Bench) -> None:
        """Report the keys that the base lacks. Folders share the general tables, so each line is reported once."""
        for line in lacking(bench.settings, bench.where) if bench.usable else ():
            problem = f"{self._source}: {line}"
            if problem not in self.problems:
                self.problems.append(problem)
