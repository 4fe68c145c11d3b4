"""Training that starts from another model: tensors that fit are taken over, rows of classes by their names.

Renamed classes, of the same number in a table of as many, keep their rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from semask.checkpoints.convert import translated_tensors
from semask.checkpoints.record import RECORD, WEIGHTS, read_record, require_checkpoint
from semask.checkpoints.store import fill, read_weights
from semask.data.classes import Classes
from semask.data.renamed import name_changes
from semask.models.build import build_on_meta
from semask.models.model import SegmentationModel

SHOWN = 8


class WarmStart(NamedTuple):
    """Tensors that were taken over, all tensors of the model, and the classes found in the source.

    known: by name. renamed: by number, where a table of as many classes has other names. new: of no class there.
    """

    source: Path
    taken: int
    total: int
    known: tuple[str, ...]
    renamed: tuple[str, ...]
    new: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.source}: {self.taken} of {self.total} tensors are taken over"
        if self.taken < self.total:
            text += ", the others start anew"
        listed = {
            "classes taken over by name": self.known,
            "renamed classes taken over by number": self.renamed,
            "new classes": self.new,
        }
        for title, names in listed.items():
            if names:
                more = f" … and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
                text += f"; {title}: {', '.join(names[:SHOWN])}{more}"
        return text


def start_from(model: SegmentationModel, source: Path, classes: Sequence[str]) -> WarmStart:
    """Fill a model of a recipe with all that fits of another: a checkpoint's folder, or a published file.

    Tensors fit by name and shape. Where a tensor has an axis of classes, found by building the model for one class
    more, its rows go to the classes of the same names. Where the counts agree, they go to the same numbers: without
    names, and for renamed classes where no class has the name of another.

    Raises:
        ValueError: The source cannot be read, or nothing of it fits.
    """
    assert model.recipe is not None
    # a run's folder stands for its best weights, and a file of weights for its folder
    if (source / "best" / WEIGHTS).is_file():
        source /= "best"
    elif source.name == WEIGHTS and source.with_name(RECORD).is_file():
        source = source.parent
    if (source / RECORD).is_file():
        require_checkpoint(source)
        record = read_record(source / RECORD)
        tensors: Mapping[str, Tensor] = read_weights(source)
        theirs = Classes.from_dict(record["classes"]).names if record.get("classes") else ()
    else:
        tensors, theirs = translated_tensors(source, model.recipe), ()
    wanted, count = model.state_dict(), model.num_classes
    larger = build_on_meta(model.recipe.override({"model.num_classes": count + 1})).state_dict()
    # numbers of the classes of both, ours and theirs
    numbers = {name.strip().casefold(): number for number, name in enumerate(theirs)}
    pairs = [(own, numbers[key]) for own, name in enumerate(classes) if (key := name.strip().casefold()) in numbers]
    changes = name_changes(theirs, classes)
    renamed = changes.renamed if len(theirs) == len(classes) and not changes.moved else ()
    known = tuple(classes[own] for own, _ in pairs)
    pairs = sorted([*pairs, *((number, number) for number in renamed)])
    found = {}
    for key in wanted.keys() & tensors.keys():
        own, value = wanted[key], tensors[key]
        axis = next((axis for axis, size in enumerate(own.shape) if size != larger[key].shape[axis]), None)
        if axis is None or not theirs:
            if value.shape == own.shape:
                found[key] = value
        elif own.select(axis, 0).shape == value.select(axis, 0).shape and pairs:
            # "no object" comes after the classes of a mask classifier
            extra = [(count + more, len(theirs) + more) for more in range(own.shape[axis] - count)]
            rows, origin = (torch.tensor(numbers) for numbers in zip(*pairs, *extra, strict=True))
            found[key] = own.index_copy(axis, rows, value.index_select(axis, origin).to(own.dtype))
    if not found:
        raise ValueError(
            f"nothing in {str(source)!r} fits {model.recipe.name}; give a checkpoint of the same encoder or decoder, "
            "or a published file of this architecture"
        )
    fill(model, found)
    taken = {own for own, _ in pairs}
    new = tuple(name for number, name in enumerate(classes) if number not in taken) if theirs else ()
    return WarmStart(source, len(found), len(wanted), known, tuple(classes[number] for number in renamed), new)
