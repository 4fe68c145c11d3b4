"""A record of an evaluation as a real one would look, drawn by chance."""

from typing import Any

import numpy as np
import torch

from semask.data.classes import Classes
from semask.structures import IGNORE
from semask.visualization.pages.images import GalleryImage


def fake_record(classes: Classes, seed: int = 0) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return a record and its arrays: the scores are those of the confusion matrix; the last class is nowhere."""
    random = np.random.default_rng(seed)
    count = len(classes)
    sizes = 10 ** random.uniform(4, 7, count)
    mixing = random.dirichlet(np.full(count, 0.05), count) * 0.35 + np.eye(count) * random.uniform(0.3, 2.5, (count, 1))
    confusion = (sizes[:, None] * mixing / mixing.sum(1, keepdims=True)).astype(np.int64)
    confusion[-1] = confusion[:, -1] = 0
    hit, truth, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore"):
        iou, accuracy, dice = hit / (truth + predicted - hit), hit / truth, 2 * hit / (truth + predicted)
    edge, edge_f = iou * random.uniform(0.6, 0.9, count), dice * random.uniform(0.6, 0.95, count)
    columns = {"iou": iou, "accuracy": accuracy, "dice": dice, "boundary_iou": edge, "boundary_f": edge_f}
    rows = [
        {"name": name, "pixels": int(truth[i]), **{key: _or_none(values[i]) for key, values in columns.items()}}
        for i, name in enumerate(classes.names)
    ]
    means = {"miou": iou, "macc": accuracy, "dice": dice, "boundary_iou": edge, "boundary_f": edge_f}
    scores: dict[str, Any] = {key: float(np.nanmean(values)) for key, values in means.items()}
    scores |= {"aacc": float(hit.sum() / truth.sum()), "fwiou": float(np.nansum(iou * truth) / truth.sum())}
    scores |= {"pixels": int(truth.sum()), "classes": rows}
    confidence = np.linspace(0.05, 0.95, 10)
    bins = [
        {"low": c - 0.05, "high": c + 0.05, "confidence": c, "accuracy": c**1.2 * 0.97, "pixels": int(1e5 * c**4)}
        for c in confidence.tolist()
    ]
    record = {
        "recipe": "fake/semask-swin-t-fpn",
        "checkpoint": {"path": "runs/fake/best", "sha256": "ab" * 32},
        "data": {"sha256": "cd" * 32, "split": "val"},
        "protocol": {
            "name": "semask-ss",
            "data": {"base_scale": [2048, 512]},
            "test": {"mode": "whole", "flip": False},
        },
        "images": 200,
        "seed": 0,
        "versions": {"python": "3.13.1", "torch": "2.13.0"},
        "hardware": "CPU, 1 thread",
        "seconds": 12.34,
        "scores": scores,
        "intervals": {
            **{key: [value - 0.012, value + 0.011] for key, value in scores.items() if isinstance(value, float)},
            "classes": [None if np.isnan(x) else [max(0.0, x - 0.04), min(1.0, x + 0.05)] for x in iou.tolist()],
        },
        "sizes": {
            "thresholds": [1024, 9216],
            "bins": [
                {"name": name, "miou": share, "macc": share + 0.1, "pixels": 10**power, "objects": 2500 // power}
                for name, share, power in (("small", 0.12, 5), ("medium", 0.31, 6), ("large", 0.52, 7))
            ],
        },
        "calibration": {"ece": 0.0312, "bins": bins},
    }
    image_miou = random.beta(6, 4, 200)
    image_miou[7] = np.nan
    names = np.array([f"street/{i:04}" for i in range(200)])
    return record, {"confusion": confusion, "image_names": names, "image_miou": image_miou}


def fake_gallery(classes: Classes, seed: int = 0) -> list[GalleryImage]:
    """Return three images of coloured blocks, with wrong ones among the predicted."""
    random = np.random.default_rng(seed)
    images = []
    for title, name, miou in (
        ("best", "street/0001", 0.93),
        ("median", "street/0100", 0.58),
        ("worst", "street/0007", 0.11),
    ):
        blocks = random.integers(0, len(classes), (6, 8))
        guessed = np.where(random.random(blocks.shape) < miou, blocks, random.integers(0, len(classes), blocks.shape))
        truth, prediction = (np.kron(each, np.ones((40, 40), np.int64)) for each in (blocks, guessed))
        truth[:10] = IGNORE
        colours = np.array([*classes.colours])[np.where(truth == IGNORE, 0, truth)] / 255
        image = np.clip(0.6 * colours + 0.2 + random.normal(0, 0.05, colours.shape), 0, 1).transpose(2, 0, 1)
        tensors = (torch.from_numpy(image).float(), torch.from_numpy(truth), torch.from_numpy(prediction))
        images.append(GalleryImage(title, name, miou, *tensors))
    return images


def fake_comparison(names: tuple[str, ...], seed: int = 0) -> dict[str, Any]:
    """Return a comparison of two runs; the last class is nowhere."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for name in names[:-1]:
        a, change, spread = random.uniform(0.2, 0.8), random.normal(0.01, 0.04), random.uniform(0.01, 0.03)
        rows.append({"name": name, "a": a, "b": a + change, "difference": [change, change - spread, change + spread]})
    rows.append({"name": names[-1], "a": None, "b": None, "difference": None})
    return {
        "a": {"recipe": "fake/swin-t-fpn", "path": "runs/a/metrics.json", "scores": {"miou": 0.412, "macc": 0.53}},
        "b": {
            "recipe": "fake/semask-swin-t-fpn",
            "path": "runs/b/metrics.json",
            "scores": {"miou": 0.423, "macc": 0.534},
        },
        "difference": {"miou": [0.011, 0.002, 0.021], "macc": [0.004, -0.006, 0.015], "aacc": [-0.002, -0.004, -0.001]},
        "classes": rows,
        "images": 200,
        "resamples": 2000,
    }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
