"""`bench.base_file`: the content of the YAML file, every kind of mistake in it, and the order of precedence."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchd.cli.loading import read_settings
from benchd.settings.base_file import MAX_BASE_FILE, BaseFileError, parse_base_file
from benchd.settings.keys import Settings
from benchd.settings.reading import SettingsError, parse_settings

WHOLE = """\
bench_version: "0.1"
model: {name: m}
task: {dataset: glue, subset: sst2}
train: {seed: 42, lr: 5.0e-5}
lora: {dropout: 0.05}
"""


def parse(text: str) -> dict[str, Any]:
    return parse_base_file(text.encode())


def mistakes(text: str | bytes) -> list[str]:
    with pytest.raises(BaseFileError) as caught:
        parse_base_file(text if isinstance(text, bytes) else text.encode())
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


@pytest.fixture(params=[True, False], ids=["libyaml", "python"], autouse=True)
def _parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test with PyYAML's fast parser, and with the parser for systems without libyaml."""
    if not request.param:
        monkeypatch.delattr(yaml, "CSafeLoader")


# --- accepted values ------------------------------------------------------------------------------------------

FEATURES = """\
%YAML 1.1
---
# comment
run_type: 'smoke'
compression: &c {seeds: [1, 2], allowed_ranks: [0x10, 010, 1_000]}
shared: &s
  a: 1
  b: [*c, *c]
over:
  <<: [*s, {b: 2, c: 3}, {c: 4, d: ~}]
  a: yes
text: |
  two
  lines
folded: >-
  one
  line
odd: {"<<": 1, "yes": no, "=": "=", "": ~, 'é': "\\u263a\\x07", x y: !!str 5}
numbers: [1.5, -2.0e-4, 1e3, +12, 190:20:30, 0b11, 1_0.5, !!float 3]
train:
"""


def test_as_safe_load_reads() -> None:
    """Anchors, merge keys, block texts and numbers in any notation have the values that `safe_load` gives."""
    expected = yaml.safe_load(FEATURES)
    del expected["train"]  # a table without keys
    found = parse(FEATURES)
    assert found == expected
    assert next(iter(found)) == "compression"
    assert found["over"] == {"b": [expected["compression"]] * 2, "a": True, "c": 3, "d": None}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["a", "seed", "Env"]), VALUES, min_size=1))
def test_any_value(value: dict[str, Any]) -> None:
    """YAML keeps every value that JSON has."""
    text = yaml.dump(value, Dumper=yaml.CSafeDumper, allow_unicode=True, sort_keys=False)
    assert json.dumps(parse(text)) == json.dumps(value)


def test_a_byte_order_mark() -> None:
    """Ignores a byte order mark at the start."""
    assert parse("\ufeffseed: 1") == {"seed": 1}


def test_other_keys_and_nulls() -> None:
    """Keys other than Bench's tables, and nulls, follow the tables unchanged, and an empty table is omitted."""
    found = parse(WHOLE + "runtime:\nseed: 42\nenv: {A: b}\nhypothesis: ~\nmetadata: {author: null}\n")
    assert list(found) == ["model", "task", "train", "lora", "bench_version", "seed", "env", "hypothesis", "metadata"]
    assert (found["hypothesis"], found["metadata"]) == (None, {"author": None})


# --- mistakes in it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("a: b: c", "line 1, column 5: not valid YAML: mapping values are not allowed"),
        ("a:\n  - [1, 2\nb: 3\n", "line 3, column 2: not valid YAML: "),
        ("a: *x", "line 1, column 4: not valid YAML: found undefined alias"),
        ("a: 1\n---\nb: 2", "line 2, column 1: not valid YAML: but found another document"),
        ("%YAML 2.0\n---\na: 1", "line 1, column 1: not valid YAML: found incompatible YAML document"),
        ("a: 1\nb: \x07", "line 2, column 4: not valid YAML: the character '\\x07' is not allowed"),
        ('a: "\\U99999999"', ""),
        ("a: " + "[" * 500, "line 1, column 21: more than 18 levels of mappings and lists"),
        ("a: " + "[" * 100_000, "line 1, column "),
        ("", "it is empty; expected a mapping with Bench's tables"),
        ("# nothing\n", "it is empty; expected a mapping with Bench's tables"),
        ("[1]", "expected a mapping with Bench's tables, got [1]"),
        ("5", "expected a mapping with Bench's tables, got 5"),
        ("2026-01-01", 'line 1, column 1: "2026-01-01" is a date'),
        (b"a: \xff", "not UTF-8 at byte 3"),
        ("a: 1".encode("utf-16"), "not UTF-8 at byte 0"),
        (b"#" * (MAX_BASE_FILE + 1), "larger than 1048576 bytes"),
    ],
    ids=lambda value: ascii(value[:20]),
)
def test_unusable(text: str | bytes, start: str) -> None:
    """A file that is not text, not YAML or not a mapping is one mistake, with its place."""
    [problem] = mistakes(text)
    assert problem.startswith(start)
    assert "\n" not in problem
    assert len(problem) < 150


DATE = "is a date, which JSON doesn't have; in quotes it is text"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nt: {d: 2026-01-01}", f'line 2: t.d: "2026-01-01" {DATE}'),
        ("a: [2026-01-01 10:00:00]", f'line 1: a[0]: "2026-01-01 10:00:00" {DATE}'),
        ("a: =", 'line 1: a: "=" has a special meaning in YAML; in quotes it is text'),
        ("a: <<", 'line 1: a: "<<" has a special meaning in YAML; in quotes it is text'),
        ("a: !!binary YQ==", "line 1: a: JSON has no type for YAML's binary"),
        ("a: !!set {b}", "line 1: a: JSON has no type for YAML's set"),
        ("a: !!omap [b: 1]", "line 1: a: JSON has no type for YAML's omap"),
        ("a: !!python/name:os.system", "line 1: a: JSON has no type for YAML's python/name:os.system"),
        ("a: !own 1", "line 1: a: JSON has no type for YAML's !own"),
        ("a: !!int x", 'line 1: a: "x" is not a valid int'),
        ("a: !!int ''", 'line 1: a: "" is not a valid int'),
        ("a: !!bool x", 'line 1: a: "x" is not a valid bool'),
        ("a: !!float x", 'line 1: a: "x" is not a valid float'),
        ("a: 0b_", 'line 1: a: "0b_" is not a valid int'),
        ("a: .inf", "line 1: a: expected a finite number, got inf"),
        ("a: -.Inf", "line 1: a: expected a finite number, got -inf"),
        ("a: .nan", "line 1: a: expected a finite number, got nan"),
        ("a: 1.0e+999", "line 1: a: expected a finite number, got inf"),
        ("a: 9223372036854775808", "line 1: a: expected an integer of 64 bits, got 9223372036854775808"),
        ("a: 1" + ":59" * 200, "line 1: a: expected a number, got one of 601 characters"),
        ("a: 1" + "0" * 5000, "line 1: a: expected a number, got one of 5001 characters"),
        ("5: a", 'line 1, column 1: expected a key that is text, got "5"; put it in quotes'),
        ("yes: a", 'line 1, column 1: expected a key that is text, got "yes"; put it in quotes'),
        ("a:\n  ~: b", 'line 2, column 3: a: expected a key that is text, got "~"; put it in quotes'),
        ("? [a]\n: b", "line 1, column 3: expected a key that is text, got a seq"),
        ("k" * 251 + ": b", "line 1, column 1: expected a key of at most 250 characters, got 251"),
        ("a: 1\nb: 2\na: 3", "line 3: a: duplicate key; the first is in line 1"),
        (
            "train:\n  seed: 1\n  x: [{y: 1, y: 2}]",
            "line 3: train.x[0].y: duplicate key; the first is in line 3",
        ),
        ("a: &x [*x]", "line 1: a[0]: an alias in it refers to the value itself, without end"),
        ("a: &x {<<: *x}", "line 1: a: an alias in it refers to the value itself, without end"),
        ("a: {<<: 1}", "line 1: a: expected a mapping, or a list of mappings, after <<"),
        ("a: {<<: [{}, [b]]}", "line 1: a: expected a mapping, or a list of mappings, after <<"),
        ("train: 5", "line 1: train: expected a table, got 5"),
        ("a: 1\ntrian: {seed: 1}", 'line 2: trian: unknown key; did you mean "train"?'),
        ("selection: {}", "line 1: selection: benchd writes this key itself; remove it"),
        ("train:\n\n  seed: a", 'line 3: train.seed: expected an integer from 0 to 4294967295, got "a"'),
        ("train: {x: " + "[" * 16 + "]" * 16 + "}", ""),
        ("train: {x: " + "[" * 17 + "]" * 17 + "}", "more than 18 levels"),
    ],
)
def test_mistakes(text: str, problem: str) -> None:
    """Each mistake names its line, and its key if it has one."""
    if not problem:
        assert parse(text)
    elif problem.startswith("line"):
        assert mistakes(text) == [problem]
    else:
        assert problem in mistakes(text)[0]


@pytest.mark.parametrize(
    ("value", "better"),
    [("2e-4", "2.0e-4"), ("5e-5", "5.0e-5"), ("1e3", "1.0e+3"), ("1.5e3", "1.5e+3"), ("1.e-3", "1.0e-3")],
)
@pytest.mark.parametrize("key", ["train.learning_rate", "train.lr", "train.weight_decay", "lora.alpha"])
def test_numbers_that_are_text(key: str, value: str, better: str) -> None:
    """The message has a hint for a number that YAML 1.1 reads as text, if Bench uses the key in computations."""
    table, name = key.split(".")
    text = f"{table}:\n  {name}: {value}\n"
    if isinstance(yaml.safe_load(text)[table][name], float):
        assert parse(text)
        return
    [problem] = mistakes(text)
    assert problem.startswith(f"line 2: {key}: expected a number ")
    assert problem.endswith(f', got "{value}"; YAML reads {value} as text: write {better}')
    assert math.isclose(parse(f"{table}: {{{name}: {better}}}")[table][name], float(value))


def test_text_without_a_hint() -> None:
    """Gives no hint for text that is not a number, or for a key that Bench does not use in computations."""
    assert mistakes("lora: {alpha: much}") == ['line 1: lora.alpha: expected a number above 0, got "much"']
    assert parse("metadata: {commit: 12e5}") == {"metadata": {"commit": "12e5"}}


def test_all_mistakes_at_once() -> None:
    """Reports every mistake once, even if many aliases refer to it."""
    text = "a: &x {d: 2026-01-01, e: !!int x}\nb: [*x, *x, {<<: *x}]\nlora: {alpha: 0}\nprovenance: ~\n1: 2\n"
    assert mistakes(text) == [
        f'line 1: a.d: "2026-01-01" {DATE}',
        'line 1: a.e: "x" is not a valid int',
        'line 5, column 1: expected a key that is text, got "1"; put it in quotes',
        "line 3: lora.alpha: expected a number above 0, got 0",
        "line 4: provenance: benchd writes this key itself; remove it",
    ]


def _laughs(kind: str) -> str:
    lines = ["a0: &a0 {k: v}" if kind == "merge" else f"a0: &a0 [{'x' * 50}]"]
    for level in range(1, 12):
        aliases = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} " + (f"{{<<: [{aliases}]}}" if kind == "merge" else f"[{aliases}]"))
    return "\n".join(lines)


@pytest.mark.parametrize("kind", ["list", "merge"])
def test_aliases_of_aliases(kind: str) -> None:
    """Refuses a small file whose aliases expand to billions of values, without expanding them."""
    assert mistakes(_laughs(kind)) == ["with every alias replaced it is larger than 1048576 characters"]


def test_long_texts_by_aliases() -> None:
    """The length of the aliases' values counts, not only their number."""
    text = f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 20)}]\n"
    assert mistakes(text) == ["with every alias replaced it is larger than 1048576 characters"]
    assert len(parse(text.replace("*a, " * 15, ""))["b"]) == 5


def test_aliases_nest_deeply() -> None:
    """Aliases can't nest deeper than mappings and lists without aliases."""
    lines = ["a0: &a0 [x]", *(f"a{level}: &a{level} [*a{level - 1}]" for level in range(1, 30))]
    assert "more than 18 levels of mappings and lists" in mistakes("\n".join(lines))[0]


# --- in the settings ------------------------------------------------------------------------------------------

FILES = {
    "/etc/bench.yaml": WHOLE,
    "/etc/other.yaml": WHOLE.replace("name: m", "name: other").replace("seed: 42", "seed: 43, epochs: 2"),
    "/etc/part.yaml": "lora: {dropout: 0.05, alpha: ~}\nrun_type: part\n",
}


def settings(text: str, files: dict[str, str] = FILES) -> Settings:
    def read_file(path: str) -> bytes:
        if path not in files:
            raise FileNotFoundError(2, "No such file or directory", path)
        return files[path].encode()

    return parse_settings(text, source="s.toml", base="/etc", read_file=read_file)


def problems(text: str, files: dict[str, str] = FILES) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        settings(text, files)
    return caught.value.problems


def test_a_file() -> None:
    """The file's keys are the base, `base_file` is absolute, and the origin of each key is recorded."""
    found = settings("[bench]\nbase_file = 'bench.yaml'\n")
    assert found.bench.base == {
        "model": {"name": "m"},
        "task": {"dataset": "glue", "subset": "sst2"},
        "train": {"seed": 42, "lr": 5e-5},
        "lora": {"dropout": 0.05},
        "bench_version": "0.1",
    }
    assert found.bench.base_file == "/etc/bench.yaml"
    assert found.origins["bench.base.train.lr"] == "/etc/bench.yaml"
    assert found.origins["bench.base_file"] == found.origins["bench.base"] == "s.toml"


def test_the_home_folder() -> None:
    """`~` in the path is the home folder."""
    found = parse_settings(
        "[bench]\nbase_file = '~/b.yaml'\n",
        base="/etc",
        read_file={"/home/someone/b.yaml": WHOLE.encode()}.__getitem__,
        expand_user=lambda path: path.replace("~", "/home/someone"),
    )
    assert found.bench.base_file == "/home/someone/b.yaml"


def test_no_file() -> None:
    """An empty string names no file."""
    assert settings("[bench]\nbase_file = ''\n").bench.base_file == ""
    assert settings("[bench]\nbase_file = ''\n").bench.base == {}


def test_the_tables_win() -> None:
    """A key of `[bench.base]` overrides the file's at every depth, and the other keys stay."""
    found = settings(
        "[bench]\nbase_file = 'bench.yaml'\n[bench.base]\nbench_version = 2\nown = 1\ntrain = { seed = 1, steps = 5 }\n"
    )
    assert found.bench.base["train"] == {"seed": 1, "lr": 5e-5, "steps": 5}
    assert list(found.bench.base)[4:] == ["bench_version", "own"]
    assert found.bench.base["bench_version"] == 2
    assert {key: found.origins[f"bench.base.train.{key}"] for key in ("seed", "lr", "steps")} == {
        "seed": "s.toml",
        "lr": "/etc/bench.yaml",
        "steps": "s.toml",
    }


def test_the_file_completes_the_tables() -> None:
    """Only the file and the tables together must have all needed keys."""
    tables = (
        "[bench]\nbase_file = 'part.yaml'\n[bench.base]\nmodel = { name = 'm' }\n"
        "task = { dataset = 'glue', subset = 'sst2' }\n"
    )
    assert settings(f"{tables}train = {{ seed = 1 }}").bench.base["run_type"] == "part"
    assert problems(tables) == [
        "s.toml: bench.base.train.seed: missing, also in /etc/part.yaml; Bench can't run without it"
    ]


FOLDERS = """
[bench]
base_file = "bench.yaml"
[bench.base.train]
seed = 1
[[watch]]
path = "/general"
[[watch]]
path = "/own"
[watch.bench]
base_file = "other.yaml"
[watch.bench.base.train]
epochs = 3
[[watch]]
path = "/tables"
[watch.bench.base.train]
lr = 0.5
"""


def test_a_file_for_one_folder() -> None:
    """A folder's own file replaces the general one, and the keys of both `[bench.base]` tables override it."""
    found = settings(FOLDERS)
    general, own, tables = found.watch
    assert general.bench == found.bench
    assert own.bench.base_file == "/etc/other.yaml"
    assert own.bench.base["model"] == {"name": "other"}
    assert own.bench.base["train"] == {"seed": 1, "epochs": 3, "lr": 5e-5}
    assert tables.bench.base == {**found.bench.base, "train": {"seed": 1, "lr": 0.5}}
    origins = {key: origin for key, origin in found.origins.items() if key.startswith("watch[1].bench.base.")}
    assert origins.pop("watch[1].bench.base.train.seed") == "s.toml"
    assert origins.pop("watch[1].bench.base.train.epochs") == "s.toml"
    assert set(origins.values()) == {"/etc/other.yaml"}
    assert [key for key in found.origins if key.startswith("watch[2].bench.")] == [
        "watch[2].bench.base",
        "watch[2].bench.base.train.lr",
    ]


def test_no_file_for_one_folder() -> None:
    """With an empty string a folder does not use the general file."""
    found = settings("[bench]\nbase_file = 'bench.yaml'\n[[watch]]\npath = '/x'\n[watch.bench]\nbase_file = ''\n")
    assert found.watch[0].bench.base == {}
    assert found.bench.base["model"] == {"name": "m"}
    [problem, *_] = problems(FOLDERS.replace('"other.yaml"', '""'))
    assert problem.startswith("s.toml: watch[1].bench.base.model.name: missing; Bench can't run without it")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("5", "s.toml: bench.base_file: expected the path of a YAML file, or an empty string for none, got 5"),
        ('"a\\u0000"', "s.toml: bench.base_file: expected the path of a YAML file, or an empty "),
        ("'none.yaml'", "s.toml: bench.base_file: /etc/none.yaml can't be read: No such file or directory"),
    ],
)
def test_no_such_file(value: str, expected: str) -> None:
    """A `base_file` that is not a path is one mistake, without missing keys of the base."""
    [problem] = problems(f"[bench]\nbase_file = {value}\n")
    assert problem.startswith(expected)


def test_unusable_file_hides_missing_keys() -> None:
    """Does not report missing keys if the file can't be used, because the file may have them."""
    [problem] = problems("[bench]\nbase_file = 'none.yaml'\n[bench.base.train]\nseed = 1\n")
    assert "none.yaml can't be read" in problem
    [problem] = problems("[bench]\nbase_file = 5\n[bench.base.train]\nseed = 1\n")
    assert "expected the path of a YAML file" in problem


def test_no_reader() -> None:
    """Without a function that reads files, a `base_file` is a mistake."""
    with pytest.raises(SettingsError) as caught:
        parse_settings("[bench]\nbase_file = '/x'\n")
    assert caught.value.problems == [
        "config.toml: bench.base_file: /x can't be read: no function that reads files was given"
    ]


def test_mistakes_of_settings_and_file() -> None:
    """Reports all mistakes of the settings and the files together, and those of a shared file once."""
    text = """
[selection]
top_n = -1
[bench]
base_file = "a.yaml"
[[watch]]
path = "/x"
[watch.bench]
base_file = "b.yaml"
[[watch]]
path = "/y"
[watch.bench]
base_file = "./a.yaml"
[watch.bench.base.lroa]
"""
    assert problems(text, {"/etc/a.yaml": "a: 2026-01-01\n", "/etc/b.yaml": "train:\n  lr: 2e-4\nb: 1\nb: 2\n"}) == [
        "s.toml: selection.top_n: expected an integer >= 0, got -1",
        f'/etc/a.yaml: line 1: a: "2026-01-01" {DATE}',
        "/etc/b.yaml: line 4: b: duplicate key; the first is in line 3",
        '/etc/b.yaml: line 2: train.lr: expected a number above 0, got "2e-4"; YAML reads 2e-4 as text: write 2.0e-4',
        's.toml: watch[1].bench.base.lroa: unknown key; did you mean "lora"?',
    ]


# --- real files -----------------------------------------------------------------------------------------------


def test_read(tmp_path: Path) -> None:
    """A relative path is relative to the settings file."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "bench.yaml").write_text(WHOLE, encoding="utf-8")
    file = tmp_path / "etc" / "config.toml"
    file.write_text("[bench]\nbase_file = 'bench.yaml'\n", encoding="utf-8")
    found = read_settings(str(file)).bench
    assert (found.base["model"], found.base_file) == ({"name": "m"}, str(tmp_path / "etc" / "bench.yaml"))


def test_unreadable_files(tmp_path: Path) -> None:
    """A missing file, a folder, a pipe without a writer, a loop of links and too large a file give one line each."""
    import os

    file = tmp_path / "config.toml"
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "large").write_bytes(b"#" * (MAX_BASE_FILE + 1))
    (tmp_path / "most").write_bytes(WHOLE.encode() + b"#" * (MAX_BASE_FILE - len(WHOLE)))
    expected = {
        "none": "config.toml: bench.base_file: {} can't be read: No such file or directory",
        "folder": "config.toml: bench.base_file: {} can't be read: Is a directory",
        "pipe": "config.toml: bench.base_file: {} can't be read: it is not a regular file",
        "loop": "config.toml: bench.base_file: {} can't be read: Too many levels of symbolic links",
        "large": "{}: larger than 1048576 bytes",
    }
    for name, line in expected.items():
        file.write_text(f"[bench]\nbase_file = '{name}'\n", encoding="utf-8")
        with pytest.raises(SettingsError) as caught:
            read_settings(str(file))
        [problem] = caught.value.problems
        assert problem.endswith(line.format(tmp_path / name))
    file.write_text("[bench]\nbase_file = 'most'\n", encoding="utf-8")
    assert read_settings(str(file)).bench.base["model"] == {"name": "m"}
