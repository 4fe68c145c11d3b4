"""Figures of a finished run: its curves, and validation images as its best weights segment them."""

from __future__ import annotations

import torch
from lightning.pytorch.utilities import rank_zero_only

from semask.checkpoints import store
from semask.data.dataset import classes_of, validation_set
from semask.data.readers.raster import as_rgb
from semask.inference import build_predictor, build_prior
from semask.text import console
from semask.training.history import read_history
from semask.training.run import TrainResult
from semask.visualization.figures import Row, figure_grid, training_curves

SHOWN = 8
"""Validation images in the overview."""


@rank_zero_only
@torch.inference_mode()
def draw(result: TrainResult, best: store.Bundle | None = None) -> None:
    """Draw curves.png and overview.png into the folder of a run; `best` None loads its best weights."""
    model, recipe, classes = best or store.load(result.best)
    assert recipe is not None  # the run was made by it
    if history := read_history(result.out):
        training_curves(result.out / "curves.png", history)
    # image, truth, prediction and semantic prior of images from all over the split
    predictor = build_predictor(model, recipe.test, recipe.data)
    prior = build_prior(model, recipe.test, recipe.data) if model.semantic_layers else None
    samples, rows = validation_set(recipe.data), []
    for index in range(0, len(samples), -(-len(samples) // SHOWN)):
        image, label, _ = samples[index]
        found = predictor.labels(image[None])[0], prior.labels(image[None])[0] if prior else None
        rows.append(Row(as_rgb(image), label, *found))
    figure_grid(result.out / "overview.png", rows, classes or classes_of(recipe.data))
    console().print(f"curves in {result.out / 'curves.png'}, images in {result.out / 'overview.png'}")
