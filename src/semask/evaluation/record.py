"""The record of an evaluation: metrics.json for people and tables, metrics.npz with the counts of every image."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from semask.evaluation.counts import Tally, image_scores
from semask.evaluation.metrics.bootstrap import RESAMPLES, ImageCounts, Interval, intervals, statistics
from semask.evaluation.metrics.confusion import null
from semask.files import atomic_write, write_json

NAME = "metrics.json"
COUNTS = ("intersection", "predicted", "labelled")
NEEDED = (
    "recipe",
    "images",
    "checkpoint.sha256",
    "data.sha256",
    "data.split",
    "data.images",
    "protocol.name",
    "protocol.seen.flip",
    "scores.miou",
    "scores.classes",
)
"""What every record has, by its place; the rest depends on what was measured."""
MAX_TABLES = 2**30
"""The most that the arrays of a record may take [bytes]; a small archive can claim any size."""


class Record(NamedTuple):
    """An evaluation as it was written: where, the JSON values, the images' names, and their counts."""

    path: Path
    values: dict[str, Any]
    names: tuple[str, ...]
    counts: ImageCounts

    @property
    def title(self) -> str:
        """What tables call it: the recipe."""
        return str(self.values["recipe"])


def measured(tally: Tally, classes: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Return what was measured as JSON values: scores, sizes, calibration, and the 95 % intervals of the scores."""
    record = tally.to_dict(classes)
    if resamples:
        found = intervals(tally.image_counts(), resamples=resamples, seed=seed)
        iou = found.pop("iou")
        record["intervals"] = {
            **{name: limits(interval) for name, interval in found.items()},
            "classes": [limits(Interval(*ends)) for ends in zip(*iou, strict=True)],
            "resamples": resamples,
        }
    return record


def limits(interval: Interval) -> list[float] | None:
    """Return the limits for JSON; None where there are none."""
    low, high = float(interval.low), float(interval.high)
    return None if null(low) is None or null(high) is None else [low, high]


def arrays(tally: Tally) -> dict[str, np.ndarray]:
    """Return what metrics.npz holds: the confusion matrix (rows are the truth) and counts and mIoU of every image."""
    counts = tally.image_counts()
    return {
        "confusion": tally.confusion.matrix.numpy(),
        "image_names": np.array(tally.names()),
        "image_miou": image_scores(counts),
        **{name: part.astype(np.int32) for name, part in zip(COUNTS, counts, strict=True)},
    }


def write_record(path: Path, values: Mapping[str, Any], tables: Mapping[str, np.ndarray]) -> None:
    """Write the values to `path` and the arrays beside it as .npz, each whole or not at all."""
    with atomic_write(path.with_suffix(".npz")) as part, part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **tables)
    write_json(path, values)


def read_record(path: str | Path) -> Record:
    """Read a record by its .json, or that of a checkpoint by its folder; a ValueError tells what is wrong with it."""
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"there is no record {str(path)!r}; `semask evaluate CHECKPOINT` writes one")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is no record: it is not whole JSON ({error}); make it anew with the command that wrote it"
        ) from error
    if missing := [place for place in NEEDED if not _holds(values, place)]:
        raise ValueError(
            f"{path} is no record of an evaluation, or an old one; make it anew with `semask evaluate` (it has no "
            f"{missing[0]})"
        )
    table = path.with_suffix(".npz")
    try:
        names, counts = _read_counts(table)
        _refuse_foreign(values["scores"], names, counts)
    except (OSError, ValueError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{table}, the counts of the images that belong to {path.name}, cannot be read ({error}); keep the two "
            "together, or evaluate once more"
        ) from error
    return Record(path, values, names, counts)


def _holds(values: Any, place: str) -> bool:
    for key in place.split("."):
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


def _read_counts(table: Path) -> tuple[tuple[str, ...], ImageCounts]:
    """Read the names of the images and their counts from metrics.npz, or raise almost anything."""
    with zipfile.ZipFile(table) as archive:
        if sum(member.file_size for member in archive.infolist()) > MAX_TABLES:
            raise ValueError(f"it claims to hold more than {MAX_TABLES} bytes")
    with np.load(table, allow_pickle=False) as stored:
        return tuple(stored["image_names"].tolist()), ImageCounts(*(stored[name].astype(np.int64) for name in COUNTS))


def _refuse_foreign(scores: Mapping[str, Any], names: Sequence[str], counts: ImageCounts) -> None:
    """Raise a ValueError unless the counts give the scores: those of another evaluation would be told as this one's."""
    if any(part.shape != (len(names), len(scores["classes"])) for part in counts):
        raise ValueError(f"its counts are of {counts.labelled.shape} images and classes")
    found = float(statistics(counts, np.ones((1, len(names))))["miou"][0])
    told = scores["miou"]
    if math.isnan(found) != (told is None) or (told is not None and not math.isclose(found, told, abs_tol=1e-9)):
        raise ValueError("its counts are those of another evaluation")


def refuse_unlike(ours: Record, theirs: Record) -> None:
    """Raise a ValueError unless two records are of the same pictures, classes and protocol."""
    told = f"{ours.path} and {theirs.path} cannot be compared"
    if ours.values["data"]["sha256"] != theirs.values["data"]["sha256"] or ours.names != theirs.names:
        raise ValueError(
            f"{told}: they are of different data ({_data(ours)}; {_data(theirs)}); evaluate both on the same files "
            "with the same class table"
        )
    seen, other = (record.values["protocol"]["seen"] for record in (ours, theirs))
    if differing := [key for key in seen | other if seen.get(key) != other.get(key)]:
        listed = ", ".join(f"{key} {seen.get(key)} and {other.get(key)}" for key in differing)
        raise ValueError(
            f"{told}: their protocols differ ({listed}); evaluate both with the same --protocol or --test flags"
        )


def _data(record: Record) -> str:
    data = record.values["data"]
    return f"{data['images']} images of {data['split']}, sha256 {str(data['sha256'])[:12]}…"
