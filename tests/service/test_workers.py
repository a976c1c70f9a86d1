"""The assignment of folders to loops."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchd.folder.folder import Folder
from benchd.service.loop import Counts, Loop
from benchd.service.workers import Workers
from benchd.settings.keys import FolderSettings, WatchingSettings
from benchd.trail.sinks import TrailFile
from benchd.trail.trail import Trail
from daemon import answers, audit, until


class Slow(Folder):
    """A folder on a file server that hangs until `release` is set."""

    def __init__(self, settings: FolderSettings) -> None:
        super().__init__(settings, max_bytes=10**6)
        self.release = threading.Event()

    def open(self, relative: str = "") -> int:
        self.release.wait(20)
        return super().open(relative)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Workers]]:
    every: list[Workers] = []

    def make_one(*, workers: int = 2, **options: Any) -> Workers:
        trail = Trail(TrailFile(str(tmp_path / "trail.jsonl")), level="debug")
        every.append(Workers(WatchingSettings(settle=0.0, workers=workers), trail, Counts(), **options))
        return every[-1]

    yield make_one
    for one in every:
        one.stop()
        alive = any(thread.is_alive() for thread in one.threads)
        assert not alive or one.join(5)


def settings(home: Path, name: str, *, polled: bool = False) -> FolderSettings:
    """Return the settings of a folder that is polled or watched through inotify."""
    (home / name).mkdir()
    return FolderSettings(path=str(home / name), backend="polling" if polled else "inotify")


def drop(loop: Loop, folder: Folder, name: str = "a.json") -> Path:
    """Drop an audit, and put a hint about it, as an event would."""
    path = Path(folder.path) / name
    path.write_bytes(audit())
    assert loop.inbox.put(folder, [(name, "closed")])
    return path


def test_one_loop_with_the_gil(make: Callable[..., Workers], tmp_path: Path):
    """With the GIL all folders on inotify share a loop and its instances."""
    workers = make(workers=4, has_gil=True)
    first, second = (workers.loop_for(settings(tmp_path, name)) for name in "ab")
    assert first == second
    assert first[1] is not None
    assert workers.loops == [first[0]]


def test_several_loops_without_the_gil(make: Callable[..., Workers], tmp_path: Path):
    """Without the GIL the folders are spread over as many loops as there are workers."""
    workers = make(workers=2, has_gil=False)
    pairs = [workers.loop_for(settings(tmp_path, name)) for name in "abcde"]
    loops = [loop for loop, _ in pairs]
    assert loops[0] is not loops[1]
    assert loops == [loops[number % 2] for number in range(5)]
    assert pairs[0][1] is not pairs[1][1]
    assert workers.loops == loops[:2]


def test_polled_folder_has_its_own_loop(make: Callable[..., Workers], tmp_path: Path):
    """A file server that hangs delays no other folder, whether polled or on inotify."""
    workers = make(has_gil=True)
    hanging = settings(tmp_path, "hanging", polled=True)
    others = [settings(tmp_path, "polled", polled=True), settings(tmp_path, "watched")]
    workers.start()
    loop, instances = workers.loop_for(hanging)
    assert instances is None
    slow = Slow(hanging)
    try:
        late = drop(loop, slow)
        until(lambda: loop.busy_since is not None)
        for other in others:
            path = drop(workers.loop_for(other)[0], Folder(other, max_bytes=10**6))
            until(lambda path=path: answers(path))
        assert not answers(late)
        until(lambda: workers.waiting() == (1, 0))
    finally:
        slow.release.set()
    until(lambda: answers(late))


def test_loops_made_later_start_at_once(make: Callable[..., Workers], tmp_path: Path):
    """A loop that a reload creates is started, and all threads have names."""
    workers = make()
    first, _ = workers.loop_for(settings(tmp_path, "a"))
    assert not first.thread.is_alive()
    workers.start()
    assert first.thread.is_alive()
    later, _ = workers.loop_for(settings(tmp_path, "b", polled=True))
    assert later.thread.is_alive()
    assert {thread.name for thread in workers.threads} == {
        "benchd-loop-0",
        f"benchd-loop {tmp_path / 'b'}",
        "benchd-large",
    }


def test_release(make: Callable[..., Workers], tmp_path: Path):
    """The loop of a polled folder ends with its folder, and a shared loop continues."""
    workers = make()
    polled, watched = settings(tmp_path, "a", polled=True), settings(tmp_path, "b")
    own, shared = workers.loop_for(polled)[0], workers.loop_for(watched)[0]
    workers.start()
    workers.release(own.inbox)
    workers.release(shared.inbox)
    own.thread.join(5)
    assert not own.thread.is_alive()
    assert workers.loops == [shared]
    assert shared.thread.is_alive()


def test_join(make: Callable[..., Workers], tmp_path: Path):
    """All threads end after a stop, and `join` does not wait longer than asked for one that hangs."""
    workers = make()
    hanging = settings(tmp_path, "a", polled=True)
    slow = Slow(hanging)
    loop, _ = workers.loop_for(hanging)
    workers.loop_for(settings(tmp_path, "b"))
    workers.start()
    try:
        drop(loop, slow)
        until(lambda: loop.busy_since is not None)
        workers.stop()
        assert not workers.join(0.01)
    finally:
        slow.release.set()
    assert workers.join(5)


@pytest.mark.parametrize("lack", [ImportError("cannot import name 'inotify_init'"), AttributeError("IN_ONLYDIR")])
def test_another_watchdog(make: Callable[..., Workers], tmp_path: Path, lack: Exception):
    """If watchdog lacks names for inotify, one record at the start says so, and its observer is used."""

    def lacking(_: object) -> None:
        raise lack

    trail = tmp_path / "trail.jsonl"
    workers = make(workers=3, has_gil=False, open_instances=lacking)
    assert [workers.loop_for(settings(tmp_path, name))[1] for name in "ab"] == [None, None]
    assert not trail.exists()
    workers.start()
    assert workers.loop_for(settings(tmp_path, "c"))[1] is None
    [record] = map(json.loads, trail.read_bytes().splitlines())
    assert (record["event"], record["root"], record["instead"]) == ("watch.degraded", "", "watchdog's observer")
    assert str(lack) in record["reason"]


def test_another_watchdog_after_a_reload(make: Callable[..., Workers], tmp_path: Path):
    """If a reload adds the first folder on inotify, the record is written at the reload."""

    def lacking(_: object) -> None:
        raise ImportError("inotify_init")

    workers = make(open_instances=lacking)
    workers.start()
    trail = tmp_path / "trail.jsonl"
    assert not trail.exists()
    workers.loop_for(settings(tmp_path, "a"))
    assert trail.read_bytes().count(b"watch.degraded") == 1
