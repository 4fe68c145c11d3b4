"""The machine of a measurement: hardware, versions and settings, its peak rate, and the load of other processes."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from semask.benchmark.options import Dtype
from semask.benchmark.rounds import clock_of
from semask.ops.device import cpu_model, describe, versions
from semask.ops.linear import by_onednn, has_onednn
from semask.ops.reference import is_reference

SAME = ("device", "cpu", "threads", "driver", "cuda", "cudnn", "packages.torch", "precision")
"""Parts of the environment that comparable figures share."""
SIDES = {"cpu": 2048, "cuda": 8192}
"""Largest side of the matrices: beyond it the rate does not rise."""
LONG = 0.05
"""Duration of a product [s] that is long enough: on CPUs without bfloat16 units, larger ones take minutes."""
STAT = Path("/proc/stat")
BUSY = (0, 1, 2, 5, 6, 7)
"""Columns of the first line of /proc/stat that count as work: user, nice, system, irq, softirq, and steal."""
SPARE = 0.3
"""Number of cores that may be missing without a remark: every system runs a few tasks of its own."""


def environment(device: torch.device) -> dict[str, Any]:
    """Hardware, versions and settings that a figure depends on, as JSON values; None where a part does not exist."""
    on_gpu, here = device.type == "cuda", Path(__file__).parent
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if on_gpu else None
    # the commit of the checkout, with + if files of the package differ; edits of tests do not change a figure
    commit = _output("git", "-C", str(here), "rev-parse", "HEAD")
    if commit and _output("git", "-C", str(here.parent), "status", "--porcelain", "--untracked-files=no", "--", "."):
        commit += "+"
    return {
        "device": describe(device),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "packages": versions(),
        "commit": commit,
        "driver": driver.splitlines()[0] if driver else None,
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "precision": {
            "float32_matmul": torch.get_float32_matmul_precision(),
            "cudnn_tf32": torch.backends.cudnn.allow_tf32,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        },
        "reference": is_reference(),
    }


def _output(program: str, *arguments: str) -> str | None:
    """The output of a program; None if it does not exist or fails."""
    if shutil.which(program) is None:
        return None
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def peak_rate(device: torch.device, dtype: Dtype) -> float:
    """The multiply-adds per second of the fastest of a large matrix product, linear layer and 3×3 convolution.

    Their libraries differ: on AMD's CPUs MKL, behind matrix products, reaches half of what oneDNN does. On a GPU,
    float32 runs as `torch.get_float32_matmul_precision` allows, as it does in models.
    """
    clock, kind = clock_of(device), torch.bfloat16 if dtype == "bfloat16" else torch.float32

    def shortest(work: Callable[[], object], runs: int) -> float:
        return min(clock(work) for _ in range(runs))

    def product(side: int) -> Callable[[], object]:
        # random numbers: constant ones draw less power, and a GPU runs faster with them than with any model's
        left, right = (torch.randn(side, side, dtype=kind, device=device) for _ in range(2))
        out = torch.empty_like(left)
        return lambda: torch.mm(left, right, out=out)

    # double the side until a product takes long enough
    most = SIDES[device.type]
    side = min(256, most)
    while side < most and shortest(product(side), 2) < LONG:
        side *= 2
    rates = [side**3 / shortest(product(side), 5)]
    if device.type == "cpu" and has_onednn() and kind == torch.float32:
        left, right = torch.randn(side, side), torch.randn(side, side)
        rates.append(side**3 / shortest(lambda: by_onednn(left, right, None), 5))
    # as many multiply-adds in a convolution of 256 channels
    pixels = max(8, round((side**3 / (9 * 256**2)) ** 0.5))
    images, weights = (
        torch.randn(*size, dtype=kind, device=device).contiguous(memory_format=torch.channels_last)
        for size in ((1, 256, pixels, pixels), (256, 256, 3, 3))
    )
    with torch.inference_mode():
        rates.append(pixels**2 * 9 * 256**2 / shortest(lambda: F.conv2d(images, weights, padding=1), 5))
    return max(rates)


class MachineLoad:
    """The CPU time of other processes since this object was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), _others_seconds()

    def cores(self) -> float | None:
        """The mean number of cores that other processes kept busy; None where the system has no /proc/stat."""
        (began, before), now = self._began, _others_seconds()
        if before is None or now is None:
            return None
        return max(0.0, now - before) / max(time.perf_counter() - began, 1e-9)


def _others_seconds() -> float | None:
    """The time that all cores have worked for other processes [s]."""
    try:
        columns = STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
        return sum(int(columns[place]) for place in BUSY) / os.sysconf("SC_CLK_TCK") - own_seconds()
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def own_seconds() -> float:
    """The CPU time [s] of this process and its descendants, living and ended."""
    # children and CPU time of every process of the machine
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):  # it has ended meanwhile
            # the fields after the name in parentheses, which may itself hold parentheses
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            number = int(path.parent.name)
            ticks[number] = sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
            children.setdefault(int(fields[1]), []).append(number)
    # breadth first, over a list that grows
    living = [os.getpid()]
    for number in living:
        living += children.get(number, ())
    return sum(ticks.get(number, 0) for number in living) / os.sysconf("SC_CLK_TCK")


def crowding(environment: Mapping[str, Any], entry: Mapping[str, Any]) -> str | None:
    """A remark if other processes and the measurement needed more cores than there are, else None."""
    # a GPU's figures depend little on the CPU's load
    others, threads, cores = (environment.get(name) for name in ("machine_load", "threads", "cores"))
    if others is None or not threads or not cores or environment.get("cuda"):
        return None
    # the loader runs in its workers, a model in torch's threads
    workers, loads = entry.get("workers") or 0, entry.get("what") == "load"
    wanted = max(1, workers) if loads else threads + workers
    if others + wanted <= cores + SPARE:
        return None
    fewer = ", or with --threads 1" if threads > 1 and not loads else ""
    return (
        f"Other processes had {others:.1f} of {cores} cores while {wanted} were wanted. Threads that wait for each "
        f"other lose most by that, so that not even ratios need hold: measure again when the machine is quiet{fewer}."
    )
