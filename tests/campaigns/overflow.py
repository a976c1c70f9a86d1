"""Overflow: audits whose events the kernel lost are found quickly.

The daemon is paused (SIGSTOP), and audits are dropped, replaced, broken, fixed, renamed and deleted. A file is renamed
back and forth until the kernel's queue of events (fs.inotify.max_queued_events) is full. More changes follow without
events: the same changes again, an audit in a new folder, and a folder that is moved and replaced by another one. Then
the daemon continues. Sometimes it is paused again as soon as it has noticed, in the middle of its scan.

Each time `watch.overflow` must be recorded and every audit get the answer to its last content within seconds. The
periodic scan runs once an hour, so it can't be the cause. Afterwards each folder that was created or moved during the
overflow must be watched: a drop into it is answered without another scan. No content is answered twice.

The campaign also runs with a daemon whose clock is five minutes off from the file system's, as after someone set the
clock.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from campaigns.drops import Drops, Launched, Tail, seeded
from daemon import until

_QUEUE: Final = Path("/proc/sys/fs/inotify/max_queued_events")

#: Seconds in which every audit must be answered, also on a busy machine.
_PATIENCE_SECONDS: Final = 30.0


def run(place: Path, *, long: bool) -> dict[str, int | float | str]:
    """Overflow repeatedly, with a right clock and with a wrong clock that is set later."""
    seed, chance = seeded()
    started = time.monotonic()
    clocks, deeds = ({0: 8, 300: 6, -300: 6}, 1_000) if long else ({0: 1, 300: 1}, 120)
    campaigns = []
    for clock, overflows in clocks.items():
        home = place / f"clock{clock:+}"
        home.mkdir()
        campaigns.append(_Campaign(home, chance, clock))
        campaigns[-1].run(overflows, deeds)
    figures = sum((campaign.figures for campaign in campaigns), Counter())
    return {
        "seed": seed,
        "overflows": figures["floods"],
        "overflows recorded": figures["watch.overflow"],
        "scans": figures["scan.finished"],
        "decisions": figures["audit.selected"],
        "rejections": figures["audit.rejected"],
        "audits": sum(campaign.drops.arrived for campaign in campaigns),
        "deeds": sum(campaign.drops.deeds.total() for campaign in campaigns),
        "longest catching up, s": round(max(max(campaign.seconds) for campaign in campaigns), 2),
        "seconds": round(time.monotonic() - started, 1),
    }


class _Campaign:
    """One daemon and the changes in its folder."""

    def __init__(self, home: Path, chance: random.Random, clock: int) -> None:
        self.seconds: list[float] = []
        self.figures: Counter[str] = Counter()
        self.drops = Drops(home / "inbox", home, chance, subfolders=("", "one"))
        self._chance = chance
        self._clock = clock
        self._daemon = Launched(
            home, settle="100ms", level="info", watch='backend = "inotify"', watching='rescan_interval = "1h"'
        )
        self._tail = Tail(self._daemon.trail)
        self._decisions: set[tuple[str, str]] = set()
        self._triggers: dict[str, str] = {}
        self._overflowed = self._scan_began = datetime.min.replace(tzinfo=UTC)

    def run(self, overflows: int, deeds: int) -> None:
        """Overflow that number of times, sometimes twice in a row."""
        self._daemon.launch("--clock", str(self._clock))
        try:
            self._daemon.await_ready()
            for _ in range(deeds):
                self.drops.deed()
            self.drops.await_answers(_PATIENCE_SECONDS)
            for number in range(overflows):
                self.overflow(deeds, number, again=self._chance.random() < 0.3)
            self._daemon.stop()
        finally:
            self._daemon.kill()
        self.drops.check(scanned=False)

    def overflow(self, deeds: int, number: int, *, again: bool) -> None:
        """Overflow once, and if `again` a second time in the middle of the scan."""
        before = self._recorded("watch.overflow")
        self._stop()
        self._lose(deeds, f"{number}")
        floods = 1
        os.kill(self._daemon.pid, signal.SIGCONT)
        if again:
            until(lambda: self._recorded("watch.overflow") > before, _PATIENCE_SECONDS, "watch.overflow")
            self._stop()
            self._lose(deeds, f"{number}-again")
            floods += 1
            os.kill(self._daemon.pid, signal.SIGCONT)
        begin = time.monotonic()
        self.drops.await_answers(_PATIENCE_SECONDS)
        self.seconds.append(time.monotonic() - begin)
        until(lambda: self._recorded("watch.overflow") >= before + floods, what=f"watch.overflow, {floods} times")
        until(lambda: self._recorded("scan.finished") and self._scan_began > self._overflowed, what="the last scan")
        self.figures["floods"] += floods
        self._use_every_folder()

    def _use_every_folder(self) -> None:
        """Check that each folder is watched: a drop into it is answered without a scan."""
        drops = [self.drops.new(place) for place in self.drops.places]
        self.drops.await_answers(_PATIENCE_SECONDS)
        self._recorded("audit.selected")
        scanned = [path for path in drops if self._triggers[str(path)] == "scan"]
        assert not scanned, f"only a scan found the drops into {[str(path.parent) for path in scanned]}"

    def _stop(self) -> None:
        os.kill(self._daemon.pid, signal.SIGSTOP)
        stat = Path(f"/proc/{self._daemon.pid}/stat")
        until(lambda: stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "T", what="the daemon stops")

    def _lose(self, deeds: int, number: str) -> None:
        """Make changes, before the queue is full and after."""
        for _ in range(deeds // 2):
            self.drops.deed()
        self._flood()
        for _ in range(deeds // 2):
            self.drops.deed()
        moved = self.drops.places[-1]
        self.drops.move(moved, moved.with_name(f"moved-{number}"))
        self.drops.add(moved)
        self.drops.new(moved)
        self.drops.add(self.drops.folder / f"new-{number}")
        self.drops.new(self.drops.places[-1])
        self.drops.expect()

    def _flood(self) -> None:
        """Cause more events than the kernel keeps. Consecutive events differ, because equal ones are merged."""
        names = [self.drops.folder / name for name in ("noise", "noise too")]
        names[0].touch()
        for _ in range(int(_QUEUE.read_text(encoding="ascii")) // 2 + 1):
            os.rename(names[0], names[1])
            os.rename(names[1], names[0])

    def _recorded(self, event: str) -> int:
        """Return the number of records of that event so far; each record is checked once."""
        for record in self._tail.news():
            self.figures[record["event"]] += 1
            if record["event"] == "audit.selected":
                decision = (record["audit"], record["decision_id"])
                assert decision not in self._decisions, f"answered twice: {record}"
                self._decisions.add(decision)
                self._triggers[record["audit"]] = record["trigger"]
            elif record["event"] == "watch.overflow":
                self._overflowed = datetime.fromisoformat(record["ts"])
            elif record["event"] == "scan.finished":
                assert record["cause"] != "rescan", "a periodic scan helped"
                self._scan_began = datetime.fromisoformat(record["ts"]) - timedelta(milliseconds=record["duration_ms"])
            assert record["level"] != "error" or record["event"] == "audit.rejected", record
        return self.figures[event]
