"""Query, key and value projections of attention: three tensors, or one that holds them in this order."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

PARTS = ("query", "key", "value")


def split(name: str, value: Tensor, joined: re.Pattern[str]) -> list[tuple[str, Tensor]]:
    """Return the three projections of a joined one as `….query.weight` and so on, any other tensor as it is.

    `joined` has two groups: what comes before the projection's name, and weight or bias.
    """
    match = joined.fullmatch(name)
    if match is None or not value.ndim or len(value) % len(PARTS):
        return [(name, value)]
    names = (f"{match[1]}{part}.{match[2]}" for part in PARTS)
    return list(zip(names, value.chunk(len(PARTS)), strict=True))


def join(tensors: Mapping[str, Tensor], queries: re.Pattern[str], joined: str) -> dict[str, Tensor]:
    """Return the tensors with every complete triple as one, in the place of the query's.

    `queries` finds a query projection and has the two groups of `split`; `joined` is the name with them as {0} and {1}.
    """
    whole = dict(tensors)
    for name in tensors:
        match = queries.fullmatch(name)
        names = [f"{match[1]}{part}.{match[2]}" for part in PARTS] if match else []
        parts = [tensors[part] for part in names if part in tensors]
        if match and len(parts) == len(PARTS) and len({part.shape for part in parts}) == 1 and parts[0].ndim:
            for part in names:
                del whole[part]
            whole[joined.format(match[1], match[2])] = torch.cat(parts)
    return whole
