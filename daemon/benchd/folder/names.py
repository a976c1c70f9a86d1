"""Which names in a folder are audits', and what benchd calls the files that it writes beside them."""

from __future__ import annotations

from typing import Final

__all__ = ["CONFIG_SUFFIX", "ERROR_SUFFIX", "config_name", "error_name", "is_sidecar"]

CONFIG_SUFFIX: Final = ".bench.json"


ERROR_SUFFIX: Final = ".bench-error.json"


def _stem(audit: str) -> str:
    return audit.removesuffix(".json")


def config_name(audit: str) -> str:
    """`NAME.json` -> `NAME.bench.json`."""
    return _stem(audit) + CONFIG_SUFFIX


def error_name(audit: str) -> str:
    """`NAME.json` -> `NAME.bench-error.json`."""
    return _stem(audit) + ERROR_SUFFIX


def is_sidecar(name: str) -> bool:
    """Whether `name` is one that benchd gives to its own files."""
    return name.endswith((CONFIG_SUFFIX, ERROR_SUFFIX))
