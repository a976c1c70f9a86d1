"""`benchd export`: for PEFT, for Axolotl, and for Bench."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from benchd import BenchSettings, bench_config, read_audit, select
from benchd.bench.training import plan_training
from benchd.cli.yaml_text import yaml_text
from commands import invoke
from corpus import AUDITS, USABLE, Sample, document, encoded, entry
from limits import short_files

BASE = """
[bench]
focus = true
[bench.base]
model = { name = "m: #1", torch_dtype = "no" }
task = { dataset = "glue", subset = "sst2", empty = {}, none = [], nested = [[1, [2.5]], { a = "b", c = [3] }] }
train = { seed = 42, learning_rate = 5e-5, report_to = "" }
lora = { dropout = 0.0 }
"""


def export(*arguments: str | Path) -> Result:
    """`benchd export`, in this process."""
    return invoke("export", *arguments)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An audit, with settings beside it."""
    (tmp_path / "config.toml").write_text(BASE, encoding="utf-8")
    file = tmp_path / "audit.json"
    file.write_bytes((AUDITS / "llama4_one__default.json").read_bytes())
    return file


# --- for PEFT -------------------------------------------------------------------------------------------------

UNKNOWN = (
    "note: without the adapter's adapter_config.json (--adapter DIR) each alpha assumes a scaling of alpha / rank, and "
    "the output lacks what the adapter may have of task_type, use_rslora, use_dora, bias, modules_to_save, "
    "fan_in_fan_out, target_parameters and adapted embeddings"
)
ASSUMED = "note: each alpha assumes a scaling of alpha / rank; for rsLoRA put adapter_config.json beside the audit"
CHANGE = "ranks 448 → 226; 28 modules shrink, 0 grow"


def test_peft(file: Path) -> None:
    """The JSON has the arguments of `LoraConfig`. Standard error says what changes and what is unknown."""
    result = export(file, "--peft")
    assert (result.exit_code, result.stderr.splitlines()) == (0, [UNKNOWN, CHANGE])
    made = json.loads(result.stdout)
    assert list(made) == ["peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules"]
    audit = read_audit(file.read_bytes())
    assert made == plan_training(audit, select(audit)).arguments


def adapter(folder: Path, **fields: Any) -> Path:
    """Make the folder of an adapter that fits the audit, with these fields in its file."""
    folder.mkdir(exist_ok=True)
    value = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, **fields}
    (folder / "adapter_config.json").write_text(json.dumps(value), encoding="utf-8")
    return folder


def test_peft_under_settings(file: Path) -> None:
    """The settings in force shape it, and the file of the adapter beside the audit does."""
    config = file.with_name("config.toml")
    assert json.loads(export(file, "--peft", "--config", config).stdout)["target_modules"] == [
        "model.layers.2.mlp.down_proj"
    ]
    adapter(file.parent, use_dora=True, task_type="CAUSAL_LM", base_model_name_or_path="some/model")
    result = export(file, "--peft")
    made = json.loads(result.stdout)
    assert (made["use_dora"], made["task_type"]) == (True, "CAUSAL_LM")
    assert result.stderr.splitlines() == [CHANGE]


@pytest.mark.parametrize("name", ["", "adapter_config.json"])
def test_adapter_elsewhere(file: Path, tmp_path: Path, name: str) -> None:
    """`--adapter` names the adapter's folder or its file, if that is not beside the audit."""
    elsewhere = adapter(tmp_path / "adapter", use_dora=True)
    result = export(file, "--peft", "--adapter", elsewhere / name)
    assert json.loads(result.stdout)["use_dora"] is True
    assert result.stderr.splitlines() == [CHANGE]


def test_adapter_behind_a_link(file: Path, tmp_path: Path) -> None:
    """A file that a person names may be a link, as in a cache of downloaded adapters."""
    real = adapter(tmp_path / "blobs", use_dora=True) / "adapter_config.json"
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "adapter_config.json").symlink_to(real)
    assert json.loads(export(file, "--peft", "--adapter", tmp_path / "snapshot").stdout)["use_dora"] is True


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"peft_type": "LORA", "r": 4}', "its ranks or alphas are not those in the audit: "),
        ('{"peft_type": "IA3"}', "it is of another kind of adapter: IA³"),
        ('{"r": 16', "it is not JSON ("),
        ("[]", "it is not a JSON object"),
        (" " * (2**20 + 1), "it has more than 1048576 bytes"),
    ],
)
def test_unusable_adapter(file: Path, tmp_path: Path, content: str, problem: str) -> None:
    """A file that a person names and that can't be used is a mistake in the call."""
    elsewhere = adapter(tmp_path / "adapter")
    (elsewhere / "adapter_config.json").write_text(content)
    result = export(file, "--peft", "--adapter", elsewhere)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(
        f"benchd export: --adapter {elsewhere}: adapter_config.json can't be used: {problem}"
    )


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda folder: None, "No such file or directory"),
        (lambda folder: folder.mkdir(), "there is no adapter_config.json in this folder"),
        (lambda folder: folder.write_text("x"), "Not a directory"),
    ],
)
def test_no_such_adapter(file: Path, tmp_path: Path, make: Any, line: str) -> None:
    """A usage error is reported if the named folder has no such file."""
    make(tmp_path / "adapter")
    result = export(file, "--peft", "--adapter", tmp_path / "adapter")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"benchd export: --adapter {tmp_path / 'adapter'}: {line}\n"


@pytest.mark.parametrize(
    ("option", "line"),
    [("--adapter", "--adapter: an empty name is no folder"), ("--adapter-config", '--adapter-config: "" is no folder')],
)
def test_empty_folder_names(file: Path, option: str, line: str) -> None:
    """An empty name is not the present folder."""
    result = export(file, *(["--peft"] if option == "--adapter" else []), option, "")
    assert (result.exit_code, result.stderr) == (2, f"benchd export: {line}\n")


def test_a_pipe_for_an_adapter(file: Path, tmp_path: Path) -> None:
    """What is no file is not waited for."""
    (tmp_path / "adapter").mkdir()
    os.mkfifo(tmp_path / "adapter" / "adapter_config.json")
    result = export(file, "--peft", "--adapter", tmp_path / "adapter")
    assert result.exit_code == 2
    assert "it is not a regular file" in result.stderr


def test_parameters(file: Path) -> None:
    """Parameters are counted from the audit's rows, else from the header of the weights beside it."""
    file.write_bytes((AUDITS / "llama4_one__layers_perlayer.json").read_bytes())
    total = json.loads(file.read_bytes())["total_lora_params"]
    assert f"parameters {total:,} → 16,032; " in export(file, "--peft").stderr
    file.write_bytes((AUDITS / "llama4_one__default.json").read_bytes())
    names = read_audit(file.read_bytes()).modules.names
    tensors = {f"base_model.model.{name}.lora_{part}.weight": [16, 32] for name in names for part in "AB"}
    header = json.dumps({name: {"dtype": "F32", "shape": shape} for name, shape in tensors.items()}).encode()
    weights = file.with_name("adapter_model.safetensors")
    weights.write_bytes(len(header).to_bytes(8, "little") + header)
    assert f"parameters {28 * 1024:,} → {226 * 64:,}; " in export(file, "--peft").stderr
    for broken in (b"", b"\0" * 8, b"\xff" * 8, (9).to_bytes(8, "little") + b'{"a": 3}', b"\2" + b"\0" * 7 + b"\xff{"):
        weights.write_bytes(broken)
        assert export(file, "--peft").stderr.splitlines()[-1] == CHANGE


def test_notes(tmp_path: Path) -> None:
    """What a reader should know goes to standard error."""
    file = tmp_path / "audit.json"
    file.write_bytes(encoded(document(issues=["a module is odd"], candidates=[entry("a")])))
    result = export(file, "--peft")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "note: Gradience: a module is odd",
        "note: no module gets a custom rank: the first 1 of 1 layer, in the audit's order; top_n = 3",
        UNKNOWN,
        "note: the audit doesn't tell the adapter's scaling; set lora_alpha yourself",
        "the audit doesn't tell the modules' own ranks: no change to show",
    ]


def test_audit_of_nothing(tmp_path: Path) -> None:
    """An audit without any layer has nothing to export: exit code 1, and the reason."""
    file = tmp_path / "audit.json"
    nothing = {"total_lora_params": 0, "stable_rank_mean": 0.0, "n_layers": 0, "issues": ["peft_dir not found: run-7"]}
    file.write_bytes(encoded(nothing))
    for form in (["--peft"], ["--axolotl"], ["--bench-audit"], ["--bench-yaml"], ["--adapter-config", tmp_path / "x"]):
        result = export(file, *form)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == (
            f"benchd export: {file}: an audit of nothing: Gradience found 0 LoRA layers that it could audit: "
            "peft_dir not found: run-7\n"
        )
    assert not (tmp_path / "x").exists()


def test_audit_without_names(tmp_path: Path) -> None:
    """An audit that names no module, as before Gradience 0.7, has nothing to export either."""
    file = tmp_path / "audit.json"
    file.write_bytes(encoded({"total_lora_params": 10, "stable_rank_mean": 1.0, "n_layers": 4}))
    result = export(file, "--peft")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"benchd export: {file}: the audit names no module: nothing to export\n"


# --- as a file ------------------------------------------------------------------------------------------------


def test_adapter_config(file: Path, tmp_path: Path) -> None:
    """The file has the same arguments, and the base model if the adapter's own file names it."""
    adapter(file.parent, base_model_name_or_path="some/model")
    result = export(file, "--adapter-config", tmp_path / "new" / "run")
    written = tmp_path / "new" / "run" / "adapter_config.json"
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.splitlines() == [CHANGE, f"wrote {written}"]
    made = json.loads(export(file, "--peft").stdout)
    assert json.loads(written.read_text(encoding="utf-8")) == {"base_model_name_or_path": "some/model", **made}


def test_adapter_config_is_never_replaced(file: Path, tmp_path: Path) -> None:
    """An existing file, such as the adapter's own, is not overwritten."""
    own = adapter(tmp_path / "own") / "adapter_config.json"
    before = own.read_bytes()
    result = export(file, "--adapter-config", own.parent)
    assert result.exit_code == 2
    assert result.stderr == f"benchd export: {own} is there already; name a new folder, or move that file away\n"
    assert own.read_bytes() == before


def test_adapter_config_beside_the_audit(file: Path) -> None:
    """In the audit's own folder the file would be taken for the audited adapter's."""
    result = export(file, "--adapter-config", file.parent)
    assert result.exit_code == 2
    assert "is the audit's folder" in result.stderr
    assert not file.with_name("adapter_config.json").exists()


def test_adapter_config_that_cannot_be_written(file: Path, tmp_path: Path) -> None:
    """Where no folder can be made, or nothing be written in it, one line says so."""
    (tmp_path / "taken").write_text("x")
    result = export(file, "--adapter-config", tmp_path / "taken")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.endswith(" is no folder\n")
    result = export(file, "--adapter-config", tmp_path / "taken" / "run")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(f"benchd export: {tmp_path / 'taken' / 'run'}")


def test_adapter_config_on_a_full_disk(file: Path, tmp_path: Path) -> None:
    """If the file can't be written whole, no part of it is left."""
    with short_files(10):
        result = export(file, "--adapter-config", tmp_path / "new")
    assert (result.exit_code, list((tmp_path / "new").iterdir())) == (1, [])
    assert result.stderr.splitlines()[-1].endswith("adapter_config.json: File too large")


# --- for Axolotl ----------------------------------------------------------------------------------------------


def test_axolotl(file: Path) -> None:
    """The YAML has Axolotl's keys. A note names the fields that Axolotl has no key for."""
    adapter(file.parent, bias="all", use_rslora=True)
    result = export(file, "--axolotl")
    assert result.exit_code == 0
    made = yaml.safe_load(result.stdout)
    assert list(made)[:3] == ["adapter", "lora_r", "lora_alpha"]
    assert made["lora_rank_pattern"] == {"model.layers.2.mlp.down_proj": 10}
    assert made["lora_alpha"] == 64  # the scaling 32 / sqrt(16), without use_rslora
    assert "peft_use_rslora" not in made
    assert result.stderr.splitlines() == [
        "note: the adapter uses rsLoRA: each alpha gives its scaling without use_rslora",
        "note: Axolotl has no key for bias",
        CHANGE,
    ]


def test_axolotl_rslora(file: Path) -> None:
    """Where the alphas for rsLoRA are whole it stays rsLoRA."""
    adapter(file.parent, use_rslora=True)
    data = json.loads(file.read_bytes())
    data["policy_disagreement_analysis"]["flagged_layers"] = []
    data["policy_disagreement_analysis"]["all_layers_with_disagreement"] = []
    file.write_bytes(encoded(data))
    settings = write(file, "uniform_rank = 4")
    made = yaml.safe_load(export(file, "--axolotl", "--config", settings).stdout)
    assert (made["peft_use_rslora"], made["lora_r"], made["lora_alpha"]) == (True, 4, 16)


def test_axolotl_broken_alpha(file: Path) -> None:
    """An alpha that is not a whole number gives exit code 1 and a message that says what to do."""
    data = json.loads(file.read_bytes())
    for module in data["per_module_gain"]:
        module["scaling"] = 0.3
    file.write_bytes(encoded(data))
    result = export(file, "--axolotl")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"benchd export: {file}: Axolotl takes only whole alphas, and scaling x rank is none for lora_alpha: 2.4; "
        "train with PEFT, which takes any (--peft, --adapter-config)\n"
    )


# --- for Bench ------------------------------------------------------------------------------------------------


def test_bench_yaml(file: Path) -> None:
    """The YAML is the config that the daemon would write, in block style."""
    config = file.with_name("config.toml")
    result = export(file, "--bench-yaml", "--config", config)
    assert (result.exit_code, result.stderr.splitlines()) == (0, [ASSUMED, "ranks 16 → 10; 1 module shrinks, 0 grow"])
    subprocess.run([sys.executable, "-m", "benchd", "run", file, "--config", config], check=True, capture_output=True)
    written = json.loads(file.with_name("audit.bench.json").read_text(encoding="utf-8"))
    assert yaml.safe_load(result.stdout) == written
    assert "\n  learning_rate: 5.0e-05\n" in result.stdout
    assert "\n  torch_dtype: 'no'\n" in result.stdout
    assert "\n  target_modules:\n  - model.layers.2.mlp.down_proj\n" in result.stdout


def test_not_runnable(file: Path) -> None:
    """Without tables for Bench it says that Bench can't run it."""
    result = export(file, "--bench-yaml")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        ASSUMED,
        "note: Bench can't run this config: the settings have neither [bench.base] nor bench.base_file",
        CHANGE,
    ]


def test_bench_audit(file: Path) -> None:
    """The probe audit has every trained module's rank; with focus those of the selected modules only."""
    result = export(file, "--bench-audit")
    assert (result.exit_code, result.stderr.splitlines()) == (0, [CHANGE])
    made = json.loads(result.stdout)
    assert made["probe_rank"] == 16
    pattern = made["per_layer_suggestions"]["rank_pattern"]
    assert len(pattern) == 28
    assert {name for name, rank in pattern.items() if rank != 8} == {"model.layers.2.mlp.down_proj"}
    focused = json.loads(export(file, "--bench-audit", "--config", file.with_name("config.toml")).stdout)
    assert focused["per_layer_suggestions"]["rank_pattern"] == {"model.layers.2.mlp.down_proj": 10}


def test_bench_audit_that_bench_would_not_use(file: Path) -> None:
    """If Bench's rules for ranks leave nothing to train, a note says so."""
    result = export(file.with_name("audit.json"), "--bench-audit", "--config", write(file, "uniform_rank = 16"))
    assert "note: Bench drops its per-layer variant: the mean rank 15.8 is nearest to lora.probe_r (16); " in (
        result.stderr
    )


def write(file: Path, line: str) -> Path:
    """Settings with one line of [bench]."""
    path = file.with_name("other.toml")
    path.write_text(f"[bench]\n{line}\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("sample", USABLE, ids=lambda sample: sample.file)
def test_real_audits(sample: Sample) -> None:
    """The config of every real audit is the same object in YAML."""
    audit = read_audit(sample.content)
    base = {"model": {"name": "m"}, "train": {"learning_rate": 1e-05}}
    config = json.loads(bench_config(audit, select(audit), BenchSettings(base=base)))
    # The largest as a whole takes the reader of YAML a minute.
    config["lora"] = {
        key: value[:50] if key == "target_modules" else value for key, value in config.get("lora", {}).items()
    }
    config["selection"]["layers"] = config["selection"]["layers"][:50]
    assert yaml.safe_load(yaml_text(config)) == config


TEXT = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("\x85\u2028\u2029\ufeff\n \t'\""), max_size=20
)
WORDS = st.sampled_from(
    ["yes", "No", "null", "1e3", "0x1", "1_0", "~", "a: b", "a #b", "- a", "2026-01-01", "<<", "=", "on"]
)
NUMBERS = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.booleans() | st.none() | NUMBERS | TEXT | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["a", "yes", "1", "", "$|^a\\.b", "b c", "ü"]) | TEXT, VALUES, min_size=1))
def test_anything(value: dict[str, Any]) -> None:
    """PyYAML reads every value that a base may hold unchanged, with libyaml and without it."""
    with pytest.MonkeyPatch.context() as patch:
        texts = [yaml_text(value)]
        patch.delattr(yaml, "CSafeDumper")
        texts.append(yaml_text(value))
    for text in texts:
        for loader in (yaml.SafeLoader, yaml.CSafeLoader):
            again = yaml.load(text, Loader=loader)
            assert again == value
            assert json.dumps(again) == json.dumps(value)


@pytest.mark.parametrize("number", [5e-05, 1e16, 1e22, -1e-7, 5e-324, 2.0, -0.0])
def test_floats(number: float) -> None:
    """A float keeps its point: without it YAML 1.1 would read text."""
    text = yaml_text({"a": number})
    assert "." in text
    assert yaml.safe_load(text) == {"a": number}
    assert type(yaml.safe_load(text)["a"]) is float


def test_long_lines() -> None:
    """A long text stays in one line."""
    assert yaml_text({"a": "word " * 100 + "x"}).count("\n") == 1


# --- mistakes -------------------------------------------------------------------------------------------------


def test_no_form(file: Path) -> None:
    """Without a form there is nothing to print."""
    result = export(file)
    assert result.exit_code == 2
    assert "Give --peft, --adapter-config DIR, --axolotl, --bench-audit or --bench-yaml." in result.stderr


@pytest.mark.parametrize(
    "forms", [["--peft", "--axolotl"], ["--bench-audit", "--bench-yaml"], ["--peft", "--adapter-config", "x"]]
)
def test_two_forms(file: Path, forms: list[str]) -> None:
    """Two forms at once are a usage error."""
    result = export(file, *forms)
    assert (result.exit_code, result.stdout) == (2, "")
    given = [form for form in forms if form.startswith("--")]
    assert f"{' and '.join(given)}: one form at a time." in result.stderr


@pytest.mark.parametrize("form", ["--peft", "--bench-yaml"])
def test_unusable(tmp_path: Path, form: str) -> None:
    """A file that can't be used ends it with 1, one that is not there with 2, as with `benchd explain`."""
    bad = tmp_path / "bad.json"
    bad.write_bytes(encoded(document(flagged="all")))
    result = export(bad, form)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "[bad_schema]" in result.stderr
    result = export(tmp_path / "none.json", form)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("benchd export: ")
    bad.write_bytes(encoded(document(flagged=[entry("a")])))
    result = export(bad, form, "--config", tmp_path / "none.toml")
    assert result.exit_code == 2
