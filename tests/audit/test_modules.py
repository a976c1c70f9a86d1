"""The modules of an audit: ranks, scalings, and several names for one module."""

from __future__ import annotations

from typing import Any

import pytest

from benchd import read_audit
from benchd.audit.modules import Module
from corpus import document, encoded, entry, tolerantly


def test_flagged_by_another_name() -> None:
    """Notes a module that is flagged under another name than its gain has."""
    gains = [{"module": "base_model.model.a", "r": 8, "scaling": 2.0}]
    audit = read_audit(encoded(document(flagged=[entry("a")], per_module_gain=gains)))
    assert audit.modules.merged == {"a"}


def test_module_with_two_names() -> None:
    """Both names of a module give the same rank and scaling, in either order of access."""
    row = {"name": "a", "r": 8, "adapter_scale": 5}
    audit = encoded(document(candidates=[entry("base_model.model.a")], layers=[row]))
    assert read_audit(audit).modules.of("base_model.model.a") == read_audit(audit).modules.of("a") == Module(8, 5.0)


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
            Module(6, None),  # the first of two entries with one name
        ),
        ({"per_module_gain": [{"module": "a", "r": 0, "scaling": "x"}]}, Module(None, None)),
        ({"per_module_gain": [{"module": 5, "r": 3}], "layers": [{"name": None, "r": 3}]}, None),
        ({"per_module": {}, "layer_data": {}, "per_module_gain": None}, None),
    ],
)
def test_modules(top: dict[str, Any], module: Module | None) -> None:
    """The rank and scaling of a module come from `per_module_gain`, and missing values from its layer row."""
    for data in (encoded(document(**top)), tolerantly(encoded(document(**top)))):
        assert read_audit(data).modules.of("a") == module


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
    """The ranks of a row are the usable `k` of its policies, and a row without any gives none."""
    rows = [{"name": "a", "rank_suggestions": policies}, {"name": None, "rank_suggestions": {"knee": {"k": 1}}}]
    assert max(read_audit(encoded(document(layers=rows))).modules.row_ranks("a"), default=None) == expected
    rows = [{"layer_name": "a", "suggestions": policies}]
    audit = read_audit(encoded(document(policies={"per_layer": rows})))
    assert max(audit.policy_ranks("a"), default=None) == expected


def test_first_row() -> None:
    """Uses the first of two rows for one layer, and an audit's own rows before Bench's."""
    top = {
        "layers": [{"name": "a", "rank_suggestions": {"knee": {"k": 1}}}],
        "layer_data": {"layer_rows": [{"name": "a", "rank_suggestions": {"knee": {"k": 2}}}]},
    }
    assert read_audit(encoded(document(**top))).modules.row_ranks("a") == [2]
