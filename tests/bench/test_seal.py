"""Sidecar names, numbers for JSON and YAML, and the seal that shows edits."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchd import SELECTION_VERSION, bench_config, read_audit, select
from benchd.audit.refusals import refusal
from benchd.bench.seal import provenance_of, seal, unbroken
from benchd.folder.names import config_name, error_name, is_sidecar
from corpus import DESIGN_FLAGGED, content

CONFIG = bench_config(audit := read_audit(content(DESIGN_FLAGGED)), select(audit))


@pytest.mark.parametrize(
    ("audit", "stem"), [("a.json", "a"), ("a.b.json", "a.b"), ("a.txt", "a.txt"), (".json", ""), ("a.JSON", "a.JSON")]
)
def test_names(audit: str, stem: str) -> None:
    """Sidecars have the audit's name with another ending, and are recognized by it."""
    assert config_name(audit) == f"{stem}.bench.json"
    assert error_name(audit) == f"{stem}.bench-error.json"
    assert is_sidecar(config_name(audit))
    assert is_sidecar(error_name(audit))
    assert not is_sidecar(audit)


PROVENANCE: dict[str, Any] = {"audit": "a.json", "audit_sha256": None, "audit_bytes": 1}


def sealed(**values: Any) -> str:
    """Return the text of a sealed document with these values."""
    return seal({**values, "provenance": PROVENANCE}).decode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5e-05, "5.0e-05"), (1e300, "1.0e+300"), (1.97e279, "1.97e+279"), (-1e-7, "-1.0e-07"), (5e-324, "5.0e-324"),
        (2.0, "2.0"), (0.1, "0.1"), (-0.0, "-0.0"), (1e16, "1.0e+16"), (123456789012345.0, "123456789012345.0"),
        (10.00001, "10.00001"), (0.0001, "0.0001"), (8, "8"), (-3, "-3"), (None, "null"),
    ],
)  # fmt: skip
def test_numbers(value: float | None, text: str) -> None:
    """JSON and YAML 1.1 read the same number for a float, an integer and null."""
    content = sealed(value=value, values=[value, value])
    assert f'"value": {text},\n' in content
    assert content.count(f"    {text}") == 2
    for read in (yaml.safe_load(content), json.loads(content)):
        assert read["value"] == value
        assert type(read["value"]) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_number(value: float) -> None:
    """JSON and YAML read every finite float."""
    content = sealed(value=value)
    for read in (yaml.safe_load(content), json.loads(content)):
        assert read["value"] == value
        assert type(read["value"]) is float


@pytest.mark.parametrize("text", ["0.00005", "1e16", " 1e16", '": 1e16', ": 0.00001,\n", "a 1e-7,"])
def test_text_with_numbers(text: str) -> None:
    """Does not change numbers in strings and keys."""
    content = sealed(value=text, **{text: [0.00001, text]})
    assert json.loads(content)["value"] == text
    assert json.loads(content)[text] == [0.00001, text]


def test_provenance_of_a_large_config() -> None:
    """Searches only the end of a large sidecar for provenance."""
    provenance = {"audit": "a.json", "audit_sha256": "0" * 64, "audit_bytes": 1, "settings": {"x": 1}}
    large = seal({"filler": ["x" * 100] * 1000, "provenance": provenance})
    found = provenance_of(large)
    assert found is not None
    assert (found.audit, found.settings) == ("a.json", {"x": 1})
    elsewhere = b'{"provenance": ' + json.dumps(provenance).encode() + b', "x": [' + b"1," * 40_000 + b"1]}"
    assert provenance_of(elsewhere) is None


@pytest.mark.parametrize(
    "text",
    [
        "\u2028", "\u2029", "\x85", "\x7f", "\x80\x9f", "\ufeff", "\ufffe\uffff", "\xa0", "😀", "ü", '"quoted"', "\\",
        "a: b", "# c", "<<", "=", "null", "\t\n\r\0\x1b", "- x", "{}", "%", "\U0010fffe", "\ud7ff\ue000", "1e3", "",
    ],
    ids=ascii,
)  # fmt: skip
def test_any_text(text: str) -> None:
    """JSON and YAML read any text alike, as a value and as a key."""
    data = seal({"value": text, "keys": {text: [text]}, "provenance": {"audit": text}})
    read = json.loads(data)
    assert read["value"] == read["provenance"]["audit"] == text
    assert yaml.safe_load(data.decode()) == read
    assert data.endswith(b"}\n")


def test_escaped() -> None:
    """Escapes characters that YAML forbids or folds."""
    text = "\x7f\x80\x85\x9f\u2028\u2029\ufeff\ufffe\uffff"
    assert not set(text) & set(seal({text: text, "provenance": {"audit": text}}).decode())


def test_not_escaped_more_than_needed() -> None:
    """Does not escape characters that JSON and YAML both accept."""
    assert "😀 ü" in seal({"provenance": {"audit": "😀 ü"}}).decode()


@pytest.mark.parametrize("change", [0x01, 0x20, 0x80])
def test_every_changed_byte_breaks_the_seal(change: int) -> None:
    """Detects a change of any byte of a sealed file."""
    assert unbroken(CONFIG)
    for place in range(len(CONFIG)):
        edited = bytearray(CONFIG)
        edited[place] ^= change
        assert not unbroken(bytes(edited)), place


def test_every_missing_or_added_byte_breaks_the_seal() -> None:
    """Detects a removed or added byte, even a blank at the end."""
    for place in range(len(CONFIG)):
        assert not unbroken(CONFIG[:place] + CONFIG[place + 1 :]), place
        assert not unbroken(CONFIG[:place] + b" " + CONFIG[place:]), place
    assert not unbroken(CONFIG + b"\n")


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"not JSON", b'"config_sha256": "' + b"0" * 64 + b'"}}', CONFIG * 2, CONFIG[:-300], b" " + CONFIG],
)
def test_not_sealed(content: bytes) -> None:
    """A file that benchd did not seal is not unbroken."""
    assert not unbroken(content)


def test_text_like_the_seal() -> None:
    """Text that resembles the seal does not mislead it, and the given document is unchanged."""
    trap = '"config_sha256": "'
    document: dict[str, Any] = {"x": trap, "config_sha256": "", "provenance": {"audit": trap}}
    data = seal(document)
    assert unbroken(data)
    assert list(json.loads(data)["provenance"]) == ["audit", "config_sha256"]
    assert json.loads(data)["config_sha256"] == ""
    assert document == {"x": trap, "config_sha256": "", "provenance": {"audit": trap}}


def test_provenance() -> None:
    """A config names its audit, its settings and its selection version."""
    provenance = provenance_of(CONFIG)
    assert provenance is not None
    assert (provenance.audit, provenance.audit_sha256, provenance.audit_bytes) == (
        "audit.json",
        audit.sha256,
        len(content(DESIGN_FLAGGED)),
    )
    assert (provenance.selection_version, provenance.settings, provenance.code) == (
        SELECTION_VERSION,
        {"bench.uniform_rank": 8},
        None,
    )


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{}", b'{"provenance": {}}', b'{"provenance": {"audit": 3}}', b"\xff", b'{"provenance": "\xff"}',
        b'{"x": ' + b"[" * 100_000, b'{"provenance": {"audit": "a", "audit_sha256": 5, "audit_bytes": 1}}',
    ],
    ids=lambda content: repr(content[:30]),
)  # fmt: skip
def test_no_provenance(content: bytes) -> None:
    """Returns None for a file that is not a sidecar of benchd, whatever it contains."""
    assert provenance_of(content) is None


def test_provenance_ignores_the_seal() -> None:
    """An edited config still has its provenance."""
    assert provenance_of(CONFIG.replace(b'"rank": 8', b'"rank": 9')) == provenance_of(CONFIG)


def test_provenance_of_an_error_report() -> None:
    """The provenance of an error report has its code."""
    from benchd.bench.config import error_report

    report = error_report("a.json", refusal("empty"), sha256=None, size=None)
    provenance = provenance_of(report)
    assert provenance is not None
    assert (provenance.code, provenance.audit_sha256, provenance.audit_bytes) == ("empty", None, None)
