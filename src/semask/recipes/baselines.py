"""The systems that the papers compare with, and their training by mmsegmentation's schedules.

ImageNet weights are timm's: mmsegmentation starts from conversions of its own, and its ResNet-101c from one trained by
OpenMMLab, so figures can differ from the start.
"""

from __future__ import annotations

from typing import Literal

from semask.recipes.decoders import OCROptions, SemanticFPNOptions, UPerNetOptions, decoder_options
from semask.recipes.encoders import DilatableOptions, EncoderOptions, FixedSizeOptions, HRNetOptions
from semask.recipes.recipe import DataRecipe, ModelRecipe, OptimRecipe, Published, Recipe, TrainRecipe

Backbone = Literal["r50", "r101", "resnest101", "resnest200", "xception71", "hr48", "hr48-psa", "swinv2-l"]
Head = Literal["fcn", "pspnet", "deeplabv3plus", "ccnet", "psanet"]

HALF = (0.5, 0.5, 0.5)
"""Mean and deviation of images for Xception's weights."""
BACKBONES: dict[Backbone, EncoderOptions] = {
    "r50": DilatableOptions(name="resnet50c.gluon_in1k"),
    "r101": DilatableOptions(name="resnet101c.gluon_in1k", output_stride=8),
    "resnest101": DilatableOptions(name="resnest101e.in1k", output_stride=8),
    "resnest200": DilatableOptions(name="resnest200e.in1k", output_stride=8),
    "xception71": DilatableOptions(name="xception71.tf_in1k", output_stride=16),
    "hr48": HRNetOptions(name="hrnet_w48.ms_in1k"),
    "hr48-psa": HRNetOptions(name="hrnet_w48.ms_in1k", polarized_attention=True),
    "swinv2-l": FixedSizeOptions(name="swinv2_large_window12to24_192to384.ms_in22k_ft_in1k", drop_path=0.3),
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


def dense(backbone: Backbone, head: Head, num_classes: int, **options: int) -> ModelRecipe:
    """A head over a dilated backbone, with an auxiliary head; `options` are the head's own."""
    colours = {"mean": HALF, "std": HALF} if backbone == "xception71" else {}
    return ModelRecipe(
        encoder=BACKBONES[backbone], decoder=decoder_options(head, **options), num_classes=num_classes, **colours
    )


def ocrnet(backbone: Backbone, num_classes: int) -> ModelRecipe:
    """OCR over HRNet."""
    return ModelRecipe(encoder=BACKBONES[backbone], decoder=OCROptions(), num_classes=num_classes)


def upernet(encoder: EncoderOptions, num_classes: int) -> ModelRecipe:
    """UPerNet with its auxiliary head."""
    return ModelRecipe(encoder=encoder, decoder=UPerNetOptions(), num_classes=num_classes)


def panoptic_fpn(backbone: Backbone, num_classes: int) -> ModelRecipe:
    """Semantic FPN as it was published, with a neck."""
    decoder = SemanticFPNOptions(channels=128, neck=256)
    return ModelRecipe(encoder=BACKBONES[backbone], decoder=decoder, num_classes=num_classes)


def baseline(
    name: str,
    model: ModelRecipe,
    data: DataRecipe,
    *,
    optim: OptimRecipe,
    steps: int,
    batch_size: int,
    published: Published,
) -> Recipe:
    """The whole recipe, evaluated ten times."""
    train = TrainRecipe(steps=steps, batch_size=batch_size, eval_every=steps // 10)
    return Recipe(name=name, model=model, data=data, optim=optim, train=train, published=published)
