"""Disk and limits: an answer that can't be written is retried, and written once the cause is gone.

The disk is full, has no inodes, is over its quota, read-only, forbidden to benchd, or fails at any call. Descriptors
run out, names leave no room for the config's name, the trail is full, deleted or fails, the clock jumps. Where possible
the cause is real: small file systems in memory, a loop device on a full disk, a Btrfs quota, limits of the process.
Other causes are injected: a file says which calls of the daemon's process fail and how its clock is set.

Each scenario has its own daemon. While the cause lasts there is no config, not even a part of one, and each failure is
recorded with a growing delay until the next attempt. Afterwards every audit is answered, and each answer has a record
in the trail or on standard error. No temporary file is left, no thread has failed, and the daemon stops cleanly.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import resource
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from campaigns.places import (
    BALLAST,
    PATIENCE,
    Bound,
    Faults,
    Scene,
    audits_in,
    command,
    needs,
    play,
    with_inotify_limits,
    without_rights,
)
from daemon import config_of, report_of, reports, until

DAY: Final = 86_400.0


def run(place: Path, *, long: bool) -> dict[str, int | float | str]:
    """Run every scenario once, or in the long form repeatedly in random order."""
    return play(SCENARIOS, place, long=long)


def _failing(
    scene: Scene,
    daemon: Bound,
    paths: Iterable[Path],
    number: int,
    event: str = "config.write_failed",
    *,
    attempts: int | None = None,
) -> None:
    """Wait until one of these audits has failed several times with this error, at growing intervals."""
    names = {str(path) for path in paths}
    attempts = attempts or (scene.chance.randint(2, 4) if scene.long else 2)

    def failures() -> list[dict[str, Any]]:
        return [record for record in daemon.everything(event) if record["audit"] in names]

    until(lambda: any(one["attempt"] >= attempts for one in failures()), PATIENCE, f"{event}, {attempts} times")
    for name in names:
        own = sorted((one["attempt"], one["retry_in_s"]) for one in failures() if one["audit"] == name)
        assert [attempt for attempt, _ in own] == list(range(1, len(own) + 1)), f"attempts of {name}: {own}"
        delays = [delay for _, delay in own]
        assert all(later > earlier for earlier, later in itertools.pairwise(delays)), f"not growing: {delays}"
    reasons = {record["error"] for record in failures()}
    assert all(os.strerror(number) in reason for reason in reasons), reasons


def _ends(scene: Scene, daemon: Bound, *, quiet: bool = True) -> None:
    """Check that all audits are answered and recorded, no file is left, and the daemon stops cleanly."""
    scene.whole(daemon.folder)
    recorded = {(one["audit"], one["audit_sha256"]) for one in daemon.everything("audit.selected")}
    for path in audits_in(daemon.folder):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert (str(path), digest) in recorded, f"the config of {path} has no record"
        assert not os.path.exists(report_of(path)), f"{path} has two answers"
    scene.ends(daemon, quiet=quiet)


# --- no room ---------------------------------------------------------------------------------------------------


def _fill(ballast: Path, *, spare: int = 0) -> None:
    """Fill the disk with `ballast`, except for `spare` pages."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    if spare:
        os.truncate(ballast, max(0, ballast.stat().st_size - 4096 * spare))


def _full(scene: Scene) -> None:
    """The disk is full, or has room for one or two answers, at the start or later."""
    early = scene.chance.random() < 0.5
    # Scans remove unfinished files. Rare scans show that none is left.
    daemon = scene.daemon(durable=scene.chance.random() < 0.5, rescan="500ms" if early else "60s")
    scene.tmpfs(daemon.folder, size="1m")
    ballast = daemon.folder / BALLAST
    if early:
        _fill(ballast)
    daemon.start()
    if early:
        assert daemon.records("watch.degraded"), "no record that the folder can't be claimed"
        ballast.unlink()
    scene.answered(scene.drop(daemon.folder, 3), "with room")
    with daemon.paused():
        paths = scene.drop(daemon.folder, 10)
        _fill(ballast, spare=scene.chance.randrange(3))
    _failing(scene, daemon, paths, errno.ENOSPC)
    ballast.unlink()
    scene.answered(paths, "with room again")
    _ends(scene, daemon)


def _no_inodes(scene: Scene) -> None:
    """The disk has room, but no inode."""
    daemon = scene.daemon(rescan="60s")
    scene.tmpfs(daemon.folder, nr_inodes=64)
    daemon.start()
    with daemon.paused():
        paths = scene.drop(daemon.folder, 10)
        ballast = [daemon.folder / f"{BALLAST}-{number}" for number in range(64)]
        with contextlib.suppress(OSError):
            for file in ballast:
                file.touch()
    _failing(scene, daemon, paths, errno.ENOSPC)
    for file in ballast:
        file.unlink(missing_ok=True)
    scene.answered(paths, "with inodes again")
    _ends(scene, daemon)


def _quota(scene: Scene) -> None:
    """The quota of a Btrfs subvolume, which binds root too, is used up."""
    daemon = scene.daemon(rescan="60s", make=False, folder=scene.home / "disk" / "inbox")
    image, disk, inbox = scene.home / "image", scene.home / "disk", daemon.folder
    with image.open("wb") as file:
        file.truncate(128 * 2**20)
    needs("mkfs.btrfs", "-q", image)
    scene.mount(disk, "-o", "loop", image)
    needs("btrfs", "subvolume", "create", inbox)
    needs("btrfs", "quota", "enable", disk)
    daemon.start()
    with daemon.paused():
        paths = scene.drop(inbox, 10)
        command("btrfs", "qgroup", "limit", "1M", inbox)
        _fill(inbox / BALLAST)
    _failing(scene, daemon, paths, errno.EDQUOT)
    command("btrfs", "qgroup", "limit", "none", inbox)
    scene.answered(paths, "with a quota again")
    _ends(scene, daemon)


def _thin(scene: Scene) -> None:
    """The disk below a loop device is full, so that writes succeed and flushes fail."""
    daemon = scene.daemon(rescan="60s", durable=True)
    below = scene.home / "below"
    scene.tmpfs(below, size="6m")
    with (below / "image").open("wb") as file:
        file.truncate(64 * 2**20)
    # Metadata has its room from the start, but file contents have none.
    options = "-q -b 4096 -N 256 -O ^has_journal -E lazy_itable_init=0,nodiscard"
    needs("mkfs.ext4", *options.split(), below / "image")
    scene.mount(daemon.folder, "-o", "loop", below / "image")
    daemon.start()
    scene.answered(scene.drop(daemon.folder, 3), "on a device with room")
    with daemon.paused():
        paths = scene.drop(daemon.folder, 10)
        command("sync", "--file-system", daemon.folder)
        _fill(below / "ballast")
    _failing(scene, daemon, paths, errno.ENOSPC)
    assert not any(config_of(path).exists() for path in paths), "a config is visible that is not on the disk"
    (below / "ballast").unlink()
    scene.answered(paths, "on a device with room again")
    _ends(scene, daemon)


# --- no right, no descriptor, no name --------------------------------------------------------------------------


def _read_only(scene: Scene) -> None:
    """The folder is read-only for benchd alone, as in a sandbox, or for all, and later writable."""
    daemon = scene.daemon()
    shelf, inbox = scene.home / "shelf", daemon.folder
    scene.tmpfs(shelf)
    scene.mount(inbox, "--bind", shelf)
    daemon.start()
    scene.answered(scene.drop(inbox, 3), "in a writable folder")
    if scene.chance.random() < 0.5:
        point, how = inbox, "remount,bind"
        command("mount", "-o", f"{how},ro", point)
        names = [path.name for path in scene.drop(shelf, 10)]
    else:
        point, how = shelf, "remount"
        with daemon.paused():
            names = [path.name for path in scene.drop(shelf, 10)]
            command("mount", "-o", f"{how},ro", point)
    paths = [inbox / name for name in names]
    _failing(scene, daemon, paths, errno.EROFS)
    command("mount", "-o", f"{how},rw", point)
    scene.answered(paths, "in a folder that is writable again")
    _ends(scene, daemon)


def _forbidden(scene: Scene) -> None:
    """Benchd may not write into the folder, may not read audits, or gets read errors from the device."""
    faults = Faults(scene.home / "faults")
    daemon = scene.daemon(before=without_rights(), faults=faults, durable=scene.chance.random() < 0.5).start()
    with daemon.paused():
        paths = scene.drop(daemon.folder, 10)
        daemon.folder.chmod(0o555)
    _failing(scene, daemon, paths, errno.EACCES)
    daemon.folder.chmod(0o755)
    scene.answered(paths, "in a folder that may be written into again")
    sub = daemon.folder / "sub"
    sub.mkdir()
    with daemon.paused():
        paths = scene.drop(daemon.folder, 3)
        for path in paths:
            path.chmod(0)
        faults.on("read", errno.EIO, sub)
        lost = scene.drop(sub, 3)
    until(lambda: all(reports(path, "unreadable") for path in paths), PATIENCE, "audits of mode 000 are unreadable")
    until(lambda: all(reports(path, "unreadable") for path in lost), PATIENCE, "audits that fail to be read are too")
    for path in paths:
        path.chmod(0o644)
    scene.counts["calls that failed"] += faults.off()
    scene.answered([*paths, *lost], "once they can be read")
    _ends(scene, daemon)


def _no_descriptors(scene: Scene) -> None:
    """The daemon has no or one descriptor left, and later enough."""
    daemon = scene.daemon().start()
    scene.answered(scene.drop(daemon.folder, 3), "with descriptors")
    before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    with daemon.paused():
        # Descriptors that the daemon keeps. A scan may be running.
        held = {int(file.name): os.readlink(file) for file in Path(f"/proc/{daemon.pid}/fd").iterdir()}
        used = {number for number, file in held.items() if not file.startswith(str(daemon.folder))}
        free = (number for number in range(len(used) + 9) if number not in used)
        soft = [next(free) for _ in range(2)][scene.chance.randrange(2)]
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (soft, before[1]))
        paths = scene.drop(daemon.folder, 10)
    _failing(scene, daemon, paths, errno.EMFILE, "audit.failed")
    (daemon.folder / "sub").mkdir()
    paths += scene.drop(daemon.folder / "sub", 3)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, before)
    scene.answered(paths, "with descriptors again")
    _ends(scene, daemon)


def _long_names(scene: Scene) -> None:
    """Names leave just enough room for the config's name, or too little; a path exceeds PATH_MAX."""
    daemon = scene.daemon(settle="100ms").start()

    def named(size: int) -> Path:
        stem = scene.chance.choice(["a", "é", "層"])
        scene.number += 1
        number = str(scene.number)
        many, rest = divmod(size - len(number), len(stem.encode()))
        return daemon.folder / f"{number}{stem * many}{'b' * rest}.json"

    fitting = [scene.rewrite(named(size)) for size in (200, 238, 243, 244)]
    too_long = [scene.rewrite(named(size)) for size in range(245, 251)]
    bad = [named(size) for size in (238, 239, 244)]
    for path in bad:
        path.write_bytes(b'{"policy_disagreement_analysis": ')
    scene.answered(fitting, "names with room")
    rejected = dict.fromkeys(too_long, "name_too_long") | dict.fromkeys(bad, "truncated")
    said = Counter[tuple[str, str]]()

    def all_said() -> bool:
        said.clear()
        said.update((one["audit"], one["code"]) for one in daemon.records("audit.rejected"))
        return set(said) == {(str(path), code) for path, code in rejected.items()}

    until(all_said, PATIENCE, "the names that are too long are rejected")
    daemon.scans(1)  # an event that was under way may say it once more
    assert all_said(), said
    before = said.copy()
    daemon.scans(3)
    assert all_said(), said
    assert said == before, "every scan repeats the records"
    assert report_of(bad[0]).exists()
    for path in (*rejected, report_of(bad[0])):
        path.unlink()

    deep, parts = os.open(daemon.folder, os.O_RDONLY), ["d" * 250] * 17
    for part in parts:
        os.mkdir(part, dir_fd=deep)
        deep, above = os.open(part, os.O_RDONLY, dir_fd=deep), deep
        os.close(above)
    try:
        scene.answered(scene.drop(Path(f"/proc/self/fd/{deep}"), 3), "below a path of more than 4096 bytes")
    finally:
        os.close(deep)
    shutil.rmtree(daemon.folder / parts[0])
    _ends(scene, daemon)


# --- failing calls ---------------------------------------------------------------------------------------------


def _failing_calls(scene: Scene) -> None:
    """In one subfolder each system call of an answer fails; in another one none fails."""
    faults = Faults(scene.home / "faults")
    daemon = scene.daemon(durable=True, faults=faults, rescan="60s").start()
    fine = daemon.folder / "fine"
    wanted = [
        ("create", errno.EIO),
        ("create", errno.EDQUOT),
        ("write", errno.EIO),
        ("write", errno.EDQUOT),
        ("flush", errno.EIO),
        ("name", errno.EIO),
        ("flush a folder", errno.EIO),
    ]
    failing = {(purpose, number): daemon.folder / f"{purpose} {number}".replace(" ", "-") for purpose, number in wanted}
    for folder in (fine, *failing.values()):
        folder.mkdir()
    for (purpose, number), folder in failing.items():
        faults.on(purpose, number, folder)
    order = [*failing.items()] * 3
    scene.chance.shuffle(order)
    paths: dict[tuple[str, int], list[Path]] = {}
    for key, folder in order:
        paths.setdefault(key, []).extend(scene.drop(folder, 2))
    scene.answered(scene.drop(fine, 10), "beside folders where calls fail", patience=15)
    for (purpose, number), own in paths.items():
        visible = purpose == "flush a folder"  # so the next attempt finds it answered
        _failing(scene, daemon, own, number, attempts=1 if visible else None)
        early = [path for path in own if config_of(path).exists() and not visible]
        assert not early, f"a config although {purpose} failed: {early}"
    scene.counts["calls that failed"] += faults.off()
    for own in paths.values():
        scene.answered(own, "once calls fail no more")
    _ends(scene, daemon)


# --- the trail -------------------------------------------------------------------------------------------------


def _goes_on(scene: Scene, daemon: Bound, what: str) -> None:
    """Check that audits are answered while the trail fails: standard error gets one message and the records."""
    before = len(daemon.told("trail.failed"))
    paths = scene.drop(daemon.folder, 5)
    scene.answered(paths, what)
    assert len(daemon.told("trail.failed")) == before + 1, daemon.told("trail.failed")
    for path in paths:
        assert daemon.told("audit.selected", audit=str(path)), f"{path} has no record, {what}"


def _comes_back(scene: Scene, daemon: Bound, what: str) -> None:
    """Check that records go to the trail again."""
    paths = scene.drop(daemon.folder, 3)
    scene.answered(paths, what)
    for path in paths:
        until(lambda path=path: daemon.records("audit.selected", audit=str(path)), PATIENCE, f"in the trail, {what}")


def _full_trail(scene: Scene) -> None:
    """The disk of the trail is full, and the disk of the folder has room."""
    logs = scene.home / "logs"
    scene.tmpfs(logs, size="64k")
    daemon = scene.daemon(trail=logs / "trail.jsonl").start()
    _fill(logs / "ballast")
    # The rest of the last page has room for some records.
    until(lambda: scene.drop(daemon.folder) and daemon.told("trail.failed"), PATIENCE, "trail.failed")
    daemon.mark()
    paths = scene.drop(daemon.folder, 5)
    scene.answered(paths, "with a full trail")
    assert all(daemon.told("audit.selected", audit=str(path)) for path in paths), "answers without a record"
    (logs / "ballast").unlink()
    _comes_back(scene, daemon, "with room for the trail")
    scene.counts["torn lines of the trail"] += daemon.torn
    _ends(scene, daemon, quiet=False)


def _all_full(scene: Scene) -> None:
    """The full disk holds the folder and the trail."""
    disk = scene.home / "disk"
    scene.tmpfs(disk, size="1m")
    (disk / "inbox").mkdir()
    durable = scene.chance.random() < 0.5
    daemon = scene.daemon(folder=disk / "inbox", trail=disk / "trail.jsonl", durable=durable).start()
    with daemon.paused():
        paths = scene.drop(daemon.folder, 10)
        _fill(disk / "ballast")
    _failing(scene, daemon, paths, errno.ENOSPC)
    (disk / "ballast").unlink()
    scene.answered(paths, "with room again")
    _comes_back(scene, daemon, "with room again")
    scene.counts["torn lines of the trail"] += daemon.torn
    _ends(scene, daemon, quiet=False)


def _lost_trail(scene: Scene) -> None:
    """The trail or its folder is deleted, another file replaces it, or its device fails to write or flush."""
    faults = Faults(scene.home / "faults")
    logs = scene.home / "logs"
    logs.mkdir()
    daemon = scene.daemon(trail=logs / "trail.jsonl", durable=True, faults=faults).start()
    away = (scene.home / f"away-{number}" for number in range(100))

    def deleted() -> Iterator[None]:
        daemon.trail.unlink()
        yield

    def folder_deleted() -> Iterator[None]:
        logs.rename(next(away))
        _goes_on(scene, daemon, "without a folder for the trail")
        yield
        logs.mkdir()

    def folder_in_its_place() -> Iterator[None]:
        daemon.trail.rename(next(away))
        daemon.trail.mkdir()
        _goes_on(scene, daemon, "with a folder in the trail's place")
        yield
        daemon.trail.rmdir()

    def pipe_in_its_place() -> Iterator[None]:
        daemon.trail.rename(next(away))
        os.mkfifo(daemon.trail)
        _goes_on(scene, daemon, "with a pipe that nobody reads in the trail's place")
        yield
        daemon.trail.unlink()

    def device_fails() -> Iterator[None]:
        faults.on("write", errno.EIO, daemon.trail)
        _goes_on(scene, daemon, "while the trail's device fails")
        yield
        scene.counts["calls that failed"] += faults.off()

    def flush_fails() -> Iterator[None]:
        # A power failure may lose unflushed records, although the trail contains them.
        def said() -> int:
            return sum(os.strerror(errno.EIO) in one["error"] for one in daemon.everything("trail.failed"))

        before = said()
        faults.on("flush", errno.EIO, daemon.trail)
        scene.answered(scene.drop(daemon.folder, 3), "with a trail that can't be flushed")
        scene.counts["calls that failed"] += faults.off()
        assert said() > before, "the trail could not be flushed, and no record says so"
        yield

    losses = [deleted, folder_deleted, folder_in_its_place, pipe_in_its_place, device_fails, flush_fails]
    for loss in scene.chance.sample(losses, len(losses)):
        scene.answered(scene.drop(daemon.folder, 3), "with a trail")
        daemon.mark()
        daemon.records()  # its content is read before the loss
        for _ in loss():
            pass
        _comes_back(scene, daemon, f"after this loss of the trail: {loss.__name__}")
    scene.counts["torn lines of the trail"] += daemon.torn
    _ends(scene, daemon, quiet=False)


# --- the clock -------------------------------------------------------------------------------------------------


def _jumping_clock(scene: Scene) -> None:
    """The clock jumps both ways, by minutes to years, and each content is answered once."""
    faults = Faults(scene.home / "faults")
    daemon = scene.daemon(faults=faults, rescan="300ms").start()
    paths = scene.drop(daemon.folder, 5)
    scene.answered(paths, "before the clock jumps")
    jumps = [300.0, -300.0, 2 * DAY, -2 * DAY, 3000 * DAY, -3000 * DAY]
    for jump in [*scene.chance.sample(jumps, 4), 0.0]:
        faults.jump(jump)
        what = f"after the clock was set {jump:+g} s off"
        changed = scene.chance.sample(paths, 2)
        for path in changed:
            scene.rewrite(path)
        dated = scene.drop(daemon.folder, 2)
        for path, far in zip(dated, (-DAY, DAY), strict=True):
            os.utime(path, (time.time() + jump + far,) * 2)
        bad = daemon.folder / f"bad{scene.number}.json"
        bad.write_bytes(scene.content()[:-2])
        scene.answered([*changed, *dated], what)
        until(lambda bad=bad: reports(bad, "truncated"), PATIENCE, f"a bad file is rejected {what}")
        scene.rewrite(bad)
        scene.answered([bad], what)
        paths += [*dated, bad]
    before = daemon.selections()
    daemon.scans(3)
    assert daemon.selections() == before, "the answers do not stop"
    again = {key: times for key, times in before.items() if times > 1}
    assert not again, f"content with several answers: {again}"
    _ends(scene, daemon)


def _slow_clock(scene: Scene) -> None:
    """Content of the same size, written while the clock is slow, is found by scans and by events."""
    faults = Faults(scene.home / "faults")
    daemon = scene.daemon(before=with_inotify_limits(watches=1), faults=faults)
    sub = daemon.folder / "sub"
    sub.mkdir()
    daemon.start()
    polled, watched = scene.drop(sub, 5), scene.drop(daemon.folder, 5)
    scene.answered([*polled, *watched], "before the clock is set back")
    daemon.scans()
    for path in polled:
        faults.jump(-300.0)
        scene.rewrite(path)
        scene.answered([path], "that only scans see, after the clock was set back")
        with daemon.paused():
            faults.jump(-600.0)
            scene.rewrite(watched[-1])
            faults.jump(0.0)
        scene.answered([watched.pop()], "written while the clock was slow, seen when it was right again")
    _ends(scene, daemon)


SCENARIOS: Final[dict[str, Callable[[Scene], None]]] = {
    "no room": _full,
    "no inodes": _no_inodes,
    "no quota": _quota,
    "a thin device": _thin,
    "read-only": _read_only,
    "no rights": _forbidden,
    "no descriptors": _no_descriptors,
    "long names": _long_names,
    "failing calls": _failing_calls,
    "full trail": _full_trail,
    "full disk, trail and all": _all_full,
    "lost trail": _lost_trail,
    "jumping clock": _jumping_clock,
    "slow clock": _slow_clock,
}
