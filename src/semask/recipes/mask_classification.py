"""MaskFormer, Mask2Former and its FaPN kin, with their losses and training, which the dataset recipes share.

Source: SeMask's authors' configurations, which are of Swin-L: all four heads on ADE20K, Mask2Former on Cityscapes.

Differs: the other rows are in none of these. They follow MaskFormer (arXiv:2107.06278) and Mask2Former
(arXiv:2112.01527); what is marked "unchecked" was not compared with the configurations of those authors.

The multi-scale test of every row is `--test.scales 0.5 0.75 1.0 1.25 1.5 1.75 --test.flip true`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from semask.recipes.decoders import PIXEL_DECODERS, Mask2FormerOptions, MaskFormerOptions
from semask.recipes.encoders import DilatableOptions, EncoderOptions
from semask.recipes.recipe import (
    DataRecipe,
    LossRecipe,
    MaskLossRecipe,
    ModelRecipe,
    OptimRecipe,
    Published,
    Recipe,
    TrainRecipe,
)
from semask.recipes.swin import Variant, semask_swin, swin

Backbone = Literal["resnet50", "resnet101", "swin-t", "swin-s", "swin-b", "swin-l", "semask-swin-l"]
Head = Literal["maskformer", "mask2former", "fapn-mask2former", "msfapn-mask2former"]
PixelDecoder = Literal["msdeform", "fapn", "msfapn"]

RESNETS: dict[Backbone, str] = {"resnet50": "resnet50.tv_in1k", "resnet101": "resnet101.tv_in1k"}
SWINS: dict[Backbone, Variant] = {"swin-t": "t", "swin-s": "s", "swin-b": "b", "swin-l": "l", "semask-swin-l": "l"}
MASK2FORMERS: dict[Head, PixelDecoder] = {
    "mask2former": "msdeform",
    "fapn-mask2former": "fapn",
    "msfapn-mask2former": "msfapn",
}
GLOBAL_FROM: dict[Head, int] = {"maskformer": 3, "mask2former": 3, "fapn-mask2former": 2, "msfapn-mask2former": 2}
"""The stage from which semantic attention covers the whole map; Mask2Former's is windowed throughout on Cityscapes."""

MASKFORMER_LOSS = LossRecipe(
    masks=MaskLossRecipe(
        class_weight=1.0, mask_weight=20.0, dice_weight=1.0, mask_loss="focal", points=None, ignored="background"
    ),
    normalize_by="valid",
)
MASK2FORMER_LOSS = LossRecipe(masks=MaskLossRecipe(ignored="background"), normalize_by="valid")

MASK2FORMER_OPTIM = OptimRecipe(
    lr=1e-4,
    encoder_lr_scale=0.1,
    weight_decay=0.05,
    power=0.9,
    warmup_steps=0,
    # The level embeddings of msdeform are no table in the authors' code: they decay.
    no_decay=(
        "norm",
        "relative_position_bias_table",
        "absolute_pos_embed",
        "query_positions",
        "query_features",
        "predictor.level_embeddings",
    ),
    norm_decay=False,
)
MASKFORMER_OPTIM = replace(MASK2FORMER_OPTIM, lr=6e-5, encoder_lr_scale=1.0, weight_decay=0.01, warmup_steps=1500)
"""With Swin."""
MASKFORMER_RESNET_OPTIM = replace(MASK2FORMER_OPTIM, weight_decay=1e-4)
"""Unchecked: in none of SeMask's configurations."""


def rows() -> list[tuple[Backbone, Head]]:
    """The encoders and heads that each data set has a recipe of; FaPN's are of Swin alone."""
    plain: tuple[Head, Head] = ("maskformer", "mask2former")
    return [(backbone, head) for backbone in RESNETS for head in plain] + [
        (backbone, head) for backbone in SWINS for head in GLOBAL_FROM
    ]


def backbone_of(backbone: Backbone, *, global_from: int, window: int | None = None) -> EncoderOptions:
    """The encoder of that name; the other arguments concern its semantic layers, as for `semask_swin`."""
    if backbone in RESNETS:
        return DilatableOptions(name=RESNETS[backbone])
    if backbone.startswith("semask-"):
        return semask_swin(SWINS[backbone], global_from=global_from, window=window)
    return swin(SWINS[backbone])


def mask2former(encoder: EncoderOptions, num_classes: int, *, pixel_decoder: PixelDecoder = "msdeform") -> ModelRecipe:
    """Mask2Former over the encoder; its layers are one fewer than its configuration counts."""
    decoder = Mask2FormerOptions(pixel_decoder=PIXEL_DECODERS[pixel_decoder]())
    return ModelRecipe(encoder=encoder, decoder=decoder, num_classes=num_classes)


def mask_recipe(
    name: str,
    encoder: EncoderOptions,
    head: Head,
    *,
    num_classes: int,
    data: DataRecipe,
    steps: int,
    published: Published,
) -> Recipe:
    """Return the whole recipe: 16 images a step, the whole model's gradient clipped; only MaskFormer is all float32.

    Images are resized and distorted as detectron2 does.
    """
    data = replace(data, antialias=True, hue=(-18, 18))
    train = TrainRecipe(steps=steps, batch_size=16, clip_norm=0.01, eval_every=5000)
    if head == "maskformer":
        resnet = encoder.name in RESNETS.values()
        return Recipe(
            name=name,
            model=ModelRecipe(encoder=encoder, decoder=MaskFormerOptions(), num_classes=num_classes),
            loss=MASKFORMER_LOSS,
            data=data,
            optim=MASKFORMER_RESNET_OPTIM if resnet else MASKFORMER_OPTIM,
            train=replace(train, precision="float32"),
            published=published,
        )
    return Recipe(
        name=name,
        model=mask2former(encoder, num_classes, pixel_decoder=MASK2FORMERS[head]),
        loss=MASK2FORMER_LOSS,
        data=data,
        optim=MASK2FORMER_OPTIM,
        train=train,
        published=published,
    )


def tenths(side: int) -> tuple[int, ...]:
    """Return the short sides from half to twice a side, by tenths of it, truncated [px]."""
    return tuple(side * tenth // 10 for tenth in range(5, 21))
