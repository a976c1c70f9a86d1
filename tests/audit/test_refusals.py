"""The codes of rejections, their messages and their hints."""

from __future__ import annotations

import pytest

from benchd import AuditError, NotAnAudit
from benchd.audit.refusals import CODES, MAYBE_UNFINISHED, refusal

PARTS = {
    "not_json": {"place": "line 1, column 2", "problem": "Expecting value", "near": "x"},
    "truncated": {"place": "line 1, column 2"},
    "bad_encoding": {"place": "byte 3", "encoding": "UTF-8"},
    "too_large": {"size": 11, "limit": 10},
    "not_a_regular_file": {"found": "a folder"},
    "too_complex": {"size": 11, "memory": 40, "seconds": 10},
    "unreadable": {"error": "Permission denied", "who": "uid 5"},
    "name_too_long": {"sidecar": ".bench.json", "size": 260},
    "bad_schema": {"where": "$.x", "expected": "a list", "found": "a string"},
    "audit_failed": {"quote": "Error: x"},
    "audit_interrupted": {"lines": 3},
}


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_a_message_and_a_hint(code: str) -> None:
    """Every code has a message with its parts filled in, and a hint that says what to do."""
    parts = PARTS.get(code, {})
    error = refusal(code, **parts)
    assert isinstance(error, AuditError)
    assert error.code == code
    assert str(error) == error.message
    assert error.hint
    assert "{" not in error.message + error.hint
    assert all(str(part) in error.message + error.hint for part in parts.values())


@pytest.mark.parametrize("code", sorted(PARTS))
def test_missing_part(code: str) -> None:
    """Raises KeyError for a missing part of a message."""
    with pytest.raises(KeyError):
        refusal(code)


def test_the_codes_of_the_contract() -> None:
    """The codes are those of the contract, and `name_too_long` and `too_complex`."""
    assert set(CODES) == {
        "empty", "truncated", "not_json", "bad_encoding", "too_large", "too_deep",
        "too_complex", "not_a_regular_file", "symlink", "unreadable", "name_too_long", "bad_schema",
        "audit_failed", "audit_interrupted",
    }  # fmt: skip


def test_codes_that_wait_for_a_writer() -> None:
    """Only codes about the content wait for a writer, and codes about the kind of file do not."""
    kinds = {"too_large", "too_complex", "not_a_regular_file", "symlink", "name_too_long"}
    assert set(CODES) - MAYBE_UNFINISHED == kinds


def test_not_an_audit_is_not_a_rejection() -> None:
    """`NotAnAudit` is an `AuditError`, but its code is not a rejection code."""
    error = NotAnAudit()
    assert isinstance(error, AuditError)
    assert error.code not in CODES
    assert error.hint == "nothing to do: benchd ignores this file"
