"""Pasting against a plain loop over pixels, and against a flood fill."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from semask.data.augment.copy_paste import CopyPaste
from semask.data.classes import Classes, identity
from semask.ops.palette import palette
from semask.recipes.recipe import DataRecipe
from semask.structures import IGNORE
from tests.facts import facts

CLASSES = Classes(("a", "b", "c"), palette(3), identity(3))
DATA = DataRecipe(copy_paste=1.0)


def view(seed: int, height: int = 12, width: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    ids = random.choice(np.array([0, 1, 2, IGNORE], np.uint8), (height, width), p=(0.4, 0.3, 0.2, 0.1))
    return torch.from_numpy(random.integers(0, 256, (3, height, width), dtype=np.uint8)), torch.from_numpy(ids)


def flooded(ids: np.ndarray, row: int, column: int) -> set[tuple[int, int]]:
    """Return the pixels of one class that hang together with one of them, by their sides."""
    seen, waiting = set(), [(row, column)]
    while waiting:
        r, c = waiting.pop()
        inside = 0 <= r < ids.shape[0] and 0 <= c < ids.shape[1]
        if inside and (r, c) not in seen and ids[r, c] == ids[row, column]:
            seen.add((r, c))
            waiting += [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)]
    return seen


@pytest.mark.parametrize("seed", range(20))
def test_a_region_hangs_together_and_is_whole(seed: int) -> None:
    _, label = view(seed)
    chosen = CopyPaste(DATA, CLASSES).region(label, np.random.default_rng(seed))
    assert chosen is not None
    places = [(int(r), int(c)) for r, c in chosen.nonzero()]
    assert set(places) == flooded(label.numpy(), *places[0])
    assert (label[chosen] != IGNORE).all()


def test_a_whole_class_is_every_pixel_of_it() -> None:
    _, label = view(0)
    pasting = CopyPaste(replace(DATA, copy_paste_whole=True), CLASSES)
    drawn = [pasting.region(label, np.random.default_rng(seed)) for seed in range(60)]
    assert {int(label[mask][0]) for mask in drawn if mask is not None} == {0, 1, 2}, (
        "every class, never what is ignored"
    )
    assert all(mask is not None and torch.equal(mask, label == label[mask][0]) for mask in drawn)


def test_only_named_classes_are_pasted() -> None:
    pasting = CopyPaste(replace(DATA, copy_paste_classes=("b",)), CLASSES)
    _, label = view(1)
    for seed in range(20):
        mask = pasting.region(label, np.random.default_rng(seed))
        assert mask is not None
        assert (label[mask] == 1).all()
    assert pasting.region(torch.full((4, 4), 2, dtype=torch.uint8), np.random.default_rng(0)) is None


@pytest.mark.parametrize(("onto_size", "source_size"), [((12, 10), (12, 10)), ((12, 10), (7, 15)), ((5, 6), (9, 4))])
def test_image_and_label_change_at_the_same_pixels(onto_size: tuple[int, int], source_size: tuple[int, int]) -> None:
    onto, source = view(2, *onto_size), view(3, *source_size)
    before = onto[0].clone(), onto[1].clone()
    pasting = CopyPaste(replace(DATA, copy_paste_whole=True), CLASSES)
    image, label = pasting.paste(onto, source, np.random.default_rng(4))
    assert torch.equal(onto[0], before[0]), "what was given stays as it was"
    assert torch.equal(onto[1], before[1])
    height, width = min(onto_size[0], source_size[0]), min(onto_size[1], source_size[1])
    chosen = pasting.region(source[1][:height, :width], np.random.default_rng(4))
    assert chosen is not None
    assert image.shape[1:] == label.shape == onto_size
    for row in range(onto_size[0]):
        for column in range(onto_size[1]):
            pasted = row < height and column < width and bool(chosen[row, column])
            giver = source if pasted else before
            assert label[row, column] == giver[1][row, column]
            assert torch.equal(image[:, row, column], giver[0][:, row, column])


def test_eight_bits_and_more_are_brought_to_one_scale() -> None:
    """A set may hold files of 8 and of 16 bits: 200 of 255 stays 200 / 255, and half stays half."""
    low = torch.full((3, 4, 4), 200, dtype=torch.uint8), torch.zeros(4, 4, dtype=torch.uint8)
    deep = torch.full((3, 4, 4), 0.5), torch.ones(4, 4, dtype=torch.uint8)
    pasting = CopyPaste(replace(DATA, copy_paste_whole=True), CLASSES)
    for onto, source, level in ((low, deep, 0.5), (deep, low, 200 / 255)):
        before = onto[0].clone()
        image, label = pasting.paste(onto, source, np.random.default_rng(0))
        torch.testing.assert_close(image, torch.full((3, 4, 4), level))
        assert torch.equal(label, source[1])
        assert torch.equal(onto[0], before)


def test_nothing_is_pasted_of_what_is_ignored() -> None:
    onto, source = view(0), (view(1)[0], torch.full((12, 10), IGNORE, dtype=torch.uint8))
    assert CopyPaste(DATA, CLASSES).paste(onto, source, np.random.default_rng(0)) is onto


@pytest.mark.parametrize("names", [("a", "nobody"), ()])
def test_names_must_be_in_the_table(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=facts("data.copy_paste_classes", "a, b, c", "None")):
        CopyPaste(replace(DATA, copy_paste_classes=names), CLASSES)
