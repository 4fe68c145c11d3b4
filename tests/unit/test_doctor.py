"""A good data set is fit; one with every fault we know is not, and each fault is reported by file with its cure."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from semask.data.checks.doctor import diagnose
from semask.data.checks.fingerprint import fingerprint
from semask.recipes import get_recipe
from semask.recipes.recipe import DataRecipe
from semask.training.automatic import Machine, fit_recipe
from tests.facts import facts, missing
from tests.unit.doctored import NAMES, SIZE, leaked, look, messages_of, out_of_range, put, put_good, scene


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return put_good(tmp_path / "data")


# --- what is right -----------------------------------------------------------------------------------------------


def test_a_good_data_set_is_fit_and_counted(root: Path) -> None:
    found = look(root)
    assert found.errors == ()
    assert [issue.kind for issue in found.warnings] == ["classes"]
    assert missing(str(found.warnings[0]), "rare", 5, "0.001%") == []
    labels = [np.array(Image.open(path)) for path in sorted((root / "labels/train").iterdir())]
    pixels = [sum(int((label == index).sum()) for label in labels) for index in range(4)]
    assert found.training.counts.pixels.tolist() == pixels
    assert found.training.counts.images.tolist() == [6, 6, 6, 1]
    assert [len(split.pairs) for split in found.splits] == [6, 2]


def test_statistics_are_those_of_all_training_pixels(root: Path) -> None:
    image, label = scene(50, (20, 90))
    put(root, "train/other", image, label)
    stack = np.concatenate([np.array(Image.open(p)).reshape(-1, 3) for p in (root / "images/train").iterdir()]) / 255
    statistics = look(root).statistics
    assert statistics is not None
    np.testing.assert_allclose(statistics.mean, stack.mean(0), rtol=1e-9)
    np.testing.assert_allclose(statistics.std, stack.std(0), rtol=1e-9)


def test_statistics_of_many_bands_of_sixteen_bits(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    bands = random.integers(0, 65536, (3, 5, 16, 20), dtype=np.uint16)
    for index, (split, stored) in enumerate(zip(("train", "train", "val"), bands, strict=True)):
        put(tmp_path, f"{split}/p{index}", np.zeros((16, 20, 3), np.uint8), scene(index, (16, 20))[1])
        (tmp_path / f"images/{split}/p{index}.jpg").unlink()
        tifffile.imwrite(tmp_path / f"images/{split}/p{index}.tif", stored, photometric="minisblack")
    (tmp_path / "classes.json").write_text(json.dumps({"classes": [*NAMES]}))
    found = diagnose(DataRecipe(root=str(tmp_path), channels=5))
    assert found.errors == ()
    assert found.statistics is not None
    np.testing.assert_allclose(found.statistics.mean, (bands[:2] / 65535).mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found.statistics.std, (bands[:2] / 65535).std((0, 2, 3)), rtol=1e-5)


# --- what is wrong -----------------------------------------------------------------------------------------------


def truncated(root: Path) -> None:
    path = root / "images/train/train0.jpg"
    path.write_bytes(path.read_bytes()[:600])


def without_label(root: Path) -> None:
    (root / "labels/train/train0.png").unlink()


def without_validation(root: Path) -> None:
    shutil.rmtree(root / "images/val")


def turned(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(scene(0)[0]).save(root / "images/train/train0.jpg", exif=exif)


def counted_from_one(root: Path) -> None:
    for path in (root / "labels").rglob("*.png"):
        Image.fromarray(np.array(Image.open(path)) + np.uint8(1)).save(path)


def nothing_labelled(root: Path) -> None:
    for path in (root / "labels").rglob("*.png"):
        Image.fromarray(np.full(SIZE, 255, np.uint8)).save(path)


@pytest.mark.parametrize(
    ("damage", "kind", "wanted"),
    [
        (truncated, "unreadable", ("images/train/train0.jpg",)),
        (without_label, "split", (1, "train0.jpg", "labels/train/train0.png")),
        (without_validation, "split", ("images/val",)),
        (turned, "size", ("labels/train/train0.png", "40×56", "56×40", "EXIF")),
        (out_of_range, "values", ("labels/train/train0.png", 77, 6)),
        (counted_from_one, "zero", (4, 0)),
        (leaked, "leak", ("images/val/again.jpg", "'val'")),
        (nothing_labelled, "ignored", ("100.0%",)),
    ],
)  # fmt: skip
def test_what_makes_training_fail_is_an_error(
    root: Path, damage: Callable[[Path], None], kind: str, wanted: tuple[object, ...]
) -> None:
    damage(root)
    found = look(root)
    assert any(missing(each, *wanted) == [] for each in messages_of(found.errors, kind)), found.errors
    assert {issue.kind for issue in found.errors} <= {kind, "values"}


def test_what_can_be_read_is_looked_at_all_the_same(root: Path) -> None:
    out_of_range(root)
    (root / "labels/train/train4.png").unlink()
    (root / "labels/val/val1.png").rename(root / "labels/val/val9.png")
    found = look(root)
    assert [issue.kind for issue in found.errors] == ["split", "split", "values"]
    assert [len(split.pairs) for split in found.splits] == [5, 1]


def test_another_class_count_than_the_model_has(root: Path) -> None:
    [issue] = look(root, num_classes=19).errors
    assert missing(str(issue), 4, 19, "--model.num-classes 4") == []
    assert look(root, num_classes=4).errors == ()


def test_a_single_class_cannot_be_trained(root: Path) -> None:
    for path in (root / "labels").rglob("*.png"):
        Image.fromarray(np.zeros_like(np.array(Image.open(path)))).save(path)
    (root / "classes.json").write_text('{"classes": ["thing"]}')
    [issue] = look(root).errors
    assert missing(str(issue), 1, 2) == []


def test_statistics_of_faint_bands_are_not_rounded_to_nothing(root: Path) -> None:
    for path in (root / "images/train").iterdir():
        image = np.array(Image.open(path))
        image[..., 2] = 0
        image[0, 0, 2] = 1
        path.unlink()
        Image.fromarray(image).save(path.with_suffix(".png"))
    flags = look(root).statistics_flags().split()
    assert 0 < float(flags[3]) < 1e-5
    assert 0 < float(flags[-1]) < 1e-3


def test_like_images_are_warned_of(root: Path) -> None:
    Image.open(root / "images/train/train2.jpg").resize((48, 36)).save(root / "images/val/smaller.jpg", quality=90)
    Image.fromarray(scene(2, (36, 48))[1]).save(root / "labels/val/smaller.png")
    shutil.copy(root / "images/train/train3.jpg", root / "images/train/copy.jpg")
    shutil.copy(root / "labels/train/train4.png", root / "labels/train/copy.png")
    found = look(root)
    assert found.errors == ()
    first, second = found.duplicates
    assert (first.first.stem, first.second.stem, first.splits, first.leak) == (
        "train2",
        "smaller",
        ("train", "val"),
        True,
    )
    assert first.distance is not None
    assert (second.first.stem, second.second.stem, second.distance, second.same_label) == (
        "copy",
        "train3",
        None,
        False,
    )
    assert missing(messages_of(found.warnings, "leak")[0], "smaller.jpg", "'val'", "train2.jpg") == []
    assert missing(messages_of(found.warnings, "duplicate")[0], "copy.jpg", "train3.jpg") == []


def test_every_split_is_read(root: Path) -> None:
    put(root, "test/new", *scene(300))
    put(root, "test/again", np.array(Image.open(root / "images/train/train1.jpg")), scene(1)[1])
    shutil.copy(root / "images/train/train1.jpg", root / "images/test/again.jpg")
    put(root, "test/unlabelled", scene(301)[0], None)
    found = look(root)
    assert [(split.name, len(split.pairs)) for split in found.splits] == [("train", 6), ("val", 2), ("test", 2)]
    assert found.training.name == "train"
    assert found.splits[2].counts.pixels.sum() == 2 * SIZE[0] * SIZE[1]
    # a leak into the test split is as bad as one into validation, a missing label there is not
    assert [issue.kind for issue in found.errors] == ["leak"]
    assert missing(str(found.errors[0]), "again.jpg", "'test'", "train1.jpg", "'train'") == []
    assert missing(messages_of(found.warnings, "split")[0], "unlabelled.jpg") == []
    assert {*found.to_dict()["splits"]} == {"train", "val", "test"}


def test_a_table_is_proposed_from_the_two_splits_of_training(root: Path) -> None:
    (root / "classes.json").unlink()
    image, label = scene(300)
    label[0] = 9
    put(root, "test/new", image, label)
    found = look(root)
    assert found.proposal is not None
    assert len(found.proposal.classes) == 4
    assert missing(messages_of(found.errors, "values")[0], "new.png", 9) == []


def test_odd_images_are_warned_of(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(root, "train/black", np.zeros((*SIZE, 3), np.uint8), scene(7)[1])
    put(root, "train/tiny", scene(8)[0][:10], scene(8)[1][:10])
    exif = Image.Exif()
    exif[0x0112] = 2
    Image.fromarray(scene(1)[0]).save(root / "images/train/train1.jpg", exif=exif)
    monkeypatch.setattr("semask.data.checks.set_heuristics.LARGE_AREA", SIZE[0] * SIZE[1] - 1)
    found = look(root)
    assert found.errors == ()
    assert any("black.jpg" in each for each in messages_of(found.warnings, "flat"))
    extents = messages_of(found.warnings, "extent")
    assert any(missing(each, "tiny.jpg", "10×56", 32) == [] for each in extents)
    assert any(missing(each, "train2.jpg", "40×56") == [] for each in extents)
    assert missing(messages_of(found.warnings, "orientation")[0], "train1.jpg", "EXIF", 2) == []


def test_classes_that_training_does_not_see_are_named(root: Path) -> None:
    (root / "classes.json").write_text(json.dumps({"classes": [*NAMES, "unicorn", "dragon"]}))
    Image.fromarray(scene(5)[1]).save(root / "labels/train/train5.png")
    label = scene(100)[1]
    label[0, 0] = 3
    Image.fromarray(label).save(root / "labels/val/val0.png")
    messages = messages_of(look(root).warnings, "classes")
    assert missing(messages[0], "rare") == []
    assert missing(messages[1], 2, "unicorn, dragon") == []


@pytest.mark.parametrize(("kept", "few"), [(4, True), (5, False)])
def test_few_images_are_one_warning_of_the_set(root: Path, kept: int, few: bool) -> None:
    for index in range(6 - kept):
        for path in (root / f"images/train/train{index}.jpg", root / f"labels/train/train{index}.png"):
            path.unlink()
    # one image holds the class of nine pixels
    [message] = messages_of(look(root).warnings, "classes")
    assert missing(message, *((kept, 5) if few else ("rare", 5))) == []
    assert ("rare" in message) is not few


def test_weights_that_training_chooses_by_itself_are_given(root: Path) -> None:
    own = diagnose(DataRecipe(root=str(root), classes_from_data=True))
    data = replace(own.data, classes_from_data=False)
    assert replace(own, data=data).own_weights() == "", "published recipes choose nothing"
    weights = fit_recipe(
        get_recipe("folder/semask-lite0-fpn"),
        fingerprint(own.data, own.classes),
        Machine(False, 16.0),
        names=own.classes.names,
    ).recipe
    assert weights.loss.class_weights is not None
    listed = " ".join(f"{weight:g}" for weight in weights.loss.class_weights)
    assert missing(own.own_weights(), "semask train", listed, f"{weights.data.rare_crops:.0%}") == []
    # without the rare class nothing is weighed
    Image.fromarray(scene(5)[1]).save(root / "labels/train/train5.png")
    assert missing(diagnose(own.data).own_weights(), "semask train", "5%") == []


def test_options_out_of_range_are_refused_before_anything_is_read(root: Path) -> None:
    with pytest.raises(ValueError, match=facts("beta", "[0, 1)", 1)):
        look(root, beta=1.0)
    with pytest.raises(ValueError, match=facts("distance", "0 … 64", 65)):
        look(root, distance=65)
    with pytest.raises(ValueError, match=facts("workers", 1, 0, "None")):
        look(root, workers=0)


def test_the_same_error_of_both_splits_is_one_issue(root: Path) -> None:
    for path in [*(root / "labels").rglob("*.png")]:
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    with pytest.raises(ValueError, match=facts("'train'", "'val'", "--data.label-suffix _mask.png")) as caught:
        look(root)
    assert str(caught.value).count("--data.label-suffix _mask.png") == 1
    shutil.rmtree(root / "labels")
    with pytest.raises(ValueError, match=facts("'train'", "'val'", root / "labels")) as caught:
        look(root)
    assert str(caught.value).count("images/train/*.jpg") == 1


def test_no_pair_at_all_is_wrong_input(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(json.dumps({"classes": [*NAMES]}))
    with pytest.raises(ValueError, match=facts(tmp_path / "images/train", tmp_path, "images/train/*.jpg")):
        look(tmp_path)


def test_images_of_fewer_bits_than_their_files(tmp_path: Path) -> None:
    """Twelve bits in files of sixteen: augmentation would turn them black."""
    random = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 1)):
        for index in range(count):
            paths = put(tmp_path, f"{split}/{index}", *scene(index + 9 * (split == "val")), suffix=".png")
            Image.fromarray(random.integers(0, 4000, (40, 56)).astype(np.uint16)).save(paths[0])
    (tmp_path / "classes.json").write_text(json.dumps({"classes": [*NAMES]}))
    data = DataRecipe(root=str(tmp_path), channels=1)
    [message] = messages_of(diagnose(data).warnings, "bands")
    assert missing(message, "6.10%", 3999, 65535, "--data.value-range 0 4095") == []
    assert messages_of(diagnose(replace(data, value_range=(0.0, 4095.0))).warnings, "bands") == []


def test_a_fourth_channel_taken_for_transparency(root: Path) -> None:
    image, label = scene(42)
    for name, alpha in (("opaque", np.full(label.shape, 255, np.uint8)), ("infrared", label)):
        put(root, f"train/{name}", np.dstack([image, alpha]), label, suffix=".png")
    [message] = messages_of(look(root).warnings, "bands")
    assert missing(message, "infrared.png", 1, 10, "--data.channels 4") == []
