"""`[bench.base]`: accepted values, every kind of mistake, missing keys, and the tables of single folders."""

from __future__ import annotations

from typing import Any

import pytest

from benchd import BenchSettings
from benchd.cli.loading import with_folders
from benchd.settings.base import TABLES, base_digest, check, leaves, merged, missing, tells
from benchd.settings.reading import SettingsError, folder_for, parse_settings

WHOLE = """
[bench.base]
model = { name = "m" }
task = { dataset = "glue", subset = "sst2" }
train = { seed = 42 }
lora = { dropout = 0.05 }
"""
BASE = {
    "model": {"name": "m"},
    "task": {"dataset": "glue", "subset": "sst2"},
    "train": {"seed": 42},
    "lora": {"dropout": 0.05},
}


def problems(text: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        parse_settings(text)
    return caught.value.problems


def mistakes(table: str) -> list[str]:
    """Return the mistakes that the lines `table` add to a complete base."""
    return problems(f"{WHOLE}{table}\n")


# --- accepted values --------------------------------------------------------------------------------------------


def test_nothing() -> None:
    """Without the table, or with an empty one, the base is empty and has no missing keys."""
    assert parse_settings("").bench.base == parse_settings("[bench.base]").bench.base == {}
    assert missing({}) == []


def test_tables() -> None:
    """The tables keep all their keys, and have Bench's order."""
    settings = parse_settings(
        """
[bench.base.runtime]
device = "cpu"
[bench.base.model]
name = "m"
torch_dtype = "bf16"
[bench.base.task]
dataset = "gsm8k"
subset = "main"
generation = { max_new_tokens = 128, do_sample = false }
[bench.base.train]
seed = 0
learning_rate = 5e-5
report_to = "none"
[bench.base.lora]
probe_r = 16
alpha = 32
dropout = 0
target_modules = ["q_proj"]
[bench.base.compression]
allowed_ranks = [2, 4]
acc_tolerance = 0.025
[bench.base.audit]
compute_udr = false
"""
    )
    base = settings.bench.base
    assert tuple(base) == TABLES
    assert base["task"]["generation"] == {"max_new_tokens": 128, "do_sample": False}
    assert base["train"] == {"seed": 0, "learning_rate": 5e-5, "report_to": "none"}
    assert base["lora"]["target_modules"] == ["q_proj"]
    assert settings.origins["bench.base.train.learning_rate"] == "config.toml"


@pytest.mark.parametrize(
    "line",
    [
        "lora.target_modules = '.*_proj'",
        "lora.alpha = 0.5",
        "lora.dropout = 1",
        "compression.seeds = [1, 2]",
        "train.lr = 1e-3",
        "train.weight_decay = 0",
        "train.warmup_ratio = 0.1",
        "compression.acc_tolerance = 0.025",
        "train.anything = [[1, { a = [true] }], 'x', -1.5, 0]",
    ],
)
def test_accepted(line: str) -> None:
    """Keys that Bench uses in computations accept the values that Bench accepts, and other keys any value of JSON."""
    whole = "[bench.base]\n" + "\n".join(
        f"{key} = {value!r}" for key, value in leaves(BASE) if not line.startswith(f"{key} ")
    )
    assert missing(parse_settings(f"{whole}\n{line}\n").bench.base) == []


def test_other_keys() -> None:
    """Keys other than Bench's tables follow the tables unchanged, in the order of the file."""
    settings = parse_settings(
        """
[bench.base]
zeta = 0.5
run_type = "smoke"
flags = [1, [true]]
env = { empty = {} }
model = { name = "m" }
metadata = { author = { name = "x" } }
task = { dataset = "glue", subset = "sst2" }
train = { seed = 42 }
lora = { dropout = 0.05 }
seed = 1
"""
    )
    others = {
        "zeta": 0.5,
        "run_type": "smoke",
        "flags": [1, [True]],
        "env": {"empty": {}},
        "metadata": {"author": {"name": "x"}},
        "seed": 1,
    }
    assert list(settings.bench.base.items()) == [*BASE.items(), *others.items()]
    assert {key for key in settings.origins if "bench.base." in key} >= {"bench.base.zeta", "bench.base.env.empty"}


@pytest.mark.parametrize("line", ["runtype = 1", "lora_r = 8", "tasks = 'a'", "mode = 'fast'", "env = {}", "seed = 7"])
def test_nothing_else_is_a_misspelt_table(line: str) -> None:
    """Only a table whose name is close to one of Bench's tables counts as misspelt."""
    assert line.split(" = ", maxsplit=1)[0] in parse_settings(f"{WHOLE}{line}\n").bench.base


# --- mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("[bench.base.trian]", 'trian: unknown key; did you mean "train"?'),
        ("[bench.base.lroa]", 'lroa: unknown key; did you mean "lora"?'),
        ("[bench.base.tasks]", 'tasks: unknown key; did you mean "task"?'),
        ("[bench.base.compresion]", 'compresion: unknown key; did you mean "compression"?'),
        ("[bench.base]\nschema_version = 1", "schema_version: benchd writes this key itself; remove it"),
        ("[bench.base]\ncompression_strategies = []", "compression_strategies: benchd writes this key itself"),
        ("[bench.base.selection]", "selection: benchd writes this key itself; remove it"),
        ("[bench.base.provenance]", "provenance: benchd writes this key itself; remove it"),
        ("[bench.base]\nwhen = 2026-01-01", "when: expected a string, a number, "),
        ("[bench.base]\nenv = { a = [inf] }", "env.a[0]: expected a finite number, got inf"),
        (f"[bench.base]\n{'k' * 251} = 1", "expected a key of at most 250 characters, got 251"),
        ("[bench.base]\nruntime = 'cpu'", 'runtime: expected a table, got "cpu"'),
        ("[bench.base.runtime]\nwhen = 2026-01-01", "runtime.when: expected a string, a number, "),
        ("[bench.base.runtime]\nat = [[07:32:00]]", "runtime.at[0][0]: expected a string, a number, "),
        ("[bench.base.runtime]\na = { b = inf }", "runtime.a.b: expected a finite number, got inf"),
        ("[bench.base.runtime]\na = nan", "runtime.a: expected a finite number, got nan"),
        ("[bench.base.runtime]\na = 9223372036854775808", "runtime.a: expected an integer of 64 bits, got 9223372036"),
        (f"[bench.base.runtime]\n{'k' * 251} = 1", "expected a key of at most 250 characters, got 251"),
        (f"[bench.base.runtime]\na.{'k' * 251} = 1", "expected a key of at most 250 characters, got 251"),
        (f"[bench.base.runtime]\na = {'[' * 17}{']' * 17}", "expected at most 16 levels of tables and lists"),
        ("[bench.base.train]\nlearning_rate = '5e-5'", 'train.learning_rate: expected a number above 0, got "5e-5"'),
        ("[bench.base.train]\nweight_decay = '0'", 'train.weight_decay: expected a number >= 0, got "0"'),
        ("[bench.base.train]\nwarmup_ratio = -0.1", "train.warmup_ratio: expected a number >= 0, got -0.1"),
        ("[bench.base.compression]\nacc_tolerance = 'x'", 'compression.acc_tolerance: expected a number >= 0, got "x"'),
        ("[bench.base.train]\nlr = 0", "train.lr: expected a number above 0, got 0"),
        ("[bench.base.train]\nseed = -1", "train.seed: expected an integer from 0 to 4294967295, got -1"),
        ("[bench.base.train]\nseed = true", "train.seed: expected an integer from 0 to 4294967295, got true"),
        ("[bench.base.train]\nmax_steps = 1.5", "train.max_steps: expected an integer >= 1, got 1.5"),
        ("[bench.base.model]\nname = ' '", 'model.name: expected a string that is not empty, got " "'),
        ("[bench.base.task]\nsubset = 2", "task.subset: expected a string that is not empty, got 2"),
        ("[bench.base.lora]\nprobe_r = 0", "lora.probe_r: expected an integer from 1 to 65536, got 0"),
        ("[bench.base.lora]\nalpha = true", "lora.alpha: expected a number above 0, got true"),
        ("[bench.base.lora]\ndropout = 1.5", "lora.dropout: expected a number from 0 to 1, got 1.5"),
        ("[bench.base.lora]\ntarget_modules = []", "lora.target_modules: expected a list of module names that is not"),
        ("[bench.base.lora]\ntarget_modules = [1]", "lora.target_modules: expected a list of module names that is not"),
        ("[bench.base.compression]\nallowed_ranks = []", "compression.allowed_ranks: expected a list of ranks from 1"),
        ("[bench.base.compression]\nallowed_ranks = 8", "compression.allowed_ranks: expected a list of ranks from 1 "),
        ("[bench.base.compression]\nseeds = ['a']", "compression.seeds: expected a list of seeds that is not empty, "),
    ],
)  # fmt: skip
def test_mistakes(lines: str, expected: str) -> None:
    """Each mistake names the key, the expected value and the value found, in one message per key."""
    [problem] = [line for line in problems(lines) if "missing" not in line]
    assert problem.startswith("config.toml: bench.base.")
    assert expected in problem
    assert len(problem) < 250


def test_not_a_table() -> None:
    """A base that is not a table is one mistake."""
    assert problems("[bench]\nbase = 1") == ["config.toml: bench.base: expected a table, got 1"]


def test_a_mistake_hides_missing_keys() -> None:
    """Does not report missing keys if the tables have a mistake, because the mistake may be the reason."""
    assert problems("[bench.base.modle]\nname = 'm'") == [
        'config.toml: bench.base.modle: unknown key; did you mean "model"?'
    ]


def test_half_surrogate_pairs() -> None:
    """Half of a surrogate pair, from an escape in YAML, is a mistake, because UTF-8 can't encode it."""
    assert [
        mistake.text.split(", ")[0] for mistake in check({"a": "\ud83d", "\udc00": 1, "model": {"\ud800": {}}})
    ] == [
        "expected whole characters",
        "expected a key of whole characters",
        "expected a key of whole characters",
    ]


# --- missing keys ------------------------------------------------------------------------------------------


def test_every_missing_key_in_one_error() -> None:
    """Reports all keys that Bench needs and the base lacks in one error, with other mistakes."""
    found = problems("[bench]\nuniform_rank = 0\n[bench.base.runtime]\ndevice = 'cpu'")
    keys = [line.split(": ")[1] for line in found if "missing; Bench can't run without it" in line]
    assert keys == [
        "bench.base.model.name",
        "bench.base.task.dataset",
        "bench.base.task.subset",
        "bench.base.train.seed",
        "bench.base.lora.dropout",
    ]
    assert len(found) == 6
    assert "(bench.adapter_config = true would take it from the adapter's own file)" in found[1]


def test_keys_from_the_adapter() -> None:
    """With `bench.adapter_config` the base may omit the base model and the dropout."""
    text = "[bench.base]\ntask = { dataset = 'glue', subset = 'sst2' }\ntrain = { seed = 1 }\n"
    assert len(problems(text)) == 2
    assert parse_settings(f"[bench]\nadapter_config = true\n{text}").bench.adapter_config


@pytest.mark.parametrize(("seeds", "needed"), [("[1]", True), ("[1, 2]", False)])
def test_several_seeds(seeds: str, needed: bool) -> None:
    """A run over several seeds needs no `train.seed`, because it sets each seed itself."""
    base = merged(BASE, {"compression": {"seeds": eval(seeds)}})
    del base["train"]["seed"]
    assert missing(base) == (["train.seed"] if needed else [])


def test_null() -> None:
    """A null, which only YAML has, is not a mistake, and the key or table counts as missing."""
    base = {**BASE, "model": {"name": None}, "train": None, "lora": {"alpha": None, "dropout": 0.1}, "note": None}
    assert list(check(base)) == []
    kept = merged({}, base)
    assert "train" not in kept
    assert (kept["model"], kept["lora"], kept["note"]) == ({"name": None}, {"alpha": None, "dropout": 0.1}, None)
    assert missing(kept) == ["model.name", "train.seed"]
    assert missing(merged(kept, {"compression": {"seeds": None}})) == ["model.name", "train.seed"]


def test_dotted_key() -> None:
    """A key at the top level with a dot in its name, like TABLE.KEY, does not set KEY in TABLE."""
    base = {**BASE, "lora": {}, "lora.dropout": 0.1}
    assert missing(base) == ["lora.dropout"]
    assert not tells(base, "lora.dropout")


# --- folders --------------------------------------------------------------------------------------------------

FOLDERS = """
[[watch]]
path = "/a"
[[watch]]
path = "/b"
[watch.bench]
focus = true
[watch.bench.base.model]
name = "other"
[watch.bench.base.task.generation]
max_new_tokens = 8
"""


def test_overrides_of_a_folder() -> None:
    """Merges the tables of a folder into the general ones, key by key, without changing other folders."""
    general = WHOLE.replace('"sst2"', '"sst2", generation = { do_sample = true }')
    settings = parse_settings(general + FOLDERS)
    plain, own = settings.watch
    assert plain.bench.base == settings.bench.base
    assert own.bench.base == {
        **BASE,
        "model": {"name": "other"},
        "task": {"dataset": "glue", "subset": "sst2", "generation": {"do_sample": True, "max_new_tokens": 8}},
    }
    assert (plain.bench.focus, own.bench.focus) == (False, True)
    assert settings.bench.base["model"] == {"name": "m"}
    assert folder_for(settings, "/b/c").bench.base == own.bench.base


def test_complete_in_each_folder() -> None:
    """The general tables may omit keys that every folder sets."""
    rest = WHOLE.replace('model = { name = "m" }\n', "")
    text = f'{rest}[[watch]]\npath = "/a"\nbench.base.model.name = "a"\n'
    assert parse_settings(text).watch[0].bench.base["model"] == {"name": "a"}
    [problem] = problems(f'{text}[[watch]]\npath = "/b"\n[[watch]]\npath = "/c"\n')
    assert problem.startswith("config.toml: bench.base.model.name: missing; Bench can't run without it")


def test_a_folder_lacks() -> None:
    """Reports keys that a folder's own tables lack under the folder."""
    assert [line.split(": ")[1] for line in problems('[[watch]]\npath = "/a"\nbench.base.train.seed = 1\n')] == [
        "watch[0].bench.base.model.name",
        "watch[0].bench.base.task.dataset",
        "watch[0].bench.base.task.subset",
        "watch[0].bench.base.lora.dropout",
    ]
    assert problems('[[watch]]\npath = "/a"\nbench.base.trian.seed = 1\n') == [
        'config.toml: watch[0].bench.base.trian: unknown key; did you mean "train"?'
    ]


# --- the tables themselves ------------------------------------------------------------------------------------


def test_merged_is_new() -> None:
    """Merging changes neither argument."""
    base: dict[str, Any] = {"train": {"a": {"b": 1}, "c": [1, 2]}}
    over: dict[str, Any] = {"train": {"a": {"d": 2}, "c": [3]}, "model": {}}
    both = merged(base, over)
    assert both == {"model": {}, "train": {"a": {"b": 1, "d": 2}, "c": [3]}}
    both["model"]["name"] = both["train"]["a"]["e"] = 1
    assert base == {"train": {"a": {"b": 1}, "c": [1, 2]}}
    assert over == {"train": {"a": {"d": 2}, "c": [3]}, "model": {}}


def test_null_replaces_nothing() -> None:
    """A null does not replace a value, but a value replaces a null."""
    assert merged({"a": 1, "b": None, "t": {"c": 2}}, {"a": None, "b": 3, "t": {"c": None, "d": None}}) == {
        "a": 1,
        "b": 3,
        "t": {"c": 2, "d": None},
    }


def test_digest() -> None:
    """The digest is short, and differs for different content."""
    bases = [BASE, merged(BASE, {"lora": {"dropout": 0.1}}), merged(BASE, {"lora": {"alpha": 1}}), {}]
    digests = {base_digest(base) for base in bases}
    assert len(digests) == len(bases)
    assert {len(digest) for digest in digests} == {16}


def test_default_is_not_shared() -> None:
    """Two settings without a base have separate empty bases."""
    assert BenchSettings().base is not BenchSettings().base


def test_folders_of_the_command_line() -> None:
    """Refuses a path on the command line if its base lacks keys that only the file's folders set."""
    rest = WHOLE.replace('model = { name = "m" }\n', "")
    settings = parse_settings(f'{rest}[[watch]]\npath = "/a"\nbench.base.model.name = "a"\n')
    assert with_folders(settings, ["/a/below"]).watch[0].bench.base["model"] == {"name": "a"}
    with pytest.raises(SettingsError) as caught:
        with_folders(settings, ["/a", "/b"])
    [problem] = caught.value.problems
    assert problem.startswith("/b: bench.base.model.name: missing; Bench can't run without it")
