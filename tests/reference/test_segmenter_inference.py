"""Segmenter's sliding windows, flips and scales against the authors' code: sizes, windows, logits, probabilities."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from semask.checkpoints.convert import load_published
from semask.inference import Pipeline, rescaled, sliding, tta
from semask.models.model import SegmentationModel
from tests.reference.synthetic_weights import FIXTURES, arrays, checkpoint, synthetic_image

NAME = "segmenter/seg_t_mask_16_sliding"
META = json.loads((FIXTURES / f"{NAME}.meta.json").read_text(encoding="utf-8"))
WINDOW, STRIDE = META["window"], META["stride"]
LOGITS, PROBABILITIES = 1e-4, 1e-5
"""Tolerances; probabilities of 150 classes are small."""


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    return load_published(checkpoint(NAME), "ade20k/seg-t-mask-16")


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    return arrays(NAME)


@pytest.fixture(scope="module")
def image(model: SegmentationModel) -> Tensor:
    """The fixture scales its normalised image; ours is scaled first, which is the same but for rounding."""
    normalised = synthetic_image(**{key: value for key, value in META["input"].items() if key != "fn"})
    return normalised * model.std + model.mean


def windows(source: SegmentationModel | Pipeline) -> Pipeline:
    return sliding(source, window=(WINDOW, WINDOW), stride=(STRIDE, STRIDE), batch_size=META["batch_size"])


def several_scales(source: Pipeline, **options: bool) -> Pipeline:
    # The fixture rounds the sides of its scaled images. A box that is a pixel longer than the image gives these sizes
    # too: the short side binds.
    return tta(source, box=(138, 100), ratios=META["ratios"], enlarge_to=WINDOW, **options)


CASES: dict[str, Callable[[Pipeline], Pipeline]] = {
    "single": lambda source: tta(source, ratios=(1.0,), enlarge_to=WINDOW),
    "flip": lambda source: tta(source, ratios=(1.0,), flip=True, enlarge_to=WINDOW),
    "ms": lambda source: several_scales(source, flip=True),
    # Its truth is of another size than the image that the model is given.
    "ori": lambda source: (
        lambda images: F.interpolate(
            rescaled(source, enlarge_to=WINDOW)(images), META["ori2"], mode="bilinear"
        ).softmax(1)
    ),
}


def test_every_case_is_covered() -> None:
    assert set(CASES) == set(META["cases"])


@pytest.mark.parametrize("case", list(CASES))
def test_probabilities(model: SegmentationModel, stored: dict[str, np.ndarray], image: Tensor, case: str) -> None:
    with torch.inference_mode():
        probabilities = CASES[case](windows(model))(image)[0]
    assert list(probabilities.shape[1:]) == META["cases"][case]["ori_shape"]
    y, x = stored[f"{case}_points"].T
    np.testing.assert_allclose(probabilities[:, y, x].T.numpy(), stored[f"{case}_probs"], rtol=0, atol=PROBABILITIES)
    ours, theirs = probabilities.argmax(0).numpy(), stored[f"{case}_argmax"]
    best, second = probabilities.topk(2, dim=0).values.numpy()
    assert np.array_equal(ours[best - second > 2e-6], theirs[best - second > 2e-6])
    assert (ours == theirs).mean() > 0.999


@pytest.mark.parametrize("case", list(CASES))
def test_sizes_and_windows(case: str) -> None:
    """An image that tells where each of its pixels is, so that the windows themselves tell where they lie."""
    seen: list[tuple[tuple[int, int], list[list[int]]]] = []

    def watch(images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        rows = torch.arange(height, dtype=torch.float32)[:, None].expand(height, width)
        columns = torch.arange(width, dtype=torch.float32).expand(height, width)
        anchors: list[list[int]] = []

        def read(crops: Tensor) -> Tensor:
            assert crops.shape[-2:] == (WINDOW, WINDOW)
            assert len(crops) <= META["batch_size"]
            anchors.extend([int(crop[0, 0, 0]), int(crop[1, 0, 0])] for crop in crops)
            return crops

        seen.append(((height, width), anchors))
        return windows(read)(torch.stack((rows, columns, rows))[None])

    height, width = META["input"]["height"], META["input"]["width"]
    CASES[case](watch)(torch.rand(1, 3, height, width))
    expected = [(tuple(version["resized"]), version["anchors"]) for version in META["cases"][case]["inputs"]]
    assert seen == expected


def test_scaled_sizes_before_enlarging() -> None:
    seen: list[list[int]] = []

    def watch(images: Tensor) -> Tensor:
        seen.append(list(images.shape))
        return images

    tta(watch, box=(138, 100), ratios=META["ratios"], flip=True)(torch.rand(1, 3, 100, 137))
    assert seen == [version["shape"] for version in META["cases"]["ms"]["inputs"]]


def test_logits_of_the_first_window(model: SegmentationModel, stored: dict[str, np.ndarray], image: Tensor) -> None:
    y, x = stored["single_points"][:8].T % WINDOW
    with torch.inference_mode():
        logits = model.scores(image[..., :WINDOW, :WINDOW])[0, :, y, x].T
    np.testing.assert_allclose(logits.numpy(), stored["single_window0_logits_points"], rtol=0, atol=LOGITS)
