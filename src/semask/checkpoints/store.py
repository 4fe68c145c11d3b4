"""Checkpoints of this library: a directory with model.safetensors and recipe.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from semask.checkpoints.record import RECORD, WEIGHTS, read_record, recipe_of, weights_of, write_record
from semask.data.classes import Classes
from semask.exports.runtime import open_export
from semask.files import atomic_write
from semask.models.build import build_without_init
from semask.models.model import SegmentationModel
from semask.recipes import Recipe


class Bundle(NamedTuple):
    """A model, or an exported file in its place, with its recipe and its classes.

    recipe: None where none describes it. classes: None where they have no names.
    """

    model: SegmentationModel
    recipe: Recipe | None
    classes: Classes | None


def save(
    model: SegmentationModel,
    directory: str | Path,
    *,
    classes: Classes | None = None,
    weights_only: bool = False,
    tensors: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a checkpoint, whole or not at all.

    Args:
        model: The model; its `recipe` describes it.
        directory: Folder of the checkpoint; it is made.
        classes: Names and colours, for `semask predict` and the pages.
        weights_only: Write a model that no recipe describes; `load` then needs the model.
        tensors: Values to write in place of the model's own, by its names, such as a moving average's.

    Returns:
        The directory.

    Raises:
        ValueError: No recipe describes the model, and `weights_only` is False.

    >>> import semask, tempfile
    >>> model = semask.build("scenes/semask-micro-fpn")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     semask.load(semask.save(model, folder)).num_classes
    12
    """
    directory = Path(directory)
    parts = " and ".join(
        f"{type(part).__module__}.{type(part).__qualname__}" for part in (model.encoder, model.decoder)
    )
    if model.recipe is None and not weights_only:
        raise ValueError(
            f"no recipe describes a model of {parts}, so that `semask.load` could not build it; use weights_only=True "
            "and semask.load(directory, model=model)"
        )
    # a tensor with two names is written once
    values = model.state_dict() if tensors is None else tensors
    written = {key: values[key].detach().cpu().contiguous() for key in _own_tensors(model)}
    directory.mkdir(parents=True, exist_ok=True)
    with atomic_write(directory / WEIGHTS) as part:
        try:
            save_file(written, part)
        except SafetensorError as error:  # a full disk, for example
            raise OSError(f"{str(directory / WEIGHTS)!r} cannot be written: {error}") from error
    write_record(directory, model.recipe, classes, parts)
    return directory


def load(
    directory: str | Path, *, model: SegmentationModel | None = None, device: str | torch.device = "cpu"
) -> Bundle:
    """Read a checkpoint; its model is in evaluation mode.

    Args:
        directory: Folder that `save` or a training run wrote, or a file of `semask export`.
        model: Model that the weights go into, in place; None builds the recipe's.
        device: Device of the model.

    Raises:
        ValueError: Files are missing or broken, or the weights do not fit.
    """
    # the record, and the model that it describes
    directory = Path(directory)
    weights = weights_of(directory)
    if weights.name != WEIGHTS:
        if model is not None:
            raise ValueError(f"{str(weights)!r} is an exported file, which is its own model; leave out model=")
        # it has the attributes that users of a bundle read
        exported = cast(SegmentationModel, open_export(weights).to(device))
        return Bundle(exported, exported.recipe, exported.classes)
    record = read_record(directory / RECORD)
    classes = Classes.from_dict(record["classes"]) if record.get("classes") else None
    if model is None:
        model = build_without_init(recipe_of(record, directory))
    if classes is not None and len(classes) != model.num_classes:
        raise ValueError(
            f"{str(directory / RECORD)!r} names {len(classes)} classes for a model of {model.num_classes}; they must "
            "come from one run"
        )
    tensors = read_weights(directory)
    # every tensor must fit by name and shape
    wanted = _own_tensors(model)
    odd = sorted(set(tensors) ^ set(wanted))
    odd += [key for key, value in tensors.items() if key in wanted and value.shape != wanted[key].shape]
    if odd:
        raise ValueError(
            f"the weights in {str(directory)!r} do not fit the model: {len(odd)} tensors are missing, unexpected or "
            f"of another shape, first {', '.join(odd[:5])}. {RECORD} and {WEIGHTS} must come from one run."
        )
    fill(model, tensors)
    model.classes = classes
    return Bundle(model.to(device).eval(), model.recipe, classes)


def read_weights(directory: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint.

    Raises:
        ValueError: The file cannot be read.
    """
    try:
        tensors: dict[str, Tensor] = load_file(directory / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(directory / WEIGHTS)!r} cannot be read: {error}. Save the checkpoint again.") from error
    return tensors


def fill(model: SegmentationModel, tensors: Mapping[str, Tensor]) -> None:
    """Fill tensors of a model, even one without values, in place; the rest stays."""
    wanted = _own_tensors(model)
    # copies, since tensors read from a file may be views of it, and others belong to the caller; not strict, since the
    # second name of a shared tensor is absent
    values = {
        key: value.to(wanted[key].dtype, copy=True, memory_format=torch.contiguous_format)
        for key, value in tensors.items()
        if key in wanted
    }
    model.load_state_dict(values, strict=False, assign=True)


def _own_tensors(model: SegmentationModel) -> dict[str, Tensor]:
    """The state with every tensor once, by its first name: FaPN uses each norm in two places."""
    state = model.state_dict(keep_vars=True)
    first = {id(value): key for key, value in reversed(state.items())}
    return {key: value for key, value in state.items() if first[id(value)] == key}
