"""The JSON Schema of the settings accepts what the parser accepts, and refuses what it refuses."""

from __future__ import annotations

import datetime as dt
import json
import re
from importlib.resources import files
from typing import Any

import jsonschema
import msgspec
import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st

from benchd.settings.base import KEYS, OWN_KEYS
from benchd.settings.keys import (
    BenchSettings,
    FolderSettings,
    SelectionSettings,
    TrailSettings,
    WatchingSettings,
    keys,
)
from benchd.settings.reading import SettingsError, parse_settings

SCHEMA = json.loads(files("benchd").joinpath("schemas/settings.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)

#: Mistakes between two keys, or in another file. A schema for one document can't express them.
BETWEEN_KEYS = re.compile(
    r"expected a number [<>]= [a-z.\[\]0-9]+_priority \("
    r"|the same folder as"
    r"|missing(, also in .*)?; Bench can't run without it"
    r"|can't be read: no function that reads files was given"
)


def toml(value: Any) -> str:
    """Return `value` as TOML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, dt.date):
        return value.isoformat()
    return json.dumps(value, ensure_ascii=False)


def refused(document: dict[str, Any]) -> list[str]:
    """Return the mistakes in the values of single keys."""
    text = "\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in document.items())
    assert tomli.loads(text) == document
    try:
        parse_settings(text)
    except SettingsError as error:
        return [problem for problem in error.problems if not BETWEEN_KEYS.search(problem)]
    return []


# These values are excluded, because a schema can't express the difference:
# - `1.0` is an integer for JSON Schema, not for the parser
# - inf and nan, which JSON lacks
# - strings whose number is out of range, such as "0s" for `poll_interval`, and integers beyond 64 bits in a base
# - more than 16 levels in a base, and tables in it whose names resemble those of Bench
NUMBERS = st.integers(-2, 70_000) | st.floats(-2, 70_000).filter(lambda value: not value.is_integer())
WORDS = ["", " ", "a", "x.yaml", "a\0b", "\n", "auto", "top_n", "debug", "2", "10"]
WORDS += ["500ms", "0.5S", " 2 m", "1h\n", "3D", "2w", "2 weeks", "٣s", "2.s"]
WORDS += ["10B", "10kB", "2Mb ", "1gb", "1KIB", "1.5 mib", "1GiB", "1tb", "1 kbb"]
TEXT = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=["Cs", "Cc", "Nd"]), max_size=5)
SINGLE = NUMBERS | TEXT | st.booleans() | st.just(dt.date(1979, 5, 27))
NAMES = st.sampled_from(["note", "env", "x" * 250, "x" * 251])
VALUES = st.recursive(
    SINGLE, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2), max_leaves=3
)
SELDOM = st.integers(0, 9).map(lambda number: number == 0)


def near(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return values that `schema` accepts, and some just outside its limits."""
    if "anyOf" in schema:
        return st.one_of(map(near, schema["anyOf"]))
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema["type"] == "array":
        return st.lists(near(schema["items"]), max_size=2)
    if schema["type"] == "boolean":
        return st.booleans()
    if schema["type"] == "string":
        return TEXT
    step = 1 if schema["type"] == "integer" else 0.01
    limits = [schema[key] for key in ("minimum", "exclusiveMinimum", "maximum") if key in schema]
    return st.sampled_from([limit + offset for limit in limits for offset in (-step, 0, step, 1)])


def value_for(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return values near the limits of `schema`, and sometimes any others."""
    return SELDOM.flatmap(lambda seldom: VALUES if seldom else near(schema))


def tables(known: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return tables with some of the keys, each with a strategy or a schema, and sometimes an unknown key."""
    values = {name: value_for(item) if isinstance(item, dict) else item for name, item in known.items()}
    unknown = st.dictionaries(st.just("unknown"), VALUES, min_size=1)
    return st.builds(
        lambda some, more, seldom: some | more if seldom else some,
        st.fixed_dictionaries({}, optional=values),
        unknown,
        SELDOM,
    )


def rules(shape: type[msgspec.Struct]) -> dict[str, Any]:
    """Return the schema of each key."""
    return {name: key.rule.schema for name, key in keys(shape).items()}


def base_tables() -> st.SearchStrategy[dict[str, Any]]:
    """Return tables for `[bench.base]`."""
    known: dict[str, dict[str, Any]] = {"runtime": {}}
    for where, key in KEYS.items():
        table, name = where.split(".")
        known.setdefault(table, {})[name] = key.rule.schema
    free = st.dictionaries(NAMES, VALUES, max_size=1)
    some = st.fixed_dictionaries({}, optional={table: tables(names) for table, names in known.items()})
    own = st.dictionaries(st.sampled_from(OWN_KEYS), VALUES, min_size=1, max_size=1)
    return st.builds(lambda some, free, own, seldom: some | free | (own if seldom else {}), some, free, own, SELDOM)


BENCH = tables({**rules(BenchSettings), "base": base_tables()})
SELECTION = tables(rules(SelectionSettings))
FOLDER = tables({**rules(FolderSettings), "selection": SELECTION, "bench": BENCH})
SECTIONS = {
    "watch": st.lists(st.builds(lambda folder: {"path": "a", **folder}, FOLDER), max_size=2),
    "watching": tables(rules(WatchingSettings)),
    "selection": SELECTION,
    "bench": BENCH,
    "trail": tables(rules(TrailSettings)),
}


def agree(document: dict[str, Any]) -> None:
    """Raise AssertionError if parser and schema differ about `document`."""
    problems = refused(document)
    assert VALIDATOR.is_valid(document) == (not problems), problems


@settings(max_examples=300, deadline=None)
@given(st.fixed_dictionaries({}, optional=SECTIONS))
def test_documents(document: dict[str, Any]) -> None:
    """Parser and schema agree on any document."""
    agree(document)


SHAPES = {"watch": FolderSettings, "watching": WatchingSettings, "selection": SelectionSettings}
SHAPES |= {"bench": BenchSettings, "trail": TrailSettings}


@pytest.mark.parametrize(("section", "name"), [(section, name) for section in SHAPES for name in keys(SHAPES[section])])
@settings(max_examples=50, deadline=None)
@given(st.data())
def test_single_keys(section: str, name: str, data: st.DataObject) -> None:
    """Parser and schema agree on each key alone, so that no other mistake hides a difference."""
    table = {name: data.draw(value_for(keys(SHAPES[section])[name].rule.schema))}
    agree({"watch": [{"path": "a", **table}]} if section == "watch" else {section: table})


@pytest.mark.parametrize("where", KEYS)
@settings(max_examples=50, deadline=None)
@given(st.data())
def test_keys_of_the_base(where: str, data: st.DataObject) -> None:
    """Parser and schema agree on each key that benchd checks for Bench."""
    table, name = where.split(".")
    agree({"bench": {"base": {table: {name: data.draw(value_for(KEYS[where].rule.schema))}}}})


@pytest.mark.parametrize(
    "document",
    [
        {"watch": {"path": "a"}},
        {"watch": [3]},
        {"watch": [{"recursive": True}]},
        {"selection": 3},
        {"nonsense": 1},
        {"bench": {"base": 1}},
        {"bench": {"base": {"model": "m"}}},
        {"bench": {"base": {"provenance": {}}}},
        {"bench": {"base": {"x" * 251: 1}}},
        {"bench": {"base": {"model": {"x" * 251: 1}}}},
        {"bench": {"base": {"note": {"x" * 251: 1}}}},
    ],
)
def test_wrong_shapes(document: dict[str, Any]) -> None:
    """Parser and schema refuse documents with the wrong structure."""
    assert refused(document)
    assert not VALIDATOR.is_valid(document)


def test_the_schema_is_valid() -> None:
    """The schema follows JSON Schema, draft 7, which is the last that Taplo reads."""
    jsonschema.Draft7Validator.check_schema(SCHEMA)
