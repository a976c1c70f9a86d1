"""Campaigns test the promises of docs/reliability.md.

Each module has `run(place, *, long)`: it works in the empty directory `place`, raises AssertionError if a promise is
broken, and returns figures. The short forms are part of the tests; `make campaign` runs the long ones.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CAMPAIGNS"]

#: In the order of execution.
CAMPAIGNS: Final = ("kill", "overflow", "folder", "disk", "hostile", "fuzz", "two", "soak")
