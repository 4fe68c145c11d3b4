"""Submissions hold the numbers that servers want, at the images' size, under the names they look for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image

from semask import recipes
from semask.checkpoints import store
from semask.checkpoints.predict import predict
from semask.data.classes import Classes
from semask.data.published.submission import FORMATS, Submission
from semask.models.build import build
from semask.recipes.prediction import PredictOptions
from tests.facts import facts, missing


@pytest.mark.parametrize(
    ("name", "read_by", "stem", "file"),
    [
        ("ade20k", "ade20k", "ADE_test_00000001", "ADE_test_00000001.png"),
        ("cityscapes", "cityscapes-labelids", "berlin/berlin_000000_000019_leftImg8bit", "berlin_000000_000019.png"),
        ("voc", "voc", "2008_000006", "results/VOC2012/Segmentation/comp6_test_cls/2008_000006.png"),
    ],
)
def test_what_is_written_reads_back_by_the_datasets_own_table(
    tmp_path: Path, name: str, read_by: str, stem: str, file: str
) -> None:
    table = Classes.load(FORMATS[name].table)
    labels = torch.randint(0, len(table), (31, 17))
    labels[0, 0], labels[0, 1] = 0, len(table) - 1
    path = Submission(name, table, tmp_path).write(stem, labels, size=(31, 17))
    assert path == tmp_path / file
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (17, 31))
        assert image.mode == ("P" if name == "voc" else "L")
        numbers = np.array(image)
        colours = np.array(image.convert("RGB"))
    assert np.array_equal(Classes.load(read_by).encode(numbers), labels.numpy())
    if name == "voc":
        assert np.array_equal(colours, np.array(table.colours)[labels.numpy()])


def test_numbers_of_the_servers(tmp_path: Path) -> None:
    """ADE20K counts from 1; Cityscapes has its label ids (torchvision's table); VOC counts the background as 0."""
    from torchvision.datasets import Cityscapes

    label_ids = [entry.id for entry in Cityscapes.classes if 0 <= entry.train_id < 19]
    for name, numbers in {"ade20k": range(1, 151), "cityscapes": label_ids, "voc": range(21)}.items():
        labels = torch.arange(len(numbers))[None]
        path = Submission(name, Classes.load(name), tmp_path).write("x", labels, size=(1, len(numbers)))
        with Image.open(path) as image:
            assert np.array(image).tolist() == [list(numbers)]


def test_what_a_server_would_refuse_is_refused_here(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=facts(11, "sky, building, pole", 19, "cityscapes")):
        Submission("cityscapes", Classes.load("camvid"), tmp_path)
    submission = Submission("voc", Classes.load("voc"), tmp_path)
    labels = torch.zeros(4, 5, dtype=torch.long)
    with pytest.raises(ValueError, match=facts("a", (4, 5), (5, 4))):
        submission.write("a", labels, size=(5, 4))
    for value in (21, 255, -1):
        labels[1, 1] = value
        with pytest.raises(ValueError, match=facts("a", value, 21, "0 … 20")):
            submission.write("a", labels, size=(4, 5))
    labels[1, 1] = 20
    submission.write("x/a", labels, size=(4, 5))
    submission.check_names(["x/a", "x/b"])
    with pytest.raises(ValueError, match=facts("'a'")):
        submission.check_names(["x/a", "x/b", "y/a"])
    assert missing(submission.summary(), 1, "voc", 1456) == []


def test_predict_writes_a_submission(tmp_path: Path) -> None:
    """Sub-folders are left, images keep their sizes, and numbers are those of the predictions."""
    micro = recipes.get_recipe("scenes/semask-micro-fpn")
    recipe = replace(micro, model=replace(micro.model, num_classes=19), data=replace(micro.data, classes="cityscapes"))
    classes = Classes.load("cityscapes")
    checkpoint = store.save(build(recipe), tmp_path / "checkpoint", classes=classes)
    for number, size in enumerate(((40, 56), (33, 47))):
        image = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        path = tmp_path / f"test/city{number}/c{number}_leftImg8bit.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(image).save(path)
    options = PredictOptions(out=tmp_path / "out", overlay=False, submission="cityscapes", device="cpu")
    sent_files = predict(checkpoint, tmp_path / "test", options=options).submission
    for number in range(2):
        with Image.open(tmp_path / f"out/submission/c{number}.png") as image:
            sent = np.array(image)
        with Image.open(tmp_path / f"out/predictions/city{number}/c{number}_leftImg8bit.png") as image:
            assert np.array_equal(sent, np.array(classes.ids)[np.array(image)])
    assert missing(sent_files, 2, "cityscapes", 1525) == []
    assert set(get_args(get_args(get_type_hints(PredictOptions)["submission"])[0])) == set(FORMATS)
    with pytest.raises(ValueError, match=facts(19, 150, "ade20k")):
        predict(checkpoint, tmp_path / "test", options=replace(options, submission="ade20k", overwrite=True))
