"""Floors: programs that do only the unavoidable part of the work. They are references and have no other use.

floors.py inotify [--durable] INBOX   answers each drop with an empty sidecar
floors.py loop [--durable] CONFIG INBOX   answers all audits in the folder, one file after the other
floors.py walk FOLDER                 lists the folder and stats each file

`inotify` waits for CLOSE_WRITE and MOVED_TO on a bare descriptor. `loop` reads each audit, decodes the fields that
selection needs, encodes a config (the one in CONFIG, for all), writes it under a temporary name, and renames it. It
makes no checks and writes no hash and no trail. With `--durable` both flush as benchd does, file by file and directory
by directory.
"""

import ctypes
import hashlib
import os
import struct
import sys
import time

CLOSE_WRITE, MOVED_TO, CREATE = 0x8, 0x80, 0x100
_EVENT = struct.Struct("iIII")
#: About as long as a trail record.
_RECORD = b"x" * 1000 + b"\n"


def inotify(folder, mask):
    """Return an inotify descriptor for the events `mask` in one folder."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1; see fs.inotify.max_user_instances")
    if libc.inotify_add_watch(descriptor, os.fsencode(folder), mask) < 0:
        raise OSError(ctypes.get_errno(), "inotify_add_watch")
    return descriptor


def names(descriptor):
    """Wait for an event, and return the names in all pending events."""
    data, offset = os.read(descriptor, 65536), 0
    while offset < len(data):
        length = _EVENT.unpack_from(data, offset)[3]
        offset += _EVENT.size + length
        yield data[offset - length : offset].rstrip(b"\0").decode()


def decoder():
    """Return a function that decodes an audit into benchd's types and skips text before the JSON."""
    import msgspec

    from benchd.audit.shapes import Document

    decode = msgspec.json.Decoder(Document).decode
    return lambda content: decode(memoryview(content)[0 if content[:1] == b"{" else content.find(b"\n{\n") + 1 :])


def read(name, directory=None):
    """Return the content of a file."""
    descriptor = os.open(name, os.O_RDONLY, dir_fd=directory)
    try:
        return os.read(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def read_hash_decode(path, decode):
    """Return the seconds to read, hash and decode an audit."""
    start = time.perf_counter()
    content = read(path)
    hashlib.sha256(content).hexdigest()
    decode(content)
    return time.perf_counter() - start


def _write(name, content, directory, *, durable, before=None):
    """Write a sidecar. If durable, flush it, call `before`, make it visible, and flush its directory."""
    target = ".floor.tmp" if durable or content else name
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=directory)
    if content:
        os.write(descriptor, content)
    if durable:
        os.fdatasync(descriptor)
    os.close(descriptor)
    if before:
        before()
    if target != name:
        os.rename(target, name, src_dir_fd=directory, dst_dir_fd=directory)
    if durable:
        os.fsync(directory)


def answer_drops(inbox, *, durable):
    """Run floor (a)."""
    events, directory = inotify(inbox, CLOSE_WRITE | MOVED_TO), os.open(inbox, os.O_RDONLY)
    trail = os.open(f"{inbox}/../floor.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) if durable else -1

    def record():
        os.write(trail, _RECORD)
        os.fdatasync(trail)

    print("ready", flush=True)
    while True:
        for name in names(events):
            if name.endswith(".json") and not name.endswith(".bench.json"):
                _write(f"{name[:-5]}.bench.json", b"", directory, durable=durable, before=record if durable else None)


def answer_all(config, inbox, *, durable):
    """Run floor (b)."""
    import msgspec

    decode, encode = decoder(), msgspec.json.Encoder().encode
    document, directory = msgspec.json.decode(read(config)), os.open(inbox, os.O_RDONLY)
    for name in [entry.name for entry in os.scandir(directory)]:
        if name.endswith(".json") and not name.endswith(".bench.json"):
            decode(read(name, directory))
            _write(f"{name[:-5]}.bench.json", encode(document), directory, durable=durable)


def walk(folder):
    """Stat every file of a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            entry.stat(follow_symlinks=False)


if __name__ == "__main__":
    kind, *arguments = [argument for argument in sys.argv[1:] if argument != "--durable"]
    flush = {"durable": "--durable" in sys.argv} if kind != "walk" else {}
    {"inotify": answer_drops, "loop": answer_all, "walk": walk}[kind](*arguments, **flush)
