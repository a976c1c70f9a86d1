"""Read the YAML file that `bench.base_file` names into a base. Pure: the caller passes the bytes.

The values are those of `yaml.safe_load`, which Bench itself calls: YAML 1.1. A value that a config can't hold is a
mistake, and its message names the line. PyYAML is imported only to parse a file, because most settings name none.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from benchd.settings.base import MAX_KEY, Base, check, merged
from benchd.settings.rules import shown

if TYPE_CHECKING:
    import yaml

    Loader = yaml.SafeLoader | yaml.CSafeLoader
    Node = yaml.ScalarNode | yaml.SequenceNode | yaml.MappingNode

__all__ = ["MAX_BASE_FILE", "BaseFileError", "parse_base_file"]

#: Maximum bytes of a file, and maximum characters of its content after each alias is replaced by its value.
MAX_BASE_FILE: Final = 2**20

#: Maximum levels of mappings and lists: the document, a table, and 16 below a key of the table, as in `check`.
_MAX_DEPTH: Final = 18

#: Maximum characters of a number. Python parses some notations of YAML in quadratic time.
_MAX_NUMBER: Final = 400

#: Characters that YAML 1.1 does not allow in a file.
_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

#: A number in JSON and TOML that is text in YAML 1.1, because it lacks the point or the sign of the exponent.
_TEXT: Final = re.compile(r"([-+]?[0-9]{1,20})(\.[0-9]{1,20})?\.?[eE]([-+]?)([0-9]{1,3})", re.ASCII)

_YAML: Final = "tag:yaml.org,2002:"
_NUMBERS: Final = frozenset({f"{_YAML}int", f"{_YAML}float"})
_DATE: Final = f"{_YAML}timestamp"
_MERGE: Final = f"{_YAML}merge"

#: The tags that JSON has a type for, by the kind of node.
_TAGS: Final = {
    "scalar": frozenset({f"{_YAML}str", f"{_YAML}bool", f"{_YAML}null", *_NUMBERS}),
    "sequence": frozenset({f"{_YAML}seq"}),
    "mapping": frozenset({f"{_YAML}map"}),
}


class BaseFileError(Exception):
    """Raised if the file can't be used. `problems` has one line for each mistake, with its place in the file."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def parse_base_file(content: bytes) -> Base:
    """Return the base in the file. Raises `BaseFileError` with every mistake."""
    if len(content) > MAX_BASE_FILE:
        raise BaseFileError([f"larger than {MAX_BASE_FILE} bytes"])
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise BaseFileError([f"not UTF-8 at byte {error.start}"]) from None
    forbidden = _FORBIDDEN.search(text)
    if forbidden:
        before = text[: forbidden.start()]
        place = _place(before.count("\n"), len(before) - before.rfind("\n") - 1)
        raise BaseFileError([f"{place}: not valid YAML: the character {forbidden[0]!a} is not allowed"])
    reader = _Constructor(*_compose(text))
    base = reader.read()
    lines = reader.lines
    for mistake in check(base):
        line = f"line {lines[mistake.where]}: " if mistake.where in lines else ""
        reader.problems.append(f"{line}{mistake.where}: {mistake.text}{_hint(mistake.value)}")
    if reader.problems:
        raise BaseFileError(reader.problems)
    return merged({}, base)


def _hint(value: object) -> str:
    """Return how to write a number that YAML reads as text. Empty for any other value."""
    match = _TEXT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return ""
    whole, fraction, sign, exponent = match.groups()
    return f"; YAML reads {value} as text: write {whole}{fraction or '.0'}e{sign or '+'}{exponent}"


def _place(line: int, column: int) -> str:
    """Return the place as words, from a line and a column that count from 0."""
    return f"line {line + 1}, column {column + 1}"


def _at(mark: Any) -> str:
    return _place(mark.line, mark.column)


def _compose(text: str) -> tuple[Loader, Node | None]:
    """Return the loader and the root node of the document. Raises `BaseFileError`."""
    import yaml  # noqa: PLC0415 - only settings that name a file need it

    loader_type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader_type):  # checked before this module or PyYAML recurses
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > _MAX_DEPTH:
                raise BaseFileError([f"{_at(event.start_mark)}: more than {_MAX_DEPTH} levels of mappings and lists"])
        loader = loader_type(text)
        root: Any = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        place = f"{_at(error.problem_mark)}: " if error.problem_mark else ""
        raise BaseFileError([f"{place}not valid YAML: {error.problem}"]) from None
    except (ValueError, OverflowError) as error:  # an escape or a version with a number out of range
        raise BaseFileError([f"not valid YAML: {error}"]) from None
    return loader, root


class _Constructor:
    """Converts nodes to the values of `yaml.safe_load`, and collects the mistakes."""

    def __init__(self, loader: Loader, root: Node | None) -> None:
        self.problems: list[str] = []
        #: Maps each dotted key of the first two levels to its line.
        self.lines: dict[str, int] = {}
        self._loader = loader
        self._root = root
        self._left = MAX_BASE_FILE
        self._open: set[int] = set()
        self._refused: set[int] = set()

    def read(self) -> dict[str, Any]:
        """Return the document, which must be a mapping. A value with a mistake becomes None."""
        if self._root is None:
            raise BaseFileError(["it is empty; expected a mapping with Bench's tables"])
        value = self._value(self._root, "", 1)
        if isinstance(value, dict):
            return value
        raise BaseFileError(self.problems or [f"expected a mapping with Bench's tables, got {shown(value)}"])

    def _problem(self, node: Node, where: str, text: str) -> None:
        """Record a mistake, once per node: several aliases may refer to one node."""
        if id(node) not in self._refused:
            self._refused.add(id(node))
            place = f"line {node.start_mark.line + 1}: {where}" if where else _at(node.start_mark)
            self.problems.append(f"{place}: {text}")

    def _value(self, node: Node, where: str, depth: int) -> Any:
        """Return the value of `node`, or None for a mistake."""
        self._left -= 1 + (len(node.value) if node.id == "scalar" else 0)
        if self._left < 0:
            raise BaseFileError(
                [*self.problems, f"with every alias replaced it is larger than {MAX_BASE_FILE} characters"]
            )
        if id(node) in self._refused:
            return None
        if node.tag not in _TAGS[node.id]:
            self._problem(node, where, _unlike_json(node))
        elif node.id == "scalar":
            return self._scalar(node, where)
        elif id(node) in self._open:
            self._problem(node, where, "an alias in it refers to the value itself, without end")
        elif depth > _MAX_DEPTH:
            self._problem(node, where, f"more than {_MAX_DEPTH} levels of mappings and lists")
        else:
            self._open.add(id(node))
            try:
                return self._mapping(node, where, depth) if node.id == "mapping" else self._list(node, where, depth)
            finally:
                self._open.remove(id(node))
        return None

    def _scalar(self, node: Node, where: str) -> Any:
        if node.tag in _NUMBERS and len(node.value) > _MAX_NUMBER:
            self._problem(node, where, f"expected a number, got one of {len(node.value)} characters")
            return None
        try:
            return self._loader.construct_object(node)
        except (ValueError, LookupError, OverflowError):  # `!!int x`, `0b_`
            self._problem(node, where, f"{shown(node.value)} is not a valid {_type_name(node)}")
            return None

    def _list(self, node: Node, where: str, depth: int) -> list[Any]:
        return [self._value(item, f"{where}[{index}]", depth + 1) for index, item in enumerate(node.value)]

    def _mapping(self, node: Node, where: str, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                for source in reversed(value.value) if value.id == "sequence" else [value]:
                    values.update(self._merged(source, where, depth))
        first: dict[str, int] = {}
        for key, value in node.value:
            if key.tag != _MERGE:
                name = self._key(key, where)
                if name is None:
                    continue
                place = f"{where}.{name}" if where else name
                if name in first:
                    self._problem(key, place, f"duplicate key; the first is in line {first[name]}")
                    continue
                first[name] = key.start_mark.line + 1
                if depth <= 2:
                    self.lines[place] = first[name]
                values[name] = self._value(value, place, depth + 1)
        return values

    def _merged(self, source: Node, where: str, depth: int) -> dict[str, Any]:
        """Return the keys that `<<` brings from `source`."""
        value = self._value(source, where, depth)
        if isinstance(value, dict):
            return value
        self._problem(source, where, "expected a mapping, or a list of mappings, after <<")
        return {}

    def _key(self, node: Node, where: str) -> str | None:
        below = f"{where}: " if where else ""
        if node.tag != f"{_YAML}str":
            got = f"{shown(node.value)}; put it in quotes" if node.id == "scalar" else f"a {_type_name(node)}"
            self._problem(node, "", f"{below}expected a key that is text, got {got}")
        elif len(node.value) > MAX_KEY:
            self._problem(node, "", f"{below}expected a key of at most {MAX_KEY} characters, got {len(node.value)}")
        else:
            self._left -= 1 + len(node.value)
            return str(node.value)
        return None


def _type_name(node: Node) -> str:
    return str(node.tag).removeprefix(_YAML)[:60]


def _unlike_json(node: Node) -> str:
    """Return what is wrong with a node whose type JSON lacks."""
    if node.tag == _DATE:
        return f"{shown(node.value)} is a date, which JSON doesn't have; in quotes it is text"
    if node.id == "scalar" and node.value in {"=", "<<"}:
        return f"{shown(node.value)} has a special meaning in YAML; in quotes it is text"
    return f"JSON has no type for YAML's {_type_name(node)}"
