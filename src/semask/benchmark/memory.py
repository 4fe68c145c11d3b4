"""The most memory that some work holds at once: resident memory of the process, or a GPU's allocations."""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple, ParamSpec, TypeVar

import torch

from semask.benchmark.clock import Work

P = ParamSpec("P")
T = TypeVar("T")
CONTAINER = Path("/sys/fs/cgroup")
CPU = torch.device("cpu")
MMAP_THRESHOLD = 2**20
"""In a fresh process, blocks of this size [bytes] and more go back to the system as soon as they are freed."""


class Memory(NamedTuple):
    """A peak: above what was held when the work began, and in all [bytes]; and who told so.

    VmHWM is exact. ru_maxrss, where there is no /proc, never falls: `above` is what the work raised it by, and 0 for
    work that needs less than what ran before.
    """

    above: int
    total: int
    meter: Literal["VmHWM", "ru_maxrss", "CUDA"]


def peak_memory(work: Work, device: torch.device = CPU) -> Memory:
    """Do some work once and return the most that was held during it.

    What a first run alone allocates (caches, late imports) counts, so run the work once before. Before, what was freed
    goes back to the system.
    """
    gc.collect()
    if device.type == "cuda":
        return _peak_of_gpu(work, device)
    trim()
    if not _restart_high_water():
        before = _greatest()
        work()
        return Memory(_greatest() - before, _greatest(), "ru_maxrss")
    before = resident("VmRSS")
    work()
    peak = resident("VmHWM")
    return Memory(max(peak - before, 0), peak, "VmHWM")


def in_fresh_process(function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Return what a function of a module returns in a process of its own, where nothing was held before.

    Function, arguments and result are pickled. A script that calls this needs `if __name__ == "__main__":`. Large
    blocks go back to the system when they are freed, whatever was freed before, so that peaks repeat.
    """
    told = {f"MALLOC_{name}_THRESHOLD_": str(MMAP_THRESHOLD) for name in ("MMAP", "TRIM")}
    spawn = multiprocessing.get_context("spawn")
    with _environment(told), ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *arguments, **named).result()


def trim() -> None:
    """Give freed memory back to the system, where the C library can (glibc)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def resident(field: Literal["VmRSS", "VmHWM"]) -> int:
    """Return the process's resident memory, or the most of it since it was last restarted [bytes]; needs /proc."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def available_memory() -> int:
    """Return the memory that programs can still take [bytes]: the system's or, if it is less, that of our container."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        free = 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):  # without a limit, the file says "max"
        limit, held = (int((CONTAINER / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - held)
    return free


def _restart_high_water() -> bool:
    """Let VmHWM begin anew, and say whether that is possible here."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def _greatest() -> int:
    import resource  # not on Windows

    greatest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return greatest if sys.platform == "darwin" else 1024 * greatest


def _peak_of_gpu(work: Work, device: torch.device) -> Memory:
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device)
    return Memory(peak - before, peak, "CUDA")


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables of the environment for processes that are started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
