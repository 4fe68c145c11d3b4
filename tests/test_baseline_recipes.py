"""Recipes of the papers' baselines against what was published, and against mmsegmentation's own counts."""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from semask import recipes
from semask.data.classes import Classes
from semask.models.flops import multiply_adds
from semask.recipes import ade20k, cityscapes
from semask.structures import PixelLogits
from tests.each import for_each, model_of, on_models

NAMES = [recipe.name for dataset in (ade20k, cityscapes) for recipe in dataset.BASELINES]
# Single- and multi-scale mIoU [%] as printed; the rows that are not here have none.
MIOU = {
    "ade20k/fcn-r101": (39.91, 41.40),
    "ade20k/pspnet-r101": (44.39, 45.35),
    "ade20k/deeplabv3plus-r101": (45.47, 46.35),
    "ade20k/deeplabv3plus-resnest200": (None, 48.36),
    "ade20k/upernet-swin-l": (None, 53.50),
    "ade20k/upernet-swinv2-l": (None, 55.90),
    "cityscapes/psanet-r101": (77.94, 79.05),
    "cityscapes/deeplabv3plus-xception71": (None, 79.55),
    "cityscapes/ccnet-r101": (80.50, 81.30),
    "cityscapes/ocrnet-hr48-psa": (None, 86.95),
}
# Parameters, those of the auxiliary head, and multiply-adds [10^9] of everything but it at 512², of mmsegmentation's.
COUNTED = {
    "ade20k/fcn-r101": (68_590_732, 2_398_358, 275.4504),
    "ade20k/pspnet-r101": (68_068_492, 2_398_358, 256.1755),
    "ade20k/deeplabv3plus-r101": (62_682_876, 2_398_358, 254.8352),
    "ade20k/ccnet-r101": (68_919_053, 2_398_358, 278.7388),
    "ade20k/psanet-r101": (73_057_420, 2_398_358, 273.3155),
    "ade20k/ocrnet-hr48": (70_533_100, 0, 167.1253),
    "ade20k/semfpn-r50": (28_514_806, 0, 45.5438),
    "ade20k/upernet-swin-t": (59_941_862, 923_798, 236.8648),
    "ade20k/upernet-swin-l": (233_962_976, 1_808_534, 419.3423),
}
# What published files say in millions, and in 10^9 multiply-adds.
PUBLISHED = {
    "ade20k/fcn-r101": (68.6, 275.7),
    "ade20k/pspnet-r101": (68.1, 256.4),
    "ade20k/deeplabv3plus-r101": (62.7, 255.1),
}
FULL_STRIDE = ("deeplabv3plus", "ocr", "semantic_fpn", "upernet")
"""Decoders whose logits lie at the grid of the first map; those of the others lie at the last one's."""

SISTERS = (
    "ade20k/deeplabv3plus-resnest101",
    "ade20k/upernet-swin-s",
    "ade20k/upernet-swin-b",
    "cityscapes/ocrnet-hr48-psa",
)
"""Rows that differ from others in widths and depths alone, or by layers with a test of their own."""


class Optim(NamedTuple):
    algorithm: str
    lr: float
    weight_decay: float
    power: float
    min_lr: float
    warmup_steps: int


SGD = Optim("sgd", 1e-2, 5e-4, 0.9, 1e-4, 0)
ADAMW = Optim("adamw", 6e-5, 0.01, 1.0, 0.0, 1500)


def test_every_row_is_there() -> None:
    assert len(set(NAMES)) == 18
    assert set(NAMES) <= set(recipes.list_recipes())
    assert set(MIOU) | set(COUNTED) <= set(NAMES)


@for_each(NAMES)
def test_figures_are_those_printed(name: str) -> None:
    published = recipes.get_recipe(name).published
    assert (published.miou, published.miou_ms) == MIOU.get(name, (None, None))
    assert (published.parameters, published.flops) == PUBLISHED.get(name, (None, None))
    assert bool(published.source) == (name in MIOU)


@for_each(NAMES)
def test_training_follows_mmsegmentation(name: str) -> None:
    recipe = recipes.get_recipe(name)
    optim, train, data = recipe.optim, recipe.train, recipe.data
    expected = ADAMW if "upernet" in name else SGD
    assert tuple(getattr(optim, field) for field in Optim._fields) == expected
    assert not (optim.algorithm == "sgd" and optim.nesterov)
    assert (optim.momentum, optim.betas, optim.encoder_lr_scale) == (0.9, (0.9, 0.999), 1.0)
    # mmsegmentation's rule for Swin; everything of the others decays.
    assert optim.no_decay == (("norm", "relative_position_bias_table", "absolute_pos_embed") if "swin" in name else ())
    ade = name.startswith("ade20k/")
    assert (train.steps, train.batch_size) == ((160_000, 16) if ade else (80_000, 8))
    side = 640 if name.endswith("-l") else 512
    assert data.crop == ((side, side) if ade else (512, 1024))
    assert data.base_scale == ((4 * side, side) if ade else (2048, 1024))
    assert (data.scale_range, data.cat_max_ratio, data.flip, data.photometric) == ((0.5, 2.0), 0.75, 0.5, True)
    assert (recipe.loss.normalize_by, recipe.loss.auxiliary_weight, recipe.loss.ohem_pixels) == ("all", 0.4, None)
    assert recipe.test.mode == "whole"
    assert recipe.model.num_classes == len(Classes.load(data.classes or "")) == (150 if ade else 19)
    assert getattr(recipe.model.encoder, "drop_path", 0.0) == (0.3 if "swin" in name else 0.0)


@on_models(name for name in NAMES if name not in SISTERS)
@on_models(SISTERS, slow=True)
def takes_its_crop_at_the_cost_that_was_published_or_counted(name: str) -> None:
    """Pooling, which is a product of matrices here, adds a little to what mmsegmentation's counter saw."""
    recipe, model = recipes.get_recipe(name), model_of(name)
    height, width = recipe.data.crop
    outputs: list[PixelLogits] = []
    handle = model.decoder.register_forward_hook(lambda *_: outputs.append(_[-1]))
    counter = FlopCounterMode(display=False) if name in COUNTED and (height, width) == (512, 512) else None
    with counter or nullcontext():
        cost = multiply_adds(model, height, width) / 1e9
    handle.remove()
    stride = model.encoder.strides[0 if recipe.model.decoder.kind in FULL_STRIDE else -1]
    assert outputs[0].logits.shape == (1, recipe.model.num_classes, height // stride, width // stride)
    if name in PUBLISHED:
        assert cost == pytest.approx(PUBLISHED[name][1], abs=0.05)
    if counter is not None:
        assert counter.get_total_flops() / 2e9 == pytest.approx(COUNTED[name][2], rel=0.001)


@on_models(COUNTED)
def has_the_parameters_of_mmsegmentation_to_the_last_one(name: str) -> None:
    model = model_of(name)
    parameters = sum(p.numel() for p in model.parameters())
    heads = getattr(model.decoder, "heads", nn.ModuleList())
    assert (parameters, sum(p.numel() for p in heads.parameters())) == COUNTED[name][:2]
    if name in PUBLISHED:
        assert parameters / 1e6 == pytest.approx(PUBLISHED[name][0], abs=0.05)


# Strides of the maps, and dilations of the atrous convolutions.
DILATED = {
    "ade20k/deeplabv3plus-r101": ((4, 8, 8, 8), [12, 24, 36]),
    "ade20k/deeplabv3plus-resnest200": ((4, 8, 8, 8), [12, 24, 36]),
    "cityscapes/deeplabv3plus-xception71": ((4, 8, 16, 16), [6, 12, 18]),
}


@on_models(DILATED)
def dilations_go_with_the_stride(name: str) -> None:
    model = model_of(name)
    strides, dilations = DILATED[name]
    assert model.encoder.strides == strides
    atrous = [branch.depthwise.conv for branch in model.decoder.main.aspp.branches[1:]]
    assert [conv.dilation for conv in atrous] == [(rate, rate) for rate in dilations]
    assert [conv.padding for conv in atrous] == [(rate, rate) for rate in dilations]


def test_polarised_attention_adds_five_convolutions_per_basic_block() -> None:
    plain, polarised = (model_of(name).encoder for name in ("ade20k/ocrnet-hr48", "cityscapes/ocrnet-hr48-psa"))
    added = set(dict(polarised.named_parameters())) - set(dict(plain.named_parameters()))
    assert len(added) == 5 * 104
    assert {torch.Size(parameter.shape[2:]) for name, parameter in polarised.named_parameters() if name in added} == {
        torch.Size((1, 1))
    }
