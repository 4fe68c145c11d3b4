"""The record of an evaluation: metrics.json for people and tables, metrics.npz with the counts of every image."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from semask.data.readers.archives import ZIP_ERRORS
from semask.evaluation.counts import MetricAccumulator
from semask.evaluation.metrics.bootstrap import RESAMPLES, ImageCounts, Interval, intervals, statistics
from semask.evaluation.metrics.confusion import null
from semask.evaluation.summary import never_predicted
from semask.files import atomic_write, write_json

NAME = "metrics.json"
COUNTS = ("intersection", "predicted", "labelled")
NEEDED = (
    *("recipe", "images", "checkpoint.sha256", "data.sha256", "data.split", "data.images", "protocol.name"),
    *("protocol.seen.flip", "scores.miou", "scores.classes"),
)
"""Places of the values that every record has; others depend on the measures."""
MAX_TABLES = 2**30
"""The most that the arrays of a record may take [bytes]; a small archive can claim any size."""
INPUT_SCALE = ("base_scale", "base_ratio", "antialias", "mode", "window", "stride")
"""Parts of a protocol that belong to a model: the size of its images."""


class Record(NamedTuple):
    """An evaluation as it was written: its file, the JSON values, the images' names, and their counts."""

    path: Path
    values: dict[str, Any]
    names: tuple[str, ...]
    counts: ImageCounts

    @property
    def title(self) -> str:
        """Title in tables: the recipe."""
        return str(self.values["recipe"])

    @property
    def run(self) -> str:
        """Name of the run's folder, or of the checkpoint's."""
        path = Path(str(self.values["checkpoint"].get("path", "")))
        return path.parent.name if path.name in ("best", "last") else path.name


def measured(
    accumulator: MetricAccumulator, classes: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Return all measures as JSON values: scores, sizes, calibration, and the 95 % intervals of the scores."""
    record = accumulator.to_dict(classes)
    record["never_predicted"] = [classes[index] for index in never_predicted(accumulator.confusion.matrix)]
    if resamples:
        # of the means, and of every class's IoU
        found = intervals(accumulator.image_counts(), resamples=resamples, seed=seed)
        iou = found.pop("iou")
        record["intervals"] = {
            **{name: limits(interval) for name, interval in found.items()},
            "classes": [limits(Interval(*ends)) for ends in zip(*iou, strict=True)],
            "resamples": resamples,
        }
    return record


def limits(interval: Interval) -> list[float] | None:
    """Return the limits for JSON; None where they are undefined."""
    low, high = float(interval.low), float(interval.high)
    return None if null(low) is None or null(high) is None else [low, high]


def arrays(accumulator: MetricAccumulator) -> dict[str, np.ndarray]:
    """Return the arrays of metrics.npz: the confusion matrix (rows are the truth), counts and mIoU of every image."""
    counts = accumulator.image_counts()
    return {
        "confusion": accumulator.confusion.matrix.numpy(),
        "image_names": np.array(sorted(accumulator.images)),
        "image_miou": counts.miou(),
        **{name: part.astype(np.int32) for name, part in zip(COUNTS, counts, strict=True)},
    }


def write_record(path: Path, values: Mapping[str, Any], tables: Mapping[str, np.ndarray]) -> None:
    """Write the values to `path` and the arrays beside it as .npz, each whole or not at all."""
    with atomic_write(path.with_suffix(".npz")) as part, part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **tables)
    write_json(path, values)


def read_record(path: str | Path) -> Record:
    """Read a record by its .json file, or by the folder of its checkpoint.

    Raises:
        ValueError: a file is missing or damaged, or the two are of different evaluations.
    """
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"there is no record {str(path)!r}; `semask evaluate CHECKPOINT` writes one")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not whole JSON ({error}); write it again with the command that wrote it"
        ) from error
    # values that tables and comparisons need
    for place in NEEDED:
        found = values
        for key in place.split("."):
            if not isinstance(found, dict) or key not in found:
                raise ValueError(f"{path} is no record of an evaluation: {place} is missing; rerun `semask evaluate`")
            found = found[key]
    _check_kinds(path, values)
    # counts of the images; a damaged archive raises almost anything
    table = path.with_suffix(".npz")
    try:
        with zipfile.ZipFile(table) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_TABLES:
                raise ValueError(f"it claims to hold more than {MAX_TABLES} bytes")
        with np.load(table, allow_pickle=False) as stored:
            names = tuple(stored["image_names"].tolist())
            counts = ImageCounts(*(stored[name].astype(np.int64) for name in COUNTS))
        _check_scores(values["scores"], names, counts)
    except (OSError, MemoryError, *ZIP_ERRORS) as error:
        raise ValueError(
            f"{table}, the counts of the images that belong to {path.name}, cannot be read ({error}); keep the two "
            "together, or evaluate again"
        ) from error
    return Record(path, values, names, counts)


def _check_kinds(path: Path, values: Mapping[str, Any]) -> None:
    """Check that the figures of tables are numbers or undefined, and that classes have names."""
    scores, sizes = values["scores"], values.get("sizes", {})
    try:
        figures = [value for name, value in scores.items() if name not in ("classes", "pixels")]
        figures += [row["iou"] for row in scores["classes"]]
        figures += [row["miou"] for row in sizes.get("bins", ())]
        figures += [*(values.get("intervals", {}).get("miou") or ()), values.get("calibration", {}).get("ece")]
        odd = [value for value in figures if value is not None and type(value) not in (int, float)]
        odd += [row["name"] for row in scores["classes"] if not isinstance(row["name"], str)]
    except (TypeError, AttributeError, KeyError) as error:
        odd = [error]
    if odd:
        raise ValueError(f"{path} is no record of an evaluation: {odd[0]!r} in its scores; rerun `semask evaluate`")


def _check_scores(scores: Mapping[str, Any], names: Sequence[str], counts: ImageCounts) -> None:
    """Check that the counts give the scores, so that those of another evaluation are not compared under this name."""
    if any(part.shape != (len(names), len(scores["classes"])) for part in counts):
        raise ValueError(f"its counts are of {counts.labelled.shape} images and classes")
    found = float(statistics(counts, np.ones((1, len(names))))["miou"][0])
    reported = np.nan if scores["miou"] is None else scores["miou"]
    if not np.isclose(found, reported, rtol=1e-9, atol=1e-9, equal_nan=True):
        raise ValueError(f"its counts give an mIoU of {found}, the record has {reported}")


def check_alike(ours: Record, theirs: Record) -> dict[str, tuple[Any, Any]]:
    """Check that two records are of the same images, classes and protocol; return how their input scales differ.

    Scale and windows belong to a model, since it learnt at that scale; several scales and flips are a protocol's.

    Raises:
        ValueError: they are not.
    """
    pair = f"{ours.path} and {theirs.path} cannot be compared"
    if ours.values["data"]["sha256"] != theirs.values["data"]["sha256"] or ours.names != theirs.names:
        described = "; ".join(
            f"{data['images']} images of {data['split']}, sha256 {str(data['sha256'])[:12]}…"
            for data in (ours.values["data"], theirs.values["data"])
        )
        raise ValueError(f"{pair}: their data differ ({described}); evaluate both on the same files and class table")
    # images as the models saw them
    seen, other = (record.values["protocol"]["seen"] for record in (ours, theirs))
    differing = {key: (seen.get(key), other.get(key)) for key in seen | other if seen.get(key) != other.get(key)}
    if protocol := {key: values for key, values in differing.items() if key not in INPUT_SCALE}:
        listed = ", ".join(f"{key} {one} and {two}" for key, (one, two) in protocol.items())
        flags = ", ".join(f"--test.{key}" for key in protocol)
        raise ValueError(f"{pair}: their protocols differ ({listed}); evaluate both with the same {flags}")
    return differing
