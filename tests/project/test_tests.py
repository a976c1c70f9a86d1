"""Tests, campaigns and benchmarks use public names, and seams instead of patched modules."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
FILES = [path for folder in ("tests", "benchmarks") for path in sorted((TOP / folder).rglob("*.py"))]

#: Public names that begin with an underscore, and private names of other projects.
NOT_OURS = {"_exit", "_replace", "_asdict", "_fields", "_make", "_modules", "_analyze_policy_disagreements"}

#: Files that hold a program as a string: `test_house.py` breaks contracts on purpose, in a copy that is never run; this
#: file has samples.
PROGRAMS = {"tests/project/test_house.py", "tests/project/test_tests.py"}


def shown(path: Path) -> str:
    return str(path.relative_to(TOP))


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in NOT_OURS


def private_accesses(tree: ast.AST) -> Iterator[str]:
    """Yield each private name that is read from, imported from or set in another object."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name) if private(name):
                yield f"{node.lineno}: {ast.unparse(node)}"
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] == "benchd":
                yield from (f"{node.lineno}: {module}.{name.name}" for name in names if private(name.name))
            case ast.Call(func=ast.Attribute(attr="setattr" | "delattr") | ast.Name(id="setattr" | "getattr")):
                for argument in node.args:
                    if isinstance(argument, ast.Constant) and private(str(argument.value).rpartition(".")[2]):
                        yield f"{node.lineno}: {ast.unparse(argument)}"


def programs(tree: ast.AST) -> Iterator[str]:
    """Yield each string that imports benchd when it is run."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = re.search(r"(?:^|[;\n])\s*(?:import|from) benchd", node.value)
            if found:
                yield f"{node.lineno}: {node.value[:60]!r}"


def patches(tree: ast.AST) -> Iterator[str]:
    """Yield each `setattr` of a monkeypatch on a name that comes from benchd."""
    ours = {
        (name.asname or name.name).split(".")[0]
        for node in ast.walk(tree)
        for name in getattr(node, "names", ())
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "benchd")
        or (isinstance(node, ast.Import) and name.name.split(".")[0] == "benchd")
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="setattr" | "delattr"), args=[target, *_]):
                root = ast.unparse(target).strip("'\"").split(".")[0]
                if root in ours or root == "benchd":
                    yield f"{node.lineno}: {ast.unparse(node)}"


def found_by(find: Callable[[ast.AST], Iterator[str]], *, except_in: Collection[str] = ()) -> list[str]:
    """Return the place and text of everything that `find` yields."""
    others = [path for path in FILES if shown(path) not in except_in]
    return [f"{shown(path)}:{text}" for path in others for text in find(parsed(path))]


def test_public_names_only() -> None:
    """No test, campaign or benchmark accesses a private name of benchd."""
    assert found_by(private_accesses) == []


def test_no_program_texts() -> None:
    """No test, campaign or benchmark holds a program as a string."""
    assert found_by(programs, except_in=PROGRAMS) == []


def test_no_patches() -> None:
    """No test replaces a name in a module of benchd; tests pass in a replacement."""
    assert found_by(patches) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("folder._clock", 1),
        ("self._clock", 0),
        ("found._replace(a=1)", 0),
        ("from benchd.cli.run import _Summary", 1),
        ("monkeypatch.setattr(batch, '_LARGE', 0)", 1),
        ("monkeypatch.setattr('benchd.answering.batch._LARGE', 0)", 1),
    ],
)
def test_private_names_are_found(text: str, found: int) -> None:
    """An access to a private name is found in each of its forms."""
    assert len(list(private_accesses(ast.parse(text)))) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("code = 'import sys; from benchd.cli import main'", 1),
        ("code = f'{first}\\nimport benchd\\n'", 1),
        ("'benchd imports from benchd'", 0),
    ],
)
def test_programs_are_found(text: str, found: int) -> None:
    """A string that imports benchd is found, also within an f-string."""
    assert len(list(programs(ast.parse(text)))) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from benchd.answering import batch as module\nmonkeypatch.setattr(module, 'decide', fail)", 1),
        ("from benchd.answering import batch\nmonkeypatch.setattr(batch.os, 'open', fail)", 1),
        ("monkeypatch.setattr('benchd.inbox.time', clock)", 1),
        ("import os\nmonkeypatch.setattr(os, 'urandom', bytes)", 0),
    ],
)
def test_patches_are_found(text: str, found: int) -> None:
    """A replaced name is found by the import of its module, or by its dotted path."""
    assert len(list(patches(ast.parse(text)))) == found
