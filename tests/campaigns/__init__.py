"""The promises of reliability, put to the test by campaign: see docs/reliability.md.

Each module has `run(place, *, long)`: it works in the empty directory `place`, fails where a promise is broken,
and returns its figures. The short forms are part of the tests; `make campaign` runs the long ones.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CAMPAIGNS"]

#: In the order in which they are run.
CAMPAIGNS: Final = ("kill", "overflow", "folder", "disk", "hostile", "fuzz", "two", "soak")
