"""Recipes against the authors' configurations, written down here a second time, and against the models they build."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from semask import recipes
from semask.build import build_model
from semask.data.classes import Classes
from semask.encoders.swin import DenseSwinBlock
from semask.model import SegmentationModel
from semask.recipes import Recipe


class Row(NamedTuple):
    """What differs between the published configurations."""

    name: str
    lr: float
    decay: float
    ratio: float
    """Of the warm-up."""
    batch: int
    crop: int
    base: tuple[int, int]
    scales: str
    cap: float
    hardest: int | None
    """Pixels per image that OHEM keeps."""
    windows: tuple[int | None, ...] | None
    """Of the semantic layers; None has no such layers."""


SCALES = {"choice": ((0.5, 0.75, 1.0, 1.25, 1.5, 1.75), None), "range": (None, (0.5, 2.0))}
SMALL, LARGE, STREET = (2048, 512), (2560, 640), (2048, 1024)
ROWS = [
    Row("ade20k/swin-t-fpn", 1e-4, 1e-4, 1e-6, 16, 512, SMALL, "range", 0.75, None, None),
    Row("ade20k/swin-s-fpn", 1e-4, 1e-4, 1e-6, 16, 512, SMALL, "range", 0.75, None, None),
    Row("ade20k/swin-b-fpn", 1e-4, 1e-4, 1e-6, 16, 512, SMALL, "range", 0.75, None, None),
    Row("ade20k/swin-l-fpn", 1e-4, 1e-4, 1e-6, 16, 640, LARGE, "range", 0.75, 100_000, None),
    Row("ade20k/semask-swin-t-fpn", 1e-4, 1e-4, 1e-6, 16, 512, SMALL, "choice", 0.75, None, (7, 7, None, None)),
    Row("ade20k/semask-swin-s-fpn", 1e-4, 1e-4, 1e-6, 16, 512, SMALL, "choice", 1.0, None, (7, 7, None, None)),
    Row("ade20k/semask-swin-b-fpn", 1e-4, 1e-4, 1e-6, 16, 512, SMALL, "choice", 1.0, None, (12, 12, 12, 12)),
    Row("ade20k/semask-swin-l-fpn", 1e-4, 1e-4, 1e-6, 16, 640, LARGE, "choice", 1.0, 100_000, (12, 12, None, None)),
    Row("cityscapes/swin-t-fpn", 1e-3, 0.05, 1e-5, 8, 768, STREET, "range", 0.75, None, None),
    Row("cityscapes/swin-s-fpn", 1e-3, 0.05, 1e-5, 8, 768, STREET, "range", 0.75, None, None),
    Row("cityscapes/swin-b-fpn", 1e-3, 0.05, 1e-6, 8, 768, STREET, "range", 0.75, None, None),
    Row("cityscapes/swin-l-fpn", 1e-3, 0.05, 1e-5, 8, 768, STREET, "range", 0.75, None, None),
    Row("cityscapes/semask-swin-t-fpn", 1e-3, 0.05, 1e-5, 8, 768, STREET, "range", 0.75, None, (7, 7, 7, 7)),
    Row("cityscapes/semask-swin-s-fpn", 1e-3, 0.05, 1e-5, 8, 768, STREET, "range", 0.75, None, (7, 7, 7, 7)),
    Row("cityscapes/semask-swin-b-fpn", 1e-3, 0.05, 1e-6, 8, 768, STREET, "range", 0.75, None, (12, 12, 12, 12)),
    Row("cityscapes/semask-swin-l-fpn", 1e-3, 0.05, 1e-5, 8, 768, STREET, "range", 0.75, None, (12, 12, 12, 12)),
    Row("coco-stuff10k/swin-t-fpn", 1e-4, 1e-4, 1e-6, 16, 512, SMALL, "range", 0.75, 100_000, None),
    Row("coco-stuff10k/swin-s-fpn", 1e-4, 1e-4, 1e-6, 16, 512, SMALL, "range", 0.75, 100_000, None),
    Row("coco-stuff10k/swin-b-fpn", 1e-4, 1e-4, 1e-6, 16, 512, SMALL, "range", 0.75, 100_000, None),
    Row("coco-stuff10k/swin-l-fpn", 1e-4, 1e-4, 1e-6, 16, 640, LARGE, "range", 0.75, 100_000, None),
    Row("coco-stuff10k/semask-swin-t-fpn", 1e-4, 1e-4, 1e-6, 16, 512, SMALL, "choice", 1.0, 100_000, (7, 7, None, None)),
    Row("coco-stuff10k/semask-swin-s-fpn", 1e-4, 1e-4, 1e-6, 16, 512, SMALL, "choice", 1.0, 100_000, (7, 7, None, None)),
    Row("coco-stuff10k/semask-swin-b-fpn", 1e-4, 1e-4, 1e-6, 16, 512, SMALL, "choice", 1.0, 100_000, (12, 12, 12, 12)),
    Row("coco-stuff10k/semask-swin-l-fpn", 1e-4, 1e-4, 1e-6, 16, 640, LARGE, "choice", 1.0, 100_000, (12, 12, None, None)),
]  # fmt: skip
CLASSES = {"ade20k": 150, "cityscapes": 19, "coco-stuff10k": 171, "camvid": 11}
# Folders and suffixes of pictures and labels, training and validation split.
FILES = {
    "ade20k": ("images/{split}", ".jpg", "annotations/{split}", ".png", "training", "validation"),
    "cityscapes": (
        "leftImg8bit/{split}", "_leftImg8bit.png", "gtFine/{split}", "_gtFine_labelTrainIds.png", "train", "val",
    ),
    "coco-stuff10k": (
        "images/{split}", ".jpg", "annotations/{split}", "_labelTrainIds.png", "train2014", "test2014",
    ),
}  # fmt: skip
# Channels, depths, heads, window and the pretraining in the name of timm's weights.
VARIANTS = {
    "t": (96, (2, 2, 6, 2), (3, 6, 12, 24), 7, "224.ms_in1k"),
    "s": (96, (2, 2, 18, 2), (3, 6, 12, 24), 7, "224.ms_in1k"),
    "b": (128, (2, 2, 18, 2), (4, 8, 16, 32), 12, "384.ms_in22k"),
    "l": (192, (2, 2, 18, 2), (6, 12, 24, 48), 12, "384.ms_in22k"),
}
PUBLISHED = [row.name for row in ROWS]


def build_weightless(recipe: Recipe) -> SegmentationModel:
    with torch.device("meta"):
        return build_model(recipe)


@pytest.mark.parametrize("row", ROWS, ids=PUBLISHED)
def test_published_training(row: Row) -> None:
    recipe = recipes.get(row.name)
    optim, data, encoder = recipe.optim, recipe.data, recipe.model.encoder
    assert (optim.lr, optim.weight_decay, optim.warmup_ratio) == (row.lr, row.decay, row.ratio)
    assert (optim.warmup_steps, optim.power, optim.betas, optim.encoder_lr_scale) == (1500, 1.0, (0.9, 0.999), 1.0)
    assert set(optim.no_decay) == {"norm", "relative_position_bias_table", "absolute_pos_embed"}
    train = recipe.train
    assert (train.steps, train.batch_size, train.eval_every) == (80_000, row.batch, 8000)
    assert (train.accumulate, train.clip_norm, train.ema) == (1, None, None)
    assert (data.crop, data.base_scale) == ((row.crop, row.crop), row.base)
    assert (data.scale_choices, data.scale_range) == SCALES[row.scales]
    assert (data.category_cap, data.flip, data.photometric) == (row.cap, 0.5, True)
    loss = recipe.loss
    assert (loss.prior_weight, loss.denominator, loss.ohem_pixels) == (0.4, "all", row.hardest)
    assert encoder.semantic_layers == (row.windows is not None)
    if row.windows is not None:
        assert encoder.semantic_windows == row.windows
        assert (encoder.semantic_units, encoder.semantic_dropout) == ((1, 1, 1, 1), 0.1)
    assert encoder.drop_path == 0.3
    assert (recipe.model.decoder.name, recipe.model.decoder.channels) == ("semantic_fpn", 256)
    assert (recipe.test.mode, recipe.test.scales, recipe.test.flip) == ("whole", (1.0,), False)


@pytest.mark.parametrize("row", ROWS, ids=PUBLISHED)
def test_published_data(row: Row) -> None:
    recipe = recipes.get(row.name)
    dataset, data = row.name.split("/")[0], recipe.data
    folders = (data.images, data.image_suffix, data.labels, data.label_suffix, data.train_split, data.val_split)
    assert folders == FILES[dataset]
    assert (data.kind, data.classes, recipe.model.num_classes) == ("files", dataset, CLASSES[dataset])
    assert [round(255 * value, 3) for value in recipe.model.mean] == [123.675, 116.28, 103.53]
    assert [round(255 * value, 3) for value in recipe.model.std] == [58.395, 57.12, 57.375]


@pytest.mark.parametrize("row", ROWS, ids=PUBLISHED)
def test_published_encoders(row: Row) -> None:
    recipe = recipes.get(row.name)
    width, depths, heads, window, pretraining = VARIANTS[row.name.split("-fpn")[0][-1]]
    assert recipe.model.encoder.weights == "timm"
    assert recipe.model.encoder.name.endswith(pretraining)
    encoder = build_weightless(recipe).encoder
    assert encoder.channels == tuple(width * 2**stage for stage in range(4))
    blocks = [module for module in encoder.modules() if isinstance(module, DenseSwinBlock)]
    assert [block.attn.num_heads for block in blocks] == [
        n for n, depth in zip(heads, depths, strict=True) for _ in range(depth)
    ]
    assert {block.attn.window_size for block in blocks} == {window}
    rates = [getattr(block.drop_path2, "drop_prob", 0.0) for block in blocks]
    assert rates == pytest.approx([0.3 * i / (len(blocks) - 1) for i in range(len(blocks))])
    extents = tuple(layer.window_size for layer in encoder.semantic)
    assert extents == (row.windows or ())


def test_every_published_row_is_there() -> None:
    datasets = ("ade20k/", "cityscapes/", "coco-stuff10k/")
    assert {name for name in recipes.names() if name.startswith(datasets) and "swin" in name and "-fpn" in name} == set(
        PUBLISHED
    )
    assert len(set(PUBLISHED)) == 24


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_builds_and_takes_its_crop(name: str) -> None:
    recipe = recipes.get(name)
    dataset, model_name = name.split("/")
    assert recipe.name == name
    assert dataset
    assert model_name
    model = build_weightless(recipe)
    height, width = recipe.data.crop
    with torch.inference_mode():
        out = model(torch.zeros(1, 3, height, width, device="meta"))
    assert out.main.logits.shape == (1, recipe.model.num_classes, height // 4, width // 4)
    assert (out.prior is not None) == recipe.model.encoder.semantic_layers == model_name.startswith("semask")
    if recipe.data.classes is not None:
        assert len(Classes.load(recipe.data.classes)) == recipe.model.num_classes == CLASSES[dataset]
