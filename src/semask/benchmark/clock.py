"""How long some work takes: by a GPU's own events, by the wall clock, or by the processor's time."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

Work = Callable[[], object]
Clock = Callable[[Work], float]
"""Does some work and returns how long it took [s]."""


def clock_of(device: torch.device) -> Clock:
    """Return the device's own clock: CUDA's events on a GPU, else the wall clock."""
    return cuda_events if device.type == "cuda" else wall


def wall(work: Work) -> float:
    """Return the seconds that passed; for work that the processor does."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def processor(work: Work) -> float:
    """Return the seconds that this process computed, over all its threads: for machines that others use as well.

    With one thread that is what the wall clock says on an idle machine.
    """
    start = time.process_time()
    work()
    return time.process_time() - start


def cuda_events(work: Work) -> float:
    """Return the seconds between two events on the current GPU's stream, which is empty before and after."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1000
