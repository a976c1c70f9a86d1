"""Rejected files: the code, the place and the message."""

from __future__ import annotations

from typing import Any

import pytest

from benchd import AuditError, NotAnAudit, read_audit
from corpus import document, encoded, entry, refused, tolerantly

#: A clean audit.
PLAIN = encoded(document(flagged=[entry("base_model.model.a", k_values=[2, 4])]))


@pytest.mark.parametrize(
    ("text", "code"),
    [(b"x" * 200_000, "not_json"), (b"Error: Audit failed: " + b"x" * 200_000, "audit_failed")],
    ids=["x", "error"],
)
def test_long_line(text: bytes, code: str) -> None:
    """The start of a long text without line breaks determines the code."""
    with pytest.raises(AuditError) as raised:
        read_audit(text)
    assert raised.value.code == code


@pytest.mark.parametrize("data", [b"", b"\n", b" \t\r\n", b"\0\0\0\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xff\xfe\n\0"])
def test_empty(data: bytes) -> None:
    """A file of nothing but blanks, byte order marks and NUL bytes is empty."""
    error = refused(data)
    assert (error.code, error.message) == ("empty", "the file has no content")


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"{", "line 1, column 2"),
        (b'{"a"\n', "line 1, column 5"),
        (b'{\n  "a": [1, 2', "line 2, column 13"),
        (b'{"a": "b', "line 1, column 9"),
        (b'{"a": "b\\', "line 1, column 10"),
        (b'{"a": "\\u00', "line 1, column 12"),
        (b'{"a": tr', "line 1, column 9"),
        (b'{"a": -Inf', "line 1, column 11"),
        (b'{"a": -', "line 1, column 8"),
        (b'{"a": 1.', "line 1, column 9"),
        (b'{"a": 1.5e-', "line 1, column 12"),
        (b'{"a": 1,\0\0\0\0\0', "line 1, column 9"),
        (b'{"a": "b\0\0\0\0\0', "line 1, column 9"),
        (b'{"a": "gr' + b"\xc3", "line 1, column 10"),
        (b"computing SVD and metrics for layer: a\n{", "line 2, column 2"),
        (b'Warning: x\n{\n "a": \xf0\x9f', "line 3, column 7"),
    ],
)
def test_truncated(data: bytes, place: str) -> None:
    """JSON that is cut off anywhere is truncated, and the message names its end."""
    error = refused(data)
    assert (error.code, error.message) == ("truncated", f"the JSON ends in the middle, at {place}")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello\n", "line 1, column 1: Expecting value; near: hello"),
        (b'{"a": tru}\n', 'line 1, column 7: Expecting value; near: {"a": tru}'),
        (b'{"a": truck and much more text', 'line 1, column 7: Expecting value; near: {"a": truck and much more text'),
        (b'{\n "a": 1 "b"}', 'line 2, column 9: Expecting \',\' delimiter; near: "a": 1 "b"}'),
        (b'{"a": "\\u00zz"}', 'line 1, column 9: Invalid \\uXXXX escape; near: {"a": "\\u00zz"}'),
        (b'{"a": "x\ny"}', 'line 1, column 9: Invalid control character at; near: {"a": "x'),
        (b"{a: 1}", "line 1, column 2: Expecting property name enclosed in double quotes; near: {a: 1}"),
        (b"[1] x", "line 1, column 4: Extra data; near: [1] x"),
        (b'"abc', 'line 1, column 1: Unterminated string starting at; near: "abc'),
        (b"[1,", "line 1, column 4: Expecting value; near: [1,"),
        (b"\x0b\n", "line 1, column 1: Expecting value; near: "),
        (b"x\n" + b"y" * 500, "line 1, column 1: Expecting value; near: x"),
        (b"y" * 500, f"line 1, column 1: Expecting value; near: {'y' * 79}…"),
    ],
)
def test_not_json(data: bytes, message: str) -> None:
    """The message for text that is not JSON has the line, the column, the parser's words, and the text there."""
    error = refused(data)
    assert (error.code, error.message) == ("not_json", f"not JSON at {message}")
    assert "ignore" in error.hint


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (PLAIN.replace(b'"base', b'"\xff'), "not valid UTF-8 at line 6, byte 125"),
        (b"caf\xe9", "not valid UTF-8 at line 1, byte 3"),
        (b"\xff\xfe\x00\xd8\x00\x00", "not valid UTF-16 at byte 2"),
        (b"\xff\xfe{", "not valid UTF-16 at byte 2"),
        (b"\x1f\x8b\x08\x00gzip", "not valid UTF-8 at line 1, byte 1"),
    ],
)
def test_bad_encoding(data: bytes, message: str) -> None:
    """The message for text that can't be decoded has the place of the first wrong byte."""
    error = refused(data)
    assert error.code == "bad_encoding"
    assert error.message == message


@pytest.mark.parametrize(
    "data",
    [b"[1, 2]\n", b'"text"', b"null", b"true\n", b"12", b"NaN", b" [] \n", b"[{}]", b'{"r": 8}', b'{"r": 8} and more'],
)
def test_other_json(data: bytes) -> None:
    """Other JSON, an object or not, is not an audit."""
    assert isinstance(refused(data), NotAnAudit)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 10**6,
        b'{"a":' * 10**6,
        b'{"per_module_gain": [], "x": ' + b"[" * 10**6 + b"]" * 10**6 + b"}",
        b'{"y": NaN, "x": ' + b"[" * 10**6 + b"]" * 10**6 + b"}",
        b'{"policy_disagreement_analysis_error": ' + b'{"a":' * 10**6 + b"1" + b"}" * (10**6 + 1),
    ],
    ids=["lists", "objects", "fast", "tolerant", "quoted"],
)
def test_too_deep(data: bytes) -> None:
    """Rejects JSON that is nested too deeply, without a crash."""
    assert refused(data).code == "too_deep"


@pytest.mark.parametrize("token", [b"", b'"x": NaN, '], ids=["fast", "tolerant"])
def test_quoting_too_deep(token: bytes) -> None:
    """Rejects a value that can be read but not quoted, close to the end of the stack, as too deep."""

    def code(depth: int) -> str | None:
        try:
            read_audit(b"{" + token + b'"policy_disagreement_analysis_error": ' + b"[" * depth + b"]" * depth + b"}")
        except AuditError as error:
            return error.code
        return None

    fine, edge = 100, 10**6
    assert (code(fine), code(edge)) == (None, "too_deep")
    while edge - fine > 1:
        middle = (fine + edge) // 2
        fine, edge = (middle, edge) if code(middle) is None else (fine, middle)
    assert {code(depth) for depth in range(edge - 150, edge + 150)} == {None, "too_deep"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"policy_disagreement_analysis": [1]}, "$.policy_disagreement_analysis: expected an object, got a list"),
        ({"policy_disagreement_analysis": "x"}, "$.policy_disagreement_analysis: expected an object, got a string"),
        (
            document(flagged="q_proj"),
            "$.policy_disagreement_analysis.flagged_layers: expected a list, got a string",
        ),
        (
            document(candidates={"a": 1}),
            "$.policy_disagreement_analysis.all_layers_with_disagreement: expected a list, got an object",
        ),
        (document(flagged=3), "$.policy_disagreement_analysis.flagged_layers: expected a list, got a number"),
    ],
)
def test_bad_schema(value: dict[str, Any], message: str) -> None:
    """The message for an audit with wrong types names the path in the document."""
    for data in (encoded(value), tolerantly(encoded(value))):
        error = refused(data)
        assert (error.code, error.message) == ("bad_schema", message)


@pytest.mark.parametrize("lists", [(None, None), ([], []), (None, [])])
def test_empty_lists(lists: tuple[Any, Any]) -> None:
    """Lists that are null or empty have no layers."""
    for data in (encoded(document(flagged=lists[0], candidates=lists[1])),):
        for way in (data, tolerantly(data)):
            assert read_audit(way).flagged == read_audit(way).candidates == ()


@pytest.mark.parametrize(
    ("data", "quote"),
    [
        (b"Error: Audit failed: no adapter\n", "Error: Audit failed: no adapter"),
        (b"Warning: x\nError: Audit failed: \xe2\x9a\xa0 y\nmore\n", "Error: Audit failed: ⚠ y"),
        (b"Traceback (most recent call last):\n  File x\nKeyError: 'a'\n\n", "KeyError: 'a'"),
        (b'{"error": "unexpected_audit_result_type", "type": "list"}', "unexpected_audit_result_type"),
        (b"Error: " + b"x" * 500, "Error: " + "x" * 292 + "…"),
    ],
)
def test_audit_failed(data: bytes, quote: str) -> None:
    """Quotes the error of gradience, and the hint is to fix its cause first."""
    error = refused(data)
    assert (error.code, error.message) == ("audit_failed", f"gradience failed: {quote}")
    assert error.hint.startswith("fix the cause that gradience reports")


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"    computing SVD and metrics for layer: a\n" * 3, 3),
        (b"    computing SVD and metrics for layer: a\n    compu", 2),
        (b"    compu", 1),
        (b"Warning: Unknown policy x\n\n    computing SVD and metrics for layer: a\n", 2),
        (b"    computing SVD and metrics for layer: a\n\0\0\0\0", 1),
    ],
)
def test_audit_interrupted(data: bytes, lines: int) -> None:
    """Progress lines without JSON are an interrupted audit, even if the last line is cut off."""
    error = refused(data)
    assert error.code == "audit_interrupted"
    assert error.message == f"gradience was interrupted: {lines} line{'s' * (lines > 1)} of progress, no JSON"


def test_other_text_among_progress_lines() -> None:
    """Progress lines with another line among them are not an interrupted audit."""
    assert refused(b"hello\n    computing SVD and metrics for layer: a\n").code == "not_json"


def test_ends_of_a_long_text() -> None:
    """Finds progress lines, or an error after them, at the ends of a long text."""
    progress = b"    computing SVD and metrics for layer: a\n" * 10_000
    assert refused(progress).message == "gradience was interrupted: 10000 lines of progress, no JSON"
    assert refused(progress + b"Error: Audit failed: x\n").code == "audit_failed"
