"""Windows from a tiling, against the same windows cut from a padded and rolled map."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.swin_transformer import SwinTransformerBlock, WindowAttention
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from semask.models.encoders.swin import DenseSwinBlock, ShiftedWindowAttention
from semask.models.layers.semantic import SemanticAttention, SemanticLayer
from semask.ops.memory import apply_chunked, checkpoint_pointwise
from semask.ops.reference import reference_mode
from semask.ops.windows import (
    PART_TOKENS,
    Part,
    Tiling,
    pad_to_windows,
    shifted_window_mask,
    split_windows,
    tile,
    window_masks,
)
from tests.unit.largest import Largest


def parts_of(tiling: Tiling) -> list[Part]:
    return [part for group in tiling.groups for part in group.parts]


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.booleans(), st.booleans())
def test_parts_hold_the_windows_of_the_rolled_map(
    batch: int, height: int, width: int, size: int, shifted: bool, in_parts: bool
) -> None:
    shift = size // 2 if shifted else 0
    tiling = tile(batch, height, width, size, shift=shift, in_parts=in_parts)
    x = torch.randn(batch, height, width, 2)
    padded = pad_to_windows(x + 1, size).roll((-shift, -shift), dims=(1, 2))
    windows = split_windows(padded, size)
    near = window_masks(size, shift=shift)
    expected = shifted_window_mask(*padded.shape[1:3], size, shift=shift).repeat(batch, 1, 1) if shift else None
    found = []
    for part in parts_of(tiling):
        filled = part.pad_windows((x + 1).flatten(0, 2)[part.tokens], torch.zeros(1, 2), size**2)
        torch.testing.assert_close(part.unpad_windows(filled), (x + 1).flatten(0, 2)[part.tokens])
        for window in filled:
            (place,) = (windows == window).all(-1).all(-1).nonzero()[:1]
            assert expected is None or torch.equal(expected[place.item()], near[part.mask_kind])
        found.append(filled)
    together = torch.cat(found)
    assert len(together) == len(windows)
    order = torch.cat([part.tokens for part in parts_of(tiling)])
    torch.testing.assert_close(order[tiling.places], torch.arange(batch * height * width))
    torch.testing.assert_close(together.sum((0, 1)), windows.sum((0, 1)))


@pytest.mark.parametrize("in_parts", [True, False])
def test_groups_are_bounded(in_parts: bool) -> None:
    groups = tile(1, 140, 150, 7, shift=3, in_parts=in_parts).groups
    held = [sum(part.windows * 49 for part in group.parts) for group in groups]
    assert all(one + other > PART_TOKENS - 49 for one, other in itertools.pairwise(held)), "no two could be one"
    large = [group for group, tokens in zip(groups, held, strict=True) if tokens > PART_TOKENS]
    assert [len(group.parts) for group in large] == ([] if in_parts else [1]), "what is large stays alone"


def test_a_group_shares_out_what_was_made_of_its_tokens() -> None:
    (group,) = tile(2, 10, 11, 4, shift=2, in_parts=False).groups
    assert len(group.parts) > 1
    for part, values in zip(group.parts, group.split(group.tokens[:, None].float()), strict=True):
        torch.testing.assert_close(values[:, 0].long(), part.tokens)
    assert group.is_padded
    (exact,) = tile(2, 8, 12, 4, shift=2, in_parts=False).groups
    assert not exact.is_padded


def test_a_table_made_in_inference_mode_serves_training() -> None:
    with torch.inference_mode():
        tiling = tile.__wrapped__(1, 5, 6, 4, shift=2, in_parts=False)
    assert not tiling.places.is_inference()
    assert not any(part.tokens.is_inference() for part in parts_of(tiling))


def attention_of(size: int, shift: int) -> ShiftedWindowAttention:
    torch.manual_seed(0)
    attention = WindowAttention(12, 3, window_size=size)
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.3)
    return ShiftedWindowAttention(attention, shift=shift)


def test_no_image_has_no_windows() -> None:
    assert attention_of(4, 2)(torch.zeros(0, 5, 6, 12)).shape == (0, 5, 6, 12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(2, 8, 8), (1, 9, 6), (3, 1, 2), (1, 61, 83)], ids=str)
def test_window_attention_forward_and_backward(size: tuple[int, int, int], shift: int, dtype: torch.dtype) -> None:
    attention = attention_of(4, shift).to(dtype)
    x = torch.randn(*size, 12, dtype=dtype, requires_grad=True)
    found = []
    for choice in (True, False):
        with reference_mode(choice):
            out = attention(x)
            with torch.inference_mode():
                kept = attention(x)
            found.append((out, kept, *torch.autograd.grad(out.float().square().sum(), [x, *attention.parameters()])))
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.2}
    for plain, fast in zip(*found, strict=True):
        scale = plain.float().abs().max().clamp(min=1)
        torch.testing.assert_close(fast.float() / scale, plain.float() / scale, **tolerance)


@pytest.mark.parametrize("num_classes", [1, 2, 19, 150, 171])
@pytest.mark.parametrize(("window", "shifted"), [(4, False), (4, True), (None, False)])
def test_semantic_layer_forward_and_backward(num_classes: int, window: int | None, shifted: bool) -> None:
    compare_semantic_layers(num_classes, (2, 7, 10), window=window, shifted=shifted)


@pytest.mark.parametrize("residual", ["norm", "input"])
def test_semantic_layer_in_several_groups(residual: Literal["norm", "input"]) -> None:
    assert len(tile(1, 61, 83, 4, shift=2, in_parts=True).groups) > 1
    compare_semantic_layers(19, (1, 61, 83), window=4, shifted=True, residual=residual)


@pytest.mark.parametrize("residual", ["norm", "input"])
@pytest.mark.parametrize("shifted", [False, True])
def test_units_of_a_semantic_layer_share_one_padded_map(residual: Literal["norm", "input"], shifted: bool) -> None:
    compare_semantic_layers(19, (2, 7, 10), window=4, shifted=shifted, residual=residual, units=2)


def compare_semantic_layers(
    num_classes: int,
    size: tuple[int, int, int],
    *,
    window: int | None,
    shifted: bool,
    residual: Literal["norm", "input"] = "norm",
    units: int = 1,
) -> None:
    torch.manual_seed(0)
    attention = [SemanticAttention(24, num_classes, dropout=0.0) for _ in range(units)]
    shifts = [shifted, *[False] * (units - 1)]
    layer = SemanticLayer(24, attention, window_size=window, shifts=shifts, residual=residual)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.2)
    x = torch.randn(*size, 24, requires_grad=True)
    found = []
    for choice in (True, False):
        with reference_mode(choice):
            masked, semantic = layer(x)
            gradients = torch.autograd.grad(masked.square().sum() + semantic.sum(), [x, *layer.parameters()])
            with torch.inference_mode():
                found.append((masked, semantic, *layer(x), *gradients))
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(2, 8, 8), (1, 9, 6), (1, 61, 83)], ids=str)
def test_a_block_is_made_in_parts(size: tuple[int, int, int], training: bool) -> None:
    torch.manual_seed(0)
    block = SwinTransformerBlock(12, (16, 16), num_heads=3, window_size=4, shift_size=2, drop_path=0.5)
    dense = DenseSwinBlock(block).train(training)
    for parameter in dense.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(*size, 12)
    found, seen = [], []
    calls: list[int] = []
    dense.norm1.register_forward_hook(lambda _, __, out: calls.append(out.numel() // 12))
    for choice in (True, False):
        torch.manual_seed(1)
        with reference_mode(choice), torch.inference_mode():
            with torch.autocast("cpu", torch.bfloat16):
                mixed = dense(x)
            found.append((dense(x), mixed))
        seen.append(calls.copy())
        calls.clear()
    (plain, plain_mixed), (fast, mixed) = found
    tokens = math.prod(size)
    assert seen[0] == [tokens] * 2
    if training:
        assert seen[1] == [tokens] * 2, "random depth is for whole maps"
    else:
        assert sum(seen[1]) == 2 * tokens
        assert max(seen[1]) <= PART_TOKENS
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)
    assert mixed.dtype == plain_mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, plain_mixed, rtol=0.05, atol=0.1 * plain.abs().max().item())


def test_weights_that_change_are_seen() -> None:
    """What is remembered is of places alone: weights may be loaded, moved or copied at any time."""
    attention = attention_of(4, 2).eval()
    x = torch.randn(1, 9, 7, 12)
    with torch.inference_mode():
        attention(x)
        attention.relative_position_bias_table.data.add_(torch.randn(49, 3))
        copied = copy.deepcopy(attention)
        attention.load_state_dict({name: value + 0.1 for name, value in attention.state_dict().items()})
        for module in (attention, copied):
            fast = module(x)
            with reference_mode():
                torch.testing.assert_close(fast, module(x))
    x.requires_grad_()
    attention(x).sum().backward()  # after a tiling was made in inference mode
    assert x.grad is not None


def test_neither_a_mask_nor_an_mlp_is_made_for_the_whole_map() -> None:
    attention = attention_of(4, 2).eval()
    mlp = nn.Sequential(nn.Linear(12, 48), nn.GELU(), nn.Linear(48, 12))
    x = torch.randn(1, 101, 103, 12)
    with torch.inference_mode(), Largest() as fast:
        torch.testing.assert_close(apply_chunked(mlp, x), mlp(x.reshape(-1, 12)).view(x.shape))
    assert fast.numbers == 101 * 103 * 48  # of what it is compared with
    with torch.inference_mode(), Largest() as fast:
        attention(x)
        apply_chunked(mlp, x)
    assert fast.numbers == max(x.numel(), PART_TOKENS * 48)
    with torch.inference_mode(), reference_mode(), Largest() as plain:
        attention(x)
    assert plain.numbers >= 26 * 26 * 3 * 4**4  # the mask of every window and head


def test_a_lean_layer_keeps_its_input_alone() -> None:
    norm, linear = nn.LayerNorm(8), nn.Linear(8, 32)
    x = torch.randn(5, 8, requires_grad=True)
    kept: list[Tensor] = []
    runs: list[int] = []
    linear.register_forward_hook(lambda *_: runs.append(1))

    def layer(tokens: Tensor) -> Tensor:
        out: Tensor = linear(norm(tokens))
        return out

    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = checkpoint_pointwise(layer, x)
    assert {tensor.data_ptr() for tensor in kept} == {x.data_ptr()}
    parameters = [x, *norm.parameters(), *linear.parameters()]
    found = torch.autograd.grad(out.square().sum(), parameters)
    assert len(runs) == 1  # the linear layer's product is not made again
    for fast, plain in zip(found, torch.autograd.grad(layer(x).square().sum(), parameters), strict=True):
        torch.testing.assert_close(fast, plain)


def test_the_weights_of_pairs_are_not_kept() -> None:
    attention, kept = attention_of(4, 2), []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        attention(torch.randn(1, 32, 32, 12, requires_grad=True))
    largest = max(shape.numel() for shape in kept if shape[-2:] == (16, 16))
    assert largest <= 4 * attention.num_heads * 16**2, "more than the biases of all kinds of windows"
