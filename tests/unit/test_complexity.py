"""Costs against hand counts; those of recipes are in tests/test_recipes.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semask.models.decoders.mask2former import Mask2FormerPredictor
from semask.models.flops import all_multiply_adds, multiply_adds, parameters
from semask.models.pixel_decoders.fpn import FeatureAlign
from semask.structures import Features, MaskLogits, PixelFeatures


def test_every_counted_module_by_hand() -> None:
    shared = nn.Conv2d(3, 3, 1, bias=False)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2, groups=1),  # 4×5 outputs · 8 · (27 + bias)
        nn.BatchNorm2d(8),  # nothing
        nn.ReLU(),  # 4 · 5 · 8
        nn.Conv2d(8, 3, 1, groups=1, bias=False),  # 4 · 5 · 3 · 8
        nn.Upsample(scale_factor=2),  # 8 · 10 · 3
        shared,  # 8 · 10 · 3 · 3
        shared,  # and again: it runs twice
        nn.Linear(10, 7),  # 3 · 8 · 10 · 7, no bias
        nn.LayerNorm(7),  # 3 · 8 · 7 · 2
        nn.LayerNorm(7, elementwise_affine=False),  # 3 · 8 · 7
        nn.GroupNorm(3, 3),  # 3 · 8 · 7 · 2
        nn.GroupNorm(3, 3, affine=False),  # 3 · 8 · 7
        nn.GELU(),  # nothing
    ).eval()
    expected = 20 * 8 * 28 + 160 + 20 * 24 + 240 + 2 * 720 + 1680 + 2 * (336 + 168)
    assert multiply_adds(model, 8, 10) == expected
    assert not any(module._forward_hooks for module in model.modules())
    assert parameters(model) == (8 * 27 + 8) + 16 + 24 + 9 + 77 + 14 + 6
    assert all_multiply_adds(model, 8, 10) == 20 * 8 * 27 + 20 * 24 + 2 * 720 + 1680


def test_grouped_convolutions_read_their_own_group() -> None:
    assert multiply_adds(nn.Conv2d(3, 6, 3, padding=1, groups=3, bias=False), 5, 7) == 5 * 7 * 6 * 9


class Aligned(nn.Module):
    """FaPN's alignment of a picture's channels with themselves, of a width that groups can share."""

    def __init__(self) -> None:
        super().__init__()
        self.align = FeatureAlign(32, norm=nn.GroupNorm(32, 32))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = images.repeat(1, 11, 1, 1)[:, :32]
        return self.align(maps, maps)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_deformable_convolution_is_a_convolution_that_the_papers_did_not_see(device: str) -> None:
    """Merge 64 → 32, offsets 32 → 8 groups · 9 taps · (x, y, strength); then the 3×3 from 32 to 32 itself."""
    model = Aligned().to(device)
    seen = 64 * 32 + 8 * 9 * 3 * 32 * 9
    assert multiply_adds(model, 5, 7) == 35 * (seen + 8 * 9 * 3 + 2 * 32)  # the offsets' bias; the norm
    assert all_multiply_adds(model, 5, 7) == 35 * (seen + 32 * 32 * 9)


def test_mask_classification_by_hand() -> None:
    """A predictor of one layer over a pyramid of one token per level: linear layers, norms, and nothing else counts."""
    predictor = Mask2FormerPredictor(num_classes=4, width=32, queries=6, layers=1, num_heads=4, hidden=48)

    class OverPyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.predictor = predictor

        def forward(self, images: torch.Tensor) -> MaskLogits:
            token = images.new_zeros(1, 32, 1, 1)
            return self.predictor(Features(()), PixelFeatures(token, (token,) * 3))

    embed, classify, norm = 6 * 3 * 32 * 32, 6 * 32 * 5, 6 * 32 * 2
    cross, within, mlp = (2 * 6 + 2 * 1) * 32 * 32, 4 * 6 * 32 * 32, 2 * 6 * 32 * 48
    relus = 6 * 2 * 32
    predictions = 2 * (norm + classify + embed + relus) + (norm + embed + relus)  # and once to see where to look
    expected = predictions + cross + within + mlp + 3 * norm
    assert multiply_adds(OverPyramid(), 1, 1) == expected
