"""What commands on a checkpoint have in common: how they begin, where they run, and what their records say of that."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from semask.checkpoints.record import read_recipe
from semask.recipes import Recipe

if TYPE_CHECKING:
    import torch

    from semask.checkpoints.store import Bundle
    from semask.data.classes import Classes

PATIENCE = timedelta(hours=6)
"""How long processes that are done wait for the others: the first reads all labels before its share."""


class Beginning(NamedTuple):
    """A checkpoint, the recipe that flags begin at, and the flags."""

    checkpoint: Path
    recipe: Recipe
    flags: Sequence[str]


def begin(arguments: Sequence[str], *, prog: str) -> Beginning:
    """Read `CHECKPOINT [flags]`; asking for help needs no checkpoint, and a ValueError says that it comes first."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        return Beginning(Path("CHECKPOINT"), Recipe(name="CHECKPOINT"), ["--help"])
    if arguments[0].startswith("-"):
        raise ValueError(f"the checkpoint's folder comes first: {prog} [flags]; got {arguments[0]!r}")
    checkpoint = Path(arguments[0])
    return Beginning(checkpoint, read_recipe(checkpoint), arguments[1:])


def check_classes(bundle: Bundle, classes: Classes) -> None:
    """Raise a ValueError unless the data set's classes are the checkpoint's, without regard to case and outer spaces.

    Published tables spell some names with a space at the end.
    """
    trained = bundle.recipe.model.num_classes
    if len(classes.names) != trained:
        raise ValueError(
            f"the checkpoint knows {trained} classes, the data set has {len(classes.names)}; give the class table it "
            "was trained with by --data.classes"
        )
    known = bundle.classes.names if bundle.classes is not None else classes.names
    for index, (ours, theirs) in enumerate(zip(known, classes.names, strict=True)):
        if ours.strip().casefold() != theirs.strip().casefold():
            raise ValueError(
                f"class {index} is {ours!r} in the checkpoint and {theirs!r} in the data set; give the class table it "
                "was trained with by --data.classes"
            )


@contextmanager
def processes(device: torch.device) -> Iterator[int]:
    """Join the processes that torchrun started, and yield this one's rank; alone, yield 0."""
    import torch

    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield 0
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield torch.distributed.get_rank()
    finally:
        torch.distributed.destroy_process_group()


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that scores may depend on."""
    import platform
    from importlib.metadata import version

    import torch

    packages = {name: version(name) for name in ("semask", "torchvision", "timm", "numpy", "scipy", "pillow")}
    return {"python": platform.python_version(), "torch": torch.__version__, **packages}


def hardware(device: torch.device) -> dict[str, Any]:
    """Return the device in words and the number of processes."""
    import torch.distributed

    from semask.ops.device import describe

    joined = torch.distributed.is_available() and torch.distributed.is_initialized()
    return {"device": describe(device), "processes": torch.distributed.get_world_size() if joined else 1}
