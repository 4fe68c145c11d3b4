"""What is measured beside each other: a model of ours, or a peer's, by what can be asked of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from semask.benchmark.options import Options, Test
from semask.build import build_loss, build_model, with_classes
from semask.checkpoints import store
from semask.checkpoints.record import read_recipe
from semask.data.dataset import classes_of
from semask.inference import Predictor, build_predictor
from semask.models.model import SegmentationModel
from semask.recipes import Recipe, get, names


class Contender(NamedTuple):
    """A model, ours or another library's, that reads images b c H W in [0, 1] and normalises them itself.

    title: what tables call it. recipe: what it is, or stands beside. forward: to logits at the model's own grid.
    labels: to a uint8 label map of the images' size. loss: of images and labels (b H W), to a scalar. predictor: what
    makes the label maps; None of a peer.
    """

    title: str
    library: str
    recipe: Recipe
    module: nn.Module
    forward: Callable[[Tensor], object]
    labels: Callable[[Tensor], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    predictor: Predictor | None = None


def ours(name: str, options: Options) -> Contender:
    """Return the contender of a recipe's name, with random weights, or of a checkpoint's folder."""
    recipe = recipe_of(name, options.root)
    model = store.load(name).model if _is_checkpoint(name) else build_model(recipe)
    return contender(name, model, recipe, test=options.test)


def recipe_of(name: str, root: Path | None = None) -> Recipe:
    """Return the recipe of that name, or of the checkpoint in that folder, with its data at `root`.

    Where data are, a recipe for any classes gets theirs. A ValueError tells that there is no such recipe, or that the
    data's classes are not as many.
    """
    if _is_checkpoint(name):
        recipe = read_recipe(Path(name))
    else:
        try:
            recipe = get(name)
        except ValueError as error:
            raise ValueError(f"{error} Nor is there a checkpoint's folder at {str(Path(name).resolve())!r}.") from error
    if root is None:
        return recipe
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, root=str(root)))
    found, wanted = len(classes_of(recipe.data).names), recipe.model.num_classes
    if recipe.data.classes_from_data and not _is_checkpoint(name):
        return with_classes(recipe, found)
    if found != wanted:
        raise ValueError(
            f"{name} is for {wanted} classes, the table of {str(root)!r} has {found}; give another --data.root, or a "
            "recipe for any classes (folder/…)"
        )
    return recipe


def _is_checkpoint(name: str) -> bool:
    return name not in names() and Path(name).is_dir()


def contender(title: str, model: SegmentationModel, recipe: Recipe, *, test: Test = "whole") -> Contender:
    """Return a model of ours; `test` is how label maps are made: whole, by sliding windows, or as the recipe has it."""
    criterion = build_loss(recipe)
    spec, data = recipe.test, recipe.data
    if test != "recipe":
        spec = dataclasses.replace(spec, mode=test, scales=(1.0,), flip=False, enlarge=False)
        data = dataclasses.replace(data, base_scale=None, base_ratio=1.0)
    predictor = build_predictor(model, spec, data)

    def forward(images: Tensor) -> object:
        return model.predict(images)  # looked up at every call, since compiling replaces it

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return criterion(model(images), model.pad_labels(labels)).total

    return Contender(title, "semask", recipe, model, forward, predictor.labels, loss, predictor)


def compile_model(module: nn.Module) -> None:
    """Let torch.compile have the model, in place; its first run of each kind compiles."""
    module.compile()
    if isinstance(module, SegmentationModel):
        # nn.Module.compile is for the call alone, which is the way of training.
        module.predict = torch.compile(module.predict)  # type: ignore[method-assign]
