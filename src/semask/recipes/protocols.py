"""The papers' test protocols by name: what a recipe's data and test become under each.

Scales are of the recipe's own base scale, windows of its own crop: those are parts of a dataset's recipe, not of a
protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from semask.recipes.recipe import DataRecipe, Recipe, TestRecipe
from semask.recipes.segmenter import OVERLAP

RATIOS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""Of the base scale, each with and without a horizontal flip, in every paper's multi-scale test."""

Protocol = tuple[DataRecipe, TestRecipe]


def _semask(recipe: Recipe) -> Protocol:
    """Return the whole image at the base scale, without antialiasing (SeMask FPN, mmsegmentation)."""
    test = replace(recipe.test, mode="whole", scales=(1.0,), flip=False, enlarge=False)
    return replace(recipe.data, antialias=False), test


def _segmenter(recipe: Recipe) -> Protocol:
    """Return windows of the crop's size, 32 px of overlap, smaller images enlarged to fill one."""
    height, width = recipe.data.crop
    test = replace(
        recipe.test,
        mode="sliding",
        window=recipe.data.crop,
        stride=(max(1, height - OVERLAP), max(1, width - OVERLAP)),
        scales=(1.0,),
        flip=False,
        blend="mean",
        enlarge=True,
    )
    return replace(recipe.data, antialias=False), test


def _mask2former(recipe: Recipe) -> Protocol:
    """Return the whole image at the base scale, resized with antialiasing (detectron2, by Pillow)."""
    data, test = _semask(recipe)
    return replace(data, antialias=True), test


def _several(single: Callable[[Recipe], Protocol]) -> Callable[[Recipe], Protocol]:
    def protocol(recipe: Recipe) -> Protocol:
        data, test = single(recipe)
        return data, replace(test, scales=RATIOS, flip=True)

    return protocol


PROTOCOLS: dict[str, Callable[[Recipe], Protocol]] = {
    "semask-ss": _semask,
    "semask-ms": _several(_semask),
    "segmenter-ss": _segmenter,
    "segmenter-ms": _several(_segmenter),
    "mask2former-ss": _mask2former,
    "mask2former-ms": _several(_mask2former),
}
"""Names of the papers' protocols; ss is one scale, ms several with flips.

Source: SeMask's code (mmsegmentation's whole mode, `aug_test`); Segmenter's (`eval/miou.py`); MaskFormer's and
Mask2Former's (`SemanticSegmentorWithTTA`). Differs: there the long side may have 4480 px (ADE20K) or 4096 px
(Cityscapes) at every scale, here the base scale's times the ratio; sizes differ for images more than four, or two,
times as long as wide.
"""


def with_protocol(recipe: Recipe, name: str) -> Recipe:
    """Return the recipe tested by a protocol; a ValueError names the nearest one."""
    if name not in PROTOCOLS:
        near = get_close_matches(name, PROTOCOLS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no protocol {name!r}; {hint}there are {', '.join(PROTOCOLS)}")
    data, test = PROTOCOLS[name](recipe)
    return replace(recipe, data=data, test=test)


def name_of(recipe: Recipe) -> str | None:
    """Return the name of the protocol that the recipe is tested by, None if it is one of its own."""
    seen = what_is_seen(recipe.data, recipe.test)
    for name in PROTOCOLS:
        protocol = with_protocol(recipe, name)
        if what_is_seen(protocol.data, protocol.test) == seen:
            return name
    return None


def what_is_seen(data: DataRecipe, test: TestRecipe) -> dict[str, Any]:
    """Return what decides which pixels a model sees and how its scores are combined, by field; nothing of speed."""
    seen: dict[str, Any] = {
        "mode": test.mode,
        "scales": list(test.scales),
        "flip": test.flip,
        "base_scale": None if data.base_scale is None else list(data.base_scale),
        "base_ratio": data.base_ratio if data.base_scale is None else None,
        "antialias": data.antialias,
    }
    if test.mode == "sliding":
        seen |= {"window": list(test.window), "stride": list(test.stride), "blend": test.blend, "enlarge": test.enlarge}
    return seen
