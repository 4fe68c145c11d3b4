"""The authors' published files as models of ours."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from semask.build import build_model, build_weightless, with_classes
from semask.checkpoints.mismatch import differences, explain, file_classes
from semask.checkpoints.rules import detectron2, segmenter, semask_fpn
from semask.checkpoints.rules.translation import Rule
from semask.checkpoints.variant import VARIANT, check_variant
from semask.data.classes import Classes
from semask.model import SegmentationModel
from semask.recipes import Recipe, get, names
from semask.weights import read_checkpoint, tensors_of

RULES: dict[str, Rule] = {
    "semantic_fpn": semask_fpn,
    "segmenter_linear": segmenter,
    "segmenter_mask": segmenter,
    "maskformer": detectron2,
    "mask2former": detectron2,
}
"""Rule file by decoder."""


class Conversion(NamedTuple):
    """A converted file.

    loaded: how many tensors were filled. fresh: tensors left at their random start because they depend on the class
    count. classes: names and colours, if the file carries them. layout: whose file it is, in words. variant: what was
    made of a variant.yml, None for layouts that have none.
    """

    model: SegmentationModel
    recipe: Recipe
    loaded: int
    fresh: tuple[str, ...]
    classes: Classes | None
    layout: str
    variant: str | None


def load_published(
    source: str | Path | Mapping[str, Any], recipe: str | Recipe, num_classes: int | None = None
) -> SegmentationModel:
    """Return the model of a published file or state dict, bare or wrapped, in evaluation mode.

    Every tensor must match; a ValueError counts those that do not. `num_classes` keeps all but the tensors that depend
    on the class count, which then start fresh.
    """
    return convert(source, recipe, num_classes).model


def convert(source: str | Path | Mapping[str, Any], recipe: str | Recipe, num_classes: int | None = None) -> Conversion:
    """Return the model of a published file together with what was done; the layout may change the recipe."""
    recipe = get(recipe) if isinstance(recipe, str) else recipe
    rule = _rule(recipe)
    if num_classes is not None:
        recipe = with_classes(recipe, num_classes)
    checkpoint = source if isinstance(source, Mapping) else read_checkpoint(source)
    tensors = tensors_of(checkpoint)
    translation = rule.translate(tensors, recipe)
    variant = None
    if translation.layout == segmenter.AUTHORS and not isinstance(source, Mapping):
        variant = _compare_variant(Path(source), recipe, any_classes=num_classes is not None)
    wanted = build_weightless(translation.recipe).state_dict()
    fresh = _fresh(translation.tensors, wanted, rule) if num_classes is not None else ()
    problem = explain(
        translation,
        wanted,
        class_tensors=rule.CLASS_TENSORS,
        fresh=fresh,
        fitting=lambda: fitting_recipe(tensors, recipe),
    )
    if problem is not None:
        raise ValueError(problem)
    kept = {key: value for key, value in translation.tensors.items() if key not in fresh}
    model = build_model(translation.recipe)
    model.load_state_dict(kept, strict=False)
    classes = None if fresh else _classes(checkpoint, recipe)
    return Conversion(model, translation.recipe, len(kept), fresh, classes, translation.layout, variant)


def fitting_recipe(tensors: Mapping[str, Tensor], recipe: Recipe) -> str | None:
    """Return the name of a recipe that a file fills, of the same dataset if its class count allows, else None."""
    dataset = recipe.name.partition("/")[0]
    for name in sorted(names(), key=lambda name: name.partition("/")[0] != dataset):
        candidate = get(name)
        rule = RULES.get(candidate.model.decoder.name)
        if rule is None:
            continue
        translation = rule.translate(tensors, candidate)
        if file_classes(translation.tensors, rule.CLASS_TENSORS) != candidate.model.num_classes:
            continue
        if not any(differences(translation, _tensors_named(name))):
            return name
    return None


@cache
def _tensors_named(name: str) -> dict[str, Tensor]:
    return build_weightless(get(name)).state_dict()


def _rule(recipe: Recipe) -> Rule:
    name = recipe.model.decoder.name
    if name not in RULES:
        raise ValueError(f"no published files are known for the decoder {name!r}; there are for: {', '.join(RULES)}")
    return RULES[name]


def _compare_variant(source: Path, recipe: Recipe, *, any_classes: bool) -> str:
    path = source.with_name(VARIANT)
    if not path.is_file():
        return f"There is no {VARIANT} beside it to compare the recipe with."
    check_variant(path, recipe, any_classes=any_classes)
    return f"The {VARIANT} beside it agrees on backbone, image size, normalisation, decoder and classes."


def _fresh(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], rule: Rule) -> tuple[str, ...]:
    return tuple(
        key
        for key, value in found.items()
        if key in wanted and rule.CLASS_TENSORS.fullmatch(key) and value.shape != wanted[key].shape
    )


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
