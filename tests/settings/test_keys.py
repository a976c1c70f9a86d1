"""The declarations of the settings: every field has one, with a rule that accepts its default."""

from __future__ import annotations

import typing
from typing import Any

import msgspec
import pytest
import tomli

from benchd.settings.keys import (
    BenchSettings,
    FolderSettings,
    SelectionSettings,
    Settings,
    TrailSettings,
    WatchingSettings,
    keys,
    sections,
)

SHAPES = [BenchSettings, FolderSettings, SelectionSettings, Settings, TrailSettings, WatchingSettings]
KEYS = [pytest.param(shape, name, id=f"{shape.__name__}.{name}") for shape in SHAPES for name in keys(shape)]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_field_is_declared(shape: type[msgspec.Struct]) -> None:
    """Each field is a key or a table, except for the origins."""
    assert {*keys(shape), *sections(shape)} == {*shape.__struct_fields__} - {"origins"}


@pytest.mark.parametrize(("shape", "name"), KEYS)
def test_the_default_can_be_written(shape: type[msgspec.Struct], name: str) -> None:
    """A default, written as TOML and parsed by its rule, gives the same value."""
    [field] = [field for field in msgspec.structs.fields(shape) if field.name == name]
    declared = keys(shape)[name]
    value: Any = declared.example if field.required else field.default
    parsed = declared.rule.parse(tomli.loads(f"key = {declared.rule.write(value)}")["key"])
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(("shape", "name"), KEYS)
def test_descriptions(shape: type[msgspec.Struct], name: str) -> None:
    """A description is one line without a full stop, and its additional Markdown is whole sentences."""
    declared = keys(shape)[name]
    assert declared.says[0].isupper()
    assert "\n" not in declared.says + declared.more
    assert not declared.says.endswith(".")
    assert not declared.more or declared.more.endswith(".")


@pytest.mark.parametrize(("shape", "name"), KEYS)
def test_rule_accepts_all_strings_of_the_type(shape: type[msgspec.Struct], name: str) -> None:
    """A rule accepts each string that the type of its field names."""
    hint = typing.get_type_hints(shape)[name]
    for part in (hint, *typing.get_args(hint)):
        if typing.get_origin(part) is typing.Literal:
            assert [keys(shape)[name].rule.parse(word) for word in typing.get_args(part)] == [*typing.get_args(part)]
