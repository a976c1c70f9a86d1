"""Recognise the names of audits in a folder, and build the names of their sidecars."""

from __future__ import annotations

import fnmatch
import re
from typing import Final

from benchd.settings.keys import FolderSettings

__all__ = ["CONFIG_SUFFIX", "ERROR_SUFFIX", "NAME_MAX", "Names", "config_name", "error_name", "is_sidecar"]

CONFIG_SUFFIX: Final = ".bench.json"
ERROR_SUFFIX: Final = ".bench-error.json"

#: Maximum bytes of a name in most file systems.
NAME_MAX: Final = 255


def config_name(audit: str) -> str:
    """Return the name of an audit's config: `NAME.json` -> `NAME.bench.json`."""
    return audit.removesuffix(".json") + CONFIG_SUFFIX


def error_name(audit: str) -> str:
    """Return the name of an audit's error report: `NAME.json` -> `NAME.bench-error.json`."""
    return audit.removesuffix(".json") + ERROR_SUFFIX


def is_sidecar(name: str) -> bool:
    """Return whether `name` is that of a config or an error report."""
    return name.endswith((CONFIG_SUFFIX, ERROR_SUFFIX))


class Names:
    """The name rules of one folder. All paths are relative to it. `nested` are the watched folders inside it."""

    def __init__(self, settings: FolderSettings, nested: frozenset[str] = frozenset()) -> None:
        self._is_recursive = settings.recursive
        self._nested = nested
        self._wanted_names, self._wanted_paths = _compiled(settings.patterns)
        self._ignored_names, self._ignored_paths = _compiled(settings.ignore)

    def wants(self, path: str) -> bool:
        """Return whether the file may be an audit: it matches the patterns, and is neither hidden nor a sidecar."""
        name = path.rpartition("/")[2]
        return not name.startswith(".") and not is_sidecar(name) and self.matches(name, path)

    def matches(self, name: str, path: str) -> bool:
        """Return whether the file `name` matches `patterns`, but not `ignore`."""
        if not (self._wanted_names.match(name) or self._wanted_paths.match(path)):
            return False
        return not (self._ignored_names.match(name) or self._ignored_paths.match(path))

    def enters(self, path: str) -> bool:
        """Return whether the directory is watched too. Hidden, ignored and separately watched ones are not."""
        name = path.rpartition("/")[2]
        if not self._is_recursive or name.startswith(".") or path in self._nested:
            return False
        return not (self._ignored_names.match(name) or self._ignored_paths.match(path))


def _compiled(patterns: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return shell patterns as two expressions: one for names, and one for paths (the patterns with a slash)."""
    names = [fnmatch.translate(pattern) for pattern in patterns if "/" not in pattern]
    paths = [fnmatch.translate(pattern.strip("/")) for pattern in patterns if "/" in pattern]
    return re.compile("|".join(names) or r"(?!)"), re.compile("|".join(paths) or r"(?!)")
