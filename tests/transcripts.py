"""Run the `console` examples of the documentation, and compare or replace the output that the page shows.

The examples of a page are one session: one shell runs their commands in order, in one folder. In the output of a
command, a line with `…` alone means that the page omits lines. An example with a title is a file in that folder.
`benchd watch` runs on a terminal until the end of the page, and a `text` example that begins with a time shows more of
its output.

    python tests/transcripts.py PAGE...    put the present output into the pages
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).parents[1]
EXAMPLE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
PROMPT = "$ "
LEFT_OUT = "…"
DEADLINE = 30.0

#: Commands that only read. While `benchd watch` runs they are repeated until they print the output on the page.
READS = {"cat", "head", "ls"}

#: The files of a source tree that `pip install .` needs, and the audits that the examples copy.
SOURCES = ["daemon", "tests/audits", "pyproject.toml", "README.md", "LICENSE"]

_END = "end-of-output"
_TIME = re.compile(r"\d\d:\d\d:\d\d ")


def fits(shown: str, printed: str) -> bool:
    """Return whether a page may show `shown` for `printed`. It may omit lines, and trailing spaces do not count."""
    lines = [".*?" if line == LEFT_OUT else re.escape(line) + "\n" for line in shown.splitlines()]
    return re.fullmatch("".join(lines), _trimmed(printed), re.DOTALL) is not None


def _trimmed(text: str) -> str:
    return "".join(line.rstrip() + "\n" for line in text.splitlines())


def _lines(text: str) -> set[str]:
    """Return the lines of `benchd watch` without the parts that vary: times, durations, the version.

    Their order also varies, because several threads write them.
    """
    return set(re.sub(r"\d+", "0", re.sub(r"benchd \S+ \(pid", "benchd 0 (pid", text)).splitlines())


class Session:
    """A shell in `folder`, and `benchd watch` on a terminal if a page starts it. The caller must close it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "NO_COLOR": "1",
            "LC_ALL": "C.UTF-8",
            # `pip install .` builds and runs with the installed packages, without a network.
            "PYTHONPATH": next(path for path in sys.path if path.endswith("site-packages")),
            "PIP_NO_INDEX": "1",
            "PIP_NO_DEPS": "1",
            "PIP_NO_BUILD_ISOLATION": "0",
            "SETUPTOOLS_SCM_PRETEND_VERSION": "0.1",
        }
        self._shell = subprocess.Popen(
            ["sh"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=self._environment,
            text=True,
        )
        self._watch: subprocess.Popen[bytes] | None = None
        self._terminal = -1
        self._watched = ""
        self._compared = 0

    def run(self, command: str, shown: str) -> str:
        """Return the output of the command, or `shown` if the output fits it."""
        if command.startswith("benchd watch ") and not command.endswith(" --help"):
            return self._start(command, shown)
        deadline = time.monotonic() + DEADLINE
        printed = self._run(command)
        while not fits(shown, printed):
            if self._watch is None or command.split(maxsplit=1)[0] not in READS or time.monotonic() > deadline:
                return _trimmed(printed)
            self._read(0.05)
            printed = self._run(command)
        return shown

    def _run(self, command: str) -> str:
        assert self._shell.stdin
        assert self._shell.stdout
        self._shell.stdin.write(f"{command}\nprintf '\\n%s\\n' {_END}\n")
        self._shell.stdin.flush()
        lines = []
        while (line := self._shell.stdout.readline()) != f"{_END}\n":
            assert line, f"the shell ended: {command}"
            lines.append(line)
        return "".join(lines)[:-1]

    def _start(self, command: str, shown: str) -> str:
        self._terminal, other_end = pty.openpty()
        self._watch = subprocess.Popen(
            shlex.split(command), stdin=other_end, stdout=other_end, stderr=other_end, cwd=self._folder,
            env=self._environment,
        )  # fmt: skip
        os.close(other_end)
        return self.watched(shown)

    def watched(self, shown: str) -> str:
        """Wait until `benchd watch` has printed the lines of `shown`, apart from numbers.

        Return `shown`. If a line does not come, return the output since the last call.
        """
        deadline = time.monotonic() + DEADLINE
        while not _lines(shown) <= _lines(self._watched):
            if time.monotonic() > deadline:
                shown = self._watched[self._compared :]
                break
            self._read(0.1)
        self._compared = len(self._watched)
        return shown

    def _read(self, seconds: float) -> None:
        if select.select([self._terminal], [], [], seconds)[0]:
            with contextlib.suppress(OSError):  # the other end is closed
                self._watched += os.read(self._terminal, 65536).decode(errors="replace").replace("\r", "")

    def close(self) -> None:
        """Stop `benchd watch` and the shell."""
        if self._watch is not None:
            self._watch.send_signal(signal.SIGINT)
            self._watch.wait()
            os.close(self._terminal)
        self._shell.communicate()


def followed(page: str, folder: Path) -> str:
    """Return the text of a page, with the present output after each command whose output has changed."""
    for name in SOURCES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (TOP / name).is_dir():
            shutil.copytree(TOP / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(TOP / name, folder / name)
    session = Session(folder)
    try:
        return EXAMPLE.sub(lambda match: _example(session, folder, match), page)
    finally:
        session.close()


def _example(session: Session, folder: Path, match: re.Match[str]) -> str:
    kind, title, code = match.groups()
    if title is not None:
        (folder / title).write_text(code, encoding="utf-8")
    elif kind == "text" and _TIME.match(code):
        return f"```text\n{session.watched(code)}```"
    elif kind == "console":
        return f"```console\n{''.join(_commands(session, code))}```"
    return match[0]


def _commands(session: Session, code: str) -> list[str]:
    texts = []
    for part in re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        texts.append(f"{PROMPT}{command}\n{session.run(command, shown)}")
    return texts


def main() -> None:
    """Put the present output into the pages that the command line names."""
    for name in sys.argv[1:]:
        page = Path(name)
        with tempfile.TemporaryDirectory() as folder:
            page.write_text(followed(page.read_text(encoding="utf-8"), Path(folder)), encoding="utf-8")


if __name__ == "__main__":
    main()
