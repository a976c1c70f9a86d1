"""A folder with a trail and an `Answering`, disks on which something goes wrong, and a log of what reaches a disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchd.answering.batch import Answering
from benchd.answering.case import Case
from benchd.answering.disk import Disk
from benchd.answering.outcome import Outcome, Result
from benchd.folder.flushing import FileSystems
from benchd.folder.folder import Folder
from benchd.folder.place import Place
from benchd.inbox import Hint, Ticket
from benchd.settings.keys import BenchSettings, FolderSettings
from benchd.trail.sinks import TrailFile
from benchd.trail.trail import Trail

__all__ = ["Desk", "LoggedDisk", "LoggedSystems", "LoggedTrail", "Meddled", "raises"]


def raises(error: Exception) -> Callable[[], None]:
    """Return a function that raises `error`."""

    def fail() -> None:
        raise error

    return fail


class Meddled(Disk):
    """A disk on which something happens just before a call: `Meddled(write=path.unlink)`."""

    def __init__(self, **before: Callable[[], object]) -> None:
        for call, happen in before.items():
            setattr(self, call, partial(self._call, happen, getattr(Disk, call)))

    @staticmethod
    def _call(happen: Callable[[], object], call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        happen()
        return call(*arguments, **options)


class LoggedDisk(Disk):
    """A disk that notes in `log` each step of a sidecar to its place."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def write(self, *arguments: Any, **options: Any) -> Any:
        self.log.append("write")
        return Disk.write(*arguments, **options)

    def close(self, *arguments: Any) -> Any:
        self.log.append("close")
        return Disk.close(*arguments)

    def publish(self, directory: int, temporary: Any, name: str) -> None:
        self.log.append(f"publish {name}")
        Disk.publish(directory, temporary, name)

    def remove(self, directory: int, name: str) -> None:
        self.log.append(f"remove {name}")
        Disk.remove(directory, name)


class LoggedSystems(FileSystems):
    """File systems that note in `log` what is flushed. With `together` one wait is enough for many files."""

    def __init__(self, log: list[str], *, together: bool = False) -> None:
        super().__init__()
        self.log = log
        self.together = together

    def is_lasting(self, _: int) -> bool:
        return self.together

    def bytes_to_write(self) -> float:
        return 0.0

    def syncfs(self, _: int) -> bool:
        self.log.append("flush all")
        return True

    def flush_file(self, _: int) -> None:
        self.log.append("flush file")

    def flush_directory(self, _: int) -> None:
        self.log.append("flush directory")


class LoggedTrail(TrailFile):
    """A trail file that notes in `log` the event of each record."""

    def __init__(self, path: Path, log: list[str]) -> None:
        super().__init__(str(path))
        self.log = log

    def write(self, text: bytes) -> None:
        self.log += ["record " + json.loads(line)["event"] for line in text.splitlines()]
        super().write(text)


class Desk:
    """A folder, a trail, and an `Answering` over both. Other options than `settle` and `max_bytes` are of `[bench]`."""

    def __init__(self, home: Path, *, settle: float = 0.0, max_bytes: int = 10**6, **bench: Any) -> None:
        self.path = home / "inbox"
        self.path.mkdir(exist_ok=True)
        self.settle = settle
        self.settings = FolderSettings(path=str(self.path), bench=BenchSettings(**bench))
        self.folder = Folder(self.settings, max_bytes=max_bytes)
        self.trail_path = home / "trail.jsonl"
        self.trail = Trail(TrailFile(str(self.trail_path)), level="debug")

    def add(self, name: str, content: bytes) -> Path:
        """Write a file into the folder."""
        path = self.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return path

    def ticket(self, name: str, hint: Hint = "closed") -> Ticket:
        return Ticket(self.folder, name, hint)

    def case(self, name: str, hint: Hint = "closed", *, content: bytes | None = None) -> Case:
        """Return the case of a file, as the reader makes it. The test closes its `directory`."""
        place = Place.open(self.folder, "")
        case = Case(self.ticket(name, hint), place, place.find(name))
        case.content = content
        return case

    def answering(self, **options: Any) -> Answering:
        """Return an `Answering` that writes to this trail."""
        return Answering(self.trail, **{"settle": self.settle, **options})

    def answer(self, name: str | Ticket, hint: Hint = "closed", **options: Any) -> Result:
        """Answer one file, or a ticket that was answered before."""
        ticket = name if isinstance(name, Ticket) else self.ticket(name, hint)
        [result] = self.answering(**options).answer([ticket])
        return result

    def outcomes(self, *names: str, may_take_long: bool = True, **options: Any) -> dict[str, Outcome]:
        """Answer some files in one batch."""
        tickets = [self.ticket(name) for name in names]
        results = self.answering(**options).answer(tickets, may_take_long=may_take_long)
        return {result.ticket.relative: result.outcome for result in results}

    def records(self) -> list[dict[str, Any]]:
        if not self.trail_path.exists():
            return []
        return [json.loads(line) for line in self.trail_path.read_bytes().splitlines()]

    def events(self) -> list[str]:
        return [record["event"] for record in self.records()]

    def names(self) -> list[str]:
        """Return the names of all files in the folder itself."""
        return sorted(os.listdir(self.path))
