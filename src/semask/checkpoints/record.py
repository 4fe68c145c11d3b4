"""recipe.json, the record beside the weights: the recipe that made them and the classes they know. Without torch."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semask.files import whole_file
from semask.recipes import Recipe, from_dict, to_dict

if TYPE_CHECKING:
    from semask.data.classes import Classes

WEIGHTS = "model.safetensors"
RECORD = "recipe.json"
FORMAT = 1


def write_record(directory: Path, recipe: Recipe, classes: Classes | None = None) -> None:
    """Write a recipe and its classes as JSON into the directory."""
    record = {
        "format": FORMAT,
        "semask": version("semask"),
        "recipe": to_dict(recipe),
        "classes": classes.to_dict() if classes is not None else None,
    }
    with whole_file(directory / RECORD) as part:
        part.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_record(path: Path) -> dict[str, Any]:
    """Read a recipe.json as plain values; a ValueError says what is broken."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} is no JSON: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT or "recipe" not in record:
        raise ValueError(f"{str(path)!r} is not of format {FORMAT}; was it written by another semask?")
    return record


def read_recipe(directory: Path) -> Recipe:
    """Return the recipe of a checkpoint without reading its weights; a ValueError says what is missing or broken."""
    require_checkpoint(directory)
    return from_dict(read_record(directory / RECORD)["recipe"])


def require_checkpoint(directory: Path) -> None:
    """Raise a ValueError unless the directory holds a record and weights."""
    absent = [name for name in (RECORD, WEIGHTS) if not (directory / name).is_file()]
    if absent:
        raise ValueError(
            f"{str(directory)!r} is no semask checkpoint: it lacks {' and '.join(absent)}. Give the directory that "
            "`semask train` wrote, such as runs/NAME/best; published files go through `semask convert` first."
        )
