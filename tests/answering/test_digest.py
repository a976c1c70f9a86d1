"""The digest of a content, whoever takes it."""

from __future__ import annotations

import hashlib
import threading

import pytest

from benchd.answering import digest
from benchd.answering.digest import Digest


@pytest.mark.parametrize("size", [0, 1000, digest._LONG, digest._LONG + 1])
def test_digest(size: int):
    """Short or long, it is the SHA-256, and the same when asked again."""
    content = b"x" * size
    told = Digest(content)
    assert told() == told() == hashlib.sha256(content).hexdigest()


def test_a_long_one_is_taken_by_another_thread(monkeypatch: pytest.MonkeyPatch):
    """Of a long content it is taken at once, elsewhere; of a short one when it is asked for, here."""
    took: list[int] = []
    real = Digest._take
    monkeypatch.setattr(Digest, "_take", lambda self: took.append(threading.get_ident()) or real(self))
    short = Digest(b"x")
    assert took == []
    short()
    Digest(b"x" * digest._LONG)()
    assert took[0] == threading.get_ident() != took[1]


def test_no_more_threads(monkeypatch: pytest.MonkeyPatch):
    """Where no thread can be started it is taken all the same."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    content = b"x" * digest._LONG
    assert Digest(content)() == hashlib.sha256(content).hexdigest()
