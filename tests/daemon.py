"""Run a real `benchd watch` over a separate folder, for tests."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Found = TypeVar("Found")

AUDITS = Path(__file__).parent / "audits"
DESIGN = AUDITS / "design"

_FLAGGED = json.loads((DESIGN / "flagged.json").read_text(encoding="utf-8"))
_FLAT = json.loads((DESIGN / "fallback.json").read_text(encoding="utf-8"))


def audit(number: int = 0, *, flagged: bool = True) -> bytes:
    """Return a small audit. Each `number` gives different content of the same size."""
    document = copy.copy(_FLAGGED if flagged else _FLAT)
    return json.dumps({**document, "number": f"{number:06d}"}).encode()


def until(condition: Callable[[], Found], deadline: float = 10.0, what: str = "") -> Found:
    """Return the first true value of `condition`. Fail after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {deadline:g} s: {what or condition}"
        time.sleep(0.005)
    return found


def config_of(path: Path) -> Path:
    """Return the path of the config of the audit `path`."""
    return path.with_name(path.name.removesuffix(".json") + ".bench.json")


def report_of(path: Path) -> Path:
    """Return the path of the error report about `path`."""
    return path.with_name(path.name.removesuffix(".json") + ".bench-error.json")


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file `path`."""
    content = json.loads(path.read_bytes())
    assert isinstance(content, dict)
    return content


def answers(path: Path) -> bool:
    """Return whether the audit `path` has a config for its present content."""
    try:
        provenance = read_json(config_of(path))["provenance"]
    except FileNotFoundError:
        return False
    return bool(provenance["audit_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest())


def reports(path: Path, code: str) -> bool:
    """Return whether `path` has an error report with `code`."""
    try:
        return bool(read_json(report_of(path))["code"] == code)
    except FileNotFoundError:
        return False


def temporary_files(folder: Path) -> list[Path]:
    """Return the temporary files of benchd in `folder`."""
    return [path for path in folder.rglob(".benchd-*") if path.suffix == ".tmp"]


class Daemon:
    """One `benchd watch`, with its folder, settings file and trail in `home`."""

    def __init__(
        self,
        home: Path,
        *,
        settings: str = "",
        settle: str = "300ms",
        watch: str = "",
        watching: str = "",
        level: str = "debug",
        trail: Path | None = None,
        folder: Path | None = None,
        durable: bool = False,
        make: bool = True,
    ) -> None:
        self.home = home
        self.folder = folder or home / "inbox"
        self.trail = trail or home / "trail.jsonl"
        self.config = home / "config.toml"
        self._stderr = home / "stderr"
        self._ready = 0
        self._process: subprocess.Popen[bytes] | None = None
        if make:
            self.folder.mkdir(exist_ok=True)
        self.config.write_text(
            f"""
[[watch]]
path = {json.dumps(str(self.folder))}
{watch}
[watching]
settle = "{settle}"
{watching}
[bench]
durable = {str(durable).lower()}
[trail]
file = {json.dumps(str(self.trail))}
level = "{level}"
{settings}
""",
            encoding="utf-8",
        )

    @property
    def running(self) -> bool:
        """Return whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Return the PID."""
        assert self._process is not None
        return self._process.pid

    @property
    def stderr(self) -> str:
        """Return the standard error output so far."""
        return self._stderr.read_text(encoding="utf-8")

    def start(self, *, wait: bool = True) -> Daemon:
        """Start the process and wait until it is ready."""
        before = len(self.records("service.ready"))
        with self._stderr.open("wb") as stderr:
            command = [sys.executable, "-m", "benchd", "watch", "--config", str(self.config)]
            environment = {key: value for key, value in os.environ.items() if key != "BENCHD_CONFIG"}
            self._process = subprocess.Popen(command, stderr=stderr, stdout=subprocess.DEVNULL, env=environment)
        if wait:
            until(lambda: not self.running or len(self.records("service.ready")) > before, 20, "service.ready")
            assert self.running, self.stderr
        return self

    def wait(self, seconds: float) -> int:
        """Return the exit code of the process, which must end within `seconds`."""
        assert self._process is not None
        return self._process.wait(seconds)

    def stop(self, number: signal.Signals = signal.SIGTERM, *, within: float = 20.0) -> None:
        """Stop the process with a signal. It must end with exit code 0 and no error output."""
        os.kill(self.pid, number)
        assert self.wait(within) == 0
        assert self.stderr == ""

    def kill(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def records(self, event: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """Return the records in the trail with this event and these fields."""
        try:
            content = self.trail.read_bytes()
        except FileNotFoundError:
            return []
        lines = content[: content.rfind(b"\n") + 1].splitlines()
        found = (json.loads(line) for line in lines if event is None or event.encode() in line)
        return [
            record
            for record in found
            if (event is None or record["event"] == event)
            and all(record.get(key) == value for key, value in fields.items())
        ]

    def about(self, path: Path, event: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        """Return the records about the audit `path`."""
        return self.records(event, audit=str(path), **fields)

    def selections(self) -> Counter[tuple[str, str]]:
        """Count the answers for each content of each audit."""
        return Counter((record["audit"], record["audit_sha256"]) for record in self.records("audit.selected"))

    def drop(self, name: str, content: bytes | None = None) -> Path:
        """Write a file outside the folder and move it in."""
        path = self.folder / name
        whole = self.home / f"whole-{os.path.basename(name)}"
        whole.write_bytes(audit() if content is None else content)
        os.rename(whole, path)
        return path

    def mark(self) -> None:
        """Drop one more audit and wait for its answer, so that all earlier events are handled."""
        path = self.drop(f"mark-{time.monotonic_ns()}.json", audit(time.monotonic_ns() % 10**6))
        until(lambda: answers(path), what="the mark is answered")
