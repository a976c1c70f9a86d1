"""Provide a folder with one audit."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon import audit
from desk import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def path(desk: Desk) -> Path:
    """Return the only audit in the folder."""
    return desk.add("audit.json", audit(1))
