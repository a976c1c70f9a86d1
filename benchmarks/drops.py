"""Drops audits into a folder, and sees when the configs appear.

One process drops and observes: until the next drop is due it sleeps in poll() on an inotify descriptor that tells of
the configs. Nothing spins. Run as a program, `drops.py INBOX COUNT AUDIT` drops as fast as it can, each under a
temporary name first, and prints the monotonic times of its beginning and its end.
"""

import os
import select
import sys
import time

import floors
import measuring

#: A drop that is not answered by then is lost; it counts as having taken as long.
PATIENCE = 10.0


class Arrivals:
    """Tells when configs appeared in a folder; `mask` is how they do."""

    def __init__(self, inbox, mask=floors.MOVED_TO):
        self.seen = {}
        self._descriptor = floors.inotify(inbox, mask)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)

    def until(self, moment):
        """Note what comes until `moment` (time.monotonic)."""
        while (left := moment - time.monotonic()) > 0:
            if self._poll.poll(left * 1000):
                now = time.monotonic()
                for name in floors.names(self._descriptor):
                    if name.endswith(measuring.CONFIG):
                        self.seen.setdefault(name, now)

    def until_all(self, count, *, pause=0.0, patience=PATIENCE):
        """Note what comes until there are `count`, or there is nothing new for `patience` seconds."""
        before, deadline = len(self.seen), time.monotonic() + patience
        while len(self.seen) < count and time.monotonic() < deadline:
            time.sleep(pause)  # a pause wakes this process less often, so that it does not slow the producer down
            self.until(time.monotonic() + 0.01)
            if len(self.seen) > before:
                before, deadline = len(self.seen), time.monotonic() + patience

    def close(self):
        """Give the descriptor back."""
        os.close(self._descriptor)


def drop(path, data):
    """Write an audit as a program does, and say when it was closed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.write(descriptor, data)
    closed = time.monotonic()
    os.close(descriptor)
    return closed


def paced(inbox, data, *, rate, seconds, mask=floors.MOVED_TO):
    """Seconds from close() to config for drops at a steady rate, ordered, and how many configs never came."""
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
    """Seconds from close() to config, each drop once the one before is answered.

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
    """Drop as fast as the machine lets us."""
    data = measuring.audit_bytes(audit)
    print(time.monotonic())
    for number in range(int(count)):
        drop(f"{inbox}/.a{number}.part", data)
        os.rename(f"{inbox}/.a{number}.part", f"{inbox}/a{number}.json")
    print(time.monotonic())


if __name__ == "__main__":
    main(*sys.argv[1:])
