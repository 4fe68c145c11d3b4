"""Our own checkpoints: a directory with model.safetensors and recipe.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from semask.build import build_unfilled
from semask.checkpoints.record import RECORD, WEIGHTS, read_record, require_checkpoint, write_record
from semask.data.classes import Classes
from semask.files import whole_file
from semask.models.model import SegmentationModel
from semask.recipes import Recipe, from_dict


class Bundle(NamedTuple):
    """A model with the recipe that made it and the classes it knows."""

    model: SegmentationModel
    recipe: Recipe
    classes: Classes | None


def save(directory: str | Path, model: SegmentationModel, recipe: Recipe, classes: Classes | None = None) -> Path:
    """Write the checkpoint and return its directory; files appear whole or not at all."""
    directory = Path(directory)
    tensors = {key: value.detach().cpu().contiguous() for key, value in _own_tensors(model).items()}
    with whole_file(directory / WEIGHTS) as part:
        save_file(tensors, part)
    write_record(directory, recipe, classes)
    return directory


def load(directory: str | Path, *, device: str | torch.device = "cpu") -> Bundle:
    """Read a checkpoint; the model is in evaluation mode. A ValueError says what is missing or broken."""
    directory = Path(directory)
    require_checkpoint(directory)
    record = read_record(directory / RECORD)
    recipe = from_dict(record["recipe"])
    classes = Classes.from_dict(record["classes"]) if record.get("classes") else None
    model = build_unfilled(recipe)
    try:
        tensors = load_file(directory / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(directory / WEIGHTS)!r} cannot be read: {error}. Save the checkpoint again.") from error
    wanted = _own_tensors(model)
    odd = sorted(set(tensors) ^ set(wanted))
    odd += [key for key, value in tensors.items() if key in wanted and value.shape != wanted[key].shape]
    if odd:
        raise ValueError(
            f"the weights in {str(directory)!r} do not fit their recipe: {len(odd)} tensors are missing, unexpected or "
            f"of another shape, first {', '.join(odd[:5])}. {RECORD} and {WEIGHTS} must come from one run."
        )
    fill(model, tensors)
    return Bundle(model.to(device), recipe, classes)


def fill(model: SegmentationModel, tensors: Mapping[str, Tensor]) -> None:
    """Give a model, built unfilled or not, these values of its state; what else it has stays."""
    wanted = _own_tensors(model)
    # Copied, since what was read may be a view of a file, which may change, or the caller's own. Not strict: what is
    # shared has a second name, and comes with the first.
    values = {
        key: value.to(wanted[key].dtype, copy=True, memory_format=torch.contiguous_format)
        for key, value in tensors.items()
        if key in wanted
    }
    model.load_state_dict(values, strict=False, assign=True)


def _own_tensors(model: SegmentationModel) -> dict[str, Tensor]:
    """Return the state with every tensor once, by its first name: FaPN's norms are shared by two places."""
    state = model.state_dict(keep_vars=True)
    first = {id(value): key for key, value in reversed(state.items())}
    return {key: value for key, value in state.items() if first[id(value)] == key}
