"""transformers: SegFormer, and over Swin UPerNet, MaskFormer and Mask2Former, each with its own post-processing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from semask.benchmark.contender import Contender
from semask.build import build_weightless
from semask.checkpoints.transformers.config import CLASSES, PIXEL_DECODERS, PROCESSORS, model_config, swin_config
from semask.models.encoders.chain import is_swin
from semask.models.encoders.mix_transformer import HEADS, STEPS, is_mit, size_of
from semask.recipes import Recipe
from semask.structures import IGNORE

Targets = Callable[[Tensor], dict[str, Any]]
library: Any = transformers  # whose types are partial


class TransformersPeer(nn.Module):
    """A model of theirs with its image processor, which makes the label maps, and what its loss is given.

    Images are normalised within, by the recipe's mean and std.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Any, processor: Any, targets: Targets, recipe: Recipe) -> None:
        super().__init__()
        self.network, self.processor, self.targets = network, processor, targets
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(recipe.model, name)).reshape(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor, **targets: Any) -> Any:
        """Return their output; with targets, its loss too."""
        return self.network(pixel_values=(images - self.mean) / self.std, **targets)

    def labels(self, images: Tensor) -> Tensor:
        """Return the label maps that their image processor makes."""
        size = (images.shape[-2], images.shape[-1])
        maps = self.processor.post_process_semantic_segmentation(self(images), target_sizes=[size] * len(images))
        return torch.stack(maps).to(torch.uint8)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return their own loss."""
        loss: Tensor = self(images, **self.targets(labels)).loss
        return loss.squeeze()


def peer(recipe: Recipe, size: tuple[int, int]) -> Contender:
    """Return SegFormer, Mask2Former or MaskFormer beside ours, UPerNet beside Swin with UPerNet or Semantic FPN.

    A ValueError tells other recipes. SeMask's stand beside the model without semantic layers, and FaPN beside the pixel
    decoder that they have.
    """
    library.logging.set_verbosity_error()
    encoder, decoder = recipe.model.encoder, recipe.model.decoder
    if decoder.name.startswith("segformer") and is_mit(encoder.name):
        title, network, processor = f"SegFormer {encoder.name}", segformer(recipe), "SegformerImageProcessor"
    elif decoder.name in ("upernet", "semantic_fpn") and not is_mit(encoder.name) and is_swin(encoder.name):
        title, network, processor = "UPerNet Swin", upernet(recipe), "SegformerImageProcessor"
    elif decoder.name in CLASSES and not is_mit(encoder.name) and is_swin(encoder.name):
        title, network, processor = f"{decoder.name} Swin", mask_classifier(recipe), PROCESSORS[decoder.name]
    else:
        raise ValueError(
            f"transformers has no answer to {recipe.name!r} ({decoder.name} over {encoder.name}): it is compared with "
            "SegFormer, and over Swin with UPerNet, Semantic FPN, MaskFormer and Mask2Former"
        )
    targets = _masks if decoder.name in CLASSES else _pixels
    module = TransformersPeer(network.eval(), getattr(library, processor)(), targets, recipe).eval()
    return Contender(f"transformers {title}", "transformers", recipe, module, module, module.labels, module.loss)


def segformer(recipe: Recipe) -> Any:
    """Return their SegFormer of the recipe's sizes."""
    size, spec = size_of(recipe.model.encoder.name), recipe.model
    config = library.SegformerConfig(
        depths=list(size.depths),
        hidden_sizes=list(size.channels),
        num_attention_heads=list(HEADS),
        strides=list(STEPS),
        drop_path_rate=spec.encoder.drop_path,
        decoder_hidden_size=spec.decoder.channels,
        classifier_dropout_prob=spec.decoder.dropout,
        num_labels=spec.num_classes,
        semantic_loss_ignore_index=IGNORE,
    )
    return library.SegformerForSemanticSegmentation(config)


def upernet(recipe: Recipe) -> Any:
    """Return their UPerNet over Swin of the recipe's size, of their usual width, without the auxiliary head."""
    bare = without_semantic_layers(recipe)
    backbone = swin_config(build_weightless(bare), bare)
    config = library.UperNetConfig(
        backbone_config=backbone,
        num_labels=recipe.model.num_classes,
        use_auxiliary_head=recipe.model.decoder.auxiliary,
        auxiliary_in_channels=4 * backbone["embed_dim"],
        loss_ignore_index=IGNORE,
    )
    return library.UperNetForSemanticSegmentation(config)


def mask_classifier(recipe: Recipe) -> Any:
    """Return their MaskFormer or Mask2Former over Swin of the recipe's sizes."""
    bare = without_semantic_layers(recipe)
    name = bare.model.decoder.name
    decoder = dataclasses.replace(bare.model.decoder, pixel_decoder=PIXEL_DECODERS[name], feature_selection=False)
    bare = dataclasses.replace(bare, model=dataclasses.replace(bare.model, decoder=decoder))
    model = getattr(library, CLASSES[name])
    return model(model.config_class.from_dict(model_config(bare)))


def without_semantic_layers(recipe: Recipe) -> Recipe:
    """Return the recipe with the same backbone as it comes."""
    encoder = dataclasses.replace(recipe.model.encoder, semantic_layers=False, probe=None)
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, encoder=encoder))


def _pixels(labels: Tensor) -> dict[str, Any]:
    return {"labels": labels.long()}


def _masks(labels: Tensor) -> dict[str, Any]:
    """Return the classes of every image and their masks."""
    classes = [image[image != IGNORE].unique().long() for image in labels]
    masks = [(image == found[:, None, None]).float() for image, found in zip(labels, classes, strict=True)]
    return {"class_labels": classes, "mask_labels": masks}
