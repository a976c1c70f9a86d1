"""The three steps of an answer in one function."""

from __future__ import annotations

import hashlib

import pytest

from benchd import BenchSettings, NotAnAudit, SelectionSettings, bench_config, read_audit, select
from benchd.bench.deciding import decide
from corpus import content, document, encoded

AUDIT = content("llama4_many__default.json")


def test_decide() -> None:
    """The decision has the bytes and the digest of the single steps, and all notes of the config."""
    selection, bench = SelectionSettings(top_n=1), BenchSettings(uniform_rank=4)
    decision = decide(AUDIT, name="a.json", selection=selection, bench=bench)
    audit = read_audit(AUDIT, name="a.json")
    assert decision.config == bench_config(audit, select(audit, selection), bench)
    assert decision.audit_sha256 == hashlib.sha256(AUDIT).hexdigest()
    assert decision.audit_bytes == len(AUDIT)
    assert set(select(audit, selection).notes) < set(decision.selection.notes)


def test_known_digest() -> None:
    """Uses the digest that the caller passes."""
    decision = decide(AUDIT, name="a", sha256="f" * 64, selection=SelectionSettings(), bench=BenchSettings())
    assert decision.audit_sha256 == "f" * 64


def test_audit_of_nothing() -> None:
    """Marks an audit in which Gradience found no layer."""
    nothing = encoded({"total_lora_params": 0, "stable_rank_mean": 0.0, "n_layers": 0})
    for data, expected in ((nothing, True), (encoded(document()), False)):
        decision = decide(data, name="a", selection=SelectionSettings(), bench=BenchSettings())
        assert decision.is_of_nothing is expected


def test_other_json() -> None:
    """Raises what `read_audit` raises."""
    with pytest.raises(NotAnAudit):
        decide(b"{}", name="a", selection=SelectionSettings(), bench=BenchSettings())
