"""One test over many cases, such as all recipes: every case that fails is named, and models are built once."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from semask import recipes
from semask.build import build_weightless
from semask.models.model import SegmentationModel


def for_each(cases: Iterable[Any], *, names: Iterable[str] | None = None) -> Callable[..., Callable[[], None]]:
    """Let a test of one case, which must take no fixtures, go over all cases and fail with all that failed.

    A case that is a bare tuple is handed on as several arguments.
    """
    cases = list(cases)
    labels = list(map(str, cases)) if names is None else list(names)

    def over_all(check: Callable[..., None]) -> Callable[[], None]:
        def test() -> None:
            assert cases, "nothing to test"
            failures = []
            for label, case in zip(labels, cases, strict=True):
                try:
                    check(*case) if type(case) is tuple else check(case)
                except (Exception, pytest.fail.Exception) as error:
                    at = traceback.extract_tb(error.__traceback__)[1]
                    failures.append(f"{label}: {Path(at.filename).name}:{at.lineno}: {type(error).__name__}: {error}")
            if failures:
                pytest.fail(f"{len(failures)} of {len(cases)}:\n" + "\n".join(failures), pytrace=False)

        test.__name__, test.__doc__, test.__module__ = check.__name__, check.__doc__, check.__module__
        return test

    return over_all


@cache
def model_of(name: str) -> SegmentationModel:
    """Return a recipe's model without values. It is shared: leave it as it is."""
    return build_weightless(recipes.get(name))
