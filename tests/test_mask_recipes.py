"""Recipes of mask classification against the authors' configurations, written down here a second time."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from semask import recipes
from semask.recipes.decoders import FPNOptions
from semask.recipes.encoders import SemanticLayers
from tests.each import for_each, model_of, on_models


class Optim(NamedTuple):
    """What differs between the optimisers."""

    lr: float
    encoder: float
    """Factor on the encoder's rate."""
    decay: float
    warmup: int


CHANNELS = {
    "resnet50": (256, 512, 1024, 2048),
    "resnet101": (256, 512, 1024, 2048),
    "swin-t": (96, 192, 384, 768),
    "swin-s": (96, 192, 384, 768),
    "swin-b": (128, 256, 512, 1024),
    "swin-l": (192, 384, 768, 1536),
    "semask-swin-l": (192, 384, 768, 1536),
}
HEADS = ("maskformer", "mask2former", "fapn-mask2former", "msfapn-mask2former")
BACKBONES = {
    "resnet50": "resnet50.tv_in1k",
    "resnet101": "resnet101.tv_in1k",
    "swin-t": "swin_tiny_patch4_window7_224.ms_in1k",
    "swin-s": "swin_small_patch4_window7_224.ms_in1k",
    "swin-b": "swin_base_patch4_window12_384.ms_in22k",
    "swin-l": "swin_large_patch4_window12_384.ms_in22k",
    "semask-swin-l": "swin_large_patch4_window12_384.ms_in22k",
}
ROWS = [
    (dataset, backbone, head)
    for dataset in ("ade20k", "cityscapes")
    for backbone in BACKBONES
    for head in HEADS
    if "fapn" not in head or not backbone.startswith("resnet")
]
NAMES = [f"{dataset}/{backbone}-{head}" for dataset, backbone, head in ROWS]
MASKFORMER, MASK2FORMER = Optim(6e-5, 1.0, 0.01, 1500), Optim(1e-4, 0.1, 0.05, 0)
EDGES = {
    512: (256, 307, 358, 409, 460, 512, 563, 614, 665, 716, 768, 819, 870, 921, 972, 1024),
    640: (320, 384, 448, 512, 576, 640, 704, 768, 832, 896, 960, 1024, 1088, 1152, 1216, 1280),
    1024: (512, 614, 716, 819, 921, 1024, 1126, 1228, 1331, 1433, 1536, 1638, 1740, 1843, 1945, 2048),
}
SEMASK_MASKFORMER_EDGES = (160, 320, 480, 640, 800, 960, 1120)
WINDOWS = {
    ("ade20k", "maskformer"): (12, 12, 12, None),
    ("ade20k", "mask2former"): (12, 12, 12, None),
    ("ade20k", "fapn-mask2former"): (12, 12, None, None),
    ("ade20k", "msfapn-mask2former"): (12, 12, None, None),
    ("cityscapes", "maskformer"): (12, 12, 12, None),
    ("cityscapes", "mask2former"): (7, 7, 7, 7),
    ("cityscapes", "fapn-mask2former"): (12, 12, None, None),
    ("cityscapes", "msfapn-mask2former"): (12, 12, None, None),
}
# Parameters [M] and mIoU [%] at one scale and at several, as printed; no other row has figures.
PUBLISHED = {
    "ade20k/resnet50-mask2former": (None, 47.2, 49.2),
    "ade20k/swin-t-mask2former": (None, 47.7, 49.6),
    "ade20k/swin-s-mask2former": (None, 51.3, 52.4),
    "ade20k/swin-b-mask2former": (None, 53.9, 55.1),
    "ade20k/swin-l-maskformer": (None, 54.1, 55.6),
    "ade20k/swin-l-mask2former": (None, 56.1, 57.3),
    "ade20k/swin-l-fapn-mask2former": (None, 56.4, 57.7),
    "ade20k/swin-l-msfapn-mask2former": (None, 55.99, 57.69),
    "ade20k/semask-swin-l-maskformer": (219, 54.75, 56.15),
    "ade20k/semask-swin-l-mask2former": (222, 56.41, 57.52),
    "ade20k/semask-swin-l-fapn-mask2former": (227, 56.88, 58.25),
    "ade20k/semask-swin-l-msfapn-mask2former": (224, 57.0, 58.25),
    "cityscapes/resnet101-maskformer": (None, 78.5, 80.3),
    "cityscapes/swin-l-mask2former": (None, 83.3, 84.3),
    "cityscapes/semask-swin-l-mask2former": (222, 83.97, 84.98),
}
# Parameters of the authors' models, what they share counted once.
PARAMETERS = {
    "ade20k/semask-swin-l-maskformer": 218.719,
    "ade20k/semask-swin-l-mask2former": 222.632,
    "ade20k/semask-swin-l-fapn-mask2former": 226.745,
    "ade20k/semask-swin-l-msfapn-mask2former": 223.851,
    "cityscapes/semask-swin-l-mask2former": 221.843,
}


def optim_of(backbone: str, head: str) -> Optim:
    """Return the optimiser of a row."""
    if head != "maskformer":
        return MASK2FORMER
    return Optim(1e-4, 0.1, 1e-4, 0) if backbone.startswith("resnet") else MASKFORMER


def test_every_row_is_there() -> None:
    published = ("ade20k/", "cityscapes/")
    found = {name for name in recipes.list_recipes() if name.endswith(("-maskformer", "mask2former"))}
    assert {name for name in found if name.startswith(published)} == set(NAMES)
    assert len(set(NAMES)) == 48


@for_each(ROWS, names=NAMES)
def test_training(dataset: str, backbone: str, head: str) -> None:
    recipe = recipes.get_recipe(f"{dataset}/{backbone}-{head}")
    optim, train = recipe.optim, recipe.train
    expected = optim_of(backbone, head)
    assert (optim.lr, optim.encoder_lr_scale, optim.weight_decay, optim.warmup_steps) == expected
    assert (optim.algorithm, optim.betas, optim.power, optim.min_lr) == ("adamw", (0.9, 0.999), 0.9, 0.0)
    assert optim.warmup_ratio == 1e-6
    assert not optim.norm_decay
    assert (train.steps, train.batch_size, train.accumulate) == ({"ade20k": 160_000}.get(dataset, 90_000), 16, 1)
    assert train.steps % train.eval_every == 0
    assert (train.clip_norm, train.ema) == (0.01, None)
    assert train.precision == ("float32" if head == "maskformer" else "auto")
    loss, masks = recipe.loss, recipe.loss.masks
    assert (loss.prior_weight, loss.normalize_by, loss.ohem_pixels) == (0.4, "valid", None)
    weights = (masks.class_weight, masks.mask_weight, masks.dice_weight, masks.no_object_weight)
    assert weights == ((1.0, 20.0, 1.0, 0.1) if head == "maskformer" else (2.0, 5.0, 5.0, 0.1))
    assert (masks.mask_loss, masks.points) == (("focal", None) if head == "maskformer" else ("bce", 12544))
    assert (masks.oversample_ratio, masks.importance_sample_ratio, masks.ignored) == (3.0, 0.75, "background")


@for_each(ROWS, names=NAMES)
def test_pictures(dataset: str, backbone: str, head: str) -> None:
    data = recipes.get_recipe(f"{dataset}/{backbone}-{head}").data
    side = 1024 if dataset == "cityscapes" else 640 if backbone.endswith(("-b", "-l")) else 512
    authors = (dataset, backbone, head) == ("ade20k", "semask-swin-l", "maskformer")
    assert data.short_edges == (SEMASK_MASKFORMER_EDGES if authors else EDGES[side])
    assert (data.scale_choices, data.scale_range) == (None, None)
    assert data.crop == ((512, 1024) if side == 1024 else (side, side))
    assert data.long_edge == 4 * side
    assert data.base_scale == ((2048, 1024) if side == 1024 else (4 * side, side))
    assert data.padding == (None if side == 1024 else 128 / 255)
    assert (data.cat_max_ratio, data.flip, data.photometric) == (1.0, 0.5, True)
    assert (data.antialias, data.hue) == (True, (-18, 18)), "Pillow's resizing and detectron2's jitter"
    beside = recipes.get_recipe(f"{dataset}/swin-t-fpn").data
    for field in ("classes", "images", "labels", "image_suffix", "label_suffix", "train_split", "val_split"):
        assert getattr(data, field) == getattr(beside, field)
    test = recipes.get_recipe(f"{dataset}/{backbone}-{head}").test
    assert (test.mode, test.scales, test.flip) == ("whole", (1.0,), False)


@for_each(ROWS, names=NAMES)
def test_models(dataset: str, backbone: str, head: str) -> None:
    model = recipes.get_recipe(f"{dataset}/{backbone}-{head}").model
    encoder, decoder = model.encoder, model.decoder
    assert (encoder.name, encoder.weights) == (BACKBONES[backbone], "timm")
    assert encoder.drop_path == (0.0 if backbone.startswith("resnet") else 0.3)
    expected = SemanticLayers(windows=WINDOWS[dataset, head], units=(1, 1, 1, 1), dropout=0.1, dead_init=False)
    assert encoder.semantic == (expected if backbone.startswith("semask") else None)
    assert model.num_classes == {"ade20k": 150, "cityscapes": 19}[dataset]
    assert (decoder.channels, decoder.queries, decoder.heads, decoder.feedforward) == (256, 100, 8, 2048)
    if head == "maskformer":
        assert (decoder.kind, decoder.pixel_decoder, decoder.layers, decoder.dropout) == (
            "maskformer",
            FPNOptions(),
            6,
            0.1,
        )
        return
    pixel_decoder = {"mask2former": "msdeform"}.get(head, head.removesuffix("-mask2former"))
    assert (decoder.kind, decoder.pixel_decoder.kind, decoder.layers, decoder.dropout) == (
        "mask2former", pixel_decoder, 9, 0.0,
    )  # fmt: skip
    known = {"layers": 6, "feedforward": 1024, "feature_selection": False}
    assert vars(decoder.pixel_decoder).items() <= known.items()


@for_each(NAMES)
def test_figures_are_as_printed(name: str) -> None:
    figures = recipes.get_recipe(name).published
    assert (figures.parameters, figures.miou, figures.miou_ms) == PUBLISHED.get(name, (None, None, None))
    assert bool(figures.source) == (name in PUBLISHED)
    assert figures.flops is None


@on_models(ROWS, names=NAMES)
def is_the_published_mask_classifier(dataset: str, backbone: str, head: str) -> None:
    name = f"{dataset}/{backbone}-{head}"
    model = model_of(name)
    assert model.encoder.channels == CHANNELS[backbone]
    assert model.encoder.strides == (4, 8, 16, 32)
    extents = tuple(layer.window_size for layer in model.encoder.semantic)
    assert extents == (WINDOWS[dataset, head] if backbone.startswith("semask") else ())
    # Shared parameters are listed once.
    count = sum(parameter.numel() for parameter in model.parameters())
    if name in PARAMETERS:
        assert count / 1e6 == pytest.approx(PARAMETERS[name], abs=5e-4)
