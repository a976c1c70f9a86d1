"""What waits to be answered."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchd.folder.folder import Folder
from benchd.inbox import CREATED_DELAY, Inbox, Trigger, Work
from benchd.settings.keys import FolderSettings
from daemon import until


@pytest.fixture
def folder() -> Folder:
    return Folder(FolderSettings(path="/nowhere"), max_bytes=1)


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


def names(inbox: Inbox, most: int = 100) -> list[str]:
    """What can be taken now."""
    return [work.relative for work in inbox.take(most, timeout=0)]


class TestPut:
    def test_waits_once(self, inbox: Inbox, folder: Folder):
        """Many hints about one audit are one piece of work."""
        for trigger in ("closed", "moved", "scan", "poll", "created"):
            assert inbox.put(folder, "a", trigger)
        assert len(inbox) == 1
        assert names(inbox) == ["a"]
        assert names(inbox) == []

    def test_folders_are_apart(self, inbox: Inbox, folder: Folder):
        """The same name in two folders is two audits."""
        other = Folder(folder.settings, max_bytes=1)
        inbox.put(folder, "a", "closed")
        inbox.put(other, "a", "closed")
        assert [work.folder for work in inbox.take(9)] == [folder, other]

    def test_fresh_first(self, inbox: Inbox, folder: Folder):
        """A drop goes before the backlog of a scan, each in its own order."""
        for name in ("1", "2"):
            inbox.put_scanned(folder, name)
        for name in ("3", "4"):
            inbox.put(folder, name, "closed")
        assert names(inbox, 3) == ["3", "4", "1"]
        assert names(inbox) == ["2"]

    def test_created_waits_for_its_writer(self, inbox: Inbox, folder: Folder):
        """A file that was only created is taken after a moment."""
        began = time.monotonic()
        inbox.put(folder, "a", "created")
        assert names(inbox) == []
        [work] = inbox.take(timeout=5)
        assert time.monotonic() - began >= CREATED_DELAY * 0.99
        assert not work.closed

    def test_closed_ends_the_wait(self, inbox: Inbox, folder: Folder):
        """When the writer closes the file, it is due at once, and known to be closed."""
        inbox.put(folder, "a", "created")
        inbox.put(folder, "a", "closed")
        [work] = inbox.take(9, timeout=0)
        assert (work.trigger, work.closed) == ("closed", True)
        inbox.done(work)
        assert inbox.take(timeout=CREATED_DELAY * 2) == []

    def test_polled_change_ends_the_wait(self, inbox: Inbox, folder: Folder):
        """A change that polling sees makes the audit due, though nobody knows whether it is closed."""
        inbox.put(folder, "a", "created")
        inbox.put(folder, "a", "poll")
        [work] = inbox.take(9, timeout=0)
        assert (work.trigger, work.closed) == ("poll", False)

    def test_scan_does_not_end_the_wait(self, inbox: Inbox, folder: Folder):
        """A scan knows nothing new about an audit that waits."""
        inbox.put(folder, "a", "created")
        inbox.put_scanned(folder, "a")
        assert names(inbox) == []
        assert inbox.counts() == (0, 1)


class TestGiveBack:
    def test_done(self, inbox: Inbox, folder: Folder):
        """What is done is forgotten, and may come again."""
        inbox.put(folder, "a", "closed")
        [work] = inbox.take()
        assert inbox.counts() == (1, 0)
        inbox.done(work)
        assert len(inbox) == 0
        inbox.put(folder, "a", "closed")
        assert names(inbox) == ["a"]

    @pytest.mark.parametrize("trigger", ["closed", "moved", "poll", "scan"])
    def test_changed_in_flight(self, inbox: Inbox, folder: Folder, trigger: Trigger):
        """An audit that changes while it is being answered is due again as soon as that is done, as new."""
        inbox.put(folder, "a", "closed")
        [work] = inbox.take()
        work.attempts = 7
        inbox.put(folder, "a", trigger)
        assert names(inbox) == []
        inbox.done(work)
        [again] = inbox.take(9, timeout=0)
        assert (again.trigger, again.attempts) == (trigger, 0)

    def test_the_better_hint_wins(self, inbox: Inbox, folder: Folder):
        """Of several hints in flight a close is not forgotten for a scan."""
        inbox.put(folder, "a", "scan")
        [work] = inbox.take()
        for trigger in ("scan", "closed", "scan", "created"):
            inbox.put(folder, "a", trigger)
        inbox.done(work)
        assert inbox.take()[0].trigger == "closed"

    def test_again(self, inbox: Inbox, folder: Folder):
        """What is to be tried again is due after its wait, with what is known of it."""
        inbox.put(folder, "a", "closed")
        [work] = inbox.take()
        work.failures = 3
        began = time.monotonic()
        inbox.again(work, 0.05)
        assert names(inbox) == []
        assert inbox.counts() == (0, 1)
        [again] = inbox.take(timeout=5)
        assert again is work
        assert (again.trigger, again.failures) == ("retry", 3)
        assert time.monotonic() - began >= 0.049

    def test_again_after_a_change(self, inbox: Inbox, folder: Folder):
        """If it changed meanwhile nobody waits; whether it is closed is what the last hint says."""
        inbox.put(folder, "a", "created")
        [work] = inbox.take(timeout=5)
        inbox.put(folder, "a", "closed")
        inbox.again(work, 1000)
        [again] = inbox.take(9, timeout=0)
        assert (again.trigger, again.closed, again.wanted_again) == ("closed", True, None)
        inbox.put(folder, "a", "poll")
        inbox.again(again, 1000)
        assert inbox.take(9, timeout=0)[0].closed is False

    def test_scans_hurry_nobody(self, inbox: Inbox, folder: Folder):
        """A scan that met an audit while it failed does not undo the growing delay."""
        inbox.put(folder, "a", "closed")
        [work] = inbox.take(timeout=5)
        inbox.put(folder, "a", "scan")
        inbox.again(work, 1000)
        assert inbox.take(9, timeout=0) == []
        assert inbox.counts() == (0, 1)

    def test_due_in_order(self, inbox: Inbox, folder: Folder):
        """Of several waiting audits the one that is due first comes first."""
        for name in ("a", "b", "c"):
            inbox.put(folder, name, "closed")
        for work, seconds in zip(inbox.take(3), (0.09, 0.03, 0.06), strict=True):
            inbox.again(work, seconds)
        assert [inbox.take(timeout=5)[0].relative for _ in range(3)] == ["b", "c", "a"]

    def test_earlier_due_time_wakes_a_waiting_taker(self, inbox: Inbox, folder: Folder):
        """A taker that sleeps until a late moment wakes for an earlier one."""
        for name in ("late", "soon"):
            inbox.put(folder, name, "closed")
        late, soon = inbox.take(2)
        inbox.again(late, 60)
        taken: list[str] = []
        taker = threading.Thread(target=lambda: taken.extend(work.relative for work in inbox.take(timeout=20)))
        taker.start()
        until(lambda: inbox._waiting_takers)
        inbox.again(soon, 0.01)
        taker.join(5)
        assert taken == ["soon"]

    def test_stale_due_times_are_nothing(self, inbox: Inbox, folder: Folder):
        """A wait that an event has ended does not come due a second time."""
        inbox.put(folder, "a", "closed")
        [work] = inbox.take()
        inbox.again(work, 0.02)
        inbox.put(folder, "a", "closed")
        [work] = inbox.take(timeout=0)
        inbox.again(work, 60)
        assert inbox.take(timeout=0.06) == []
        assert inbox.counts() == (0, 1)


class TestOrder:
    def test_an_event_moves_it_up(self, inbox: Inbox, folder: Folder):
        """What a scan has met in a backlog, and is dropped anew, is as fresh as others; and is taken once."""
        for name in ("a", "b", "c"):
            inbox.put_scanned(folder, name)
        inbox.put(folder, "c", "closed")
        taken = inbox.take(9)
        assert [work.relative for work in taken] == ["c", "a", "b"]
        assert taken[0].trigger == "closed"

    def test_a_stream_starves_nobody(self, inbox: Inbox, folder: Folder):
        """However many fresh drops come, the backlog is looked at."""
        inbox.put_scanned(folder, "old")
        for number in range(100):
            inbox.put(folder, f"{number}", "closed")
            inbox.put(folder, f"{number}+", "closed")
            [work] = inbox.take(1)
            if work.relative == "old":
                return
            inbox.done(work)
        pytest.fail("the backlog was never looked at")


class TestLarge:
    def test_a_lane_of_its_own(self, inbox: Inbox, folder: Folder):
        """What is large is taken by who asks for it, and by nobody else; everything else the other way round."""
        inbox.put(folder, "large", "closed")
        inbox.put(folder, "small", "closed")
        work = inbox.take(1)[0]
        inbox.to_large(work)
        assert [item.relative for item in inbox.take(9)] == ["small"]
        assert inbox.take(1, timeout=0) == []
        assert inbox.take(9, large=True) == [work]
        assert inbox.take(1, timeout=0, large=True) == []
        inbox.again(work, 0.0)
        assert inbox.take(1, timeout=0.01) == []
        assert inbox.take(1, timeout=1, large=True) == [work]
        inbox.done(work)

    def test_wakes_who_waits(self, inbox: Inbox, folder: Folder):
        """Who waits for large files is woken by one."""
        taken: list[Work] = []
        thread = threading.Thread(target=lambda: taken.extend(inbox.take(1, large=True)))
        thread.start()
        inbox.put(folder, "large", "closed")
        [work] = inbox.take(1)
        inbox.to_large(work)
        thread.join(5)
        assert taken == [work]

    def test_nobody_waits_for_it(self, inbox: Inbox, folder: Folder):
        """A reload waits for what is in flight, but not for a large file."""
        inbox.put(folder, "large", "closed")
        [work] = inbox.take(1)
        assert not inbox.await_idle(folder, 0.01)
        inbox.to_large(work)
        assert inbox.take(1, large=True) == [work]
        assert inbox.await_idle(folder, 0.01)

    def test_changed_meanwhile(self, inbox: Inbox, folder: Folder):
        """It is looked at anew in its lane: an event that came meanwhile needs no further look."""
        inbox.put(folder, "large", "scan")
        [work] = inbox.take(1)
        inbox.put(folder, "large", "closed")
        inbox.to_large(work)
        assert (work.closed, work.trigger, work.wanted_again) == (True, "closed", None)
        inbox.take(1, large=True)
        inbox.done(work)
        assert len(inbox) == 0

    def test_dropped(self, inbox: Inbox, folder: Folder):
        """Of a folder that is not watched any more nothing comes back."""
        inbox.put(folder, "a", "closed")
        inbox.put(folder, "b", "closed")
        first, second = inbox.take(2)
        inbox.to_large(first)
        inbox.drop_folder(folder)
        inbox.to_large(second)
        assert len(inbox) == 0
        assert inbox.take(1, timeout=0, large=True) == []


class TestCapacity:
    def test_events_are_refused(self, folder: Folder):
        """A full inbox refuses new audits, tells whose, and still takes hints about those it knows."""
        refused: list[Folder] = []
        inbox = Inbox(capacity=2, on_refused=refused.append)
        assert inbox.put(folder, "a", "closed")
        assert inbox.put(folder, "b", "closed")
        assert not inbox.put(folder, "c", "closed")
        assert refused == [folder]
        assert inbox.put(folder, "a", "moved")
        assert refused == [folder]

    def test_retries_make_room(self, folder: Folder):
        """A full inbox keeps no audit for later: it is left to the next scan."""
        refused: list[Folder] = []
        inbox = Inbox(capacity=2, on_refused=refused.append)
        inbox.put(folder, "a", "closed")
        [work] = inbox.take()
        inbox.put(folder, "b", "closed")
        inbox.again(work, 10)
        assert refused == [folder]
        assert inbox.counts() == (1, 0)

    def test_scans_wait_for_room(self, folder: Folder):
        """A scan fills half of the inbox, and goes on when something is done."""
        inbox = Inbox(capacity=4)
        found = [str(number) for number in range(10)]
        scan = threading.Thread(target=lambda: [inbox.put_scanned(folder, name) for name in found])
        scan.start()
        until(lambda: len(inbox) == 2)
        assert inbox.put(folder, "event", "closed"), "events have the other half"
        taken = []
        while len(taken) < 11:
            assert len(inbox) <= 3
            for work in inbox.take(timeout=5):
                taken.append(work.relative)
                inbox.done(work)
        scan.join(5)
        assert not scan.is_alive()
        assert sorted(taken) == sorted([*found, "event"])

    def test_refusal_is_told_outside_the_lock(self, folder: Folder):
        """Who is told of a refusal may use the inbox."""
        seen: list[int] = []
        inbox = Inbox(capacity=1, on_refused=lambda _: seen.append(sum(inbox.counts())))
        inbox.put(folder, "a", "closed")
        inbox.put(folder, "b", "closed")
        assert seen == [1]


class TestClose:
    def test_wakes_everybody(self, folder: Folder):
        """Takers and scans that wait return at once, and there is no more work."""
        inbox = Inbox(capacity=2)
        inbox.put(folder, "a", "closed")
        [work] = inbox.take()
        results: list[object] = []
        threads = [threading.Thread(target=lambda: results.append(inbox.take())) for _ in range(3)]
        threads.append(threading.Thread(target=lambda: results.append(inbox.put_scanned(folder, "b"))))
        for thread in threads:
            thread.start()
        until(lambda: inbox._waiting_takers == 3)
        inbox.close()
        for thread in threads:
            thread.join(5)
        assert sorted(map(str, results)) == ["False", "[]", "[]", "[]"]
        assert inbox.closed
        assert inbox.take() == []
        assert not inbox.put(folder, "c", "closed")
        inbox.put(folder, "a", "closed")
        inbox.done(work)
        assert len(inbox) == 0

    def test_closing_is_no_refusal(self, folder: Folder):
        """Nobody is told to scan for what came after the end."""
        refused: list[Folder] = []
        inbox = Inbox(on_refused=refused.append)
        inbox.close()
        inbox.put(folder, "a", "closed")
        assert refused == []


def test_in_flight_of_a_dropped_folder(inbox: Inbox, folder: Folder):
    """What was in flight when its folder was dropped does not come back, neither for a retry nor for a change."""
    for name in ("a", "b", "c"):
        inbox.put(folder, name, "closed")
    first, second, third = inbox.take(3)
    inbox.drop_folder(folder)
    inbox.put(folder, "c", "closed")
    inbox.again(first, 0.0)
    inbox.done(second)
    assert not inbox.await_idle(folder, 0.0)
    inbox.done(third)
    assert inbox.await_idle(folder, 0.0)


def test_drop_folder(inbox: Inbox, folder: Folder):
    """All that waits for a folder is forgotten, that of others stays, and what is in flight may still be given back."""
    other = Folder(folder.settings, max_bytes=1)
    inbox.put(folder, "flight", "closed")
    [flight] = inbox.take()
    inbox.put(folder, "fresh", "closed")
    inbox.put_scanned(folder, "backlog")
    inbox.put(folder, "delayed", "created")
    inbox.put(other, "other", "closed")
    inbox.drop_folder(folder)
    assert inbox.counts() == (2, 0)
    inbox.done(flight)
    assert [work.folder for work in inbox.take(9, timeout=CREATED_DELAY * 2)] == [other]
    assert len(inbox) == 1


@given(
    hints=st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(["closed", "moved", "created", "scan", "poll"])),
        min_size=1,
        max_size=80,
    ),
    meanwhile=st.lists(st.sampled_from("abcdefgh"), max_size=8),
    takers=st.integers(1, 3),
    retries=st.integers(0, 2),
)
def test_nothing_is_lost(hints: list[tuple[str, Trigger]], meanwhile: list[str], takers: int, retries: int):
    """After the last hint about an audit that audit is taken, and never by two at once."""
    inbox = Inbox()
    folder = Folder(FolderSettings(path="/nowhere"), max_bytes=1)
    version: Counter[str] = Counter()  # the content of each audit, as it were
    answered: dict[str, int] = {}
    in_flight: set[str] = set()
    trouble: list[str] = []
    changing = threading.Lock()

    def take() -> None:
        while batch := inbox.take(2):
            for work in batch:
                if work.relative in in_flight:
                    trouble.append(f"{work.relative} was taken twice")
                in_flight.add(work.relative)
                seen = version[work.relative]
                work.attempts += 1
                with changing:
                    changes = work.relative in meanwhile
                    if changes:  # while it is being answered
                        meanwhile.remove(work.relative)
                        version[work.relative] += 1
                if changes:
                    inbox.put(folder, work.relative, "closed")
                in_flight.discard(work.relative)
                if work.attempts <= retries:
                    inbox.again(work, 0.001)
                else:
                    answered[work.relative] = seen
                    inbox.done(work)

    threads = [threading.Thread(target=take) for _ in range(takers)]
    for thread in threads:
        thread.start()
    try:
        for name, trigger in hints:
            with changing:
                version[name] += 1
            assert inbox.put(folder, name, trigger)
        until(lambda: len(inbox) == 0, 10, "everything is dealt with")
    finally:
        inbox.close()
        for thread in threads:
            thread.join(5)
    assert not trouble
    # A hint about work that is still waiting is one with it, so the last version must have been seen.
    assert answered == dict(version)


class TestAttend:
    def test_takes_what_it_puts(self, inbox: Inbox, folder: Folder):
        """What the attendant puts it takes itself, without waking others; what is not fresh is theirs."""
        taken: list[str] = []
        taker = threading.Thread(target=lambda: taken.extend(work.relative for work in inbox.take(timeout=20)))
        assert inbox.attend(9) == []
        taker.start()
        until(lambda: inbox._waiting_takers == 1)
        for name in ("1", "2"):
            inbox.put(folder, name, "closed")
        assert inbox._waiting_takers == 1
        assert [work.relative for work in inbox.attend(1)] == ["1"]
        assert [work.relative for work in inbox.attend(9)] == ["2"]
        inbox.put(folder, "3", "scan")
        taker.join(10)
        assert taken == ["3"]
        assert inbox.attend(9) == []

    @pytest.mark.parametrize("trigger", ["poll", "scan"])
    def test_what_is_no_drop_is_left_to_others(self, inbox: Inbox, folder: Folder, trigger: Trigger):
        """What polls and scans tell of may be on a slow file server: whoever reads the events does not wait for it."""
        inbox.attend(9)
        inbox.put(folder, "a", trigger)
        assert inbox.attend(9) == []
        assert [work.relative for work in inbox.take(9, timeout=0)] == ["a"]

    def test_retries_are_left_to_others(self, inbox: Inbox, folder: Folder):
        """So is what is tried again, also if the attendant notices that it is due."""
        inbox.put(folder, "a", "closed")
        [work] = inbox.take()
        inbox.attend(9)
        inbox.again(work, 0.0)
        assert inbox.attend(9) == []
        assert inbox.take(9, timeout=0) == [work]

    def test_dropped_folder(self, inbox: Inbox, folder: Folder):
        """What the attendant has put for a folder is forgotten with it."""
        inbox.attend(9)
        inbox.put(folder, "a", "closed")
        inbox.drop_folder(folder)
        assert inbox.attend(9) == []

    def test_others_are_woken_again(self, inbox: Inbox, folder: Folder):
        """What the attendant has put and not taken is the others' once it attends no longer."""
        taken: list[str] = []
        taker = threading.Thread(target=lambda: taken.extend(work.relative for work in inbox.take(timeout=20)))
        inbox.attend(1)
        taker.start()
        until(lambda: inbox._waiting_takers == 1)
        inbox.put(folder, "1", "moved")
        inbox.unattend()
        taker.join(10)
        assert taken == ["1"]

    def test_when_to_come_back(self, inbox: Inbox, folder: Folder):
        """At once while there are fresh drops, in time for what is delayed, else when there are events."""
        assert inbox.attend(9) == []
        assert inbox.until_next() is None
        inbox.put(folder, "delayed", "created")
        assert 0 < (inbox.until_next() or 0) <= CREATED_DELAY
        inbox.put(folder, "fresh", "closed")
        assert inbox.until_next() == 0
        assert [work.relative for work in inbox.attend(9)] == ["fresh"]
        until(lambda: inbox.until_next() == 0)
        assert [work.relative for work in inbox.attend(9)] == ["delayed"]
        assert inbox.until_next() is None

    def test_what_was_delayed_and_is_not_any_more(self, inbox: Inbox, folder: Folder):
        """A file that was closed in time is no reason to wake up when its delay would have ended."""
        inbox.attend(9)
        inbox.put(folder, "a", "created")
        inbox.put(folder, "a", "closed")
        assert len(inbox.attend(9)) == 1
        assert inbox.until_next() is None

    def test_closed(self, inbox: Inbox, folder: Folder):
        """A closed inbox has nothing more to do, whatever was due."""
        inbox.attend(9)
        inbox.put(folder, "a", "closed")
        inbox.put(folder, "delayed", "created")
        until(lambda: inbox._delayed[0][0] <= time.monotonic())
        inbox.close()
        assert inbox.attend(9) == []
        assert inbox.until_next() is None


class TestTakeAll:
    @pytest.fixture
    def woken(self) -> list[int]:
        return []

    @pytest.fixture
    def wake(self, woken: list[int]) -> Callable[[], None]:
        return lambda: woken.append(1)

    def elsewhere(self, act: Callable[[], object]) -> None:
        """On another thread, as scans put what they find."""
        thread = threading.Thread(target=act)
        thread.start()
        thread.join(5)

    def test_takes_what_anybody_puts(self, inbox: Inbox, folder: Folder, wake: Callable[[], None]):
        """Drops before the backlog, retries, polls: the attendant is given all, the others none; but large files."""
        inbox.put(folder, "large", "closed")
        [large] = inbox.take()
        inbox.to_large(large)
        inbox.attend(9, wake=wake)
        for name, trigger in (("scan", "scan"), ("poll", "poll"), ("drop", "closed")):
            self.elsewhere(lambda name=name, trigger=trigger: inbox.put(folder, name, trigger))
        assert inbox.take(9, timeout=0) == []
        assert inbox.until_next() == 0
        assert [work.relative for work in inbox.attend(9, wake=wake)] == ["poll", "drop", "scan"]
        assert [work.relative for work in inbox.take(9, timeout=0, large=True)] == ["large"]

    def test_is_woken_once(self, inbox: Inbox, folder: Folder, wake: Callable[[], None], woken: list[int]):
        """Whoever puts something wakes the attendant if it may be asleep, and not again before it has looked."""
        inbox.attend(9, wake=wake)
        self.elsewhere(lambda: inbox.put(folder, "1", "scan"))
        assert woken == []
        assert inbox.until_next() == 0
        inbox.attend(9, wake=wake)
        assert inbox.until_next() is None
        for name in "23":
            self.elsewhere(lambda name=name: inbox.put(folder, name, "scan"))
        assert woken == [1]
        assert [work.relative for work in inbox.attend(9, wake=wake)] == ["2", "3"]

    def test_is_woken_for_what_is_delayed(
        self, inbox: Inbox, folder: Folder, wake: Callable[[], None], woken: list[int]
    ):
        """What another thread delays has the attendant look when it is to come back."""
        inbox.attend(9, wake=wake)
        assert inbox.until_next() is None
        self.elsewhere(lambda: inbox.put(folder, "a", "created"))
        assert woken == [1]
        until(lambda: inbox.until_next() == 0)
        assert [work.relative for work in inbox.attend(9, wake=wake)] == ["a"]

    @pytest.mark.parametrize("how", ["unattend", "attend without"])
    def test_leaves_it_to_the_others(self, inbox: Inbox, folder: Folder, wake: Callable[[], None], how: str):
        """Once it no longer takes all, the others are woken for what is there."""
        taken: list[str] = []
        taker = threading.Thread(target=lambda: taken.extend(work.relative for work in inbox.take(timeout=20)))
        inbox.attend(9, wake=wake)
        taker.start()
        until(lambda: inbox._waiting_takers == 1)
        self.elsewhere(lambda: inbox.put(folder, "a", "scan"))
        if how == "unattend":
            inbox.unattend()
        else:
            inbox.attend(9)
        taker.join(10)
        assert taken == ["a"]

    def test_wake(self, inbox: Inbox, wake: Callable[[], None], woken: list[int]):
        """Who has everybody look around has the attendant look, too."""
        inbox.wake()
        inbox.attend(9, wake=wake)
        inbox.wake()
        assert woken == [1]
