"""What a machine can do at best: the rate of a large matrix product."""

from __future__ import annotations

import torch

from semask.benchmark.clock import clock_of
from semask.benchmark.options import Dtype

SIDES = {"cpu": 2048, "cuda": 8192}
"""Most rows and columns of the matrices: large enough for the rate not to grow any more."""
FIRST_SIDE = 256
LONG = 0.05
"""A product that takes longer [s] is large enough: precisions that a processor has no unit for take minutes."""
TRIES = 5


def matmul_peak(device: torch.device, dtype: Dtype) -> float:
    """Return the multiply-adds per second of a large square matrix product, the best of several tries.

    On a GPU, float32 is what `torch.get_float32_matmul_precision` allows, as it is in models.
    """
    most = SIDES[device.type]
    side = min(FIRST_SIDE, most)
    while side < most and _seconds(device, dtype, side, tries=2) < LONG:
        side *= 2
    return side**3 / _seconds(device, dtype, side, tries=TRIES)


def _seconds(device: torch.device, dtype: Dtype, side: int, *, tries: int) -> float:
    """Return the shortest time of a product of two square matrices [s]."""
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    # Not of ones: numbers that do not change draw less power, and a GPU runs faster with them than with any model's.
    left, right = (torch.randn(side, side, dtype=kind, device=device) for _ in range(2))
    product = torch.empty_like(left)
    clock = clock_of(device)
    return min(clock(lambda: torch.mm(left, right, out=product)) for _ in range(tries))
