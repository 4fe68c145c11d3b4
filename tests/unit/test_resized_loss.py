"""Cross-entropy in tiles against torch's resize and cross-entropy: value, gradient, and what is never held."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from semask.losses.pixel import pixel_cross_entropy
from semask.ops import cross_entropy as resized
from semask.ops.bilinear import spans
from semask.ops.cross_entropy import pixel_losses, resized_cross_entropy
from semask.ops.reference import is_reference, reference_mode
from semask.structures import IGNORE
from tests.unit.largest import Largest

SIZES = [
    ((8, 8), (32, 32)),
    ((5, 7), (37, 61)),
    ((3, 1), (13, 9)),
    ((6, 9), (6, 20)),
    ((9, 6), (9, 6)),
    ((21, 17), (8, 40)),
]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tiles along both axes, the last ones smaller."""
    monkeypatch.setattr(resized, "SIDE", 16)
    monkeypatch.setattr(resized, "TILE", 20_000)


def case(classes: int, size: tuple[int, int], full: tuple[int, int], dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(2, classes, *size, generator=generator).to(dtype)
    labels = torch.randint(0, classes, (2, *full), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = IGNORE
    return logits, labels.to(torch.uint8), torch.rand(labels.shape, generator=generator)


def reference(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, align: bool) -> torch.Tensor:
    """What it must equal, in float64."""
    size = (labels.shape[-2], labels.shape[-1])
    full = F.interpolate(logits.double(), size, mode="bilinear", align_corners=align)
    return (F.cross_entropy(full, labels.long(), ignore_index=IGNORE, reduction="none") * weights.double()).sum()


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("classes", [1, 2, 19, 150, 171])
@pytest.mark.parametrize(("size", "full"), SIZES)
def test_value_and_gradient_are_those_of_resize_and_cross_entropy(classes, size, full, align) -> None:
    logits, labels, weights = case(classes, size, full, torch.float32)
    logits.requires_grad_()
    loss = resized_cross_entropy(logits, labels, weights, align_corners=align)
    (found,) = torch.autograd.grad(2 * loss, logits)
    exact = logits.detach().double().requires_grad_()
    expected = reference(exact, labels, weights, align)
    (slope,) = torch.autograd.grad(2 * expected, exact)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.double(), slope, rtol=1e-5, atol=1e-5 * float(slope.abs().max().clamp(min=1)))


@pytest.mark.parametrize("align", [False, True])
def test_gradcheck(align: bool) -> None:
    logits, labels, weights = case(3, (3, 4), (7, 18), torch.float64)
    weights = weights.double()
    assert torch.autograd.gradcheck(
        lambda x: resized_cross_entropy(x, labels, weights, align_corners=align), logits.requires_grad_()
    )


@pytest.mark.parametrize(
    "options", [{}, {"normalize_by": "valid"}, {"keep_hardest": 50}, {"class_weights": torch.arange(1.0, 20)}]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("align", [False, True])
def test_the_switch_changes_no_loss(options: dict, dtype: torch.dtype, align: bool) -> None:
    logits, labels, _ = case(19, (5, 7), (37, 26), dtype)
    found = []
    for plain in (False, True):
        leaf = logits.clone().requires_grad_()
        with reference_mode(plain):
            assert is_reference() == plain
            loss = pixel_cross_entropy(leaf, labels, align_corners=align, **options)
        loss.backward()
        found.append((loss.detach(), leaf.grad.float()))
    (fast, slope), (plain, expected) = found
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=0)
    torch.testing.assert_close(slope, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-7)


def test_autocast_rounds_no_loss() -> None:
    logits, labels, weights = case(19, (5, 7), (37, 26), torch.float32)
    found = []
    for enabled in (False, True):
        leaf = logits.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = resized_cross_entropy(leaf, labels, weights)
            each = pixel_losses(leaf, labels)
        found.append((loss.detach(), each, *torch.autograd.grad(loss, leaf)))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


@pytest.mark.parametrize("align", [False, True])
def test_losses_of_pixels_are_torchs(align: bool) -> None:
    logits, labels, _ = case(19, (5, 7), (37, 26), torch.float32)
    full = F.interpolate(logits, (37, 26), mode="bilinear", align_corners=align)
    expected = F.cross_entropy(full, labels.long(), ignore_index=IGNORE, reduction="none")
    torch.testing.assert_close(pixel_losses(logits, labels, align_corners=align), expected, rtol=1e-5, atol=1e-5)


def test_nothing_to_learn_gives_no_gradient_and_no_nan() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = resized_cross_entropy(logits, torch.full((1, 16, 16), IGNORE), torch.ones(1, 16, 16))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_far_away_logits_keep_finite_losses() -> None:
    logits = torch.tensor([[[[0.0]], [[400.0]]]], requires_grad=True)
    loss = resized_cross_entropy(logits, torch.zeros(1, 3, 3).long(), torch.ones(1, 3, 3))
    loss.backward()
    assert loss == 9 * 400
    assert logits.grad.flatten().tolist() == [-9, 9]


@pytest.mark.parametrize("options", [{}, {"keep_hardest": 5000, "class_weights": torch.ones(150)}])
def test_scores_at_full_size_are_never_made(options: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # tiles as they are
    logits, labels, _ = case(150, (32, 32), (128, 128), torch.float32)
    seen = {}
    for plain in (False, True):
        leaf = logits.clone().requires_grad_()
        with reference_mode(plain), Largest() as largest:
            pixel_cross_entropy(leaf, labels, **options).backward()
        seen[plain] = largest.numbers
    assert seen[False] == 64 * 64 * 150  # a tile
    assert seen[True] == 2 * 128 * 128 * 150


@pytest.mark.parametrize(("cells", "places"), [(1, 1), (1, 5), (4, 16), (7, 30), (30, 7), (9, 9), (128, 513)])
@pytest.mark.parametrize(("step", "align"), itertools.product([3, 64], [False, True]))
def test_spans_are_torchs_interpolation_and_lookups_equal_products(cells, places, step, align) -> None:
    maps = torch.randn(2, cells, 3, dtype=torch.float64)
    expected = F.interpolate(maps.mT, places, mode="linear", align_corners=align).mT
    pieces = spans(cells, places, step, align_corners=align, dtype=torch.float64, device=torch.device("cpu"))
    assert [(piece.first, piece.last) for piece in pieces] == [
        (first, min(first + step, places)) for first in range(0, places, step)
    ]
    back = torch.zeros_like(maps)
    for piece in pieces:
        part = maps[:, piece.top : piece.bottom]
        places_of = piece.enlarge(part, -2)
        torch.testing.assert_close(places_of, expected[:, piece.first : piece.last])
        torch.testing.assert_close(piece.enlarge(part.mT.contiguous(), -1).mT, places_of)
        if piece.matrix is not None:
            torch.testing.assert_close(piece.look_up(part, -2), places_of)
        back[:, piece.top : piece.bottom] += piece.enlarge_backward(places_of, -2)
        if piece.matrix is not None:
            torch.testing.assert_close(piece.look_up_backward(places_of, -2), piece.enlarge_backward(places_of, -2))
        torch.testing.assert_close(
            piece.enlarge_backward(places_of.mT.contiguous(), -1).mT, piece.enlarge_backward(places_of, -2)
        )
    # The transpose: <A x, A x> = <x, A' A x>
    torch.testing.assert_close((expected**2).sum(), (maps * back).sum())
