"""The models of a measurement: a recipe, a checkpoint, or another library's model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from semask.benchmark.options import Options, Test
from semask.checkpoints import store
from semask.checkpoints.record import read_recipe
from semask.data.dataset import classes_of
from semask.inference import Pipeline, build_predictor
from semask.losses.build import build_loss
from semask.models.build import build
from semask.models.model import SegmentationModel
from semask.recipes import Recipe, get_recipe, list_recipes


class Candidate(NamedTuple):
    """A model, ours or another library's, that reads images b c H W in [0, 1] and normalises them itself.

    title: the name in tables. recipe: its own, or the one it is compared with. forward: to logits at the model's own
    grid. labels: to a uint8 label map of the images' size. loss: from images and labels (b H W) to a scalar.
    predictor: the maker of the label maps; None for other libraries.
    """

    title: str
    library: str
    recipe: Recipe
    module: nn.Module
    forward: Callable[[Tensor], object]
    labels: Callable[[Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    predictor: Pipeline | None = None


def candidate(name: str, options: Options) -> Candidate:
    """The model of a recipe's name, with random weights, or of a checkpoint's folder."""
    recipe = recipe_of(name, options.root)
    # random weights cost what trained ones cost
    model = build(recipe) if name in list_recipes() else store.load(name).model
    return as_candidate(name, model, recipe, test=options.test)


def recipe_of(name: str, root: Path | None = None) -> Recipe:
    """The recipe of that name, or of the checkpoint in that folder, with its data at `root`.

    Raises:
        ValueError: there is no such recipe or checkpoint, or its number of classes is not the data's.
    """
    is_checkpoint = name not in list_recipes() and Path(name).is_dir()
    try:
        recipe = read_recipe(Path(name)) if is_checkpoint else get_recipe(name)
    except ValueError as error:
        if is_checkpoint:
            raise
        raise ValueError(f"{error} Nor is there a checkpoint's folder at {str(Path(name).resolve())!r}.") from error
    if root is None:
        return recipe
    recipe = recipe.override({"data.root": str(root)})
    # a recipe for any classes takes the number of its data; a checkpoint's number is fixed
    found, wanted = len(classes_of(recipe.data).names), recipe.model.num_classes
    if recipe.data.classes_from_data and not is_checkpoint:
        return recipe.override({"model.num_classes": found})
    if found != wanted:
        raise ValueError(
            f"{name} is for {wanted} classes, the table of {str(root)!r} has {found}; give another --data.root, or a "
            "recipe for any classes (folder/…)"
        )
    return recipe


def as_candidate(title: str, model: SegmentationModel, recipe: Recipe, *, test: Test = "whole") -> Candidate:
    """A model of ours; `test` makes its label maps: whole images, sliding windows, or the recipe's own test."""
    criterion, spec, data = build_loss(recipe), recipe.test, recipe.data
    # one scale and no resizing, so that the time is that of one image
    if test != "recipe":
        spec = dataclasses.replace(spec, mode=test, scales=(1.0,), flip=False, enlarge=False)
        data = dataclasses.replace(data, base_scale=None, base_ratio=1.0)
    predictor = build_predictor(model, spec, data)

    def forward(images: Tensor) -> object:
        return model.decode_main(images)  # looked up at every call, since compiling replaces it

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return criterion(model(images), model.pad_labels(labels)).total

    return Candidate(title, "semask", recipe, model, forward, predictor.labels, loss, predictor)
