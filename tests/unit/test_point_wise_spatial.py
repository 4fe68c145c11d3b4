import pytest
import torch
import torch.nn.functional as F

from semask.models.decoders.psanet import PointWiseSpatialAttention, PSANet, double, halve, unfold_windows
from semask.structures import Features
from tests.facts import facts


def by_cells(windows: torch.Tensor, window_size: int) -> torch.Tensor:
    """Scores of (other cell, cell), one pair at a time."""
    batch, _, height, width = windows.shape
    out = torch.zeros(batch, height * width, height * width)
    half = (window_size - 1) // 2
    for h in range(height):
        for w in range(width):
            for y in range(height):
                for x in range(width):
                    row, column = y - h + half, x - w + half
                    if 0 <= row < window_size and 0 <= column < window_size:
                        out[:, y * width + x, h * width + w] = windows[:, row * window_size + column, h, w]
    return out


@pytest.mark.parametrize("window_size", [1, 4, 5, 12])
def test_windows_are_laid_on_the_map(window_size: int) -> None:
    windows = torch.randn(2, window_size**2, 4, 6)
    assert torch.equal(unfold_windows(windows, window_size), by_cells(windows, window_size))


@pytest.mark.parametrize("direction", ["collect", "distribute"])
def test_cells_collect_or_distribute(direction: str) -> None:
    attention = PointWiseSpatialAttention(6, 8, window_size=5, direction=direction).eval()
    attention.scores.weight.data.mul_(10)
    x = torch.randn(1, 6, 6, 8)
    with torch.inference_mode():
        out = attention(x)
        reduced = halve(attention.reduce(x))
        scores = by_cells(attention.scores(attention.hidden(reduced)), 5)[0]
    cells, mixed = reduced[0].flatten(1), torch.zeros(8, 12)
    for cell in range(12):
        # What a cell takes from all others; when they distribute, each has scored the cell in its own window.
        shares = (scores[:, cell] if direction == "collect" else scores[cell, :]).softmax(0)
        for other in range(12):
            mixed[:, cell] += shares[other] * cells[:, other]
    torch.testing.assert_close(out[0].flatten(1), mixed)


@pytest.mark.parametrize(
    ("size", "halved", "corners"),
    [((8, 12), (4, 6), False), ((7, 13), (4, 7), True), ((7, 12), (3, 6), False), ((1, 1), (1, 1), True), ((1, 2), (1, 1), False)],
    ids=str,
)  # fmt: skip
def test_odd_maps_keep_their_corners(size: tuple[int, int], halved: tuple[int, int], corners: bool) -> None:
    x = torch.randn(1, 2, *size)
    half = halve(x)
    assert half.shape[-2:] == halved
    torch.testing.assert_close(half, F.interpolate(x, size=halved, mode="bilinear", align_corners=corners))
    expected = F.interpolate(half, size=size, mode="bilinear", align_corners=corners)
    torch.testing.assert_close(double(half, x), expected)
    if corners:
        assert torch.equal(half[..., 0, 0], x[..., 0, 0])
        assert torch.equal(half[..., -1, -1], x[..., -1, -1])


def test_cells_beyond_the_window_count_alike() -> None:
    """A window of one cell scores the cell itself; all others score 0 and share what is left evenly."""
    attention = PointWiseSpatialAttention(4, 4, window_size=1, direction="collect").eval()
    attention.scores.weight.data.fill_(100.0)
    x = torch.randn(1, 4, 8, 8)
    with torch.inference_mode():
        scores = unfold_windows(attention.scores(attention.hidden(halve(attention.reduce(x)))), 1)
    assert torch.equal(scores, torch.diag_embed(scores.diagonal(dim1=1, dim2=2)))
    with pytest.raises(ValueError, match=facts("window_size", 1, 0)):
        PointWiseSpatialAttention(4, 4, window_size=0, direction="collect")


@pytest.mark.parametrize("side", [9, 10])
def test_images_larger_than_the_window_are_taken(side: int) -> None:
    decoder = PSANet([8, 8], num_classes=3, window_size=3, channels=4).eval()
    with torch.inference_mode():
        logits = decoder(Features((torch.randn(2, 8, 40, 40), torch.randn(2, 8, side, side)))).logits
    assert logits.shape == (2, 3, side, side)
    assert torch.isfinite(logits).all()
