"""Recipes by name, `<dataset>/<model>`: frozen dataclasses and tables of published rows. Standard library alone."""

from __future__ import annotations

from difflib import get_close_matches
from fnmatch import fnmatch

from semask.recipes import ade20k, camvid, cityscapes, coco_stuff, folder, pascal_context, scenes, voc
from semask.recipes.recipe import (
    DataRecipe,
    LossRecipe,
    MaskLossRecipe,
    ModelRecipe,
    OptimRecipe,
    Published,
    Recipe,
    TestRecipe,
    TrainRecipe,
)
from semask.recipes.record import from_dict, to_dict

_DATASETS = (ade20k, cityscapes, pascal_context, coco_stuff, voc, camvid, scenes, folder)
_BY_NAME: dict[str, Recipe] = {recipe.name: recipe for dataset in _DATASETS for recipe in dataset.RECIPES}


def list_recipes(pattern: str = "*") -> list[str]:
    """Names of all recipes that match a pattern, dataset by dataset; * stands for any text.

    >>> import semask
    >>> semask.list_recipes("camvid/*swin*")
    ['camvid/semask-swin-t-fpn', 'camvid/swin-t-fpn']
    """
    return [name for name in _BY_NAME if fnmatch(name, pattern)]


def get_recipe(name: str) -> Recipe:
    """Recipe of that name.

    Raises:
        ValueError: No recipe has that name; the message lists near ones.

    >>> import semask
    >>> semask.get_recipe("ade20k/seg-t-mask-16").published.miou
    38.1
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    near = get_close_matches(name, _BY_NAME, n=3, cutoff=0.4) or [n for n in _BY_NAME if n.endswith(f"/{name}")]
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    raise ValueError(f"no recipe called {name!r}{hint} `semask models` lists them all.")


__all__ = [
    "DataRecipe",
    "LossRecipe",
    "MaskLossRecipe",
    "ModelRecipe",
    "OptimRecipe",
    "Published",
    "Recipe",
    "TestRecipe",
    "TrainRecipe",
    "from_dict",
    "get_recipe",
    "list_recipes",
    "to_dict",
]
