"""`benchd export`: for PEFT, and for Bench as YAML."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from benchd import BenchSettings, bench_config, read_audit, select
from benchd.bench import lora_config
from benchd.cli import main
from benchd.cli.yaml_text import yaml_text
from corpus import AUDITS, USABLE, Sample, document, encoded, entry

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
    return CliRunner().invoke(main, ["export", *map(str, arguments)], env={"BENCHD_CONFIG": ""})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An audit, with settings beside it."""
    (tmp_path / "config.toml").write_text(BASE, encoding="utf-8")
    file = tmp_path / "audit.json"
    file.write_bytes((AUDITS / "llama4_one__default.json").read_bytes())
    return file


# --- for PEFT -------------------------------------------------------------------------------------------------


def test_peft(file: Path) -> None:
    """The JSON is what `LoraConfig` takes, and nothing else goes to standard output."""
    result = export(file, "--peft")
    assert (result.exit_code, result.stderr) == (0, "")
    made = json.loads(result.stdout)
    assert list(made) == ["r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules"]
    audit = read_audit(file.read_bytes())
    assert made == lora_config(audit, select(audit))


def test_peft_under_settings(file: Path) -> None:
    """The settings in force shape it, and the file of the adapter beside the audit does."""
    config = file.with_name("config.toml")
    assert json.loads(export(file, "--peft", "--config", config).stdout)["target_modules"] == [
        "model.layers.2.mlp.down_proj"
    ]
    beside = {"r": 16, "lora_alpha": 32, "use_rslora": True}
    file.with_name("adapter_config.json").write_text(json.dumps(beside), encoding="utf-8")
    result = export(file, "--peft")
    assert json.loads(result.stdout)["lora_alpha"] == 64
    assert "use_rslora" in result.stderr


def test_notes(tmp_path: Path) -> None:
    """What a reader should know goes to standard error."""
    file = tmp_path / "audit.json"
    file.write_bytes(encoded(document(issues=["a module is odd"])))
    result = export(file, "--peft")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "note: Gradience: a module is odd",
        "note: the audit doesn't tell the adapter's scaling; set lora_alpha yourself",
    ]


# --- for Bench ------------------------------------------------------------------------------------------------


def test_bench_yaml(file: Path) -> None:
    """The YAML is the config that the daemon would write, in block style."""
    config = file.with_name("config.toml")
    result = export(file, "--bench-yaml", "--config", config)
    assert (result.exit_code, result.stderr) == (0, "")
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
    assert result.stderr == (
        "note: Bench can't run this config: the settings have neither [bench.base] nor bench.base_file\n"
    )


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
    """Both of PyYAML's readers read whatever a base may hold as it was, with libyaml and without it."""
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
    """A float keeps its point, without which YAML 1.1 reads text."""
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
    assert "Give --peft or --bench-yaml." in result.stderr


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
