"""One test over many cases, such as all recipes: every case that fails is named.

Checks of a recipe's model are registered by `on_models` and run by tests/test_catalogue.py, which builds each model once.
"""

from __future__ import annotations

import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from semask import recipes
from semask.models.build import build_on_meta
from semask.models.model import SegmentationModel


def failures(check: Callable[..., None], cases: Iterable[Any], names: Iterable[str] | None = None) -> list[str]:
    """Return, by name, what was wrong with those of the cases that a check fails for.

    A case that is a bare tuple is handed on as several arguments.
    """
    cases, own = list(cases), check.__code__.co_filename
    found = []
    for name, case in zip(map(str, cases) if names is None else names, cases, strict=True):
        try:
            check(*case) if type(case) is tuple else check(case)
        except (Exception, pytest.fail.Exception) as error:
            frames = traceback.extract_tb(error.__traceback__)
            at = ([frame for frame in frames if frame.filename == own] or frames)[-1]
            found.append(f"{name}: {Path(at.filename).name}:{at.lineno}: {type(error).__name__}: {error}")
    return found


def for_each(cases: Iterable[Any], *, names: Iterable[str] | None = None) -> Callable[..., Callable[[], None]]:
    """Let a test of one case, which must take no fixtures, go over all cases and fail with all that failed."""
    cases, names = list(cases), None if names is None else list(names)

    def over_all(check: Callable[..., None]) -> Callable[[], None]:
        def test() -> None:
            assert cases, "nothing to test"
            found = failures(check, cases, names)
            if found:
                pytest.fail(f"{len(found)} of {len(cases)}:\n" + "\n".join(found), pytrace=False)

        test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
        return test

    return over_all


@lru_cache(maxsize=1)
def model_of(name: str) -> SegmentationModel:
    """Return a recipe's model without values. It is shared: leave it as it is."""
    return build_on_meta(recipes.get_recipe(name))


ON_MODELS: dict[tuple[str, bool], list[tuple[Callable[..., None], Any]]] = defaultdict(list)
"""Checks and their cases, by recipe and whether they are slow."""


def on_models(
    cases: Iterable[Any], *, names: Iterable[str] | None = None, slow: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a check of `model_of(name)`, one case per recipe; cases are the names of the recipes unless these are given."""
    cases = list(cases)
    names = cases if names is None else list(names)

    def register(check: Callable[..., None]) -> Callable[..., None]:
        for name, case in zip(names, cases, strict=True):
            assert name in recipes.list_recipes()
            ON_MODELS[name, slow].append((check, case))
        return check

    return register


def check_model(name: str, *, slow: bool = False) -> None:
    """Run all that is registered for a recipe's model, and fail with all that failed."""
    checks = ON_MODELS[name, slow]
    found = [line for check, case in checks for line in failures(check, [case], [check.__name__])]
    if found:
        pytest.fail("; ".join(found), pytrace=False)
