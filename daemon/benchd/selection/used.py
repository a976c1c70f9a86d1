"""Record which settings affect a selection. Pure."""

from __future__ import annotations

from benchd.settings.keys import SelectionSettings

__all__ = ["UsedSettings"]


class UsedSettings:
    """Reads settings and records them in `read`, by dotted key. A setting that is not read has no effect."""

    def __init__(self, settings: SelectionSettings) -> None:
        self.read: dict[str, int | float | str | bool] = {}
        self._settings = settings

    def value(self, key: str) -> int | float | str | bool:
        """Return the value of a setting."""
        value: int | float | str | bool = getattr(self._settings, key)
        self.read[f"selection.{key}"] = value
        return value

    def number(self, key: str) -> float:
        """Return the value of a numeric setting."""
        value = self.value(key)
        assert isinstance(value, int | float)  # noqa: S101 - for the type checker
        return value
