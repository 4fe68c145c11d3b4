"""The systems that the papers compare with, and their training by mmsegmentation's schedules.

ImageNet weights are timm's: mmsegmentation starts from conversions of its own, and its ResNet-101c from one trained by
OpenMMLab, so figures can differ from the start.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from semask.recipes.recipe import (
    DataRecipe,
    DecoderRecipe,
    EncoderRecipe,
    ModelRecipe,
    OptimRecipe,
    Published,
    Recipe,
    TrainRecipe,
)
from semask.recipes.swin import Variant, swin

Backbone = Literal["r50", "r101", "resnest101", "resnest200", "xception71", "hr48", "hr48-psa", "swinv2-l"]
Head = Literal["fcn", "pspnet", "deeplabv3plus", "ccnet", "psanet"]

HALF = (0.5, 0.5, 0.5)
"""Mean and deviation of images for Xception's weights."""
BACKBONES: dict[Backbone, EncoderRecipe] = {
    "r50": EncoderRecipe(name="resnet50c.gluon_in1k"),
    "r101": EncoderRecipe(name="resnet101c.gluon_in1k", output_stride=8),
    "resnest101": EncoderRecipe(name="resnest101e.in1k", output_stride=8),
    "resnest200": EncoderRecipe(name="resnest200e.in1k", output_stride=8),
    "xception71": EncoderRecipe(name="xception71.tf_in1k", output_stride=16),
    "hr48": EncoderRecipe(name="hrnet_w48.ms_in1k"),
    "hr48-psa": EncoderRecipe(name="hrnet_w48.ms_in1k", polarized_attention=True),
    "swinv2-l": EncoderRecipe(name="swinv2_large_window12to24_192to384.ms_in22k_ft_in1k", drop_path=0.3),
}
"""ResNets with a deep stem and dilated to stride 8, and the others as their heads have them."""
SGD = OptimRecipe(
    algorithm="sgd",
    nesterov=False,
    lr=1e-2,
    weight_decay=5e-4,
    momentum=0.9,
    power=0.9,
    min_lr=1e-4,
    warmup_steps=0,
    no_decay=(),
)
"""For convolutional backbones; all parameters decay."""
ADAMW = OptimRecipe(lr=6e-5, weight_decay=0.01)
"""For UPerNet over Swin."""


class Schedule(NamedTuple):
    """How long a dataset is trained on, and its images per step."""

    steps: int
    batch_size: int


def dense(backbone: Backbone, head: Head, num_classes: int, *, window_size: int = 66) -> ModelRecipe:
    """Return a head over a dilated backbone with an auxiliary head; `window_size` is PSANet's."""
    decoder = DecoderRecipe(name=head, channels=512, dropout=0.1, auxiliary=True, window_size=window_size)
    if backbone == "xception71":
        return ModelRecipe(encoder=BACKBONES[backbone], decoder=decoder, num_classes=num_classes, mean=HALF, std=HALF)
    return ModelRecipe(encoder=BACKBONES[backbone], decoder=decoder, num_classes=num_classes)


def ocrnet(backbone: Backbone, num_classes: int) -> ModelRecipe:
    """Return OCR over HRNet."""
    decoder = DecoderRecipe(name="ocr", channels=512, dropout=0.0)
    return ModelRecipe(encoder=BACKBONES[backbone], decoder=decoder, num_classes=num_classes)


def upernet(encoder: EncoderRecipe, num_classes: int) -> ModelRecipe:
    """Return UPerNet with its auxiliary head."""
    decoder = DecoderRecipe(name="upernet", channels=512, dropout=0.1, auxiliary=True)
    return ModelRecipe(encoder=encoder, decoder=decoder, num_classes=num_classes)


def upernet_swin(variant: Variant, num_classes: int) -> ModelRecipe:
    """Return UPerNet over Swin."""
    return upernet(swin(variant), num_classes)


def panoptic_fpn(backbone: Backbone, num_classes: int) -> ModelRecipe:
    """Return Semantic FPN as it was published, with a neck."""
    decoder = DecoderRecipe(name="semantic_fpn", channels=128, dropout=0.1, neck=256)
    return ModelRecipe(encoder=BACKBONES[backbone], decoder=decoder, num_classes=num_classes)


def baseline(
    name: str,
    model: ModelRecipe,
    data: DataRecipe,
    *,
    optim: OptimRecipe,
    schedule: Schedule,
    published: Published,
) -> Recipe:
    """Return the whole recipe, evaluated ten times."""
    train = TrainRecipe(steps=schedule.steps, batch_size=schedule.batch_size, eval_every=schedule.steps // 10)
    return Recipe(name=name, model=model, data=data, optim=optim, train=train, published=published)
