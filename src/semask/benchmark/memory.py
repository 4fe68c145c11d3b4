"""Peak memory of some work, on the CPU or a GPU, and the largest batch that fits."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, ParamSpec, TypeVar

import torch

from semask.benchmark.rounds import Work
from semask.ops.device import CONTAINER

P = ParamSpec("P")
T = TypeVar("T")
CPU = torch.device("cpu")
MMAP_THRESHOLD = 2**20
"""In a fresh process, blocks of at least this size [bytes] go back to the system as soon as they are freed."""
MOST = 4096
SHARE = 0.8
"""Share of the free memory that a batch may take: other programs need some meanwhile."""


class Memory(NamedTuple):
    """A peak: above the memory held before the work, and in all [bytes]; and the meter.

    VmHWM is exact. ru_maxrss, where there is no /proc, never falls: `above` is its rise, 0 for work that needs less.
    """

    above: int
    total: int
    meter: Literal["VmHWM", "ru_maxrss", "CUDA"]


def peak_memory(work: Work, device: torch.device = CPU) -> Memory:
    """Run some work once and return its peak memory.

    Allocations of a first run alone (caches, late imports) count, so run the work once before.
    """
    # give freed memory back to the system
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
    with suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL(None).malloc_trim(0)
    try:
        # restart the high-water mark VmHWM
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        before = _max_resident()
        work()
        return Memory(_max_resident() - before, _max_resident(), "ru_maxrss")
    before = resident("VmRSS")
    work()
    peak = resident("VmHWM")
    return Memory(max(peak - before, 0), peak, "VmHWM")


def in_fresh_process(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """The result of a module's function, run in a fresh process that holds no memory yet.

    Function, arguments and result are pickled. A script that calls this needs `if __name__ == "__main__":`. Large
    blocks go back to the system when they are freed, so that peaks repeat.
    """
    # glibc reads these when a process starts
    thresholds = {f"MALLOC_{name}_THRESHOLD_": str(MMAP_THRESHOLD) for name in ("MMAP", "TRIM")}
    before = dict(os.environ)
    os.environ.update(thresholds)
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(function, *arguments, **named).result()
    finally:
        for name in thresholds:
            os.environ.pop(name)
        os.environ.update(before)


def resident(field: Literal["VmRSS", "VmHWM"]) -> int:
    """The process's resident memory, or its peak since the last restart [bytes]; needs /proc."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def available_memory() -> int:
    """The memory that programs can still take [bytes]: the system's or, if less, that of the container."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except OSError:
        # without /proc: all of the machine's memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    # control groups; without a limit, the file holds "max"
    with suppress(OSError, ValueError):
        limit, held = (int((CONTAINER / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - held)
    return free


def _max_resident() -> int:
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def largest_batch(fits: Callable[[int], bool], *, least: int = 1, most: int = MOST) -> int:
    """The largest batch from `least` to `most` that fits, if all smaller ones do; 0 if none does."""
    if not fits(least):
        return 0
    fitting, failing = least, most + 1
    while fitting + 1 < failing:
        # double until a batch fails, then halve the interval
        batch = (fitting + failing) // 2 if failing <= most else min(2 * fitting, most)
        if fits(batch):
            fitting = batch
        else:
            failing = batch
    return fitting


def fits_on_gpu(work: Callable[[int], Work]) -> Callable[[int], bool]:
    """A function that runs a batch's work once and reports whether the GPU's memory was enough."""

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


def fits_in_ram(work: Callable[[int], Work], limit: int) -> Callable[[int], bool]:
    """A function that reports whether a batch's work stays below a limit of memory [bytes], by running it.

    A batch that will foreseeably fail is not run: a system without memory ends programs.
    """
    needed: dict[int, int] = {}

    def fits(batch: int) -> bool:
        # a forecast linear in the batch, through the two largest measured ones
        known = sorted(needed)[-2:]
        if known:
            below, last = (known[0], known[-1]) if len(known) > 1 else (0, known[-1])
            slope = (needed[last] - needed.get(below, 0)) / (last - below)
            if needed[last] + max(slope, 0.0) * (batch - last) > limit:
                return False
        needed[batch] = peak_memory(work(batch)).above
        return needed[batch] <= limit

    return fits


def memory_limit(gibibytes: float | None) -> int:
    """A limit in bytes; None is a share of the free memory."""
    return int(SHARE * available_memory()) if gibibytes is None else int(gibibytes * 2**30)
