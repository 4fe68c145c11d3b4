"""The predict command on pictures of every kind, with a checkpoint of random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semask import recipes
from semask.checkpoints import store
from semask.checkpoints.predict import predict
from semask.cli import main as cli
from semask.cli.predict import Flags, parse
from semask.inference import build_predictor, build_prior, sliding
from semask.inference.colours import numbered_classes, overlay
from semask.inference.sources import find_items, unique_names
from semask.models.build import build
from semask.models.model import SegmentationModel
from semask.ops.lazy_scores import LazyScores
from tests.facts import facts, missing


@pytest.fixture
def picture() -> np.ndarray:
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((90, 60), Image.Resampling.BICUBIC))


def labels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.array(image)


def expected(checkpoint: Path, picture: np.ndarray, *, prior: bool = False) -> np.ndarray:
    model, recipe, _ = store.load(checkpoint)
    predictor = (build_prior if prior else build_predictor)(model, recipe.test, recipe.data)
    with torch.inference_mode():
        scores = predictor(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)
    return scores[0].argmax(0).numpy()


def test_a_picture_becomes_labels_overlay_and_prior(checkpoint: Path, picture: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(picture).save(tmp_path / "street.png")
    summary = predict(checkpoint, tmp_path / "street.png", out=tmp_path / "out", prior=True, alpha=0.7)
    assert (summary.done, summary.failed, summary.skipped) == (1, {}, {})
    files = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*/*.*"))
    assert files == ["overlays/street.jpg", "predictions/street.png", "priors/street.png"]

    found = labels(tmp_path / "out/predictions/street.png")
    assert len(np.unique(found)) > 2, "a constant map would hide mistakes"
    assert np.array_equal(found, expected(checkpoint, picture))
    assert np.array_equal(labels(tmp_path / "out/priors/street.png"), expected(checkpoint, picture, prior=True))
    image = torch.from_numpy(picture).permute(2, 0, 1) / 255
    mixed = overlay(image, torch.from_numpy(found), numbered_classes(12), alpha=0.7).permute(1, 2, 0).numpy()
    shown = np.array(Image.open(tmp_path / "out/overlays/street.jpg"))
    assert np.abs(shown.astype(int) - mixed.astype(int)).mean() < 6, "JPEG loses little"


def test_overlays_of_chosen_classes_with_outlines_and_legend(
    checkpoint: Path, picture: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(picture).resize((720, 480)).save(tmp_path / "a.png")
    base = ["predict", str(checkpoint), str(tmp_path / "a.png"), "--out", str(tmp_path / "o")]

    def shown(*flags: str) -> np.ndarray:
        assert cli.main([*base, *flags, "--overwrite"]) == 0
        return np.array(Image.open(tmp_path / "o/overlays/a.jpg")).astype(int)

    plain = shown("--alpha", "0", "--legend", "false")
    image = np.array(Image.open(tmp_path / "a.png")).astype(int)
    assert np.abs(plain - image).mean() < 3
    found = labels(tmp_path / "o/predictions/a.png")
    index = int(np.bincount(found.ravel()).argmax())
    # one class alone, in its colour
    only = shown("--alpha", "1", "--legend", "false", "--only", f"class {index}")
    colour = np.array(numbered_classes(12).colours[index])
    assert np.median(np.abs(only - colour)[found == index]) <= 2
    assert np.abs(only - image)[found != index].mean() < 12
    # lines alone, and the legend in the lower left corner
    lines = np.abs(shown("--alpha", "0", "--outline", "3", "--legend", "false") - plain).max(-1) > 30
    assert 0.01 < lines.mean() < 0.8
    legend = np.abs(shown("--alpha", "0") - plain).max(-1) > 30
    assert legend[240:, :360].any()
    assert not legend[:100].any()
    assert cli.main([*base, "--only", "tree", "--overwrite"]) == 2
    # names of another table of the same classes
    names = ["tree" if number == index else f"class {number}" for number in range(12)]
    table = tmp_path / "classes.json"
    table.write_text(json.dumps({"classes": [{"name": name, "colour": "#0000ff"} for name in names]}))
    named = shown("--alpha", "1", "--legend", "false", "--only", "tree", "--data.classes", str(table))
    assert np.median(np.abs(named - [0, 0, 255])[found == index]) <= 2
    table.write_text(json.dumps({"classes": names[1:]}))
    assert cli.main([*base, "--data.classes", str(table), "--overwrite"]) == 2


def test_overlays_can_be_left_out(checkpoint: Path, picture: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert (
        cli.main(
            ["predict", str(checkpoint), str(tmp_path / "a.png"), "--out", str(tmp_path / "o"), "--overlay", "false"]
        )
        == 0
    )
    assert [path.name for path in (tmp_path / "o").iterdir() if path.is_dir()] == ["predictions"]


def test_pictures_of_every_kind_come_out_right(checkpoint: Path, picture: np.ndarray, tmp_path: Path) -> None:
    """Files that hold the same picture in other forms give the same labels; a grey one those of its RGB form."""
    source = tmp_path / "in"
    source.mkdir()
    image = Image.fromarray(picture)
    image.save(source / "plain.png")
    image.convert("RGBA").save(source / "alpha.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # shown turned by 90° to the right
    image.rotate(90, expand=True).save(source / "exif.png", exif=turned)
    image.convert("L").save(source / "grey.png")
    deep = np.array(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(source / "deep.png")

    assert predict(checkpoint, source, out=tmp_path / "out", overlay=False).done == 5
    found = {path.stem: labels(path) for path in (tmp_path / "out" / "predictions").iterdir()}
    plain, grey = expected(checkpoint, picture), expected(checkpoint, np.array(image.convert("L").convert("RGB")))
    assert not np.array_equal(plain, grey)
    for name in ("plain", "alpha", "exif"):
        assert np.array_equal(found[name], plain), name
    for name in ("grey", "deep"):
        assert np.array_equal(found[name], grey), name


def test_a_folder_keeps_its_paths_and_skips_what_is_no_picture(
    checkpoint: Path, picture: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    (source / "berlin").mkdir(parents=True)
    image = Image.fromarray(picture)
    image.save(source / "berlin" / "a.png")
    image.save(source / "a.png")
    image.save(source / "a.jpg")
    (source / "notes.txt").write_text("no picture")
    (source / "broken.png").write_bytes((source / "a.png").read_bytes()[:200])
    (source / ".hidden.png").write_bytes(b"")
    for _ in range(2):  # the second run must not take the first one's results for pictures
        status = cli.main(["predict", str(checkpoint), str(source), "--out", str(source), "--overwrite"])
        assert status == 1  # broken.png
        told = capsys.readouterr()
        assert missing(told.out, 3, 2, 1) == []
        assert [told.err.count(name) for name in ("notes.txt", "broken.png")] == [1, 1]
        assert "hidden" not in told.err
    written = sorted(str(path.relative_to(source / "predictions")) for path in (source / "predictions").rglob("*.png"))
    assert written == ["a.jpg.png", "a.png.png", "berlin/a.png"]


def test_a_picture_that_cannot_fill_a_window_spares_the_others(
    checkpoint: Path, picture: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(picture).save(tmp_path / "in" / "a.png")
    Image.fromarray(picture[:1]).resize((5000, 1)).save(tmp_path / "in" / "line.png")
    windows = [
        "--test.mode=sliding",
        "--test.window",
        "512",
        "512",
        "--test.stride",
        "512",
        "512",
        "--test.enlarge",
        "true",
    ]
    place = ["predict", str(checkpoint), str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert cli.main([*place, *windows]) == 1
    told = capsys.readouterr()
    assert missing(told.out, 1, tmp_path / "out") == []
    assert missing(told.err.replace("\n", " "), "line.png", "1×5000", "512×2560000") == []
    assert labels(tmp_path / "out/predictions/a.png").shape == (60, 90)


def test_what_cannot_be_predicted_is_told(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    picture, notes, nothing, out = (tmp_path / name for name in ("a.png", "notes.txt", "nothing", "o"))
    Image.new("RGB", (9, 9)).save(picture)
    cases: list[tuple[list[object], list[object]]] = [
        ([repr(str(nothing))], [checkpoint, nothing, "--out", out]),
        ([1, repr(str(notes))], [checkpoint, notes, "--out", out]),
        ([repr(str(tmp_path)), "recipe.json", "model.safetensors"], [tmp_path, notes, "--out", out]),
        (["--alpha", "[0, 1]", 2], [checkpoint, tmp_path, "--out", out, "--alpha", 2]),
        (["--out", repr(str(picture))], [checkpoint, picture, "--out", picture]),
        (["--test.batch-size", 1, 0], [checkpoint, picture, "--out", out, "--test.batch-size", 0]),
    ]
    for told, arguments in cases:
        assert cli.main(["predict", *map(str, arguments)]) == 2
        assert missing(capsys.readouterr().err.replace("\n", " "), *told) == []
    assert not (tmp_path / "o").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=facts(repr(str(tmp_path / "empty")))):
        find_items([tmp_path / "empty"])


def test_a_prior_needs_semantic_layers(tmp_path: Path, picture: np.ndarray) -> None:
    recipe = recipes.get_recipe("scenes/micro-fpn")
    store.save(build(recipe), tmp_path / "checkpoint")
    Image.fromarray(picture).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=facts("scenes/micro-fpn", "--prior")):
        predict(tmp_path / "checkpoint", tmp_path / "a.png", out=tmp_path / "out", prior=True)


def test_result_names_never_meet() -> None:
    def names(*files: str) -> list[str]:
        return unique_names(files)

    assert names("a.jpg", "b/a.jpg") == ["a", "b/a"]
    assert names("a.jpg", "a.png", "b.png") == ["a.jpg", "a.png", "b"]
    assert names("a.jpg", "A.png") == ["a.jpg", "A.png"]
    assert names("a.jpg", "a.png", "a.jpg.gif") == ["a.jpg", "a.png", "a.jpg.gif"]


def test_large_pictures_can_be_taken_window_by_window(
    checkpoint: Path, picture: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    bands = SegmentationModel.lazy_scores

    def watching(model: SegmentationModel, images: torch.Tensor) -> LazyScores:
        seen.append(tuple(images.shape[-2:]))
        return bands(model, images)

    monkeypatch.setattr(SegmentationModel, "lazy_scores", watching)
    Image.fromarray(picture).save(tmp_path / "a.png")
    place = ["predict", str(checkpoint), str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert cli.main(place) == 0
    whole = labels(tmp_path / "out/predictions/a.png")
    assert seen == [(60, 90)]
    seen.clear()
    windows = [
        "--test.mode",
        "sliding",
        "--test.window",
        "32",
        "48",
        "--test.stride",
        "28",
        "42",
        "--test.batch-size=1",
    ]
    assert cli.main([*place, *windows, "--overwrite"]) == 0
    assert seen == [(32, 48)] * 4
    found = labels(tmp_path / "out/predictions/a.png")
    model = store.load(checkpoint).model
    predictor = sliding(model, window=(32, 48), stride=(28, 42))
    with torch.inference_mode():
        truth = predictor(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)[0].argmax(0).numpy()
    assert np.array_equal(found, truth)
    assert not np.array_equal(found, whole)


def test_windows_of_another_size_than_the_training_crop_are_told(
    checkpoint: Path, picture: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.fromarray(picture).save(tmp_path / "a.png")
    place = ["predict", str(checkpoint), str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    windows = ["--test.mode", "sliding", "--test.stride", "64", "64", "--test.window"]
    assert cli.main([*place, *windows, "128", "128"]) == 0
    assert caplog.messages == []
    assert cli.main([*place, *windows, "96", "64", "--overwrite"]) == 0
    [message] = caplog.messages
    assert missing(message, "96×64", "128×128") == []


def test_a_photograph_that_is_made_small_before_it_is_cut_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where windows were asked for: who did not ask expects none."""
    recipe = recipes.get_recipe("folder/semask-micro-fpn")
    store.save(build(recipe), tmp_path / "whole")
    recipe = replace(recipe, test=replace(recipe.test, mode="sliding"))
    store.save(build(recipe), tmp_path / "sliding")
    (tmp_path / "pictures").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (800, 600)).save(tmp_path / "pictures" / f"{name}.jpg")
    for run, told in (("whole", 1), ("sliding", 0)):
        flags = ["--out", str(tmp_path / f"out {run}"), "--test.mode", "sliding"]
        assert cli.main(["predict", str(tmp_path / run), str(tmp_path / "pictures"), *flags]) == 0
        text = capsys.readouterr().err
        for fact in ("512×512", "a.jpg", "--test.scales 3.1"):
            assert text.count(fact) == told
        assert (text.count("600×800"), text.count("192×256")) == (1, 1)
        assert "b.jpg" not in text


def test_test_flags_begin_at_the_checkpoints_recipe(tmp_path: Path) -> None:
    recipe = recipes.get_recipe("scenes/semask-micro-fpn")
    recipe = replace(recipe, test=replace(recipe.test, mode="sliding", window=(64, 48), flip=True))
    store.save(build(recipe), tmp_path)
    settings = parse(["--overlay", "false", "--out", "o", str(tmp_path), "a.png", "--test.stride", "9", "8"])
    assert settings.test == replace(recipe.test, stride=(9, 8))
    assert (settings.checkpoint, settings.images) == (tmp_path, ("a.png",))
    assert settings.run == Flags(out=Path("o"), overlay=False)
    assert parse([str(tmp_path), "a.png", "--out", "o", "--test.flip=false"]).test.flip is False


def test_memory_that_is_not_enough_is_told_with_what_helps(
    checkpoint: Path, picture: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(picture).save(tmp_path / "a.png")

    def too_much(self: SegmentationModel, images: torch.Tensor) -> torch.Tensor:
        return torch.empty(2**60, dtype=torch.uint8)  # torch itself says so

    monkeypatch.setattr(SegmentationModel, "lazy_scores", too_much)
    with pytest.raises(ValueError, match=facts(1, repr(str(tmp_path / "a.png")), "--test.mode sliding")):
        predict(checkpoint, tmp_path / "a.png", out=tmp_path / "out")


@pytest.mark.parametrize("links", [1, 2, 5])
def test_links_that_lead_nowhere_are_failures(
    checkpoint: Path, picture: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str], links: int
) -> None:
    source = tmp_path / "in"
    (source / "x").mkdir(parents=True)
    Image.fromarray(picture).save(source / "m.png")
    Image.fromarray(picture).save(source / "x/z.png")
    (source / "notes.txt").write_text("no picture")
    lost = [source / name for name in ("a.png", "x/b.jpg", "circle.png", "y", "zz.tif")[:links]]
    for path in lost:
        path.symlink_to(path.name if path.stem == "circle" else tmp_path / "gone" / path.name)
    (source / ".hidden.png").symlink_to(tmp_path / "gone")
    assert cli.main(["predict", str(checkpoint), str(source), "--out", str(tmp_path / "out")]) == 1
    shown = capsys.readouterr()
    assert missing(shown.err, *lost) == []
    assert ".hidden" not in shown.err
    assert missing(shown.out, 2, links, links + 1) == [], "images, failures, and files without a result"
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert written == ["predictions/m.png", "predictions/x/z.png"]


@pytest.mark.parametrize(
    ("name", "cut", "status"),
    [("b.png", True, 1), ("b.bin", True, 1), ("b.jpg", False, 1), ("B.TIF", False, 1), ("b.txt", False, 0)],
)
def test_broken_images_are_failures_and_other_files_are_not(
    checkpoint: Path, picture: np.ndarray, tmp_path: Path, name: str, cut: bool, status: int
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(picture).save(source / "a.png")
    (source / name).write_bytes((source / "a.png").read_bytes()[:200] if cut else b"no image" * 20)
    assert cli.main(["predict", str(checkpoint), str(source), "--out", str(tmp_path / "out")]) == status
    assert (tmp_path / "out" / "predictions" / "a.png").is_file()


def test_an_image_too_long_for_a_jpeg_has_its_overlay(checkpoint: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((1, 65_535, 3), 90, np.uint8)).save(tmp_path / "long.png")
    assert cli.main(["predict", str(checkpoint), str(tmp_path / "long.png"), "--out", str(tmp_path / "out")]) == 0
    with Image.open(tmp_path / "out" / "overlays" / "long.png") as overlaid:
        assert overlaid.size == (65_535, 1)


def test_images_of_another_depth_than_the_models_are_named_once(
    checkpoint: Path, picture: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    grey = np.array(Image.fromarray(picture).convert("L")).astype(np.uint16)
    for name, factor in (("a", 16), ("b", 16), ("c", 257)):
        Image.fromarray(grey * factor).save(tmp_path / "in" / f"{name}.png")
    assert cli.main(["predict", str(checkpoint), str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
    warned = capsys.readouterr().err
    assert missing(warned, tmp_path / "in/a.png", "data.value_range") == []
    assert (warned.count("b.png"), warned.count("c.png")) == (0, 0)
    # whole range: no word
    assert cli.main(["predict", str(checkpoint), str(tmp_path / "in/c.png"), "--out", str(tmp_path / "c")]) == 0
    assert "value_range" not in capsys.readouterr().err
