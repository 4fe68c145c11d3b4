"""Everything that a figure depends on but for the model: versions, the machine, and how torch is set."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from semask.ops.device import describe
from semask.ops.reference import is_plain

PACKAGES = (
    "semask",
    "torchvision",
    "timm",
    "transformers",
    "segmentation-models-pytorch",
    "numpy",
    "pillow",
    "triton",
)
SAME = ("device", "processor", "threads", "driver", "cuda", "cudnn", "packages.torch", "precision")
"""Places of what must be alike for two figures to be compared."""


def environment(device: torch.device) -> dict[str, Any]:
    """Return the environment of this process as JSON values; what does not exist here is None."""
    return {
        "device": describe(device),
        "processor": processor_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {
            "torch": torch.__version__,  # with its build, which the package's version leaves out
            **{name: found for name in PACKAGES if (found := _version(name)) is not None},
        },
        "commit": commit(),
        "driver": driver() if device.type == "cuda" else None,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "precision": {
            "float32_matmul": torch.get_float32_matmul_precision(),
            "cudnn_tf32": torch.backends.cudnn.allow_tf32,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        },
        "plain": is_plain(),
    }


def processor_model() -> str:
    """Return the processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str | None:
    """Return the commit of the checkout that this code lies in, "+" behind it if files differ; None in a package."""
    here = Path(__file__).parent
    found = _output("git", "-C", str(here), "rev-parse", "HEAD")
    if found is None:
        return None
    changed = _output("git", "-C", str(here), "status", "--porcelain", "--untracked-files=no", "--", str(here.parent))
    return f"{found}+" if changed else found


def driver() -> str | None:
    """Return the version of NVIDIA's driver."""
    told = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return told.splitlines()[0] if told else None


def _output(program: str, *arguments: str) -> str | None:
    """Return what a program prints; None where there is no such program, or it fails."""
    if shutil.which(program) is None:
        return None
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
