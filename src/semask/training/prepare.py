"""What must be right before the first step: classes, data, pretrained weights, the run's folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from semask.build import with_classes
from semask.checkpoints import store
from semask.data.classes import Classes
from semask.data.dataset import classes_of
from semask.encoders.pretrained import load_encoder
from semask.model import SegmentationModel
from semask.recipes import Recipe, from_dict, to_dict
from semask.training.callbacks import LAST_CHECKPOINT
from semask.training.history import FOLDER
from semask.training.options import RunOptions

MOVABLE = {"data.root", "model.encoder.weights"}
"""Fields that a resumed run may change: where files lie."""


def fit_classes(recipe: Recipe) -> tuple[Recipe, Classes]:
    """Return the recipe and its classes; folder recipes take their class count from the class table."""
    classes = classes_of(recipe.data)
    found, wanted = len(classes.names), recipe.model.num_classes
    if recipe.name.startswith("folder/"):
        return with_classes(recipe, found), classes
    if found != wanted:
        raise ValueError(
            f"{recipe.name} has {wanted} classes, its class table {found}; say --model.num-classes {found} or give "
            "another table with --data.classes"
        )
    return recipe, classes


def load_pretrained(model: SegmentationModel, recipe: Recipe, *, console: Console, from_scratch: bool) -> None:
    """Fill the encoder with the weights that the recipe names; `from_scratch` leaves it random.

    A ValueError says how to give a local file, or to train without.
    """
    spec = recipe.model.encoder
    if spec.weights is None or from_scratch:
        return
    console.print(str(load_encoder(model.encoder.chain, spec.name, spec.weights)), highlight=False)  # type: ignore[arg-type]


def find_checkpoint(out: Path, recipe: Recipe, options: RunOptions, *, first: bool) -> Path | None:
    """Return the checkpoint to resume from, None to begin; a ValueError protects an earlier run in `out`.

    Only the `first` rank looks for an earlier run: the others might find its own traces.
    """
    if options.resume is None:
        if first and (out / store.RECORD).exists() and not options.overwrite:
            raise ValueError(
                f"{str(out)!r} holds a run already; go on with --resume, replace it with --overwrite, or choose "
                "another folder with --out"
            )
        return None
    path = out / LAST_CHECKPOINT if options.resume == "latest" else Path(options.resume)
    if path.is_dir():
        path = path / LAST_CHECKPOINT
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {str(path)!r} to resume from; give --resume the last.ckpt of a run")
    _check_same_recipe(path.parent / store.RECORD, recipe)
    return path


def open_folder(out: Path, recipe: Recipe, classes: Classes, *, keep: bool) -> None:
    """Make the run's folder with its recipe.json; without `keep` remove what an earlier run left there."""
    if not keep:
        (out / LAST_CHECKPOINT).unlink(missing_ok=True)
        for name in (FOLDER, "best", "last"):
            shutil.rmtree(out / name, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    store.write_record(out / store.RECORD, recipe, classes)


def _check_same_recipe(record: Path, recipe: Recipe) -> None:
    if not record.is_file():
        return
    before = _flatten(to_dict(from_dict(json.loads(record.read_text(encoding="utf-8"))["recipe"])))
    now = _flatten(to_dict(recipe))
    differing = [key for key in now if before[key] != now[key] and key not in MOVABLE]
    if differing:
        listed = ", ".join(f"{key} was {before[key]!r}, is {now[key]!r}" for key in differing[:5])
        raise ValueError(f"a resumed run needs the recipe that it began with: {listed}. It is in {str(record)!r}.")


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
