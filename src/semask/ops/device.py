"""The device that a command runs on."""

from __future__ import annotations

import os
import platform
from typing import Literal

import torch

from semask.text import pluralize

Device = Literal["auto", "cpu", "cuda"]


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
