"""The inbox: which audits wait for an answer, and in which order they are taken."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchd.folder.folder import Folder
from benchd.inbox import CREATED_DELAY, Hint, Inbox, Ticket
from benchd.settings.keys import FolderSettings
from daemon import until

HINTS: tuple[Hint, ...] = ("closed", "moved", "created", "scan", "poll")


@pytest.fixture
def folder() -> Folder:
    return Folder(FolderSettings(path="/nowhere"), max_bytes=1)


@pytest.fixture
def other() -> Folder:
    return Folder(FolderSettings(path="/elsewhere"), max_bytes=1)


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


def put(inbox: Inbox, folder: Folder, hint: Hint, *relatives: str) -> bool:
    """Put the same hint about several files in one call."""
    return inbox.put(folder, [(relative, hint) for relative in relatives])


def take(inbox: Inbox, most: int = 100) -> list[Ticket]:
    """Return the tickets that are due now."""
    return inbox.take(most)[0]


def names(inbox: Inbox, most: int = 100) -> list[str]:
    """Return the paths of the tickets that are due now."""
    return [ticket.relative for ticket in take(inbox, most)]


def await_ticket(inbox: Inbox) -> Ticket:
    """Wait until one ticket is due, and return it."""
    return until(lambda: take(inbox, 1))[0]


class TestPut:
    def test_waits_once(self, inbox: Inbox, folder: Folder):
        """Many hints about one audit make one ticket."""
        for hint in HINTS:
            assert put(inbox, folder, hint, "a")
        assert len(inbox) == 1
        assert names(inbox) == ["a"]
        assert names(inbox) == []

    def test_many_in_one_call(self, inbox: Inbox, folder: Folder):
        """One call accepts all hints of one read in order, also a later hint about the same file."""
        hints: Iterable[tuple[str, Hint]] = iter([("b", "moved"), ("a", "created"), ("c", "closed"), ("a", "closed")])
        assert inbox.put(folder, hints)
        assert [(ticket.relative, ticket.trigger) for ticket in take(inbox)] == [
            ("b", "moved"),
            ("c", "closed"),
            ("a", "closed"),
        ]

    def test_folders_are_apart(self, inbox: Inbox, folder: Folder):
        """The same name in two folders gives two tickets, even if the folders have the same path."""
        other = Folder(folder.settings, max_bytes=1)
        put(inbox, folder, "closed", "a")
        put(inbox, other, "closed", "a")
        assert [ticket.folder for ticket in take(inbox)] == [folder, other]

    def test_fresh_first(self, inbox: Inbox, folder: Folder):
        """A drop is taken before the backlog of a scan, and each group keeps its order."""
        for name in ("1", "2"):
            assert inbox.put_scanned(folder, name)
        put(inbox, folder, "closed", "3", "4")
        assert names(inbox, 3) == ["3", "4", "1"]
        assert names(inbox) == ["2"]

    def test_created_waits_for_its_writer(self, inbox: Inbox, folder: Folder):
        """A file that was only created is due after a delay, with the trigger `moved`, but does not count as closed."""
        began = time.monotonic()
        put(inbox, folder, "created", "a")
        assert names(inbox) == []
        ticket = await_ticket(inbox)
        assert time.monotonic() - began >= CREATED_DELAY * 0.99
        assert (ticket.trigger, ticket.closed) == ("moved", False)

    def test_closed_ends_the_wait(self, inbox: Inbox, folder: Folder):
        """When the writer closes a file, its ticket is due at once, counts as closed, and is taken once."""
        put(inbox, folder, "created", "a")
        put(inbox, folder, "closed", "a")
        [ticket], wait = inbox.take(9)
        assert (ticket.trigger, ticket.closed) == ("closed", True)
        assert wait is None or wait <= CREATED_DELAY
        inbox.give_back([(ticket, None)])
        assert inbox.counts() == (0, 0)
        until(lambda: inbox.take(9) == ([], None), what="nothing is due later")

    def test_polled_change_ends_the_wait(self, inbox: Inbox, folder: Folder):
        """A change found by polling makes the audit due, but does not make it closed."""
        put(inbox, folder, "created", "a")
        put(inbox, folder, "poll", "a")
        [ticket] = take(inbox)
        assert (ticket.trigger, ticket.closed) == ("poll", False)

    def test_scan_does_not_end_the_wait(self, inbox: Inbox, folder: Folder):
        """A scan does not shorten the wait of an audit."""
        put(inbox, folder, "created", "a")
        assert not inbox.put_scanned(folder, "a")
        assert names(inbox) == []
        assert inbox.counts() == (0, 1)

    def test_wakes(self, folder: Folder):
        """Each put wakes the loop after its tickets can be taken, and so do a scan and `close`."""
        woken: list[list[str]] = []
        inbox = Inbox(lambda: woken.append(names(inbox)))
        put(inbox, folder, "closed", "a", "b")
        inbox.put_scanned(folder, "c")
        put(inbox, folder, "created", "d")
        inbox.close()
        assert woken == [["a", "b"], ["c"], [], []]


class TestTake:
    def test_says_when_to_come_back(self, inbox: Inbox, folder: Folder):
        """The timeout is 0 while more tickets are ready, else the time until one is due, or None without any."""
        assert inbox.take(9) == ([], None)
        put(inbox, folder, "created", "later")
        _, wait = inbox.take(9)
        assert wait is not None
        assert 0 < wait <= CREATED_DELAY
        put(inbox, folder, "closed", "a", "b")
        first, wait = inbox.take(1)
        assert ([ticket.relative for ticket in first], wait) == (["a"], 0.0)
        second, wait = inbox.take(1)
        assert [ticket.relative for ticket in second] == ["b"]
        assert wait is not None
        assert 0 < wait <= CREATED_DELAY
        assert await_ticket(inbox).relative == "later"
        assert inbox.take(9) == ([], None)

    def test_stale_due_times_do_not_wake(self, inbox: Inbox, folder: Folder):
        """A file that was closed in time does not wake the loop when its delay ends."""
        put(inbox, folder, "created", "a")
        put(inbox, folder, "closed", "a")
        assert names(inbox) == ["a"]
        assert inbox.take(9) == ([], None)

    def test_closed(self, folder: Folder):
        """A closed inbox returns no tickets, even if some are due."""
        inbox = Inbox()
        put(inbox, folder, "closed", "a")
        put(inbox, folder, "created", "b")
        inbox.close()
        assert inbox.closed
        assert inbox.take(9) == ([], None)


class TestTurns:
    def test_flood_delays_no_other_folder(self, inbox: Inbox, folder: Folder, other: Folder):
        """During a flood in one folder, the drop of another folder is in the next batch."""
        put(inbox, folder, "closed", *map(str, range(1000)))
        assert len(take(inbox, 32)) == 32
        put(inbox, other, "closed", "a")
        batch = take(inbox, 32)
        assert len(batch) == 32
        assert [ticket.relative for ticket in batch if ticket.folder is other] == ["a"]

    def test_batch_is_shared(self, inbox: Inbox, folder: Folder, other: Folder):
        """Two floods share a batch equally, and folders take turns if there are more of them than places."""
        for each in (folder, other):
            put(inbox, each, "closed", *map(str, range(100)))
        assert Counter(ticket.folder for ticket in take(inbox, 32)) == {folder: 16, other: 16}
        assert {take(inbox, 1)[0].folder for _ in range(2)} == {folder, other}

    def test_unused_share_is_used(self, inbox: Inbox, folder: Folder, other: Folder):
        """A folder gets the places in a batch that another folder does not use."""
        put(inbox, folder, "closed", *map(str, range(100)))
        put(inbox, other, "closed", "a")
        assert Counter(ticket.folder for ticket in take(inbox, 32)) == {folder: 31, other: 1}

    def test_an_event_moves_it_up(self, inbox: Inbox, folder: Folder):
        """An audit in the backlog that gets an event moves to the fresh drops, and is taken once."""
        for name in ("a", "b", "c"):
            inbox.put_scanned(folder, name)
        put(inbox, folder, "closed", "c")
        taken = take(inbox)
        assert [ticket.relative for ticket in taken] == ["c", "a", "b"]
        assert taken[0].trigger == "closed"

    def test_backlog_is_not_starved(self, inbox: Inbox, folder: Folder):
        """Every eighth ticket comes from the backlog while fresh drops keep arriving."""
        for number in range(10):
            inbox.put_scanned(folder, f"old {number}")
        put(inbox, folder, "closed", *map(str, range(100)))
        taken = [names(inbox, 1)[0] for _ in range(32)]
        assert [number % 8 for number, name in enumerate(taken, 1) if name.startswith("old")] == [0, 0, 0, 0]


class TestGiveBack:
    def test_done(self, inbox: Inbox, folder: Folder):
        """A finished audit is forgotten and can be queued again."""
        put(inbox, folder, "closed", "a")
        [ticket] = take(inbox)
        assert inbox.counts() == (1, 0)
        inbox.give_back([(ticket, None)])
        assert len(inbox) == 0
        put(inbox, folder, "closed", "a")
        assert names(inbox) == ["a"]

    @pytest.mark.parametrize("hint", ["closed", "moved", "poll", "scan"])
    def test_changed_in_flight(self, inbox: Inbox, folder: Folder, hint: Hint):
        """An audit that changes while it is being answered is due at once afterwards, with the new trigger."""
        put(inbox, folder, "closed", "a")
        [ticket] = take(inbox)
        ticket.history = "seven attempts"
        put(inbox, folder, hint, "a")
        assert names(inbox) == []
        inbox.give_back([(ticket, None)])
        [again] = take(inbox)
        assert (again.trigger, again.history) == (hint, None)

    def test_created_in_flight(self, inbox: Inbox, folder: Folder):
        """A file that is created again while the old one is being answered waits for its writer."""
        put(inbox, folder, "closed", "a")
        [ticket] = take(inbox)
        put(inbox, folder, "created", "a")
        inbox.give_back([(ticket, None)])
        assert inbox.counts() == (0, 1)
        assert await_ticket(inbox).trigger == "moved"

    def test_the_better_hint_wins(self, inbox: Inbox, folder: Folder):
        """A scan or a creation does not replace the hint of a close that arrived during the answer."""
        put(inbox, folder, "scan", "a")
        [ticket] = take(inbox)
        for hint in ("scan", "closed", "scan", "created"):
            put(inbox, folder, hint, "a")
        inbox.give_back([(ticket, None)])
        assert take(inbox)[0].trigger == "closed"

    def test_retry(self, inbox: Inbox, folder: Folder):
        """A retry is due after its wait, and keeps its history."""
        put(inbox, folder, "closed", "a")
        [ticket] = take(inbox)
        ticket.history = "three failures"
        began = time.monotonic()
        inbox.give_back([(ticket, 0.05)])
        assert names(inbox) == []
        assert inbox.counts() == (0, 1)
        again = await_ticket(inbox)
        assert again is ticket
        assert (again.trigger, again.history) == ("retry", "three failures")
        assert time.monotonic() - began >= 0.049

    def test_retry_after_a_change(self, inbox: Inbox, folder: Folder):
        """A retry is due at once if the file changed meanwhile, and the last hint decides whether it is closed."""
        put(inbox, folder, "created", "a")
        ticket = await_ticket(inbox)
        put(inbox, folder, "closed", "a")
        inbox.give_back([(ticket, 1000)])
        [again] = take(inbox)
        assert (again.trigger, again.closed, again.wanted_again) == ("closed", True, None)
        put(inbox, folder, "poll", "a")
        inbox.give_back([(again, 1000)])
        assert take(inbox)[0].closed is False

    def test_scans_shorten_no_wait(self, inbox: Inbox, folder: Folder):
        """A scan that finds an audit during a failing attempt does not shorten the growing wait."""
        put(inbox, folder, "closed", "a")
        [ticket] = take(inbox)
        put(inbox, folder, "scan", "a")
        inbox.give_back([(ticket, 1000)])
        assert names(inbox) == []
        assert inbox.counts() == (0, 1)

    def test_due_in_order(self, inbox: Inbox, folder: Folder):
        """The ticket with the earliest due time is taken first."""
        put(inbox, folder, "closed", "a", "b", "c")
        inbox.give_back(zip(take(inbox), (0.09, 0.03, 0.06), strict=True))
        assert [await_ticket(inbox).relative for _ in range(3)] == ["b", "c", "a"]

    def test_earlier_due_time_shortens_the_wait(self, folder: Folder):
        """A retry that is due before the present timeout wakes the loop."""
        woken: list[int] = []
        inbox = Inbox(lambda: woken.append(1))
        put(inbox, folder, "closed", "late", "soon")
        late, soon = take(inbox)
        inbox.give_back([(late, 60)])
        assert 59 < (inbox.take(9)[1] or 0) <= 60
        woken.clear()
        inbox.give_back([(soon, 5)])
        assert woken == [1]
        assert 4 < (inbox.take(9)[1] or 0) <= 5

    def test_stale_due_times_have_no_effect(self, inbox: Inbox, folder: Folder):
        """A wait that an event has ended does not make the ticket due again."""
        put(inbox, folder, "closed", "early", "a")
        early, ticket = take(inbox)
        inbox.give_back([(early, 0.02), (ticket, 0.03)])
        put(inbox, folder, "closed", "a")
        [ticket] = take(inbox)
        inbox.give_back([(ticket, 60)])
        assert await_ticket(inbox) is early
        assert until(lambda: [wait for wait in [inbox.take(9)[1]] if wait is None or wait > 1])[0] is not None
        assert inbox.counts() == (1, 1)

    def test_several(self, inbox: Inbox, folder: Folder, other: Folder):
        """One call accepts the results of a batch with several folders."""
        put(inbox, folder, "closed", "done", "later")
        put(inbox, other, "closed", "done")
        batch = take(inbox)
        inbox.give_back([(ticket, None if ticket.relative == "done" else 60.0) for ticket in batch])
        assert inbox.counts() == (0, 1)


class TestSetAside:
    def test_is_not_waited_for(self, inbox: Inbox, folder: Folder):
        """A reload waits for tickets that are being answered, but not for large files."""
        put(inbox, folder, "closed", "large")
        [ticket] = take(inbox)
        assert not inbox.await_idle(folder, 0.0)
        inbox.set_aside(ticket)
        assert inbox.await_idle(folder, 0.0)
        put(inbox, folder, "scan", "large")
        assert names(inbox) == []
        assert inbox.counts() == (1, 0)

    def test_ends_the_wait(self, inbox: Inbox, folder: Folder):
        """`await_idle` returns when the last ticket is set aside or given back."""
        put(inbox, folder, "closed", "large", "small")
        large, small = take(inbox)
        idle: list[bool] = []
        waiting = threading.Thread(target=lambda: idle.append(inbox.await_idle(folder, 10.0)))
        waiting.start()
        inbox.give_back([(small, None)])
        inbox.set_aside(large)
        waiting.join(5)
        assert idle == [True]

    def test_changed_meanwhile(self, inbox: Inbox, folder: Folder):
        """An event during the answer to a large file makes the file due again in the ordinary queue."""
        put(inbox, folder, "closed", "large")
        [ticket] = take(inbox)
        inbox.set_aside(ticket)
        put(inbox, folder, "closed", "large")
        inbox.give_back([(ticket, None)])
        assert names(inbox) == ["large"]

    def test_retry(self, inbox: Inbox, folder: Folder):
        """The large lane can ask for a retry, which any thread may take."""
        put(inbox, folder, "closed", "large")
        [ticket] = take(inbox)
        inbox.set_aside(ticket)
        inbox.give_back([(ticket, 0.0)])
        assert await_ticket(inbox) is ticket


class TestCapacity:
    def test_events_are_refused(self, folder: Folder):
        """A full queue refuses new audits and reports its folder, but accepts hints about known audits."""
        refused: list[Folder] = []
        inbox = Inbox(capacity=2, on_refused=refused.append)
        assert put(inbox, folder, "closed", "a", "b")
        assert not put(inbox, folder, "closed", "c", "d")
        assert refused == [folder]
        assert put(inbox, folder, "moved", "a")
        assert refused == [folder]

    def test_is_that_of_one_folder(self, folder: Folder, other: Folder):
        """A full queue refuses no hints of other folders and does not delay their scans."""
        refused: list[Folder] = []
        inbox = Inbox(capacity=4, on_refused=refused.append)
        assert put(inbox, folder, "closed", *"abcd")
        assert put(inbox, other, "closed", "a")
        assert inbox.put_scanned(other, "b")
        assert refused == []

    def test_retries_make_room(self, folder: Folder):
        """A full queue drops retries, because the next scan finds them."""
        refused: list[Folder] = []
        inbox = Inbox(capacity=2, on_refused=refused.append)
        put(inbox, folder, "closed", "a")
        [ticket] = take(inbox)
        put(inbox, folder, "closed", "b")
        inbox.give_back([(ticket, 10)])
        assert refused == [folder]
        assert inbox.counts() == (1, 0)

    def test_scans_wait_for_room(self, folder: Folder):
        """A scan fills half of the queue, and continues when a ticket is done."""
        inbox = Inbox(capacity=4)
        found = [str(number) for number in range(10)]
        scan = threading.Thread(target=lambda: [inbox.put_scanned(folder, name) for name in found])
        scan.start()
        until(lambda: len(inbox) == 2)
        assert put(inbox, folder, "closed", "event"), "events have the other half"
        taken: list[str] = []
        while len(taken) < 11:
            assert len(inbox) <= 3
            ticket = await_ticket(inbox)
            taken.append(ticket.relative)
            inbox.give_back([(ticket, None)])
        scan.join(5)
        assert not scan.is_alive()
        assert sorted(taken) == sorted([*found, "event"])

    def test_refusal_is_reported_outside_the_lock(self, folder: Folder):
        """The callback for refusals may use the inbox, both after a put and after a retry."""
        seen: list[int] = []
        inbox = Inbox(capacity=1, on_refused=lambda _: seen.append(sum(inbox.counts())))
        put(inbox, folder, "closed", "a")
        put(inbox, folder, "closed", "b")
        [ticket] = take(inbox)
        inbox.give_back([(ticket, 1.0)])
        assert seen == [1, 0]


class TestClose:
    def test_frees_scans(self, folder: Folder):
        """`close` ends the waits of scans, refuses puts, and makes the inbox forget tickets that are given back."""
        inbox = Inbox(capacity=4)
        put(inbox, folder, "closed", "a", "b")
        first, second = take(inbox)
        found: list[bool] = []
        scan = threading.Thread(target=lambda: found.append(inbox.put_scanned(folder, "c")))
        scan.start()
        inbox.close()
        scan.join(5)
        assert found == [False]
        assert not put(inbox, folder, "closed", "d")
        inbox.give_back([(first, None), (second, 5.0)])
        assert len(inbox) == 0

    def test_closing_is_no_refusal(self, folder: Folder):
        """A closed inbox reports no refusals, so that no scan is requested."""
        refused: list[Folder] = []
        inbox = Inbox(on_refused=refused.append)
        inbox.close()
        put(inbox, folder, "closed", "a")
        assert refused == []

    def test_wants(self, inbox: Inbox, folder: Folder, other: Folder):
        """Answers are wanted until the folder is dropped or the inbox is closed."""
        assert inbox.wants(folder)
        inbox.drop(folder)
        assert not inbox.wants(folder)
        assert inbox.wants(other)
        inbox.close()
        assert not inbox.wants(other)


class TestDrop:
    def test_in_flight(self, inbox: Inbox, folder: Folder):
        """A ticket that was taken before its folder was dropped is not queued again, for a retry or for a change."""
        put(inbox, folder, "closed", "a", "b", "c", "d")
        first, second, third, large = take(inbox)
        inbox.set_aside(large)
        put(inbox, folder, "closed", "b")
        inbox.drop(folder)
        assert not put(inbox, folder, "closed", "c")
        assert not inbox.put_scanned(folder, "e")
        inbox.give_back([(first, 0.0), (second, None)])
        assert not inbox.await_idle(folder, 0.0)
        inbox.give_back([(third, None)])
        assert inbox.await_idle(folder, 0.0)
        inbox.give_back([(large, 0.0)])
        assert len(inbox) == 0
        assert inbox.take(9) == ([], None)

    def test_forgets_waiting_tickets(self, inbox: Inbox, folder: Folder, other: Folder):
        """`drop` forgets the waiting tickets of its folder only, and taken tickets can still be given back."""
        put(inbox, folder, "closed", "flight")
        [flight] = take(inbox)
        put(inbox, folder, "closed", "fresh")
        inbox.put_scanned(folder, "backlog")
        put(inbox, folder, "created", "delayed")
        put(inbox, other, "closed", "other")
        inbox.drop(folder)
        assert inbox.counts() == (2, 0)
        inbox.give_back([(flight, None)])
        assert [ticket.folder for ticket in take(inbox)] == [other]
        assert inbox.take(9) == ([], None)
        assert len(inbox) == 1

    def test_is_forgotten_itself(self, inbox: Inbox):
        """A dropped folder is not kept in memory after its last ticket is given back."""
        folder = Folder(FolderSettings(path="/dropped"), max_bytes=1)
        put(inbox, folder, "closed", "a", "b")
        first, second = take(inbox)
        inbox.drop(folder)
        inbox.give_back([(first, None)])
        inbox.give_back([(second, 1.0)])
        assert inbox.take(9) == ([], None)
        reference = weakref.ref(folder)
        del folder, first, second
        gc.collect()
        assert reference() is None

    def test_frees_its_scan(self, folder: Folder):
        """A scan that waits for room returns when its folder is dropped."""
        inbox = Inbox(capacity=2)
        put(inbox, folder, "closed", "a")
        found: list[bool] = []
        scan = threading.Thread(target=lambda: found.append(inbox.put_scanned(folder, "b")))
        scan.start()
        inbox.drop(folder)
        scan.join(5)
        assert found == [False]


class Bell:
    """Wakes the threads that take from an inbox."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._rings = 0

    def ring(self) -> None:
        with self._condition:
            self._rings += 1
            self._condition.notify_all()

    @property
    def rings(self) -> int:
        with self._condition:
            return self._rings

    def wait(self, rings: int, seconds: float | None) -> None:
        """Wait until it has rung more than `rings` times."""
        with self._condition:
            self._condition.wait_for(lambda: self._rings > rings, timeout=seconds)


@given(
    hints=st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("abcdefgh"), st.sampled_from(HINTS)), min_size=1, max_size=80
    ),
    meanwhile=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("abcdefgh")), max_size=8),
    takers=st.integers(1, 3),
    retries=st.integers(0, 2),
)
def test_nothing_is_lost(
    hints: list[tuple[str, str, Hint]], meanwhile: list[tuple[str, str]], takers: int, retries: int
):
    """After its last hint every audit is taken, by one thread at a time, even if takers sleep as long as allowed."""
    bell = Bell()
    inbox = Inbox(bell.ring)
    folders = {name: Folder(FolderSettings(path=name), max_bytes=1) for name in "ab"}
    version: Counter[tuple[str, str]] = Counter()  # instead of the content of each audit
    answered: dict[tuple[str, str], int] = {}
    in_flight: set[tuple[str, str]] = set()
    trouble: list[str] = []
    changing = threading.Lock()

    def answer(ticket: Ticket) -> float | None:
        key = (ticket.folder.path, ticket.relative)
        if key in in_flight:
            trouble.append(f"{key} was taken twice")
        in_flight.add(key)
        seen = version[key]
        with changing:
            changes = key in meanwhile
            if changes:  # during the answer
                meanwhile.remove(key)
                version[key] += 1
        if changes:
            put(inbox, ticket.folder, "closed", ticket.relative)
        in_flight.discard(key)
        ticket.history = (ticket.history or 0) + 1
        if ticket.history <= retries:
            return 0.001
        answered[key] = seen
        return None

    def run() -> None:
        while not inbox.closed:
            rings = bell.rings
            batch, wait = inbox.take(2)
            if batch:
                inbox.give_back([(ticket, answer(ticket)) for ticket in batch])
            else:
                bell.wait(rings, wait)

    threads = [threading.Thread(target=run) for _ in range(takers)]
    for thread in threads:
        thread.start()
    try:
        for path, name, hint in hints:
            with changing:
                version[path, name] += 1
            assert put(inbox, folders[path], hint, name)
        until(lambda: len(inbox) == 0, 10, "everything is answered")
    finally:
        inbox.close()
        for thread in threads:
            thread.join(5)
    assert not trouble
    # A hint about a waiting ticket is merged into it, so the last version must have been seen.
    assert answered == dict(version)
