"""The authors' published files as models of ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from semask.build import build_model, with_classes
from semask.checkpoints.rules import semask_fpn
from semask.data.classes import Classes
from semask.model import SegmentationModel
from semask.recipes import Recipe, get
from semask.weights import read_checkpoint, tensors_of

RULES = {"semantic_fpn": semask_fpn}
"""Rule file by decoder."""


class Conversion(NamedTuple):
    """A converted file.

    loaded: how many tensors were filled. fresh: tensors left at their random start because they depend on the class
    count. classes: names and colours, if the file carries them.
    """

    model: SegmentationModel
    recipe: Recipe
    loaded: int
    fresh: tuple[str, ...]
    classes: Classes | None


def load_published(
    source: str | Path | Mapping[str, Any], recipe_name: str, num_classes: int | None = None
) -> SegmentationModel:
    """Return the model of a published file or state dict, bare or wrapped, in evaluation mode.

    Every tensor must match; a ValueError lists those that do not. `num_classes` keeps all but the tensors that depend
    on the class count, which then start fresh.
    """
    return convert(source, recipe_name, num_classes).model


def convert(source: str | Path | Mapping[str, Any], recipe_name: str, num_classes: int | None = None) -> Conversion:
    """Return the model of a published file together with what was done."""
    recipe = get(recipe_name)
    if num_classes is not None:
        recipe = with_classes(recipe, num_classes)
    checkpoint = source if isinstance(source, Mapping) else read_checkpoint(source)
    rule = RULES[recipe.model.decoder.name]
    named = ((rule.rename(key), value) for key, value in tensors_of(checkpoint).items())
    found = {key: value for key, value in named if key is not None}
    model = build_model(recipe)
    fresh = _fresh(found, model, replace_classes=num_classes is not None, rule=rule)
    _check(found, model, fresh, recipe)
    model.load_state_dict({key: value for key, value in found.items() if key not in fresh}, strict=False)
    classes = None if fresh else _classes(checkpoint, recipe)
    return Conversion(model, recipe, len(found) - len(fresh), fresh, classes)


def _fresh(found: dict[str, Tensor], model: SegmentationModel, *, replace_classes: bool, rule: Any) -> tuple[str, ...]:
    if not replace_classes:
        return ()
    wanted = model.state_dict()
    return tuple(
        key
        for key, value in found.items()
        if key in wanted and rule.CLASS_TENSORS.fullmatch(key) and value.shape != wanted[key].shape
    )


def _check(found: dict[str, Tensor], model: SegmentationModel, fresh: tuple[str, ...], recipe: Recipe) -> None:
    wanted = model.state_dict()
    missing = [key for key in wanted if key not in found]
    unexpected = [key for key in found if key not in wanted]
    shapes = [
        f"{key}: file {tuple(found[key].shape)}, model {tuple(wanted[key].shape)}"
        for key in wanted
        if key in found and key not in fresh and found[key].shape != wanted[key].shape
    ]
    if not (missing or unexpected or shapes):
        return
    lines = [f"the file does not fit the recipe {recipe.name!r}:"]
    lines += [f"  missing: {key}" for key in missing]
    lines += [f"  unexpected: {key}" for key in unexpected]
    lines += [f"  other shape: {line}" for line in shapes]
    file_classes = found["decoder.classify.weight"].shape[0] if "decoder.classify.weight" in found else None
    if file_classes is not None and file_classes != recipe.model.num_classes:
        lines.append(
            f"The file has {file_classes} classes, the recipe {recipe.model.num_classes}: choose the recipe of its "
            f"dataset, or pass num_classes={recipe.model.num_classes} to keep all tensors but those that depend on the "
            f"class count (num_classes={file_classes} keeps them all)."
        )
    raise ValueError("\n".join(lines))


def _classes(checkpoint: Mapping[str, Any], recipe: Recipe) -> Classes | None:
    """Return the classes that the file speaks of.

    That is the recipe's packaged table, with its label map, unless the file names others in mmsegmentation's 'meta'.
    """
    packaged = Classes.load(recipe.data.classes) if recipe.data.classes is not None else None
    if packaged is not None and len(packaged) != recipe.model.num_classes:
        packaged = None
    meta = checkpoint.get("meta")
    names = meta.get("CLASSES") if isinstance(meta, Mapping) else None
    if not names or len(names) != recipe.model.num_classes:
        return packaged
    # mmsegmentation spells some names with blanks at the end
    names = [str(name).strip() for name in names]
    if packaged is not None and [n.casefold() for n in names] == [n.casefold() for n in packaged.names]:
        return packaged
    colours = meta.get("PALETTE") if isinstance(meta, Mapping) else None
    entries: list[dict[str, Any]] = [{"name": name} for name in names]
    if colours is not None and len(colours) == len(names):
        entries = [{**entry, "colour": list(colour)} for entry, colour in zip(entries, colours, strict=True)]
    return Classes.from_dict({"classes": entries})
