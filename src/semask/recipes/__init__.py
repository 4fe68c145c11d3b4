"""Recipes by name: `<dataset>/<model>`. Pure standard library.

The package is callable, `semask.recipes()`, and returns the names: see docs/decisions/0002.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable

from semask.callable_module import make_callable
from semask.recipes import (
    ade20k,
    ade20k_baselines,
    ade20k_masks,
    ade20k_segformer,
    ade20k_setr,
    camvid,
    cityscapes,
    cityscapes_baselines,
    cityscapes_masks,
    coco_stuff10k,
    coco_stuff164k,
    folder,
    pascal_context,
    scenes,
    voc,
)
from semask.recipes.recipe import (
    DataRecipe,
    DecoderRecipe,
    EncoderRecipe,
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

_DATASETS = (
    ade20k,
    ade20k_masks,
    ade20k_segformer,
    ade20k_setr,
    ade20k_baselines,
    cityscapes,
    cityscapes_masks,
    cityscapes_baselines,
    pascal_context,
    coco_stuff10k,
    coco_stuff164k,
    voc,
    camvid,
    scenes,
    folder,
)
_BY_NAME: dict[str, Callable[[], Recipe]] = {make().name: make for dataset in _DATASETS for make in dataset.RECIPES}


def names() -> list[str]:
    """Return the names of all recipes, dataset by dataset."""
    return list(_BY_NAME)


def get(name: str) -> Recipe:
    """Return the recipe of that name; a ValueError names the nearest ones."""
    if name in _BY_NAME:
        return _BY_NAME[name]()
    near = difflib.get_close_matches(name, _BY_NAME, n=3, cutoff=0.4) or [n for n in _BY_NAME if n.endswith(f"/{name}")]
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    raise ValueError(f"no recipe called {name!r}{hint} `semask models` lists them all.")


make_callable(__name__, names)

__all__ = [
    "DataRecipe",
    "DecoderRecipe",
    "EncoderRecipe",
    "LossRecipe",
    "MaskLossRecipe",
    "ModelRecipe",
    "OptimRecipe",
    "Published",
    "Recipe",
    "TestRecipe",
    "TrainRecipe",
    "from_dict",
    "get",
    "names",
    "to_dict",
]
