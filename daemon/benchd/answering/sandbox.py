"""Large and odd audits are decided in a process of their own.

A parser takes memory as it likes, and holds the interpreter's lock while it runs. In a process of its own it has
limits that are its file's size, and the other audits keep their latency. It costs some 50 ms, so that only files
come here which are far from what Gradience writes (`Costly`), or very large.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import resource
import signal
import subprocess
import sys
from typing import Final

import msgspec

from benchd.audit.adapter import AdapterConfig
from benchd.audit.audit import Audit, AuditError, NotAnAudit, read_audit
from benchd.audit.refusals import refusal
from benchd.bench.deciding import Decision, decide
from benchd.folder.files import read_all
from benchd.settings.keys import BenchSettings, SelectionSettings

__all__ = ["Verdict", "decide_isolated", "matchable"]

#: What it may take for each byte of the file, and besides; its parent and the interpreter itself take the rest of the
#: 64 MiB that are promised.
_MEMORY_FACTOR: Final = 3
_MEMORY_BESIDES: Final = 32 * 2**20

#: CPU time that is granted: so long, and a second more for so many bytes. The standard parser does 30 MB/s.
_SECONDS: Final = 10
_BYTES_A_SECOND: Final = 16 * 2**20

#: Maximum CPU seconds for matching the patterns in an `adapter_config.json`; usual patterns take milliseconds.
_MATCHING_SECONDS: Final = 2.0

#: On a machine that is busy with something else it may take longer; then it is tried again later.
_PATIENCE_SECONDS: Final = 50.0

_COMMAND: Final = (sys.executable, "-P", "-s", "-c", "from benchd.answering.sandbox import main; main()")
_PR_SET_PDEATHSIG: Final = 1

#: A free-threaded Python takes a GiB of address space beforehand, in which no limit would ever be met.
_ALLOCATOR: Final = {"MIMALLOC_ARENA_RESERVE": "0"}


class _Request(msgspec.Struct):
    name: str
    size: int
    parent: int
    selection: SelectionSettings
    bench: BenchSettings
    adapter: AdapterConfig | None


class Verdict(msgspec.Struct):
    """What became of it: a decision, or the code, message and hint of a refusal; and the content's SHA-256.

    `failure` is a bug of ours, in words.
    """

    audit_sha256: str | None = None
    decision: Decision | None = None
    refusal: tuple[str, str, str] | None = None
    not_an_audit: bool = False
    failure: str | None = None

    def unwrap(self) -> Decision:
        """The decision. Raises `AuditError`, `NotAnAudit`."""
        if self.not_an_audit:
            raise NotAnAudit
        if self.refusal is not None:
            raise AuditError(*self.refusal)
        assert self.decision is not None  # noqa: S101 - one of the three is always there
        return self.decision


def decide_isolated(
    descriptor: int,
    *,
    size: int,
    name: str,
    selection: SelectionSettings,
    bench: BenchSettings,
    adapter: AdapterConfig | None = None,
) -> Verdict:
    """Decide the open audit `descriptor` of `size` bytes. Raises OSError if that could not be tried to the end."""
    request = msgspec.msgpack.encode(_Request(name, size, os.getpid(), selection, bench, adapter))
    os.lseek(descriptor, 0, os.SEEK_SET)
    with subprocess.Popen(  # noqa: S603 - our own interpreter, and a number
        [*_COMMAND, str(descriptor)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=(descriptor,),
        env=os.environ | _ALLOCATOR,
    ) as process:
        try:
            output, _ = process.communicate(request, timeout=_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise TimeoutError(f"reading it took more than {_PATIENCE_SECONDS:g} s") from None
        except BaseException:
            process.kill()
            raise
    if process.returncode < 0:  # by one of its limits, or by the kernel, which was out of memory
        return _too_complex(size)
    if process.returncode > 0:
        raise ChildProcessError(f"the process that reads large audits failed with code {process.returncode}")
    verdict = msgspec.msgpack.decode(output, type=Verdict)
    if verdict.failure is not None:
        raise ChildProcessError(f"the process that reads large audits failed: {verdict.failure}")
    return verdict


def _too_complex(size: int, sha256: str | None = None) -> Verdict:
    error = refusal("too_complex", size=size, memory=_memory(size) // 2**20, seconds=_seconds(size))
    return Verdict(sha256, refusal=(error.code, error.message, error.hint))


def _memory(size: int) -> int:
    return _MEMORY_FACTOR * size + _MEMORY_BESIDES


def _seconds(size: int) -> int:
    return _SECONDS + size // _BYTES_A_SECOND


# --- the process itself ---------------------------------------------------------------------------------


def main() -> None:
    """Read the request from standard input, the audit from the descriptor that is named; answer on standard output."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # inherited from a thread of the service, which blocks them
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Request)
    _die_with(request.parent)
    _limit(request.size)
    sys.stdout.buffer.write(msgspec.msgpack.encode(_verdict(int(sys.argv[1]), request)))


def _verdict(descriptor: int, request: _Request) -> Verdict:
    digest: str | None = None
    try:
        content = read_all(descriptor, request.size)
        digest = hashlib.sha256(content).hexdigest()
        return Verdict(digest, _decide(content, digest, request))
    except NotAnAudit:
        return Verdict(digest, not_an_audit=True)
    except AuditError as error:
        return Verdict(digest, refusal=(error.code, error.message, error.hint))
    except MemoryError:
        return _too_complex(request.size, digest)
    except Exception as error:  # noqa: BLE001 - its parent records it, and tries again
        return Verdict(digest, failure=f"{type(error).__name__}: {error}")


def _decide(content: bytes, digest: str, request: _Request) -> Decision:
    return decide(
        content,
        name=request.name,
        sha256=digest,
        selection=request.selection,
        bench=request.bench,
        adapter=matchable(read_audit(content, adapter=request.adapter)),
    )


class _TooLong(Exception):
    """Matching has used up its CPU time."""


def matchable(audit: Audit) -> AdapterConfig | None:
    """Return the adapter's own file beside `audit`, with a `problem` if its patterns take too long to match.

    Call it in the main thread of a process: a signal interrupts the matching.
    """
    adapter = audit.beside
    if adapter is None or adapter.problem is not None or not adapter.is_costly():
        return adapter

    def stop(*_: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGVTALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, _MATCHING_SECONDS)  # CPU time: a busy machine makes no difference
        audit.modules.adapter_problem  # noqa: B018 - matches the patterns, under the timer
    except (_TooLong, MemoryError):
        return msgspec.structs.replace(adapter, problem="its patterns take too long to match")
    else:
        return adapter
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _die_with(parent: int) -> None:
    """End when the parent does, whatever ends it."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux: then it ends a little later, by its time limit
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def _limit(size: int) -> None:
    memory, seconds = _data_bytes() + _memory(size), _seconds(size)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # a sandbox may forbid it; it is a kindness to the others
        os.nice(10)


def _data_bytes() -> int:
    """How much memory of its own the process has by now."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        lines = status.read().splitlines()
    for line in lines:
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
