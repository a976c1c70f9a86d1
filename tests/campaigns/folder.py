"""Folder: whatever happens to a watched folder and its subfolders, every audit that is in it at the end is answered.

The folder is deleted and created again, renamed and replaced, its link switched, unmounted and mounted, closed and
opened to benchd. Subfolders are created, filled, renamed, swapped, moved out and in, and deleted at full speed. The
kernel grants too few watches, or none: benchd must say so, and poll the rest. All scenarios run with inotify and with
polling, as on a network file system.

Each scenario has its own daemon. It ends when every audit in the present folder has the answer to its content. Files
that were moved away, or never were in the folder, are not touched after that. A loss of the folder and its return are
recorded. No thread failed, no file is left, the folder is claimed, and the daemon stops cleanly.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from campaigns.places import (
    PATIENCE,
    ROOT,
    Bound,
    Scene,
    audits_in,
    gone,
    play,
    sidecars_in,
    with_inotify_limits,
    without_rights,
)
from daemon import until

POLLING: Final = 'backend = "polling"\npoll_interval = "200ms"'

LOST, RESTORED = "watch.root_lost", "watch.root_restored"


def run(place: Path, *, long: bool) -> dict[str, int | float | str]:
    """Run every scenario once, or in the long form repeatedly in random order."""
    return play(SCENARIOS, place, long=long)


class _Losses:
    """Counts losses and returns of the folder in the trail."""

    def __init__(self, daemon: Bound) -> None:
        self._daemon = daemon
        self._seen = self._now()

    def _now(self) -> tuple[int, int]:
        return len(self._daemon.records(LOST)), len(self._daemon.records(RESTORED))

    def lost(self) -> None:
        """Wait until one more loss is recorded."""
        until(lambda: self._now()[0] > self._seen[0], PATIENCE, LOST)

    def restored(self) -> None:
        """Wait until one more loss and its return are recorded."""
        self.lost()
        until(lambda: self._now()[1] > self._seen[1] and self._now()[0] == self._now()[1], PATIENCE, RESTORED)
        self._seen = self._now()


def _untouched(scene: Scene, daemon: Bound, *outside: Path, scans: int = 1) -> None:
    """Check that audits outside the watched folder have no answer."""
    known = [sidecars_in(folder) for folder in outside]
    for folder in outside:
        scene.drop(folder, 2)
    # benchd handles these changes before it answers later drops and before the scan ends.
    scene.answered(scene.drop(daemon.folder), "beside drops outside")
    if scans:
        daemon.scans(scans)
    for folder, before in zip(outside, known, strict=True):
        more = sidecars_in(folder) - before
        assert not more, f"answered outside of the watched folder: {more}"


# --- the folder itself -----------------------------------------------------------------------------------------


def _recreated(scene: Scene, **options: Any) -> None:
    """The folder is deleted and created again: later, at once, or while benchd is paused."""
    daemon = scene.daemon(**options).start()
    losses = _Losses(daemon)
    for when in scene.chance.sample(["later", "at once", "at once", "unseen"], 4):
        scene.answered(scene.drop(daemon.folder, 3), "before the folder is deleted")
        with daemon.paused() if when == "unseen" else contextlib.nullcontext():
            gone(daemon.folder)
            if when == "later":
                losses.lost()
            daemon.folder.mkdir()
        scene.answered(scene.drop(daemon.folder, 3), f"in a new folder, {when}")
        if when == "later":
            losses.restored()
    _whole(scene, daemon)


def _replaced(scene: Scene, **options: Any) -> None:
    """The folder is renamed, replaced by other files and folders, and renamed back."""
    daemon = scene.daemon(**options).start()
    losses, old, file = _Losses(daemon), scene.home / "old", scene.home / "file"
    scene.answered(scene.drop(daemon.folder, 3), "before the folder is renamed")
    with daemon.paused():
        daemon.folder.rename(old)
        daemon.folder.mkdir()
    scene.answered(scene.drop(daemon.folder, 3), "in the folder that replaced it")
    losses.restored()
    _untouched(scene, daemon, old)

    daemon.folder.rename(scene.home / "older")
    losses.lost()
    daemon.folder.write_bytes(b"no folder")
    daemon.folder.rename(file)
    scene.drop(old, 2)
    old.rename(daemon.folder)
    scene.answered(audits_in(daemon.folder), "in the folder that is back")
    losses.restored()
    _untouched(scene, daemon, scene.home / "older")
    assert file.read_bytes() == b"no folder"
    _whole(scene, daemon)


def _switched(scene: Scene, **options: Any) -> None:
    """The watched path is a link that is switched from folder to folder, which causes no event."""
    folders = [scene.home / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    link = scene.home / "inbox"
    link.symlink_to(folders[0])
    daemon = scene.daemon(make=False, **options).start()
    losses = _Losses(daemon)
    scene.answered(scene.drop(link, 3), "behind a link")
    for folder, other in (folders[::-1], folders):
        scene.drop(folder, 2)
        (scene.home / "new").symlink_to(folder)
        (scene.home / "new").rename(link)
        scene.drop(link, 2)
        scene.answered(audits_in(folder), "behind a link that was switched")
        losses.restored()
        _untouched(scene, daemon, other)
    _whole(scene, daemon)


def _moved_with_its_parent(scene: Scene, **options: Any) -> None:
    """A folder above the watched one is renamed, which causes no event."""
    above = scene.home / "above"
    (above / "inbox").mkdir(parents=True)
    daemon = scene.daemon(folder=above / "inbox", **options).start()
    losses = _Losses(daemon)
    scene.answered(scene.drop(daemon.folder, 3), "before the parent is renamed")
    above.rename(scene.home / "away")
    losses.lost()
    daemon.folder.mkdir(parents=True)
    scene.answered(scene.drop(daemon.folder, 3), "below a new parent")
    losses.restored()
    _untouched(scene, daemon, scene.home / "away" / "inbox")
    _whole(scene, daemon)


def _remounted(scene: Scene, **options: Any) -> None:
    """The folder is unmounted and mounted again, with an event (last mount) or without one (bind mount)."""
    daemon = scene.daemon(**options)
    shelf, inbox = scene.home / "shelf", daemon.folder
    scene.tmpfs(shelf)
    scene.mount(inbox, "--bind", shelf)
    daemon.start()
    losses = _Losses(daemon)
    scene.answered(scene.drop(inbox, 3), "in a mounted folder")
    scene.unmount(inbox)
    scene.answered(scene.drop(inbox, 3), "in the folder below a mount")
    losses.restored()
    _untouched(scene, daemon, shelf)
    unseen = scene.drop(shelf, 2)
    scene.mount(inbox, "--bind", shelf)
    scene.answered([*scene.drop(inbox, 2), *(inbox / path.name for path in unseen)], "in a folder mounted again")
    losses.restored()

    scene.unmount(shelf)
    scene.unmount(inbox)
    scene.answered(scene.drop(inbox, 3), "in the folder whose file system has ended")
    losses.restored()
    scene.tmpfs(inbox)
    scene.answered(scene.drop(inbox, 3), "in a new file system")
    losses.restored()
    _whole(scene, daemon)


def _closed(scene: Scene, **options: Any) -> None:
    """The folder or a subfolder loses one of the permissions that benchd needs, and gets it back."""
    daemon = scene.daemon(before=without_rights(), **options)
    sub = daemon.folder / "sub"
    sub.mkdir()
    daemon.start()
    losses = _Losses(daemon)
    scene.answered([*scene.drop(daemon.folder, 2), *scene.drop(sub, 2)], "in an open folder")
    with daemon.paused():
        paths = scene.drop(sub, 2)
        sub.chmod(0)

    def said() -> bool:
        return any(str(sub) in record["reason"] for record in daemon.records("watch.degraded"))

    until(said, PATIENCE, "watch.degraded, about the closed subfolder")
    scene.answered(scene.drop(daemon.folder, 2), "beside a closed subfolder")
    sub.chmod(0o755)
    scene.answered(paths, "in a subfolder that was closed")
    for mode in scene.chance.sample([0o000, 0o300, 0o600], 2 if scene.long else 1):
        with daemon.paused():
            paths = [*scene.drop(daemon.folder, 2), *scene.drop(sub, 2)]
            daemon.folder.chmod(mode)
        losses.lost()
        if ROOT:
            paths += scene.drop(daemon.folder, 2)
        daemon.folder.chmod(0o755)
        scene.answered(paths, f"in a folder that had mode {mode:03o}")
        losses.restored()
    _whole(scene, daemon)


# --- subfolders ------------------------------------------------------------------------------------------------


class _Tree:
    """A watched folder with subfolders, a place outside it, and changes that move folders between them."""

    def __init__(self, scene: Scene, daemon: Bound) -> None:
        self._scene = scene
        self._chance = scene.chance
        self._root = daemon.folder
        self.outside = scene.home / "outside"
        self.never = scene.home / "never"
        for folder in (self.outside, self.never):
            folder.mkdir()
        scene.drop(self.never, 3)

    def deed(self) -> None:
        """One change to the tree, chosen at random."""
        deeds: list[Callable[[], None]] = [
            self._make,
            self._make,
            self._drop,
            self._drop,
            self._rewrite,
            self._rename,
            self._swap,
            self._move_out,
            self._move_in,
            self._move_in_new,
            self._delete_and_make,
        ]
        # benchd never removes or moves a folder, but another change may have. A change without a target does not count.
        with contextlib.suppress(FileNotFoundError, FileExistsError, IndexError):
            self._chance.choice(deeds)()
            self._scene.counts["deeds"] += 1

    def _folders(self, of: Path) -> list[Path]:
        return sorted(path for path in of.rglob("*") if path.is_dir())

    def _any(self, of: Path) -> Path:
        return self._chance.choice(self._folders(of))

    def _new(self) -> Path:
        above = self._chance.choice([self._root, *self._folders(self._root)])
        # Few names, so that they are used again.
        return above / f"d{self._chance.randrange(4)}"

    def _make(self) -> None:
        folder = self._new()
        folder.mkdir()
        self._scene.drop(folder, 2)

    def _drop(self) -> None:
        self._scene.drop(self._chance.choice([self._root, *self._folders(self._root)]))

    def _rewrite(self) -> None:
        self._scene.rewrite(self._chance.choice(sorted(audits_in(self._root))))

    def _rename(self) -> None:
        self._move(self._any(self._root), self._new())

    def _swap(self) -> None:
        one, other = self._any(self._root), self._any(self._root)
        if one not in {other, *other.parents} and other not in one.parents:
            between = self._scene.home / "between"
            one.rename(between)
            other.rename(one)
            between.rename(other)

    def _move_out(self) -> None:
        self._scene.number += 1
        self._any(self._root).rename(self.outside / f"out{self._scene.number}")

    def _move_in(self) -> None:
        self._move(self._any(self.outside), self._new())

    def _move_in_new(self) -> None:
        self._scene.number += 1
        folder = self.outside / f"new{self._scene.number}"
        (folder / "deep").mkdir(parents=True)
        self._scene.drop(folder, 2)
        self._scene.drop(folder / "deep", 2)
        self._move(folder, self._new())

    def _delete_and_make(self) -> None:
        folder = self._any(self._root)
        gone(folder)
        folder.mkdir()
        self._scene.drop(folder, 2)

    @staticmethod
    def _move(folder: Path, to: Path) -> None:
        try:
            folder.rename(to)
        except OSError as error:  # into itself, or over another folder
            if error.errno not in {errno.EINVAL, errno.ENOTEMPTY}:
                raise


def _moved(scene: Scene, **options: Any) -> None:
    """Subfolders change faster than events can be read, and no answer waits for the next rescan."""
    daemon = scene.daemon(rescan="60s", **options).start()
    tree = _Tree(scene, daemon)
    never = {path: path.read_bytes() for path in tree.never.rglob("*")}
    for _ in range(3):
        for _ in range(60):
            tree.deed()
        scene.answered(audits_in(daemon.folder), "after subfolders were moved")
    moved_out = [path for path in tree.outside.rglob("*") if path.is_dir()]
    _untouched(scene, daemon, *moved_out, tree.outside, scans=0)
    assert {path: path.read_bytes() for path in tree.never.rglob("*") if path in never} == never
    assert not sidecars_in(tree.never)
    _whole(scene, daemon)


# --- limits ----------------------------------------------------------------------------------------------------


def _few_watches(scene: Scene) -> None:
    """The kernel grants too few watches; benchd says so once, and polls the other subfolders."""
    most = scene.chance.randint(1, 8)
    daemon = scene.daemon(before=with_inotify_limits(watches=most), rescan="60s")
    folders = [daemon.folder / f"d{number}" / "deep" for number in range(6)]
    for folder in folders[:5]:
        folder.mkdir(parents=True)
    daemon.start()
    until(lambda: daemon.records("watch.degraded"), PATIENCE, "watch.degraded")
    folders[5].mkdir(parents=True)
    paths = [path for folder in folders for path in scene.drop(folder, 2)]
    scene.answered(paths, f"with {most} watches for 13 folders")
    # Content of the same size: no event reports it, and no name shows it.
    for path in paths:
        scene.rewrite(path)
    scene.answered(paths, f"written again, with {most} watches for 13 folders")
    folders[4].rename(daemon.folder / "renamed")
    scene.answered(scene.drop(daemon.folder / "renamed"), "in a renamed folder that is polled")
    [record] = daemon.records("watch.degraded")
    assert "max_user_watches" in record["reason"], record
    _whole(scene, daemon)


def _no_inotify(scene: Scene) -> None:
    """The kernel grants no watch or no inotify instance; benchd says so, and polls the folder."""
    limits = scene.chance.choice([{"watches": 0}, {"instances": 0}])
    daemon = scene.daemon(before=with_inotify_limits(**limits), rescan="60s").start()
    (daemon.folder / "sub").mkdir()
    scene.answered([*scene.drop(daemon.folder, 2), *scene.drop(daemon.folder / "sub", 2)], f"with {limits}")
    [record] = daemon.records("watch.degraded")
    assert "inotify" in record["reason"], record
    assert {one["backend"] for one in daemon.records("watch.started")} == {"polling"}
    _whole(scene, daemon)


def _whole(scene: Scene, daemon: Bound) -> None:
    """Check that each content is answered in its place, and that the daemon stops cleanly."""
    scene.whole(daemon.folder)
    scene.ends(daemon)


def _polled(scenario: Callable[..., None]) -> Callable[[Scene], None]:
    return lambda scene: scenario(scene, watch=POLLING)


SCENARIOS: Final[dict[str, Callable[[Scene], None]]] = {
    "deleted and made again": _recreated,
    "renamed and replaced": _replaced,
    "a link switched": _switched,
    "moved with its parent": _moved_with_its_parent,
    "unmounted and mounted": _remounted,
    "closed and opened": _closed,
    "subfolders moved": _moved,
    "few watches": _few_watches,
    "no inotify": _no_inotify,
    "polled, deleted and made again": _polled(_recreated),
    "polled, renamed and replaced": _polled(_replaced),
    "polled, unmounted and mounted": _polled(_remounted),
    "polled, subfolders moved": _polled(_moved),
    "polled, closed and opened": _polled(_closed),
}
