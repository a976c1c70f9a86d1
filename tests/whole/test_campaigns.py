"""The short form of every campaign against a real daemon."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from campaigns import CAMPAIGNS


@pytest.mark.slow
@pytest.mark.timeout(400)  # each campaign has its own deadlines
@pytest.mark.parametrize("name", CAMPAIGNS)
def test_short_form(name: str, tmp_path: Path) -> None:
    """Each campaign in its short form finds every promise kept (`make campaign` runs the long forms)."""
    assert importlib.import_module(f"campaigns.{name}").run(tmp_path, long=False)
