"""Deformable attention against a loop over single points, and against `grid_sample`."""

import math

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from semask.models.pixel_decoders.msdeform import DeformableAttention, star
from semask.ops.bilinear import pixel_centres
from semask.ops.deformable import Grid, deformable_attention, grid_of
from semask.ops.reference import reference_mode
from tests.facts import facts

Sizes = list[tuple[int, int]]
PYRAMIDS: list[Sizes] = [[(3, 5)], [(1, 1), (2, 1)], [(2, 3), (3, 5), (7, 9)]]


def example(sizes: Sizes, *, batch: int = 2, queries: int = 6, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Values, locations that reach well beyond the maps, and weights: 2 heads of 3 channels, 4 points."""
    generator = torch.Generator().manual_seed(0)
    tokens, heads, points = sum(math.prod(size) for size in sizes), 2, 4
    values = torch.randn(batch, tokens, heads, 3, generator=generator, dtype=dtype)
    locations = 2 * torch.rand(batch, queries, heads, len(sizes), points, 2, generator=generator, dtype=dtype) - 0.5
    weights = torch.rand(batch, queries, heads, len(sizes), points, generator=generator, dtype=dtype)
    return [values, locations, weights]


def attend(values: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    return deformable_attention(values, grid_of(sizes, device=values.device), locations, weights)


def by_loops(values: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    batch, queries, heads, levels, points, _ = locations.shape
    out = torch.zeros(batch, queries, heads, values.shape[-1], dtype=values.dtype)
    for b, q, h, level, p in torch.cartesian_prod(*map(torch.arange, (batch, queries, heads, levels, points))).tolist():
        height, width = sizes[level]
        first = sum(math.prod(size) for size in sizes[:level])
        x, y = locations[b, q, h, level, p].tolist()
        x, y = x * width - 0.5, y * height - 0.5
        for row in range(height):
            for column in range(width):
                share = max(0.0, 1 - abs(x - column)) * max(0.0, 1 - abs(y - row))
                token = values[b, first + row * width + column, h]
                out[b, q, h] += weights[b, q, h, level, p] * share * token
    return out.flatten(2)


def by_grid_sample(values: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor) -> Tensor:
    batch, _, heads = locations.shape[:3]
    parts = values.split([math.prod(size) for size in sizes], dim=1)
    sampled = []
    for level, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        maps = part.permute(0, 2, 3, 1).unflatten(-1, size).flatten(0, 1)
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
        sampled.append(F.grid_sample(maps, grid, align_corners=False))
    stacked = torch.stack(sampled, dim=-2).unflatten(0, (batch, heads))  # b heads d q l p
    return torch.einsum("bhdqlp,bqhlp->bqhd", stacked, weights).flatten(2)


@pytest.mark.parametrize("sizes", PYRAMIDS, ids=str)
def test_against_a_loop_over_tokens(sizes: Sizes) -> None:
    values, locations, weights = example(sizes)
    out = attend(values, sizes, locations, weights)
    torch.testing.assert_close(out, by_loops(values, sizes, locations, weights), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sizes", PYRAMIDS, ids=str)
def test_values_and_gradients_are_those_of_grid_sample(sizes: Sizes) -> None:
    results = []
    for way in (attend, by_grid_sample):
        values, locations, weights = (part.requires_grad_() for part in example(sizes, batch=3))
        out = way(values, sizes, locations, weights)
        cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
        results.append([out, *torch.autograd.grad(out, (values, locations, weights), cotangent)])
    for ours, theirs in zip(*results, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_gradients_by_differences() -> None:
    sizes = PYRAMIDS[2]
    values, locations, weights = (part.requires_grad_() for part in example(sizes, batch=1, queries=2))
    grid = grid_of(sizes, device=values.device)
    assert torch.autograd.gradcheck(lambda v, x, w: deformable_attention(v, grid, x, w), (values, locations, weights))


def test_points_on_centres_are_the_tokens() -> None:
    """There the neighbours beyond have no share; at a map's rim they do not exist. The start of training is such."""
    sizes = [(2, 3), (5, 7)]
    values, _, _ = example(sizes, batch=1)
    for level, (height, width) in enumerate(sizes):
        places = pixel_centres(height, width, device=values.device).double()
        tokens = height * width
        locations = places[None, :, None, None, None].expand(1, tokens, 2, 2, 1, 2)
        weights = torch.zeros(1, tokens, 2, 2, 1, dtype=torch.float64)
        weights[:, :, :, level] = 1
        out = attend(values, sizes, locations, weights)
        first = sum(math.prod(size) for size in sizes[:level])
        torch.testing.assert_close(out, values[:, first : first + tokens].flatten(2), rtol=1e-6, atol=1e-6)


def test_what_lies_a_token_beyond_the_map_is_nothing() -> None:
    values = torch.ones(1, 6, 1, 1, dtype=torch.float64)
    far = torch.tensor([[-0.5, 0.5], [0.5, -1.0], [1.5, 0.5], [0.5, 2.0], [-1e6, 1e6]], dtype=torch.float64)
    out = attend(values, [(2, 3)], far[None, :, None, None, None], torch.ones(1, 5, 1, 1, 1).double())
    torch.testing.assert_close(out, torch.zeros_like(out))


@pytest.mark.parametrize("place", [math.nan, math.inf, -math.inf, 1e30])
def test_places_that_are_no_numbers(place: float) -> None:
    """A model that diverges must come to tell so: nothing is looked up outside of the table."""
    values, locations, weights = example([(2, 3), (4, 5)])
    locations[1, 2, 1, 0, 3, 0] = place
    out = attend(values, [(2, 3), (4, 5)], locations, weights).unflatten(-1, (2, 3))
    assert out[1, 2, 1].isfinite().all() == (place == 1e30)
    out[1, 2, 1] = 0
    assert out.isfinite().all()


def test_the_first_offsets_are_a_star() -> None:
    """Eight heads look to the eight neighbours, counter-clockwise in (x, y) from the right; point i is i tokens away."""
    rays = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    expected = torch.tensor([[[(x * i, y * i) for i in (1, 2, 3, 4)]] * 3 for x, y in rays], dtype=torch.float32)
    torch.testing.assert_close(star(8, 3, 4), expected, rtol=0, atol=1e-5)
    attention = DeformableAttention(32)
    queries = attention.offsets(torch.randn(5, 32)).unflatten(-1, (8, 3, 4, 2))
    torch.testing.assert_close(queries, expected.expand_as(queries), rtol=0, atol=1e-5)


def module_and_tokens() -> tuple[DeformableAttention, tuple[Tensor, Tensor, Grid]]:
    torch.manual_seed(0)
    attention = DeformableAttention(16, num_heads=4, num_levels=2, num_points=3)
    torch.nn.init.normal_(attention.offsets.weight)
    torch.nn.init.normal_(attention.weights.weight)
    return attention, pyramid_of(attention, [(2, 3), (4, 5)])


def pyramid_of(attention: DeformableAttention, sizes: Sizes) -> tuple[Tensor, Tensor, Grid]:
    tokens = sum(math.prod(size) for size in sizes)
    width = attention.value.in_features
    grid = grid_of(sizes, device=torch.device("cpu"))
    return torch.randn(2, tokens, width), torch.randn(1, tokens, width), grid


def test_the_module_is_its_equation() -> None:
    """Σ over levels and points of softmax · value at reference + offset / (width, height), head by head."""
    sizes = [(2, 3), (4, 5)]
    attention, (tokens, positions, grid) = module_and_tokens()
    references = torch.cat([pixel_centres(*size, device=torch.device("cpu")) for size in sizes])
    offsets = attention.offsets(tokens + positions).reshape(2, 26, 4, 2, 3, 2)
    weights = attention.weights(tokens + positions).reshape(2, 26, 4, 6).softmax(-1).reshape(2, 26, 4, 2, 3)
    torch.testing.assert_close(weights.sum((-2, -1)), torch.ones(2, 26, 4))
    locations = torch.empty_like(offsets)
    for level, (height, width) in enumerate(sizes):
        locations[:, :, :, level, :, 0] = references[:, 0, None, None] + offsets[:, :, :, level, :, 0] / width
        locations[:, :, :, level, :, 1] = references[:, 1, None, None] + offsets[:, :, :, level, :, 1] / height
    values = attention.value(tokens).reshape(2, 26, 4, 4)
    expected = attention.project(by_grid_sample(values, sizes, locations, weights))
    torch.testing.assert_close(attention(tokens, positions, grid), expected, rtol=1e-4, atol=1e-5)


def test_half_precision_keeps_the_places() -> None:
    """In bfloat16 a location would be off by tokens; only what is summed and returned is rounded."""
    sizes = [(64, 64)]
    values, locations, weights = example(sizes, dtype=torch.float32)
    rounded = values.bfloat16()
    out = attend(rounded, sizes, locations, weights)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, attend(rounded.float(), sizes, locations, weights).bfloat16())
    attention, inputs = module_and_tokens()
    expected = attention(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        half = attention(*inputs)
    assert half.dtype == torch.bfloat16
    half.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.dtype == torch.float32 for p in attention.parameters())
    # Offsets come out of a linear layer in bfloat16: some points move by a hundredth of a token.
    torch.testing.assert_close(half.float(), expected, rtol=0, atol=0.1)


class OnMaps(torch.nn.Module):
    """Deformable attention of maps, whose sizes an exported program does not know beforehand."""

    def __init__(self, attention: DeformableAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        sizes = [(level.shape[-2], level.shape[-1]) for level in (coarse, fine)]
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in (coarse, fine)], dim=1)
        return self.attention(tokens, torch.zeros_like(tokens[:1]), grid_of(sizes, device=tokens.device))


def test_an_exported_program_takes_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a symbolic size is no int to it
    module = OnMaps(module_and_tokens()[0]).eval()
    height, width, batch = (torch.export.Dim(name, min=2, max=64) for name in ("height", "width", "batch"))
    shapes = ({0: batch, 2: height, 3: width}, {0: batch, 2: 2 * height, 3: 2 * width})
    example_maps = (torch.randn(2, 16, 3, 4), torch.randn(2, 16, 6, 8))
    program = torch.export.export(module, example_maps, dynamic_shapes=shapes).module()
    maps = (torch.randn(3, 16, 5, 2), torch.randn(3, 16, 10, 4))
    torch.testing.assert_close(program(*maps), module(*maps))


def test_heads_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=facts(8, 20)):
        DeformableAttention(20)


@pytest.mark.parametrize("sizes", [[(3, 5)], [(2, 2), (4, 3), (7, 6)]], ids=str)
def test_the_plain_formulation_is_the_same(sizes: Sizes) -> None:
    torch.manual_seed(0)
    tokens = sum(height * width for height, width in sizes)
    values = torch.randn(2, tokens, 4, 3, requires_grad=True)
    locations = (1.2 * torch.rand(2, 5, 4, len(sizes), 2, 2) - 0.1).requires_grad_()
    weights = torch.rand(2, 5, 4, len(sizes), 2, requires_grad=True)
    found = []
    for choice in (True, False):
        with reference_mode(choice):
            out = deformable_attention(values, grid_of(sizes, device=values.device), locations, weights)
        found.append((out, *torch.autograd.grad(out.square().sum(), [values, locations, weights])))
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)
