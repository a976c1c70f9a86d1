"""Reading a file: text around the JSON, deviations that get a note, and files that are not audits."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from typing import Any

import pytest

from benchd import AuditError, NotAnAudit, bench_config, read_audit, select
from benchd.audit.unread import Costly
from benchd.audit.values import finite, whole
from corpus import content, document, encoded, entry, refused, tolerantly

#: A clean audit.
PLAIN = encoded(document(flagged=[entry("base_model.model.a", k_values=[2, 4])]))

ways = pytest.mark.parametrize("data", [PLAIN, tolerantly(PLAIN)], ids=["fast", "tolerant"])


def names(data: bytes) -> list[str]:
    return [layer.name for layer in read_audit(data).flagged]


@ways
@pytest.mark.parametrize("before", [b"", b"\n", b" \t\r\n", b"    computing SVD and metrics for layer: a\n", b"a {\n"])
@pytest.mark.parametrize("after", [b"", b"\n", b"\r\n", b"done\n", b"\0\0\0", b"}\n", "✅ fertig }".encode()])
def test_text_around(data: bytes, before: bytes, after: bytes) -> None:
    """Skips text lines before and after the JSON without a note."""
    audit = read_audit(before + data + after)
    assert [layer.name for layer in audit.flagged] == ["base_model.model.a"]
    assert [note for note in audit.notes if "NaN" not in note] == []


@ways
def test_windows_lines(data: bytes) -> None:
    """Accepts lines that end with CR LF, including those before and after the JSON."""
    assert names((b"Warning: x\n" + data + b"bye\n").replace(b"\n", b"\r\n")) == ["base_model.model.a"]


@ways
def test_one_line(data: bytes) -> None:
    """Finds JSON without indentation after text lines."""
    value = json.loads(data)
    assert names(b"Warning: x\n" + json.dumps(value).encode() + b"\nbye") == ["base_model.model.a"]


@pytest.mark.parametrize("before", ["", " ", "\n", "\n\n  "])
def test_compact_json_with_a_nested_object(before: str) -> None:
    """A nested object on a separate line is not the start of the audit."""
    data = before + json.dumps(json.loads(PLAIN), indent=0)
    assert "\n{\n" in data.strip()
    assert names(data.encode()) == ["base_model.model.a"]


@ways
def test_utf8_mark(data: bytes) -> None:
    """Accepts a UTF-8 byte order mark, with a note."""
    assert names(b"\xef\xbb\xbf" + data) == ["base_model.model.a"]
    assert "the file starts with a UTF-8 byte order mark" in read_audit(b"\xef\xbb\xbf" + data).notes


@ways
@pytest.mark.parametrize(("mark", "encoding"), [(b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")])
def test_utf16(data: bytes, mark: bytes, encoding: str) -> None:
    """Accepts UTF-16 with a mark, from a PowerShell redirect, with a note, and reports the file's own size."""
    redirected = mark + data.decode().replace("\n", "\r\n").encode(encoding)
    audit = read_audit(redirected)
    assert [layer.name for layer in audit.flagged] == ["base_model.model.a"]
    assert "the file is UTF-16, as a PowerShell redirect writes it" in audit.notes
    assert audit.size == len(redirected)


@ways
def test_policy_warnings(data: bytes) -> None:
    """Notes warnings about unknown policies before and after the JSON, but no other warnings."""
    audit = read_audit(
        b"Warning: Unknown policy 'x'. Available: a\nWarning: y\n" + data + b"Warning: Unknown policy z\n"
    )
    assert [note for note in audit.notes if "NaN" not in note] == [
        "Gradience: Unknown policy 'x'. Available: a",
        "Gradience: Unknown policy z",
    ]


@ways
def test_policy_warnings_beyond_ascii(data: bytes) -> None:
    """Quotes a warning in full even if its characters, and those of the JSON, take several bytes."""
    warning = "Warning: Unknown policy '😀😀😀😀'\n".encode()
    audit = read_audit(warning + data.replace(b"{", '{"ü": "😀😀😀😀",'.encode(), 1) + warning)
    assert [note for note in audit.notes if "NaN" not in note] == ["Gradience: Unknown policy '😀😀😀😀' (2 times)"]


def test_many_policy_warnings() -> None:
    """At most 20 warnings become notes. Equal warnings become one note."""
    warnings = b"".join(b"Warning: Unknown policy %d\n" % place for place in range(30))
    assert len(read_audit(warnings + PLAIN).notes) == 20
    assert read_audit(b"Warning: Unknown policy x\n" * 30 + PLAIN).notes == ("Gradience: Unknown policy x (30 times)",)


@pytest.mark.parametrize(
    ("tokens", "times"),
    [
        ("[NaN]", "once"),
        ("[NaN, Infinity]", "2 times"),
        ("[-Infinity, 1, NaN, NaN]", "3 times"),
        (r'["a NaN, \"NaN ", NaN]', "once"),
    ],
)
def test_non_finite_tokens(tokens: str, times: str) -> None:
    """Accepts and counts the tokens that Python's json writes for non-finite numbers."""
    data = PLAIN.replace(b"{", b'{"x": ' + tokens.encode() + b",", 1)
    assert read_audit(data).notes == (
        f"NaN or Infinity stands {times} where a number should; such a score ranks no layer",
    )


@pytest.mark.parametrize("score", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000])
def test_non_finite_scores(score: str) -> None:
    """A score that is not finite is treated as missing."""
    data = encoded(document(candidates=[entry("a", priority_score=0.5)])).replace(b"0.5", score.encode())
    (layer,) = read_audit(data).candidates
    assert finite(layer.rationale.priority_score) is None


def test_numbers_beyond_python() -> None:
    """An integer of 5000 digits is treated as missing, and does not affect other numbers, tokens and entries."""
    value = document(flagged=[entry("a", k_values=[8], spread=6)], n_layers=77)
    data = encoded(value).replace(b"77", b"9" * 5000)
    for text in (data.replace(b"{", b'{"x": [NaN],', 1), tolerantly(data)):
        audit = read_audit(text)
        assert whole(audit.flagged[0].rationale.k_values[0]) == 8
        assert audit.notes == ("NaN or Infinity stands once where a number should; such a score ranks no layer",)


def test_duplicate_keys() -> None:
    """Both readers use the last value of a key that occurs twice."""
    twice = PLAIN.replace(b'"analysis_performed": true', b'"analysis_performed": true, "analysis_performed": false')
    assert read_audit(twice).no_analysis == read_audit(tolerantly(twice)).no_analysis is not None


def test_lone_surrogates() -> None:
    """A name with half a surrogate pair is not usable, and in quoted text the half becomes a space."""
    data = encoded(document(flagged=[entry("a\ud800")], analysis={"disagreement_focus_set": {"message": "x\ud800y"}}))
    audit = read_audit(data)
    assert audit.flagged == ()
    assert audit.notes == ("flagged_layers: 1 entry is malformed (no usable layer_name) and skipped",)
    assert audit.focus_message == "x y"


@pytest.mark.parametrize("behind", [b"\xff", b"\n\xe9\n", b"\xe3"])
def test_bytes_after_the_json(behind: bytes) -> None:
    """The text after the JSON may have any encoding, but the JSON must be UTF-8."""
    assert read_audit(encoded(document()) + behind).no_analysis is None
    assert refused(encoded(document()).rstrip()[:-1] + behind).code in {"bad_encoding", "truncated"}


@pytest.mark.parametrize(
    "text",
    [
        b'{a\n{"per_module_gain": []}',
        b'{"policy_disagreement_analysis": {}}\n{\n"x": 0, "y": ""}',
    ],
)
def test_the_audit_among_objects(text: bytes) -> None:
    """If several objects begin in the text, both readers use the one that is an audit."""
    assert read_audit(text).total_layers == 0


def test_frugal() -> None:
    """Frugal reading raises `Costly` for content that may need much more than its size."""
    many = encoded(document()).rstrip()[:-1] + b', "x": [1' + (b"," + b" " * 30 + b"NaN") * 30_000 + b"]}"
    assert "30000 times" in read_audit(many).notes[0]
    crowded = b'{"per_module_gain": [' + b'{"module":""},' * 1000 + b'{"module":""}]}'
    long = encoded(document(flagged=[entry("a", k_values=[8] * 30_000)]))
    for data in (many, crowded, long, b"x" * 2_000_000):
        with pytest.raises(Costly):
            read_audit(data, frugal=True)
    assert read_audit(content("llama4_many__layers.json"), frugal=True).modules.largest_rank


HOLES = {
    "flagged": b'{"policy_disagreement_analysis": {"flagged_layers": [%s]}}',
    "listed": b'{"policy_disagreement_analysis": {"all_layers_with_disagreement": [%s]}}',
    "rationale": b'{"policy_disagreement_analysis": {"flagged_layers": [{"layer_name": "a", '
    b'"flagging_rationale": [%s]}]}}',
    "k_values": b'{"policy_disagreement_analysis": {"flagged_layers": [{"layer_name": "a", '
    b'"flagging_rationale": {"k_values": [%s]}}]}}',
    "reason": b'{"policy_disagreement_analysis": {"analysis_performed": false, "reason": [%s]}}',
    "error": b'{"policy_disagreement_analysis_error": [%s]}',
    "distribution": b'{"policy_disagreement_analysis": {"distribution": [%s]}}',
    "gains": b'{"policy_disagreement_analysis": {"flagged_layers": [{"layer_name": "a", "flagging_rationale": '
    b'{"k_values": [8]}}]}, "per_module_gain": [%s]}',
    **{
        name: b'{"policy_disagreement_analysis": {"flagged_layers": [{"layer_name": "a"}]}, ' + shape + b"}"
        for name, shape in {
            "per_module": b'"per_module": {"gain": [%s]}',
            "policies": b'"policies": {"per_layer": [%s]}',
            "policy": b'"policies": {"per_layer": [{"layer_name": "a", "suggestions": {"x": [%s]}}]}',
            "layer_data": b'"layer_data": {"layer_rows": [%s]}',
            "layers": b'"layers": [%s]',
            "suggestions": b'"rank_suggestions": {"layers": [%s]}',
            "default": b'"per_layer_suggestions": {"default_r": [%s]}',
            "n_layers": b'"n_layers": [%s]',
            "issues": b'"issues": [%s]',
            "unknown": b'"x": [%s]',
        }.items()
    },
}

FILLINGS = [
    b"[]",
    b"{}",
    b"1e9",
    b"999",
    b'""',
    b'{"module":""}',
    b'{"layer_name":"ab"}',
    b'{"name":"ab"}',
    b'"\xf0\x9f\x98\x80"',
]


@pytest.mark.parametrize("filling", FILLINGS)
@pytest.mark.parametrize("hole", HOLES)
def test_memory_of_frugal_reading(hole: str, filling: bytes) -> None:
    """Frugal reading needs at most a few times the size of a file, or raises `Costly` first, whatever it contains."""
    size = 2**20
    data = HOLES[hole] % (filling + (b"," + filling) * (size // (len(filling) + 1)))
    tracemalloc.start()
    try:
        with contextlib.suppress(Costly, AuditError):
            audit = read_audit(data, frugal=True)
            bench_config(audit, select(audit))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * len(data)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"r": 8, "lora_alpha": 16, "peft_type": "LORA"},
        {"layers": []},
        {"issues": [], "n_layers": 3},
        {"total_lora_params": 1},
        {"suggested_r_global_median": 3},
        {"policies": {}},
    ],
)
def test_not_an_audit(value: dict[str, Any]) -> None:
    """With both readers, a JSON object without an audit's keys is not an audit."""
    for data in (encoded(value), tolerantly(encoded(value))):
        with pytest.raises(NotAnAudit) as caught:
            read_audit(data)
        assert caught.value.code == "not_an_audit"


@pytest.mark.parametrize(
    "value",
    [
        {"policy_disagreement_analysis": {}},
        {"policy_disagreement_analysis_error": None},
        {"per_module_gain": []},
        {"per_module_gain": "x"},
        {"total_lora_params": 1, "stable_rank_mean": 1.0},
        {"total_lora_params": 1, "rank_policy_schema_version": 1},
        {"probe_rank": 4, "suggested_r_global_median": 3},
    ],
)
def test_keys_of_an_audit(value: dict[str, Any]) -> None:
    """Each key, or pair of keys, that only audits have makes a document an audit."""
    for data in (encoded(value), tolerantly(encoded(value))):
        assert read_audit(data).flagged == ()


def test_real_file_with_text_around() -> None:
    """A byte order mark, progress lines, CR LF, NaN and text at the end don't change the answer to a real audit."""
    clean = content("llama4_many__default.json")
    dirty = b"\xef\xbb\xbf    computing SVD and metrics for layer: a\n" + tolerantly(clean) + b"bye\n"
    assert read_audit(dirty.replace(b"\n", b"\r\n")).flagged == read_audit(clean).flagged


@pytest.mark.parametrize(
    "before",
    [b'{"level":"info"}\n', b"{progress}\n", b"caf\xe9\n", b"[INFO] x\n", b" {\n", b"{ }\n"],
)
@pytest.mark.parametrize("number", [b"1.5", b"NaN"])
def test_any_text_before(before: bytes, number: bytes) -> None:
    """The JSON starts at the first line that is exactly `{`, whatever text and encoding come before it."""
    data = PLAIN.replace(b'"policy', b'"some_number": ' + number + b', "policy', 1)
    assert read_audit(data).flagged
    if before.strip() not in {b"{", b"{ }"}:
        assert read_audit(before + data).flagged == read_audit(data).flagged


@pytest.mark.parametrize("number", ["1.5", "NaN"])
def test_brace_line_within_a_compact_document(number: str) -> None:
    """A document with more than `{` on its first line is read in full, even if a line within it is `{`."""
    entry = '\n{\n"layer_name": "a"}'
    text = f'{{"x": {number}, "policy_disagreement_analysis": {{"flagged_layers": [{entry}]}}}}'
    assert [layer.name for layer in read_audit(text.encode()).flagged] == ["a"]
