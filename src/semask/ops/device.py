"""The device that a command runs on, and autocast there."""

from __future__ import annotations

import os
import platform
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Literal

import torch

from semask.text import pluralize

Device = Literal["auto", "cpu", "cuda"]
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
