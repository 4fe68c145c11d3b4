"""Messages on published files that do not fit a recipe."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from semask.checkpoints.rules.translation import Translation
from semask.recipes import Recipe

SHOWN = 5
"""Number of tensors of a kind that a message names."""
_TABLE = "encoder.backbone.pos_embed"
_WITH_NO_OBJECT = "decoder.predictor.head.classify."
"""Its first axis has one entry more than classes, for "no object"."""
_PATCHES = "encoder.backbone.patch_embed.proj.weight"


def differences(
    translation: Translation, wanted: Mapping[str, Tensor], fresh: Sequence[str] = ()
) -> tuple[list[str], list[str], list[str]]:
    """Missing, unexpected and misshapen tensors by their names in the file; missing ones by our names."""
    found, names = translation.tensors, translation.names
    missing = [key for key in wanted if key not in found]
    unexpected = [names.get(key, key) for key in found if key not in wanted]
    shapes = []
    for key, value in wanted.items():
        if key in found and key not in fresh and found[key].shape != value.shape:
            # a rule may split or transpose: the shape in the file, and the shape after that where it differs
            name, read = names.get(key, key), tuple(found[key].shape)
            stored = tuple(translation.source.get(name, found[key]).shape)
            after = f", read as {read}" if stored != read else ""
            shapes.append(f"{name}: file {stored}{after}, recipe {tuple(value.shape)}")
    return missing, unexpected, shapes


def explain(
    translation: Translation,
    wanted: Mapping[str, Tensor],
    *,
    class_tensors: re.Pattern[str],
    fresh: Sequence[str],
    fitting: Callable[[], str | None],
) -> str | None:
    """Message on tensors of a file that do not fill the wanted ones, None if they do.

    `fitting` finds a recipe that they would fill; it runs only when needed.
    """
    missing, unexpected, shapes = differences(translation, wanted, fresh)
    if not (missing or unexpected or shapes):
        return None
    # the first tensors of each kind
    recipe = translation.recipe
    lines = [f"the file ({len(translation.tensors)} tensors) does not fit the recipe {recipe.name!r}:"]
    for kind, which in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)):
        if which:
            more = f", and {len(which) - SHOWN} more" if len(which) > SHOWN else ""
            lines.append(f"  {len(which)} {kind}: {', '.join(which[:SHOWN])}{more}")
    # the usual causes: another class count, another image size
    theirs, ours = file_classes(translation.tensors, class_tensors), recipe.model.num_classes
    if theirs is not None and theirs != ours:
        lines.append(
            f"The file has {theirs} classes, the recipe {ours}: choose the recipe of its dataset, or pass "
            f"num_classes={ours} to keep all tensors but those that depend on the class count (num_classes={theirs} "
            "keeps them all)."
        )
    lines += filter(None, [_tables(translation.tensors, wanted, recipe)])
    if (name := fitting()) is not None:
        lines.append(f"It fits the recipe {name!r}.")
    return "\n".join(lines)


def file_classes(tensors: Mapping[str, Tensor], class_tensors: re.Pattern[str]) -> int | None:
    """The class count of the file, None where no tensor depends on it."""
    found = ((key, len(value)) for key, value in tensors.items() if class_tensors.fullmatch(key) and value.ndim)
    return next((count - key.startswith(_WITH_NO_OBJECT) for key, count in found), None)


def _tables(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], recipe: Recipe) -> str | None:
    """Message on a position table of another length."""
    # tables of a plain ViT alone, from files that are not broken
    size = getattr(recipe.model.encoder, "image_size", None)
    if size is None or any(key not in tensors for tensors in (found, wanted) for key in (_TABLE, _PATCHES)):
        return None
    if found[_TABLE].ndim != 3 or found[_PATCHES].ndim != 4:
        return None
    theirs, ours = found[_TABLE].shape[1], wanted[_TABLE].shape[1]
    if theirs == ours:
        return None
    # rows besides the patches: class and distillation tokens
    patch = wanted[_PATCHES].shape[-1]
    extra = ours - (size[0] // patch) * (size[1] // patch)
    # the file's grid, if it is a square
    patch = found[_PATCHES].shape[-1]
    side = round(max(theirs - extra, 0) ** 0.5)
    images = f"images of {side * patch}×{side * patch}" if side * side == theirs - extra else "no square image"
    return (
        f"The file's position table has {theirs} rows, for {images}; the recipe's has {ours}, for image_size "
        f"{size[0]}×{size[1]}. Choose a recipe of the file's image size."
    )
