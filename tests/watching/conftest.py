"""Provide the fixtures that the tests of watching share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchd.folder.folder import Folder
from benchd.settings.keys import FolderSettings
from benchd.watching.inotify import Instances
from listening import Listening, Reading


@pytest.fixture
def heard() -> Listening:
    return Listening()


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Folder]:
    def make(name: str = "inbox") -> Folder:
        (tmp_path / name).mkdir(exist_ok=True)
        settings = FolderSettings(path=str(tmp_path / name), poll_interval=0.05, backend="inotify")
        return Folder(settings, max_bytes=10**6)

    return make


@pytest.fixture
def folder(make_folder: Callable[..., Folder]) -> Folder:
    return make_folder()


@pytest.fixture
def reading() -> Iterator[Reading]:
    reading = Reading()
    yield reading
    for reader in list(reading.readers):
        reading.remove(reader)


@pytest.fixture
def instances(reading: Reading) -> Instances:
    return Instances(reading)
