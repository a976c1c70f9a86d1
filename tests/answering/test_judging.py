"""The answer to a case, from `decide` or the sandbox."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchd.answering.case import Case
from benchd.answering.disk import Disk
from benchd.answering.judging import Judge
from benchd.answering.outcome import Outcome
from benchd.answering.sandbox import Verdict, decide_isolated
from benchd.audit.reading import Costly
from benchd.audit.refusals import NotAnAudit, refusal
from benchd.bench.deciding import Decision
from benchd.bench.seal import Provenance, provenance_of
from daemon import answers, audit, config_of, read_json, report_of, temporary_files
from desk import Desk, Meddled, raises

MakeCase = Callable[..., Case]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, max_bytes=40 * 2**20)


@pytest.fixture
def case(desk: Desk) -> Iterator[MakeCase]:
    """Return a function that makes the case of an audit with this content, for the sandbox unless it `is_read`."""
    made: list[Case] = []

    def make(content: bytes, *, is_read: bool = True) -> Case:
        desk.add("audit.json", content)
        made.append(desk.case("audit.json", content=content if is_read else None))
        return made[-1]

    yield make
    for case in made:
        os.close(case.directory)


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def provenance(content: bytes) -> Provenance:
    return Provenance("audit.json", sha256(content), len(content))


class Sandbox:
    """A sandbox that records its arguments, and returns one verdict."""

    def __init__(self, verdict: Verdict | Exception) -> None:
        self.verdict = verdict
        self.calls: list[dict[str, Any]] = []

    def __call__(self, descriptor: int, **options: Any) -> Verdict:
        self.calls.append({"content": os.pread(descriptor, 10**8, 0), "descriptor": descriptor, **options})
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict


class TestHere:
    def test_decides(self, case: MakeCase) -> None:
        """The content is decided, and the case does not keep it."""
        judged = Judge(Disk(), sandbox=never).judge(case(audit(1)), may_take_long=False)
        assert isinstance(judged.answer, Decision)
        assert judged.digest == judged.answer.audit_sha256 == sha256(audit(1))
        assert judged.content is None

    @pytest.mark.parametrize(("size", "frugal"), [(128 * 2**10, False), (128 * 2**10 + 1, True)])
    def test_what_decide_gets(self, desk: Desk, case: MakeCase, size: int, frugal: bool) -> None:
        """`decide` gets the folder's settings, and `frugal` for more than 128 KiB."""
        calls: list[dict[str, Any]] = []

        def decide(content: bytes, **options: Any) -> Any:
            calls.append({"content": content, **options})
            raise NotAnAudit

        content = b" " * size
        Judge(Disk(), decide).judge(case(content), may_take_long=True)
        assert calls == [
            {
                "content": content,
                "name": "audit.json",
                "sha256": sha256(content),
                "selection": desk.settings.selection,
                "bench": desk.settings.bench,
                "adapter": None,
                "frugal": frugal,
                "bounded": True,
            }
        ]

    def test_refused(self, case: MakeCase) -> None:
        """A refusal is an answer with a hash."""
        judged = Judge(Disk()).judge(case(b"{]"), may_take_long=False)
        assert (judged.answer.code, judged.digest) == ("not_json", sha256(b"{]"))

    def test_same_content(self, case: MakeCase) -> None:
        """If the sidecar answers content of this hash, nothing is decided."""
        given = case(audit(1))
        given.answered = provenance(audit(1))
        judged = Judge(Disk(), never, never).judge(given, may_take_long=False)
        assert (judged.answer, judged.digest) == (given.answered, sha256(audit(1)))

    def test_other_content(self, case: MakeCase) -> None:
        """If the sidecar answers content of another hash, this content is decided."""
        given = case(audit(1))
        given.answered = provenance(audit(2))
        assert isinstance(Judge(Disk()).judge(given, may_take_long=False).answer, Decision)

    def test_answered_already(self, case: MakeCase) -> None:
        """A case with an answer is returned unchanged."""
        given = case(audit(1))
        given.answer = refusal("empty")
        assert Judge(Disk(), never, never).judge(given, may_take_long=False) is given

    def test_no_content_is_kept(self, case: MakeCase) -> None:
        """A refusal keeps no content in memory, even if it waits long to be published."""
        content = b'{"x": "' + b"y" * 100_000
        judged = Judge(Disk()).judge(case(content), may_take_long=False)
        assert judged.answer.code == "truncated"
        assert (judged.answer.__traceback__, judged.answer.__context__) == (None, None)


class TestSandbox:
    REFUSED = Verdict("5" * 64, refusal=("too_complex", "a message", "a hint"))

    def test_costly(self, case: MakeCase) -> None:
        """Costly content goes to the sandbox, or is left if it may not take long."""

        def costly(*_: Any, **__: Any) -> Any:
            raise Costly

        sandbox = Sandbox(self.REFUSED)
        judge = Judge(Disk(), costly, sandbox)
        assert judge.judge(case(audit(1)), may_take_long=False).outcome is Outcome.LEFT
        assert sandbox.calls == []
        assert judge.judge(case(audit(1)), may_take_long=True).answer.code == "too_complex"

    def test_what_the_sandbox_gets(self, desk: Desk, case: MakeCase) -> None:
        """The sandbox gets the open file and the folder's settings, and the file is closed afterwards."""
        sandbox = Sandbox(self.REFUSED)
        judged = Judge(Disk(), never, sandbox).judge(case(audit(1), is_read=False), may_take_long=True)
        [call] = sandbox.calls
        descriptor = call.pop("descriptor")
        assert call == {
            "content": audit(1),
            "size": len(audit(1)),
            "name": "audit.json",
            "selection": desk.settings.selection,
            "bench": desk.settings.bench,
            "adapter": None,
        }
        assert (judged.answer.code, judged.answer.hint, judged.digest) == ("too_complex", "a hint", "5" * 64)
        with pytest.raises(OSError, match="descriptor"):
            os.fstat(descriptor)

    def test_same_content(self, case: MakeCase) -> None:
        """The hash is compared without a sandbox."""
        given = case(audit(1), is_read=False)
        given.answered = provenance(audit(1))
        judged = Judge(Disk(), never, never).judge(given, may_take_long=True)
        assert (judged.answer, judged.digest) == (given.answered, sha256(audit(1)))

    def test_other_content(self, case: MakeCase) -> None:
        """Content with another hash than the sidecar's is decided, from its start."""
        sandbox = Sandbox(self.REFUSED)
        given = case(audit(1), is_read=False)
        given.answered = provenance(audit(2))
        Judge(Disk(), never, sandbox).judge(given, may_take_long=True)
        assert len(sandbox.calls) == 1

    def test_refused_unread(self, case: MakeCase) -> None:
        """A file that can't be opened as an audit any more is refused."""
        disk = Meddled(open=raises(refusal("symlink")))
        judged = Judge(disk, never, never).judge(case(audit(1), is_read=False), may_take_long=True)
        assert (judged.answer.code, judged.digest) == ("symlink", None)

    def test_sandbox_fails(self, case: MakeCase) -> None:
        """If the sandbox fails, an OSError is raised, and no descriptor stays open."""
        given = case(audit(1), is_read=False)
        before = os.listdir("/proc/self/fd")
        with pytest.raises(ChildProcessError):
            Judge(Disk(), never, Sandbox(ChildProcessError("it failed"))).judge(given, may_take_long=True)
        assert os.listdir("/proc/self/fd") == before


def large(number: int = 0, *, size: int = 2 * 2**20, more: bytes = b"") -> bytes:
    """Return a usable audit of at least `size` bytes, most of them text before the JSON."""
    text = b"    computing SVD and metrics for layer: x\n"
    return text * (size // len(text) + 1) + b"{\n" + audit(number)[1:-1] + more + b"}\n"


class TestLargeFiles:
    """Large files with the real `decide` and the real sandbox."""

    def test_left(self, desk: Desk) -> None:
        """The lane for small files answers the small files and leaves the large ones."""
        path = desk.add("audit.json", large())
        desk.add("small.json", audit(2))
        outcomes = desk.outcomes("audit.json", "small.json", may_take_long=False)
        assert outcomes == {"audit.json": Outcome.LEFT, "small.json": Outcome.SELECTED}
        assert not answers(path)

    def test_as_gradience_writes_it(self, case: MakeCase) -> None:
        """A large audit in Gradience's form is decided without the sandbox."""
        judged = Judge(Disk(), sandbox=never).judge(case(large()), may_take_long=True)
        assert isinstance(judged.answer, Decision)

    @pytest.mark.parametrize(
        "more",
        [
            b', "per_module": {"gain": [' + b"[]," * 10**5 + b"[]]}",
            b', "per_module_gain": [' + b'{"module":""},' * 10**5 + b'{"module":""}]',
            b', "per_module_gain": [5]',
        ],
        ids=["dense", "crowded", "odd"],
    )
    def test_odd(self, desk: Desk, case: MakeCase, more: bytes) -> None:
        """A dense file, or one for the tolerant reader, is decided in the sandbox."""
        sizes: list[int] = []

        def sandbox(descriptor: int, *, size: int, **options: Any) -> Verdict:
            sizes.append(size)
            return decide_isolated(descriptor, size=size, **options)

        content = large(more=more)
        judged = Judge(Disk(), sandbox=sandbox).judge(case(content), may_take_long=True)
        assert isinstance(judged.answer, Decision)
        assert judged.answer.audit_sha256 == sha256(content)
        assert sizes == [len(content)]

    def test_very_large(self, desk: Desk) -> None:
        """A file above 16 MiB is decided in the sandbox, and a second event compares hashes."""
        path = desk.add("audit.json", large(size=17 * 2**20))
        assert desk.answer(path.name).outcome is Outcome.SELECTED
        assert answers(path)
        assert temporary_files(desk.path) == []
        assert provenance_of(config_of(path).read_bytes()).audit_bytes == path.stat().st_size
        os.utime(path)
        assert desk.answer(path.name).outcome is Outcome.UNCHANGED

    def test_bad(self, desk: Desk) -> None:
        """The report about a large file that is refused has its hash."""
        path = desk.add("audit.json", large()[:-3])
        assert desk.answer(path.name).outcome is Outcome.REJECTED
        report = read_json(report_of(path))
        assert report["code"] == "truncated"
        assert report["provenance"]["audit_sha256"] == sha256(path.read_bytes())
