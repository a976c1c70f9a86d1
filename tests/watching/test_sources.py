"""The choice of the source of events for a folder."""

from __future__ import annotations

import sys
from typing import Literal

import pytest

from benchd.settings.keys import FolderSettings
from benchd.watching.inotify import InotifySource, Instances
from benchd.watching.observer import ObserverSource
from benchd.watching.sources import open_instances, polling_source, source_for, wants_polling
from listening import Listening, Reading

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify")

Backend = Literal["auto", "inotify", "polling"]


@pytest.mark.parametrize(
    ("backend", "is_remote", "expected"),
    [
        ("auto", False, False),
        ("auto", True, True),
        ("inotify", True, False),
        ("polling", False, True),
    ],
)
def test_network_file_systems_are_polled(backend: Backend, is_remote: bool, expected: bool):
    """Network file systems are polled and others are watched, unless the settings say otherwise."""
    settings = FolderSettings(path="/x", backend=backend)
    assert wants_polling(settings, is_remote=lambda _: is_remote) is expected


@pytest.mark.parametrize(("backend", "expected"), [("inotify", "inotify"), ("polling", "polling")])
def test_choice(instances: Instances, heard: Listening, backend: Backend, expected: str):
    """The settings decide the source."""
    assert source_for(FolderSettings(path="/x", backend=backend), heard, instances).backend == expected


def test_without_instances(heard: Listening):
    """If benchd can't use inotify, watchdog's observer watches the folders that need no polling."""
    source = source_for(FolderSettings(path="/x", backend="inotify"), heard, None)
    assert isinstance(source, ObserverSource)
    assert source.backend == "observer"
    assert source_for(FolderSettings(path="/x", backend="polling"), heard, None).backend == "polling"


def test_polling_works_everywhere(heard: Listening):
    """Any folder can be polled."""
    assert polling_source(FolderSettings(path="/x", backend="inotify"), heard).backend == "polling"


def test_instances_of_this_system(reading: Reading, heard: Listening):
    """On Linux there are inotify instances, and none is open before it is needed."""
    instances = open_instances(reading)
    assert instances is not None
    assert isinstance(source_for(FolderSettings(path="/x", backend="inotify"), heard, instances), InotifySource)
    assert reading.readers == []
