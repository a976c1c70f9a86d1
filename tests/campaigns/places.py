"""Test scenes with faults: mounts, limits, permissions, failing calls, and clocks that jump.

A `Scene` is one performance of a scenario in an empty directory. Its mounts and processes are removed when it ends,
also if it fails. Run as a program, this file is the daemon, in a process whose system calls fail and whose clock jumps
as `Faults` says.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from benchd.bench.seal import unbroken
from benchd.folder.names import is_sidecar
from benchd.watching.lock import LOCK_NAME
from campaigns.drops import owner
from daemon import Daemon, answers, audit, until

TESTS: Final = Path(__file__).resolve().parent.parent

#: Seconds to wait for a condition, long enough for a loaded machine.
PATIENCE: Final = 30.0

#: Seconds in which the long form starts performances, and how many run at a time.
LONG_SECONDS: Final = 300.0
_LONG_AT_A_TIME: Final = 8

ROOT: Final = os.geteuid() == 0

#: Prefix of hidden files that a scenario makes; all other hidden files are benchd's.
BALLAST: Final = ".ballast"

_FAULTS: Final = "BENCHD_CAMPAIGN_FAULTS"


class Missing(Exception):
    """This system lacks permissions, a tool or a file system that a scenario needs."""


def command(*arguments: str | Path) -> None:
    """Run a tool of the system. Raises OSError if it fails."""
    try:
        done = subprocess.run([*map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        raise Missing(f"no {arguments[0]}") from None
    if done.returncode:
        raise OSError(f"{arguments[0]}: {done.stderr.strip()}")


def needs(*arguments: str | Path) -> None:
    """Run a tool that prepares a scenario. Raises `Missing` if it fails."""
    try:
        command(*arguments)
    except OSError as error:
        raise Missing(str(error)) from None


def without_rights() -> Sequence[str]:
    """Return the prefix of a command that drops the capabilities of root, so that permissions bind it."""
    if not ROOT:
        return ()
    setpriv = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    needs(*setpriv, "true")
    return setpriv


def with_inotify_limits(*, watches: int | None = None, instances: int | None = None) -> Sequence[str]:
    """Return the prefix of a command that limits its inotify watches or instances."""
    limits = {"watches": watches, "instances": instances}
    writes = [f"echo {most} > /proc/sys/user/max_inotify_{of}" for of, most in limits.items() if most is not None]
    unshare = ("unshare", "--user", "--map-root-user", "sh", "-e", "-c", "; ".join([*writes, 'exec "$@"']), "sh")
    needs(*unshare, "true")
    return unshare


# --- one daemon ------------------------------------------------------------------------------------------------


class _Records:
    """Reads a file of records as it grows, and keeps the records when the file is deleted or replaced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: list[dict[str, Any]] = []
        #: Lines that are not JSON: the disk was full, or the device failed, in the middle of one.
        self.torn = 0
        # The file stays open. If it were closed and deleted, its successor could get the same inode number.
        self._file: BinaryIO | None = None
        self._offset = 0
        self._closed = False

    def read(self) -> list[dict[str, Any]]:
        """Return all records so far."""
        self._read_on()
        with contextlib.suppress(OSError):
            if not self._closed and self.path.is_file() and not self._is_open():  # opening a pipe would block
                file = self.path.open("rb")
                if self._file is not None:
                    self._file.close()
                self._file, self._offset = file, 0
                self._read_on()
        return self.known

    def _is_open(self) -> bool:
        return self._file is not None and os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())

    def _read_on(self) -> None:
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            if os.fstat(self._file.fileno()).st_size < self._offset:
                self._offset = 0
            self._file.seek(self._offset)
            content = self._file.read()
            whole = content[: content.rfind(b"\n") + 1]
            self._offset += len(whole)
            for line in whole.splitlines():
                try:
                    self.known.append(json.loads(line))
                except ValueError:
                    self.torn += 1

    def close(self) -> None:
        """Read the rest, and close the file."""
        self.read()
        self._closed = True
        if self._file is not None:
            self._file.close()
            self._file = None


class Bound(Daemon):
    """A daemon with the command prefix `before`, whose calls fail as `faults` says."""

    def __init__(self, home: Path, *, before: Sequence[str] = (), faults: Faults | None = None, **options: Any) -> None:
        super().__init__(home, **options)
        self._launcher = before
        self._faults = faults
        self._in_trail = _Records(self.trail)
        self._on_stderr = _Records(self._stderr)

    def start(self, *, wait: bool = True) -> Bound:
        """Start the process, and wait until it is ready."""
        before = len(self.records("service.ready"))
        environment = {key: value for key, value in os.environ.items() if key != "BENCHD_CONFIG"}
        program: Sequence[str] = ("-m", "benchd")
        if self._faults is not None:
            program = ("-P", __file__)
            paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
            environment |= {_FAULTS: str(self._faults.folder), "PYTHONPATH": os.pathsep.join(paths)}
        with self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                [*self._launcher, sys.executable, *program, "watch", "--config", str(self.config)],
                stderr=stderr,
                stdout=subprocess.DEVNULL,
                env=environment,
            )
        if wait:
            until(lambda: not self.running or len(self.records("service.ready")) > before, PATIENCE, "service.ready")
            assert self.running, self.stderr
        return self

    def kill(self) -> None:
        """Kill the process and read the rest of its records."""
        super().kill()
        self._in_trail.close()
        self._on_stderr.close()

    def records(self, event: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """Return the records with this event and these fields, in the trail and in its earlier files."""
        return _matching(self._in_trail.read(), event, fields)

    def told(self, event: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """Return the records that went to standard error because the trail failed."""
        return _matching(self._on_stderr.read(), event, fields)

    @property
    def torn(self) -> int:
        """Return how many lines of the trail are not JSON."""
        return self._in_trail.torn

    def everything(self, event: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """Return the records in the trail and on standard error."""
        return self.records(event, **fields) + self.told(event, **fields)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Pause the process, so that several changes look simultaneous to it."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            until(lambda: _state(self.pid) == "T", what="the process is paused")
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def scans(self, number: int = 1) -> None:
        """Wait until `number` scans have begun and ended."""
        before = len(self.records("scan.finished"))
        # The first scan that ends may have begun earlier.
        until(lambda: len(self.records("scan.finished")) > before + number, PATIENCE, "scan.finished")


def _matching(records: Iterable[dict[str, Any]], event: str | None, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        record
        for record in records
        if (event is None or record["event"] == event)
        and all(record.get(key) == value for key, value in fields.items())
    ]


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]


# --- one performance -------------------------------------------------------------------------------------------


class Scene:
    """One performance: its directory, random numbers, counts, and undo stack."""

    def __init__(self, home: Path, chance: random.Random, *, long: bool = False) -> None:
        self.home = home
        self.chance = chance
        self.long = long
        self.counts: Counter[str] = Counter()
        self.most: dict[str, float] = {}
        self.undo = contextlib.ExitStack()
        self.number = chance.randrange(100_000)
        self._daemons: list[Bound] = []
        self._mounted: list[Path] = []
        home.mkdir()

    def daemon(self, *, rescan: str = "500ms", **options: Any) -> Bound:
        """Return a daemon over `inbox`. The scenario starts it; it is killed at the end if it still runs."""
        options.setdefault("watch", 'poll_interval = "200ms"')
        options.setdefault("watching", f'rescan_interval = "{rescan}"')
        daemon = Bound(self.home, **options)
        self.undo.callback(daemon.kill)
        self._daemons.append(daemon)
        return daemon

    def last_words(self) -> list[dict[str, Any]]:
        """Return the last warnings and errors of the daemons."""
        with contextlib.suppress(OSError, ValueError):
            said = [record for daemon in self._daemons for record in daemon.everything()]
            return [record for record in said if record["level"] in {"warning", "error"}][-5:]
        return []

    def content(self) -> bytes:
        """Return a new audit, of the same size as all others of the scene."""
        self.number += 1
        self.counts["audits"] += 1
        return audit(self.number)

    def drop(self, folder: Path, number: int = 1) -> list[Path]:
        """Add new audits to `folder`, moved in or written in place."""
        return [self.rewrite(folder / f"a{self.number + 1}.json") for _ in range(number)]

    def rewrite(self, path: Path) -> Path:
        """Write new content of the same size to the audit `path`."""
        content = self.content()
        if self.chance.random() < 0.5:
            whole = self.home / f"whole-{self.number}"
            whole.write_bytes(content)
            with contextlib.suppress(OSError):  # another file system
                os.rename(whole, path)
                return path
        path.write_bytes(content)
        return path

    def answered(self, paths: Iterable[Path], what: str, patience: float = PATIENCE) -> None:
        """Wait until each of these audits is answered for its present content."""
        left, begun = list(paths), time.monotonic()

        def all_answered() -> bool:
            while left and answers(left[-1]):
                left.pop()
            return not left

        try:
            until(all_answered, patience)
        except AssertionError:
            raise AssertionError(f"not all answered in {patience:g} s, {what}: {left[-1]}") from None
        self.most["slowest answer, s"] = max(self.most.get("slowest answer, s", 0.0), time.monotonic() - begun)

    def whole(self, folder: Path) -> None:
        """Check that all audits in `folder` are answered, with whole sidecars and no temporary files."""
        audits = list(audits_in(folder))
        assert audits
        unanswered = [path for path in audits if not answers(path)]
        assert not unanswered, f"{len(unanswered)} of {len(audits)} audits without an answer: {unanswered[:3]}"
        left = [path for path in folder.rglob(".*") if path.name != LOCK_NAME and not path.name.startswith(BALLAST)]
        assert not left, f"{len(left)} temporary files are left: {left[:3]}"
        for path in sidecars_in(folder):
            assert unbroken(path.read_bytes()), f"incomplete sidecar: {path}"

    def ends(self, daemon: Bound, *, quiet: bool = True) -> None:
        """Stop the daemon; check its exit code, threads and lock, and if `quiet` its standard error."""
        assert daemon.running, f"benchd ended: {daemon.stderr}"
        lock = daemon.folder / LOCK_NAME
        until(
            lambda: lock.exists() and f'"pid":{daemon.pid},' in lock.read_text(encoding="utf-8"),
            what=f"{daemon.folder} is watched, and claimed",
        )
        os.kill(daemon.pid, signal.SIGTERM)
        code = daemon.wait(PATIENCE)
        assert code == 0, f"exit code {code}: {daemon.stderr}"
        assert not quiet or daemon.stderr == "", daemon.stderr
        failed = daemon.everything("service.thread_failed")
        assert not failed, f"a thread failed: {failed}"
        assert not lock.exists(), "the folder is still claimed after the end"
        for event in (
            "watch.root_lost",
            "watch.root_restored",
            "watch.degraded",
            "config.write_failed",
            "audit.failed",
        ):
            self.counts[event] += len(daemon.everything(event))

    # --- mounts --------------------------------------------------------------------------------------------

    def mount(self, point: Path, *arguments: str | Path) -> None:
        """`mount ARGUMENTS POINT`, undone at the end."""
        if not ROOT:
            raise Missing("mounts need root")
        point.mkdir(exist_ok=True)
        needs("mount", *arguments, point)
        self._mounted.append(point)
        if len(self._mounted) == 1:
            self.undo.callback(self._unmount_all)

    def tmpfs(self, point: Path, **options: str | int) -> None:
        """Mount a file system in memory."""
        named = ["mode=755", *(f"{key}={value}" for key, value in options.items())]
        self.mount(point, "-t", "tmpfs", "-o", ",".join(named), "tmpfs")

    def unmount(self, point: Path) -> None:
        """Unmount a watched folder, which benchd may keep busy only briefly."""
        trouble: list[str] = []

        def unmounted() -> bool:
            try:
                command("umount", point)
            except OSError as error:
                trouble[:] = [str(error)]
                return False
            return True

        try:
            until(unmounted)
        except AssertionError:
            raise AssertionError(f"a watched folder can't be unmounted: {trouble}") from None
        self._mounted.remove(point)

    def _unmount_all(self) -> None:
        for point in reversed(self._mounted):
            with contextlib.suppress(OSError):
                command("umount", "--lazy", point)


def audits_in(folder: Path) -> Iterator[Path]:
    """Yield every audit in `folder` that benchd must answer."""
    for path in folder.rglob("*.json"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and not is_sidecar(path.name) and path.is_file():
            yield path


def sidecars_in(folder: Path) -> set[Path]:
    """Return every sidecar in `folder`."""
    return {path for path in folder.rglob("*.json") if is_sidecar(path.name)}


def gone(folder: Path) -> None:
    """Delete a folder into which benchd may be writing."""

    def deleted() -> bool:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
        return not folder.exists()

    until(deleted, what=f"{folder} is deleted")


# --- all of them -----------------------------------------------------------------------------------------------

Scenario = Callable[[Scene], None]


def seeded() -> int:
    """Return the seed of this run; BENCHD_CAMPAIGN_SEED repeats one, as far as timing allows."""
    return int(os.environ.get("BENCHD_CAMPAIGN_SEED") or random.randrange(2**32))


def play(scenarios: Mapping[str, Scenario], place: Path, *, long: bool) -> dict[str, int | float | str]:
    """Run each scenario once, all together, or in the long form repeatedly, a few at a time."""
    seed, begun = seeded(), time.monotonic()
    stage = _Stage(scenarios, place, seed, long=long)
    at_a_time = _LONG_AT_A_TIME if long else len(scenarios)
    slots = threading.Semaphore(at_a_time)
    performances: list[Future[None]] = []
    with ThreadPoolExecutor(at_a_time) as pool:
        for index, name in enumerate(_programme(scenarios, random.Random(seed)) if long else scenarios):
            slots.acquire()
            if stage.failed or (long and time.monotonic() - begun > LONG_SECONDS):
                break
            performances.append(pool.submit(stage.perform, index, name))
            performances[-1].add_done_callback(lambda _: slots.release())
    for performance in performances:
        performance.result()
    return {"seed": seed, **stage.figures(), "seconds": round(time.monotonic() - begun, 1)}


def _programme(scenarios: Iterable[str], chance: random.Random) -> Iterator[str]:
    names = sorted(scenarios)
    while True:
        yield from chance.sample(names, len(names))


class _Stage:
    """Performs scenarios on several threads and collects their results."""

    def __init__(self, scenarios: Mapping[str, Scenario], place: Path, seed: int, *, long: bool) -> None:
        self._scenarios = scenarios
        self._place = place
        self._seed = seed
        self._long = long
        self._lock = threading.Lock()
        self._played: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._most: dict[str, float] = {}
        self._missing: dict[str, str] = {}
        self.failed = False

    def perform(self, index: int, name: str) -> None:
        """Run one performance in its own directory. Raises AssertionError if it breaks a promise."""
        home = self._place / f"{index}-{name.replace(' ', '-')}"
        scene = Scene(home, random.Random(f"{self._seed} {index} {name}"), long=self._long)
        try:
            with scene.undo:
                self._scenarios[name](scene)
        except Missing as reason:
            self._missing[name] = str(reason)
        except Exception as error:
            self.failed = True
            why = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
            said = f"; last warnings: {words}" if (words := scene.last_words()) else ""
            raise AssertionError(f"{name} (seed {self._seed}, number {index}, in {home}): {why}{said}") from error
        else:
            with self._lock:
                self._played[name] += 1
                self._counts.update(scene.counts)
                for key, value in scene.most.items():
                    self._most[key] = max(value, self._most.get(key, 0.0))
        shutil.rmtree(home)

    def figures(self) -> dict[str, int | float | str]:
        """Return how often each scenario was played, and the counts."""
        skipped = "; ".join(f"{name}: {reason}" for name, reason in sorted(self._missing.items()))
        return {
            **{f"{name}, times": self._played[name] for name in self._scenarios if self._played[name]},
            **dict(sorted(self._counts.items())),
            **{key: round(value, 2) for key, value in self._most.items()},
            "skipped": skipped or "nothing",
        }


# --- faults and clocks -----------------------------------------------------------------------------------------

#: Calls that fail together, by purpose. `open` fails only if it creates a file.
_CALLS: Final = {
    "create": ("open",),
    "write": ("write",),
    "flush": ("fdatasync", "syncfs"),
    "flush a folder": ("fsync",),
    "name": ("link", "rename", "replace"),
    "read": ("read",),
}


class Faults:
    """Files in `folder` that say which calls of a daemon fail and what its clock shows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rules: dict[str, list[tuple[int, str]]] = {}
        self._jumps: list[tuple[int, int]] = []
        folder.mkdir()

    def on(self, purpose: str, number: int, below: Path) -> None:
        """Let calls for that purpose fail with `number` for files below `below`."""
        self._rules.setdefault(purpose, []).append((number, str(below)))
        self._put(purpose, self._rules[purpose])

    def off(self) -> int:
        """Let all calls work again and return how many failed. Every fault must have happened."""
        met = {}
        for purpose, rules in self._rules.items():
            (self.folder / purpose).unlink()
            for number, below in rules:
                count = self.folder / _met(purpose, number)
                assert count.exists(), f"no call to {purpose} failed below {below}"
                met[count] = count.stat().st_size
        for count in met:
            count.unlink()
        self._rules.clear()
        return sum(met.values())

    def jump(self, seconds: float) -> None:
        """Set the clock to this distance from the true time. Later writes get its dates."""
        self._jumps.append((time.time_ns(), int(seconds * 10**9)))
        self._put("clock", self._jumps)

    def _put(self, name: str, value: Any) -> None:
        new = self.folder / f"{name}.new"
        new.write_text(json.dumps(value), encoding="utf-8")
        os.rename(new, self.folder / name)


def _met(purpose: str, number: int) -> str:
    return f"{purpose}, {errno.errorcode[number]}"


def _asked(folder: Path, name: str) -> Any:
    try:
        with open(folder / name, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None


def _spoil(folder: Path) -> None:
    """Let the calls of this process fail as `Faults` says."""
    torn: set[int] = set()

    def path_of(call: str, arguments: Sequence[Any], options: Mapping[str, Any]) -> str:
        if isinstance(arguments[0], int):
            return os.readlink(f"/proc/self/fd/{arguments[0]}")
        which, directory = ("dir_fd", 0) if call == "open" else ("dst_dir_fd", 1)
        path = os.fsdecode(arguments[directory])
        descriptor = options.get(which)
        return path if descriptor is None else os.path.join(os.readlink(f"/proc/self/fd/{descriptor}"), path)

    def wrapped(purpose: str, call: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def spoilt(*arguments: Any, **options: Any) -> Any:
            rules = () if call == "open" and not _creates(arguments[1]) else _asked(folder, purpose) or ()
            if call == "syncfs" and rules:
                return False  # each file is then flushed by itself
            path = f"{path_of(call, arguments, options)}/" if rules else ""
            number = next((number for number, below in rules if path.startswith(f"{below}/")), None)
            if number is None:
                return original(*arguments, **options)
            if call == "write" and arguments[0] not in torn:  # the device takes half of it before it fails
                torn.add(arguments[0])
                return original(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            torn.discard(arguments[0])
            with open(folder / _met(purpose, number), "ab") as met:
                met.write(b".")
            raise OSError(number, os.strerror(number))

        return spoilt

    for purpose, calls in _CALLS.items():
        for call in calls:
            home = owner(call)
            setattr(home, call, wrapped(purpose, call, getattr(home, call)))


def _creates(flags: int) -> bool:
    return bool(flags & os.O_CREAT) or flags & os.O_TMPFILE == os.O_TMPFILE


class _Clock:
    """The clock that `Faults.jump` sets, for the time functions and for the dates of files."""

    _NAMES: Final = ("st_atime", "st_mtime", "st_ctime")

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._time_ns = time.time_ns

    def install(self) -> None:
        """Make this the clock of the process."""
        time.time_ns = self.time_ns
        time.time = lambda: self.time_ns() / 10**9
        for call in ("stat", "lstat", "fstat"):
            setattr(os, call, partial(self._dated, getattr(os, call)))
        os.utime = partial(self._utime, os.utime)  # type: ignore[assignment]
        scandir = os.scandir
        os.scandir = lambda path=".": _Entries(scandir(path), self)  # type: ignore[assignment,misc]

    def time_ns(self) -> int:
        """Return what the clock shows."""
        return self.shown(self._time_ns())

    def shown(self, true_ns: int) -> int:
        """Return what the clock showed at a true time."""
        jumps = [offset for since, offset in _asked(self._folder, "clock") or () if since <= true_ns]
        return true_ns + (jumps[-1] if jumps else 0)

    def _utime(self, call: Callable[..., None], *arguments: Any, **options: Any) -> None:
        """Store a date so that the clock always shows it unchanged."""
        if options.get("ns"):
            options["ns"] = tuple(map(self._true, options["ns"]))
        call(*arguments, **options)

    def _true(self, shown_ns: int) -> int:
        offsets = [0, *(offset for _, offset in _asked(self._folder, "clock") or ())]
        return next((shown_ns - offset for offset in offsets if self.shown(shown_ns - offset) == shown_ns), shown_ns)

    def _dated(self, call: Callable[..., os.stat_result], *arguments: Any, **options: Any) -> os.stat_result:
        return self.date(call(*arguments, **options))

    def date(self, info: os.stat_result) -> os.stat_result:
        """Return `info` with the times that this clock showed."""
        times = {name: self.shown(getattr(info, f"{name}_ns")) for name in self._NAMES}
        fields = [*info[:7], *(value // 10**9 for value in times.values())]
        more = {name: value / 10**9 for name, value in times.items()}
        more |= {f"{name}_ns": value for name, value in times.items()}
        kept = {name: getattr(info, name) for name in ("st_blksize", "st_blocks", "st_rdev")}
        return os.stat_result(fields, {**more, **kept})


class _Entries:
    """`os.scandir` whose entries are dated by a `_Clock`."""

    def __init__(self, entries: Any, clock: _Clock) -> None:
        self._entries = entries
        self._clock = clock
        self.close = entries.close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _Entry:
        return _Entry(next(self._entries), self._clock)


class _Entry:
    def __init__(self, entry: os.DirEntry[str], clock: _Clock) -> None:
        self._entry = entry
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entry, name)

    def __fspath__(self) -> str:
        return os.fspath(self._entry)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return self._clock.date(self._entry.stat(follow_symlinks=follow_symlinks))


def main() -> None:
    """Run the daemon with its faults."""
    folder = Path(os.environ[_FAULTS])
    _spoil(folder)
    _Clock(folder).install()
    from benchd.cli import main as benchd

    benchd(prog_name="benchd")


if __name__ == "__main__":
    main()
