"""Recipes as plain values for JSON, and back; options of several types carry their `kind`."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

from semask.recipes.recipe import Recipe

T = TypeVar("T")
FORMAT = 2
"""Number of the form of records: files that hold a recipe."""
TYPE = "type"
"""Key of the options' kind."""


def to_dict(recipe: Any) -> dict[str, Any]:
    """The recipe, or a part of it, as nested dicts; `from_dict` undoes it, also after a trip through JSON."""
    values = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    plain = {name: to_dict(value) if dataclasses.is_dataclass(value) else value for name, value in values.items()}
    kind = _kind(type(recipe))
    return plain if kind is None else {TYPE: kind, **plain}


def from_dict(values: dict[str, Any], cls: type[T] = Recipe) -> T:  # type: ignore[assignment]
    """The recipe, or the part of type `cls`, that `to_dict` took apart.

    Raises:
        ValueError: A field or a kind is unknown.
    """
    return _restore(cls, values, cls.__name__.lower())


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by their paths, such as "data.crop".

    >>> flatten({"data": {"crop": [64, 64]}, "name": "a"})
    {'data.crop': [64, 64], 'name': 'a'}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _restore(cls: type[T], values: object, where: str) -> T:
    if not isinstance(values, dict):
        raise ValueError(f"{where} must hold named fields, got {type(values).__name__}")
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if unknown := sorted(set(values) - {*names, TYPE}):
        raise ValueError(
            f"{where} has no field {', '.join(unknown)}; it has {', '.join(names)}. Was it written by a newer semask?"
        )
    hints = typing.get_type_hints(cls)
    return cls(**{name: _value(hints[name], values[name], f"{where}.{name}") for name in values if name != TYPE})


def _value(hint: Any, value: object, where: str) -> object:
    is_union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    arms = typing.get_args(hint) if is_union else (hint,)
    parts = {_kind(arm): arm for arm in arms if isinstance(arm, type) and dataclasses.is_dataclass(arm)}
    if isinstance(value, dict) and parts:
        kind = value.get(TYPE)
        if not (kind is None or isinstance(kind, str)) or kind not in parts:
            raise ValueError(f"{where}.{TYPE} is {kind!r:.80}; allowed: {', '.join(map(str, parts))}")
        return _restore(parts[kind], value, where)
    if not any(_fits(arm, value) for arm in arms):
        allowed = " or ".join(arm.__name__ if isinstance(arm, type) else str(arm) for arm in arms)
        raise ValueError(f"{where} is {value!r:.80}; allowed: {allowed}")
    return tuple(value) if isinstance(value, list) else value


def _fits(hint: Any, value: object) -> bool:
    """Whether a value from JSON has the type of a field."""
    origin, arms = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return any(value == arm and type(value) is type(arm) for arm in arms)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        each = arms[:1] * len(value) if arms[-1] is ... else arms
        return len(each) == len(value) and all(_fits(arm, item) for arm, item in zip(each, value, strict=True))
    if arms:  # a union inside a tuple
        return any(_fits(arm, value) for arm in arms)
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, int | float if hint is float else hint)


def _kind(cls: type[Any]) -> str | None:
    """The kind of options; None for a part of a recipe that has one type, even if a field of it is called kind."""
    return None if any(field.name == "kind" for field in dataclasses.fields(cls)) else getattr(cls, "kind", None)
