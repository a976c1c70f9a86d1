"""The base of the campaigns with drops: the drops, a reader of all sidecars, a daemon that dies or stalls at a call.

As a program, this file is one of the other processes: `watch` is the daemon behind a launcher that counts its system
calls, and `read` is the reader.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import itertools
import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from benchd import AuditError, bench_config, read_audit
from benchd import select as selected
from benchd.bench.config import error_report
from benchd.bench.seal import provenance_of, unbroken
from benchd.folder.flushing import FileSystems
from benchd.folder.names import CONFIG_SUFFIX, ERROR_SUFFIX, is_sidecar
from daemon import AUDITS, Daemon, audit, config_of, report_of, temporary_files, until

TESTS: Final = Path(__file__).resolve().parent.parent

_REAL: Final = (AUDITS / "llama4_many__default.json").read_bytes()


def seeded() -> tuple[int, random.Random]:
    """Return the seed of this run and its generator. BENCHD_CAMPAIGN_SEED repeats a run, as far as timing allows."""
    seed = int(os.environ.get("BENCHD_CAMPAIGN_SEED") or random.randrange(2**32))
    return seed, random.Random(seed)


# --- drops -----------------------------------------------------------------------------------------------------


class Drops:
    """Changes the audits in a folder at random, and knows the final answer of each.

    `beside` is an unwatched folder on the same file system.
    """

    def __init__(self, folder: Path, beside: Path, chance: random.Random, *, subfolders: Sequence[str] = ("",)) -> None:
        self.folder = folder
        self.deeds: Counter[str] = Counter()
        self._beside = beside / "whole"
        self._chance = chance
        self.places: list[Path] = []
        self._contents: dict[Path, bytes] = {}
        self._bad: set[Path] = set()
        self._numbers = itertools.count()
        self._expected: dict[Path, tuple[bytes, Path, bytes]] = {}
        for below in subfolders:
            self.add(folder / below)

    def add(self, place: Path) -> None:
        """Make a folder, and use it for later drops."""
        place.mkdir(exist_ok=True)
        self.places.append(place)

    def move(self, place: Path, to: Path) -> None:
        """Move a folder without subfolders."""
        os.rename(place, to)
        self.places[self.places.index(place)] = to
        for path in [path for path in self._contents if path.parent == place]:
            self._contents[to / path.name] = self._contents.pop(path)
            if path in self._bad:
                self._bad.remove(path)
                self._bad.add(to / path.name)

    @property
    def arrived(self) -> int:
        """Return how many audits came under a new name."""
        return self.deeds["new"] + self.deeds["new, bad"]

    def deed(self) -> None:
        """Drop an audit, or change an existing one."""
        deed = self._chance.choices(
            (self._new, self._new_bad, self._replace, self._spoil, self._fix, self._rename, self._delete),
            (10, 1, 3, 0.5, 1, 0.5, 0.5),
        )[0]
        deed()

    def new(self, place: Path | None = None) -> Path:
        """Drop one more good audit, into one of the folders."""
        path = (place or self._chance.choice(self.places)) / f"a{next(self._numbers)}.json"
        self._put(path, self._good())
        self.deeds["new"] += 1
        return path

    def _new(self) -> None:
        self.new()

    def _new_bad(self) -> None:
        path = self._chance.choice(self.places) / f"a{next(self._numbers)}.json"
        self._put(path, self._spoilt(self._good()))
        self._bad.add(path)
        self.deeds["new, bad"] += 1

    def _replace(self) -> None:
        if self._contents:
            self._put(self._any(), self._good())
            self.deeds["replaced"] += 1

    def _spoil(self) -> None:
        """Turn a good audit into a bad one, often of the same size."""
        if self._contents:
            path = self._any()
            self._put(path, self._spoilt(self._contents[path] or self._good()))
            self._bad.add(path)
            self.deeds["spoilt"] += 1

    def _fix(self) -> None:
        if self._bad:
            self._put(self._chance.choice(sorted(self._bad)), self._good())
            self.deeds["fixed"] += 1

    def _rename(self) -> None:
        if self._contents:
            path, other = self._any(), self._chance.choice(self.places) / f"r{next(self._numbers)}.json"
            os.rename(path, other)
            self._contents[other] = self._contents.pop(path)
            if path in self._bad:
                self._bad.remove(path)
                self._bad.add(other)
            self.deeds["renamed"] += 1

    def _delete(self) -> None:
        if self._contents:
            path = self._any()
            path.unlink()
            del self._contents[path]
            self._bad.discard(path)
            self.deeds["deleted"] += 1

    def _any(self) -> Path:
        """Choose an audit, preferably a recent one, whose answer may be in progress."""
        latest = list(itertools.islice(reversed(self._contents), 20))
        return self._chance.choice(latest if self._chance.random() < 0.5 else list(self._contents))

    def _good(self) -> bytes:
        """Return unique content, in one of the forms that audits come in."""
        number = next(self._numbers)
        form = self._chance.random()
        if form < 0.05:
            return _REAL.replace(b"{", b'{"number": %d,' % number, 1)
        content = audit(number, flagged=self._chance.random() < 0.5)
        if form < 0.15:  # valid for the tolerant reader only
            return content.replace(b"{", b'{"irrelevant": NaN, ', 1)
        if form < 0.3:  # the progress lines that Gradience prints first
            lines = b"    computing SVD and metrics for layer: a\n" * 3
            return lines + json.dumps(json.loads(content), indent=2).encode() + b"\n"
        return content

    def _spoilt(self, content: bytes) -> bytes:
        return self._chance.choice(
            (
                content[: self._chance.randrange(1, len(content))].rstrip(),
                b"x" * 80 + content[80:],  # of the same size
                b"Error: Audit failed: number %d\n" % next(self._numbers),
                b"",
            )
        )

    def _put(self, path: Path, content: bytes) -> None:
        way = self._chance.random()
        if way < 0.4:
            self._beside.write_bytes(content)
            os.rename(self._beside, path)
        elif way < 0.5 and not path.exists():
            self._beside.write_bytes(content)
            os.link(self._beside, path)
            self._beside.unlink()
        else:
            middle = self._chance.randrange(len(content) + 1)
            with path.open("wb", buffering=0) as file:
                file.write(content[:middle])
                file.write(content[middle:])
        self._contents[path] = content
        self._bad.discard(path)

    # --- the expected answers ----------------------------------------------------------------------------------

    def expected(self, path: Path) -> tuple[Path, bytes]:
        """Return the sidecar that answers the audit `path`, and its bytes."""
        content = self._contents[path]
        known = self._expected.get(path)
        if known is None or known[0] is not content:
            digest = hashlib.sha256(content).hexdigest()
            try:
                found = read_audit(content, name=path.name, sha256=digest)
                sidecar, answer = config_of(path), bench_config(found, selected(found))
            except AuditError as error:
                sidecar = report_of(path)
                answer = error_report(path.name, error, sha256=digest, size=len(content))
            known = self._expected[path] = (content, sidecar, answer)
        return known[1:]

    def expect(self) -> None:
        """Compute all answers before the wait for them."""
        for path in self._contents:
            self.expected(path)

    def trouble(self, path: Path) -> str | None:
        """Return why the answer to the audit `path` is wrong; None if it is right."""
        sidecar, answer = self.expected(path)
        try:
            present = sidecar.read_bytes()
        except FileNotFoundError:
            return f"{sidecar.name} is missing"
        if present != answer:
            found, wanted = (provenance_of(content) for content in (present, answer))
            return f"{sidecar.name} says {found or present[:200]!r}, but should say {wanted}"
        if sidecar != report_of(path) and report_of(path).exists():
            return f"a good audit has {report_of(path).name}"
        return None

    def await_answers(self, deadline: float) -> None:
        """Wait until every audit has the answer to its last content, and no other."""
        open_ones = list(self._contents)

        def all_answered() -> bool:
            open_ones[:] = [path for path in open_ones if self.trouble(path)]
            return not open_ones

        try:
            until(all_answered, deadline)
        except AssertionError:
            some = [f"{path.name}: {self.trouble(path)}" for path in open_ones[:3]]
            raise AssertionError(
                f"{len(open_ones)} of {len(self._contents)} audits not answered in {deadline:g} s: {some}"
            ) from None

    def check(self, *, scanned: bool = True) -> None:
        """Check that every answer is right at one moment, and after a scan that benchd left no other files."""
        wrong = {path.name: trouble for path in self._contents if (trouble := self.trouble(path))}
        assert not wrong, f"{len(wrong)} answers became wrong again: {dict(list(wrong.items())[:3])}"
        if not scanned:
            return
        left = temporary_files(self.folder)
        assert not left, f"{len(left)} temporary files are left: {[path.name for path in left[:3]]}"
        orphans = set(self.folder.rglob("*" + ERROR_SUFFIX)) - {report_of(path) for path in self._bad}
        assert not orphans, f"{len(orphans)} error reports are stale: {[path.name for path in list(orphans)[:3]]}"


# --- the trail -------------------------------------------------------------------------------------------------


class Tail:
    """Reads a trail as it grows, and counts the torn lines of killed processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn = 0
        self._offset = 0

    def news(self) -> Iterator[dict[str, Any]]:
        """Yield the records since the last call."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            self._offset += len(whole)
            for line in whole.split(b"\n")[:-1]:
                try:
                    record = json.loads(line)
                except ValueError:
                    self.torn += 1
                else:
                    yield record


# --- another process that reads --------------------------------------------------------------------------------


class Reader:
    """A process that checks each sidecar as it appears: it must be whole and have a record in one of the trails."""

    def __init__(self, folder: Path, *trails: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, "read", str(folder), *map(str, trails)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(),
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def finish(self) -> dict[str, int]:
        """Read all sidecars again. Return how many were read. Raises AssertionError if one broke a promise."""
        out, _ = self._process.communicate(timeout=120)
        found = json.loads(out)
        for promise, broken in found["broken"].items():
            assert not broken, f"{promise}: {len(broken)} times: {broken[:3]}"
        return {"sidecars read": found["read"], "reader's overflows": found["overflows"]}

    def close(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.communicate()


_EVENT: Final = struct.Struct("iIII")
_MODIFY, _MOVED_TO, _CREATE, _OVERFLOW = 0x2, 0x80, 0x100, 0x4000


class TreeWatch:
    """Inotify watches for the events `mask` in a folder and its present subfolders."""

    def __init__(self, folder: Path, mask: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self.descriptor >= 0, f"inotify_init1: {os.strerror(ctypes.get_errno())}"
        self._folders = {}
        for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
            watch = libc.inotify_add_watch(self.descriptor, os.fsencode(place), mask)
            assert watch >= 0, os.strerror(ctypes.get_errno())
            self._folders[watch] = place

    @property
    def folders(self) -> Iterable[Path]:
        """The watched folders."""
        return self._folders.values()

    def events(self) -> list[tuple[Path, int]]:
        """Return the paths and masks of pending events; empty if there are none. An overflow has the path `?`."""
        try:
            data = os.read(self.descriptor, 65536)
        except BlockingIOError:
            return []
        found, offset = [], 0
        while offset < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size + length
            name = os.fsdecode(data[offset - length : offset].rstrip(b"\0"))
            found.append((self._folders.get(watch, Path("?")) / name, mask))
        return found


class _Reading:
    """The reader in its process: see `Reader`."""

    def __init__(self, folder: Path, trails: Iterable[Path]) -> None:
        self.read = 0
        self.overflows = 0
        self.broken: dict[str, list[str]] = {
            "a reader saw a sidecar that is not whole": [],
            "a sidecar was written in place": [],
            "a sidecar was visible before its record": [],
        }
        self._torn, self._touched, self._unrecorded = self.broken.values()
        self._tails = [Tail(path) for path in trails]
        self._decisions: set[str] = set()
        self._rejections: set[tuple[str, str]] = set()
        self.watch = TreeWatch(folder, _MODIFY | _MOVED_TO | _CREATE)

    def events(self) -> bool:
        """Handle the pending events, and return whether there were any."""
        events = self.watch.events()
        for path, mask in events:
            if mask & _OVERFLOW:
                self.overflows += 1
                self.everything()
            elif is_sidecar(path.name):
                if mask & _MODIFY:
                    self._touched.append(path.name)
                self.look(path)
        return bool(events)

    def everything(self) -> None:
        """Read all sidecars."""
        for place in self.watch.folders:
            for name in os.listdir(place):
                if is_sidecar(name):
                    self.look(place / name)

    def look(self, path: Path) -> None:
        """Read one sidecar as a user would."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return
        self.read += 1
        try:
            sidecar = json.loads(content)
            whole = unbroken(content)
        except ValueError:
            whole = False
        if not whole:
            self._torn.append(f"{path.name}, {len(content)} bytes: {content[:40]!r} ... {content[-40:]!r}")
            return
        stem = path.name.removesuffix(CONFIG_SUFFIX).removesuffix(ERROR_SUFFIX)
        of_this = sidecar["provenance"]["audit"] == f"{stem}.json"
        if not of_this:
            self._torn.append(f"{path.name} is the answer of {sidecar['provenance']['audit']}")
        if not self._recorded(path, sidecar):
            self._refresh()
            if not self._recorded(path, sidecar):
                self._unrecorded.append(path.name)

    def _recorded(self, path: Path, sidecar: dict[str, Any]) -> bool:
        if "code" in sidecar:
            return (str(path.with_name(sidecar["provenance"]["audit"])), sidecar["code"]) in self._rejections
        return sidecar["provenance"]["decision_id"] in self._decisions

    def _refresh(self) -> None:
        for tail in self._tails:
            for record in tail.news():
                if record["event"] == "audit.selected":
                    self._decisions.add(record["decision_id"])
                elif record["event"] == "audit.rejected":
                    self._rejections.add((record["audit"], record["code"]))


def _read(folder: Path, trails: list[Path]) -> None:
    """Read until standard input ends, then read all sidecars again."""
    reading = _Reading(folder, trails)
    print("ready", flush=True)
    ready: list[Any] = []
    while sys.stdin not in ready:
        ready = select.select([sys.stdin, reading.watch.descriptor], [], [])[0]
        reading.events()
    while reading.events():
        pass
    reading.everything()
    print(json.dumps({"read": reading.read, "overflows": reading.overflows, "broken": reading.broken}))


# --- a daemon behind the launcher ------------------------------------------------------------------------------

#: The calls that create sidecars, the trail and the lock, by purpose.
CALLS: Final = {
    "create": ("open",),
    "write": ("write",),
    "flush": ("fdatasync", "syncfs"),
    "publish": ("rename", "link"),
    "flush the folder": ("fsync",),
    "remove": ("unlink",),
    "date": ("utime",),
    "claim": ("ftruncate", "pwrite"),
}


class Launched(Daemon):
    """A daemon behind the launcher; `start` does not wait for its readiness."""

    _before = 0
    _prefixed = False

    def launch(self, *options: str, prefix: Sequence[str] = ()) -> None:
        """Start the process with these launcher options; `prefix` is a command that runs another one."""
        self._before = self.trail.stat().st_size if self.trail.exists() else 0
        self._prefixed = bool(prefix)
        with self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, "-P", __file__, "watch", *options, str(self.config)],
                stderr=stderr,
                stdout=subprocess.DEVNULL,
                env=_environment(),
            )

    @property
    def pid(self) -> int:
        """The PID of the daemon, also if a prefix command started it."""
        assert self._process is not None
        if not self._prefixed:
            return self._process.pid
        number = self._process.pid
        return int(Path(f"/proc/{number}/task/{number}/children").read_text(encoding="ascii").split()[0])

    def stop(self, number: signal.Signals = signal.SIGTERM, *, within: float = 5.0) -> None:
        """Stop the process with a signal; it must end with exit code 0 and no error output."""
        os.kill(self.pid, number)
        assert self.ended(within) == 0
        assert self.stderr == ""

    def has_said(self, event: str) -> bool:
        """Return whether the trail has a record of that event since the launch."""
        with contextlib.suppress(FileNotFoundError), self.trail.open("rb") as file:
            file.seek(self._before)
            return f'"event":"{event}"'.encode() in file.read()
        return False

    def await_ready(self) -> None:
        """Wait until the folder is watched."""
        until(lambda: not self.running or self.has_said("service.ready"), 30, "service.ready")
        assert self.running, self.stderr

    def ended(self, seconds: float) -> int | None:
        """Return the exit code of the process within these seconds; None if it still runs."""
        assert self._process is not None
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None


def _environment() -> dict[str, str]:
    """Return this process's environment with the tests on the path, but without the user's settings."""
    paths = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {key: value for key, value in os.environ.items() if key != "BENCHD_CONFIG"}
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}


def _wrap(calls: Iterable[str], before: Callable[[str, tuple[Any, ...]], None], after: Callable[[str], None]) -> None:
    """Call `before` and `after` around each of these calls of `os`, and around `open` only if it creates a file."""

    def wrapped(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not _creates(*arguments[1:2], **options):
                return original(*arguments, **options)
            before(name, arguments)
            result = original(*arguments, **options)
            after(name)
            return result

        return call

    for name in calls:
        home = owner(name)
        setattr(home, name, wrapped(name, getattr(home, name)))


def owner(call: str) -> ModuleType | type:
    """Return the object on which benchd finds a call. Python has no `syncfs`."""
    return FileSystems if call == "syncfs" else os


def _creates(flags: int = 0, **_: Any) -> bool:
    return bool(flags & os.O_CREAT) or flags & os.O_TMPFILE == os.O_TMPFILE


def _die_at(purpose: str, moment: str, number: int, log: str) -> None:
    """Kill this process at the `number`th call for a purpose: before, within (half written) or after it."""
    write, descriptor = os.write, os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    counted, lethal = itertools.count(1), False

    def die(name: str) -> None:
        write(descriptor, f"{purpose}: {moment} {name}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    def before(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal lethal
        if next(counted) != number:
            return
        if moment == "after":
            lethal = True
            return
        if moment == "within":
            target, content = arguments[0], bytes(arguments[1])
            write(target, content[: len(content) // 2])
        die(name)

    def after(name: str) -> None:
        if lethal:
            die(name)

    _wrap(CALLS[purpose], before, after)


def _stall(share: float) -> None:
    """Pause the calling thread before this share of the calls that change sidecars."""
    chance = random.Random(os.getpid())

    def before(_name: str, _arguments: tuple[Any, ...]) -> None:
        if chance.random() < share:
            time.sleep(chance.uniform(0, 0.1))

    calls = [name for purpose in ("create", "publish", "remove", "date") for name in CALLS[purpose]]
    _wrap(calls, before, lambda _: None)


def _be_host(name: str) -> None:
    """Use another host name; the system reports it, too, if this process may have a new UTS namespace."""
    import platform

    if ctypes.CDLL(None).unshare(0x04000000) == 0:  # CLONE_NEWUTS
        socket.sethostname(name)
    platform.node = lambda: name  # Python may have cached the earlier name
    assert "benchd.folder.files" not in sys.modules, "benchd has read the host name already"


def _shift_clock(seconds: float) -> None:
    """Shift the wall clock by `seconds` from the clock that dates the files."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + seconds
    time.time_ns = lambda: now_ns() + int(seconds * 10**9)


def main() -> None:
    """Run the program of another process."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    read = commands.add_parser("read")
    read.add_argument("folder", type=Path)
    read.add_argument("trails", type=Path, nargs="+")
    watch = commands.add_parser("watch")
    watch.add_argument("--die-at", nargs=4, metavar=("PURPOSE", "MOMENT", "NUMBER", "LOG"))
    watch.add_argument("--stall", type=float, default=0.0)
    watch.add_argument("--host", metavar="NAME")
    watch.add_argument("--clock", type=float, default=0.0)
    watch.add_argument("config")
    options = parser.parse_args()
    if options.command == "read":
        _read(options.folder, options.trails)
        return
    if options.host:
        _be_host(options.host)
    _shift_clock(options.clock)
    if options.die_at:
        purpose, moment, number, log = options.die_at
        _die_at(purpose, moment, int(number), log)
    if options.stall:
        _stall(options.stall)
    from benchd.cli import main as benchd

    benchd(["watch", "--config", options.config], prog_name="benchd")


if __name__ == "__main__":
    main()
