"""ADE20K, 150 classes: SETR on ViT-L/16, with mmsegmentation's arithmetic and training.

Images are normalised for timm's weights (0.5), where mmsegmentation takes ImageNet's colours for every ViT; its
checkpoints bring theirs with them.

Source: SETR (arXiv:2012.15840) Table 3, 160k steps at batch 16; mmsegmentation 1.2.2.
"""

from __future__ import annotations

from semask.recipes.ade20k import NUM_CLASSES, ade20k_data
from semask.recipes.recipe import (
    DecoderRecipe,
    EncoderRecipe,
    ModelRecipe,
    OptimRecipe,
    Published,
    Recipe,
    TestRecipe,
    TrainRecipe,
)
from semask.recipes.segmenter import VIT_COLOURS

SIDE = 512


def _optim(lr: float) -> OptimRecipe:
    """Return SGD at `lr`, and ten times that for the heads.

    Differs: mmsegmentation keeps the neck of MLA, which is part of the decoder here, at `lr`.
    """
    return OptimRecipe(
        algorithm="sgd",
        lr=10 * lr,
        encoder_lr_scale=0.1,
        weight_decay=0.0,
        nesterov=False,
        power=0.9,
        min_lr=1e-4,
        warmup_steps=0,
    )


def _row(
    form: str, out_layers: tuple[int, ...], *, lr: float, class_token: bool = True, published: Published
) -> Recipe:
    mean, std = VIT_COLOURS
    encoder = EncoderRecipe(
        name="vit_large_patch16_384.augreg_in21k_ft_in1k",
        image_size=(SIDE, SIDE),
        norm_eps=1e-6,
        position_resize="bilinear",
        out_layers=out_layers,
        class_token=class_token,
    )
    decoder = DecoderRecipe(name=f"setr_{form}", channels=256, dropout=0.0, auxiliary=True)
    return Recipe(
        name=f"ade20k/setr-{form}-vit-l",
        model=ModelRecipe(encoder=encoder, decoder=decoder, num_classes=NUM_CLASSES, mean=mean, std=std),
        data=ade20k_data(SIDE, category_cap=0.75, jitter=True),
        optim=_optim(lr),
        train=TrainRecipe(steps=160_000, batch_size=16, eval_every=16_000),
        test=TestRecipe(mode="sliding", window=(SIDE, SIDE), stride=(341, 341)),
        published=published,
    )


def _table3(parameters: float, miou: float, miou_ms: float) -> Published:
    return Published(parameters=parameters, miou=miou, miou_ms=miou_ms, source="SETR Tables 2 and 3")


def setr_naive_vit_l() -> Recipe:
    """SETR-Naïve: 48.06 mIoU."""
    return _row("naive", (10, 15, 20, 24), lr=0.01, published=_table3(305.67, 48.06, 48.80))


def setr_pup_vit_l() -> Recipe:
    """SETR-PUP: 48.58 mIoU."""
    return _row("pup", (10, 15, 20, 24), lr=0.001, published=_table3(318.31, 48.58, 50.09))


def setr_mla_vit_l() -> Recipe:
    """SETR-MLA: 48.64 mIoU."""
    return _row("mla", (6, 12, 18, 24), lr=0.001, class_token=False, published=_table3(310.57, 48.64, 50.28))


RECIPES = (setr_naive_vit_l, setr_pup_vit_l, setr_mla_vit_l)
