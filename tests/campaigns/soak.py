"""Soak: the daemon can run forever, with constant memory, descriptors and threads, and no late answer.

Fifty drops a second for an hour (`BENCHD_CAMPAIGN_SECONDS`): good audits, audits that are replaced, broken, fixed and
deleted, all small files of `crafted.py` and sometimes a dense one, and subfolders that are created, moved out and
back, and deleted. Meanwhile the settings are reloaded, the trail is rotated, and the kernel's queue overflows. Every
answer is checked against its content and its record, and then removed, so that the folder does not grow. A good audit
must be answered within five seconds, no content twice. Resident memory, descriptors and threads at the end are
compared with those after the warm-up. `soak.jsonl` has a line of figures for every second.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import time
from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

from campaigns import crafted
from campaigns.crafted import IGNORED, KEPT, NOTHING, SELECTED, Crafted
from campaigns.drops import Tail, seeded
from campaigns.hostile import memory, shown, slowdown
from daemon import Daemon, audit, config_of, read_json, report_of, temporary_files, until

RATE: Final = 50
LATEST_SECONDS: Final = 5.0
LONG_SECONDS: Final = 3600.0
SHORT_SECONDS: Final = 8.0

#: Maximum number of answered audits in the folder.
KEPT_AUDITS: Final = 1000

MIB: Final = 2**20


class Drop(NamedTuple):
    """A drop that waits for its answer: the digest of its content (None if it is bad) and its time."""

    digest: str | None
    moment: float


def run(place: Path, *, long: bool) -> dict[str, int | float | str]:
    """Run the campaign; see the module's docstring."""
    seed, chance = seeded()
    seconds = float(os.environ.get("BENCHD_CAMPAIGN_SECONDS") or (LONG_SECONDS if long else SHORT_SECONDS))
    # Scans are so rare that an answer that waits for one is late.
    daemon = Daemon(place, level="info", watching='rescan_interval = "60s"').start()
    soak = _Soak(place, daemon, chance, seconds)
    try:
        soak.drop_all_the_while()
        soak.settle()
        soak.rest()
        daemon.stop()
    finally:
        daemon.kill()
    return {"seed": seed, **soak.figures()}


class _Trails:
    """Reads a trail that is rotated meanwhile, and deletes the parts that it has read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tails = [Tail(path)]
        self._rotated: deque[tuple[float, Tail]] = deque()
        self.rotations = 0

    def news(self) -> list[dict[str, Any]]:
        """Return the records since the last call."""
        now, found = time.monotonic(), []
        for _, tail in self._rotated:
            found += list(tail.news())
        while self._rotated and self._rotated[0][0] < now:
            # The daemon has long noticed that its file was renamed.
            old = self._rotated.popleft()[1]
            assert not old.torn, f"{old.torn} lines of the trail are no JSON"
            old.path.unlink()
        found += list(self._tails[0].news())
        assert not self._tails[0].torn, f"{self._tails[0].torn} lines of the trail are no JSON"
        return found

    def rotate(self) -> None:
        """Give the trail another name, as logrotate does."""
        self.rotations += 1
        old = self._path.with_name(f"trail.{self.rotations}.jsonl")
        os.rename(self._path, old)
        self._tails[0].path = old
        self._rotated.append((time.monotonic() + 5, self._tails[0]))
        self._tails[0] = Tail(self._path)


class _Subfolder:
    """A folder that is created, moved and deleted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.audits: list[Path] = []
        self.moves = 0


class _Soak:
    def __init__(self, place: Path, daemon: Daemon, chance: random.Random, seconds: float) -> None:
        self.place = place
        self.daemon = daemon
        self.folder = daemon.folder
        self.chance = chance
        self.seconds = seconds
        self.trails = _Trails(daemon.trail)
        self.counts: Counter[str] = Counter()
        self.waits: list[float] = []
        self.samples: list[dict[str, float]] = []
        self._number = 0
        self._waiting: dict[Path, Drop] = {}
        self._paths: dict[str, Path] = {}
        self._answered: deque[Path] = deque()
        self._bad: deque[Path] = deque()
        self._gone: deque[tuple[float, Path]] = deque()
        self._decided: set[tuple[str, str]] = set()
        self._recent: deque[tuple[str, str]] = deque()
        self._things = [*crafted.special(self._outside()), *crafted.names(), *crafted.contents()]
        self._present: dict[Path, tuple[Crafted, float]] = {}
        self._verdicts: dict[str, str] = {}
        self._subfolders: list[_Subfolder] = []
        self._continued = 0.0
        self._at_rest = self._held()
        self._whole = place / "whole"

    def _outside(self) -> Path:
        outside = self.place / "outside"
        outside.mkdir()
        for name in ("audit.json", "hard.json"):
            (outside / name).write_bytes(audit(1))
        return outside

    # --- the drops ------------------------------------------------------------------------------------------------

    def drop_all_the_while(self) -> None:
        """Drop at the given rate, and do everything else in between."""
        begin = time.monotonic()
        share = self.seconds / LONG_SECONDS
        every: list[tuple[float, Callable[[], None]]] = [
            (max(0.25, 1.0 * min(1.0, share * 10)), self._sample),
            (max(1.5, min(30.0, 300 * share)), self.trails.rotate),
            (max(2.0, min(20.0, 200 * share)), self._reload),
            (max(2.5, 60.0 * min(1.0, share * 10)), self._dense),
            (max(1.0, 5.0 * min(1.0, share * 100)), self._subfolder),
            (max(4.5, 600.0 * share), self._overflow),
        ]
        due = [begin + pause for pause, _ in every]
        next_drop = begin
        while (now := time.monotonic()) < begin + self.seconds:
            if now >= next_drop:
                self._drop()
                next_drop = max(next_drop + 1 / RATE, now - 0.5)
            for index, (pause, deed) in enumerate(every):
                if now >= due[index]:
                    deed()
                    due[index] = time.monotonic() + pause
            self._follow()
            time.sleep(max(0.0, min(next_drop - time.monotonic(), 0.02)))  # keeps the rate
            assert self.daemon.running, f"the daemon has ended: {self.daemon.stderr[-2000:]}"
        self.counts["seconds"] = round(time.monotonic() - begin)

    def _drop(self) -> None:
        deed = self.chance.choices(
            (self._new, self._replace, self._spoil, self._fix, self._delete, self._craft), (80, 6, 5, 3, 2, 4)
        )[0]
        deed()
        self.counts["drops"] += 1

    def _good(self) -> bytes:
        self._number += 1
        content = audit(self._number, flagged=self.chance.random() < 0.5)
        form = self.chance.random()
        if form < 0.1:
            return content.replace(b"{", b'{"irrelevant": NaN, ', 1)
        if form < 0.2:
            lines = b"    computing SVD and metrics for layer: a\n" * 3
            return lines + json.dumps(json.loads(content), indent=2).encode() + b"\n"
        return content

    def _put(self, path: Path, content: bytes, *, good: bool) -> None:
        digest = sha256(content).hexdigest() if good else None
        if self.chance.random() < 0.5:
            self._whole.write_bytes(content)
            os.rename(self._whole, path)
        else:
            path.write_bytes(content)
        self._waiting[path] = Drop(digest, time.time())
        self._paths[shown(path)] = path

    def _new(self, folder: Path | None = None) -> Path:
        path = (folder or self.folder) / f"audit-{self._number}.json"
        self._put(path, self._good(), good=True)
        return path

    def _replace(self) -> None:
        if self._answered:
            path = self._answered.popleft()
            self._put(path, self._good(), good=True)
            self.counts["replaced"] += 1

    def _spoil(self) -> None:
        self._number += 1
        path = self.folder / f"bad-{self._number}.json"
        content = self._good()
        self._put(path, self.chance.choice((content[:1000], b"Error: Audit failed: %d\n" % self._number)), good=False)
        self.counts["bad"] += 1

    def _fix(self) -> None:
        if self._bad:
            self._put(self._bad.popleft(), self._good(), good=True)
            self.counts["fixed"] += 1

    def _delete(self) -> None:
        if self._answered:
            self._clear(self._answered.popleft())
        path = self._new()
        if self.chance.random() < 0.5:  # perhaps before it is answered
            del self._waiting[path]
            path.unlink()
            self._gone.append((time.monotonic() + 5, path))
        self.counts["deleted"] += 1

    def _craft(self) -> None:
        thing = self.chance.choice(self._things)
        path = self.folder / thing.name
        if path in self._present or os.path.lexists(path):
            return
        self._verdicts.pop(shown(path), None)
        if crafted.made(thing, self.folder) is not None:
            self._present[path] = (thing, time.monotonic())
            self.counts["crafted"] += 1

    # --- other events ---------------------------------------------------------------------------------------------

    def _reload(self) -> None:
        interval = self.chance.choice(("40s", "50s", "60s"))
        text = self.daemon.config.read_text(encoding="utf-8")
        before, _, after = text.partition('rescan_interval = "')
        self.daemon.config.write_text(
            f'{before}rescan_interval = "{interval}"{after.partition(chr(34))[2]}', encoding="utf-8"
        )
        os.kill(self.daemon.pid, signal.SIGHUP)
        self.counts["reloads"] += 1

    def _dense(self) -> None:
        thing = self.chance.choice(list(crafted.dense(4 * MIB, every=True)))
        path = self.folder / thing.name
        if path not in self._present:
            self._verdicts.pop(shown(path), None)
            thing.make(path)
            self._present[path] = (thing, time.monotonic())
            self.counts["dense"] += 1

    def _subfolder(self) -> None:
        """Change each subfolder whose audits are all answered, and add a new one."""
        for below in list(self._subfolders):
            if any(path in self._waiting for path in below.audits):
                continue
            if below.moves == 3:
                shutil.rmtree(below.path)
                self._subfolders.remove(below)
                continue
            away = self.place / "away"
            os.rename(below.path, away)
            to = below.path if below.moves == 1 else below.path.with_name(f"{below.path.name}x")
            if below.moves == 2:
                self._fill(_Subfolder(away), 1)
            os.rename(away, to)
            below.path, below.moves = to, below.moves + 1
            below.audits = []
            self._fill(below, 2)
        self._number += 1
        new = _Subfolder(self.folder / f"sub-{self._number}")
        (new.path / "deeper").mkdir(parents=True)
        self._fill(new, 3)
        self._subfolders.append(new)
        self.counts["subfolders"] += 1

    def _fill(self, below: _Subfolder, number: int) -> None:
        for index in range(number):
            folder = below.path / "deeper" if index % 2 else below.path
            if folder.is_relative_to(self.folder):
                below.audits.append(self._new(folder))
            else:
                (folder / f"away-{self._number}.json").write_bytes(self._good())

    def _overflow(self) -> None:
        """Pause the daemon and fill the kernel's queue."""
        os.kill(self.daemon.pid, signal.SIGSTOP)
        try:
            limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text(encoding="ascii"))
            names = [self.folder / ".turn-0", self.folder / ".turn-1"]
            names[0].write_bytes(b"")
            for number in range(limit + 100):
                os.rename(names[number % 2], names[1 - number % 2])
            for _ in range(20):
                self._new()
        finally:
            os.kill(self.daemon.pid, signal.SIGCONT)
        self._continued = time.time()
        for name in names:
            name.unlink(missing_ok=True)
        self.counts["overflows forced"] += 1

    # --- the answers ----------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Read the trail, check the answers, and delete what has been checked."""
        for record in self.trails.news():
            event, about = record["event"], record.get("audit", "")
            assert event not in {"service.thread_failed", "service.reload_failed", "audit.failed", "trail.failed"}, (
                record
            )
            self.counts[f"recorded {event}"] += 1
            if event == "audit.selected":
                self._decide(about, record)
                self._verdicts[about] = SELECTED
            elif event == "audit.rejected":
                self._verdicts[about] = record["code"]
                path = self._paths.get(about)
                if path in self._waiting and self._waiting[path].digest is None:
                    del self._waiting[path]
                    self._bad.append(path)
            elif event in {"config.kept", "audit.ignored"}:
                self._verdicts[about] = KEPT if event == "config.kept" else IGNORED
        self._clear_away()
        now = time.time()
        for path, drop in list(self._waiting.items()):
            waited = now - max(drop.moment, self._continued)
            assert waited < 2 * LATEST_SECONDS or waited < 2 * self._latest(), (
                f"{path.name} has waited for {waited:.1f} s; last verdict {self._last(path)}"
            )

    def _latest(self) -> float:
        """Return the seconds until an answer is late, which are more if other programs take the CPU."""
        return LATEST_SECONDS * slowdown(self.daemon.pid)

    def _last(self, path: Path) -> str | None:
        return self._verdicts.get(shown(path))

    def _decide(self, about: str, record: dict[str, Any]) -> None:
        decided = (about, record["audit_sha256"])
        assert decided not in self._decided or about not in self._paths, f"answered twice: {record}"
        self._decided.add(decided)
        self._recent.append(decided)
        while len(self._recent) > 20_000:
            self._decided.discard(self._recent.popleft())
        path = self._paths.get(about)
        drop = self._waiting.get(path) if path else None
        if path is None or drop is None or drop.digest != record["audit_sha256"]:
            return
        wait = datetime.fromisoformat(record["ts"]).timestamp() - max(drop.moment, self._continued)
        assert wait <= LATEST_SECONDS or wait <= self._latest(), f"{path.name} was answered after {wait:.1f} s"
        self.waits.append(wait)
        provenance = until(lambda: self._provenance(path, drop.digest), 5, f"the config of {path.name}")
        assert provenance["decision_id"] == record["decision_id"], f"{path.name}: {provenance}, not {record}"
        del self._waiting[path]
        if path.parent == self.folder:
            self._answered.append(path)

    @staticmethod
    def _provenance(path: Path, digest: str | None) -> dict[str, Any] | None:
        with contextlib.suppress(FileNotFoundError):
            found = read_json(config_of(path))["provenance"]
            if found["audit_sha256"] == digest:
                return dict(found)
        return None

    def _clear_away(self) -> None:
        while len(self._answered) > KEPT_AUDITS:
            self._clear(self._answered.popleft())
        while len(self._bad) > KEPT_AUDITS // 10:
            self._clear(self._bad.popleft())
        now = time.monotonic()
        while self._gone and self._gone[0][0] < now:
            self._clear(self._gone.popleft()[1])
        for path, (thing, since) in list(self._present.items()):
            verdict = self._last(path)
            # At level info the trail does not name ignored files.
            silent = thing.verdicts in {(NOTHING,), (IGNORED,)} or IGNORED in thing.verdicts
            assert verdict is None or verdict in thing.verdicts, f"{path.name[:80]!r}: {verdict}, not {thing.verdicts}"
            if not (silent and now - since > 5 if verdict is None else self._is_visible(path, verdict)):
                assert now - since < 30, f"no verdict about {path.name[:80]!r} in {now - since:.0f} s"
                continue
            del self._present[path]
            self._clear(path)

    @staticmethod
    def _is_visible(path: Path, verdict: str) -> bool:
        """Return whether the sidecar exists; its record came before it."""
        if verdict == SELECTED:
            return config_of(path).exists()
        return verdict in {IGNORED, KEPT, "name_too_long"} or report_of(path).exists()

    def _clear(self, path: Path) -> None:
        for name in (path, config_of(path), report_of(path)):
            with contextlib.suppress(OSError):  # missing, or no valid name for a file
                if name.is_dir() and not name.is_symlink():
                    name.rmdir()
                else:
                    name.unlink()
        self._paths.pop(shown(path), None)
        self._verdicts.pop(shown(path), None)

    def settle(self) -> None:
        """Wait until everything is answered, and check that no other file is left."""

        def all_answered() -> bool:
            self._follow()
            return not self._waiting and not self._present

        until(all_answered, 40, f"{len(self._waiting)} answers and {len(self._present)} verdicts")
        left = temporary_files(self.folder)
        assert [path.name for path in left if "00000000" not in path.name and path.name != ".benchd-x.tmp"] == []

    def rest(self) -> None:
        """Wait until the idle daemon holds as many descriptors and threads as before the first drop."""
        for name, allowed in (("descriptors", 4), ("threads", 1)):
            most = self._at_rest[name] + allowed
            what = f"at most {most} {name}: {self._held()}"
            # The sandbox may still read dense files that were deleted meanwhile; a leak lasts for ever.
            until(lambda name=name, most=most: self._held()[name] <= most, 120, what)

    # --- the figures ----------------------------------------------------------------------------------------------

    def _sample(self) -> None:
        pid = self.daemon.pid
        recent = sorted(self.waits[-RATE:]) or [0.0]
        sample = {
            "seconds": round(time.time(), 1),
            "drops": self.counts["drops"],
            "answered": len(self.waits),
            "waiting": len(self._waiting),
            "resident, MiB": round(memory(pid, "VmRSS") / MIB, 2),
            "anonymous, MiB": round(memory(pid, "RssAnon") / MIB, 2),
            **self._held(),
            "latest of the last 50, ms": round(recent[-1] * 1000, 1),
        }
        self.samples.append(sample)
        with (self.place / "soak.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(sample) + "\n")

    def _held(self) -> dict[str, int]:
        """Return the numbers of descriptors and threads. A batch has its files open until they are flushed."""
        process = Path(f"/proc/{self.daemon.pid}")
        return {"descriptors": len(os.listdir(process / "fd")), "threads": len(os.listdir(process / "task"))}

    def figures(self) -> dict[str, int | float | str]:
        """Return the figures of the run. Raises AssertionError if something has grown."""
        tenth = max(1, len(self.samples) // 10)
        first, last = self.samples[tenth : 2 * tenth] or self.samples[:1], self.samples[-tenth:]
        found: dict[str, int | float | str] = {}
        # The memory of a Python process varies with its last reads, but a leak of a few bytes a drop still shows.
        name, allowed = "resident, MiB", 8 if self.seconds > 600 else 32
        early, late = (statistics.median(sample[name] for sample in part) for part in (first, last))
        assert late <= early + allowed, f"{name}: {early:g} after the warm-up, {late:g} in the end"
        found[f"{name}: after the warm-up"], found[f"{name}: in the end"] = early, late
        found |= self._at_rest
        quantiles = statistics.quantiles(self.waits, n=1000)
        kinds = ("drops", "replaced", "bad", "fixed", "deleted", "crafted", "dense", "subfolders", "reloads")
        return {
            "seconds": self.counts["seconds"],
            **{kind: self.counts[kind] for kind in (*kinds, "overflows forced")},
            "overflows recorded": self.counts["recorded watch.overflow"],
            "rotations": self.trails.rotations,
            "answers checked": len(self.waits),
            "p50, ms": round(quantiles[499] * 1000, 1),
            "p99, ms": round(quantiles[989] * 1000, 1),
            "p99.9, ms": round(quantiles[998] * 1000, 1),
            "latest, ms": round(max(self.waits) * 1000, 1),
            **found,
        }
