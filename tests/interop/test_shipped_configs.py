"""Bench's own YAML files: each can be a base file, and its keys are in the config unchanged."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import gradience
import pytest
import yaml
from gradience.bench.config_schema import validate_config

from benchd import bench_config, read_audit, select
from benchd.cli.loading import read_settings
from corpus import content

CONFIGS = Path(gradience.__file__).parent / "bench" / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
AUDIT = "distilbert_seqcls__default.json"


def test_there_are_some() -> None:
    """Gradience 0.11.0 ships 49 files. All have the needed keys, except for the seed of runs over several seeds."""
    assert len(FILES) == 49


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONFIGS)))
def test_a_shipped_file(file: Path, tmp_path: Path) -> None:
    """Settings that only name the file are valid, and Bench's validator accepts the resulting config."""
    settings = tmp_path / "config.toml"
    settings.write_text(f"[bench]\nbase_file = {json.dumps(str(file))}\n", encoding="utf-8")
    audit = read_audit(content(AUDIT))
    text = bench_config(audit, select(audit), read_settings(str(settings)).bench).decode()
    config: dict[str, Any] = json.loads(text)
    assert yaml.safe_load(text) == config
    own = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert {key: config[key] for key in own} == own
    assert [note for note in config["selection"]["notes"] if "can't run" in note] == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # most of the files say train.lr
        validated = validate_config(yaml.safe_load(text))
    assert validated["train"]["learning_rate"] == own["train"].get("lr", own["train"].get("learning_rate"))
