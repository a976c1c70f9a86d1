"""Provide a folder over an empty directory, and its open descriptor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchd.folder.folder import Folder
from benchd.settings.keys import FolderSettings


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Folder]:
    """Return a function that makes a `Folder` over `tmp_path`. Unknown options are settings of the folder."""

    def make_folder(of: type[Folder] = Folder, *, max_bytes: int = 10**6, **options: Any) -> Folder:
        own = {key: options.pop(key) for key in ("nested", "memory", "clock") if key in options}
        return of(FolderSettings(path=str(tmp_path), **options), max_bytes=max_bytes, **own)

    return make_folder


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    """Return an open descriptor of `tmp_path`."""
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)
