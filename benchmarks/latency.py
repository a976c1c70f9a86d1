"""From close() to the config being visible, at a steady rate of drops.

One process drops and observes: it writes an audit, closes it, and until the next one is due sleeps in poll() on an
inotify descriptor that tells of renames into the folder. Nothing spins.
"""

import argparse
import ctypes
import os
import select
import struct
import time

import measuring

_IN_MOVED_TO = 0x80
_EVENT = struct.Struct("iIII")


class Renames:
    """Tells which names were renamed into a folder."""

    def __init__(self, folder):
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if libc.inotify_add_watch(self.descriptor, os.fsencode(folder), _IN_MOVED_TO) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch")
        self._poll = select.poll()
        self._poll.register(self.descriptor, select.POLLIN)

    def until(self, moment):
        """Names as they come, each with the time, until `moment` (perf_counter)."""
        while (left := moment - time.perf_counter()) > 0:
            if not self._poll.poll(left * 1000):
                continue
            now, data, offset = time.perf_counter(), os.read(self.descriptor, 65536), 0
            while offset < len(data):
                length = _EVENT.unpack_from(data, offset)[3]
                offset += _EVENT.size + length
                yield data[offset - length : offset].rstrip(b"\0").decode(), now

    def close(self):
        os.close(self.descriptor)


def measure(place, data, *, rate, seconds, durable):
    """The latencies of one run in milliseconds, ordered, and how many configs never came."""
    place.mkdir()
    with measuring.daemon(place, durable=durable):
        inbox = os.fspath(place / "inbox")
        renames, closed, seen = Renames(inbox), {}, {}
        start, number = time.perf_counter() + 0.1, 0
        total = int(rate * seconds)
        while number < total:
            for name, moment in renames.until(start + number / rate):
                seen.setdefault(name, moment)
            descriptor = os.open(f"{inbox}/a{number}.json", os.O_WRONLY | os.O_CREAT, 0o644)
            os.write(descriptor, data)
            closed[f"a{number}.bench.json"] = time.perf_counter()
            os.close(descriptor)
            number += 1
        took = time.perf_counter() - start
        patience = time.perf_counter() + 10
        while len(seen) < total and time.perf_counter() < patience:
            for name, moment in renames.until(time.perf_counter() + 0.1):
                seen.setdefault(name, moment)
        renames.close()
    return sorted((seen[name] - closed[name]) * 1000 for name in seen), total - len(seen), total / took


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=200, help="drops a second")
    parser.add_argument("--seconds", type=float, default=10, help="for how long, each time")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--audit", default=measuring.REAL, help="the audit that is dropped")
    parser.add_argument("--dir", help="where to make the folders (default: the system's place for temporary files)")
    options = parser.parse_args()
    data = measuring.audit_bytes(options.audit)
    rows = []
    # One folder for all: what is deleted only at the end does not slow the next run down (ext4 and its inodes).
    with measuring.workplace(options.dir) as place:
        measured = [
            (
                durable,
                [
                    measure(
                        place / f"{durable}-{repeat}", data, rate=options.rate, seconds=options.seconds, durable=durable
                    )
                    for repeat in range(options.repeats)
                ],
            )
            for durable in (True, False)
        ]
        facts = measuring.facts(place)
    for durable, runs in measured:
        latencies = [run[0] for run in runs]
        rows.append(
            [
                str(durable).lower(),
                *(
                    measuring.spread([measuring.percentile(values, share) for values in latencies])
                    for share in (0.5, 0.99)
                ),
                measuring.spread([values[-1] for values in latencies], ".1f"),
                measuring.spread([run[2] for run in runs], ".0f"),
                sum(run[1] for run in runs),
            ]
        )
    print(
        f"close() to config visible, {options.rate:g} drops/s of {len(data)} bytes for {options.seconds:g} s, ", end=""
    )
    print(f"{options.repeats} times: median of the runs (least to largest)\n")
    measuring.table(["durable", "p50 ms", "p99 ms", "max ms", "drops/s made", "not answered"], rows)
    print(f"\n{facts}")


if __name__ == "__main__":
    main()
