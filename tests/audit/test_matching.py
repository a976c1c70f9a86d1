"""Matching of pattern keys, compared with PEFT's own expression."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchd.audit.matching import BadKey, Matcher

NAMES = ["fc.a", "head.fc.a", "fc_a", "b.0", "model.layers.1.q_proj", "model.layers.11.q_proj", "q_proj", "xq_proj"]


def by_peft(pattern: dict[str, float], name: str) -> float | None:
    """Return the value of the first key whose expression matches, as PEFT does."""
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return None


def check(pattern: dict[str, float], names: list[str]) -> None:
    found = Matcher(pattern).values(names)
    assert found == {name: value for name in names if (value := by_peft(pattern, name)) is not None}


@pytest.mark.parametrize(
    "keys",
    [
        ["fc.a"],
        ["q_proj"],
        ["layers.1.q_proj", "q_proj"],
        ["q_proj", "layers.1.q_proj"],
        [r"$|^fc\.a"],
        [r"fc\.a"],
        [r".*\.layers\.1\..*"],
        [r"$|^fc\.a", "a"],
        ["a", r"$|^fc\.a"],
        [r"\d", "q_proj"],
        [r"(?:fc|b)\.[a0]"],
        ["fc|b", r"b\.0"],
        [r"$|^fc.a"],
        [r"\w+", "x"],
        [""],
        ["^fc.a", "fc.a"],
    ],
)
def test_keys(keys: list[str]) -> None:
    """Each kind of key matches as in PEFT, and the first match in the file is used."""
    check({key: float(place) for place, key in enumerate(keys)}, NAMES)


PART = st.text("ab_", min_size=1, max_size=4)
NAME = st.lists(PART, min_size=1, max_size=3).map(".".join)
KEY = st.one_of(
    NAME,
    NAME.map(re.escape),
    NAME.map(lambda name: f"$|^{re.escape(name)}"),
    st.sampled_from([".*", r".*\.a", "a|b", "a+", "[ab]", r"\w", "^a.b$"]),
)


@given(st.lists(KEY, max_size=6, unique=True), st.lists(NAME, max_size=5))
def test_as_peft_matches(keys: list[str], names: list[str]) -> None:
    """For all keys and names the values are those of PEFT's own expression."""
    check({key: float(place) for place, key in enumerate(keys)}, names)


@pytest.mark.parametrize("key", ["(", "[a", "*", "a{2,1}", "(?P<a>x", "\\"])
def test_bad_keys(key: str) -> None:
    """The error names a key that is not a valid regular expression."""
    matcher = Matcher({"q": 1.0, key: 2.0})
    assert matcher.is_costly
    with pytest.raises(BadKey, match=re.escape(key)):
        matcher.values(NAMES)


@pytest.mark.parametrize(
    ("keys", "costly"),
    [
        (NAMES, False),
        ([r"$|^fc\.a", r"b\.0"], False),
        ([f"model.layers.{place}.mlp.q" for place in range(2000)], False),
        (["(a+)+b"], True),
        ([".*"], True),
        # Names of one length with dots in many different positions.
        ([f"{'x' * place}.{'x' * (100 - place)}" for place in range(1, 99)], True),
    ],
)
def test_costly(keys: list[str], costly: bool) -> None:
    """Names and the keys that benchd writes are cheap to match, and keys that need `re` are costly."""
    assert Matcher(dict.fromkeys(keys, 1.0)).is_costly is costly


def test_many_names() -> None:
    """Matches thousands of keys with thousands of names without comparing each pair."""
    names = [f"model.layers.{layer}.mlp.experts.{expert}.up_proj" for layer in range(50) for expert in range(100)]
    assert Matcher(dict.fromkeys(names, 2.0)).values(names) == dict.fromkeys(names, 2.0)
