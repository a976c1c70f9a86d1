"""Keys for PEFT's patterns, and target modules: each matches only its own modules."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchd import read_audit
from benchd.bench.patterns import pattern_keys, target_modules
from corpus import USABLE, Sample


def by_new(keys: Sequence[str], name: str) -> str:
    """Return the key that PEFT 0.15 and later use for the module `name` (`peft.utils.other.get_pattern_key`)."""
    return next((key for key in keys if re.match(rf"(.*\.)?({key})$", name)), name)


def by_old(keys: Sequence[str], name: str) -> str:
    """Return the key that older versions of PEFT use (`LoraModel._create_and_replace`)."""
    return next((key for key in keys if re.match(rf".*\.{key}$", name)), name)


def by_targets(targets: list[str] | str, name: str) -> bool:
    """Return whether `target_modules` matches the module `name` (`check_target_module_exists`)."""
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return name in targets or any(name.endswith(f".{target}") for target in targets)


both = pytest.mark.parametrize("chosen_by", [by_new, by_old])

#: Few different parts and separators, so that one name often ends in another, or differs from it only by a dot.
NAMES = st.lists(
    st.lists(
        st.sampled_from(["a", "b", "1", "0", "10", "a_b", "(", "*", "a|b", "$", "\\"]), min_size=1, max_size=4
    ).map(".".join),
    min_size=1,
    max_size=8,
    unique=True,
)


@both
@given(names=NAMES, count=st.integers(1, 8))
def test_each_key_hits_its_own(chosen_by: Callable[[Sequence[str], str], str], names: list[str], count: int) -> None:
    """PEFT finds the key of a module for this module alone, and no key for the others."""
    chosen = names[:count]
    keys = pattern_keys(chosen, names)
    of = {key: name for name, key in keys.items()}
    assert list(keys) == chosen
    for name in names:
        assert of.get(chosen_by(list(of), name)) == (name if name in chosen else None)


@given(names=NAMES, count=st.integers(1, 8))
def test_targets_hit_their_own(names: list[str], count: int) -> None:
    """PEFT adapts exactly the chosen modules."""
    targets = target_modules(names[:count], names)
    assert [name for name in names if by_targets(targets, name)] == names[:count]


@pytest.mark.parametrize("sample", USABLE, ids=lambda sample: sample.file)
def test_real_names(sample: Sample) -> None:
    """The keys for every real audit are the plain module names, so that people can read them."""
    names = read_audit(sample.content).modules.names
    assert pattern_keys(names, names) == {name: name for name in names}
    assert target_modules(names[:2], names) == list(names[:2])


@pytest.mark.parametrize(
    ("name", "other", "key"),
    [
        ("layers.1.q", "layers.11.q", "layers.1.q"),
        ("layers.1.q", "model.layers.1.q", r"$|^layers\.1\.q"),
        ("q", "model.q", "$|^q"),
        ("fc.1", "fc_1", r"$|^fc\.1"),
        ("w.1.0", "w.100", r"$|^w\.1\.0"),
        ("w.1.0", "w.10", "w.1.0"),
        ("w.1.0", "w.1a0", r"$|^w\.1\.0"),
        ("w.1.0", "v.1a0", "w.1.0"),
        ("w.11.0", "w.1.10", "w.11.0"),
        ("a.b(c)", "d", r"$|^a\.b\(c\)"),
    ],
)
def test_exact_keys(name: str, other: str, key: str) -> None:
    """A key is the plain name unless it would match another module."""
    assert pattern_keys([name], [name, other]) == {name: key}


def test_names_of_one_length() -> None:
    """Distinguishes names of the same length that differ only at their dots."""
    names = ["w.1.0", "w.200", "w.300", "wa200", "wa1.0"]
    keys = pattern_keys(names[:2], names)
    assert keys == {"w.1.0": r"$|^w\.1\.0", "w.200": r"$|^w\.200"}


def test_targets_by_pattern() -> None:
    """Targets are a list of names, unless it would match more modules."""
    assert target_modules(["a.q"], ["a.q", "b.a.q"]) == r"a\.q"
    assert target_modules(["a.q", "b.a.q"], ["a.q", "b.a.q"]) == ["a.q", "b.a.q"]


@pytest.mark.parametrize(
    ("names", "plain"),
    [
        (["a" * length for length in range(1, 250)] + ["a" * 100 + f".{number}" for number in range(500)], True),
        ([f"a{number}.b{number}" for number in range(2000)], True),
        (
            ["x." + "a" * place + "." + "a" * (200 - place) for place in range(1, 200)]
            + [f"x.{number:0201}" for number in range(2000)],
            False,
        ),
        ([f"{number}." + "a." * 100 + "b" for number in range(2000)], False),
    ],
    ids=["long parts, all alike", "many parts", "dots in many places", "many dots"],
)
def test_crafted_names_are_cheap(names: list[str], plain: bool) -> None:
    """Makes keys for thousands of crafted names without comparing each pair, if necessary exact keys."""
    keys = pattern_keys(names, names)
    assert all((key == name) is plain for name, key in keys.items())
