"""The names of audits, and of the files beside them."""

from __future__ import annotations

from typing import Any

import pytest

from benchd.folder.names import Names, config_name, error_name, is_sidecar
from benchd.settings.keys import FolderSettings


def names(nested: frozenset[str] = frozenset(), **settings: Any) -> Names:
    return Names(FolderSettings(path="/nowhere", **settings), nested)


@pytest.mark.parametrize(
    ("audit", "stem"), [("a.json", "a"), ("a", "a"), ("a.json.json", "a.json"), ("a.JSON", "a.JSON")]
)
def test_sidecars(audit: str, stem: str) -> None:
    """A sidecar's name is the audit's name, with another ending instead of `.json`."""
    assert config_name(audit) == f"{stem}.bench.json"
    assert error_name(audit) == f"{stem}.bench-error.json"
    assert is_sidecar(config_name(audit))
    assert is_sidecar(error_name(audit))
    assert not is_sidecar(audit)


class TestWants:
    @pytest.mark.parametrize("path", ["a.json", "sub/a.json", "a b.json", "bench.json", "x.bench.json.json"])
    def test_wanted(self, path: str) -> None:
        """Every `*.json` may be an audit, in subfolders too."""
        assert names().wants(path)

    @pytest.mark.parametrize(
        "path", ["a.bench.json", "sub/a.bench-error.json", ".a.json", "sub/.a.json", "a.txt", "a.JSON", "a.json.gz"]
    )
    def test_not_wanted(self, path: str) -> None:
        """Sidecars, hidden files and files with other endings are not audits."""
        assert not names().wants(path)

    def test_no_pattern_wants_sidecars(self) -> None:
        """No pattern makes benchd answer its sidecars."""
        everything = names(patterns=("*", "*.bench.json"))
        assert not everything.wants("a.bench.json")
        assert not everything.wants(".hidden")
        assert everything.wants("a.txt")

    def test_patterns_with_a_slash(self) -> None:
        """A pattern with a slash matches the path, and one without a slash the name."""
        deep = names(patterns=("deep/*.json",))
        assert deep.wants("deep/a.json")
        assert not deep.wants("a.json")
        assert not deep.wants("other/a.json")

    def test_several_patterns(self) -> None:
        """A name must match one of the patterns."""
        several = names(patterns=("*.audit", "a?.json", "deep/*"))
        assert several.wants("x.audit")
        assert several.wants("sub/ab.json")
        assert several.wants("deep/x")
        assert not several.wants("abc.json")

    def test_no_patterns(self) -> None:
        """Without patterns no file is an audit."""
        assert not names(patterns=()).wants("a.json")

    def test_ignored(self) -> None:
        """A file that `ignore` matches is not answered."""
        some = names(ignore=("skip*", "/deep/no.json"))
        assert not some.wants("skip.json")
        assert not some.wants("sub/skip.json")
        assert not some.wants("deep/no.json")
        assert some.wants("no.json")
        assert some.wants("deep/yes.json")

    def test_matches(self) -> None:
        """`matches` uses only the patterns."""
        assert names().matches(".a.json", "sub/.a.json")
        assert not names().matches("a.txt", "sub/a.txt")


class TestEnters:
    def test_subfolders(self) -> None:
        """Subfolders are entered unless they are hidden, or watched folders themselves."""
        some = names(frozenset({"a/own"}))
        assert some.enters("a")
        assert some.enters("own")
        assert not some.enters("a/own")
        assert not some.enters("a/.hidden")

    def test_not_recursive(self) -> None:
        """With `recursive = false` no subfolder is entered."""
        assert not names(recursive=False).enters("a")

    def test_ignored(self) -> None:
        """A subfolder that `ignore` matches is not entered."""
        some = names(ignore=("skip*", "deep/no"))
        assert not some.enters("skipped")
        assert not some.enters("a/skipped")
        assert not some.enters("deep/no")
        assert some.enters("deep")
