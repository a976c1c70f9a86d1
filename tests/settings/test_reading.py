"""`config.toml`: every key, every kind of mistake, all mistakes at once."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchd.settings.keys import (
    BenchSettings,
    FolderSettings,
    SelectionSettings,
    Settings,
    TrailSettings,
    WatchingSettings,
)
from benchd.settings.reading import SettingsError, folder_for, parse_settings

REPOSITORY = Path(__file__).parents[2]


def problems(text: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        parse_settings(text)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def one(key: str, value: str) -> str:
    """Return a settings file with one dotted key."""
    section, _, name = key.rpartition(".")
    head = "[[watch]]\npath = 'x'\n" if section == "watch" else f"[{section}]\n"
    return f"{head}{name} = {value}\n"


def read(key: str, value: str) -> Any:
    settings = parse_settings(one(key, value))
    section, _, name = key.rpartition(".")
    found = settings.watch[0] if section == "watch" else getattr(settings, section)
    return getattr(found, name)


# --- accepted values -----------------------------------------------------------------------------------------


def test_nothing_set() -> None:
    """An empty file gives all defaults."""
    assert parse_settings("") == Settings()


def test_the_defaults() -> None:
    """The defaults are those of docs/spec.md."""
    assert Settings() == Settings(
        watch=(),
        watching=WatchingSettings(rescan_interval=60.0, settle=2.0, max_bytes=268435456, workers="auto"),
        selection=SelectionSettings(
            top_n=3, on_flat="top_n", require_disagreement=False, medium_priority=2.0, low_priority=1.0
        ),
        bench=BenchSettings(uniform_rank=8, error_reports=True, durable=True),
        trail=TrailSettings(file="", level="info", format="auto"),
        origins={},
    )
    assert FolderSettings(path="/x") == FolderSettings(
        path="/x", recursive=True, patterns=("*.json",), ignore=(), backend="auto", poll_interval=1.0
    )


def test_the_shipped_file_is_the_defaults() -> None:
    """The commented `config.toml` sets every key to its default."""
    settings = parse_settings((REPOSITORY / "config.toml").read_text(encoding="utf-8"), base="/base")
    assert msgspec.structs.replace(settings, watch=(), origins={}) == Settings()
    assert settings.watch == (FolderSettings(path="/base/inbox"),)
    sections = {"watching": WatchingSettings, "selection": SelectionSettings, "bench": BenchSettings}
    sections |= {"trail": TrailSettings, "watch[0]": FolderSettings}
    every = {f"{section}.{name}" for section, shape in sections.items() for name in shape.__struct_fields__}
    assert set(settings.origins) == every - {"watch[0].selection", "watch[0].bench"}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("selection.top_n", "0", 0),
        ("selection.top_n", "1000000000", 10**9),
        ("selection.on_flat", '"uniform_only"', "uniform_only"),
        ("selection.require_disagreement", "true", True),
        ("selection.medium_priority", "3", 3.0),
        ("selection.low_priority", "0", 0.0),
        ("bench.uniform_rank", "1", 1),
        ("bench.uniform_rank", "65536", 65536),
        ("bench.uniform_rank", '"audit_median"', "audit_median"),
        ("bench.uniform_rank", '"audit_p90"', "audit_p90"),
        ("bench.durable", "false", False),
        ("watching.rescan_interval", '"5m"', 300.0),
        ("watching.rescan_interval", '"1 h"', 3600.0),
        ("watching.rescan_interval", "90", 90.0),
        ("watching.rescan_interval", '"366d"', 366 * 86400.0),
        ("watching.settle", '"0s"', 0.0),
        ("watching.settle", '" 500MS "', 0.5),
        ("watching.settle", '"1.5s"', 1.5),
        ("watching.settle", "0.25", 0.25),
        ("watching.max_bytes", "1", 1),
        ("watching.max_bytes", '"10"', 10),
        ("watching.max_bytes", '"10 B"', 10),
        ("watching.max_bytes", '"10kB"', 10_000),
        ("watching.max_bytes", '"10MB"', 10_000_000),
        ("watching.max_bytes", '"1GB"', 10**9),
        ("watching.max_bytes", '"2KiB"', 2048),
        ("watching.max_bytes", '"1.5MiB"', 1_572_864),
        ("watching.max_bytes", '"1GiB"', 2**30),
        ("watching.workers", "256", 256),
        ("watching.workers", '"auto"', "auto"),
        ("trail.level", '"debug"', "debug"),
        ("trail.format", '"json"', "json"),
        ("trail.file", '""', ""),
        ("watch.recursive", "false", False),
        ("watch.patterns", '["a*", "b*"]', ("a*", "b*")),
        ("watch.ignore", "[]", ()),
        ("watch.backend", '"polling"', "polling"),
        ("watch.poll_interval", '"50ms"', 0.05),
    ],
)
def test_accepted(key: str, text: str, value: Any) -> None:
    """Each key accepts its values, and converts them to its unit and type."""
    assert read(key, text) == value
    assert type(read(key, text)) is type(value)


def test_origins() -> None:
    """The origins name the file of each key that it sets, and defaults have no origin."""
    settings = parse_settings(
        "[selection]\ntop_n = 5\n[[watch]]\npath = 'x'\n[watch.bench]\ndurable = true", source="f"
    )
    assert settings.origins == {"selection.top_n": "f", "watch[0].path": "f", "watch[0].bench.durable": "f"}


# --- mistakes -------------------------------------------------------------------------------------------------

DURATION = 'a duration >= {}s such as "500ms", "2s", "5m" (a bare number is seconds)'
SIZE = 'a size such as "256MiB" or "10MB" (a bare number is bytes)'
RANK = 'an integer from 1 to 65536, "audit_median" or "audit_p90"'
WORKERS = 'an integer from 1 to 256 or "auto"'


@pytest.mark.parametrize(
    ("key", "text", "expected", "got"),
    [
        ("selection.top_n", '"three"', "an integer >= 0", '"three"'),
        ("selection.top_n", "-1", "an integer >= 0", "-1"),
        ("selection.top_n", "1.0", "an integer >= 0", "1.0"),
        ("selection.top_n", "true", "an integer >= 0", "true"),
        ("selection.top_n", "1000000001", "an integer >= 0", "1000000001"),
        ("selection.top_n", "0x1" + "0" * 5000, "an integer >= 0", "an integer of thousands of digits"),
        ("selection.top_n", "1979-05-27", "an integer >= 0", '"1979-05-27"'),
        ("selection.on_flat", '"topn"', 'one of "top_n", "uniform_only"', '"topn"'),
        ("selection.on_flat", "[]", 'one of "top_n", "uniform_only"', "[]"),
        ("selection.require_disagreement", "1", "true or false", "1"),
        ("selection.medium_priority", '"2"', "a number >= 0", '"2"'),
        ("selection.medium_priority", "inf", "a number >= 0", "Infinity"),
        ("selection.medium_priority", "nan", "a number >= 0", "NaN"),
        ("selection.medium_priority", "true", "a number >= 0", "true"),
        ("selection.low_priority", "-0.5", "a number >= 0", "-0.5"),
        ("selection.low_priority", "1" + "0" * 400, "a number >= 0", "1" + "0" * 58 + "…"),
        ("bench.uniform_rank", "0", RANK, "0"),
        ("bench.uniform_rank", "65537", RANK, "65537"),
        ("bench.uniform_rank", '"median"', RANK, '"median"'),
        ("bench.uniform_rank", "true", RANK, "true"),
        ("watching.rescan_interval", '"0.05s"', DURATION.format(0.1), '"0.05s"'),
        ("watching.settle", '"2"', DURATION.format(0), '"2"'),
        ("watching.settle", '"2 weeks"', DURATION.format(0), '"2 weeks"'),
        ("watching.settle", "-1", DURATION.format(0), "-1"),
        ("watching.settle", '"367d"', DURATION.format(0), '"367d"'),
        ("watching.settle", "[2]", DURATION.format(0), "[2]"),
        ("watching.settle", '"٣s"', DURATION.format(0), '"٣s"'),
        ("watching.max_bytes", "0", SIZE, "0"),
        ("watching.max_bytes", "0.5", SIZE, "0.5"),
        ("watching.max_bytes", "inf", SIZE, "Infinity"),
        ("watching.max_bytes", '"10 apples"', SIZE, '"10 apples"'),
        ("watching.max_bytes", '"-1MB"', SIZE, '"-1MB"'),
        ("watching.max_bytes", f'"{"9" * 400}"', SIZE, '"' + "9" * 58 + "…"),
        ("watching.workers", "0", WORKERS, "0"),
        ("watching.workers", "257", WORKERS, "257"),
        ("watching.workers", '"many"', WORKERS, '"many"'),
        ("trail.file", "3", "a path, or an empty string for standard output", "3"),
        ("trail.file", '"a\\u0000b"', "a path, or an empty string for standard output", '"a\\u0000b"'),
        ("trail.level", '"loud"', 'one of "debug", "info", "warning", "error"', '"loud"'),
    ],
)
def test_mistakes(key: str, text: str, expected: str, got: str) -> None:
    """The message for a wrong value names the file, the key, the expected value and the value found."""
    assert problems(one(key, text)) == [f"config.toml: {key}: expected {expected}, got {got}"]


@pytest.mark.parametrize(
    ("key", "text", "expected", "got"),
    [
        ("path", '""', "a path", '""'),
        ("path", "3", "a path", "3"),
        ("path", '"a\\u0000b"', "a path", '"a\\u0000b"'),
        ("patterns", '"*.json"', "a list of strings", '"*.json"'),
        ("patterns", '["a", 3]', "a list of strings", '["a", 3]'),
        ("ignore", '[""]', "a list of strings", '[""]'),
        ("backend", '"magic"', 'one of "auto", "inotify", "polling"', '"magic"'),
        ("poll_interval", "0", DURATION.format(0.05), "0"),
    ],
)
def test_mistakes_in_a_folder(key: str, text: str, expected: str, got: str) -> None:
    """The message for a mistake in a [[watch]] table has the number of the table, from 0."""
    path = "" if key == "path" else "path = 'y'\n"
    text = f"[[watch]]\npath = 'x'\n[[watch]]\n{path}{key} = {text}\n"
    assert problems(text) == [f"config.toml: watch[1].{key}: expected {expected}, got {got}"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[selection]\ntopn = 3", 'selection.topn: unknown key; did you mean "top_n"?'),
        ("[selektion]\n", 'selektion: unknown key; did you mean "selection"?'),
        ("x = 1", "x: unknown key; known here: watch, watching, selection, bench, trail"),
        ("[trail]\nzzz = 1", "trail.zzz: unknown key; known here: file, level, format"),
        ("[[watch]]\npath = 'x'\nrecursiv = true", 'watch[0].recursiv: unknown key; did you mean "recursive"?'),
        ("[[watch]]\npath = 'x'\n[watch.selecton]", 'watch[0].selecton: unknown key; did you mean "selection"?'),
        (
            "[[watch]]\npath = 'x'\n[watch.bench]\ndurabel = true",
            'watch[0].bench.durabel: unknown key; did you mean "durable"?',
        ),
    ],
)
def test_unknown_keys(text: str, problem: str) -> None:
    """The message for an unknown key suggests the most similar known key."""
    assert problems(text) == [f"config.toml: {problem}"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("selection = 3", "selection: expected a table, got 3"),
        ("trail = []", "trail: expected a table, got []"),
        ("watch = 'inbox'", 'watch: expected [[watch]] tables, one for each folder, got "inbox"'),
        ("[watch]\npath = 'x'", 'watch: expected [[watch]] tables, one for each folder, got {"path": "x"}'),
        ("watch = ['inbox']", 'watch[0]: expected a table, got "inbox"'),
        ("[[watch]]\nrecursive = true", "watch[0].path: missing; every [[watch]] table names its folder"),
        ("[[watch]]\npath = 'x'\nselection = 3", "watch[0].selection: expected a table, got 3"),
    ],
)
def test_wrong_shapes(text: str, problem: str) -> None:
    """A value that should be a table is one mistake."""
    assert problems(text) == [f"config.toml: {problem}"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("top_n = ", "Invalid value (at end of document)"),
        ("a = 1\na = 2", "Cannot overwrite a value"),
        ("[selection]\ntop_n = " + "9" * 5000, "digits"),
        ("a = " + "[" * 5000, "nested"),
        ("a = 2023-02-30", "Invalid date"),
    ],
    ids=["cut", "twice", "digits", "nested", "date"],
)
def test_not_toml(text: str, words: str) -> None:
    """A file that is not TOML is one mistake, without a traceback."""
    (problem,) = problems(text)
    assert problem.startswith("config.toml: not valid TOML: ")
    assert words in problem


def test_all_mistakes_at_once() -> None:
    """All mistakes in the file are reported together, with the name of the file."""
    text = """
        nonsense = 1
        [selection]
        top_n = "three"
        on_flat = 5
        [trail]
        levle = "info"
        [[watch]]
        [[watch]]
        path = "a"
        backend = "x"
        [watch.selection]
        top_n = -1
    """
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, source="etc/benchd.toml")
    assert caught.value.problems == [
        "etc/benchd.toml: nonsense: unknown key; known here: watch, watching, selection, bench, trail",
        'etc/benchd.toml: selection.top_n: expected an integer >= 0, got "three"',
        'etc/benchd.toml: selection.on_flat: expected one of "top_n", "uniform_only", got 5',
        'etc/benchd.toml: trail.levle: unknown key; did you mean "level"?',
        "etc/benchd.toml: watch[0].path: missing; every [[watch]] table names its folder",
        'etc/benchd.toml: watch[1].backend: expected one of "auto", "inotify", "polling", got "x"',
        "etc/benchd.toml: watch[1].selection.top_n: expected an integer >= 0, got -1",
    ]


@pytest.mark.parametrize(
    ("text", "where", "low", "medium"),
    [
        ("[selection]\nmedium_priority = 1\nlow_priority = 1.5", "selection", "1.5", "1"),
        ("[[watch]]\npath='x'\n[watch.selection]\nmedium_priority = 0.5", "watch[0].selection", "1", "0.5"),
    ],
)
def test_priorities_in_order(text: str, where: str, low: str, medium: str) -> None:
    """`medium_priority` below `low_priority` is a mistake, even if the file sets only one of them."""
    assert problems(text) == [
        f"config.toml: {where}.medium_priority: expected a number >= {where}.low_priority ({low}), got {medium}"
    ]


def test_message_names_the_key_in_the_file() -> None:
    """If the file sets only `low_priority`, the message names that key."""
    assert problems("[selection]\nlow_priority = 5") == [
        "config.toml: selection.low_priority: expected a number <= selection.medium_priority (2), got 5"
    ]


def test_priorities_may_be_equal() -> None:
    """Both priorities may be equal, and then no layer is LOW."""
    assert parse_settings("[selection]\nmedium_priority = 1").selection.medium_priority == 1


def test_a_general_mistake_is_reported_once() -> None:
    """A mistake in [selection] is not repeated for each folder."""
    assert len(problems("[selection]\nlow_priority = 5\n[[watch]]\npath='x'\n[[watch]]\npath='y'")) == 1


# --- folders --------------------------------------------------------------------------------------------------


def test_overrides() -> None:
    """[watch.selection] and [watch.bench] override the general settings for one folder."""
    settings = parse_settings("""
        [selection]
        top_n = 5
        on_flat = "uniform_only"
        [[watch]]
        path = "/a"
        [watch.selection]
        top_n = 1
        [watch.bench]
        uniform_rank = 4
        [[watch]]
        path = "/b"
    """)
    first, second = settings.watch
    assert first.selection == SelectionSettings(top_n=1, on_flat="uniform_only")
    assert first.bench == BenchSettings(uniform_rank=4)
    assert second.selection == settings.selection == SelectionSettings(top_n=5, on_flat="uniform_only")
    assert second.bench == BenchSettings()


@pytest.mark.parametrize(
    ("path", "absolute"),
    [
        ("inbox", "/base/inbox"), (".", "/base"), ("../x", "/x"), ("/abs/", "/abs"), ("~/x", "/home/someone/x"),
        ("a//b/./c", "/base/a/b/c"),
    ],
)  # fmt: skip
def test_paths(path: str, absolute: str) -> None:
    """Paths become absolute and normal, with relative ones relative to the file and `~` as the home folder."""
    settings = parse_settings(
        f"[[watch]]\npath = '{path}'\n[trail]\nfile = '{path}'",
        base="/base",
        expand_user=lambda path: path.replace("~", "/home/someone"),
    )
    assert settings.watch[0].path == settings.trail.file == absolute


def test_paths_without_a_base() -> None:
    """Without the folder of the file, paths stay relative, and `~` stays."""
    assert parse_settings("[[watch]]\npath = 'a/../b'").watch[0].path == "b"
    assert parse_settings("[[watch]]\npath = '~/b'").watch[0].path == "~/b"


@pytest.mark.parametrize("other", ["x", "./x", "y/../x", "/base/x", "x/"])
def test_the_same_folder_twice(other: str) -> None:
    """Two tables for one folder are a mistake, in any spelling of its path."""
    with pytest.raises(SettingsError) as caught:
        parse_settings(f"[[watch]]\npath = 'x'\n[[watch]]\npath = 'z'\n[[watch]]\npath = '{other}'", base="/base")
    assert caught.value.problems == ['config.toml: watch[2].path: the same folder as watch[0].path: "/base/x"']


def test_the_same_folder_after_a_mistake() -> None:
    """The message names the right table, even if a table before it has a mistake."""
    assert problems("[[watch]]\npath = 3\n[[watch]]\npath = 'x'\n[[watch]]\npath = 'x'") == [
        "config.toml: watch[0].path: expected a path, got 3",
        'config.toml: watch[2].path: the same folder as watch[1].path: "x"',
    ]


@pytest.mark.parametrize(
    ("path", "top_n"), [("/a", 1), ("/a/x", 1), ("/a/b", 2), ("/a/b/c/d", 2), ("/ab", 3), ("/", 3), ("/z/y", 4)]
)
def test_folder_for(path: str, top_n: int) -> None:
    """A path has the settings of the deepest watched folder that contains it, else the general ones."""
    folders = {"/a/b": 2, "/a": 1, "/z": 4}
    text = "".join(f"[[watch]]\npath = '{key}'\n[watch.selection]\ntop_n = {n}\n" for key, n in folders.items())
    folder = folder_for(parse_settings(text), path)
    assert (folder.path, folder.selection.top_n) == (path, top_n)


def test_folder_for_the_root() -> None:
    """The root of the file system contains every path."""
    assert folder_for(parse_settings("[[watch]]\npath = '/'\nrecursive = false"), "/x").recursive is False


def test_general_settings_for_a_folder() -> None:
    """A folder that is not watched has the general settings for selection and bench."""
    settings = parse_settings("[selection]\ntop_n = 9\n[bench]\ndurable = false")
    assert folder_for(settings, "/x") == FolderSettings(
        path="/x", selection=SelectionSettings(top_n=9), bench=BenchSettings(durable=False)
    )


def test_long_values_are_cut_short() -> None:
    """The message shortens a long wrong value."""
    (problem,) = problems(f"[selection]\ntop_n = {json.dumps('x' * 1000)}")
    assert len(problem) < 130
    assert problem.endswith("xxx…")


def test_numbers_are_finite() -> None:
    """Large durations are finite numbers."""
    assert math.isfinite(read("watching.rescan_interval", '"1000h"'))
