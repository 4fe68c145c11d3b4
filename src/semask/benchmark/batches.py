"""The largest batch that fits: doubled until it does not, then halved in between."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from semask.benchmark.clock import Work
from semask.benchmark.memory import available_memory, peak_memory

MOST = 4096
SHARE = 0.8
"""Of the memory that is free: the rest is for what other programs take meanwhile."""


def largest_batch(fits: Callable[[int], bool], *, least: int = 1, most: int = MOST) -> int:
    """Return the largest batch from `least` to `most` that fits, if all smaller ones do; 0 if none does.

    Asks for the least, twice that and so on, and then between the last that fitted and the first that did not.
    """
    if not fits(least):
        return 0
    fitting, failing = least, most + 1
    while fitting + 1 < failing:
        batch = (fitting + failing) // 2 if failing <= most else min(2 * fitting, most)
        if fits(batch):
            fitting = batch
        else:
            failing = batch
    return fitting


def fits_on_gpu(work: Callable[[int], Work]) -> Callable[[int], bool]:
    """Return what runs a batch's work once and says whether the GPU's memory was enough."""

    def fits(batch: int) -> bool:
        try:
            work(batch)()
            torch.cuda.synchronize()
        except torch.cuda.OutOfMemoryError:
            return False
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        return True

    return fits


class FitsInMemory:
    """Says whether the work of a batch needs no more than a limit above what is held [bytes], of a processor's memory.

    What needs more is not run, where that can be foreseen: a processor that runs out of memory ends programs. Above
    what was measured, memory is taken to grow by as much with every image as it did between the two largest batches.
    """

    def __init__(self, work: Callable[[int], Work], limit: int) -> None:
        self.work, self.limit = work, limit
        self.needed: dict[int, int] = {}

    def __call__(self, batch: int) -> bool:
        """Run the work of a batch, unless it is foreseen to need too much, and say whether it needed little enough."""
        if self.foreseen(batch) > self.limit:
            return False
        self.needed[batch] = peak_memory(self.work(batch)).above
        return self.needed[batch] <= self.limit

    def foreseen(self, batch: int) -> float:
        """Return what a batch will need; a first one is let pass."""
        known = sorted(self.needed)
        if not known:
            return 0
        last = known[-1]
        if len(known) == 1:
            return self.needed[last] / last * batch
        slope = (self.needed[last] - self.needed[known[-2]]) / (last - known[-2])
        return self.needed[last] + max(slope, 0.0) * (batch - last)


def memory_limit(gibibytes: float | None) -> int:
    """Return the limit [bytes]: what was given, or a share of what is free."""
    return int(SHARE * available_memory()) if gibibytes is None else int(gibibytes * 2**30)
