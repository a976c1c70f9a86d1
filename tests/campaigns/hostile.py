"""Hostile: no file that anybody drops can hurt the daemon, reach outside its folder, or delay other audits.

One daemon gets everything that `crafted.py` can make: links, pipes, devices, odd names, odd and huge contents, files
in place of its sidecars, temporary files and lock. Folders and files are replaced by links while it works. Meanwhile
good audits arrive, twenty a second, and each must be answered within two seconds. The trail must hold the right
verdict about each file. Nothing outside the folder may be opened or changed, which inotify shows. While a large file
is read, daemon and child processes may take three times its size and 64 MiB more, and a time that its size explains.
Names of layers, read as PEFT reads them, must match one module each.

The short form has smaller large files and fewer swaps.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import random
import re
import shutil
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Self

from campaigns import crafted
from campaigns.crafted import IGNORED, KEPT, NOTHING, SELECTED, Crafted
from campaigns.drops import Tail, TreeWatch, seeded
from daemon import Daemon, answers, audit, config_of, read_json, report_of, temporary_files, until

MIB: Final = 2**20

#: Maximum seconds for an answer to an honest audit; more if other programs take the CPU.
LATEST_SECONDS: Final = 2.0

#: Honest audits a second.
RATE: Final = 20

_libc = ctypes.CDLL(None, use_errno=True)


# --- observers ------------------------------------------------------------------------------------------------


class Stream(threading.Thread):
    """Drops honest audits into a folder, at a steady rate; each has its own content."""

    def __init__(self, folder: Path, beside: Path) -> None:
        super().__init__(name="stream", daemon=True)
        self.dropped: dict[str, float] = {}
        self._folder = folder
        self._whole = beside / "stream"
        self._ended = threading.Event()
        self._failure: Exception | None = None

    def run(self) -> None:
        """Drop until `end` is called."""
        due = time.monotonic()
        try:
            for number in itertools.count(100_000):
                self._whole.write_bytes(audit(number, flagged=number % 2 == 0))
                path = self._folder / f"honest-{number}.json"
                moment = time.time()
                os.rename(self._whole, path)
                self.dropped[str(path)] = moment
                due = max(due + 1 / RATE, time.monotonic() - 1)
                if self._ended.wait(max(0.0, due - time.monotonic())):
                    return
        except Exception as error:  # noqa: BLE001 - `end` raises it
            self._failure = error

    def end(self) -> None:
        """Stop dropping."""
        self._ended.set()
        self.join()
        if self._failure is not None:
            raise self._failure


class Verdicts:
    """The records about each audit, from a trail that grows."""

    def __init__(self, trail: Path) -> None:
        self._tail = Tail(trail)
        self.about: dict[str, list[dict[str, Any]]] = {}
        self.events: Counter[str] = Counter()

    def read(self) -> None:
        """Read the new records."""
        for record in self._tail.news():
            self.events[record["event"]] += 1
            if "audit" in record:
                self.about.setdefault(record["audit"], []).append(record)

    def of(self, path: Path) -> list[dict[str, Any]]:
        """Return all records about the file at `path`."""
        return self.about.get(shown(path), [])

    def verdict(self, path: Path) -> str | None:
        """Return the last verdict: `selected`, `ignored`, `kept`, the code of a rejection, or None if there is none."""
        words = {"audit.selected": SELECTED, "audit.ignored": IGNORED, "config.kept": KEPT}
        for record in reversed(self.of(path)):
            if record["event"] == "audit.rejected":
                return str(record["code"])
            if record["event"] in words:
                return words[record["event"]]
        return None

    def await_one(self, path: Path, seconds: float) -> str:
        """Wait for the verdict about `path` and return it."""

        def verdict() -> str | None:
            self.read()
            return self.verdict(path)

        try:
            return until(verdict, seconds) or ""
        except AssertionError:
            raise AssertionError(f"no verdict about {path.name[:80]!r} within {seconds:g} s: {self.of(path)}") from None


def shown(path: Path) -> str:
    r"""Return a path as the trail shows it: each byte that is not UTF-8 as `\xff`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class Sentry:
    """Watches folders and their content for any access, and remembers their first state."""

    _EVERYTHING: Final = 0xFFF
    _ATTRIBUTES: Final = 0x4  # a new hard link changes these

    def __init__(self, place: Path) -> None:
        self._place = place
        self._before = self._picture()
        self._watch = TreeWatch(place, self._EVERYTHING & ~self._ATTRIBUTES)

    def _picture(self) -> dict[str, tuple[Any, ...]]:
        found: dict[str, tuple[Any, ...]] = {}
        for path in self._place.rglob("*"):
            info = path.lstat()
            found[str(path)] = (info.st_ino, info.st_mode, info.st_size, info.st_mtime_ns, info.st_uid, info.st_gid)
        return found

    def touched(self) -> list[str]:
        """Return the files that were opened, read, written, created or moved since the last call."""
        found = []
        while events := self._watch.events():
            found += [f"{path} ({mask:#x})" for path, mask in events]
        return found

    def check(self) -> None:
        """Check that nothing was accessed."""
        touched = self.touched()
        assert not touched, f"reached outside of the folder, {len(touched)} times: {touched[:5]}"

    def compare(self) -> None:
        """Check that the state is unchanged. This reads the files, so a later `check` would fail."""
        after = self._picture()
        changed = {path for path in self._before.keys() | after.keys() if self._before.get(path) != after.get(path)}
        assert not changed, f"changed outside of the folder: {sorted(changed)[:5]}"

    def close(self) -> None:
        """Stop watching."""
        os.close(self._watch.descriptor)


class Meter:
    """Samples the memory of a process and its descendants, as a context manager around the measured code.

    `peak` is the maximum of their sum in bytes. Only anonymous memory counts, since the system can reclaim pages of
    files. The kernel's high-water mark of the process covers the time between the samples.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._command = _command(pid)
        self._strangers: set[str] = set()
        self._ended = threading.Event()
        self.peak = self.base = 0
        self.most_children = 0

    def __enter__(self) -> Self:
        with contextlib.suppress(OSError):
            Path(f"/proc/{self._pid}/clear_refs").write_text("5", encoding="ascii")  # reset the high-water mark
        self.base = self.peak = self._sample()
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        files = memory(self._pid, "RssFile") + memory(self._pid, "RssShmem")
        self.peak = max(self.peak, memory(self._pid, "VmHWM") - files)

    def _run(self) -> None:
        while not self._ended.wait(0.004):
            self.peak = max(self.peak, self._sample())

    def _sample(self) -> int:
        # Before `exec`, a new process shares its parent's memory, which would count twice.
        children = [child for child in self.children() if _command(child) != self._command]
        self.most_children = max(self.most_children, len(children))
        return memory(self._pid, "RssAnon") + sum(memory(child, "RssAnon") for child in children)

    def children(self) -> list[int]:
        """Return all descendants of the daemon."""
        family = {str(self._pid)}
        for name in sorted(os.listdir("/proc"), key=len):
            if name.isdigit() and name not in self._strangers and name not in family:
                try:
                    parent = Path(f"/proc/{name}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1]
                except (OSError, IndexError):
                    continue
                (family if parent in family else self._strangers).add(name)
        return [int(name) for name in family if name != str(self._pid)]


def _command(pid: int) -> bytes:
    """Return the command line of the process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def memory(pid: int, field: str) -> int:
    """Return one value of /proc/PID/status in bytes; 0 if the process has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    except OSError:
        return 0
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def slowdown(pid: int) -> float:
    """Return the factor by which other processes on its CPU slow a process down."""
    threads = [path.read_text("ascii").split() for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    running, waiting = (sum(int(fields[index]) for fields in threads) for index in (0, 1))
    return 1 + waiting / running if running else 1.0


# --- the campaign ---------------------------------------------------------------------------------------------


def run(place: Path, *, long: bool) -> dict[str, int | float | str]:
    """Put all hostile files into one folder; see the module's docstring."""
    seed, chance = seeded()
    started = time.monotonic()
    outside = _outside(place)
    # Scans are frequent because only they find some files, but not continuous.
    daemon = Daemon(place, watching=f'rescan_interval = "{"1s" if long else "200ms"}"')
    try:
        campaign = _Campaign(place, daemon.start(), outside, chance, long=long)
        try:
            campaign.everything()
        finally:
            campaign.close()
    finally:
        daemon.kill()
    return {"seed": seed, **campaign.figures, "seconds": round(time.monotonic() - started, 1)}


def _outside(place: Path) -> Path:
    """A folder outside benchd's: audits, a victim, and a tree like the one that is replaced by links."""
    outside = place / "outside"
    (outside / "one" / "two" / "three").mkdir(parents=True)
    for number, folder in enumerate((outside, *(path for path in outside.rglob("*")))):
        (folder / "audit.json").write_bytes(audit(900_000 + number))
        (folder / "swapped.json").write_bytes(audit(910_000 + number))
    (outside / "hard.json").write_bytes(audit(920_000))
    (outside / "victim.json").write_bytes(b"the victim\n")
    return outside


class _Campaign:
    def __init__(self, place: Path, daemon: Daemon, outside: Path, chance: random.Random, *, long: bool) -> None:
        self.place = place
        self.daemon = daemon
        self.outside = outside
        self.chance = chance
        self.long = long
        self.figures: dict[str, int | float | str] = {}
        self.verdicts = Verdicts(daemon.trail)
        self.things = self.left_out = 0
        self.sentry = Sentry(outside)
        self.stream = Stream(daemon.folder, place)
        self.stream.start()

    def close(self) -> None:
        """Stop everything that was started."""
        try:
            self.stream.end()
        finally:
            self.daemon.kill()
            self.sentry.close()

    def everything(self) -> None:
        """Run all parts, one after the other, while honest audits arrive."""
        parts: list[Callable[[], None]] = [
            self.no_files, self.odd_names, self.odd_contents, self.layer_names, self.sidecars_in_the_way,
            self.temporary_names, self.swaps, self.growing, self.unfinished, self.large, self.bombs, self.locks,
        ]  # fmt: skip
        broken = []
        for part in parts:
            before = time.monotonic()
            for step in (part, self._still_well):
                try:
                    step()
                except AssertionError as error:  # other parts may report failures, too
                    broken.append(f"{part.__name__}: {error}")
            self.figures[f"{part.__name__.replace('_', ' ')}, s"] = round(time.monotonic() - before, 1)
        self.stream.end()
        for step in (self._latencies, self.daemon.stop, self._nothing_left):
            try:
                step()
            except AssertionError as error:
                broken.append(f"at the end: {error}")
        assert not broken, "\n".join(broken)
        self.figures = {"hostile things": self.things, "left out": self.left_out, **self.figures}

    def _still_well(self) -> None:
        assert self.daemon.running, f"the daemon has ended: {self.daemon.stderr[-2000:]}"
        self.sentry.check()
        self.verdicts.read()
        for event in ("service.thread_failed", "audit.failed", "trail.failed"):
            number, self.verdicts.events[event] = self.verdicts.events[event], 0
            assert not number, f"{number} times {event}: {self.daemon.records(event)[-2:]}"

    def _put(self, things: Iterable[Crafted]) -> list[tuple[Path, Crafted]]:
        found = []
        for thing in things:
            path = crafted.made(thing, self.daemon.folder)
            self.left_out += path is None
            if path is not None:
                self.things += 1
                found.append((path, thing))
        return found

    def _judge(self, put: list[tuple[Path, Crafted]], seconds: float = 10.0) -> None:
        """Check that each file has the right verdict and the matching sidecar."""
        wrong = []
        for path, thing in put:
            if thing.verdicts == (NOTHING,):
                continue
            try:
                verdict = self.verdicts.await_one(path, seconds)
            except AssertionError as error:
                wrong.append(str(error))
                continue
            if verdict not in thing.verdicts:
                wrong.append(f"{thing.name[:60]!r}: {verdict}, not {' or '.join(thing.verdicts)}")
            elif verdict == SELECTED:
                until(lambda path=path: answers(path), what=f"the config of {thing.name[:60]!r}")
            elif verdict not in {IGNORED, KEPT, "name_too_long"}:
                until(report_of(path).exists, what=f"the report about {thing.name[:60]!r}")
                self._check_report(path, verdict)
        self._scanned()
        for path, thing in put:
            if thing.verdicts == (NOTHING,):
                sidecars = [side.name for side in (config_of(path), report_of(path)) if os.path.lexists(side)]
                if self.verdicts.of(path) or (sidecars and path.name not in sidecars):
                    wrong.append(f"{thing.name[:60]!r}: {sidecars}, {self.verdicts.of(path)}, not nothing")
        assert not wrong, "\n".join(wrong)

    def _check_report(self, path: Path, code: str) -> None:
        report = read_json(report_of(path))
        texts = report["message"], report["hint"]
        assert report["code"] == code, f"{path.name[:60]!r}: the report says {report['code']}, the trail {code}"
        assert all(text.isprintable() and len(text) <= 1000 for text in texts), f"{path.name[:60]!r}: {texts}"

    def _scanned(self) -> None:
        """Wait for a complete scan, since only a scan finds some files."""
        self.verdicts.read()
        before = self.verdicts.events["scan.finished"]

        def twice() -> bool:
            self.verdicts.read()
            return self.verdicts.events["scan.finished"] >= before + 2

        until(twice, 20, "two scans")

    # --- parts ----------------------------------------------------------------------------------------------------

    def no_files(self) -> None:
        """Links, pipes, sockets, devices and folders are never opened."""
        sentry = Sentry(self.daemon.folder)
        try:
            put = self._put(crafted.special(self.outside))
            self._judge(put)
            special = {path.name for path, thing in put if thing.verdicts == ("not_a_regular_file",)}
            opened = [event for event in sentry.touched() if os.path.basename(event.rpartition(" ")[0]) in special]
            opened = [event for event in opened if int(event.rpartition("(")[2].rstrip(")"), 16) & 0x23]
        finally:
            sentry.close()
        assert not opened, f"opened or read a special file: {opened[:5]}"
        inside = self.daemon.folder / "folder.json" / "inside.json"
        inside.write_bytes(audit(1))
        assert self.verdicts.await_one(inside, 5) == SELECTED

    def odd_names(self) -> None:
        """Audits with confusing names get the right verdict."""
        self._judge(self._put(crafted.names()))

    def odd_contents(self) -> None:
        """Small files that no real tool writes get the right verdict."""
        self._judge(self._put(crafted.contents()))

    def layer_names(self) -> None:
        """A layer's name, as PEFT matches its pattern, matches that layer's module and no other."""
        real = [layer.removeprefix("base_model.model.") for layer in _real_layers()]
        honest = [crafted.layer(f"base_model.model.{name}") for name in real]
        wrong = []
        for number, name in enumerate(crafted.LAYER_NAMES):
            path = self.daemon.folder / f"layer-{number}.json"
            path.write_bytes(crafted.an_audit(flagged_layers=[crafted.layer(name), *honest]))
            self.things += 1
        for number, name in enumerate(crafted.LAYER_NAMES):
            path = self.daemon.folder / f"layer-{number}.json"
            self.verdicts.await_one(path, 10)
            until(lambda path=path: answers(path))
            config = read_json(config_of(path))
            chosen = config["compression_strategies"][1]["rank_pattern"]
            modules = [layer["module"] for layer in config["selection"]["layers"] if layer["rank"]]
            for key, module in zip(chosen, modules, strict=True):
                # No model has the crafted module, so an honest key may match it too.
                others = real if module in real else {*modules, *real}
                matched = [other for other in others if re.match(rf"(.*\.)?({key})$", other)]
                if matched != [module]:
                    wrong.append(f"{name!r}: the key {key!r} matches {len(matched)} modules: {matched[:3]}")
        self.figures["layer names"] = len(crafted.LAYER_NAMES)
        assert not wrong, "\n".join(wrong)

    def sidecars_in_the_way(self) -> None:
        """If a file of another user is in a sidecar's place, it stays unchanged, and so does the target of a link."""
        good: dict[Path, tuple[Path, Any]] = {}
        bad: dict[Path, tuple[Path, Any]] = {}
        for kind, make in crafted.in_the_way(self.outside):
            for group, name in ((good, f"way-{kind}.json"), (bad, f"way-bad-{kind}.json")):
                path = self.daemon.folder / name
                sidecar = (config_of if group is good else report_of)(path)
                try:
                    make(sidecar)
                except PermissionError:
                    self.left_out += 1
                    continue
                self.things += 1
                group[path] = (sidecar, sidecar.lstat())
        for path in good:
            path.write_bytes(audit(7))
        for path in bad:
            path.write_bytes(b"Error: Audit failed: x\n")
        for path in good:
            assert self.verdicts.await_one(path, 10) == KEPT, f"{path.name}: {self.verdicts.of(path)}"
        for path in bad:
            assert self.verdicts.await_one(path, 10) == "audit_failed", f"{path.name}: {self.verdicts.of(path)}"
        self._scanned()
        for sidecar, before in (good | bad).values():
            now = sidecar.lstat()
            same = [
                getattr(now, field) == getattr(before, field) for field in ("st_ino", "st_mode", "st_size", "st_uid")
            ]
            same.append(now.st_mtime_ns == before.st_mtime_ns)
            assert all(same), f"{sidecar.name} was changed: {before}, {now}"

    def temporary_names(self) -> None:
        """If the next names of temporary files are taken, no answer is delayed."""
        makers = [
            crafted.linking(self.outside / "victim.json"), crafted.linking(self.outside / "created.json"), os.mkfifo,
            lambda path: path.mkdir(), lambda path: os.link(self.outside / "victim.json", path),
        ]  # fmt: skip
        before, first = self._temporary_name()
        taken = []
        for number in range(first, first + (4000 if self.long else 1000)):
            path = self.daemon.folder / f"{before}{number:016x}.tmp"
            with contextlib.suppress(FileExistsError):
                makers[number % len(makers)](path)
                taken.append(path)
        self.things += len(taken)
        try:
            started = time.monotonic()
            dropped = [self.daemon.drop(f"taken-{number}.json", audit(number)) for number in range(20)]
            for path in dropped:
                assert self.verdicts.await_one(path, 10) == SELECTED, self.verdicts.of(path)
                until(lambda path=path: answers(path), 10)
            took = time.monotonic() - started
        finally:
            for path in taken:
                if path.is_dir() and not path.is_symlink():
                    path.rmdir()
                else:
                    path.unlink(missing_ok=True)
        failed = self.daemon.records("config.write_failed")
        assert not failed, f"{len(failed)} answers were not written: {failed[0]}"
        latest = LATEST_SECONDS * slowdown(self.daemon.pid)
        assert took < latest, f"20 audits took {took:.1f} s, not within {latest:.1f}"

    def _temporary_name(self) -> tuple[str, int]:
        """Return the prefix of the daemon's temporary names, and the next number."""
        sentry = Sentry(self.daemon.folder)
        try:
            self.daemon.mark()
            named = re.findall(r"/(\.benchd-[^/ ]*-)([0-9a-f]+)\.tmp ", "\n".join(sentry.touched()))
        finally:
            sentry.close()
        assert named, "no temporary file with a number appeared"
        return named[-1][0], int(named[-1][1], 16) + 1

    def swaps(self) -> None:
        """Links to the outside constantly replace an audit, a config and folders at every level, and are undone."""
        top = self.daemon.folder / "one"
        deepest = top / "two" / "three"
        deepest.mkdir(parents=True)
        audit_path, config_path = deepest / "swapped.json", config_of(deepest / "config.json")
        audit_path.write_bytes(audit(1))
        pairs = [(top, self.outside / "one"), (top / "two", self.outside / "one" / "two")]
        pairs += [(deepest, self.outside / "one" / "two" / "three"), (audit_path, self.outside / "swapped.json")]
        pairs += [(config_path, self.outside / "victim.json")]
        until(lambda: answers(audit_path), what="the audit in the folders that will be swapped")
        drops = os.open(deepest, os.O_RDONLY | os.O_DIRECTORY)
        total, done, dropped = 50_000 if self.long else 1_500, 0, 0
        try:
            for path, target in pairs:
                path.with_name(f".link-{path.name}").symlink_to(target)
            while done < total:
                path, _ = self.chance.choice(pairs)
                if done % 10 == 0:
                    name = f"deep-{dropped}.json" if self.chance.random() < 0.7 else "config.json"
                    dropped += name != "config.json"
                    self._write_at(drops, name, audit(dropped))
                done += self._swap_and_back(path)
            self.figures["swaps"] = done
            self.figures["answered while they were swapped"] = sum(
                name.endswith(".bench.json") for name in os.listdir(drops)
            )
            for name in os.listdir(drops):
                if not name.startswith(".") and name.endswith(".json") and not os.path.islink(deepest / name):
                    assert (deepest / name).exists()
        finally:
            os.close(drops)
        for path, _ in pairs:
            path.with_name(f".link-{path.name}").unlink()
        paths = [deepest / f"deep-{number}.json" for number in range(dropped)]
        until(
            lambda: all(answers(path) for path in [*paths, audit_path]), 20, "the audits in folders that were swapped"
        )
        config_path.unlink(missing_ok=True)
        (deepest / "config.json").unlink(missing_ok=True)

    @staticmethod
    def _write_at(directory: int, name: str, content: bytes) -> None:
        descriptor = os.open(f".{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=directory)
        os.write(descriptor, content)
        os.close(descriptor)
        os.rename(f".{name}", name, src_dir_fd=directory, dst_dir_fd=directory)

    def _swap_and_back(self, path: Path) -> int:
        """Exchange `path` and the link beside it, then exchange them back."""
        link = path.with_name(f".link-{path.name}")
        if not os.path.lexists(path):
            return 0
        exchange(path, link)
        for _ in range(self.chance.choice((0, 0, 10, 1000))):
            pass
        exchange(link, path)
        return 2

    def growing(self) -> None:
        """A growing file is not judged before its writer closes it; a file over the limit is rejected unread."""
        path = self.daemon.folder / "growing.json"
        piece = b'{"layer_name": "base_model.model.a.b", "x": "' + b"x" * 4096 + b'"},'
        end = time.monotonic() + (10.0 if self.long else 1.0)
        with path.open("wb", buffering=0) as file:
            file.write(b'{"policy_disagreement_analysis": {"flagged_layers": [')
            while time.monotonic() < end:
                file.write(piece)
                time.sleep(0.002)  # the pace of the writer; the test waits for nothing here
            self.verdicts.read()
            assert self.verdicts.verdict(path) is None, f"judged while it grows: {self.verdicts.of(path)}"
        assert self.verdicts.await_one(path, 10) == "truncated", self.verdicts.of(path)
        size = path.stat().st_size
        with path.open("r+b") as file:
            while (size := size + 32 * MIB) < 400 * MIB:
                file.truncate(size)
        assert self._becomes(path, "too_large"), self.verdicts.of(path)[-3:]
        path.write_bytes(audit(1))
        assert self._becomes(path, SELECTED), self.verdicts.of(path)[-3:]
        self.things += 1

    def unfinished(self) -> None:
        """While many unfinished files with a writer wait, benchd keeps none of their content."""
        size, number = 900_000, 300 if self.long else 80
        paths = [self.daemon.folder / f"unfinished-{index}.json" for index in range(number)]
        with contextlib.ExitStack() as open_files, Meter(self.daemon.pid) as meter:
            for path, earlier in zip(paths, [*[None] * 8, *paths], strict=False):  # a few at a time
                file = open_files.enter_context(path.open("wb", buffering=0))
                file.write(b'{"a": '.ljust(size))
                self._await_deferred(earlier)
            for path in paths:
                self._await_deferred(path)
        for path in paths:
            assert self.verdicts.await_one(path, 10) == "truncated", self.verdicts.of(path)
        self.things += number
        grown, allowed = (meter.peak - meter.base) / MIB, 3 * size / MIB + 64
        assert grown <= allowed, (
            f"{number} files of {size} bytes wait: {grown:.0f} MiB above base, not within {allowed:.0f}"
        )

    def _await_deferred(self, path: Path | None) -> None:
        def is_deferred() -> bool:
            self.verdicts.read()
            return path is None or any(record["event"] == "audit.deferred" for record in self.verdicts.of(path))

        until(is_deferred, what=f"{path} is looked at")

    def _becomes(self, path: Path, verdict: str) -> bool:
        def is_that() -> bool:
            self.verdicts.read()
            return self.verdicts.verdict(path) == verdict

        with contextlib.suppress(AssertionError):
            return until(is_that, 15)
        return False

    def large(self) -> None:
        """Large files, one after the other, take only the memory and time that their size explains."""
        size = (72 if self.long else 4) * MIB
        for thing in crafted.dense(size, every=self.long):
            self._measure(thing)
        for thing in crafted.long_ones((48 if self.long else 2) * MIB):
            if self.long or thing.name in {"long-before.json", "long-text.json"}:
                self._measure(thing)
        for megabytes, non_finite in ((2, True), (20, True), (20, False)) if self.long else ((2, True),):
            content = crafted.honest(megabytes * MIB, non_finite=non_finite)
            name = f"honest-large-{megabytes}{'-nan' * non_finite}.json"
            self._measure(Crafted(name, crafted.writing(content), (SELECTED,)))

    def _measure(self, thing: Crafted, *, limit: float = 3.0) -> None:
        hidden = self.daemon.folder / f".made-{thing.name}"
        thing.make(hidden)
        size = hidden.stat().st_size
        path = self.daemon.folder / thing.name
        seconds = (10 + size / (3 * MIB)) * slowdown(self.daemon.pid)
        with Meter(self.daemon.pid) as meter:
            started = time.monotonic()
            hidden.rename(path)
            verdict = self.verdicts.await_one(path, 3 * seconds)
            took = time.monotonic() - started
        grown = (meter.peak - meter.base) / MIB
        allowed = limit * size / MIB + 64
        self.things += 1
        self._note("largest crafted, MiB", round(size / MIB, 1))
        self._note("peak memory above base, in sizes", round(max(0.0, grown - 64) / (size / MIB), 2))
        self._note("peak memory above base, MiB", round(grown, 1))
        self._note("longest reading, s", round(took, 2))
        self._note("most child processes", meter.most_children)
        self.figures["too complex"] = int(self.figures.get("too complex", 0)) + (verdict == "too_complex")
        told = f"{thing.name} of {size / MIB:.1f} MiB: {verdict}"
        assert verdict in thing.verdicts, f"{told}, not {' or '.join(thing.verdicts)}"
        assert grown <= allowed, f"{told}: {grown:.0f} MiB above base, not within {allowed:.0f}"
        assert took <= seconds, f"{told}: {took:.1f} s, not within {seconds:.1f}"
        path.unlink()

    def _note(self, figure: str, value: float) -> None:
        self.figures[figure] = max(value, float(self.figures.get(figure, 0)))

    def bombs(self) -> None:
        """A dense file in the config's place costs no more than its size explains."""
        size = (32 if self.long else 4) * MIB
        path = self.daemon.folder / "bomb.json"
        crafted.bomb(size)(config_of(path))
        with Meter(self.daemon.pid) as meter:
            path.write_bytes(audit(1))
            verdict = self.verdicts.await_one(path, 5 + size / (2 * MIB))
            self._scanned()
        grown, allowed = (meter.peak - meter.base) / MIB, 3 * size / MIB + 64
        assert verdict == KEPT, f"a dense file in the config's place: {verdict}"
        assert grown <= allowed, (
            f"a dense sidecar of {size / MIB:.0f} MiB: {grown:.0f} MiB above base, not within {allowed:.0f}"
        )
        config_of(path).unlink()
        assert self._becomes(path, SELECTED), self.verdicts.of(path)[-3:]
        self.things += 1

    def locks(self) -> None:
        """With another file in the lock's place, a daemon still starts and does not touch the target of a link."""
        kinds = dict(crafted.in_the_way(self.outside))
        # Each one takes half a second.
        for kind in kinds if self.long else ["link-out", "hard-link"]:
            home = self.place / f"lock-{kind}"
            (home / "inbox").mkdir(parents=True)
            with contextlib.suppress(PermissionError):
                kinds[kind](home / "inbox" / ".benchd.lock")
            other = Daemon(home).start()
            try:
                path = other.drop("a.json")
                until(lambda path=path: answers(path), what=f"an answer beside a lock that is a {kind}")
                other.stop()
            finally:
                other.kill()
            self.things += 1
        shutil.rmtree(home)

    # --- in the end -----------------------------------------------------------------------------------------------

    def _latencies(self) -> None:
        """Every honest audit has its answer, and none was late."""
        paths = [Path(path) for path in self.stream.dropped]
        until(lambda: all(answers(path) for path in paths[-3:]), what="the last honest audits are answered")
        missing = [path.name for path in paths if not answers(path)]
        assert not missing, f"{len(missing)} of {len(paths)} honest audits have no answer: {missing[:5]}"
        self.verdicts.read()
        waits = sorted(wait for path, moment in self.stream.dropped.items() for wait in self._wait(path, moment))
        assert len(waits) == len(paths), f"{len(paths) - len(waits)} of {len(paths)} answers have no record"
        quantiles = statistics.quantiles(waits, n=100)
        self.figures |= {
            "honest audits": len(waits),
            "p50, ms": round(quantiles[49] * 1000, 1),
            "p99, ms": round(quantiles[98] * 1000, 1),
            "latest, ms": round(waits[-1] * 1000, 1),
        }
        latest = LATEST_SECONDS * slowdown(self.daemon.pid)
        late = sum(wait > latest for wait in waits)
        assert not late, f"{late} honest audits waited longer than {latest:.1f} s, one {waits[-1]:.1f} s"

    def _wait(self, path: str, moment: float) -> Iterator[float]:
        for record in self.verdicts.about.get(path, ()):
            if record["event"] == "audit.selected":
                yield _seconds(record["ts"]) - moment
                return

    def _nothing_left(self) -> None:
        left = temporary_files(self.daemon.folder)
        assert not [
            path for path in left if path.name != ".benchd-00000000-1-1.tmp" and path.name != ".benchd-x.tmp"
        ], left
        self.sentry.check()
        self.sentry.compare()


def _real_layers() -> list[str]:
    value = json.loads((crafted.AUDITS / "llama4_many__default.json").read_bytes())
    return [entry["layer_name"] for entry in value["policy_disagreement_analysis"]["all_layers_with_disagreement"]]


def _seconds(moment: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(moment).timestamp()


def exchange(one: Path, other: Path) -> None:
    """Exchange two names atomically."""
    result = _libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2)
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one))
