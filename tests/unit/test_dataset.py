import json
import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from semask.data.classes import Classes
from semask.data.dataset import TrainingFiles, classes_of, collate, share_of, training_set, validation_set
from semask.data.pairs import Pair
from semask.data.scenes.scene import SCENE_CLASSES, draw_scene
from semask.recipes.recipe import DataRecipe
from semask.structures import IGNORE, Sample
from tests.facts import facts

SCENES = DataRecipe(kind="scenes", scene_size=(48, 40), crop=(32, 32), cat_max_ratio=1.0, scene_count=3)


@pytest.fixture
def folder(tmp_path: Path) -> DataRecipe:
    """Seven images of different sizes, whose label files hold 10 and 20 for classes 0 and 1, and 30 to ignore."""
    random = np.random.default_rng(0)
    for split, count in (("train", 7), ("val", 2)):
        for index in range(count):
            size = (30 + index, 40 - index)
            image, label = tmp_path / f"images/{split}/p{index}.png", tmp_path / f"labels/{split}/p{index}.png"
            for path in (image, label):
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(image)
            Image.fromarray(random.choice(np.array([10, 20, 30], np.uint8), size)).save(label)
    table = {"classes": ["a", "b"], "labels": {"10": "a", "20": "b", "30": "ignore"}}
    (tmp_path / "classes.json").write_text(json.dumps(table))
    return DataRecipe(root=str(tmp_path), crop=(24, 24), scale_range=(0.5, 2.0))


def equal(one: Sample, other: Sample) -> bool:
    return torch.equal(one.image, other.image) and torch.equal(one.label, other.label) and one.name == other.name


# --- draws -------------------------------------------------------------------------------------------------------


def test_a_draw_number_decides_everything(folder: DataRecipe) -> None:
    for data in (folder, SCENES):
        one, other = training_set(data, seed=5), training_set(data, seed=5)
        backwards = {draw: other[draw] for draw in reversed(range(20))}
        assert all(equal(one[draw], backwards[draw]) for draw in range(20))
        assert not equal(one[0], training_set(data, seed=6)[0])
        assert not equal(one[0], one[1])


def test_workers_do_not_change_the_draws(folder: DataRecipe) -> None:
    draws = list(range(3, 15))

    def batches(workers: int) -> list[torch.Tensor]:
        loader = DataLoader(
            training_set(folder, seed=0), batch_size=4, sampler=draws, num_workers=workers, collate_fn=collate
        )
        return [batch.images for batch in loader]

    assert all(torch.equal(a, b) for a, b in zip(batches(0), batches(2), strict=True))


def test_every_epoch_shows_every_image_once_in_a_new_order(folder: DataRecipe) -> None:
    dataset = training_set(folder, seed=0)
    assert isinstance(dataset, TrainingFiles)
    epochs = [[dataset[draw].name for draw in range(start, start + 7)] for start in (0, 7, 14)]
    assert all(Counter(epoch) == Counter(f"p{i}" for i in range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_image_is_augmented_anew_every_epoch(folder: DataRecipe) -> None:
    dataset = training_set(folder, seed=0)
    again = [sample.image for sample in map(dataset.__getitem__, range(21)) if sample.name == "p0"]
    assert len(again) == 3
    assert not torch.equal(again[0], again[1])


def test_training_samples_have_the_crop_and_the_classes(folder: DataRecipe) -> None:
    for data, classes in ((folder, 2), (SCENES, 12)):
        for draw in range(10):
            image, label, _ = training_set(data, seed=0)[draw]
            assert image.shape == (3, *data.crop)
            assert label.shape == data.crop
            assert label.dtype == torch.uint8
            assert set(label.unique().tolist()) <= {*range(classes), IGNORE}


def test_the_mean_fills_the_padding(folder: DataRecipe) -> None:
    data = replace(folder, crop=(100, 100))
    sample = training_set(data, seed=0, mean=(0.5, 0.25, 0.75))[0]
    assert sample.image[:, -1, -1].tolist() == [0.5, 0.25, 0.75]


def test_smaller_shares_lie_within_larger_ones(folder: DataRecipe) -> None:
    whole = training_set(folder, seed=0)

    def share(fraction: float, seed: int = 0) -> set[str]:
        return {pair.stem for pair in training_set(replace(folder, fraction=fraction), seed=seed).pairs}

    shares = [share(fraction) for fraction in (1e-6, 0.3, 0.5, 0.8, 1.0)]
    assert [len(names) for names in shares] == [max(1, math.ceil(f * len(whole))) for f in (0, 0.3, 0.5, 0.8, 1)]
    assert all(small < large for small, large in pairwise(shares))
    hundred = [Pair(f"{i:03}", Path(), Path()) for i in range(100)]
    assert [len(share_of(hundred, count / 100, seed=0)) for count in range(1, 101)] == list(range(1, 101))
    assert len({frozenset(share(0.5, seed)) for seed in range(8)}) > 1
    assert len(validation_set(replace(folder, fraction=0.3))) == len(validation_set(folder))


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5, float("nan")])
def test_impossible_shares_are_refused(folder: DataRecipe, fraction: float) -> None:
    with pytest.raises(ValueError, match=facts("data.fraction", "(0, 1]", fraction)):
        training_set(replace(folder, fraction=fraction), seed=0)
    with pytest.raises(ValueError, match=facts("scenes", 0.5, "--data.fraction 1")):
        training_set(DataRecipe(kind="scenes", fraction=0.5), seed=0)


def test_negative_draws_are_refused(folder: DataRecipe) -> None:
    for data in (folder, SCENES):
        with pytest.raises(IndexError, match=facts(-1, 0)):
            training_set(data, seed=0)[-1]


# --- validation --------------------------------------------------------------------------------------------------


def test_validation_is_native_and_mapped(folder: DataRecipe) -> None:
    dataset = validation_set(folder)
    assert len(dataset) == 2
    root = Path(folder.root or "")
    for index in range(2):
        source = np.array(Image.open(root / f"labels/val/p{index}.png"))
        pixels = np.array(Image.open(root / f"images/val/p{index}.png"))
        sample = dataset[index]
        assert sample.name == f"p{index}"
        expected = np.select([source == 10, source == 20], [0, 1], IGNORE)
        assert (sample.label.numpy() == expected).all()
        torch.testing.assert_close(sample.image, torch.from_numpy(pixels).permute(2, 0, 1) / 255)


def test_validation_scenes_are_the_even_seeds() -> None:
    dataset = validation_set(SCENES)
    assert len(dataset) == 3
    assert len(list(dataset)) == 3, "iteration ends"
    image, label = draw_scene(4, (48, 40))
    torch.testing.assert_close(dataset[2].image, torch.from_numpy(image).permute(2, 0, 1) / 255)
    assert (dataset[2].label.numpy() == label).all()
    with pytest.raises(ValueError, match=facts("scene_count", 0, 1)):
        validation_set(replace(SCENES, scene_count=0))


def test_camvid_reads(camvid: Path) -> None:
    data = DataRecipe(root=str(camvid), classes="camvid", crop=(352, 352), scale_range=(0.5, 2.0))
    sample = validation_set(data)[0]
    assert sample.image.shape == (3, 360, 480)
    values = np.array(Image.open(camvid / "labels" / "val" / f"{sample.name}.png"))
    assert (sample.label.numpy() == np.where(values == 11, IGNORE, values)).all()
    assert training_set(data, seed=0)[1000].image.shape == (3, 352, 352)


def test_ade20k_reads(ade20k_mini: Path) -> None:
    data = DataRecipe(
        root=str(ade20k_mini), classes="ade20k", labels="annotations/{split}", image_suffix=".jpg",
        train_split="training", val_split="validation",
    )  # fmt: skip
    for sample in validation_set(data):
        values = np.array(Image.open(ade20k_mini / "annotations" / "validation" / f"{sample.name}.png"))
        assert (sample.label.numpy() == (values - 1)).all(), "uint8 turns 0 into 255"


# --- classes -----------------------------------------------------------------------------------------------------


def test_classes_come_from_the_recipe_the_root_or_the_scenes(folder: DataRecipe) -> None:
    assert classes_of(SCENES) == SCENE_CLASSES
    assert classes_of(folder).names == ("a", "b")
    assert classes_of(replace(folder, classes="camvid")) == Classes.load("camvid")


def test_labels_that_leave_their_meaning_open_are_refused(folder: DataRecipe) -> None:
    (Path(str(folder.root)) / "classes.json").unlink()
    label = next(Path(str(folder.root)).rglob("labels/**/*.png"))
    Image.fromarray(np.full((3, 3), 38, np.uint8)).save(label)
    with pytest.raises(ValueError, match=facts(38, "ade20k, camvid", "--data.classes", "--write-classes", folder.root)):
        classes_of(folder)


# --- batches and bad files -----------------------------------------------------------------------------------------


def test_collate_stacks_one_size_and_refuses_two(folder: DataRecipe) -> None:
    samples = [training_set(folder, seed=0)[draw] for draw in range(3)]
    batch = collate(samples)
    assert batch.images.shape == (3, 3, 24, 24)
    assert torch.equal(batch.labels[1], samples[1].label)
    assert batch.names == tuple(sample.name for sample in samples)
    with pytest.raises(ValueError, match=facts("p0 30×40", "p1 31×39")):
        collate([validation_set(folder)[0], validation_set(folder)[1]])


def test_reading_refuses_unknown_values_and_other_sizes(folder: DataRecipe) -> None:
    label = Path(folder.root or "") / "labels/val/p0.png"
    Image.fromarray(np.full((30, 40), 77, np.uint8)).save(label)
    with pytest.raises(ValueError, match=facts(label, 77, '"labels"')):
        validation_set(folder)[0]
    Image.fromarray(np.full((20, 40), 10, np.uint8)).save(label)
    with pytest.raises(ValueError, match=facts(label, "20×40", "30×40")):
        validation_set(folder)[0]


# --- decoded once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"value_range": (0.0, 200.0)}, {"rare_crops": 0.5}, {"copy_paste": 0.5}, {"antialias": True}]
)
def test_decoded_pairs_give_the_same_samples(
    folder: DataRecipe, changes: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMASK_CACHE", str(tmp_path / "cache"))
    data = replace(folder, **changes)
    kept, read = training_set(data, seed=3), training_set(data, seed=3)
    assert isinstance(kept, TrainingFiles)
    assert kept.keep_decoded(1.0)
    assert kept.decoded is not None
    place = kept.decoded.folder
    # workers share the files; every epoch is as without them
    for workers in (0, 2):
        found = DataLoader(kept, batch_size=None, sampler=range(30), num_workers=workers)
        assert all(equal(Sample(*sample), read[draw]) for draw, sample in enumerate(found))
        assert place.is_dir()
    assert len(list(place.glob("*.image.npy"))) == 7
    # files are decoded once
    before = kept[5]
    for pair in kept.pairs:
        Path(str(pair.image)).unlink()
    assert equal(kept[5], before)
    del kept, found
    assert not place.exists()


def test_what_does_not_fit_is_not_kept(folder: DataRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMASK_CACHE", str(tmp_path / "cache"))
    samples = training_set(folder, seed=0)
    assert isinstance(samples, TrainingFiles)
    assert not samples.keep_decoded(0)
    assert not samples.keep_decoded(1e-6)
    assert samples.decoded is None


def test_a_full_disk_and_killed_runs_cost_no_run(
    folder: DataRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMASK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    orphan = tmp_path / "semask-decoded-999999999-x"
    orphan.mkdir()
    samples = training_set(folder, seed=0)
    assert isinstance(samples, TrainingFiles)
    assert samples.keep_decoded(1.0)
    assert not orphan.exists()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.save", full)
    assert equal(samples[3], training_set(folder, seed=0)[3])


def test_deep_images_count_as_floats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMASK_CACHE", str(tmp_path / "cache"))
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for number in range(12):
        Image.fromarray(np.full((100, 100), 30_000, np.uint16)).save(tmp_path / f"images/{number}.png")
        Image.fromarray(np.zeros((100, 100), np.uint8)).save(tmp_path / f"labels/{number}.png")
    (tmp_path / "classes.json").write_text('{"classes": ["a", "b"]}')
    data = DataRecipe(root=str(tmp_path), images="images", labels="labels")
    samples = training_set(data, seed=0)
    assert isinstance(samples, TrainingFiles)
    stored = len(samples.pairs) * 100 * 100 * (3 * 4 + 1) / 2**30
    assert not samples.keep_decoded(0.99 * stored)
    assert samples.keep_decoded(1.01 * stored)
