"""The layout of mmsegmentation's SETR checkpoints.

Its patch convolution has no bias since release 1.0, and it normalises images by ImageNet's colours, which the recipe
takes over. It resizes the scores of a padded image to the image's size; we cut the padding off. In windows of the
training crop nothing is padded and the two agree.

Source: mmsegmentation 1.2.2; the layout of the naïve and PUP forms is spelled out by the fixtures in tests/reference.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

from torch import Tensor

from semask.checkpoints.rules import segmenter
from semask.checkpoints.rules.translation import Translation, names_in_file, replace_beginning
from semask.recipes import ModelRecipe, Published, Recipe

LAYOUT = "mmsegmentation's SETR; the recipe takes over its normalisation of images"

_MLA: tuple[tuple[str, str], ...] = (
    (r"neck\.norm\.(\d)\.", r"decoder.laterals.\1.0."),
    (r"neck\.mla\.channel_proj\.(\d)\.", r"decoder.laterals.\1.1."),
    (r"neck\.mla\.feat_extract\.", "decoder.refine."),
    (r"decode_head\.up_convs\.", "decoder.branches."),
    (r"decode_head\.conv_seg\.", "decoder.classify."),
    (r"auxiliary_head\.(\d)\.conv_seg\.", r"decoder.heads.\1."),
)
_UPSAMPLING: tuple[tuple[str, str], ...] = (
    (r"decode_head\.", "decoder.main.head."),
    (r"auxiliary_head\.", "decoder.heads."),
)
_PARTS = {".up_convs.": ".steps.", ".conv_seg.": ".classify."}

CLASS_TENSORS = re.compile(r"decoder\.((main\.head\.)?classify|heads\.\d(\.classify)?)\.(weight|bias)")


def translate(tensors: Mapping[str, Tensor], recipe: Recipe) -> Translation:
    """Bring a checkpoint into our names; the recipe takes the normalisation and loses the paper's figures."""
    # the form with a neck: multi-level aggregation
    mla = any(key.startswith("neck.") for key in tensors)
    names = names_in_file(tensors, lambda key: _rename(key, mla=mla))
    found = segmenter.with_patch_bias({ours: tensors[key] for ours, key in names.items()})
    # ImageNet's colours are the default
    default = ModelRecipe()
    model = dataclasses.replace(recipe.model, mean=default.mean, std=default.std)
    return Translation(found, tensors, names, dataclasses.replace(recipe, model=model, published=Published()), LAYOUT)


def _rename(key: str, *, mla: bool) -> str | None:
    if key.startswith("backbone."):
        return segmenter.rename(key)
    name = replace_beginning(key, _MLA if mla else _UPSAMPLING) or key
    if not mla:
        for theirs, ours in _PARTS.items():
            name = name.replace(theirs, ours)
    return name
