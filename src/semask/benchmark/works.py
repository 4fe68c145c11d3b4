"""One run of each kind: forward, image to label map, training step, evaluation of files, batches of training."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from semask.benchmark.candidate import Candidate
from semask.benchmark.options import Options, What
from semask.benchmark.rounds import Work
from semask.data.dataset import training_set, validation_set
from semask.data.scenes.files import draw_files
from semask.evaluation import Measures, Samples, evaluate_model
from semask.recipes import DataRecipe, Recipe
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
