"""The device that a command runs on: its name, packages and memory, and autocast there."""

from __future__ import annotations

import os
import platform
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import torch

from semask.text import pluralize

Device = Literal["auto", "cpu", "cuda"]
PACKAGES = (
    *("semask", "torchvision", "timm", "transformers", "segmentation-models-pytorch"),
    *("numpy", "scipy", "pillow", "triton"),
)
CONTAINER = Path("/sys/fs/cgroup")
UNKNOWN_MEMORY = 8 * 2**30
"""Memory [bytes] that is assumed of a machine that does not report it."""


def pick_device(name: Device) -> torch.device:
    """Return the device of that name; "auto" is a GPU if there is one.

    Under torchrun every process takes the GPU of its LOCAL_RANK.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("there is no GPU that torch can use; use --device cpu or --device auto")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def describe(device: torch.device) -> str:
    """Return the name of the device, for people."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    name = platform.processor() or platform.machine()
    return f"{name} CPU, {pluralize(torch.get_num_threads(), 'thread')}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results may depend on."""
    # torch's own string holds its build, which the package's version lacks
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def cpu_model() -> str:
    """Return the name of the CPU, or of its architecture where the system has no name for it."""
    return _cpu_field("model name") or platform.processor() or platform.machine()


def cpu_vendor() -> str:
    """Return what the CPU calls its maker, as AuthenticAMD or GenuineIntel; "" where it says nothing."""
    # Windows has it in its name: … Stepping 1, AuthenticAMD
    return _cpu_field("vendor_id") or platform.processor().rpartition(" ")[2]


def _cpu_field(name: str) -> str:
    """Return a field of the first core in /proc/cpuinfo; "" where there is none, as on ARM."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
    return ""


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which operations keep the types they are given; a device without autocast needs none."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()


def memory_of(device: torch.device) -> int:
    """Return the memory of a device [bytes]: a GPU's, or the machine's within the limit of its container."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        memory = UNKNOWN_MEMORY
    with suppress(OSError, ValueError):  # without a limit, the file holds "max"
        memory = min(memory, int((CONTAINER / "memory.max").read_text()))
    return memory


def available_memory() -> int:
    """Return the memory that programs can still take [bytes]: the system's or, if less, that of the container."""
    free = memory_of(torch.device("cpu"))
    with suppress(OSError):
        free = min(free, proc_bytes("meminfo", "MemAvailable"))
    with suppress(OSError, ValueError):
        limit, held = (int((CONTAINER / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - held)
    return free


def proc_bytes(file: str, field: str) -> int:
    """Return a field of a file in /proc that counts kilobytes [bytes].

    Raises:
        OSError: The system has no /proc.
    """
    lines = Path("/proc", file).read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))
