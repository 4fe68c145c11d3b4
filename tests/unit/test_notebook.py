"""Label maps and predictions show themselves in notebooks, and progress needs no widgets there."""

from __future__ import annotations

import copy
import pickle
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import semask
from semask.data.dataset import classes_of
from semask.models.model import SegmentationModel
from semask.ops.palette import label_png, palette
from semask.structures import IGNORE, LabelMap, MaskLogits, PixelLogits, Segmentation
from semask.text import Progress, console
from semask.training.progress import ProgressReport

RECIPE = semask.get_recipe("scenes/semask-micro-fpn")


def pixels(png: bytes) -> np.ndarray:
    return np.array(Image.open(BytesIO(png)).convert("RGB"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SegmentationModel:
    torch.manual_seed(1)
    made = semask.build(RECIPE)
    torch.nn.init.normal_(made.decoder.classify.weight, std=3.0)
    return semask.load(semask.save(made, tmp_path_factory.mktemp("best"), classes=classes_of(RECIPE.data)))


@pytest.fixture(scope="module")
def found(model: SegmentationModel) -> LabelMap:
    labels = model.predict(torch.rand(3, 300, 400))
    assert isinstance(labels, LabelMap)
    return labels


def test_predictions_show_the_colours_of_the_checkpoint(found: LabelMap) -> None:
    classes = classes_of(RECIPE.data)
    assert (found.names, found.colours) == (classes.names, classes.colours)
    assert np.array_equal(pixels(found._repr_png_()), np.array(classes.colours, np.uint8)[found.numpy()])
    assert len(found.unique()) > 2


def test_a_label_map_is_a_tensor_like_any_other(found: LabelMap, tmp_path: Path) -> None:
    plain = torch.from_numpy(found.numpy().copy())
    assert torch.equal(found, plain)
    assert (found.shape, found.dtype, found.tolist()) == (plain.shape, torch.uint8, plain.tolist())
    # results and copies are plain, and so are files, which need nothing of ours to be read
    torch.save(found, tmp_path / "labels.pt")
    copies = [
        *(pickle.loads(pickle.dumps(found)), copy.deepcopy(found), found.clone(), found[:], found.long().byte()),
        torch.load(tmp_path / "labels.pt", weights_only=True),
        torch.stack([found, found])[0],
    ]
    assert [type(each) for each in copies] == [torch.Tensor] * len(copies)
    assert all(torch.equal(each, plain) for each in copies)
    assert type(found == 3) is torch.Tensor
    assert repr(found[0, :3]) == repr(plain[0, :3])


def test_batches_are_shown_side_by_side_and_unknown_classes_in_numbered_colours(model: SegmentationModel) -> None:
    other = semask.build(RECIPE)
    labels = other.predict(torch.rand(2, 3, 256, 320))
    assert (labels.names, labels.colours) == ((), ())
    colours = np.array(palette(12), np.uint8)
    assert np.array_equal(pixels(labels._repr_png_()), np.concatenate([*colours[labels.numpy()]], axis=1))


def test_images_for_notebooks_have_a_size_to_look_at() -> None:
    labels = np.array([[[0, 1], [IGNORE, -1]]])
    shown = pixels(label_png(labels, palette(2)))
    assert shown.shape == (256, 256, 3)
    corners = [*palette(2), (0, 0, 0), (0, 0, 0)]
    assert [tuple(shown[y, x]) for y in (0, 255) for x in (0, 255)] == corners
    assert pixels(label_png(np.zeros((1, 3000, 10), np.uint8), palette(2))).shape == (1024, 3, 3)
    assert pixels(label_png(np.zeros((1, 3000, 1), np.uint8), palette(2))).shape == (1024, 1, 3)


def test_predictions_of_pixels_and_of_masks_show_their_best_class() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 5, 256, 256, generator=random)
    colours = np.array(palette(5), np.uint8)
    assert np.array_equal(pixels(Segmentation(PixelLogits(logits))._repr_png_()), colours[logits[0].argmax(0).numpy()])
    masks = MaskLogits(torch.randn(1, 7, 5, generator=random), torch.randn(1, 7, 256, 256, generator=random))
    best = masks.scores((256, 256))[0].argmax(0).numpy()
    assert np.array_equal(pixels(Segmentation(masks)._repr_png_()), colours[best])


def test_progress_in_a_notebook_is_lines_without_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """rich's bars warn of ipywidgets there."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("semask.text.SILENCE", 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert console().is_jupyter
        with Progress("reading", 3) as progress:
            assert [*progress.track("abc")] == ["a", "b", "c"]
            assert progress.bars is None
        report = ProgressReport(out=console())
        trainer = type("Trainer", (), {"global_step": 0, "max_steps": 3, "is_global_zero": True})()
        report.on_train_start(trainer, None)
        assert report.bars is None
