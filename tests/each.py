"""One test over many cases, such as all recipes: every case that fails is named, and models are built once."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from functools import cache
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


@cache
def model_of(name: str) -> SegmentationModel:
    """Return a recipe's model without values. It is shared: leave it as it is."""
    return build_on_meta(recipes.get_recipe(name))
