"""The settings of one selection, with a record of those that shaped it. Pure."""

from __future__ import annotations

from benchd.settings.keys import SelectionSettings

__all__ = ["UsedSettings"]


class UsedSettings:
    """Reads settings and remembers them in `read`, by dotted key. A setting that was not read changes nothing."""

    def __init__(self, settings: SelectionSettings) -> None:
        self.read: dict[str, int | float | str | bool] = {}
        self._settings = settings

    def value(self, key: str) -> int | float | str | bool:
        """Return a setting."""
        value: int | float | str | bool = getattr(self._settings, key)
        self.read[f"selection.{key}"] = value
        return value

    def number(self, key: str) -> float:
        """Return a setting that is a number."""
        value = self.value(key)
        assert isinstance(value, int | float)  # noqa: S101 - for the type checker
        return value
