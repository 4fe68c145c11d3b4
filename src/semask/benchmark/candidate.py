"""The models of a measurement, ours and another library's, and one run of each kind: forward, predict, train, ….

A model of ours is that of a recipe or of a checkpoint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor, nn

from semask.benchmark.options import Options, Test, What
from semask.benchmark.rounds import Work
from semask.checkpoints.record import read_recipe
from semask.data.dataset import classes_of, training_set, validation_set
from semask.data.scenes.files import draw_files
from semask.evaluation import Measures, Samples, evaluate_model
from semask.inference import Pipeline, build_predictor
from semask.losses.build import build_loss
from semask.models.model import SegmentationModel
from semask.recipes import DataRecipe, Recipe, get_recipe, list_recipes
from semask.structures import IGNORE, Sample
from semask.training.optim import build_optimizer

INSIDE: dict[What, tuple[str, ...]] = {
    "forward": ("normalisation", "padding", "model"),
    "predict": ("bytes to floats on the device", "normalisation", "padding", "model", "label map to the CPU"),
    "train": ("normalisation", "padding", "model", "loss", "backward"),
    "evaluate": ("decoding", "model", "label map", "confusion matrix"),
    "load": ("decoding", "augmentation", "batches"),
}
"""Steps inside a run of each kind."""
LOCATION = (
    *("kind", "root", "classes", "images", "labels", "image_suffix", "label_suffix"),
    *("train_split", "val_split", "channels", "value_range"),
)
"""Fields of a data recipe that locate images; the others process them."""


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


def recipe_of(name: str, root: Path | None = None) -> Recipe:
    """The recipe of that name, or of the checkpoint in that folder, with its data at `root`.

    Raises:
        ValueError: there is no such recipe or checkpoint, or its number of classes is not the data's.
    """
    is_checkpoint = name not in list_recipes() and Path(name).exists()
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


def work_of(candidate: Candidate, options: Options, device: torch.device, batch: int) -> Work:
    """One run of forward, predict or train on `batch` random images in [0, 1], the same for every candidate of a size.

    The model is moved to the device, and into the mode of the run.
    """
    recipe, module = candidate.recipe, candidate.module.to(device).train(options.what == "train")
    size = options.size_for(recipe.data.crop)
    images = torch.rand(batch, recipe.data.channels, *size, generator=torch.Generator().manual_seed(0))
    if options.what == "predict":
        # from bytes in the CPU's memory, as decoders return them, to label maps there
        images = (images * 255).to(torch.uint8)

        def predict() -> Tensor:
            with torch.inference_mode(), autocast(options, device):
                return candidate.labels(images.to(device) / 255).cpu()

        return predict
    images = images.to(device)
    if options.what == "forward":

        def forward() -> None:
            with torch.inference_mode(), autocast(options, device):
                candidate.forward(images)

        return forward
    labels = label_maps(recipe.model.num_classes, size, batch).to(device)
    optimizer = build_optimizer(module, recipe.optim) if options.step else None

    def train() -> None:
        with autocast(options, device):
            loss = candidate.loss(images, labels)
        loss.backward()
        if optimizer is not None:
            optimizer.step()
        # now and not before the next run, so that gradients count as memory of a run
        module.zero_grad()

    return train


def autocast(options: Options, device: torch.device) -> AbstractContextManager[object]:
    """The context that models run in."""
    return torch.autocast(device.type, torch.bfloat16) if options.dtype == "bfloat16" else nullcontext()


def label_maps(num_classes: int, size: tuple[int, int], batch: int) -> UInt8[Tensor, "b H W"]:
    """Random labels of up to 24 regions, about as many as real images have; the top tenth is unlabelled."""
    # a grid of 4×6 regions of random classes
    coarse = torch.randint(0, num_classes, (batch, 1, 4, 6), generator=torch.Generator().manual_seed(1))
    labels = F.interpolate(coarse.float(), size)[:, 0].to(torch.uint8)
    labels[:, : size[0] // 10] = IGNORE
    return labels


class Repeated:
    """`count` samples of a data set; a shorter one is repeated, under new names."""

    def __init__(self, samples: Samples, count: int) -> None:
        self._samples, self._count = samples, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        # evaluations refuse equal names
        turn, place = divmod(index, len(self._samples))
        sample = self._samples[place]
        return sample._replace(name=f"{turn}/{sample.name}")


def evaluate(candidate: Candidate, options: Options, device: torch.device) -> Work:
    """An evaluation of the first images of the validation split, from files to the confusion matrix."""
    samples = Repeated(validation_set(candidate.recipe.data), options.images)
    candidate.module.to(device).eval()
    predictor = candidate.predictor
    assert predictor is not None  # `options.check` refuses other libraries

    def run() -> None:
        with autocast(options, device):
            evaluate_model(
                predictor,
                samples,
                num_classes=candidate.recipe.model.num_classes,
                device=device,
                batch_size=options.batch_size,
                workers=options.workers,
                measures=Measures(boundary=False, areas=(), bins=0),
            )

    return run


def load(recipe: Recipe, options: Options) -> Work:
    """One pass over random batches of the recipe's training split, by the loader of training."""
    from semask.training.datamodule import SegmentationData  # imports lightning, which takes long

    # as many steps as batches, without parts of training that keep or repeat images
    steps = {"train.steps": options.images // options.batch_size, "train.batch_size": options.batch_size}
    once = {"train.accumulate": 1, "train.cached_views": None, "train.freeze_encoder": False}
    draws = training_set(recipe.data, seed=recipe.train.seed, mean=recipe.model.mean)
    data = SegmentationData(draws, draws, recipe.override({**steps, **once}), workers=options.workers)
    loader = data.train_dataloader()
    return lambda: sum(batch.images.shape[0] for batch in loader)


def with_data(recipe: Recipe, options: Options, folder: Path) -> Recipe:
    """The recipe with images to read: those of its root, its own scenes, or scenes drawn to files."""
    present = recipe.data.root is not None and Path(recipe.data.root).exists()
    if options.root is not None or recipe.data.kind == "scenes" or present:
        return recipe
    # scenes in a folder of the default layout, processed by the recipe's other fields
    draw_files(folder, options.size_for(recipe.data.crop), recipe.model.num_classes)
    own = DataRecipe(root=str(folder))
    return recipe.override({f"data.{field}": getattr(own, field) for field in LOCATION})
