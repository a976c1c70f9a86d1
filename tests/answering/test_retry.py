"""Retries of audits, and the waits for their writers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from benchd.answering.outcome import Outcome
from benchd.answering.retry import CHANGED, FAILED, UNFINISHED, Backoff, History, Patience, history_of, state_of
from benchd.audit.refusals import refusal
from benchd.inbox import Ticket
from daemon import audit, until
from desk import Desk

HOUR = 3600.0
TRUNCATED = refusal("truncated", place="line 1")
EMPTY = refusal("empty")
INTERRUPTED = refusal("audit_interrupted", lines="1 line")

SETTLE = 2.0


class Clock:
    """Both clocks of `Patience`: `wall` starts when the file changed, `steady` at any time."""

    def __init__(self, info: os.stat_result) -> None:
        self.passed = 0.0
        self.wall_begin = info.st_ctime

    def wall(self) -> float:
        return self.wall_begin + self.passed

    def steady(self) -> float:
        return 1000.0 + self.passed


Wait = Callable[..., float | None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "inbox" / "audit.json"
    path.parent.mkdir()
    path.touch()
    return path


@pytest.fixture
def clock(path: Path) -> Clock:
    return Clock(path.stat())


@pytest.fixture
def wait(path: Path, clock: Clock) -> Wait:
    """Return a function that gives the wait for a ticket `after` some seconds, with this answer about its writer."""

    def ask(
        ticket: Ticket, *, after: float = 0.0, writer: bool | None = None, error: Exception = TRUNCATED
    ) -> float | None:
        clock.passed += after
        patience = Patience(SETTLE, lambda *_: writer, clock.wall, clock.steady)
        return patience.wait(ticket, error, "a hash", path.stat(), 0, path.name)

    return ask


@pytest.fixture
def ticket(tmp_path: Path, path: Path) -> Ticket:
    """Return a ticket whose file may still have a writer."""
    return Desk(tmp_path).ticket(path.name, "scan")


@pytest.fixture
def closed(tmp_path: Path, path: Path) -> Ticket:
    """Return a ticket whose file was closed by its writer."""
    return Desk(tmp_path).ticket(path.name, "closed")


class TestBackoff:
    @pytest.mark.parametrize(
        ("backoff", "waits"),
        [
            (Backoff(1, 5), [1, 2, 4, 5, 5]),
            (UNFINISHED, [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]),
            (CHANGED, [0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1]),
            (FAILED, [1, 2, 4, 8, 16, 32, 60]),
        ],
    )
    def test_doubles(self, backoff: Backoff, waits: list[float]) -> None:
        """The waits double up to the longest one."""
        assert [backoff.wait(attempt) for attempt in range(1, len(waits) + 1)] == waits

    def test_any_attempt(self) -> None:
        """Any number of attempts gives a wait."""
        assert FAILED.wait(10**9) == 60.0


class TestHistory:
    def test_made_once(self, ticket: Ticket) -> None:
        """A ticket has one history, which the first call creates."""
        assert ticket.history is None
        assert history_of(ticket) is history_of(ticket)

    def test_failures_and_changes(self) -> None:
        """Failures and changes are counted separately."""
        history = History()
        assert [history.next_failure() for _ in range(3)] == [1, 2, 4]
        assert [history.next_change() for _ in range(3)] == [0.0125, 0.025, 0.05]

    def test_state(self, path: Path) -> None:
        """A file's state changes with its content and with its dates."""
        states = {state_of(path.stat())}
        path.write_bytes(b"x")
        states.add(state_of(path.stat()))
        os.utime(path, (1, 1))
        states.add(state_of(path.stat()))
        assert len(states) == 3


class TestPatience:
    def test_final_verdicts(self, wait: Wait, ticket: Ticket) -> None:
        """A verdict that a writer can't change is final at once."""
        assert wait(ticket, writer=True, error=refusal("symlink")) is None
        assert ticket.history is None

    def test_closed_file_settles(self, wait: Wait, closed: Ticket) -> None:
        """A bad file that was closed is retried until it has been unchanged for `settle`."""
        waits = [wait(closed), wait(closed, after=0.5), wait(closed, after=1.45)]
        assert waits == pytest.approx([0.05, 0.1, 0.05])
        assert wait(closed, after=0.045) == pytest.approx(0.01)
        assert wait(closed, after=0.01) is None

    def test_long_unchanged(self, wait: Wait, ticket: Ticket) -> None:
        """A bad file without a writer that is older than `settle` is rejected at the first attempt."""
        assert wait(ticket, after=SETTLE + 0.1, writer=False) is None

    def test_date_in_the_future(self, wait: Wait, closed: Ticket) -> None:
        """A file with a date in the future counts as new."""
        assert wait(closed, after=-HOUR) == 0.05
        assert wait(closed, after=SETTLE) is None

    def test_writer_is_waited_for(self, wait: Wait, ticket: Ticket, path: Path) -> None:
        """While the file has a writer it is never rejected, and the waits grow until it changes."""
        waits = [wait(ticket, after=HOUR, writer=True) for _ in range(4)]
        assert waits == [0.05, 0.1, 0.2, 0.4]
        path.write_bytes(b"{")
        assert wait(ticket, writer=True) == 0.05
        assert wait(ticket, after=HOUR, writer=False) is None

    @pytest.mark.parametrize("error", [EMPTY, INTERRUPTED])
    def test_unknown_writer(self, wait: Wait, ticket: Ticket, error: Exception) -> None:
        """With an unknown writer, a file that looks like a running gradience's is kept for an hour."""
        assert wait(ticket, error=error) is not None
        assert wait(ticket, after=HOUR - 1, error=error) == 0.1
        assert wait(ticket, after=1, error=error) is None

    def test_unknown_writer_of_other_content(self, wait: Wait, ticket: Ticket) -> None:
        """With an unknown writer, other content is rejected after `settle`."""
        assert wait(ticket) == 0.05
        assert wait(ticket, after=SETTLE) is None

    def test_clock_of_a_file_server(self, wait: Wait, ticket: Ticket) -> None:
        """With an unknown writer the file's date is ignored, because the clocks may differ."""
        assert wait(ticket, after=HOUR) == 0.05
        assert wait(ticket, after=SETTLE - 0.1) is not None
        assert wait(ticket, after=0.1) is None

    def test_a_second_writer(self, wait: Wait, closed: Ticket, path: Path) -> None:
        """If a closed file changes without being closed again, benchd waits for another writer."""
        assert wait(closed, error=EMPTY) == 0.05
        path.write_bytes(b"{")
        closed.trigger = "retry"
        assert wait(closed, after=HOUR, writer=True) == 0.05
        assert not closed.closed
        assert wait(closed, after=HOUR, writer=True) == 0.1

    def test_closed_again(self, wait: Wait, closed: Ticket, path: Path) -> None:
        """If a file changes and is closed again, benchd does not ask the system for its writer."""
        assert wait(closed, error=EMPTY) == 0.05
        path.write_bytes(b"{")
        assert wait(closed, after=HOUR, writer=True) is None

    def test_verdict_is_kept(self, wait: Wait, ticket: Ticket, path: Path) -> None:
        """The history has the verdict on the file's present state, and its hash."""
        wait(ticket, writer=True)
        history = ticket.history
        assert (history.verdict, history.digest, history.state) == (TRUNCATED, "a hash", state_of(path.stat()))


class TestOnRealFiles:
    """Patience with the real disk, its leases and the real clocks."""

    def test_closed_and_bad(self, tmp_path: Path, path: Path) -> None:
        """A closed bad file is rejected after `settle`, and the trail records the wait once."""
        desk = Desk(tmp_path, settle=0.15)
        path.write_bytes(b"{")
        ticket, waits = desk.ticket(path.name), []

        def is_rejected() -> bool:
            result = desk.answer(ticket)
            waits.append(result.retry_in)
            return result.outcome is Outcome.REJECTED

        until(is_rejected)
        assert waits.pop() is None
        assert 0 < min(waits) <= max(waits) <= 0.15
        assert desk.events() == ["audit.deferred", "audit.rejected"]

    def test_writer_is_waited_for(self, tmp_path: Path, path: Path) -> None:
        """A file that a process has open for writing is not rejected until it is closed."""
        desk = Desk(tmp_path)
        ticket = desk.ticket(path.name, "created")
        with path.open("wb") as file:
            assert [desk.answer(ticket).retry_in for _ in range(4)] == [0.05, 0.1, 0.2, 0.4]
            file.write(b"{")
            file.flush()
            assert desk.answer(ticket).retry_in == 0.05
        assert desk.answer(ticket).outcome is Outcome.REJECTED

    def test_a_second_writer(self, tmp_path: Path, path: Path) -> None:
        """A file that was closed empty and opened again by a second run is not rejected."""
        desk = Desk(tmp_path)
        ticket = desk.ticket(path.name, "closed")
        history_of(ticket).state = state_of(path.stat())
        with path.open("wb") as writer:
            os.utime(path)  # as a truncation does
            ticket.trigger = "retry"
            for _ in range(3):
                assert desk.answer(ticket).outcome is Outcome.DEFERRED
            writer.write(audit(1))
        assert desk.answer(ticket).outcome is Outcome.SELECTED
