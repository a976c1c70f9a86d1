"""A batch of audits, end to end, on real files with a real trail."""

from __future__ import annotations

import errno
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchd.answering.batch import Answering
from benchd.answering.case import Places
from benchd.answering.outcome import Outcome
from benchd.bench.deciding import Decision, decide
from benchd.folder.folder import Folder
from benchd.inbox import Hint
from benchd.settings.keys import BenchSettings, FolderSettings
from daemon import answers, audit, config_of
from desk import Desk, LoggedDisk, Meddled


class Failing:
    """A `decide` that fails for the audit `audit.json`."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, content: bytes, *, name: str, **options: Any) -> Decision:
        if name == "audit.json":
            raise self.error
        return decide(content, name=name, **options)


def padded(size: int) -> Callable[..., Decision]:
    """Return a `decide` whose configs have `size` more bytes."""

    def decide_at_length(content: bytes, **options: Any) -> Decision:
        decision = decide(content, **options)
        return msgspec.structs.replace(decision, config=b" " * size + decision.config)

    return decide_at_length


class TestOutcomes:
    def test_each_its_own(self, desk: Desk) -> None:
        """A bad file, a missing file and other JSON do not affect the rest of their batch."""
        contents = {"a.json": audit(1), "b.json": b"{", "c.json": b"{}", "sub/d.json": audit(2)}
        for name, content in contents.items():
            desk.add(name, content)
        assert desk.outcomes(*contents, "gone.json", "no/such/place.json") == {
            "a.json": Outcome.SELECTED,
            "b.json": Outcome.REJECTED,
            "c.json": Outcome.IGNORED,
            "sub/d.json": Outcome.SELECTED,
            "gone.json": Outcome.GONE,
            "no/such/place.json": Outcome.GONE,
        }

    def test_nothing(self, desk: Desk) -> None:
        """An empty batch has no results."""
        assert desk.answering().answer([]) == []

    def test_several_folders(self, tmp_path: Path, desk: Desk, path: Path) -> None:
        """Files with the same path in two folders are answered apart, by each folder's settings."""
        (tmp_path / "other").mkdir()
        other = Desk(tmp_path / "other", durable=False)
        second = other.add("audit.json", audit(2))
        results = desk.answering().answer([desk.ticket("audit.json"), other.ticket("audit.json")])
        assert [result.outcome for result in results] == [Outcome.SELECTED] * 2
        assert answers(path)
        assert answers(second)

    @pytest.mark.parametrize(("hint", "trigger"), [("created", "moved"), ("scan", "scan"), ("poll", "poll")])
    def test_trigger(self, desk: Desk, path: Path, hint: Hint, trigger: str) -> None:
        """The record has the trigger; a link, which appears whole, counts as moved in."""
        desk.answer(path.name, hint)
        assert desk.records()[0]["trigger"] == trigger

    def test_defaults(self, desk: Desk, path: Path) -> None:
        """An `Answering` needs nothing but a trail: a bad file waits for two seconds by default."""
        path.write_bytes(b"{")
        [result] = Answering(desk.trail).answer([desk.ticket(path.name)])
        assert result.outcome is Outcome.DEFERRED


class TestRounds:
    def test_large_batch(self, tmp_path: Path) -> None:
        """A batch is read, decided and published in rounds of about 1 MiB."""
        desk, log = Desk(tmp_path), []
        names = [f"{number}.json" for number in range(5)]
        for number, name in enumerate(names):
            desk.add(name, b" " * 600_000 + audit(number))
        writes: list[int] = []

        def deciding(content: bytes, **options: Any) -> Decision:
            writes.append(log.count("write"))
            return decide(content, **options)

        assert set(desk.outcomes(*names, disk=LoggedDisk(log), decide=deciding).values()) == {Outcome.SELECTED}
        assert writes == [0, 0, 2, 2, 4]

    def test_large_configs(self, desk: Desk) -> None:
        """Configs of more than 1 MiB together are published before the next are decided."""
        log: list[str] = []
        names = [f"{number}.json" for number in range(4)]
        for number, name in enumerate(names):
            desk.add(name, b" " * 1_100_000 + audit(number))
        desk.folder.max_bytes = 2**21

        desk.outcomes(*names, disk=LoggedDisk(log), decide=padded(600_000))
        steps = [step.split(" ")[0] for step in log]
        assert [step for step in steps if step != "close"] == ["write", "write", "publish", "publish"] * 2

    def test_same_config_in_the_next_round(self, desk: Desk) -> None:
        """A config that was published in an earlier round can be seen, so that no other audit waits for it."""
        desk.add("a.json", b" " * 1_100_000 + audit(1))
        desk.add("a", b" " * 1_100_000 + audit(2))
        desk.folder.max_bytes = 2**21

        assert desk.outcomes("a.json", "a", decide=padded(1_100_000)) == {"a.json": Outcome.SELECTED, "a": Outcome.KEPT}

    def test_same_config_after_a_failure(self, desk: Desk) -> None:
        """If a config could not be published, the next round may publish another audit's with the same name."""
        desk.add("a.json", b" " * 1_100_000 + audit(1))
        desk.add("a", b" " * 1_100_000 + audit(2))
        desk.folder.max_bytes = 2**21
        errors = iter([OSError(errno.EIO, "Input/output error")])

        def fail_once() -> None:
            for error in errors:
                raise error

        outcomes = desk.outcomes("a.json", "a", decide=padded(1_100_000), disk=Meddled(publish=fail_once))
        assert outcomes == {"a.json": Outcome.FAILED, "a": Outcome.SELECTED}

    def test_memory(self, desk: Desk) -> None:
        """The memory for a batch of bad files does not grow with their number."""
        names = [f"{number}.json" for number in range(16)]
        for name in names:
            desk.add(name, b'{"x": "' + name.encode() * 100_000)
        tracemalloc.start()
        try:
            assert set(desk.outcomes(*names).values()) == {Outcome.REJECTED}
            assert tracemalloc.get_traced_memory()[1] < 8_000_000
        finally:
            tracemalloc.stop()


class TestTrouble:
    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (ValueError("a bug"), "ValueError: a bug"),
            (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
            (OSError("no number"), "no number"),
        ],
    )
    def test_own(self, desk: Desk, path: Path, error: Exception, reason: str) -> None:
        """A bug or a lack of descriptors costs one record and a retry, not the batch."""
        desk.add("good.json", audit(2))
        ticket, failing = desk.ticket(path.name), Failing(error)
        results = desk.answering(decide=failing).answer([ticket, desk.ticket("good.json")])
        assert [result.outcome for result in results] == [Outcome.FAILED, Outcome.SELECTED]
        assert results[0][3:5] == (reason, 1.0)
        [record] = [record for record in desk.records() if record["event"] == "audit.failed"]
        assert (record["error"], record["attempt"], record["retry_in_s"]) == (reason, 1, 1.0)
        assert record["audit"] == str(path)
        assert desk.answer(ticket, decide=failing).retry_in == 2.0

    def test_folder_that_may_not_be_opened(self, tmp_path: Path, desk: Desk, path: Path) -> None:
        """A lack of rights on the folder is tried again; it says nothing about the audit."""

        class Locked(Folder):
            def open(self, relative: str = "") -> int:
                raise PermissionError(errno.EACCES, "Permission denied")

        desk.folder = Locked(desk.settings, max_bytes=1)
        result = desk.answer(path.name)
        assert (result.outcome, result.error) == (Outcome.FAILED, "Permission denied")
        assert not config_of(path).exists()

    def test_leaks_nothing(self, desk: Desk, path: Path) -> None:
        """All descriptors are closed again."""
        desk.add("sub/b.json", audit(2))
        desk.outcomes(path.name, "sub/b.json")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            desk.outcomes(path.name, "sub/b.json", "gone.json")
        assert len(os.listdir("/proc/self/fd")) == before


def test_places(desk: Desk) -> None:
    """A directory is opened once for each folder, and closed at the end."""
    (desk.path / "sub").mkdir()
    other = Folder(FolderSettings(path=str(desk.path), bench=BenchSettings()), max_bytes=1)
    with Places() as places:
        place = places.get(desk.folder, "sub")
        assert places.get(desk.folder, "sub") is place
        others = {places.get(desk.folder, "").descriptor, places.get(other, "sub").descriptor}
        assert len({place.descriptor, *others}) == 3
        place.claimed.add("a")
        places.forget_claims()
        assert place.claimed == set()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(place.descriptor)
