"""The SegFormer models and their training, which the dataset recipes share.

timm has no weights of Mix Transformers, so training starts with --from-scratch or from a file,
`--model.encoder.weights FILE`: the authors' mit_b0.pth … mit_b5.pth, transformers' model.safetensors of nvidia/mit-b0 …
b5, or mmsegmentation's conversion of them. NVIDIA's licence allows them for research and evaluation, not for commerce.

Source: SegFormer (arXiv:2105.15203) §4.1; mmsegmentation 1.2.2, whose configurations have the same training.
"""

from __future__ import annotations

from typing import Literal

from semask.recipes.decoders import SegFormerMMSegOptions, SegFormerOptions
from semask.recipes.encoders import MixTransformerOptions, SemanticLayers
from semask.recipes.recipe import ModelRecipe, OptimRecipe, TrainRecipe

Size = Literal["b0", "b1", "b2", "b3", "b4", "b5"]

OPTIM = OptimRecipe(lr=6e-4, encoder_lr_scale=0.1, weight_decay=0.01)
"""6e-5, and ten times that for the head."""
TRAIN = TrainRecipe(steps=160_000, batch_size=16, eval_every=16_000)


def mit(size: Size, *, semantic: bool = False) -> MixTransformerOptions:
    """A Mix Transformer, with or without semantic layers.

    The paper does not give their windows; these are SeMask Swin-T's and S's on ADE20K, whose maps have the same sizes.
    """
    layers = SemanticLayers(windows=(7, 7, None, None)) if semantic else None
    return MixTransformerOptions(name=f"mit_{size}", drop_path=0.1, semantic=layers)


def segformer(size: Size, num_classes: int) -> ModelRecipe:
    """SegFormer as published: its head is 256 channels wide over B0 and B1, 768 over the others."""
    decoder = SegFormerOptions(channels=256 if size in ("b0", "b1") else 768)
    return ModelRecipe(encoder=mit(size), decoder=decoder, num_classes=num_classes)


def segformer_mmseg(size: Size, num_classes: int, *, semantic: bool) -> ModelRecipe:
    """SegFormer with mmsegmentation's head, 256 channels wide over every size: what SeMask compares with."""
    return ModelRecipe(encoder=mit(size, semantic=semantic), decoder=SegFormerMMSegOptions(), num_classes=num_classes)
