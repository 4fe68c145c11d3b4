"""timm's own network of an encoder's recipe, unchanged, for comparison."""

from __future__ import annotations

from typing import Any

import timm
from torch import nn

from semask.models.encoders.chain import family_of, is_swin
from semask.models.encoders.mix_transformer import is_mit
from semask.models.encoders.vit import is_vit
from semask.recipes.encoders import EncoderOptions, PyramidViTOptions, ViTOptions


def bare_encoder(spec: EncoderOptions, size: tuple[int, int]) -> nn.Module:
    """Return timm's feature network for images of a size (height, width) [px], with random weights.

    Raises:
        ValueError: The encoder is not timm's.
    """
    if is_mit(spec.name):
        raise ValueError(f"timm has no {spec.name!r}; transformers and smp have Mix Transformers to compare with")
    family_of(spec.name)  # suggests near names for unknown ones
    rate = getattr(spec, "drop_path", 0.0)
    options: dict[str, Any] = {"drop_path_rate": rate} if rate else {}
    if is_swin(spec.name):
        options |= {"img_size": size}
        fields = ("embed_dim", "depths", "num_heads", "window_size")
        options |= {field: getattr(spec, field) for field in fields if getattr(spec, field, None) is not None}
    elif is_vit(spec.name):
        options |= {"img_size": size, "num_classes": 0}
        if isinstance(spec, ViTOptions | PyramidViTOptions) and spec.patch_size is not None:
            options["patch_size"] = spec.patch_size
        return timm.create_model(spec.name.split(".", 1)[0], **options)  # type: ignore[no-any-return]
    return timm.create_model(spec.name.split(".", 1)[0], features_only=True, **options)  # type: ignore[no-any-return]
