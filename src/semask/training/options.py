"""What decides only where and how fast a run goes. Pure standard library, for the command line's --help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from semask.recipes import Recipe

LAST_CHECKPOINT = "last.ckpt"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Devices, folders and what to do about earlier runs."""

    out: Path | None = None
    """Folder of the run; None takes runs/RECIPE with - for /."""
    resume: str | None = None
    """Go on from this last.ckpt; "latest" (or no value on the command line) is the one in the run's own folder."""
    init: Path | None = None
    """Start from another model: a checkpoint's folder or a published file. Tensors that fit are taken over, rows of
    classes by their names; recipe, learning rate, data and classes may be others."""
    overwrite: bool = False
    """Replace an earlier run in the same folder."""
    from_scratch: bool = False
    """Train without the pretrained encoder that the recipe asks for."""
    skip_check: bool = False
    """Do not read all labels before training."""
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    devices: int | None = None
    """Devices per node; None takes all GPUs, or one CPU."""
    nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    workers: int = 2
    """Processes per device that load images; 0 loads in the training process."""
    decoded: float = 4.0
    """Keep training images decoded, in the folder for temporary files (TMPDIR), where all of them take no more than
    this [GiB]; 0 decodes them for every crop."""
    logger: Literal["csv+tensorboard", "csv", "tensorboard"] = "csv+tensorboard"


def folder_of(recipe: Recipe, options: RunOptions) -> Path:
    """Folder of a run."""
    return options.out or Path("runs") / recipe.name.replace("/", "-")


def resumed_checkpoint(out: Path, options: RunOptions) -> Path | None:
    """The last.ckpt that a run in `out` goes on from, whether or not it exists; None for a run that begins."""
    if options.resume is None:
        return None
    path = out if options.resume == "latest" else Path(options.resume)
    return path / LAST_CHECKPOINT if path.is_dir() or options.resume == "latest" else path
