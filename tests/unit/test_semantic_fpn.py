"""Semantic FPN adds up levels of one size before the last doubling; doubling every one of them makes the same."""

import pytest
import torch
from torch import Tensor

from semask.models.decoders.semantic_fpn import SemanticFPN
from semask.ops.reference import reference_mode
from semask.structures import Features

WIDTHS = (4, 6, 8, 10)


def maps_of(height: int, width: int) -> tuple[Tensor, ...]:
    """Return maps at strides 4, 8, 16 and 32 of an image."""
    sizes = [(-(-height // stride), -(-width // stride)) for stride in (4, 8, 16, 32)]
    return tuple(torch.randn(2, channels, *size) for channels, size in zip(WIDTHS, sizes, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("num_classes", [1, 2, 19, 150, 171])
@pytest.mark.parametrize(
    ("size", "doublings"), [((64, 96), 1), ((97, 131), 3), ((60, 64), 1), ((56, 64), 2), ((4, 4), 3)], ids=str
)
def test_sums_are_doubled_once(size: tuple[int, int], doublings: int, num_classes: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    decoder = SemanticFPN(WIDTHS, num_classes=num_classes, channels=8, dropout=0.0).to(dtype)
    maps = tuple(level.to(dtype).requires_grad_() for level in maps_of(*size))
    doubled: list[Tensor] = []
    decoder.doubling.register_forward_hook(lambda _, __, out: doubled.append(out))
    found, counts = [], []
    for choice in (True, False):
        doubled.clear()
        with reference_mode(choice):
            logits = decoder(Features(maps)).logits
            wanted = [*maps, *decoder.parameters()]
            found.append((logits, *torch.autograd.grad(logits.float().square().mean(), wanted)))
        counts.append(len(doubled))
    assert counts == [3, doublings]
    for plain, fast in zip(*found, strict=True):
        scale = plain.float().abs().max().clamp(min=1e-3)
        tolerance = 1e-5 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(fast.float() / scale, plain.float() / scale, rtol=0, atol=tolerance)
