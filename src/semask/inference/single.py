"""The label map of one image, or of a batch of one size: `model.predict`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import UInt8

from semask.inference.from_recipe import build_predictor
from semask.inference.predictor import to_batch
from semask.recipes.recipe import DataRecipe, Recipe
from semask.structures import LabelMap

if TYPE_CHECKING:
    from semask.inference.predictor import ImageLike


def predict_image(
    model: Any, image: ImageLike, *, device: torch.device | str | None = None, **test: Any
) -> UInt8[LabelMap, "*b H W"]:
    """The label map at the image's own size, read by the model's recipe; see `SegmentationModel.predict`.

    Raises:
        ValueError: The image has another number of channels, or values outside its type's range.
    """
    recipe = model.recipe or Recipe(name="", data=DataRecipe(channels=len(model.mean)))
    batch, single = to_batch(image, recipe.data)
    if "window" in test:
        test = {"mode": "sliding", **test}
    predictor = build_predictor(model, replace(recipe.test, **test), recipe.data)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            labels = predictor.labels(batch.to(model.mean.device if device is None else device))
    finally:
        model.train(was_training)
    shown = (labels[0] if single else labels).as_subclass(LabelMap)
    if model.classes is not None:
        shown.names, shown.colours = model.classes.names, model.classes.colours
    return shown
