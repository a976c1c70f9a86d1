"""Provide the fixtures that tests of several packages share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from daemon import Daemon

# On a busy machine the duration of an example has no meaning.
settings.register_profile("benchd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("benchd")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Return a function that starts daemons over `tmp_path / "inbox"`. At the end they must stop cleanly."""
    running: list[Daemon] = []

    def start_one(**options: Any) -> Daemon:
        running.append(Daemon(tmp_path, **options).start())
        return running[-1]

    yield start_one
    try:
        for daemon in running:
            if daemon.running:
                daemon.stop()
    finally:
        for daemon in running:
            daemon.kill()
