"""Swin V2 over maps of any size: timm's block, given a map that needs no padding any more."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.models.swin_transformer_v2 import PatchMerging, SwinTransformerV2Block

from semask.models.build import build_encoder
from semask.models.encoders.kinds import encoder_options
from semask.models.encoders.swin import DENSE, DenseSwinV2Block


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 12), (7, 9), (3, 5), (1, 1), (9, 4)])
def test_padded_first_then_shifted(size: tuple[int, int], shift: int) -> None:
    torch.manual_seed(0)
    theirs = SwinTransformerV2Block(
        8, input_resolution=64, num_heads=2, window_size=4, shift_size=shift, always_partition=True, dynamic_mask=True
    ).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ours = DenseSwinV2Block(theirs)
    x = torch.randn(2, *size, 8)
    padded = F.pad(x, (0, 0, 0, -size[1] % 4, 0, -size[0] % 4))
    with torch.inference_mode():
        attended = theirs._attn(padded)[:, : size[0], : size[1]]
        expected = x + theirs.norm1(attended)
        expected = expected + theirs.norm2(theirs.mlp(expected))
        torch.testing.assert_close(ours(x), expected)


def test_images_need_no_padding_by_the_model() -> None:
    encoder = build_encoder(encoder_options("swinv2_tiny_window8_256"), 3, crop=(64, 64)).eval()
    assert encoder.size_multiple == 1
    assert not any(type(module) in DENSE for module in encoder.modules())
    with torch.inference_mode():
        maps = encoder(torch.randn(1, 3, 33, 50)).maps
    assert [tuple(level.shape[-2:]) for level in maps] == [(9, 13), (5, 7), (3, 4), (2, 2)]


@pytest.mark.parametrize("size", [(8, 12), (7, 9), (3, 4), (1, 1)])
def test_merged_as_timm_merges(size: tuple[int, int]) -> None:
    """What is merged is normalised behind, unlike in Swin; as wide behind as before, either order would run."""
    theirs = PatchMerging(6, 24)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, *size, 6)
    torch.testing.assert_close(DENSE[type(theirs)](theirs)(x), theirs(x))
