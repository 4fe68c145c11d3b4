"""`semask.create_model` and `semask.load`: models of parts and of checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from semask.checkpoints import store
from semask.checkpoints.pretrained import FROM_HUB, load_encoder
from semask.models.build import build, build_decoder, build_encoder
from semask.models.encoders.kinds import READ_ONE_STRIDE, encoder_options, image_statistics
from semask.models.model import SegmentationModel
from semask.recipes import DataRecipe, ModelRecipe, Recipe
from semask.recipes.decoders import DecoderOptions, decoder_options
from semask.recipes.encoders import EncoderOptions, SemanticLayers, ViTOptions
from semask.recipes.recipe import IMAGENET_MEAN, IMAGENET_STD
from semask.structures import Decoder, Encoder


def create_model(
    encoder: str | EncoderOptions | Encoder,
    decoder: str | DecoderOptions | Decoder = "semantic_fpn",
    *,
    num_classes: int,
    semantic_layers: bool = False,
    pretrained: bool | str | Path = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: tuple[int, int] = DataRecipe.crop,
) -> SegmentationModel:
    """A model built of an encoder and a decoder, in evaluation mode.

    Args:
        encoder: A timm name (or mit_b0 … mit_b5), options of `semask.recipes.encoders`, or a module that follows
            `semask.Encoder`. A plain ViT gets a simple pyramid where the decoder reads one.
        decoder: A kind, options of `semask.recipes.decoders`, or a module that follows `semask.Decoder`.
        num_classes: 2 … 255.
        semantic_layers: Put a semantic layer after every stage of a named encoder (SeMask).
        pretrained: True: the encoder's weights of that name from timm's hub; a path: a local file.
        mean: Means of the channels, images in [0, 1]; default: those of the encoder's weights. Their number is the
            number of channels.
        std: Standard deviations of the channels.
        image_size: (height, width) [px] that encoders of a fixed size are built for.

    Raises:
        ValueError: A name is unknown, the parts do not fit, or the weights cannot be read.

    >>> import semask, torch
    >>> model = semask.create_model("resnet18", "upernet", num_classes=4, semantic_layers=True)
    >>> model.scores(torch.rand(1, 3, 65, 90)).shape
    torch.Size([1, 4, 65, 90])
    """
    # names to options; modules stay as they are
    head: Any = decoder_options(decoder) if isinstance(decoder, str) else decoder
    trunk: Any = encoder
    if isinstance(encoder, str):
        trunk = encoder_options(encoder, pyramid=not getattr(head, "kind", "").startswith(READ_ONE_STRIDE))
    own_trunk, own_head = isinstance(trunk, nn.Module), isinstance(head, nn.Module)
    if (semantic_layers or pretrained) and own_trunk:
        raise ValueError(
            f"semantic_layers and pretrained are for named encoders, and {type(trunk).__name__} is a module: give it "
            "its layers and weights before"
        )
    # weights and semantic layers are options of a named encoder
    source = FROM_HUB if pretrained is True else str(pretrained) if pretrained else None
    if not own_trunk:
        trunk = replace(trunk, weights=source)
    if semantic_layers and isinstance(trunk, ViTOptions):
        raise ValueError(f"{trunk.name!r} is a plain ViT without stages; use a decoder that reads a pyramid")
    if semantic_layers:
        trunk = replace(trunk, semantic=SemanticLayers())
    # images are normalised as the weights expect
    known = (IMAGENET_MEAN, IMAGENET_STD) if own_trunk else image_statistics(trunk.name)
    mean, std = tuple(mean or known[0]), tuple(std or known[1])
    if not own_trunk and not own_head:
        # a recipe describes the model, so that `semask.save` can record it
        spec = ModelRecipe(encoder=trunk, decoder=head, num_classes=num_classes, mean=mean, std=std)
        data = DataRecipe(crop=image_size, channels=len(mean))
        model = build(Recipe(name=f"{trunk.name}-{head.kind}", model=spec, data=data))
    else:
        # no recipe describes the caller's own part
        module = trunk if own_trunk else build_encoder(trunk, num_classes, crop=image_size, channels=len(mean))
        top = head if own_head else build_decoder(head, module, num_classes)
        model = SegmentationModel(module, top, num_classes=num_classes, mean=mean, std=std).eval()
    if source is not None:
        load_encoder(model.encoder, trunk.name, source)
    return model


def load(
    directory: str | Path, *, model: SegmentationModel | None = None, device: str | torch.device = "cpu"
) -> SegmentationModel:
    """The model of a checkpoint directory (model.safetensors and recipe.json), in evaluation mode.

    Args:
        directory: Folder of `semask.save`, `semask.fit` or `semask train`, such as runs/NAME/best; or a file of
            `semask export`, whose model predicts and is evaluated like the one that it was made of.
        model: Model that the weights go into, for checkpoints that no recipe describes.
        device: Device of the model.

    Raises:
        ValueError: Files are missing or broken, or the weights do not fit.

    >>> import semask, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = semask.save(semask.build("scenes/micro-seg"), folder)
    ...     model = semask.load(folder)
    >>> model.num_classes
    12
    """
    return store.load(directory, model=model, device=device).model
