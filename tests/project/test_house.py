"""The dependencies between the packages, and rules that the contracts in `pyproject.toml` can't express."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PACKAGE = TOP / "daemon" / "benchd"
PURE = ("audit/*.py", "selection/*.py", "bench/*.py", "settings/*.py")
IMPURE_CALLS = {"open", "exec", "eval", "compile", "input", "print", "__import__", "breakpoint"}

LINTER = Path(sys.executable).with_name("lint-imports")


def lint(top: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(top / "daemon")}
    return subprocess.run([LINTER, "--no-cache"], cwd=top, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", [path for glob in PURE for path in PACKAGE.glob(glob)], ids=lambda path: path.stem)
def test_pure_modules_call_nothing_impure(path: Path) -> None:
    """No pure module opens a file, runs code from a string, or prints; the import contracts can't see these calls."""
    calls = [node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    assert not IMPURE_CALLS & {call.id for call in calls if isinstance(call, ast.Name)}


@pytest.mark.skipif(not LINTER.exists(), reason="import-linter is not installed")
@pytest.mark.parametrize(
    ("module", "imported", "contract"),
    [
        ("selection/ladder.py", "os", "The pure packages touch"),
        ("watching/sources.py", "benchd.audit.audit", "Watching knows nothing of audits"),
        ("folder/names.py", "benchd.answering.case", "Layers"),
        ("inbox.py", "watchdog.events", "Only watching imports watchdog"),
        ("audit/values.py", "benchd.audit.audit", "No package imports itself in a circle"),
        ("cli/explain.py", "benchd.cli.export", "Commands don't know each other"),
    ],
)
def test_broken_contracts_are_found(tmp_path: Path, module: str, imported: str, contract: str) -> None:
    """`lint-imports`, a part of `make check`, fails for an import against an arrow and names the contract."""
    shutil.copytree(TOP / "daemon", tmp_path / "daemon", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(TOP / "pyproject.toml", tmp_path)
    path = tmp_path / "daemon" / "benchd" / module
    path.write_text(path.read_text(encoding="utf-8") + f"\nimport {imported}\n", encoding="utf-8")
    found = lint(tmp_path)
    broken = [row for row in found.stdout.splitlines() if row.startswith(contract) and "BROKEN" in row]
    assert (found.returncode, bool(broken)) == (1, True), found.stdout + found.stderr
