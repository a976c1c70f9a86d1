"""The modules of an audit: ranks, scalings, and several names for one module."""

from __future__ import annotations

from typing import Any

import pytest

from benchd import read_audit
from benchd.audit.modules import Module
from corpus import document, encoded, entry, tolerantly


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
