"""Our own checkpoints: a directory with model.safetensors and recipe.json."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from semask.build import build_model
from semask.data.classes import Classes
from semask.model import SegmentationModel
from semask.recipes import Recipe, from_dict, to_dict

WEIGHTS = "model.safetensors"
RECORD = "recipe.json"
FORMAT = 1


class Bundle(NamedTuple):
    """A model with the recipe that made it and the classes it knows."""

    model: SegmentationModel
    recipe: Recipe
    classes: Classes | None


def save(directory: str | Path, model: SegmentationModel, recipe: Recipe, classes: Classes | None = None) -> Path:
    """Write the checkpoint and return its directory; files appear whole or not at all."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    part = directory / f"{WEIGHTS}.tmp"
    save_file(tensors, part)
    os.replace(part, directory / WEIGHTS)
    write_record(directory / RECORD, recipe, classes)
    return directory


def write_record(path: Path, recipe: Recipe, classes: Classes | None = None) -> None:
    """Write a recipe and its classes as JSON."""
    record = {
        "format": FORMAT,
        "semask": version("semask"),
        "recipe": to_dict(recipe),
        "classes": classes.to_dict() if classes is not None else None,
    }
    part = path.with_suffix(".tmp")
    part.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def load(directory: str | Path, *, device: str | torch.device = "cpu") -> Bundle:
    """Read a checkpoint; the model is in evaluation mode. A ValueError says what is missing or broken."""
    directory = Path(directory)
    record = _read_record(directory)
    recipe = from_dict(record["recipe"])
    classes = Classes.from_dict(record["classes"]) if record.get("classes") else None
    model = build_model(recipe)
    try:
        tensors = load_file(directory / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(directory / WEIGHTS)!r} cannot be read: {error}. Save the checkpoint again.") from error
    wanted = model.state_dict()
    odd = sorted(set(tensors) ^ set(wanted))
    odd += [key for key, value in tensors.items() if key in wanted and value.shape != wanted[key].shape]
    if odd:
        raise ValueError(
            f"the weights in {str(directory)!r} do not fit their recipe: {len(odd)} tensors are missing, unexpected or "
            f"of another shape, first {', '.join(odd[:5])}. {RECORD} and {WEIGHTS} must come from one run."
        )
    model.load_state_dict(tensors)
    return Bundle(model.to(device), recipe, classes)


def _read_record(directory: Path) -> dict[str, Any]:
    absent = [name for name in (RECORD, WEIGHTS) if not (directory / name).is_file()]
    if absent:
        raise ValueError(
            f"{str(directory)!r} is no semask checkpoint: it lacks {' and '.join(absent)}. Give the directory that "
            "`semask train` wrote, such as runs/NAME/best; published files go through `semask convert` first."
        )
    try:
        record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(directory / RECORD)!r} is no JSON: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT or "recipe" not in record:
        raise ValueError(f"{str(directory / RECORD)!r} is not of format {FORMAT}; was it written by another semask?")
    return record
