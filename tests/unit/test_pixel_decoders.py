"""Pixel decoders: alignment against a loop over taps, the shared norm, and maps of any size."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask.models.pixel_decoders.fpn import FPN, AlignedLevel, FeatureAlign, FeatureSelection, Level
from semask.models.pixel_decoders.msdeform import MSDeform
from semask.structures import Features

WIDTH = 64


def bilinear(image: Tensor, y: float, x: float) -> Tensor:
    """Channels of an image at a place in pixels, 0 beyond."""
    total = torch.zeros(len(image), dtype=image.dtype)
    for row in range(image.shape[1]):
        for column in range(image.shape[2]):
            total += max(0.0, 1 - abs(y - row)) * max(0.0, 1 - abs(x - column)) * image[:, row, column]
    return total


def by_loops(align: FeatureAlign, fine: Tensor, coarse: Tensor) -> Tensor:
    """Source: DCNv2 (arXiv:1811.11168) eq. 1; per group 9 taps of (dy, dx), then 9 strengths."""
    merge = align.merge
    led = align.offsets(merge.norm(F.conv2d(torch.cat((fine, 2 * coarse), dim=1), merge.conv.weight)))
    batch, _, height, width = fine.shape
    group_width = WIDTH // 8
    out = torch.zeros_like(fine)
    for b in range(batch):
        for row in range(height):
            for column in range(width):
                total = align.bias.clone()
                for group in range(8):
                    channels = slice(group * group_width, (group + 1) * group_width)
                    for tap in range(9):
                        dy, dx = led[b, 18 * group + 2 * tap : 18 * group + 2 * tap + 2, row, column].tolist()
                        strength = led[b, 144 + 9 * group + tap, row, column].sigmoid()
                        y, x = row + tap // 3 - 1 + dy, column + tap % 3 - 1 + dx
                        sampled = strength * bilinear(coarse[b, channels], y, x)
                        total = total + align.weight[:, channels, tap // 3, tap % 3] @ sampled
                out[b, :, row, column] = total.clamp(min=0)
    return out + fine


def test_alignment_against_a_loop_over_taps() -> None:
    torch.manual_seed(0)
    align = FeatureAlign(WIDTH, norm=nn.GroupNorm(32, WIDTH))
    for parameter in (align.offsets.weight, align.bias):
        nn.init.normal_(parameter, std=0.2)
    nn.init.uniform_(align.offsets.bias, -2, 2)
    fine, coarse = torch.randn(2, 2, WIDTH, 3, 4)
    with torch.no_grad():
        torch.testing.assert_close(align(fine, coarse), by_loops(align, fine, coarse), rtol=1e-4, atol=1e-4)


def test_alignment_starts_as_half_a_convolution() -> None:
    align = FeatureAlign(WIDTH, norm=nn.GroupNorm(32, WIDTH))
    fine, coarse = torch.randn(2, 1, WIDTH, 5, 3)
    expected = F.conv2d(coarse, align.weight / 2, align.bias, padding=1).clamp(min=0) + fine
    torch.testing.assert_close(align(fine, coarse), expected, rtol=1e-4, atol=1e-5)


def test_the_shared_norm_is_one_parameter() -> None:
    level = AlignedLevel(8, WIDTH)
    assert level.align.merge.norm is level.output.norm
    distinct = sum(parameter.numel() for parameter in level.parameters())
    listed = sum(value.numel() for value in level.state_dict().values())
    assert listed - distinct == 2 * WIDTH, "the state dict lists it under both names"
    level(torch.randn(1, 8, 4, 4), torch.randn(1, WIDTH, 4, 4)).sum().backward()
    assert level.output.norm.weight.grad is not None


def test_the_lateral_enters_twice() -> None:
    """Once into what is moved, once unmoved: without the moved part the output sees the lateral alone."""
    level = AlignedLevel(8, WIDTH)
    nn.init.zeros_(level.align.weight)
    fine, coarse = torch.randn(1, 8, 4, 6), torch.randn(1, WIDTH, 4, 6)
    torch.testing.assert_close(level(fine, coarse), level.output(level.lateral(fine)))
    level = AlignedLevel(8, WIDTH)
    lateral = level.lateral(fine)
    torch.testing.assert_close(level(fine, coarse), level.output(level.align(lateral, lateral + coarse)))


def test_feature_selection() -> None:
    selection = FeatureSelection(6, WIDTH)
    x = torch.randn(2, 6, 5, 3)
    importance = torch.sigmoid(x.mean((2, 3)) @ selection.attend.weight[:, :, 0, 0].T)[:, :, None, None]
    expected = torch.einsum("oi,bihw->bohw", selection.project.weight[:, :, 0, 0], x * (1 + importance)).clamp(min=0)
    torch.testing.assert_close(selection(x), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(AlignedLevel(6, WIDTH, feature_selection=True).lateral, FeatureSelection)


CHANNELS = (4, 6, 8, 10)
DECODERS = {
    "fpn": lambda: FPN(CHANNELS, [Level(c, WIDTH) for c in CHANNELS[:-1]], width=WIDTH),
    "fapn": lambda: FPN(CHANNELS, [AlignedLevel(c, WIDTH) for c in CHANNELS[:-1]], width=WIDTH),
    "msdeform": lambda: MSDeform(CHANNELS, Level(CHANNELS[0], WIDTH), width=WIDTH, layers=1, num_heads=4, hidden=8),
    "msfapn": lambda: MSDeform(
        CHANNELS, AlignedLevel(CHANNELS[0], WIDTH), width=WIDTH, layers=1, num_heads=4, hidden=8
    ),
}


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize(
    "sizes", [[(9, 7), (5, 4), (3, 2), (2, 1)], [(1, 1)] * 4, [(4, 12), (2, 6), (1, 3), (1, 2)]], ids=str
)
def test_maps_of_any_size(name: str, sizes: list[tuple[int, int]]) -> None:
    torch.manual_seed(0)
    decoder = DECODERS[name]()
    maps = tuple(torch.randn(2, c, *size) for c, size in zip(CHANNELS, sizes, strict=True))
    out = decoder(Features(maps))
    assert out.masks.shape == (2, WIDTH, *sizes[0])
    assert [level.shape for level in out.pyramid] == [(2, WIDTH, *size) for size in reversed(sizes[1:])]
    alone = decoder(Features(tuple(level[1:] for level in maps)))
    torch.testing.assert_close(out.masks[1:], alone.masks, rtol=1e-4, atol=1e-4)
    for coarse, single in zip(out.pyramid, alone.pyramid, strict=True):
        torch.testing.assert_close(coarse[1:], single, rtol=1e-4, atol=1e-4)


def test_layers_made_again_give_the_same_gradients() -> None:
    """In training the deformable layers are computed a second time in the backward pass; in evaluation they are kept."""
    torch.manual_seed(0)
    decoder = DECODERS["msdeform"]()
    maps = [torch.randn(2, c, 8 >> level, 8 >> level) for level, c in enumerate(CHANNELS)]
    results = []
    for training in (True, False):
        inputs = [level.clone().requires_grad_() for level in maps]
        out = decoder.train(training)(Features(tuple(inputs)))
        loss = out.masks.square().sum() + sum(level.square().sum() for level in out.pyramid)
        results.append([loss, *torch.autograd.grad(loss, (*inputs, *decoder.parameters()))])
    for again, kept in zip(*results, strict=True):
        torch.testing.assert_close(again, kept, rtol=1e-5, atol=1e-5)
