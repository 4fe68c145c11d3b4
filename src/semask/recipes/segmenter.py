"""The Segmenter models and their training, which the dataset recipes share.

Source: Segmenter (arXiv:2105.05633) §4 and its authors' code.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from semask.recipes.decoders import SegmenterLinearOptions, SegmenterMaskOptions
from semask.recipes.encoders import ViTOptions
from semask.recipes.recipe import (
    DataRecipe,
    LossRecipe,
    ModelRecipe,
    OptimRecipe,
    Published,
    Recipe,
    TestRecipe,
    TrainRecipe,
)

Variant = Literal["t-16", "s-16", "s-32", "b-8", "b-16", "b-32", "b-deit-16", "l-16", "l-32"]
Colour = tuple[float, float, float]

SEGMENTER: dict[Variant, str] = {
    "t-16": "vit_tiny_patch16_384.augreg_in21k_ft_in1k",
    "s-16": "vit_small_patch16_384.augreg_in21k_ft_in1k",
    "s-32": "vit_small_patch32_384.augreg_in21k_ft_in1k",
    # The authors' weights at 384 px were never published; the paper's text has 224.
    "b-8": "vit_base_patch8_224.augreg_in21k_ft_in1k",
    "b-16": "vit_base_patch16_384.augreg_in21k_ft_in1k",
    "b-32": "vit_base_patch32_384.augreg_in21k_ft_in1k",
    "b-deit-16": "deit_base_distilled_patch16_384.fb_in1k",
    "l-16": "vit_large_patch16_384.augreg_in21k_ft_in1k",
    "l-32": "vit_large_patch32_384.orig_in21k_ft_in1k",
}
"""timm's name of every encoder with its ImageNet weights."""
PATCH_SIZES: tuple[dict[int, str], ...] = (
    {16: SEGMENTER["s-16"], 32: SEGMENTER["s-32"]},
    {16: SEGMENTER["b-16"], 8: SEGMENTER["b-8"], 32: SEGMENTER["b-32"]},
    {16: SEGMENTER["l-16"], 32: SEGMENTER["l-32"]},
)
"""The same ViTs by their patches [px], from the paper's usual size on."""
VIT_COLOURS: tuple[Colour, Colour] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and deviation of images for ViTs."""
DEIT_COLOURS: tuple[Colour, Colour] = (
    (123.68 / 255, 116.28 / 255, 103.53 / 255),
    (58.4 / 255, 57.12 / 255, 57.38 / 255),
)
"""For DeiTs: ImageNet's, rounded to two decimals as in the authors' pipeline."""
OVERLAP = 32
"""Of neighbouring windows in the test [px]."""


PYRAMID_HEAD = SegmenterMaskOptions(channels=256, single_scale="fused")
"""A Mask Transformer over a hierarchical backbone, which fails by SeMask's introduction."""


class Schedule(NamedTuple):
    """How long and how fast a dataset is trained on."""

    lr: float
    batch_size: int
    steps_per_epoch: int
    epochs: int
    eval_epochs: int
    """Epochs from one evaluation to the next."""
    eval_stride: int
    """Of the windows in these evaluations [px]."""


def segmenter(variant: Variant, num_classes: int, *, crop: int, mask: bool, layers: int = 2) -> ModelRecipe:
    """Return a plain ViT for square crops [px] under the linear decoder or a Mask Transformer of that many layers."""
    mean, std = DEIT_COLOURS if "deit" in variant else VIT_COLOURS
    encoder = ViTOptions(
        name=SEGMENTER[variant],
        drop_path=0.1,
        image_size=(crop, crop),
        norm_eps=1e-5,
        position_resize="bilinear",
    )
    decoder = SegmenterMaskOptions(layers=layers) if mask else SegmenterLinearOptions()
    return ModelRecipe(encoder=encoder, decoder=decoder, num_classes=num_classes, mean=mean, std=std)


def segmenter_name(variant: Variant, *, mask: bool) -> str:
    """Return the name of a row without its dataset, such as seg-t-mask-16."""
    size, patch = variant.rsplit("-", 1)
    return f"seg-{size}-mask-{patch}" if mask else f"seg-{size}-{patch}"


def segmenter_recipe(
    name: str, model: ModelRecipe, data: DataRecipe, *, schedule: Schedule, published: Published
) -> Recipe:
    """Return the whole recipe: SGD to a floor, sliding windows of the crop's size in evaluations and test."""
    height, width = data.crop
    optim = OptimRecipe(
        algorithm="sgd", lr=schedule.lr, weight_decay=0.0, momentum=0.9, power=0.9, min_lr=1e-5, warmup_steps=0
    )
    train = TrainRecipe(
        steps=schedule.steps_per_epoch * schedule.epochs,
        batch_size=schedule.batch_size,
        eval_every=schedule.steps_per_epoch * schedule.eval_epochs,
        eval_stride=(schedule.eval_stride, schedule.eval_stride),
        precision="float32",
    )
    test = TestRecipe(
        mode="sliding",
        window=data.crop,
        stride=(height - OVERLAP, width - OVERLAP),
        enlarge=True,
        batch_size=4,
    )
    return Recipe(
        name=name,
        model=model,
        loss=LossRecipe(normalize_by="valid"),
        data=data,
        optim=optim,
        train=train,
        test=test,
        published=published,
    )


def readme(parameters: float, miou: float, miou_ms: float, *, also: str = "") -> Published:
    """Return figures of the authors' model zoo; `also` names their other sources."""
    return Published(parameters=parameters, miou=miou, miou_ms=miou_ms, source=f"Segmenter model zoo{also}")
