"""What a machine can do at best: the rate of a large matrix product."""

from __future__ import annotations

import torch

from semask.benchmark.clock import clock_of
from semask.benchmark.options import Dtype

SIDES = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices: large enough for the rate not to grow any more."""
TRIES = 5


def matmul_peak(device: torch.device, dtype: Dtype, side: int | None = None) -> float:
    """Return the multiply-adds per second of a square matrix product, the best of several tries.

    On a GPU, float32 is what `torch.get_float32_matmul_precision` allows, as it is in models.
    """
    side = SIDES[device.type] if side is None else side
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    left, right, product = (torch.ones(side, side, dtype=kind, device=device) for _ in range(3))
    clock = clock_of(device)
    clock(lambda: torch.mm(left, right, out=product))
    return side**3 / min(clock(lambda: torch.mm(left, right, out=product)) for _ in range(TRIES))
