"""The bytes of every config in the corpus, held to a list. They change only with `SELECTION_VERSION`.

After a change on purpose, `BENCHD_WRITE_DIGESTS=1 .venv/bin/python -m pytest tests/whole/test_same_bytes.py` writes it.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from benchd import AuditError, BenchSettings, SelectionSettings, bench_config, read_audit, select
from corpus import INDEX, Sample

LIST = Path(__file__).parent / "digests.json"

SETTINGS = {
    "defaults": (SelectionSettings(), BenchSettings()),
    "other": (
        SelectionSettings(top_n=5, medium_priority=1.5, require_disagreement=True),
        BenchSettings(
            uniform_rank="audit_median",
            focus=True,
            base={
                "model": {"name": "distilbert-base-uncased"},
                "task": {"dataset": "glue", "subset": "sst2"},
                "train": {"seed": 42, "learning_rate": 5e-05},
                "lora": {"dropout": 0.05},
            },
        ),
    ),
}


def digest(sample: Sample, settings: str) -> str:
    selection, bench = SETTINGS[settings]
    try:
        audit = read_audit(sample.content, name=sample.name)
    except AuditError as error:
        return error.code
    return hashlib.sha256(bench_config(audit, select(audit, selection), bench)).hexdigest()


@pytest.mark.parametrize("settings", SETTINGS)
def test_same_bytes(settings: str) -> None:
    """Gives the bytes of the list for every real audit."""
    found = {sample.file: digest(sample, settings) for sample in INDEX}
    stored = json.loads(LIST.read_text(encoding="utf-8")) if LIST.exists() else {}
    if os.environ.get("BENCHD_WRITE_DIGESTS"):
        LIST.write_text(json.dumps({**stored, settings: found}, indent=1) + "\n", encoding="utf-8")
    assert found == json.loads(LIST.read_text(encoding="utf-8"))[settings]
