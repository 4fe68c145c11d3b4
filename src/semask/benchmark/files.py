"""Runs that read pictures: an evaluation from files to the confusion matrix, and the batches of training."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from PIL import Image

from semask.benchmark.clock import Work
from semask.benchmark.contender import Contender
from semask.benchmark.options import Options
from semask.benchmark.work import Setting
from semask.data.dataset import validation_set
from semask.data.scenes.scene import SCENE_CLASSES, draw_scene
from semask.evaluation import Measures, Samples, evaluate_model
from semask.recipes import DataRecipe, Recipe
from semask.structures import Sample

COUNTS_ALONE = Measures(boundary=False, areas=(), bins=0)
FILES = 8
"""Drawn for a split; more are shown again."""


def with_data(recipe: Recipe, options: Options, size: tuple[int, int], folder: Path) -> Recipe:
    """Return the recipe with pictures to read: those of its root, its own scenes, or files drawn in `folder`.

    Drawn are scenes of `size` (height, width) [px] as JPEG files with PNG labels, of a class table as long as the
    recipe's.
    """
    here = recipe.data.root is not None and Path(recipe.data.root).exists()
    if options.root is not None or recipe.data.kind == "scenes" or here:
        return recipe
    draw_files(folder, size, recipe.model.num_classes)
    own = DataRecipe(root=str(folder))
    kept = {field: getattr(own, field) for field in PLACES}
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **kept))


PLACES = (
    "kind",
    "root",
    "classes",
    "images",
    "labels",
    "image_suffix",
    "label_suffix",
    "train_split",
    "val_split",
    "channels",
    "value_range",
)
"""Fields of a data recipe that say where pictures lie; the others say what is done to them."""


def draw_files(folder: Path, size: tuple[int, int], num_classes: int) -> None:
    """Write drawn scenes for both splits, and their class table."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for number in range(FILES):
            image, label = draw_scene(2 * number + (split == "train"), size)
            Image.fromarray(image).save(folder / "images" / split / f"{number}.jpg", quality=90)
            Image.fromarray(label % num_classes).save(folder / "labels" / split / f"{number}.png")
    names = [*SCENE_CLASSES.names, *(f"class {number}" for number in range(num_classes))][:num_classes]
    (folder / "classes.json").write_text(json.dumps({"classes": names}), encoding="utf-8")


class Again:
    """The first `count` samples of a data set, and where it has fewer, all of them again, under names of their own."""

    def __init__(self, samples: Samples, count: int) -> None:
        self._samples, self._count = samples, count

    def __len__(self) -> int:
        """Return how many there are."""
        return self._count

    def __getitem__(self, index: int) -> Sample:
        """Return a sample."""
        turn, place = divmod(index, len(self._samples))
        sample = self._samples[place]
        return sample._replace(name=f"{turn}/{sample.name}")


def evaluate(contender: Contender, setting: Setting, options: Options) -> Work:
    """Return an evaluation of the first pictures of the validation split."""
    recipe = contender.recipe
    chosen = Again(validation_set(recipe.data), options.images)
    contender.module.to(setting.device).eval()
    predictor = contender.predictor
    assert predictor is not None  # peers are refused by `options.check`

    def run() -> None:
        with setting.autocast():
            evaluate_model(
                predictor,
                chosen,
                num_classes=recipe.model.num_classes,
                device=setting.device,
                batch_size=options.batch_size,
                workers=options.workers,
                measures=COUNTS_ALONE,
            )

    return run


def load(recipe: Recipe, options: Options) -> Work:
    """Return one pass over batches of the recipe's training draws, by the loader that training has."""
    from semask.training.datamodule import SegmentationData  # brings lightning, which takes long

    steps = options.images // options.batch_size
    train = dataclasses.replace(
        recipe.train, steps=steps, batch_size=options.batch_size, accumulate=1, cached_views=None, freeze_encoder=False
    )
    loader = SegmentationData(dataclasses.replace(recipe, train=train), workers=options.workers).train_dataloader()

    def run() -> torch.Tensor:
        seen = torch.zeros(())
        for batch in loader:
            seen += batch.images.shape[0]
        return seen

    return run
