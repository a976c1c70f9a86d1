"""Generate the JSON Schema of the trail's records, and the tables in docs/trail.md, from the records' types."""

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import msgspec

from benchd.trail.records import RECORDS, Record

HEAD: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": "urn:benchd:schema:trail-record:1",
    "title": "Trail record",
    "description": "One line of benchd's audit trail.",
}
EVENT = "The event. It decides the other fields."
TS = {
    "description": "The time in UTC, ISO 8601 with microseconds.",
    "type": "string",
    "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$",
}
CLIPPED = {
    "description": "Present if the record was too long for the journal: its long texts and lists are cut.",
    "const": True,
}

#: The place of the tables in the page.
TABLES = re.compile(r"(?<=<!-- begin generated: records -->\n).*(?=<!-- end generated: records -->\n)", re.DOTALL)


def event_of(record: type[Record]) -> str:
    """Return the name of a type's event."""
    return str(record.__struct_config__.tag)


# --- the schema -----------------------------------------------------------------------------------------------


def levels_of(record: type[Record]) -> list[str]:
    """Return the levels that the event can have, the usual one first."""
    return [record.level, *(kind.level for kind in record.__subclasses__())]


def schema(_old: str) -> str:
    """Return the JSON Schema of a record."""
    _, shapes = msgspec.json.schema_components(RECORDS, ref_template="#/$defs/{name}")
    definitions = {event_of(record): definition(record, shapes.pop(record.__name__)) for record in RECORDS}
    for shape in shapes.values():
        shape["additionalProperties"] = False
    references = {event: f"#/$defs/{event}" for event in definitions}
    whole = {
        **HEAD,
        "type": "object",
        "properties": {"event": {"description": EVENT, "enum": list(definitions)}},
        "required": ["ts", "level", "event"],
        "anyOf": [{"$ref": reference} for reference in references.values()],
        "discriminator": {"propertyName": "event", "mapping": references},
        "$defs": {"ts": TS, "clipped": CLIPPED, **shapes, **definitions},
    }
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def definition(record: type[Record], shape: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of one type's lines: the time and the level come first, `clipped` comes last."""
    levels = sorted(levels_of(record))
    head = {
        "ts": {"$ref": "#/$defs/ts"},
        "level": {"enum": levels} if len(levels) > 1 else {"const": levels[0]},
        "event": {"const": event_of(record)},
    }
    fields = {name: field for name, field in shape["properties"].items() if name != "event"}
    return {
        **shape,
        "properties": {**head, **fields, "clipped": {"$ref": "#/$defs/clipped"}},
        "required": ["ts", "level", *shape["required"]],
    }


# --- the page -------------------------------------------------------------------------------------------------


def page(old: str) -> str:
    """Return the page on the trail with new tables between its markers."""
    whole = json.loads(schema(""))
    text = "\n".join(["", *(line for record in RECORDS for line in section(record, whole["$defs"]))])
    return TABLES.sub(lambda _: text, old)


def section(record: type[Record], definitions: dict[str, Any]) -> Iterator[str]:
    """Return the lines about one event."""
    shape = definitions[event_of(record)]
    yield f"### `{event_of(record)}`"
    yield ""
    levels = " or ".join(f"`{level}`" for level in levels_of(record))
    yield from textwrap.wrap(f"Level: {levels}. {shape['description']}", 100, break_on_hyphens=False)
    yield ""
    yield "| field | type | description |"
    yield "|---|---|---|"
    for name, field in shape["properties"].items():
        if name not in {"ts", "level", "event", "clipped"}:
            optional = "" if name in shape["required"] else " Optional."
            yield f"| `{name}` | {kind(field, definitions)} | {field['description']}{optional} |"
    yield ""


def kind(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return the type of a field in words."""
    if "$ref" in field:
        keys = definitions[field["$ref"].rpartition("/")[2]]["properties"]
        return "object: " + ", ".join(f"`{key}`" for key in keys)
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "array":
        item = kind(field["items"], definitions)
        return f"list of {item.replace('object', 'objects', 1).replace('string', 'strings', 1)}"
    return str(field["type"])
