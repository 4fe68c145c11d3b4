"""Seams of windows: a model with a known receptive field shows them without overlap, and none with enough."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semask.inference import sliding
from semask.inference.seams import CELL, SeamMeter

REACH = 20
"""Half the receptive field of the model [px]."""
WINDOW = 96


def blurred(images: Tensor) -> Tensor:
    """Two classes by the mean of a box of 41 px, zeros beyond the window: wrong within 20 px of its border."""
    mean = F.avg_pool2d(images[:, :1], 2 * REACH + 1, stride=1, padding=REACH)
    return torch.cat([mean - 0.5, 0.5 - mean], dim=1)


def leading(images: Tensor) -> Tensor:
    """The same of the pixels above and to the left alone: where a window begins, all are zero."""
    padded = F.pad(images[:, :1], (REACH, 0, REACH, 0))
    mean = F.avg_pool2d(padded, REACH + 1, stride=1)
    return torch.cat([mean - 0.5, 0.5 - mean], dim=1)


def smooth(height: int = 300, width: int = 420) -> Tensor:
    """Brightness just above the threshold in the middle of broad waves, just below it elsewhere."""
    down, across = torch.meshgrid(torch.linspace(0, 9, height), torch.linspace(0, 13, width), indexing="ij")
    return (0.5 + 0.2 * torch.sin(down) * torch.sin(across) + 0.1)[None, None].repeat(1, 3, 1, 1)


def measured(stride: int, *, blend: str = "hann", valid_border: int = 0) -> tuple[SeamMeter, Tensor]:
    meter = SeamMeter()
    window = (WINDOW, WINDOW)
    predictor = sliding(
        blurred, window=window, stride=(stride, stride), blend=blend, meter=meter, valid_border=valid_border
    )
    return meter, torch.cat([strip.labels for strip in predictor.strips(smooth(), 70)], dim=1)[0]


def test_without_overlap_classes_jump_between_windows() -> None:
    meter = SeamMeter()
    predictor = sliding(leading, window=(WINDOW, WINDOW), stride=(WINDOW, WINDOW), meter=meter)
    strips = predictor.strips(smooth(3 * WINDOW, 4 * WINDOW), 70)
    labels = torch.cat([strip.labels for strip in strips], dim=1)[0]
    assert meter.share is None
    assert meter.overlap() is None
    # by brute force over the labels
    borders, others = [], []
    for axis in (0, 1):
        changes = labels.numpy().astype(int)
        changes = np.moveaxis(np.diff(changes, axis=axis) != 0, axis, 0)
        for index, line in enumerate(changes, start=1):
            (borders if index % WINDOW == 0 else others).append(line)
    jump = np.concatenate(borders).mean() - np.concatenate(others).mean()
    assert jump > 0.05
    assert meter.jump is not None
    assert abs(meter.jump - jump) < 1e-9


def test_the_suggested_overlap_hides_the_seams() -> None:
    whole = blurred(smooth()).argmax(dim=1)[0]
    # the suggestion comes from any overlap that shows how far borders disturb
    meter, _ = measured(WINDOW // 2)
    overlap = meter.overlap()
    assert overlap is not None
    assert 2 * REACH - 8 <= overlap <= 2 * REACH + 16
    _, seen = measured(WINDOW - overlap)
    _, few = measured(WINDOW - 8)
    # the middle of windows alone is right, and so is all of it with what windows do not know left out
    wrong = [float((labels != whole).float().mean()) for labels in (seen, few)]
    assert wrong[0] < 0.25 * wrong[1]
    _, exact = measured(WINDOW - 2 * REACH, valid_border=REACH)
    assert torch.equal(exact, whole)


def test_the_meter_counts_what_a_loop_counts() -> None:
    stride, image = 60, smooth(200, 210)
    meter = SeamMeter()
    predictor = sliding(blurred, window=(WINDOW, WINDOW), stride=(stride, stride), meter=meter)
    predictor.labels(image)
    height, width = image.shape[-2:]
    seen = [[[] for _ in range(width)] for _ in range(height)]
    for top in (0, 60, height - WINDOW):
        for left in (0, 60, width - WINDOW):
            best = blurred(image[..., top : top + WINDOW, left : left + WINDOW]).argmax(dim=1)[0]
            for row in range(WINDOW):
                for column in range(WINDOW):
                    seen[top + row][left + column].append(int(best[row, column]))
    shared = np.array([[len(each) > 1 for each in row] for row in seen])
    differing = np.array([[len({*each}) > 1 for each in row] for row in seen])
    assert meter.share is not None
    assert abs(meter.share - differing.sum() / shared.sum()) < 1e-9
    cell = np.s_[CELL : 2 * CELL, 2 * CELL : 3 * CELL]
    assert abs(meter.map()[1, 2] - differing[cell].sum() / shared[cell].sum()) < 1e-6


def test_a_meter_goes_on_from_its_state() -> None:
    whole, _ = measured(WINDOW // 2)
    first, second = SeamMeter(), SeamMeter()
    options = {"window": (WINDOW, WINDOW), "stride": (WINDOW // 2, WINDOW // 2), "blend": "hann"}
    strips = sliding(blurred, meter=first, **options).strips(smooth(), 70)
    next(strips)
    next(strips)
    second.restore(first.state())
    for _ in sliding(blurred, meter=second, **options).strips(smooth(), 70, top=140):
        pass
    assert second.state() == whole.state()
