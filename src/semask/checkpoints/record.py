"""recipe.json, the record beside the weights: the recipe of the model and its classes. Without torch."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semask.exports.metadata import FILES, SUFFIXES, find
from semask.files import write_json
from semask.recipes import Recipe, from_dict, to_dict
from semask.recipes.record import FORMAT

if TYPE_CHECKING:
    from semask.data.classes import Classes

WEIGHTS = "model.safetensors"
RECORD = "recipe.json"
MOST_BYTES = 2**24
"""A record has a few kilobytes, its class table at most some hundred."""


def write_record(directory: Path, recipe: Recipe | None, classes: Classes | None = None, parts: str = "") -> None:
    """Write a recipe and its classes as JSON into the directory.

    Without a recipe, `parts` names the classes of a model that no recipe describes.
    """
    record = {
        "format": FORMAT,
        "semask": version("semask"),
        "recipe": to_dict(recipe) if recipe is not None else None,
        "parts": parts,
        "classes": classes.to_dict() if classes is not None else None,
    }
    write_json(directory / RECORD, record)


def read_record(path: Path) -> dict[str, Any]:
    """Plain values of a recipe.json.

    Raises:
        ValueError: The file is no JSON, or of another format.
    """
    try:
        # a larger file is no record, and would fill the memory
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        record = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is no JSON: {error}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT or "recipe" not in record:
        raise ValueError(f"{str(path)!r} is not of format {FORMAT}; was it written by another semask?")
    return record


def read_recipe(checkpoint: Path) -> Recipe:
    """Recipe of a checkpoint's folder or of an exported file, without reading weights.

    Raises:
        ValueError: Files are missing or broken, or no recipe describes the model.
    """
    weights = weights_of(checkpoint)
    if weights.name != WEIGHTS:
        from semask.exports.runtime import read_record as read_export

        return from_dict(read_export(weights)["recipe"])
    return recipe_of(read_record(checkpoint / RECORD), checkpoint)


def weights_of(checkpoint: Path) -> Path:
    """The file with the weights: an exported one, given by itself or by its folder, or that of a checkpoint's folder.

    Raises:
        ValueError: A file is missing.
    """
    if checkpoint.suffix in SUFFIXES or any((checkpoint / name).is_file() for name in FILES.values()):
        return find(checkpoint)
    require_checkpoint(checkpoint)
    return checkpoint / WEIGHTS


def recipe_of(record: dict[str, Any], directory: Path) -> Recipe:
    """Recipe in a record.

    Raises:
        ValueError: No recipe describes the model.
    """
    if record["recipe"] is None:
        raise ValueError(
            f"{str(directory)!r} holds the weights of {record.get('parts')}, which no recipe describes; build the "
            "model in Python and use semask.load(directory, model=model)"
        )
    return from_dict(record["recipe"])


def require_checkpoint(directory: Path) -> None:
    """Check that the directory holds a record and weights.

    Raises:
        ValueError: A file is missing.
    """
    absent = [name for name in (RECORD, WEIGHTS) if not (directory / name).is_file()]
    if absent:
        best = directory / "best"
        hint = f"did you mean {best}? " if (best / WEIGHTS).is_file() else ""
        lack = f"it lacks {' and '.join(absent)}" if directory.exists() else "there is no such folder"
        raise ValueError(
            f"{str(directory)!r} is no semask checkpoint: {lack}. {hint}Give the directory that "
            "`semask train` wrote, such as runs/NAME/best, or a file of `semask export`; published files go through "
            "`semask convert` first."
        )
