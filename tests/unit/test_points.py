"""Drawing, placing, sampling and choosing points, against loops and grid_sample on real masks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from semask.losses.points import LabelledPixels, choose_points, draw, sample_classes, sample_maps
from semask.recipes import MaskLossRecipe
from semask.structures import IGNORE


def label_maps(seed: int, size: tuple[int, int] = (6, 9)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (3, *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = IGNORE
    return labels


def test_sampled_maps_against_a_loop() -> None:
    height, width = 4, 5
    maps, points = torch.randn(1, 1, height, width), torch.rand(1, 200, 2)
    found = sample_maps(maps, points)[0, 0]
    for (x, y), value in zip(points[0].tolist(), found.tolist(), strict=True):
        expected = 0.0
        for row in range(height):
            for column in range(width):
                near = max(0.0, 1 - abs(y * height - 0.5 - row)) * max(0.0, 1 - abs(x * width - 0.5 - column))
                expected += near * float(maps[0, 0, row, column])
        assert value == pytest.approx(expected, abs=1e-5)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([(6, 9), (1, 1), (7, 1), (32, 40)]), st.booleans())
def test_sampled_classes_are_sampled_masks(seed: int, size: tuple[int, int], small: bool) -> None:
    """Wherever the point lies, the rim included, where a part of the sample lies beyond the image."""
    labels = label_maps(seed, size)
    images = torch.tensor([2, 0, 0, 1])
    classes = torch.tensor([[0, 1, 3], [2, 0, 0], [3, 2, 1], [0, 1, IGNORE]])
    points = torch.rand(4, 50, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    points[:, :4] = points.new_tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1e-6, 0.5]])
    masks = (labels[images][:, None] == classes[..., None, None]).double()
    expected = F.grid_sample(masks, 2 * points[:, :, None] - 1, align_corners=False)[..., 0]
    found = sample_classes(labels.to(torch.uint8) if small else labels, points, images=images, classes=classes)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_draws_come_in_the_authors_order() -> None:
    recipe = MaskLossRecipe(points=10, oversample_ratio=2.5, importance_sample_ratio=0.7, ignored="background")
    torch.manual_seed(7)
    draws = draw(recipe, 10, predictions=2, images=3, pairs=4, device=torch.device("cpu"))
    torch.manual_seed(7)
    for number in range(2):
        for image in range(3):
            torch.testing.assert_close(draws.matching[number, image], torch.rand(1, 10, 2)[0], rtol=0, atol=0)
        torch.testing.assert_close(draws.candidates[number], torch.rand(4, 25, 2), rtol=0, atol=0)
        torch.testing.assert_close(draws.others[number], torch.rand(4, 3, 2), rtol=0, atol=0)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_placed_points_are_centres_of_labelled_pixels(seed: int) -> None:
    labels = label_maps(seed)
    height, width = labels.shape[1:]
    images = torch.tensor([1, 0, 2, 1])
    points = LabelledPixels(labels).place(torch.rand(4, 300, 1, generator=torch.Generator().manual_seed(seed)), images)
    columns, rows = points[..., 0] * width - 0.5, points[..., 1] * height - 0.5
    torch.testing.assert_close(columns, columns.round(), rtol=0, atol=1e-5)
    torch.testing.assert_close(rows, rows.round(), rtol=0, atol=1e-5)
    assert (labels[images[:, None], rows.round().long(), columns.round().long()] != IGNORE).all()


def test_every_labelled_pixel_is_equally_likely() -> None:
    labels = torch.full((2, 3, 4), IGNORE)
    where = [(0, 1), (1, 3), (2, 0)]
    for row, column in where:
        labels[1, row, column] = 1
    numbers = ((torch.arange(300) + 0.5) / 300).reshape(1, -1, 1)
    points = LabelledPixels(labels).place(numbers, torch.tensor([1]))[0]
    places, counts = points.unique(dim=0, return_counts=True)
    expected = sorted(((column + 0.5) / 4, (row + 0.5) / 3) for row, column in where)
    torch.testing.assert_close(places, torch.tensor(expected))
    assert counts.tolist() == [100, 100, 100]


def test_the_largest_number_stays_inside_and_an_empty_image_has_a_place() -> None:
    largest = torch.full((65, 1, 1), 1 - 2**-24)
    labels = torch.full((65, 8, 8), IGNORE)
    for count, image in enumerate(labels):
        image.view(-1)[:count] = 0
    points = LabelledPixels(labels).place(largest, torch.arange(65))[:, 0]
    assert points[0].tolist() == [0, 0]
    last = torch.arange(64)
    torch.testing.assert_close(points[1:], torch.stack((last % 8 + 0.5, last // 8 + 0.5), dim=-1) / 8)


def test_the_uncertain_candidates_and_all_others_are_chosen() -> None:
    recipe = MaskLossRecipe(importance_sample_ratio=0.6)
    masks = torch.randn(3, 4, 4)
    candidates, others = torch.rand(3, 30, 2), torch.rand(3, 4, 2)
    chosen = choose_points(masks, candidates, others, recipe=recipe, points=10)
    assert chosen.shape == (3, 10, 2)
    for mask, row, rest, found in zip(masks, candidates, others, chosen, strict=True):
        logits = F.grid_sample(mask[None, None], 2 * row[None, :, None] - 1, align_corners=False).flatten()
        nearest = row[logits.abs().argsort()[:6]]
        assert {tuple(point) for point in found.tolist()} == {
            tuple(point) for point in torch.cat((nearest, rest)).tolist()
        }
