"""ADE20K, 150 classes: every system of both papers and of their comparisons.

Sources of the figures: SeMask (arXiv:2112.12782) Tables 2 and 6, and its authors' README for parameters; Segmenter
(arXiv:2105.05633), its text and its authors' model zoo; SegFormer (arXiv:2105.15203) Table 1; SETR (arXiv:2012.15840)
Tables 2 and 3; Mask2Former's model zoo; mmsegmentation 1.2.2 for the costs of convolutional baselines. Training numbers
come from the authors' configurations.
"""

from __future__ import annotations

from dataclasses import replace

from semask.recipes import baselines, segformer
from semask.recipes.baselines import ADAMW, BACKBONES, SGD, dense, ocrnet, panoptic_fpn, upernet
from semask.recipes.decoders import decoder_options
from semask.recipes.encoders import ViTOptions
from semask.recipes.mask_classification import GLOBAL_FROM, Backbone, Head, backbone_of, mask_recipe, rows, tenths
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
from semask.recipes.segmenter import (
    PYRAMID_HEAD,
    VIT_COLOURS,
    Schedule,
    Variant,
    readme,
    segmenter,
    segmenter_name,
    segmenter_recipe,
)
from semask.recipes.swin import semask_swin_fpn, swin, swin_fpn

NUM_CLASSES = 150
SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
OHEM_PIXELS = 100_000
NOT_PUBLISHED = Published()


def ade20k_data(side: int, *, cat_max_ratio: float = 0.75, jitter: bool = True) -> DataRecipe:
    """Data for square crops of `side` [px]; `jitter` draws scales from a range instead of SCALES."""
    return DataRecipe(
        classes="ade20k",
        images="images/{split}",
        labels="annotations/{split}",
        image_suffix=".jpg",
        train_split="training",
        val_split="validation",
        base_scale=(4 * side, side),
        scale_choices=None if jitter else SCALES,
        scale_range=(0.5, 2.0) if jitter else None,
        crop=(side, side),
        cat_max_ratio=cat_max_ratio,
    )


# SeMask Table 2: Swin and SeMask Swin under Semantic FPN. The large ones crop 640 px.


def _fpn(name: str, model: ModelRecipe, *figures: float, cat_max_ratio: float = 0.75) -> Recipe:
    large = "swin-l" in name
    data = ade20k_data(640 if large else 512, cat_max_ratio=cat_max_ratio, jitter=not name.startswith("semask"))
    loss = LossRecipe(ohem_pixels=OHEM_PIXELS if large else None)
    published = NOT_PUBLISHED
    if figures:
        parameters, flops, miou, miou_ms = figures
        source = "SeMask Table 2, ADE20K"
        published = Published(parameters=parameters, flops=flops, miou=miou, miou_ms=miou_ms, source=source)
    return Recipe(name=f"ade20k/{name}", model=model, loss=loss, data=data, published=published)


SWIN_T, SEMASK_SWIN_T = swin_fpn("t", NUM_CLASSES), semask_swin_fpn("t", NUM_CLASSES, global_from=2)
SEMASK = (
    # M parameters, G multiply-adds, mIoU at one scale and at several
    _fpn("swin-t-fpn", SWIN_T, 33, 38, 41.48, 42.89),
    _fpn("semask-swin-t-fpn", SEMASK_SWIN_T, 35, 40, 42.06, 43.36),
    _fpn("swin-s-fpn", swin_fpn("s", NUM_CLASSES), 54, 61, 45.20, 46.96),
    _fpn(
        "semask-swin-s-fpn", semask_swin_fpn("s", NUM_CLASSES, global_from=2), 56, 63, 45.92, 47.63, cat_max_ratio=1.0
    ),
    _fpn("swin-b-fpn", swin_fpn("b", NUM_CLASSES), 93, 103, 48.80, 50.28),
    # windowed semantic attention in every stage
    _fpn(
        "semask-swin-b-fpn", semask_swin_fpn("b", NUM_CLASSES, global_from=4), 96, 107, 49.35, 50.98, cat_max_ratio=1.0
    ),
    _fpn("swin-l-fpn", swin_fpn("l", NUM_CLASSES), 204, 343, 50.85, 52.95),
    _fpn(
        "semask-swin-l-fpn", semask_swin_fpn("l", NUM_CLASSES, global_from=2), 212, 356, 51.89, 53.52, cat_max_ratio=1.0
    ),
    # Segmenter's Mask Transformer over a fused pyramid, to test SeMask's statement that it fails there
    _fpn("swin-t-seg-mask", replace(SWIN_T, decoder=PYRAMID_HEAD)),
    _fpn("semask-swin-t-seg-mask", replace(SEMASK_SWIN_T, decoder=PYRAMID_HEAD)),
)


# Segmenter has a row for every ViT with public ImageNet weights; the large ones crop 640 px, as the published
# checkpoint (at 512 px the paper's text has 50.71 for Seg-L/16).


def _seg(variant: Variant, *, mask: bool, published: Published = NOT_PUBLISHED) -> Recipe:
    side = 640 if variant.startswith("l-") else 512
    return segmenter_recipe(
        f"ade20k/{segmenter_name(variant, mask=mask)}",
        segmenter(variant, NUM_CLASSES, crop=side, mask=mask),
        ade20k_data(side),
        schedule=Schedule(lr=1e-3, batch_size=8, steps_per_epoch=2527, epochs=64, eval_epochs=2, eval_stride=side),
        published=published,
    )


def _text(miou: float) -> Published:
    return Published(miou=miou, source="Segmenter, the paper's text")


SEVERAL_SCALES = "; several scales: the paper's text"
SEGMENTER = (
    _seg("t-16", mask=False),
    _seg("t-16", mask=True, published=readme(7, 38.1, 38.8)),
    _seg("s-16", mask=False, published=_text(45.37)),
    _seg("s-16", mask=True, published=readme(27, 45.3, 46.9)),
    _seg("s-32", mask=False),
    _seg("s-32", mask=True),
    _seg("b-8", mask=False, published=readme(89, 49.54, 50.5, also="; one scale: the paper's text")),
    _seg("b-8", mask=True),
    _seg("b-16", mask=False, published=_text(48.06)),
    _seg("b-16", mask=True, published=readme(106, 48.5, 50.0)),
    _seg("b-32", mask=False),
    _seg("b-32", mask=True),
    _seg("b-deit-16", mask=False, published=readme(87, 47.1, 48.1)),
    _seg("b-deit-16", mask=True, published=readme(106, 48.7, 50.08, also=SEVERAL_SCALES)),
    _seg("l-16", mask=False),
    _seg("l-16", mask=True, published=readme(334, 51.8, 53.63, also=SEVERAL_SCALES)),
    _seg("l-32", mask=False),
    _seg("l-32", mask=True),
)


# Mask classification: SeMask Table 6, and the encoders of MaskFormer and Mask2Former. Swin-B and Swin-L, pretrained at
# 384 px, crop 640 px; the others crop 512 px (unchecked, as in Mask2Former).


def _table6(miou: float | None, miou_ms: float, parameters: float | None = None) -> Published:
    also = "; parameters: the authors' README" if parameters else ""
    return Published(parameters=parameters, miou=miou, miou_ms=miou_ms, source=f"SeMask Table 6{also}")


def _zoo(miou: float, miou_ms: float) -> Published:
    return Published(miou=miou, miou_ms=miou_ms, source="Mask2Former model zoo")


MASK_FIGURES: dict[tuple[Backbone, Head], Published] = {
    ("resnet50", "mask2former"): _zoo(47.2, 49.2),
    ("swin-t", "mask2former"): _zoo(47.7, 49.6),
    ("swin-s", "mask2former"): _zoo(51.3, 52.4),
    ("swin-b", "mask2former"): _zoo(53.9, 55.1),
    ("swin-l", "maskformer"): _table6(54.10, 55.60),
    ("swin-l", "mask2former"): _table6(56.10, 57.30),
    ("swin-l", "fapn-mask2former"): _table6(56.40, 57.70),
    ("swin-l", "msfapn-mask2former"): _table6(55.99, 57.69),
    ("semask-swin-l", "maskformer"): _table6(54.75, 56.15, 219),
    ("semask-swin-l", "mask2former"): _table6(56.41, 57.52, 222),
    ("semask-swin-l", "fapn-mask2former"): _table6(56.88, 58.25, 227),
    ("semask-swin-l", "msfapn-mask2former"): _table6(57.00, 58.25, 224),
}


def _mask(backbone: Backbone, head: Head) -> Recipe:
    side = 640 if backbone in ("swin-b", "swin-l", "semask-swin-l") else 512
    authors = (backbone, head) == ("semask-swin-l", "maskformer")
    data = replace(
        ade20k_data(side, cat_max_ratio=1.0, jitter=False),
        scale_choices=None,
        short_edges=tuple(range(160, 1121, 160)) if authors else tenths(side),
        long_edge=4 * side,
        padding=128 / 255,
    )
    return mask_recipe(
        f"ade20k/{backbone}-{head}",
        backbone_of(backbone, global_from=GLOBAL_FROM[head]),
        head,
        num_classes=NUM_CLASSES,
        data=data,
        steps=160_000,
        published=MASK_FIGURES.get((backbone, head), NOT_PUBLISHED),
    )


MASKS = tuple(_mask(backbone, head) for backbone, head in rows())


# SegFormer as published, and the two MiT-B4 rows of SeMask Table 6.


def _segformer(name: str, model: ModelRecipe, published: Published, *, side: int = 512) -> Recipe:
    data = replace(ade20k_data(side), base_scale=(2048, side))
    return Recipe(
        name=f"ade20k/{name}", model=model, data=data, optim=segformer.OPTIM, train=segformer.TRAIN, published=published
    )


def _b(number: int, parameters: float, flops: float, miou: float, miou_ms: float, *, side: int = 512) -> Recipe:
    size: segformer.Size = f"b{number}"  # type: ignore[assignment]
    published = Published(
        parameters=parameters, all_flops=flops, miou=miou, miou_ms=miou_ms, source="SegFormer Table 1"
    )
    return _segformer(f"segformer-{size}", segformer.segformer(size, NUM_CLASSES), published, side=side)


SEGFORMER = (
    _b(0, 3.8, 8.4, 37.4, 38.0),
    _b(1, 13.7, 15.9, 42.2, 43.1),
    _b(2, 27.5, 62.4, 46.5, 47.5),
    _b(3, 47.3, 79.0, 49.4, 50.0),
    _b(4, 64.1, 95.7, 50.3, 51.1),
    _b(5, 84.7, 183.3, 51.0, 51.8, side=640),
    _segformer(
        "segformer-b4-mmseg",
        segformer.segformer_mmseg("b4", NUM_CLASSES, semantic=False),
        Published(miou=48.46, miou_ms=49.76, source="SeMask Table 6, by mmsegmentation"),
    ),
    # never released; where its semantic layers lie is ours: decision 0011
    _segformer(
        "semask-segformer-b4", segformer.segformer_mmseg("b4", NUM_CLASSES, semantic=True), _table6(50.01, 51.07)
    ),
)


# SETR on ViT-L/16, with mmsegmentation's arithmetic and training: 160k steps at batch 16. Images are normalised for
# timm's weights (0.5), where mmsegmentation takes ImageNet's colours for every ViT; its checkpoints bring theirs.
# Differs: mmsegmentation keeps the neck of MLA, which is part of the decoder here, at the encoder's rate.


def _setr(form: str, layers: tuple[int, ...], *figures: float, lr: float, class_token: bool = True) -> Recipe:
    parameters, miou, miou_ms = figures
    mean, std = VIT_COLOURS
    encoder = ViTOptions(
        name="vit_large_patch16_384.augreg_in21k_ft_in1k",
        image_size=(512, 512),
        norm_eps=1e-6,
        position_resize="bilinear",
        out_layers=layers,
        class_token=class_token,
    )
    decoder = decoder_options(f"setr_{form}")
    return Recipe(
        name=f"ade20k/setr-{form}-vit-l",
        model=ModelRecipe(encoder=encoder, decoder=decoder, num_classes=NUM_CLASSES, mean=mean, std=std),
        data=ade20k_data(512),
        optim=OptimRecipe(
            algorithm="sgd",
            lr=10 * lr,
            encoder_lr_scale=0.1,
            weight_decay=0.0,
            nesterov=False,
            power=0.9,
            min_lr=1e-4,
            warmup_steps=0,
        ),
        train=TrainRecipe(steps=160_000, batch_size=16, eval_every=16_000),
        test=TestRecipe(mode="sliding", window=(512, 512), stride=(341, 341)),
        published=Published(parameters=parameters, miou=miou, miou_ms=miou_ms, source="SETR Tables 2 and 3"),
    )


SETR = (
    _setr("naive", (10, 15, 20, 24), 305.67, 48.06, 48.80, lr=0.01),
    _setr("pup", (10, 15, 20, 24), 318.31, 48.58, 50.09, lr=0.001),
    _setr("mla", (6, 12, 18, 24), 310.57, 48.64, 50.28, lr=0.001, class_token=False),
)


# The other systems that the papers compare with.


def _baseline(
    name: str,
    model: ModelRecipe,
    published: Published = NOT_PUBLISHED,
    *,
    optim: OptimRecipe = SGD,
    side: int = 512,
) -> Recipe:
    return baselines.baseline(
        f"ade20k/{name}", model, ade20k_data(side), optim=optim, steps=160_000, batch_size=16, published=published
    )


def _counted(parameters: float, flops: float, miou: float, miou_ms: float) -> Published:
    source = "SeMask Table 6; costs: mmsegmentation"
    return Published(parameters=parameters, flops=flops, miou=miou, miou_ms=miou_ms, source=source)


RESNEST200 = Published(miou_ms=48.36, source="Segmenter, the paper's text: 53.63 - 5.27")
BASELINES = (
    _baseline("fcn-r101", dense("r101", "fcn", NUM_CLASSES), _counted(68.6, 275.7, 39.91, 41.40)),
    _baseline("pspnet-r101", dense("r101", "pspnet", NUM_CLASSES), _counted(68.1, 256.4, 44.39, 45.35)),
    _baseline("deeplabv3plus-r101", dense("r101", "deeplabv3plus", NUM_CLASSES), _counted(62.7, 255.1, 45.47, 46.35)),
    _baseline("ccnet-r101", dense("r101", "ccnet", NUM_CLASSES)),
    # its window covers halved maps of 33 × 33 cells, images of 512²
    _baseline("psanet-r101", dense("r101", "psanet", NUM_CLASSES)),
    _baseline("deeplabv3plus-resnest101", dense("resnest101", "deeplabv3plus", NUM_CLASSES)),
    _baseline("deeplabv3plus-resnest200", dense("resnest200", "deeplabv3plus", NUM_CLASSES), RESNEST200),
    _baseline("ocrnet-hr48", ocrnet("hr48", NUM_CLASSES)),
    _baseline("semfpn-r50", panoptic_fpn("r50", NUM_CLASSES)),
    _baseline("upernet-swin-t", upernet(swin("t"), NUM_CLASSES), optim=ADAMW),
    _baseline("upernet-swin-s", upernet(swin("s"), NUM_CLASSES), optim=ADAMW),
    _baseline("upernet-swin-b", upernet(swin("b"), NUM_CLASSES), optim=ADAMW),
    _baseline("upernet-swin-l", upernet(swin("l"), NUM_CLASSES), _table6(None, 53.50), optim=ADAMW, side=640),
    _baseline(
        "upernet-swinv2-l", upernet(BACKBONES["swinv2-l"], NUM_CLASSES), _table6(None, 55.90), optim=ADAMW, side=640
    ),
)

RECIPES = (*SEMASK, *SEGMENTER, *MASKS, *SEGFORMER, *SETR, *BASELINES)
