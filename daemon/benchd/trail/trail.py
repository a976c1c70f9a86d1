"""The audit trail: one JSON object a line, and the vocabulary of all records (spec, section 5).

Every record goes through one function of `Trail`; no other place names an event. A record is handed to the
operating system before the function returns, or at the end of `Trail.together`. No record ever fails: what an encoder
can't take is made printable, and a file that can't be written is replaced by standard error until it can.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import IO, Any, Final

import msgspec

from benchd.audit.refusals import AuditError
from benchd.bench.deciding import Decision
from benchd.settings.reading import TrailSettings
from benchd.values import utf8

# structlog imports rich, where there is one, for tracebacks on terminals, which no record has; and with rich a third of
# the time from exec to ready. None is Python's own way to say that a module is not to be imported.
_rich = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment]
try:
    import structlog
finally:
    del sys.modules["rich"]
    if _rich is not None:
        sys.modules["rich"] = _rich

__all__ = ["MAX_LAYERS", "Trail", "TrailFile", "TrailStream"]

#: A record names at most this many layers; `layers_total` says how many there are.
MAX_LAYERS: Final = 20
_MAX_NOTES: Final = 20

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}
Record = MutableMapping[str, Any]
Render = Callable[[Mapping[str, Any]], bytes]

_encode = msgspec.json.Encoder().encode


#: The journal cuts lines at 48 KiB (LineMax=); a record that would be longer is clipped to stay whole.
_MAX_LINE: Final = 46 * 1024
_MAX_TEXT: Final = 2000
_MAX_ITEMS: Final = 5

#: So many records are kept until they are on the disk.
_MAX_UNFLUSHED: Final = 1000


def json_line(record: Mapping[str, Any]) -> bytes:
    """`record` as one line of JSON, whatever is in it, and never longer than the journal takes in one piece."""
    try:
        line = _encode(record)
    except (UnicodeEncodeError, OverflowError, TypeError, ValueError):
        record = _printable(record)
        line = _encode(record)
    if len(line) > _MAX_LINE:
        line = _encode({**_clipped(msgspec.to_builtins(record)), "clipped": True})
    return line + b"\n"


def _clipped(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _MAX_TEXT else value[: _MAX_TEXT - 1] + "…"
    if isinstance(value, dict):
        return {key: _clipped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clipped(item) for item in value[:_MAX_ITEMS]]
    return value


def _printable(value: Any) -> Any:
    """`value` with what no JSON encoder takes made readable: surrogates, large integers, keys of other types."""
    if isinstance(value, str):
        return utf8(value)
    if isinstance(value, Mapping):
        return {_printable(str(key)): _printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    if isinstance(value, msgspec.Struct):
        return _printable(msgspec.structs.asdict(value))
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    return _printable(str(value))


class TrailStream:
    """An open stream, usually standard output."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    #: Streams are on no device that can be flushed.
    device: Final = None

    def write(self, line: bytes) -> None:
        """Hand one line to the operating system. Raises OSError."""
        _write_all(self._descriptor, line)

    def flush_to_disk(self) -> None:
        """Streams have no disk of ours behind them."""

    def close(self) -> None:
        """Nothing to close: the stream is not ours."""


def _is_journal(descriptor: int) -> bool:
    """Whether systemd has connected the stream to its journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        info = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"


class TrailFile:
    """A trail file. Follows logrotate: a file that was moved or deleted is made anew, one cut short is appended to."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1
        self._identity: tuple[int, int] | None = None
        self._torn = False

    def write(self, line: bytes) -> None:
        """Append one line. Raises OSError; the file is then opened again for the next."""
        try:
            self._follow()
            if self._torn:
                _write_all(self._descriptor, b"\n")
                self._torn = False
            _write_all(self._descriptor, line)
        except OSError as error:
            written = line[: getattr(error, "written", 0)]
            self._torn = self._torn or (bool(written) and not written.endswith(b"\n"))
            raise

    @property
    def device(self) -> int | None:
        """The device that the file is on; None while it is not open."""
        return self._identity[0] if self._descriptor >= 0 and self._identity else None

    def _follow(self) -> None:
        try:
            info = os.stat(self._path)
        except FileNotFoundError:
            info = None
        if self._descriptor >= 0 and info is not None and (info.st_dev, info.st_ino) == self._identity:
            return
        self.close()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        self._descriptor = os.open(self._path, flags, 0o640)
        opened = os.fstat(self._descriptor)
        self._identity = (opened.st_dev, opened.st_ino)
        self._torn = stat.S_ISREG(opened.st_mode) and opened.st_size > 0 and self._ends_torn()

    def _ends_torn(self) -> bool:
        """Whether the file ends in the middle of a line: a disk that was full, or a power cut, under an earlier run."""
        try:
            with open(self._path, "rb") as file:
                file.seek(-1, os.SEEK_END)
                return file.read(1) != b"\n"
        except OSError:
            return False

    def flush_to_disk(self) -> None:
        """Wait until what was written is on the disk. Raises OSError."""
        if self._descriptor >= 0:
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.EBADF}:  # a pipe; or closed, and so flushed
                    raise

    def close(self) -> None:
        """Close the file; the next `write` opens it again."""
        if self._descriptor >= 0:
            try:
                self.flush_to_disk()  # what the old file holds may be waited for by who flushes the new one
            finally:
                descriptor, self._descriptor = self._descriptor, -1
                os.close(descriptor)


def _write_all(descriptor: int, line: bytes) -> None:
    written = 0
    while written < len(line):
        try:
            written += os.write(descriptor, line[written:] if written else line)
        except OSError as error:
            error.written = written  # type: ignore[attr-defined]
            raise


class _Turns:
    """A lock between threads and, once it is shared, between processes that share the same file."""

    def __init__(self) -> None:
        self._threads = threading.Lock()
        self._file: IO[bytes] | None = None

    def share(self, path: str) -> None:
        self._file = open(path, "ab")  # noqa: SIM115 - until `close`

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> None:
        self._threads.acquire()
        if self._file is not None:
            fcntl.lockf(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
        self._threads.release()


class _Together:
    """While it lasts, the lines of one thread are kept."""

    def __init__(self, sink: _Sink) -> None:
        self._sink = sink

    def __enter__(self) -> None:
        self._sink.gather()

    def __exit__(self, *_: object) -> None:
        self._sink.release()


class _Sink:
    """The end of structlog's chain: one line at a time, to the trail or, while that fails, to standard error."""

    def __init__(self, target: TrailFile | TrailStream, name: str) -> None:
        self.target = target
        self.name = name
        self._lock = _Turns()
        #: What fails at present, so that it is said once: writing, or flushing.
        self._failing: set[str] = set()
        #: What was written since the last flush, where records are flushed at all: a failing disk may lose it.
        self._unflushed: deque[bytes] | None = None
        #: The lines of each thread that writes several together.
        self._gathered = threading.local()

    def share(self, path: str) -> None:
        self._lock.share(path)

    def gather(self) -> None:
        self._gathered.lines = []

    def release(self) -> None:
        lines, self._gathered.lines = self._gathered.lines, None
        if lines:
            self._write(lines)

    def msg(self, line: bytes) -> None:
        lines = getattr(self._gathered, "lines", None)
        if lines is not None:
            lines.append(line)
        else:
            self._write([line])

    def _write(self, lines: list[bytes]) -> None:
        text = b"".join(lines)
        with self._lock:
            try:
                self.target.write(text)
            except OSError as error:
                self._fall_back("write", text, error)
            else:
                self._failing.discard("write")
                if self._unflushed is not None:
                    self._unflushed.extend(lines)

    debug = info = warning = error = msg

    def flush_to_disk(self, together: Callable[[int | None], bool]) -> None:
        with self._lock:
            lines, self._unflushed = self._unflushed or (), deque(maxlen=_MAX_UNFLUSHED)
            target = self.target
        try:
            # Without the lock: others may write meanwhile.
            if not together(target.device):
                target.flush_to_disk()
        except OSError as error:
            with self._lock:
                # What the system could not put on the disk it may have dropped: it is said again where it lasts.
                self._fall_back("flush", b"".join(lines), error)
        else:
            with self._lock:
                self._failing.discard("flush")

    def close(self) -> None:
        with self._lock:
            self._close()
        self._lock.close()

    def replace(self, target: TrailFile | TrailStream, name: str) -> None:
        # In one turn: a record that came in between would open the old file again, for good.
        with self._lock:
            self._close()
            self.target, self.name = target, name
            self._failing.clear()
            self._unflushed = None

    def _close(self) -> None:
        try:
            self.target.close()
        except OSError as error:
            self._fall_back("flush", b"".join(self._unflushed or ()), error)

    def _fall_back(self, what: str, line: bytes, error: OSError) -> None:
        complaint = b""
        if what not in self._failing:
            self._failing.add(what)
            reason = error.strerror or str(error)
            complaint = json_line({**_head("error", "trail.failed"), "file": self.name, "error": reason})
        with contextlib.suppress(OSError):  # with no standard error either there is nobody left to tell
            _write_all(2, complaint + line)


def _head(level: str, event: str) -> dict[str, str]:
    ts = datetime.now(UTC).isoformat(timespec="microseconds")[: -len("+00:00")]
    return {"ts": f"{ts}Z", "level": level, "event": event}


_PRIORITIES: Final = {"debug": b"<7>", "info": b"<6>", "warning": b"<4>", "error": b"<3>"}


def journal_line(record: Mapping[str, Any]) -> bytes:
    """`record` as one line for the journal, with its priority in front; the journal takes that off again."""
    return _PRIORITIES[record["level"]] + json_line(record)


def _target(settings: TrailSettings, console: Render | None) -> tuple[TrailFile | TrailStream, Render]:
    if settings.file:
        people = settings.format == "console"
        return TrailFile(settings.file), console if people and console is not None else json_line
    stdout = sys.stdout.fileno() if sys.stdout is not None else 2  # closed by the caller: standard error it is
    if _is_journal(stdout):
        return TrailStream(stdout), journal_line
    people = settings.format == "console" or (settings.format == "auto" and os.isatty(stdout))
    return TrailStream(stdout), console if people and console is not None else json_line


def _add_head(_: Any, level: str, record: Record) -> Record:
    return {**_head(level, record.pop("event")), **record}


class Trail:
    """The records. One method an event; each returns once the line is with the operating system."""

    def __init__(
        self, target: TrailFile | TrailStream, *, level: str = "info", render: Render = json_line, name: str = ""
    ) -> None:
        self._sink = _Sink(target, name)
        self._wrap(level, render)

    def _wrap(self, level: str, render: Render) -> None:
        self._log: Any = structlog.wrap_logger(
            self._sink,
            processors=[_add_head, lambda _logger, _level, record: render(record)],
            wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
            cache_logger_on_first_use=True,
        )

    @classmethod
    def open(cls, settings: TrailSettings, *, console: Render | None = None) -> Trail:
        """The trail that the settings describe; `console` renders for people where the format asks for it."""
        target, render = _target(settings, console)
        return cls(target, level=settings.level, render=render, name=settings.file or "standard output")

    def reopen(self, settings: TrailSettings, *, console: Render | None = None) -> None:
        """Go on as other settings describe; a file is opened anew in any case."""
        target, render = _target(settings, console)
        self._sink.replace(target, settings.file or "standard output")
        self._wrap(settings.level, render)

    def share(self, path: str) -> None:
        """Take turns with all processes that share the file `path`: a pipe would mix their long lines."""
        self._sink.share(path)

    def together(self) -> AbstractContextManager[None]:
        """Within it, the records of the calling thread are kept; at its end they are handed over in one piece."""
        return _Together(self._sink)

    def flush_to_disk(self, together: Callable[[int | None], bool] = lambda _: False) -> None:
        """Wait until all records are on the disk, where there is one.

        `together` is called with the device that they are on, if any; it may flush that, and other things with it, and
        says whether it has.
        """
        self._sink.flush_to_disk(together)

    def close(self) -> None:
        """Close the file behind the trail, if there is one."""
        self._sink.close()

    # --- about an audit ------------------------------------------------------------------------------------

    def selected(
        self,
        path: str,
        trigger: str,
        *,
        decision: Decision,
        config: str,
        duration_ms: float,
    ) -> None:
        """`audit.selected`: which rung fired and why, before the config becomes visible.

        The level is warning if the audit has no layers.
        """
        selection = decision.selection
        layers = [
            {
                "name": layer.layer_name,
                "priority": layer.priority,
                "score": layer.priority_score,
                "rank": layer.rank,
                "rank_source": layer.rank_source,
            }
            for layer in selection.layers[:MAX_LAYERS]
        ]
        log = self._log.warning if decision.is_of_nothing else self._log.info
        log(
            "audit.selected",
            audit=path,
            trigger=trigger,
            config=config,
            decision_id=decision.decision_id,
            strategy=selection.strategy,
            confidence=selection.confidence,
            reason=selection.reason,
            ladder=selection.ladder,
            layers=layers,
            layers_total=len(selection.layers),
            notes=selection.notes[:_MAX_NOTES],
            audit_sha256=decision.audit_sha256,
            audit_bytes=decision.audit_bytes,
            duration_ms=round(duration_ms, 3),
        )

    def rejected(self, path: str, trigger: str, error: AuditError) -> None:
        """`audit.rejected`: the file can't be used, and what to do about it."""
        self._log.error(
            "audit.rejected", audit=path, trigger=trigger, code=error.code, message=error.message, hint=error.hint
        )

    def deferred(self, path: str, trigger: str, reason: str) -> None:
        """`audit.deferred`: the file may be unfinished; it is looked at again."""
        self._log.debug("audit.deferred", audit=path, trigger=trigger, reason=reason)

    def ignored(self, path: str, trigger: str, reason: str) -> None:
        """`audit.ignored`: JSON, but no audit."""
        self._log.debug("audit.ignored", audit=path, trigger=trigger, reason=reason)

    def unchanged(self, path: str, trigger: str, reason: str) -> None:
        """`audit.unchanged`: its sidecar already holds the answer."""
        self._log.debug("audit.unchanged", audit=path, trigger=trigger, reason=reason)

    def failed(self, path: str, trigger: str, *, error: str, attempt: int, retry_in_s: float) -> None:
        """`audit.failed`: benchd itself stumbled; the audit is tried again."""
        self._log.error(
            "audit.failed", audit=path, trigger=trigger, error=error, attempt=attempt, retry_in_s=retry_in_s
        )

    def kept(self, path: str, trigger: str, *, config: str, reason: str) -> None:
        """`config.kept`: the file in the config's place is a person's, and stays."""
        self._log.warning("config.kept", audit=path, trigger=trigger, config=config, reason=reason)

    def write_failed(self, path: str, trigger: str, *, error: str, attempt: int, retry_in_s: float) -> None:
        """`config.write_failed`: the answer is known and can't be written yet."""
        self._log.error(
            "config.write_failed", audit=path, trigger=trigger, error=error, attempt=attempt, retry_in_s=retry_in_s
        )

    # --- about a folder ------------------------------------------------------------------------------------

    def watch_started(self, root: str, *, backend: str, recursive: bool) -> None:
        """`watch.started`: drops are seen from here on."""
        self._log.info("watch.started", root=root, backend=backend, recursive=recursive)

    def watch_overflow(self, root: str, reason: str) -> None:
        """`watch.overflow`: events were lost; the folder is scanned."""
        self._log.warning("watch.overflow", root=root, reason=reason)

    def watch_degraded(self, root: str, reason: str, **more: Any) -> None:
        """`watch.degraded`: something can't be watched as it should be; what is done instead."""
        self._log.warning("watch.degraded", root=root, reason=reason, **more)

    def root_lost(self, root: str, reason: str) -> None:
        """`watch.root_lost`: the folder is not there (any more); it is waited for."""
        self._log.warning("watch.root_lost", root=root, reason=reason)

    def root_restored(self, root: str) -> None:
        """`watch.root_restored`: the folder is back, or another one stands in its place."""
        self._log.info("watch.root_restored", root=root)

    def scanned(
        self, root: str, *, cause: str, found: int, answered: int, queued: int, duration_ms: float, routine: bool
    ) -> None:
        """`scan.finished`; a routine rescan that found nothing to do is a matter of debugging."""
        log = self._log.debug if routine and not queued else self._log.info
        log(
            "scan.finished",
            root=root,
            cause=cause,
            found=found,
            answered=answered,
            queued=queued,
            duration_ms=round(duration_ms, 3),
        )

    # --- about the service ---------------------------------------------------------------------------------

    def started(self, *, version: str, pid: int, settings: Mapping[str, Any]) -> None:
        """`service.started`, with every setting that is not the default."""
        self._log.info("service.started", version=version, pid=pid, settings=settings)

    def ready(self, *, roots: list[str], duration_ms: float) -> None:
        """`service.ready`: every folder that is there is watched."""
        self._log.info("service.ready", roots=roots, duration_ms=round(duration_ms, 3))

    def reloaded(self, *, settings: Mapping[str, Any]) -> None:
        """`service.reloaded`: the new settings are in force."""
        self._log.info("service.reloaded", settings=settings)

    def reload_failed(self, problems: list[str]) -> None:
        """`service.reload_failed`: the old settings stay."""
        self._log.error("service.reload_failed", problems=problems)

    def thread_failed(self, thread: str, error: str, *, recovery: str) -> None:
        """`service.thread_failed`: a bug; what its owner does about it."""
        self._log.error("service.thread_failed", thread=thread, error=error, recovery=recovery)

    def stopping(self, *, signal: str) -> None:
        """`service.stopping`: what is in flight is finished."""
        self._log.info("service.stopping", signal=signal)

    def stopped(self, *, answered: int, rejected: int, waiting: int) -> None:
        """`service.stopped`, with the counts of this run."""
        self._log.info("service.stopped", answered=answered, rejected=rejected, waiting=waiting)

    def run_finished(self, summary: Mapping[str, Any]) -> None:
        """`run.finished`: the summary of `benchd run --json`."""
        self._log.info("run.finished", **summary)
