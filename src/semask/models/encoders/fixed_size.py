"""Backbones that timm builds for images of one size: which they are, and which sizes they take."""

from __future__ import annotations

from typing import Any

import timm

STEP = 32
"""Sides of a fixed size are multiples of this [px], the stride of the coarsest map."""
_SWIN_V2 = "timm.models.swin_transformer_v2"
_FIXED = ("timm.models.maxxvit", "timm.models.gcvit", "timm.models.hiera", "timm.models.swin_transformer_v2_cr")
"""Windows, or a table of positions, are a fixed share of the image."""
_ANY = ("timm.models.twins", "timm.models.mvitv2", "timm.models.swiftformer", "timm.models.swin_transformer", _SWIN_V2)
"""Said by timm to be of a fixed size, as classifiers, but their maps may be of any."""


def is_fixed(family: str) -> bool:
    """Say whether a family encodes images of one size only, which can be chosen."""
    return family in _FIXED


def is_sized(family: str) -> bool:
    """Say whether a family is built for a size: those of a fixed one, and SwinV2, whose windows are no larger."""
    return is_fixed(family) or family == _SWIN_V2


def size_of_images(name: str, family: str, size: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return the one size (height, width) [px] of images that a model built for `size` encodes, None for any.

    Without a `size` it is the named model's own.
    """
    if not is_fixed(family):
        return None
    return size or timm.get_pretrained_cfg(name).input_size[1:]


def size_options(family: str, size: tuple[int, int] | None) -> dict[str, Any]:
    """Return what tells timm's constructor the size (height, width) [px]; Swin V2's windows are to be squares."""
    if size is None or not is_sized(family):
        return {}
    return {"img_size": max(size) if family == _SWIN_V2 else size}


def check_size(name: str, family: str, size: tuple[int, int] | None) -> None:
    """Raise a ValueError for a size that a family of a fixed size refuses, and for families whose size is timm's."""
    if size is not None and is_fixed(family) and any(side % STEP or side < STEP for side in size):
        near = " ".join(str(max(STEP, round(side / STEP) * STEP)) for side in size)
        raise ValueError(
            f"{name!r} is built for images of one size, whose sides are multiples of {STEP} px, not {size[0]} and "
            f"{size[1]}; say --data.crop {near}, or --model.encoder.image-size {near} where the crop is to be another"
        )
    known = timm.get_pretrained_cfg(name)
    if known is not None and known.fixed_input_size and not is_fixed(family) and family not in _ANY:
        raise ValueError(
            f"{name!r} (family {family.rsplit('.', 1)[-1]}) is built for images of {known.input_size[1]}×"
            f"{known.input_size[2]} px alone and no pyramid for pictures of other sizes. Use a backbone that is one, "
            "such as swin, swinv2, convnext, pvt_v2, twins, mvitv2, davit, nextvit, maxvit or hiera."
        )
