"""Format a config as YAML, for `benchd export --bench-yaml`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import yaml

__all__ = ["yaml_text"]

#: Line breaks of YAML 1.1 only. PyYAML's Python emitter, used without libyaml, loses them in plain text.
_BREAKS: Final = frozenset("\x85\u2028\u2029")


def yaml_text(value: dict[str, Any]) -> str:
    """Return a JSON object as YAML 1.1 in block style. `yaml.safe_load` returns an equal object from it."""
    import yaml  # noqa: PLC0415 - one option of one command needs it

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # the faster one, if present
        """A subclass, so that PyYAML's own class does not get the representer."""

    Dumper.add_representer(str, _represent)
    # No line breaks inside text, so that people can search for names and sentences.
    text: str = yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=2**31 - 1)
    return text


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if _BREAKS.isdisjoint(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)
