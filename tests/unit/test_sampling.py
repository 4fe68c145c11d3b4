"""Which image a draw shows: epochs written out as loops, LVIS's factors and DAFormer's rarity by hand."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from semask.data.classes import Classes
from semask.data.dataset import TrainingFiles, classes_of, collate, training_set
from semask.data.pairs import find_pairs
from semask.data.sampling import ImageOrder, class_pixels, rarity, repeat_factors, shuffled
from semask.recipes.recipe import DataRecipe
from tests.facts import facts


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMASK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> DataRecipe:
    """Six images of class 0; the last one has a few pixels of class 1 and of what is ignored."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        for index in range(6):
            image, label = tmp_path / f"images/{split}/p{index}.png", tmp_path / f"labels/{split}/p{index}.png"
            for path in (image, label):
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(image)
            ids = np.zeros((20, 30), np.uint8)
            if index == 5:
                ids[3:5, 20:25] = 1
                ids[10] = 255
            Image.fromarray(ids).save(label)
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["most", "rare"]}))
    return DataRecipe(root=str(tmp_path), crop=(8, 8), cat_max_ratio=1.0)


def test_pixels_are_those_of_every_label(folder: DataRecipe) -> None:
    pixels = class_pixels(find_pairs(folder, "train"), folder, classes_of(folder))
    assert pixels.tolist() == [[600, 0]] * 5 + [[600 - 10 - 30, 10]]
    assert class_pixels(find_pairs(folder, "train"), folder, Classes.load("camvid"))[5, :2].tolist() == [560, 10]


def test_a_label_that_cannot_be_read_is_named(folder: DataRecipe) -> None:
    (Path(folder.root or "") / "labels/train/p3.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=facts(f"{folder.root}/labels/train/p3.png", "PNG")):
        class_pixels(find_pairs(folder, "train"), folder, classes_of(folder))


# --- repeat factors ----------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(1, 6), st.floats(0.01, 1.0), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_factors_are_those_of_the_paper(images: int, classes: int, threshold: float, seed: int) -> None:
    held = np.random.default_rng(seed).random((images, classes)) < 0.3
    got = repeat_factors(held * np.int64(7), threshold)
    for row, factor in zip(held, got, strict=True):
        wanted = [math.sqrt(threshold / (sum(other[c] for other in held) / images)) for c in range(classes) if row[c]]
        assert math.isclose(factor, max([1.0, *wanted]))


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.5])
def test_thresholds_are_shares(folder: DataRecipe, threshold: float) -> None:
    with pytest.raises(ValueError, match=facts("data.repeat_threshold", "(0, 1]", f"{threshold:g}")):
        training_set(replace(folder, repeat_threshold=threshold), seed=0)


def test_an_epoch_shows_each_image_as_often_as_its_factor() -> None:
    factors = np.array([1.0, 2.0, 3.25, 1.5])
    order = ImageOrder(4, seed=3, factors=factors)
    lengths = [int(order.repeats(epoch).sum()) for epoch in range(400)]
    total = np.zeros(4)
    for epoch, (end, length) in enumerate(zip(accumulate(lengths), lengths, strict=True)):
        shown = Counter(order.index(draw) for draw in range(end - length, end))
        assert all(math.floor(f) <= shown[i] <= math.ceil(f) for i, f in enumerate(factors)), epoch
        total += [shown[i] for i in range(4)]
    assert np.abs(total / 400 - factors).max() < 0.08, "the fraction is an epoch's chance"
    assert total[0] == 400
    assert total[1] == 800


def test_a_draw_does_not_depend_on_those_before() -> None:
    factors = np.random.default_rng(0).uniform(1, 3, 20)
    forwards, backwards = (ImageOrder(20, seed=1, factors=factors) for _ in range(2))
    drawn = [forwards.index(draw) for draw in range(300)]
    assert [backwards.index(draw) for draw in reversed(range(300))] == drawn[::-1]
    assert drawn != [ImageOrder(20, seed=2, factors=factors).index(draw) for draw in range(300)]


def test_factors_of_one_are_epochs_of_every_image_once() -> None:
    plain, ones = ImageOrder(7, seed=0), ImageOrder(7, seed=0, factors=np.ones(7))
    for order in (plain, ones):
        assert all(sorted(order.index(e * 7 + i) for i in range(7)) == list(range(7)) for e in range(5))
    assert [plain.index(draw) for draw in range(7, 14)] == shuffled(0, 1, 7).tolist()


def test_images_of_rare_classes_come_more_often(folder: DataRecipe) -> None:
    dataset = training_set(replace(folder, repeat_threshold=1.0), seed=0)
    assert isinstance(dataset, TrainingFiles)
    assert dataset.order.factors is not None
    assert np.allclose(dataset.order.factors, [1] * 5 + [math.sqrt(6)])
    names = Counter(dataset[draw].name for draw in range(300))
    assert 2.2 < names["p5"] / names["p0"] < 2.7


# --- rarity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_temperatures_are_positive(folder: DataRecipe, temperature: float) -> None:
    with pytest.raises(ValueError, match=facts("data.rare_temperature", f"{temperature:g}", 0.01)):
        training_set(replace(folder, rare_crops=0.5, rare_temperature=temperature), seed=0)


def test_rarity_is_that_of_the_paper() -> None:
    pixels = np.array([[90, 6, 0, 1], [0, 2, 0, 1]])
    shares = [0.9, 0.08, 0.0, 0.02]
    weights = [math.exp((1 - share) / 0.05) for share in shares]
    assert np.allclose(rarity(pixels, 0.05), np.array(weights) / sum(weights))
    assert np.allclose(rarity(pixels, 1e9), 0.25)
    assert rarity(pixels, 1e-9).tolist() == [0, 0, 1, 0], "nothing overflows"


def test_rare_crops_show_the_rare_class(folder: DataRecipe) -> None:
    plain, rare = (training_set(replace(folder, rare_crops=share), seed=0) for share in (0.0, 1.0))

    def shown(dataset: object) -> int:
        samples = [dataset[draw] for draw in range(120)]  # type: ignore[index]
        return sum(bool((sample.label == 1).any()) for sample in samples if sample.name == "p5")

    assert shown(rare) == 20
    assert shown(plain) < 15


def test_scenes_have_nothing_rare() -> None:
    for change in ({"rare_crops": 0.5}, {"repeat_threshold": 0.1}, {"copy_paste": 0.5}):
        with pytest.raises(
            ValueError, match=facts("--data.rare-crops 0", "--data.repeat-threshold None", "--data.copy-paste 0")
        ):
            training_set(DataRecipe(kind="scenes", **change), seed=0)


def test_workers_and_resuming_change_no_draw(folder: DataRecipe) -> None:
    data = replace(folder, rare_crops=0.5, repeat_threshold=1.0, copy_paste=0.5)
    draws = list(range(5, 21))

    def batches(workers: int) -> list[torch.Tensor]:
        loader = DataLoader(
            training_set(data, seed=0), batch_size=4, sampler=draws, num_workers=workers, collate_fn=collate
        )
        return [batch.images for batch in loader]

    one = torch.cat(batches(0))
    assert torch.equal(torch.cat(batches(2)), one)
    fresh = training_set(data, seed=0)
    assert torch.equal(torch.stack([fresh[draw].image for draw in draws[8:]]), one[8:])


def test_pasting_changes_no_other_chance(folder: DataRecipe) -> None:
    whole = replace(folder, crop=(20, 30))
    plain = training_set(whole, seed=0)
    pasted = training_set(replace(whole, copy_paste=1.0, copy_paste_classes=("rare",)), seed=0)
    same = sum(torch.equal(plain[draw].image, pasted[draw].image) for draw in range(60))
    assert 40 < same < 60, "a sixth of the images has something to paste; flips and colours are as without"
    assert all(torch.equal(pasted[draw].image, pasted[draw].image) for draw in range(10))
