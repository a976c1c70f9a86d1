"""Reading: what is tolerated with a note, what is rejected and in which words, what is no audit at all."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from typing import Any

import pytest

from benchd import AuditError, NotAnAudit, bench_config, read_audit, select
from benchd.audit.audit import Costly, Module
from benchd.audit.naming import MAX_NAME
from benchd.audit.values import MAX_RANK, finite, utf8, whole, words
from corpus import content, document, encoded, entry, refused, tolerantly

#: A clean audit, and the same with a key that forces the tolerant way.
PLAIN = encoded(document(flagged=[entry("base_model.model.a", k_values=[2, 4])]))
ways = pytest.mark.parametrize("data", [PLAIN, tolerantly(PLAIN)], ids=["fast", "tolerant"])


def names(data: bytes) -> list[str]:
    return [layer.name for layer in read_audit(data).flagged]


def both(value: dict[str, Any]) -> Any:
    """Parametrize over the two ways to read `value`."""
    data = encoded(value)
    return pytest.mark.parametrize("data", [data, tolerantly(data)], ids=["fast", "tolerant"])


# --- what stands around the JSON ----------------------------------------------------------------------------


@ways
@pytest.mark.parametrize("before", [b"", b"\n", b" \t\r\n", b"    computing SVD and metrics for layer: a\n", b"a {\n"])
@pytest.mark.parametrize("after", [b"", b"\n", b"\r\n", b"done\n", b"\0\0\0", b"}\n", "✅ fertig }".encode()])
def test_text_around(data: bytes, before: bytes, after: bytes) -> None:
    """Text lines before the JSON and after it are read over, without a note."""
    audit = read_audit(before + data + after)
    assert [layer.name for layer in audit.flagged] == ["base_model.model.a"]
    assert [note for note in audit.notes if "NaN" not in note] == []


@ways
def test_windows_lines(data: bytes) -> None:
    """Lines may end with CR LF, also those before and after the JSON."""
    assert names((b"Warning: x\n" + data + b"bye\n").replace(b"\n", b"\r\n")) == ["base_model.model.a"]


@ways
def test_one_line(data: bytes) -> None:
    """JSON without indentation is found after text lines as well."""
    value = json.loads(data)
    assert names(b"Warning: x\n" + json.dumps(value).encode() + b"\nbye") == ["base_model.model.a"]


@pytest.mark.parametrize("before", ["", " ", "\n", "\n\n  "])
def test_json_without_indentation_starts_at_its_first_brace(before: str) -> None:
    """A nested object that stands on a line of its own is not taken for the start of the audit."""
    data = before + json.dumps(json.loads(PLAIN), indent=0)
    assert "\n{\n" in data.strip()
    assert names(data.encode()) == ["base_model.model.a"]


@ways
def test_utf8_mark(data: bytes) -> None:
    """A UTF-8 byte order mark is tolerated, with a note."""
    assert names(b"\xef\xbb\xbf" + data) == ["base_model.model.a"]
    assert "the file starts with a UTF-8 byte order mark" in read_audit(b"\xef\xbb\xbf" + data).notes


@ways
@pytest.mark.parametrize(("mark", "encoding"), [(b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")])
def test_utf16(data: bytes, mark: bytes, encoding: str) -> None:
    """UTF-16 with a mark, from a PowerShell redirect, is tolerated with a note; the size is the file's."""
    redirected = mark + data.decode().replace("\n", "\r\n").encode(encoding)
    audit = read_audit(redirected)
    assert [layer.name for layer in audit.flagged] == ["base_model.model.a"]
    assert "the file is UTF-16, as a PowerShell redirect writes it" in audit.notes
    assert audit.size == len(redirected)


@ways
def test_policy_warnings(data: bytes) -> None:
    """Warnings about unknown policies are notes, before and after the JSON; other warnings are not."""
    audit = read_audit(
        b"Warning: Unknown policy 'x'. Available: a\nWarning: y\n" + data + b"Warning: Unknown policy z\n"
    )
    assert [note for note in audit.notes if "NaN" not in note] == [
        "Gradience: Unknown policy 'x'. Available: a",
        "Gradience: Unknown policy z",
    ]


@ways
def test_policy_warnings_beyond_ascii(data: bytes) -> None:
    """A warning is quoted in full also where its characters take several bytes, and the JSON's do."""
    warning = "Warning: Unknown policy '😀😀😀😀'\n".encode()
    audit = read_audit(warning + data.replace(b"{", '{"ü": "😀😀😀😀",'.encode(), 1) + warning)
    assert [note for note in audit.notes if "NaN" not in note] == ["Gradience: Unknown policy '😀😀😀😀' (2 times)"]


def test_many_policy_warnings() -> None:
    """At most 20 warnings become notes. Equal warnings become one note."""
    warnings = b"".join(b"Warning: Unknown policy %d\n" % place for place in range(30))
    assert len(read_audit(warnings + PLAIN).notes) == 20
    assert read_audit(b"Warning: Unknown policy x\n" * 30 + PLAIN).notes == ("Gradience: Unknown policy x (30 times)",)


# --- what is tolerated inside -------------------------------------------------------------------------------


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
    """The tokens that Python's json writes for non-finite numbers are tolerated and counted."""
    data = PLAIN.replace(b"{", b'{"x": ' + tokens.encode() + b",", 1)
    assert read_audit(data).notes == (
        f"NaN or Infinity stands {times} where a number should; such a score ranks no layer",
    )


@pytest.mark.parametrize("score", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000])
def test_non_finite_scores(score: str) -> None:
    """A score that is not finite is kept as it is and is no number to anybody."""
    data = encoded(document(candidates=[entry("a", priority_score=0.5)])).replace(b"0.5", score.encode())
    (layer,) = read_audit(data).candidates
    assert finite(layer.rationale.priority_score) is None


def test_numbers_beyond_python() -> None:
    """An integer of 5000 digits costs nothing but itself: other numbers, tokens and entries hold."""
    value = document(flagged=[entry("a", k_values=[8], spread=6)], n_layers=77)
    data = encoded(value).replace(b"77", b"9" * 5000)
    for text in (data.replace(b"{", b'{"x": [NaN],', 1), tolerantly(data)):
        audit = read_audit(text)
        assert whole(audit.flagged[0].rationale.k_values[0]) == 8
        assert audit.notes == ("NaN or Infinity stands once where a number should; such a score ranks no layer",)


def test_duplicate_keys() -> None:
    """Of a key that stands twice the last counts, in both ways of reading."""
    twice = PLAIN.replace(b'"analysis_performed": true', b'"analysis_performed": true, "analysis_performed": false')
    assert read_audit(twice).no_analysis == read_audit(tolerantly(twice)).no_analysis is not None


def test_lone_surrogates() -> None:
    """A name with half a character is no usable name; in a quoted text it becomes a space."""
    data = encoded(document(flagged=[entry("a\ud800")], analysis={"disagreement_focus_set": {"message": "x\ud800y"}}))
    audit = read_audit(data)
    assert audit.flagged == ()
    assert audit.notes == ("flagged_layers: 1 entry is malformed (no usable layer_name) and skipped",)
    assert audit.focus_message == "x y"


@pytest.mark.parametrize(
    "bad",
    [None, 7, "x", [], {}, {"layer_name": None}, {"layer_name": 3}, entry(""), entry("a\nb"), entry("x" * 256)],
    ids=repr,
)
def test_malformed_entries(bad: Any) -> None:
    """A malformed entry is skipped and counted; the others hold."""
    audit = read_audit(encoded(document(flagged=[bad, entry("a"), bad], candidates=[bad, entry("b")])))
    assert [layer.name for layer in audit.flagged] == ["a"]
    assert [layer.name for layer in audit.candidates] == ["b"]
    assert audit.notes == (
        "flagged_layers: 2 entries are malformed (no usable layer_name) and skipped",
        "all_layers_with_disagreement: 1 entry is malformed (no usable layer_name) and skipped",
    )


@pytest.mark.parametrize("rationale", [None, 5, "x", [1], {}], ids=repr)
def test_malformed_rationale(rationale: Any) -> None:
    """An entry without a usable rationale is a layer of which nothing is known."""
    audit = read_audit(encoded(document(flagged=[{"layer_name": "a", "flagging_rationale": rationale}])))
    assert audit.flagged[0].rationale.priority_score is None
    assert audit.notes == ()


def test_the_longest_name() -> None:
    """A name of 254 characters is usable."""
    assert names(encoded(document(flagged=[entry("x" * MAX_NAME)]))) == ["x" * MAX_NAME]


@both(document(flagged=[entry("a", spread=1), entry("a", spread=2), entry("base_model.model.a"), entry("b")]))
def test_repeated_layers(data: bytes) -> None:
    """Of a layer that is named twice, with or without PEFT's prefix, the first entry counts."""
    audit = read_audit(data)
    assert [(layer.name, layer.rationale.spread) for layer in audit.flagged] == [("a", 1), ("b", None)]
    assert audit.notes[-1] == "flagged_layers: 1 entry repeats a layer already named; the first counts"
    assert audit.modules.merged == {"a"}


def test_flagged_by_another_name() -> None:
    """A module that is flagged under another name than its gain has is noted."""
    gains = [{"module": "base_model.model.a", "r": 8, "scaling": 2.0}]
    audit = read_audit(encoded(document(flagged=[entry("a")], per_module_gain=gains)))
    assert audit.modules.merged == {"a"}


def test_a_module_of_two_names() -> None:
    """Either name tells of the module, whichever is asked for first."""
    row = {"name": "a", "r": 8, "adapter_scale": 5}
    audit = encoded(document(candidates=[entry("base_model.model.a")], layers=[row]))
    assert read_audit(audit).modules.of("base_model.model.a") == read_audit(audit).modules.of("a") == Module(8, 5.0)


def test_one_repeated_layer() -> None:
    """One repeated layer is told in the singular."""
    audit = read_audit(encoded(document(candidates=[entry("a"), entry("a")])))
    assert audit.notes == ("all_layers_with_disagreement: 1 entry repeats a layer already named; the first counts",)


def test_prefix_alone() -> None:
    """A name that is nothing but PEFT's prefix stays as it is: a module has a name."""
    (layer,) = read_audit(encoded(document(flagged=[entry("base_model.model.")]))).flagged
    assert layer.module == "base_model.model."


def test_layers_as_values() -> None:
    """Layers are equal if all that is said of them is, however it was read, and can stand in sets."""
    value = document(flagged=[entry("a", spread=1), entry("b", spread=1)], candidates=[entry("a", spread=2)])
    fast, tolerant = read_audit(encoded(value)), read_audit(tolerantly(encoded(value)))
    assert fast.flagged == tolerant.flagged
    assert fast.flagged[0] != fast.candidates[0]
    assert {*fast.flagged, *tolerant.flagged} == set(fast.flagged)


@pytest.mark.parametrize(
    ("issues", "notes"),
    [
        (["a", None, "", {"b": "ü"}], ("Gradience: a", 'Gradience: {"b": "\\u00fc"}')),
        (
            [f"{place}" for place in range(21)],
            (*(f"Gradience: {place}" for place in range(20)), "Gradience: 1 more issue"),
        ),
        (["x"] * 25, ("Gradience: x (25 times)",)),
        (
            [f"{place}" for place in range(25)],
            (*(f"Gradience: {place}" for place in range(20)), "Gradience: 5 more issues"),
        ),
        (
            ["Failed for a.b: why", "Failed for a.c: why", "Failed for a.b: how", "Failed for two words: why"],
            (
                "Gradience: 2 modules: failed: why",
                "Gradience: Failed for a.b: how",
                "Gradience: Failed for two words: why",
            ),
        ),
        (["Failed for a.b: why"] * 2, ("Gradience: Failed for a.b: why (2 times)",)),
        ("one", ()),
        ({}, ()),
        (None, ()),
    ],
)
def test_issues(issues: Any, notes: tuple[str, ...]) -> None:
    """At most 20 issues become notes. Issues that are equal, or differ only in the module, become one note."""
    assert read_audit(encoded(document(issues=issues))).notes == notes


# --- facts ----------------------------------------------------------------------------------------------------


def test_digest_and_size() -> None:
    """An audit knows its name, its size, and its digest, computed or given."""
    audit = read_audit(PLAIN, name="n.json")
    assert (audit.name, audit.size, len(audit.sha256)) == ("n.json", len(PLAIN), 64)
    assert read_audit(PLAIN, sha256="given").sha256 == "given"


@pytest.mark.parametrize(
    ("told", "total"), [(28, 28), (28.0, 28), (1, 2), (None, 2), ("28", 2), (-5, 2), (True, 2), (10**9, 2)]
)
def test_total_layers(told: Any, total: int) -> None:
    """The number of layers is Gradience's own where it is plausible, never less than those named."""
    audit = document(flagged=[entry("a")], candidates=[entry("a"), entry("b")])
    audit["policy_disagreement_analysis"]["distribution"] = {"total_layers": told}
    assert read_audit(encoded(audit)).total_layers == total


@pytest.mark.parametrize(
    ("analysis", "threshold"),
    [
        ({"distribution": {"flatness_witness": {"threshold": 1.5}}}, 1.5),
        ({"disagreement_config": {"min_uniform_mult_threshold": 1.6, "uniform_mult_gate": 1.7}}, 1.6),
        ({"distribution": {}, "disagreement_config": {"uniform_mult_gate": 1.7}}, 1.7),
        ({"distribution": {"flatness_witness": {"threshold": "x"}}, "disagreement_config": {}}, None),
        ({}, None),
    ],
)
def test_flat_threshold(analysis: dict[str, Any], threshold: float | None) -> None:
    """The threshold of flatness is found wherever the audit tells it."""
    assert read_audit(encoded(document(analysis=analysis))).flat_threshold == threshold


def test_without_distribution() -> None:
    """An audit that tells nothing of its distribution is not flat, and claims no numbers."""
    audit = read_audit(encoded(document()))
    assert (audit.is_flat, audit.max_uniform_mult, audit.total_layers) == (False, None, 0)
    assert (audit.gradience_version, audit.focus_message) == (None, None)
    assert (audit.suggested_median, audit.suggested_p90) == (None, None)


@pytest.mark.parametrize(
    ("version", "told"), [("0.11.0", "0.11.0"), (11, None), (None, None), ("x" * 99, "x" * 59 + "…")]
)
def test_gradience_version(version: Any, told: str | None) -> None:
    """The version is the audit's own, where it is a text, cut short where it is long."""
    audit = read_audit(encoded(document(analysis={"computed_with": {"gradience_version": version}})))
    assert audit.gradience_version == told


@pytest.mark.parametrize("message", ["", "  ", "\ufeff", "\x07", None, 5, ["x"]])
def test_no_focus_message(message: Any) -> None:
    """What is no text, or blank, is no advice."""
    assert (
        read_audit(encoded(document(analysis={"disagreement_focus_set": {"message": message}}))).focus_message is None
    )


@pytest.mark.parametrize("behind", [b"\xff", b"\n\xe9\n", b"\xe3"])
def test_bytes_behind_the_json(behind: bytes) -> None:
    """What stands behind the JSON need not be text; the JSON itself must."""
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
    """Of what looks like the beginning of an object the one that is an audit counts, whichever way reads it."""
    assert read_audit(text).total_layers == 0


def test_frugal() -> None:
    """Who is frugal is told of what may take much more than its size, instead of being given it."""
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
def test_a_file_takes_little_more_than_its_size(hole: str, filling: bytes) -> None:
    """Whatever a file is filled with, who is frugal needs a few times its size for it, or is told beforehand."""
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


def test_issues_in_another_encoding() -> None:
    """What is not UTF-8 in an issue is shown as such; it is nothing that the selection needs."""
    data = encoded(document(issues=["caf@"])).replace(b"@", b"\xe9")
    assert read_audit(data).notes == ("Gradience: caf\ufffd",)


@pytest.mark.parametrize(
    ("text", "code"),
    [(b"x" * 200_000, "not_json"), (b"Error: Audit failed: " + b"x" * 200_000, "audit_failed")],
    ids=["x", "error"],
)
def test_one_endless_line(text: bytes, code: str) -> None:
    """A text without any line break is told by its beginning."""
    with pytest.raises(AuditError) as raised:
        read_audit(text)
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("top", "module"),
    [
        ({"per_module_gain": [{"module": "a", "r": 16, "scaling": 2.0}]}, Module(16, 2.0)),
        ({"per_module": {"gain": [{"module": "a", "r": 8, "scaling": 1}]}}, Module(8, 1.0)),
        ({"layers": [{"name": "a", "r": 4, "adapter_scale": 0.5}]}, Module(4, 0.5)),
        ({"layer_data": {"layer_rows": [{"name": "a", "r": 4}]}}, Module(4, None)),
        (
            {
                "per_module_gain": [{"module": "a", "scaling": 2.0}],
                "layers": [{"name": "a", "r": 4, "adapter_scale": 9}],
            },
            Module(4, 2.0),
        ),
        (
            {"per_module_gain": [{"module": "a", "r": 6, "scaling": None}, {"module": "a", "r": 7, "scaling": 3.0}]},
            Module(6, None),  # of a module that is named twice the first entry counts
        ),
        ({"per_module_gain": [{"module": "a", "r": 0, "scaling": "x"}]}, Module(None, None)),
        ({"per_module_gain": [{"module": 5, "r": 3}], "layers": [{"name": None, "r": 3}]}, None),
        ({"per_module": {}, "layer_data": {}, "per_module_gain": None}, None),
    ],
)
def test_modules(top: dict[str, Any], module: Module | None) -> None:
    """A module's own rank and scaling are found in `per_module_gain`, and what is missing there in a layer row."""
    for data in (encoded(document(**top)), tolerantly(encoded(document(**top)))):
        assert read_audit(data).modules.of("a") == module


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        ({}, None),
        ({"rank_suggestions": {"layers": [{"name": "a", "suggested_r": 3}], "rank_pattern": {"a": 4}}}, 3),
        ({"per_layer_suggestions": {"layers": [{"name": "b", "suggested_r": 3}], "rank_pattern": {"a": 4}}}, 4),
        ({"per_layer_suggestions": {"layers": [{"name": 3, "suggested_r": 3}], "default_r": 5}}, 5),
        ({"rank_suggestions": {"layers": [{"name": "a", "suggested_r": "3"}], "default_r": None}}, None),
        ({"rank_suggestions": {}, "per_layer_suggestions": {"default_r": 6}}, 6),
        ({"rank_suggestions": {"rank_pattern": {"a": 0}, "default_r": 6}}, 0),
    ],
)
def test_suggested_rank(top: dict[str, Any], expected: int | None) -> None:
    """The suggestion for a layer is its row's, else the pattern's, else the default; 0 is a suggestion."""
    for data in (encoded(document(**top)), tolerantly(encoded(document(**top)))):
        assert read_audit(data).suggested_rank("a") == expected


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ({"knee": {"k": 3}, "erank": {"k": 5}, "x": {"k": "9"}, "y": {}, "z": None}, 5),
        ({"knee": {"k": None}}, None),
        ({}, None),
        (None, None),
        ([1], None),
    ],
)
def test_largest_k(policies: Any, expected: int | None) -> None:
    """The evidence of a row is the largest usable `k` over its policies; a row without any is none."""
    rows = [{"name": "a", "rank_suggestions": policies}, {"name": None, "rank_suggestions": {"knee": {"k": 1}}}]
    assert max(read_audit(encoded(document(layers=rows))).modules.row_ranks("a"), default=None) == expected
    rows = [{"layer_name": "a", "suggestions": policies}]
    audit = read_audit(encoded(document(policies={"per_layer": rows})))
    assert max(audit.policy_ranks("a"), default=None) == expected


def test_first_row_counts() -> None:
    """Of two rows for one layer the first counts: an audit's own rows before Bench's."""
    top = {
        "layers": [{"name": "a", "rank_suggestions": {"knee": {"k": 1}}}],
        "layer_data": {"layer_rows": [{"name": "a", "rank_suggestions": {"knee": {"k": 2}}}]},
    }
    assert read_audit(encoded(document(**top))).modules.row_ranks("a") == [2]


# --- no analysis ----------------------------------------------------------------------------------------------


MISSING = "the audit has no policy_disagreement_analysis"
NOTHING = "an audit of nothing: Gradience found 0 LoRA layers that it could audit"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"policy_disagreement_analysis": None}, "the audit has no policy_disagreement_analysis"),
        (
            {"total_lora_params": 0, "stable_rank_mean": 0, "n_layers": 0},
            f"{NOTHING}; is the folder right, and the adapter a LoRA?",
        ),
        (
            {"total_lora_params": 0, "stable_rank_mean": 0, "n_layers": 0, "issues": ["no such folder", "x"]},
            f"{NOTHING}: no such folder",
        ),
        (
            {"total_lora_params": 9, "stable_rank_mean": 1, "n_layers": 3},
            f"{MISSING}: a Gradience before 0.8 wrote it; audit the adapter again with a newer version",
        ),
        (
            {"total_lora_params": 9, "stable_rank_mean": 1, "n_layers": 3, "rank_policy_schema_version": 1},
            "the audit has no policy_disagreement_analysis",
        ),
        (
            {"probe_rank": 8, "suggested_r_global_median": 4},
            "the audit has no policy_disagreement_analysis; audits that Bench writes itself never have one",
        ),
        (
            {"policy_disagreement_analysis_error": "Quantile out of range"},
            "Gradience's disagreement analysis failed: Quantile out of range",
        ),
        (
            {"policy_disagreement_analysis_error": {"a": [1, None]}},
            'Gradience\'s disagreement analysis failed: {"a": [1, null]}',
        ),
        (
            document(analysis={"analysis_performed": False}),
            "Gradience performed no disagreement analysis: no reason given",
        ),
        (
            document(flagged=[entry("a")], analysis={"analysis_performed": False, "reason": "no_disagreements"}),
            "Gradience performed no disagreement analysis: no_disagreements",
        ),
        ({"policy_disagreement_analysis": {"flagged_layers": [entry("a")]}}, None),
        (document(analysis={"analysis_performed": None}), None),
        ({"policy_disagreement_analysis": {}, "policy_disagreement_analysis_error": "x"}, None),
    ],
)
def test_no_analysis(value: dict[str, Any], why: str | None) -> None:
    """Why there is nothing to select from, in Gradience's own words where it has some."""
    for data in (encoded(value), tolerantly(encoded(value))):
        audit = read_audit(data)
        assert audit.no_analysis == why
        assert why is None or (audit.flagged, audit.candidates) == ((), ())


# --- no audit -------------------------------------------------------------------------------------------------


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
    """A JSON object without the keys of an audit is something else, by both ways of reading."""
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
def test_an_audit_by_its_keys(value: dict[str, Any]) -> None:
    """Each of the keys, or pairs of keys, that audits have and nothing else does makes an audit."""
    for data in (encoded(value), tolerantly(encoded(value))):
        assert read_audit(data).flagged == ()


# --- rejected -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\n", b" \t\r\n", b"\0\0\0\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xff\xfe\n\0"])
def test_empty(data: bytes) -> None:
    """Nothing, blanks, marks and NUL bytes alone are an empty file."""
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
    """JSON that is cut off anywhere is truncated; the message names its end."""
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
    """What is no JSON at all is named with line and column, the parser's words, and the text there."""
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
    """What can't be decoded is named with the place of the first wrong byte."""
    error = refused(data)
    assert error.code == "bad_encoding"
    assert error.message == message


@pytest.mark.parametrize(
    "data",
    [b"[1, 2]\n", b'"text"', b"null", b"true\n", b"12", b"NaN", b" [] \n", b"[{}]", b'{"r": 8}', b'{"r": 8} and more'],
)
def test_other_json(data: bytes) -> None:
    """Other JSON, an object or not, is not an audit: benchd ignores it."""
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
    """Nesting beyond reason is refused, not a crash."""
    assert refused(data).code == "too_deep"


@pytest.mark.parametrize("token", [b"", b'"x": NaN, '], ids=["fast", "tolerant"])
def test_almost_too_deep(token: bytes) -> None:
    """At the edge of the stack, wherever that is, a value that could be read but not quoted is too deep, too."""

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
    """What is meant as an audit but has the wrong shape is named by its path in the document."""
    for data in (encoded(value), tolerantly(encoded(value))):
        error = refused(data)
        assert (error.code, error.message) == ("bad_schema", message)


@pytest.mark.parametrize("lists", [(None, None), ([], []), (None, [])])
def test_empty_lists_are_no_mistake(lists: tuple[Any, Any]) -> None:
    """Lists that are null or empty hold no layers, and that is all."""
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
    """Where gradience itself failed its own words are quoted, and the hint is to mend that first."""
    error = refused(data)
    assert (error.code, error.message) == ("audit_failed", f"gradience says: {quote}")
    assert error.hint.startswith("fix the cause that gradience names")


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
    """Progress lines without JSON are a run that was interrupted, also where the last line is cut off."""
    error = refused(data)
    assert error.code == "audit_interrupted"
    assert error.message == f"gradience was interrupted: {lines} line{'s' * (lines > 1)} of progress, no JSON"


def test_other_text_is_no_interrupted_run() -> None:
    """One line of another kind among the progress lines: this is no audit in the making."""
    assert refused(b"hello\n    computing SVD and metrics for layer: a\n").code == "not_json"


# --- small words ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (1, 1.0), (1.5, 1.5), (-0.0, 0.0), (True, None), ("1", None), (None, None), ([1], None),
        (float("nan"), None), (float("inf"), None), (10**400, None),
    ],
)  # fmt: skip
def test_finite(value: Any, number: float | None) -> None:
    """A finite number is one; null, NaN, texts, bools and what no float can hold are none."""
    assert finite(value) == number


@pytest.mark.parametrize(
    ("value", "rank"),
    [(8, 8), (8.0, 8), (0, 0), (MAX_RANK, MAX_RANK), (MAX_RANK + 1, None), (-1, None), (2.5, None), (True, None)],
)
def test_whole(value: Any, rank: int | None) -> None:
    """A rank is an integer that an adapter can have; `8.0` is one, `True` is not."""
    assert whole(value) == rank
    assert rank is None or type(whole(value)) is int


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" a\n\tb\u2028c ", "a b c"), ("x" * 301, "x" * 299 + "…"), (None, "null"), (["ü"], '["\\u00fc"]'),
        ("\x1b[31mred", "[31mred"),
    ],
)  # fmt: skip
def test_words(value: Any, text: str) -> None:
    """A quoted value is one short printable line."""
    assert words(value) == text


@pytest.mark.parametrize(
    ("text", "readable"), [("a.json", "a.json"), ("gr\udcfcn", "gr\\xfcn"), ("x\ud800", "x\\ud800"), ("ü😀", "ü😀")]
)
def test_utf8(text: str, readable: str) -> None:
    """A name that is not UTF-8 is shown with its bytes escaped."""
    assert utf8(text) == readable


def test_real_file_with_every_trouble() -> None:
    """A real audit keeps its answer under a mark, progress lines, CR LF, NaN and a farewell."""
    clean = content("llama4_many__default.json")
    dirty = b"\xef\xbb\xbf    computing SVD and metrics for layer: a\n" + tolerantly(clean) + b"bye\n"
    assert read_audit(dirty.replace(b"\n", b"\r\n")).flagged == read_audit(clean).flagged


@pytest.mark.parametrize(
    "before",
    [b'{"level":"info"}\n', b"{progress}\n", b"caf\xe9\n", b"[INFO] x\n", b" {\n", b"{ }\n"],
)
@pytest.mark.parametrize("number", [b"1.5", b"NaN"])
def test_any_text_may_stand_before(before: bytes, number: bytes) -> None:
    """The JSON starts at the first line that is exactly `{`, whatever stands before and in whatever encoding."""
    data = PLAIN.replace(b'"policy', b'"some_number": ' + number + b', "policy', 1)
    assert read_audit(data).flagged
    if before.strip() not in {b"{", b"{ }"}:
        assert read_audit(before + data).flagged == read_audit(data).flagged


def test_issues_beyond_measure() -> None:
    """A megabyte of issues is counted as such, not taken apart."""
    data = PLAIN.replace(b'"policy', b'"issues": [' + b"[]," * 400_000 + b'[]], "policy', 1)
    assert read_audit(data).notes[-1] == "Gradience: more issues than can be shown here"


def test_a_long_text_is_told_by_its_ends() -> None:
    """Megabytes of progress, or a failure at the end of them, are told without taking them apart."""
    progress = b"    computing SVD and metrics for layer: a\n" * 10_000
    assert refused(progress).message == "gradience was interrupted: 10000 lines of progress, no JSON"
    assert refused(progress + b"Error: Audit failed: x\n").code == "audit_failed"


@pytest.mark.parametrize("number", ["1.5", "NaN"])
def test_a_brace_on_a_line_of_its_own_within_a_compact_document(number: str) -> None:
    """A document that begins with more than `{` on its first line is whole, also where a line within it is `{`."""
    entry = '\n{\n"layer_name": "a"}'
    text = f'{{"x": {number}, "policy_disagreement_analysis": {{"flagged_layers": [{entry}]}}}}'
    assert [layer.name for layer in read_audit(text.encode()).flagged] == ["a"]
