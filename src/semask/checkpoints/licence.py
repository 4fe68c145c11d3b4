"""Under which licence the pretrained weights of an encoder stand."""

from __future__ import annotations

import timm

from semask.models.encoders.mix_transformer import is_mit

MIT_LICENCE = "NVIDIA Source Code License, non-commercial"
"""Of SegFormer's Mix Transformers, which have to be fetched by hand."""


def licence_of(name: str, weights: str | None) -> str | None:
    """Return the licence that timm states of an encoder's weights; None where a recipe starts from none."""
    if weights is None:
        return None
    if is_mit(name):
        return MIT_LICENCE
    known = timm.get_pretrained_cfg(name)
    stated = None if known is None else known.license
    return str(stated) if stated else "not stated by timm"
