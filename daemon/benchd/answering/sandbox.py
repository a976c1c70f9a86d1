"""Decide large and unusual audits in a separate process, with limits on its memory and CPU time.

A parser can take much memory, and holds the GIL while it runs. In a separate process the file's size limits it, and
the other audits keep their latency. The process costs about 50 ms, so it gets only very large files and files that
hold much more than Gradience writes (`Costly`).
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
from benchd.audit.audit import Audit, read_audit
from benchd.audit.refusals import AuditError, NotAnAudit, refusal
from benchd.bench.deciding import Decision, decide
from benchd.folder.files import read_all
from benchd.settings.keys import BenchSettings, SelectionSettings

__all__ = ["Verdict", "decide_isolated", "matchable"]

#: Maximum bytes of memory for each byte of the file, and a constant. The interpreter and the parent process take the
#: rest of the promised 64 MiB.
_MEMORY_FACTOR: Final = 3
_MORE_MEMORY: Final = 32 * 2**20

#: Maximum CPU seconds, and the number of bytes that add one second. The standard parser reads 30 MB/s.
_SECONDS: Final = 10
_BYTES_A_SECOND: Final = 16 * 2**20

#: Maximum CPU seconds for matching the patterns in an `adapter_config.json`; usual patterns take milliseconds.
_MATCHING_SECONDS: Final = 2.0

#: Maximum seconds to wait for the process. On a busy machine it may take longer; benchd then retries the audit.
_TIMEOUT_SECONDS: Final = 50.0

#: The command of the process. The number of the audit's descriptor follows it.
_COMMAND: Final = (sys.executable, "-P", "-s", "-m", __spec__.name)

#: From <linux/prctl.h>.
_PR_SET_PDEATHSIG: Final = 1

#: A free-threaded Python reserves a GiB of address space, which would make the limit on memory useless.
_ALLOCATOR: Final = {"MIMALLOC_ARENA_RESERVE": "0"}


class _Request(msgspec.Struct):
    name: str
    size: int
    parent: int
    selection: SelectionSettings
    bench: BenchSettings
    adapter: AdapterConfig | None


class Verdict(msgspec.Struct):
    """The result of the process: a decision, a refusal (code, message, hint), or `not_an_audit`.

    `audit_sha256` is that of the content. `failure` describes an error that the file did not cause.
    """

    audit_sha256: str | None = None
    decision: Decision | None = None
    refusal: tuple[str, str, str] | None = None
    not_an_audit: bool = False
    failure: str | None = None

    def unwrap(self) -> Decision:
        """Return the decision. Raises `AuditError`, `NotAnAudit`."""
        if self.not_an_audit:
            raise NotAnAudit
        if self.refusal is not None:
            raise AuditError(*self.refusal)
        assert self.decision is not None  # noqa: S101 - exactly one of the three is set
        return self.decision


def decide_isolated(
    descriptor: int,
    *,
    size: int,
    name: str,
    selection: SelectionSettings,
    bench: BenchSettings,
    adapter: AdapterConfig | None = None,
    command: tuple[str, ...] = _COMMAND,
    timeout: float = _TIMEOUT_SECONDS,
) -> Verdict:
    """Decide the open audit `descriptor` of `size` bytes.

    If the process exceeds its limits, the verdict is a refusal. Raises OSError if the process fails otherwise, or
    takes more than `timeout` seconds.
    """
    request = msgspec.msgpack.encode(_Request(name, size, os.getpid(), selection, bench, adapter))
    os.lseek(descriptor, 0, os.SEEK_SET)
    with subprocess.Popen(  # noqa: S603 - this interpreter and a number
        [*command, str(descriptor)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=(descriptor,),
        env=os.environ | _ALLOCATOR,
    ) as process:
        try:
            output, _ = process.communicate(request, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise TimeoutError(f"reading it took more than {timeout:g} s") from None
        except BaseException:
            process.kill()
            raise
    if process.returncode < 0:  # it reached a limit, or the kernel ended it because memory ran out
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
    return _MEMORY_FACTOR * size + _MORE_MEMORY


def _seconds(size: int) -> int:
    return _SECONDS + size // _BYTES_A_SECOND


# --- the process itself ---------------------------------------------------------------------------------


def main() -> None:
    """Read a request from standard input and the audit from a descriptor; write a verdict to standard output."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the service's threads block signals, but a limit sends one
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
    except Exception as error:  # noqa: BLE001 - the parent process records it and retries
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


class _TooLongError(Exception):
    """The matching has used its CPU time."""


def matchable(audit: Audit, *, seconds: float = _MATCHING_SECONDS) -> AdapterConfig | None:
    """Return the adapter's file beside `audit`, with a `problem` if its patterns take too long to match.

    `seconds` is the maximum CPU time. Call it in the main thread, because a signal interrupts the matching.
    """
    adapter = audit.beside
    if adapter is None or adapter.problem is not None or not adapter.is_costly():
        return adapter

    matching = True

    def stop(*_: object) -> None:
        if matching:  # a late signal must not interrupt the clean-up
            raise _TooLongError

    before = signal.signal(signal.SIGVTALRM, stop)
    try:
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, seconds)  # CPU time, so that other processes have no effect
            audit.modules.adapter_problem  # noqa: B018 - matches the patterns
        finally:
            matching = False
    except (_TooLongError, MemoryError):
        return msgspec.structs.replace(adapter, problem="its patterns take too long to match")
    else:
        return adapter
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _die_with(parent: int) -> None:
    """End this process when its parent ends, even if the parent is killed."""
    with contextlib.suppress(OSError, AttributeError):  # not on Linux, where the time limit ends it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)


def _limit(size: int) -> None:
    memory, seconds = _data_bytes() + _memory(size), _seconds(size)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):  # a container may forbid it
        os.nice(10)


def _data_bytes() -> int:
    """Return the bytes of private memory that this process uses now."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        lines = status.read().splitlines()
    for line in lines:
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    main()
