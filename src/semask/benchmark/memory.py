"""Peak memory of some work, on the CPU or a GPU, and the largest batch that fits."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import sys
from bisect import bisect_left
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, ParamSpec, TypeVar

import torch

from semask.benchmark.rounds import Work
from semask.ops.device import proc_bytes

P = ParamSpec("P")
T = TypeVar("T")
CPU = torch.device("cpu")
MMAP_THRESHOLD = 2**20
"""In a fresh process, blocks of at least this size [bytes] go back to the system as soon as they are freed."""
SHARE = 0.8
"""Share of the free memory that a batch may take: other programs need some meanwhile."""


class Memory(NamedTuple):
    """A peak: above the memory held before the work, and in all [bytes]; and the meter.

    VmHWM is exact. ru_maxrss, where VmHWM cannot restart, never falls: `above` is its rise, 0 for work that needs less.
    """

    above: int
    total: int
    meter: Literal["VmHWM", "ru_maxrss", "CUDA"]


def peak_memory(work: Work, device: torch.device = CPU) -> Memory:
    """Run some work once and return its peak memory.

    Allocations of a first run alone (caches, late imports) count, so run the work once before.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        # kernels run on after the call returns
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device)
        return Memory(peak - before, peak, "CUDA")
    with suppress(OSError, AttributeError):  # glibc alone gives freed memory back
        ctypes.CDLL(None).malloc_trim(0)
    meter: Literal["VmHWM", "ru_maxrss"] = "VmHWM"
    try:
        # restart the high-water mark
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        meter = "ru_maxrss"
    before = resident("VmRSS" if meter == "VmHWM" else "VmHWM")
    work()
    peak = resident("VmHWM")
    return Memory(max(peak - before, 0), peak, meter)


def resident(field: Literal["VmRSS", "VmHWM"]) -> int:
    """The process's resident memory, or its peak since the last restart [bytes]; without /proc the peak in any case."""
    try:
        return proc_bytes("self/status", field)
    except OSError:
        import resource  # not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def in_fresh_process(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """The result of a module's function, run in a fresh process that holds no memory yet.

    Function, arguments and result are pickled. A script that calls this needs `if __name__ == "__main__":`. Large
    blocks go back to the system when they are freed, so that peaks repeat.
    """
    before = dict(os.environ)
    # glibc reads these when a process starts
    os.environ.update({f"MALLOC_{name}_THRESHOLD_": str(MMAP_THRESHOLD) for name in ("MMAP", "TRIM")})
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(function, *arguments, **named).result()
    finally:
        os.environ.clear()
        os.environ.update(before)


def largest_batch(fits: Callable[[int], bool], *, least: int = 1, most: int = 4096) -> int:
    """The largest batch from `least` to `most` that fits, if all smaller ones do; 0 if none does."""
    if not fits(least):
        return 0
    # double until a batch fails, then halve the interval
    fitting = least
    while (failing := min(2 * fitting, most)) > fitting and fits(failing):
        fitting = failing
    return fitting + bisect_left(range(fitting + 1, failing), True, key=lambda batch: not fits(batch))


def fits_in_memory(work: Callable[[int], Work], limit: float | None) -> Callable[[int], bool]:
    """A function that reports whether a batch's work fits into memory, by running it once.

    `limit` None is the GPU's memory, whose errors can be caught. Of the RAM it is the most to use [bytes], and a batch
    that will foreseeably fail is not run: a system without memory ends programs.
    """
    needed: dict[int, int] = {}

    def fits_on_gpu(batch: int) -> bool:
        try:
            work(batch)()
            torch.cuda.synchronize()
        except torch.cuda.OutOfMemoryError:
            return False
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        return True

    def fits_in_ram(batch: int, limit: float = limit or 0.0) -> bool:
        # a forecast linear in the batch, through the two largest measured ones
        if needed:
            below, last = [0, *sorted(needed)][-2:]
            slope = (needed[last] - needed.get(below, 0)) / (last - below)
            if needed[last] + max(slope, 0.0) * (batch - last) > limit:
                return False
        needed[batch] = peak_memory(work(batch)).above
        return needed[batch] <= limit

    return fits_on_gpu if limit is None else fits_in_ram
