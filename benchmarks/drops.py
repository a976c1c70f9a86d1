"""Drop audits into a folder and record when the configs appear.

One process drops and observes. It sleeps in poll() on an inotify descriptor until the next drop is due. Nothing spins.
As a program, `drops.py INBOX COUNT AUDIT` drops as fast as it can, each audit first under a temporary name, and prints
the monotonic times of its start and its end.
"""

import os
import select
import sys
import time

import floors
import measuring

#: Seconds until an unanswered drop counts as lost; its latency is then this value.
PATIENCE = 10.0


class Arrivals:
    """Records when configs appear in a folder; `mask` is the inotify event of their appearance."""

    def __init__(self, inbox, mask=floors.MOVED_TO):
        self.seen = {}
        self._descriptor = floors.inotify(inbox, mask)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)

    def until(self, moment):
        """Record new configs until `moment` (time.monotonic)."""
        while (left := moment - time.monotonic()) > 0:
            if self._poll.poll(left * 1000):
                now = time.monotonic()
                for name in floors.names(self._descriptor):
                    if name.endswith(measuring.CONFIG):
                        self.seen.setdefault(name, now)

    def until_all(self, count, *, pause=0.0, patience=PATIENCE):
        """Record new configs until there are `count`, or until no new one appears for `patience` seconds."""
        before, deadline = len(self.seen), time.monotonic() + patience
        while len(self.seen) < count and time.monotonic() < deadline:
            time.sleep(pause)  # fewer wake-ups, so that they don't slow down a fast producer
            self.until(time.monotonic() + 0.01)
            if len(self.seen) > before:
                before, deadline = len(self.seen), time.monotonic() + patience

    def close(self):
        """Close the inotify descriptor."""
        os.close(self._descriptor)


def drop(path, data):
    """Write an audit with one write, and return the time of its close()."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.write(descriptor, data)
    closed = time.monotonic()
    os.close(descriptor)
    return closed


def paced(inbox, data, *, rate, seconds, mask=floors.MOVED_TO):
    """Drop at a steady rate. Return the sorted seconds from close() to config, and the number of missing configs."""
    arrivals, closed, total = Arrivals(inbox, mask), {}, max(1, int(rate * seconds))
    start = time.monotonic() + 0.1
    for number in range(total):
        arrivals.until(start + number / rate)
        closed[f"a{number}{measuring.CONFIG}"] = drop(f"{inbox}/a{number}.json", data)
    arrivals.until_all(total)
    arrivals.close()
    lost = total - len(arrivals.seen)
    took = [arrivals.seen.get(name, moment + PATIENCE) - moment for name, moment in closed.items()]
    return sorted(took), lost


def one_by_one(inbox, data, count, *, rename=False):
    """Drop each audit once the previous one is answered. Return the seconds from close() to config.

    With `rename` each audit is written to `INBOX.part` and moved in, so that the folder has one event for it.
    """
    arrivals = Arrivals(inbox)
    try:
        for number in range(count):
            closed = drop(f"{inbox}{'.part' * rename}/a{number}.json", data)
            if rename:
                os.rename(f"{inbox}.part/a{number}.json", f"{inbox}/a{number}.json")
            arrivals.until_all(number + 1)
            if len(arrivals.seen) <= number:
                raise SystemExit(f"a{number}.json was not answered")
            yield arrivals.seen[f"a{number}{measuring.CONFIG}"] - closed
    finally:
        arrivals.close()


def main(inbox, count, audit):
    """Drop as fast as the machine allows."""
    data = measuring.audit_bytes(audit)
    print(time.monotonic())
    for number in range(int(count)):
        drop(f"{inbox}/.a{number}.part", data)
        os.rename(f"{inbox}/.a{number}.part", f"{inbox}/a{number}.json")
    print(time.monotonic())


if __name__ == "__main__":
    main(*sys.argv[1:])
