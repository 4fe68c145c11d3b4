"""Two evaluations of the same images by the same protocol: what differs, and whether that is more than chance."""

from __future__ import annotations

from typing import Any

import numpy as np

from semask.evaluation.metrics.bootstrap import RESAMPLES, Interval, differences, statistics
from semask.evaluation.metrics.confusion import null
from semask.evaluation.record import Record, limits, refuse_unlike


def compare(a: Record, b: Record, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Return the paired differences b - a of all means and of every class's IoU as JSON values.

    A difference is [value, low, high], the limits of its 95 % interval over resamples of the images, which both share.
    It is null where it is undefined. The interval says what other images would give, not what another training would.

    Raises:
        ValueError: the two are of different images, classes or protocols.
    """
    refuse_unlike(a, b)
    found = differences(b.counts, a.counts, resamples=resamples, seed=seed)
    values, interval = found.pop("iou")
    everything = np.ones((1, len(a.names)))
    ours, theirs = (statistics(record.counts, everything)["iou"][0].tolist() for record in (a, b))
    names = [row["name"] for row in a.values["scores"]["classes"]]
    return {
        "a": _told(a),
        "b": _told(b),
        "difference": {name: _ends(value, reach) for name, (value, reach) in found.items()},
        "classes": [
            {"name": name, "a": null(one), "b": null(other), "difference": _ends(value, Interval(low, high))}
            for name, one, other, value, low, high in zip(names, ours, theirs, values, *interval, strict=True)
        ],
        "images": len(a.names),
        "resamples": resamples,
        "seed": seed,
    }


def _told(record: Record) -> dict[str, Any]:
    scores = record.values["scores"]
    means = {name: value for name, value in scores.items() if name not in ("classes", "pixels")}
    return {"recipe": record.title, "path": str(record.path), "scores": means}


def _ends(value: np.ndarray, interval: Interval) -> list[float] | None:
    reach = limits(interval)
    return None if reach is None or null(float(value)) is None else [float(value), *reach]
