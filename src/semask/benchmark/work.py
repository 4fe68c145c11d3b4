"""One run of a contender: forward, image to label map, or training step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from semask.benchmark.clock import Work
from semask.benchmark.contender import Contender
from semask.benchmark.options import Dtype, What
from semask.structures import IGNORE
from semask.training.optim import build_optimizer

INSIDE: dict[What, tuple[str, ...]] = {
    "forward": ("normalisation", "padding", "model"),
    "predict": ("bytes to floats on the device", "normalisation", "padding", "model", "label map to the processor"),
    "train": ("normalisation", "padding", "model", "loss", "backward"),
    "evaluate": ("decoding", "model", "label map", "confusion matrix"),
    "load": ("decoding", "augmentation", "batches"),
}
"""What a run of each kind takes in."""


class Setting(NamedTuple):
    """Where a contender runs and on what: images of a size (height, width) [px]; with_step for the optimiser's."""

    device: torch.device
    dtype: Dtype
    size: tuple[int, int]
    with_step: bool = False

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context that a forward pass runs in."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.dtype == "bfloat16" else nullcontext()


def work_of(what: What, contender: Contender, setting: Setting, batch: int) -> Work:
    """Return one run on `batch` random images; the model is moved, and put into the mode that the run needs."""
    contender.module.to(setting.device).train(what == "train")
    return WORK[what](contender, setting, batch)


def forward(contender: Contender, setting: Setting, batch: int) -> Work:
    """Return the forward pass without gradients, to logits at the model's own grid."""
    images = _images(contender, setting, batch)

    def run() -> None:
        with torch.inference_mode(), setting.autocast():
            contender.forward(images)

    return run


def predict(contender: Contender, setting: Setting, batch: int) -> Work:
    """Return the way from pictures in bytes, in the processor's memory, to label maps there."""
    pictures = (_images(contender, setting._replace(device=torch.device("cpu")), batch) * 255).to(torch.uint8)

    def run() -> Tensor:
        with torch.inference_mode(), setting.autocast():
            return contender.labels(pictures.to(setting.device) / 255).cpu()

    return run


def train(contender: Contender, setting: Setting, batch: int) -> Work:
    """Return a training step: forward, loss, backward and, if the setting says so, the recipe's optimiser's step."""
    images = _images(contender, setting, batch)
    labels = label_maps(contender.recipe.model.num_classes, setting.size, batch).to(setting.device)
    parameters = list(contender.module.parameters())
    optimizer = build_optimizer(contender.module, contender.recipe.optim) if setting.with_step else None

    def run() -> None:
        with setting.autocast():
            loss = contender.loss(images, labels)
        loss.backward()
        if optimizer is not None:
            optimizer.step()
        for parameter in parameters:
            parameter.grad = None  # now and not before the next run, so that gradients count as memory of a run

    return run


WORK: dict[What, Callable[[Contender, Setting, int], Work]] = {"forward": forward, "predict": predict, "train": train}


def label_maps(num_classes: int, size: tuple[int, int], batch: int) -> UInt8[Tensor, "b H W"]:
    """Return labels with regions, as those of pictures, of up to 24 classes each; the top tenth is not labelled."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randint(0, num_classes, (batch, 1, 4, 6), generator=generator)
    labels = F.interpolate(coarse.float(), size)[:, 0].to(torch.uint8)
    labels[:, : size[0] // 10] = IGNORE
    return labels


def _images(contender: Contender, setting: Setting, batch: int) -> Float[Tensor, "b c H W"]:
    channels = contender.recipe.data.channels
    images = torch.rand(batch, channels, *setting.size, generator=torch.Generator().manual_seed(0))
    return images.to(setting.device)
