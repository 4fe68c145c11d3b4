"""Common parts of commands that score a checkpoint: arguments, checks, processes, and the origin of a record."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semask.checkpoints.record import read_recipe, weights_of
from semask.cli.flags import STORED, split_name
from semask.data.renamed import check_names
from semask.recipes import Recipe, to_dict

if TYPE_CHECKING:
    import torch

    from semask.checkpoints.store import Bundle
    from semask.data.classes import Classes

logger = logging.getLogger(__name__)
FIRST = (
    "data.root",
    "data.classes",
    "test.mode",
    "test.window",
    "test.stride",
    "test.scales",
    "test.flip",
    "test.batch-size",
)
"""Fields of a recipe that `--help` lists."""
TESTED = {*STORED, "base_scale", "base_ratio", "antialias", "scene_size", "scene_count"}
"""Fields of a DataRecipe that decide a test."""
PATIENCE = timedelta(hours=6)
"""Longest wait of finished processes for the others: the first reads all labels before its share."""


def begin(arguments: Sequence[str], *, usage: str) -> tuple[Path, Recipe, list[str]]:
    """Split `CHECKPOINT [flags]` into the checkpoint, its recipe, at which the flags start, and the flags."""
    name, flags = split_name(arguments, usage=usage, hint="It is the folder that `semask train` or `convert` wrote.")
    checkpoint = Path(name or "CHECKPOINT")
    return checkpoint, Recipe(name="CHECKPOINT") if name is None else read_recipe(checkpoint), flags


def folder_of(checkpoint: Path) -> Path:
    """The folder of a checkpoint, or of an export that is given by its file."""
    return checkpoint if checkpoint.is_dir() else checkpoint.parent


def with_own_classes(checkpoint: Path, bundle: Bundle) -> Bundle:
    """Let the checkpoint's class table read the labels of data that have none."""
    from semask.data.pairs import stored_classes

    assert bundle.recipe is not None
    data = bundle.recipe.data
    if data.kind == "scenes" or bundle.classes is None or stored_classes(data) is not None:
        return bundle
    logger.warning("no class table in %s: the checkpoint's reads the labels", data.root)
    return bundle._replace(recipe=bundle.recipe.override({"data.classes": str(folder_of(checkpoint))}))


def check_classes(bundle: Bundle, classes: Classes) -> None:
    """Check that the data set's classes are the checkpoint's; log a note on renamed ones.

    Raises:
        ValueError: the numbers of classes differ, or their order.
    """
    assert bundle.recipe is not None
    trained = bundle.recipe.model.num_classes
    # a checkpoint without names fits any table of its length
    known = bundle.classes.names if bundle.classes is not None else classes.names
    if len(known) != trained:
        known = tuple(str(number) for number in range(trained))
    note = check_names(
        known,
        classes.names,
        places=("the checkpoint", "the data set"),
        fix="give the class table of its training, or the checkpoint itself, by --data.classes",
    )
    if note:
        logger.warning(note)


@contextmanager
def processes(device: torch.device) -> Iterator[int]:
    """Join the processes that torchrun started, and yield this one's rank; a single process has rank 0."""
    import torch

    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield 0
        return
    # NCCL needs the device before the group
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield torch.distributed.get_rank()
    finally:
        torch.distributed.destroy_process_group()


def origin(checkpoint: Path, recipe: Recipe, split: str | None, images: int, device: torch.device) -> dict[str, Any]:
    """Origin of the scores as JSON values: checkpoint and data by their SHA-256, versions, device."""
    import torch.distributed

    from semask.data.checks.check import digest_split
    from semask.ops.device import describe, versions

    # the same weights and files have the same digests on every machine
    with weights_of(checkpoint).open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    split = split or recipe.data.val_split
    joined = torch.distributed.is_available() and torch.distributed.is_initialized()
    return {
        "recipe": recipe.name,
        "settings": to_dict(read_recipe(checkpoint)),
        "checkpoint": {"path": str(checkpoint), "sha256": weights},
        "data": {"split": split, "images": images, "sha256": digest_split(recipe.data, split)},
        "versions": versions(),
        "hardware": {"device": describe(device), "processes": torch.distributed.get_world_size() if joined else 1},
    }
