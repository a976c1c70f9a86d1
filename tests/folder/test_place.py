"""One open directory of a watched folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchd.folder.files import Vanished
from benchd.folder.folder import Folder
from benchd.folder.place import Place
from daemon import audit, config_of, report_of
from limits import no_descriptors

Make = Callable[..., Folder]


@pytest.fixture
def folder(make: Make, tmp_path: Path) -> Folder:
    (tmp_path / "sub").mkdir()
    return make()


@pytest.fixture
def opened(folder: Folder) -> Iterator[Callable[[str], Place]]:
    """Return a function that opens directories of the folder."""
    places: list[Place] = []

    def open_place(below: str) -> Place:
        places.append(Place.open(folder, below))
        return places[-1]

    yield open_place
    for place in places:
        os.close(place.descriptor)


@pytest.mark.parametrize("below", ["", "sub"])
def test_open(opened: Callable[[str], Place], tmp_path: Path, below: str) -> None:
    """A place has its path, its device and the adapter's file."""
    path = tmp_path / below
    place = opened(below)
    assert os.path.samestat(os.fstat(place.descriptor), path.stat())
    assert place.shown == f"{path}/"
    assert place.device == path.stat().st_dev
    assert (place.adapter, place.claimed) == (None, set())


def test_group(opened: Callable[[str], Place], tmp_path: Path) -> None:
    """A place has the group for new files, unless they get it anyway."""
    assert opened("").group == (None if tmp_path.stat().st_gid == os.getegid() else tmp_path.stat().st_gid)
    if os.geteuid() == 0:
        os.chown(tmp_path / "sub", -1, 12345)
        assert opened("sub").group == 12345


def test_adapter(opened: Callable[[str], Place], tmp_path: Path) -> None:
    """The adapter's file is read when the place is opened."""
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    place = opened("")
    assert place.adapter is not None
    (tmp_path / "a.json").write_bytes(audit())
    assert place.find("a.json").beside.adapter is place.adapter


@pytest.mark.parametrize("below", ["gone", "sub/gone", "file", "link", "link/deep"])
def test_vanished(folder: Folder, tmp_path: Path, below: str) -> None:
    """Opening a directory that is missing, or was replaced by a file or a link, raises `Vanished`."""
    (tmp_path / "file").touch()
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(Vanished):
        Place.open(folder, below)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_trouble_of_the_system(make: Make, number: int) -> None:
    """Other errors are raised unchanged."""

    class Failing(Folder):
        def open(self, relative: str = "") -> int:
            raise OSError(number, os.strerror(number))

    with pytest.raises(OSError, match=os.strerror(number)):
        Place.open(make(Failing), "")


def test_too_many_links(make: Make) -> None:
    """Opening a directory that the system reports as a link raises `Vanished`."""

    class Looping(Folder):
        def open(self, relative: str = "") -> int:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))

    with pytest.raises(Vanished):
        Place.open(make(Looping), "")


def test_leaks_nothing(make: Make, tmp_path: Path) -> None:
    """If reading the adapter's file fails because descriptors are missing, the directory is closed."""
    (tmp_path / "adapter_config.json").write_text("{}")
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)

    class Open(Folder):
        """Opens the directory before the descriptors run out."""

        def open(self, relative: str = "") -> int:
            return descriptor

    with no_descriptors(), pytest.raises(OSError, match="Too many open files"):
        Place.open(make(Open), "")
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(descriptor)


class TestFind:
    def test_without_sidecars(self, opened: Callable[[str], Place], tmp_path: Path) -> None:
        """An audit without sidecars is found with its names and its `stat`."""
        path = tmp_path / "a.json"
        path.write_bytes(audit())
        entry = opened("").find("a.json")
        assert entry[:4] == ("a.json", "a.bench.json", "a.bench-error.json", path.stat())
        assert entry.beside == (None, None, None)

    def test_with_sidecars(self, opened: Callable[[str], Place], tmp_path: Path) -> None:
        """An audit is found with its config and report."""
        path = tmp_path / "a.json"
        for file in (path, config_of(path), report_of(path)):
            file.write_bytes(file.name.encode())
        entry = opened("").find("a.json")
        assert entry.beside.config == (b"a.bench.json", config_of(path).stat())
        assert entry.beside.report == (b"a.bench-error.json", report_of(path).stat())

    def test_missing(self, opened: Callable[[str], Place]) -> None:
        """Finding a missing audit raises `Vanished`."""
        with pytest.raises(Vanished):
            opened("").find("a.json")
