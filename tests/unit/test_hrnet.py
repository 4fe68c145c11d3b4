"""HRNet: sizes, the exchange of its branches, what semantic layers change, and the place of polarised attention."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from timm.models.hrnet import HighResolutionModule
from timm.models.resnet import BasicBlock
from torch import nn

from semask.models.build import build_encoder
from semask.models.encoders.hrnet import (
    ATTENTION,
    HRNetEncoder,
    PolarizedSelfAttention,
    exchange,
    stage_channels,
    timm_hrnet,
)
from semask.models.encoders.kinds import encoder_options
from semask.models.meta import on_meta_device
from semask.recipes.encoders import SemanticLayers
from tests.facts import facts

SMALL = "hrnet_w18_small"


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (50, 70), (64, 96)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    encoder = build_encoder(encoder_options(SMALL), 3).eval()
    with torch.inference_mode():
        maps = encoder(torch.randn(1, 3, *size)).maps
    for stride, channels, level in zip((4, 8, 16, 32), (16, 32, 64, 128), maps, strict=True):
        assert level.shape == (1, channels, math.ceil(size[0] / stride), math.ceil(size[1] / stride))


def test_w48_has_the_published_widths_and_parameters() -> None:
    """65,325,120: mmsegmentation's HRNetV2-W48, counted there."""
    with on_meta_device():
        backbone = timm_hrnet("hrnet_w48")
    assert HRNetEncoder(backbone).channels == (48, 96, 192, 384)
    assert stage_channels(backbone) == (256, 96, 192, 384)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == 65_325_120


def test_branches_of_odd_sizes_are_resized_twice() -> None:
    """Written out for two branches: doubled, then brought from 6×8 to 5×7; the coarse one gets a strided convolution."""
    torch.manual_seed(0)
    module = HighResolutionModule(2, BasicBlock, (1, 1), [4, 6], (4, 6), "SUM").eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean)
        if isinstance(part, nn.Upsample):
            part.mode, part.align_corners = "bilinear", False
    fine, coarse = torch.randn(1, 4, 5, 7), torch.randn(1, 6, 3, 4)
    with torch.inference_mode():
        found = exchange(module, [fine, coarse])
        ran = [module.branches[0](fine), module.branches[1](coarse)]
        up = module.fuse_layers[0][1]
        grown = F.interpolate(up[1](up[0](ran[1])), scale_factor=2, mode="bilinear", align_corners=False)
        assert grown.shape[-2:] == (6, 8)
        grown = F.interpolate(grown, size=(5, 7), mode="bilinear", align_corners=False)
        expected = [(ran[0] + grown).relu(), (ran[1] + module.fuse_layers[1][0](ran[0])).relu()]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_semantic_layers_stand_at_every_stages_coarsest_branch() -> None:
    """What the last one returns leaves as the last map and moves no other; what the third does reaches all."""
    encoder = build_encoder(encoder_options(SMALL, semantic=SemanticLayers()), 5).eval()
    assert [layer.norm.normalized_shape for layer in encoder.semantic] == [(128,), (32,), (64,), (128,)]
    images = torch.randn(1, 3, 50, 70)
    with torch.inference_mode():
        before = encoder(images)
        for stage, moved in ((3, [False] * 3 + [True]), (2, [True] * 4)):
            bias = encoder.semantic[stage].norm.bias
            bias += torch.randn_like(bias)
            after = encoder(images)
            assert [not torch.equal(a, b) for a, b in zip(before.maps, after.maps, strict=True)] == moved
    assert [tuple(prior.shape) for prior in before.priors] == [(1, 5, 13, 18), (1, 5, 7, 9), (1, 5, 4, 5), (1, 5, 2, 3)]


def test_polarised_attention_stands_behind_the_first_activation_of_basic_blocks() -> None:
    encoder = build_encoder(encoder_options(SMALL, polarized_attention=True), 3).eval()
    blocks = [module for module in encoder.modules() if isinstance(module, BasicBlock)]
    assert all(isinstance(block.aa, PolarizedSelfAttention) for block in blocks)
    assert all(ATTENTION in f".{name}." for name, m in encoder.named_modules() if isinstance(m, PolarizedSelfAttention))
    block, x = blocks[0], torch.randn(1, 16, 6, 7)
    with torch.inference_mode():
        inner = block.aa(block.bn1(block.conv1(x)).relu())
        torch.testing.assert_close(block(x), (block.bn2(block.conv2(inner)) + x).relu())


def test_other_counts_of_semantic_layers_are_refused() -> None:
    with pytest.raises(ValueError, match=facts("HRNet", 4, 1)):
        HRNetEncoder(timm_hrnet(SMALL), semantic=[nn.Identity()])
