"""Generate `config.toml`, its JSON Schema, and the tables in docs/configuration.md from the settings' declarations."""

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from benchd.settings.base import KEYS, MAX_KEY, OWN_KEYS, TABLES
from benchd.settings.keys import SECTIONS, BenchSettings, FolderSettings, Settings, keys, sections
from benchd.settings.rules import Key

Shape = type[msgspec.Struct]

SHAPES: dict[str, Shape] = {"watch": FolderSettings, **SECTIONS}


def default(shape: Shape, name: str) -> str | None:
    """Return the default of a key as TOML; None if the key has none."""
    [field] = [field for field in msgspec.structs.fields(shape) if field.name == name]
    return None if field.required else keys(shape)[name].rule.write(field.default)


# --- config.toml ----------------------------------------------------------------------------------------------

HEAD = """\
# All settings of benchd, with their defaults. Delete what you don't change: a missing key has its default.
# Check this file with `benchd config --check config.toml`. docs/configuration.md explains each key.
# Relative paths are relative to this file. Durations: "500ms", "2s", "5m", "1h". Sizes: "256MiB", "10MB".
# Editors that use Taplo check and complete this file if its first line is `#:schema PATH`; the schema is
# settings.schema.json in the folder benchd/schemas of the installed package.
"""

#: Examples that follow the keys of a table, because their keys have no defaults.
EXAMPLES = {
    "watch": """
# [watch.selection] and [watch.bench] below a [[watch]] table are for its folder alone:
#
# [watch.selection]
# top_n = 5
""",
    "bench": """
{base}
#
# [bench.base.model]
# name = "distilbert-base-uncased"
#
# [bench.base.task]
# dataset = "glue"
# subset = "sst2"
#
# [bench.base.train]
# seed = 42
# learning_rate = 5e-5
#
# [bench.base.lora]             # the audit supplies probe_r, alpha and target_modules if they are missing here
# dropout = 0.05
""",
}


def config_toml(_: str) -> str:
    """Return `config.toml`: every key with its default and a comment."""
    text = HEAD
    for name, shape in SHAPES.items():
        head = "[[watch]]" if name == "watch" else f"[{name}]"
        text += "\n" + _line(head, sections(Settings)[name].says)
        for key, declared in keys(shape).items():
            value = default(shape, key) or json.dumps(declared.example)
            choices = _choices(declared.rule.schema)
            text += _line(f"{key} = {value}", declared.says + (f": {choices}" if choices else ""))
        base = _line("[bench.base]", sections(BenchSettings)["base"].says).rstrip("\n")
        text += EXAMPLES.get(name, "").replace("{base}", base)
    return text


def _line(code: str, says: str) -> str:
    return f"{code:<32}# {says.replace('`', '')}\n"


def _choices(schema: dict[str, Any]) -> str:
    """Return the strings that a key accepts beside other types, if it accepts several."""
    [choices] = [part["enum"] for part in (schema, *schema.get("anyOf", ())) if "enum" in part] or [[]]
    return ", ".join(map(json.dumps, choices)) if len(choices) > 1 else ""


# --- the JSON Schema ------------------------------------------------------------------------------------------


def schema(_: str) -> str:
    """Return the schema of a settings file, for editors. Taplo supports no draft after 7."""
    folder = _table(FolderSettings, sections(Settings)["watch"].says)
    folder["required"] = ["path"]
    for name, section in sections(FolderSettings).items():
        folder["properties"][name] = _table(SHAPES[name], section.says)
    document = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "$id": "urn:benchd:schema:settings:1",
        "title": "Settings of benchd",
        "type": "object",
        "properties": {"watch": {"type": "array", "items": folder}}
        | {name: _table(shape, sections(Settings)[name].says) for name, shape in SHAPES.items() if name != "watch"},
        "additionalProperties": False,
        "definitions": {"base": _base(), "value": VALUE},
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _table(shape: Shape, says: str) -> dict[str, Any]:
    properties = {name: _property(shape, name, declared) for name, declared in keys(shape).items()}
    if shape is BenchSettings:
        properties["base"] = {"$ref": "#/definitions/base"}
    return {"type": "object", "description": says, "properties": properties, "additionalProperties": False}


def _property(shape: Shape, name: str, declared: Key) -> dict[str, Any]:
    value = default(shape, name)
    found = {"description": declared.says, **declared.rule.schema}
    return found if value is None else {**found, "default": json.loads(value)}


#: Any value that JSON has, too: no dates.
VALUE = {
    "anyOf": [
        {"type": ["string", "number", "boolean"]},
        {"type": "array", "items": {"$ref": "#/definitions/value"}},
        {
            "type": "object",
            "additionalProperties": {"$ref": "#/definitions/value"},
            "propertyNames": {"maxLength": MAX_KEY},
        },
    ]
}


def _base() -> dict[str, Any]:
    tables: dict[str, Any] = {name: {} for name in TABLES}
    for where, declared in KEYS.items():
        table, name = where.split(".")
        tables[table][name] = {"description": declared.says, **declared.rule.schema}
    free = {"additionalProperties": {"$ref": "#/definitions/value"}, "propertyNames": {"maxLength": MAX_KEY}}
    properties: dict[str, Any] = {
        name: {"type": "object", "properties": known, **free} for name, known in tables.items()
    }
    properties |= dict.fromkeys(OWN_KEYS, False)
    return {"type": "object", "description": sections(BenchSettings)["base"].says, "properties": properties, **free}


# --- the tables in docs/configuration.md ----------------------------------------------------------------------


def configuration_page(page: str) -> str:
    """Return the page with new tables between its markers."""
    for name, shape in SHAPES.items():
        page = _replaced(page, name, ["| key | default | accepts | description |", "|---|---|---|---|", *_rows(shape)])
    rows = [f"| `{where}` | {_code(key.rule.accepts)} | {key.says} |" for where, key in KEYS.items()]
    return _replaced(page, "base", ["| key | accepts | description |", "|---|---|---|", *rows])


def _rows(shape: Shape) -> Iterator[str]:
    for name, declared in keys(shape).items():
        value = default(shape, name)
        shown = "required" if value is None else f"`{value}`"
        yield _row(name, shown, _code(declared.rule.accepts), f"{declared.says}. {declared.more}")
    for name, section in sections(shape).items():
        if name not in SHAPES:
            yield _row(name, "`{}`", "tables", f"{section.says}. {section.more}")


def _row(name: str, shown: str, accepts: str, text: str) -> str:
    return f"| `{name}` | {shown} | {accepts} | {text.strip()} |"


def _code(accepts: str) -> str:
    """Return `accepts` with its strings as code."""
    return re.sub(r'("\w+")', r"`\1`", accepts)


def _replaced(page: str, name: str, lines: list[str]) -> str:
    """Return `page` with `lines` between the two markers for `name`."""
    begin, end = f"<!-- begin generated: {name} -->\n", f"<!-- end generated: {name} -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return "".join([before, begin, *(f"{line}\n" for line in lines), end, after])
