"""Which images show best how a model does: its best, its middling and its worst."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

TITLES = ("best", "median", "worst")


class Chosen(NamedTuple):
    """An image's place in the order of names, why it was chosen, and its own mIoU."""

    place: int
    title: str
    miou: float


def choose(scores: Float64[np.ndarray, " n"], count: int) -> list[Chosen]:
    """Return up to `count` images each of the best, the middling and the worst, none twice, undefined ones never.

    The best come first by falling score, then the middling ones, then the worst by rising score.
    """
    ranked = [int(i) for i in np.argsort(-scores, kind="stable") if np.isfinite(scores[i])]
    middle = len(ranked) // 2 - count // 2
    wanted = {
        "best": ranked[:count],
        "worst": ranked[::-1][:count],
        "median": ranked[max(0, middle) : max(0, middle) + count],
    }
    taken: dict[int, str] = {}
    for title in ("worst", "best", "median"):  # of a few images, the worst tell most
        for index in wanted[title]:
            taken.setdefault(index, title)
    chosen = [Chosen(i, title, float(scores[i])) for title in TITLES for i in wanted[title] if taken[i] == title]
    return chosen
