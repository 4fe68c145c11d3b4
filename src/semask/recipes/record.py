"""Recipes as plain values for JSON, and back."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

from semask.recipes.recipe import Recipe

T = TypeVar("T")


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as nested dicts; `from_dict` undoes it, also after a trip through JSON."""
    return dataclasses.asdict(recipe)


def from_dict(values: dict[str, Any]) -> Recipe:
    """Return the recipe that `to_dict` took apart; a ValueError names fields that no recipe has."""
    return _restore(Recipe, values, "recipe")


def _restore(cls: type[T], values: object, where: str) -> T:
    if not isinstance(values, dict):
        raise ValueError(f"{where} must hold named fields, got {type(values).__name__}")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(
            f"{where} has no field {', '.join(unknown)}; it has {', '.join(hints)}. Was it written by a newer semask?"
        )
    return cls(**{key: _value(hints[key], value, f"{where}.{key}") for key, value in values.items()})


def _value(hint: Any, value: object, where: str) -> object:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _restore(hint, value, where)
    if isinstance(value, list) and _takes_tuple(hint):
        return tuple(value)
    return value


def _takes_tuple(hint: Any) -> bool:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return any(_takes_tuple(arm) for arm in typing.get_args(hint))
    return typing.get_origin(hint) is tuple
