"""Convert parsed JSON to the shapes of an audit: keep values of the right type and drop the rest. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

import msgspec
from msgspec import Raw

from benchd.audit.values import finite

__all__ = ["fit", "fitted"]


def fit(shape: Any, value: dict[str, Any]) -> Any:
    """Return `value` as the struct `shape`.

    A value of the wrong type becomes None. In a list it becomes an empty entry, and a required text becomes "".
    """
    fields = {}
    for key, kind, needed in _fields(shape):
        if key in value:
            fields[key] = fitted(kind, value[key])
        if needed and fields.get(key) is None:
            fields[key] = ""
    return shape(**fields)


@cache
def _fields(shape: Any) -> list[tuple[str, Any, bool]]:
    return [(field.name, _kind(field.type), field.required) for field in msgspec.structs.fields(shape)]


def _kind(shape: Any) -> Any:
    # The other members of a union are None and UNSET.
    return get_args(shape)[0] if get_origin(shape) in {UnionType, Union} else shape


def fitted(shape: Any, value: Any) -> Any:
    """Return `value` as the type `shape`, or None if it has another type."""
    if shape in _SCALARS:
        return _SCALARS[shape](value)
    if get_origin(shape) is list:
        return [_entry(get_args(shape)[0], entry) for entry in value] if isinstance(value, list) else None
    if not isinstance(value, dict):
        return None
    if get_origin(shape) is dict:
        return {key: _entry(get_args(shape)[1], entry) for key, entry in value.items()}
    return fit(shape, value)


def _entry(shape: Any, value: Any) -> Any:
    kind = _kind(shape)
    return fitted(kind, value) if kind in _SCALARS else fit(kind, value if isinstance(value, dict) else {})


_SCALARS: Final[dict[Any, Callable[[Any], Any]]] = {
    Raw: lambda value: value,
    object: lambda value: value,
    float: finite,
    bool: lambda value: value if isinstance(value, bool) else None,
    str: lambda value: value if isinstance(value, str) else None,
}
