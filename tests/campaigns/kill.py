"""Kill: no SIGKILL loses, doubles or tears an answer.

Audits arrive without a pause, in the folder and in two subfolders. They are moved in, linked in and written in place.
Some are new, some replace others, bad ones are fixed, and good ones break. Meanwhile the daemon runs for a second, is
killed, and is started again, with `durable` and without. Half of the kills come from outside at a random moment. The
other half come from inside: a launcher counts the calls that make a sidecar (create, write, flush, publish, flush the
folder, remove) and kills the process before, within or after one of them.

Another process reads every sidecar as it appears: it must be whole, never written in place, and its record must already
be in the trail. At the end every audit has the answer to its last content, byte for byte. No temporary file is left,
and no run of the daemon has answered the same content twice.
"""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Final

from campaigns.drops import CALLS, Drops, Launched, Reader, Tail, seeded
from daemon import until

#: Calls that are rare in a run of the daemon; the kill comes at one of the first.
_RARE: Final = frozenset({"flush", "flush the folder", "remove", "date", "claim"})


def run(place: Path, *, long: bool) -> dict[str, int | float | str]:
    """Run rounds of kills, each in a new folder, because a scan of ten thousand audits takes too long."""
    seed, chance = seeded()
    rounds, kills, audits = (10, 50, 5_000) if long else (1, 8, 250)
    started = time.monotonic()
    figures: Counter[str] = Counter()
    for number in range(rounds):
        home = place / f"round-{number}"
        home.mkdir()
        figures.update(_Round(home, chance, audits=audits).run(kills))
    if long:
        missed = set(CALLS) - {site.partition(":")[0] for site in figures}
        assert not missed, f"no kill ever came at: {', '.join(missed)}"
    return {"seed": seed, **dict(sorted(figures.items())), "seconds": round(time.monotonic() - started, 1)}


class _Round:
    """Run one folder, from empty to the last answer."""

    def __init__(self, home: Path, chance: random.Random, *, audits: int) -> None:
        self._home = home
        self._chance = chance
        self._audits = audits
        self._log = home / "deaths"
        self._drops = Drops(home / "inbox", home, chance, subfolders=("", "one", "two"))
        self._reader = Reader(home / "inbox", home / "trail.jsonl")

    def run(self, kills: int) -> Counter[str]:
        """Run all lives, and a last one that answers the rest."""
        try:
            for number in range(kills):
                self._live(self._audits * number // kills, self._audits * (number + 1) // kills)
            left = len(list(self._drops.folder.rglob(".benchd-*.tmp")))
            self._last_life()
            figures = Counter(self._reader.finish())
        finally:
            self._reader.close()
        figures.update(self._deaths(kills), **self._doubles(kills))
        figures.update({"audits": self._drops.arrived, "deeds": self._drops.deeds.total(), "kills": kills})
        figures["temporary files left by kills"] = left
        return figures

    def _daemon(self, *, durable: bool) -> Launched:
        return Launched(self._home, settle="100ms", level="info", durable=durable)

    def _live(self, begin: int, end: int) -> None:
        """Run the daemon while the audits from number `begin` to `end` arrive, and kill it if it still runs."""
        inside = self._chance.random() < 0.6
        purpose = self._chance.choices(list(CALLS), [1 if call in {"date", "claim"} else 4 for call in CALLS])[0]
        # Without `durable` nothing is flushed.
        daemon = self._daemon(durable=(inside and "flush" in purpose) or self._chance.random() < 0.5)
        seconds = 1.5 if inside else self._chance.choice((self._chance.uniform(0, 0.5), self._chance.uniform(0.3, 1.5)))
        daemon.launch(*(self._call(purpose, end - begin) if inside else []))
        try:
            code, born = None, time.monotonic()
            while code is None and (age := time.monotonic() - born) < seconds:
                while (
                    self._drops.arrived < begin + (end - begin) * age / min(seconds, 1.0) and self._drops.arrived < end
                ):
                    self._drops.deed()
                code = daemon.ended(0.01)
            assert code in {None, -signal.SIGKILL}, f"benchd ended with {code}: {daemon.stderr}"
        finally:
            daemon.kill()
        while self._drops.arrived < end:
            self._drops.deed()
        assert daemon.stderr == "", daemon.stderr

    def _call(self, purpose: str, audits: int) -> list[str]:
        """Return the launcher's options for a kill at a random call of that purpose that a life is likely to reach."""
        moment = self._chance.choice(["before", "after", *(["within"] if purpose == "write" else [])])
        most = 2 if purpose == "claim" else 8 if purpose in _RARE else audits
        return ["--die-at", purpose, moment, str(self._chance.randint(1, most)), str(self._log)]

    def _last_life(self) -> None:
        """Answer the rest, and check that only answers are left."""
        daemon = self._daemon(durable=True)
        daemon.launch()
        try:
            daemon.await_ready()
            self._drops.await_answers(60)
            until(lambda: daemon.has_said("scan.finished"), what="the first scan")
            daemon.stop()
        finally:
            daemon.kill()
        self._drops.check()

    def _deaths(self, kills: int) -> Counter[str]:
        """Count the kills by their place."""
        deaths = Counter(self._log.read_text(encoding="utf-8").splitlines() if self._log.exists() else ())
        deaths["from outside"] = kills - deaths.total()
        return deaths

    def _doubles(self, kills: int) -> dict[str, int]:
        """Check that no life answers a content twice. Return how many decisions were recorded again after a kill."""
        tail = Tail(self._home / "trail.jsonl")
        ever, life = Counter[tuple[str, str]](), set[tuple[str, str]]()
        for record in tail.news():
            if record["event"] == "service.started":
                life.clear()
            elif record["event"] == "audit.selected":
                decision = (record["audit"], record["decision_id"])
                assert decision not in life, f"answered twice in one life: {decision}"
                life.add(decision)
                ever[decision] += 1
        assert tail.torn <= kills, f"{tail.torn} torn lines in the trail of {kills} kills"
        return {
            "decisions": len(ever),
            "decisions recorded again": ever.total() - len(ever),
            "torn lines in the trail": tail.torn,
        }
