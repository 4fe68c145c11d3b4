"""What to say when a published file does not fit a recipe."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from semask.checkpoints.rules.translation import Translation
from semask.recipes import Recipe

SHOWN = 5
"""Tensors of a kind that are named."""
_TABLE = "encoder.backbone.pos_embed"
_WITH_NO_OBJECT = "decoder.predictor.head.classify."
"""Mask classifiers have one class more there."""
_PATCHES = "encoder.backbone.patch_embed.proj.weight"


def differences(
    translation: Translation, wanted: Mapping[str, Tensor], fresh: Sequence[str] = ()
) -> tuple[list[str], list[str], list[str]]:
    """What is missing, unexpected and of another shape, in the file's names; missing tensors have ours only."""
    found, names = translation.tensors, translation.names
    missing = [key for key in wanted if key not in found]
    unexpected = [names.get(key, key) for key in found if key not in wanted]
    shapes = [
        _shapes(translation, key, value)
        for key, value in wanted.items()
        if key in found and key not in fresh and found[key].shape != value.shape
    ]
    return missing, unexpected, shapes


def _shapes(translation: Translation, key: str, wanted: Tensor) -> str:
    """Which shapes a tensor has: in the file, as it is understood where that differs, and in the recipe."""
    name, found = translation.names.get(key, key), translation.tensors[key]
    stored = translation.source.get(name, found)
    read = f", read as {tuple(found.shape)}" if stored.shape != found.shape else ""
    return f"{name}: file {tuple(stored.shape)}{read}, recipe {tuple(wanted.shape)}"


def explain(
    translation: Translation,
    wanted: Mapping[str, Tensor],
    *,
    class_tensors: re.Pattern[str],
    fresh: Sequence[str],
    fitting: Callable[[], str | None],
) -> str | None:
    """Why the file's tensors do not fill the wanted ones, None if they do.

    `fitting` names a recipe that they would fill; it is asked only when needed.
    """
    missing, unexpected, shapes = differences(translation, wanted, fresh)
    if not (missing or unexpected or shapes):
        return None
    recipe = translation.recipe
    lines = [f"the file ({len(translation.tensors)} tensors) does not fit the recipe {recipe.name!r}:"]
    for kind, which in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)):
        if which:
            more = f", and {len(which) - SHOWN} more" if len(which) > SHOWN else ""
            lines.append(f"  {len(which)} {kind}: {', '.join(which[:SHOWN])}{more}")
    lines += filter(None, (_class_counts(translation, class_tensors), _tables(translation.tensors, wanted, recipe)))
    name = fitting()
    if name is not None:
        lines.append(f"It fits the recipe {name!r}.")
    return "\n".join(lines)


def file_classes(tensors: Mapping[str, Tensor], class_tensors: re.Pattern[str]) -> int | None:
    """The class count of the file, None where no tensor tells."""
    found = ((key, len(value)) for key, value in tensors.items() if class_tensors.fullmatch(key) and value.ndim)
    return next((count - key.startswith(_WITH_NO_OBJECT) for key, count in found), None)


def _class_counts(translation: Translation, class_tensors: re.Pattern[str]) -> str | None:
    theirs, ours = file_classes(translation.tensors, class_tensors), translation.recipe.model.num_classes
    if theirs is None or theirs == ours:
        return None
    return (
        f"The file has {theirs} classes, the recipe {ours}: choose the recipe of its dataset, or pass "
        f"num_classes={ours} to keep all tensors but those that depend on the class count (num_classes={theirs} keeps "
        "them all)."
    )


def _tables(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], recipe: Recipe) -> str | None:
    """What position tables of other lengths mean."""
    size = getattr(recipe.model.encoder, "image_size", None)
    if size is None or any(key not in tensors for tensors in (found, wanted) for key in (_TABLE, _PATCHES)):
        return None
    if found[_TABLE].ndim != 3 or found[_PATCHES].ndim != 4:
        return None
    theirs, ours = found[_TABLE].shape[1], wanted[_TABLE].shape[1]
    if theirs == ours:
        return None
    patch = wanted[_PATCHES].shape[-1]
    extra = ours - (size[0] // patch) * (size[1] // patch)
    patch = found[_PATCHES].shape[-1]
    side = round(max(theirs - extra, 0) ** 0.5)
    images = f"images of {side * patch}×{side * patch}" if side * side == theirs - extra else "no square image"
    return (
        f"The file's position table has {theirs} rows, for {images}; the recipe's has {ours}, for image_size "
        f"{size[0]}×{size[1]}. Choose a recipe of the file's image size."
    )
