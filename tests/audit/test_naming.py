"""Conversion of an audit's names to PEFT's names: prefixes, wrapper parts, layers out of reach."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchd.audit.naming import MAX_NAME, WRAPPER_PARTS, modules_of, unaddressable, usable

PREFIX = "base_model.model."


@pytest.mark.parametrize(
    ("name", "module", "wrappers"),
    [
        (f"{PREFIX}model.layers.0.q", "model.layers.0.q", ()),
        ("model.layers.0.q", "model.layers.0.q", ()),
        (f"{PREFIX}model._orig_mod.layers.0.q", "model.layers.0.q", ("_orig_mod",)),
        (f"_orig_mod.{PREFIX}model.layers.0.q", "model.layers.0.q", ("_orig_mod",)),
        (f"{PREFIX}_orig_mod.model.layers.0.q", "model.layers.0.q", ("_orig_mod",)),
        ("_orig_mod.model.layers.0.q", "model.layers.0.q", ("_orig_mod",)),
        (f"module.{PREFIX}model.q", "model.q", ("module",)),
        (f"module.module.{PREFIX}model.q", "model.q", ("module",)),
        (f"module._orig_mod.{PREFIX}model.q", "model.q", ("_orig_mod", "module")),
        (f"_forward_module.{PREFIX}model.q", "model.q", ("_forward_module",)),
        (f"model.{PREFIX}model.q", "model.q", ("model",)),
        (f"pretrained_model.{PREFIX}model.q", "model.q", ("pretrained_model",)),
        (f"_orig_mod._module.{PREFIX}q", "q", ("_module", "_orig_mod")),
        ("module.encoder.q", "encoder.q", ("module",)),
        (f"{PREFIX}{PREFIX}model.q", "model.q", ("base_model.model",)),
        (f"{PREFIX}module.{PREFIX}model.q", "model.q", ("base_model.model", "module")),
        (
            f"_orig_mod._fsdp_wrapped_module.{PREFIX}model.layers.0._checkpoint_wrapped_module._fsdp_wrapped_module.q",
            "model.layers.0.q",
            ("_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_orig_mod"),
        ),
        (f"{PREFIX}levit.layers.0.module.attention.q", "levit.layers.0.module.attention.q", ()),
        (f"{PREFIX}module.attention.q", "module.attention.q", ()),
        (f"{PREFIX}my_orig_mod.q", "my_orig_mod.q", ()),
        (f"{PREFIX}_private.q", "_private.q", ()),
        ("module", "module", ()),
        ("_orig_mod", "_orig_mod", ("_orig_mod",)),
        (PREFIX, PREFIX, ()),
        ("base_model.q", "base_model.q", ()),
    ],
)
def test_modules(name: str, module: str, wrappers: tuple[str, ...]) -> None:
    """Removes wrapper parts at every position, but not from modules whose own name is a wrapper part."""
    assert modules_of([name]) == ([module], wrappers)
    assert modules_of([f"{PREFIX}x", name, f"{PREFIX}y"]) == (["x", module, "y"], wrappers)


PARTS = st.lists(st.sampled_from(["layers", "0", "q_proj", "model", "mlp"]), min_size=1, max_size=5)


@given(PARTS, st.lists(st.tuples(st.integers(0, 9), st.sampled_from(sorted(WRAPPER_PARTS))), max_size=4))
def test_wrapped_anywhere(parts: list[str], wrapped: list[tuple[int, str]]) -> None:
    """A wrapper part changes no module's name, at any position and any number of times."""
    name = [*PREFIX.rstrip(".").split("."), *parts]
    for place, wrapper in wrapped:
        name.insert(place, wrapper)
    assert modules_of([".".join(name)]).names == [".".join(parts)]


@pytest.mark.parametrize(
    ("modules", "out"),
    [
        (["mlp.experts", "mlp.experts.base_layer", "q"], {"mlp.experts", "mlp.experts.base_layer"}),
        (["e", "e.base_layer", "e.base_layer.base_layer"], {"e", "e.base_layer", "e.base_layer.base_layer"}),
        (["up.base_layer", "down"], {"up.base_layer"}),
        (["up.base_layer.lora"], {"up.base_layer.lora"}),
        (["mlp.experts", "mlp.gate"], {"mlp.experts"}),
        (["mlp.experts.0.up", "mlp.experts_up", "experts.x"], set()),
        (["base_layers.q", "x.my_base_layer", "q"], set()),
        ([], set()),
    ],
)
def test_unaddressable(modules: list[str], out: set[str]) -> None:
    """Layers below another adapter layer are out of reach, and so are those directly above them."""
    assert unaddressable(modules) == out


def test_usable() -> None:
    """A usable name is printable, not empty, and not too long for a key in YAML."""
    names = ["a", "", "x" * MAX_NAME, "x" * (MAX_NAME + 1), "b\n", "ü"]
    assert usable(names) == ["a", "x" * MAX_NAME, "ü"]
    assert usable(["a", "b"]) == ["a", "b"]
    assert usable([]) == []
