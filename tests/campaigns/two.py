"""Two: two daemons on one folder do not disturb each other, even if their locks can't detect each other.

A lock file names a process by host, boot and PID namespace, and processes of another host can't be checked. So two
hosts on a shared folder both answer, and so do two containers. Namespaces imitate both: a second host name, and two
containers that share the host's name (as with a host network) and are both PID 1. All poll and scan constantly, because
scans remove the files of a crashed benchd. Without namespaces, one daemon only gets another host name.

Audits are dropped, replaced, broken, fixed, renamed and deleted. Sometimes one daemon is paused from outside, or one of
its threads pauses just before it creates, publishes, dates or removes a file, while the other daemon goes on. The clock
of one is minutes behind the file system's, or hours ahead.

A third process reads each sidecar as it appears: whole, of the right audit, and with its record in a trail. At the end
every audit has the answer to its last content, byte for byte, and no other file is left. Neither daemon has met an
error, both have decided the same about the same content, and both have become silent: no sidecar is written or dated
again.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from campaigns.drops import Drops, Launched, Reader, Tail, seeded
from daemon import until

#: Seconds between scans, as far as there is time for them.
_SETTINGS: Final[dict[str, Any]] = {
    "settle": "100ms",
    "watch": 'backend = "polling"\npoll_interval = "50ms"',
    "watching": 'rescan_interval = "100ms"',
}

_CONTAINER: Final = ("--pid", "--fork", "--kill-child", "--mount-proc")


def run(place: Path, *, long: bool) -> dict[str, int | float | str]:
    """Run two hosts whose clocks differ, and two containers with one name."""
    seed, chance = seeded()
    deeds = 1_500 if long else 60
    started = time.monotonic()
    unshare = _unshare()
    container = _Host((*unshare, *_CONTAINER) if unshare else (), ())
    pairs = {"hosts": (_Host((), ()), container.named())} if long else {}
    pairs["clock behind"] = (_Host((), ()), container.named("--clock", "-300"))
    pairs["clock ahead"] = (_Host((), ()), container.named("--clock", "7200"))
    if unshare:
        pairs["containers"] = (container, container)
    figures: dict[str, int | float | str] = {"seed": seed, "namespaces": " ".join(unshare) or "none: no containers"}
    for case, hosts in pairs.items():
        (place / case).mkdir()
        found = _Pair(place / case, hosts, chance).run(deeds)
        figures.update({f"{case}: {key}": value for key, value in sorted(found.items())})
    return {**figures, "seconds": round(time.monotonic() - started, 1)}


def _unshare() -> tuple[str, ...]:
    """Return the command prefix that gives a process new namespaces; empty if the system grants none."""
    for command in (("unshare",), ("unshare", "--map-root-user")):
        try:
            if subprocess.run([*command, *_CONTAINER, "true"], capture_output=True, check=False).returncode == 0:
                return command
        except FileNotFoundError:
            break
    return ()


class _Host:
    """The command prefix and the launcher's options of one daemon."""

    def __init__(self, prefix: Sequence[str], options: Sequence[str]) -> None:
        self.prefix = prefix
        self.options = options

    def named(self, *more: str) -> _Host:
        """Return the same with another name."""
        return _Host(self.prefix, (*self.options, "--host", "elsewhere", *more))


class _Pair:
    """Two daemons on one folder."""

    def __init__(self, home: Path, hosts: tuple[_Host, _Host], chance: random.Random) -> None:
        self._chance = chance
        self._hosts = hosts
        self._drops = Drops(home / "inbox", home, chance, subfolders=("", "one"))
        self._daemons = []
        for name in ("a", "b"):
            (home / name).mkdir()
            self._daemons.append(Launched(home / name, folder=home / "inbox", durable=name == "a", **_SETTINGS))
        self._tails = [Tail(daemon.trail) for daemon in self._daemons]
        self._scans = [0, 0]
        self._deciders: dict[tuple[str, str], dict[str, set[int]]] = {}

    def run(self, deeds: int) -> Counter[str]:
        """Make all changes, then check that both daemons come to rest."""
        with ExitStack() as stack:
            for daemon, host in zip(self._daemons, self._hosts, strict=True):
                daemon.launch("--stall", "0.1", *host.options, prefix=host.prefix)
                stack.callback(daemon.kill)
            reader = Reader(self._drops.folder, *(daemon.trail for daemon in self._daemons))
            stack.callback(reader.close)
            for daemon in self._daemons:
                daemon.await_ready()
            pauses = self._disturb(deeds)
            self._drops.await_answers(30)
            self._await_silence()
            for daemon in self._daemons:
                daemon.stop()
            self._drops.check()
            figures = Counter(reader.finish())
        self._read_trails()
        figures.update(self._agreement())
        figures.update({"audits": self._drops.arrived, "deeds": self._drops.deeds.total(), "pauses": pauses})
        return figures

    def _disturb(self, deeds: int) -> int:
        """Drop and change audits, and sometimes pause a daemon. Return the number of pauses."""
        paused, pauses = 0, 0
        while self._drops.deeds.total() < deeds:
            for _ in range(self._chance.randint(1, 5)):
                self._drops.deed()
            for daemon in self._daemons:
                assert daemon.ended(0.01) is None, daemon.stderr
            if paused and self._chance.random() < 0.2:
                os.kill(paused, signal.SIGCONT)
                paused = 0
            elif not paused and self._chance.random() < 0.05:
                paused = self._chance.choice(self._daemons).pid
                os.kill(paused, signal.SIGSTOP)
                pauses += 1
        if paused:
            os.kill(paused, signal.SIGCONT)
        return pauses

    def _await_silence(self) -> None:
        """Wait until both have scanned three times and nothing was written, dated or removed meanwhile."""
        state, since = self._state(), list(self._scans)

        def silent() -> bool:
            nonlocal state, since
            self._read_trails()
            if any(now < before + 3 for now, before in zip(self._scans, since, strict=True)):
                return False
            before, state, since = state, self._state(), list(self._scans)
            return before == state

        until(silent, 30, "both fall silent")

    def _state(self) -> dict[Path, tuple[int, int, int]]:
        """Return all files that benchd may have written, with fields that change on every write or new date."""
        found = {}
        for path in self._drops.folder.rglob("*"):
            if ".bench" in path.name and path.name != ".benchd.lock":
                try:
                    info = path.stat()
                except FileNotFoundError:
                    continue
                found[path] = (info.st_ino, info.st_size, info.st_mtime_ns)
        return found

    def _read_trails(self) -> None:
        """Count scans and decisions; no record may report a problem."""
        for index, tail in enumerate(self._tails):
            for record in tail.news():
                self._scans[index] += record["event"] == "scan.finished"
                if record["event"] == "audit.selected":
                    deciders = self._deciders.setdefault((record["audit"], record["audit_sha256"]), {})
                    deciders.setdefault(record["decision_id"], set()).add(index)
                harmless = record["level"] in {"debug", "info"} or record["event"] == "audit.rejected"
                assert harmless, f"{'ab'[index]} met trouble: {record}"

    def _agreement(self) -> dict[str, int]:
        """Check that both decide the same. Return how many contents both decided, and how many only one decided."""
        split = [audit for audit, decisions in self._deciders.items() if len(decisions) > 1]
        assert not split, f"the two decided differently: {split[:3]}"
        decided = Counter(len(deciders) for decisions in self._deciders.values() for deciders in decisions.values())
        return {"decided by both": decided[2], "decided by one": decided[1]}
