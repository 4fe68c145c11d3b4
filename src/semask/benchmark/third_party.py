"""Other libraries' models beside ours: random weights, the recipe's classes, no downloads."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask.benchmark.candidate import Candidate
from semask.models.build import build_on_meta
from semask.models.encoders.mix_transformer import HEADS, STEPS, size_of
from semask.ops.resize import pad_images, padding_to_multiple, resize
from semask.recipes import Recipe
from semask.recipes.decoders import PIXEL_DECODERS, MaskFormerOptions, SegFormerMMSegOptions, SegFormerOptions
from semask.recipes.encoders import EncoderOptions, MixTransformerOptions, SwinOptions
from semask.structures import IGNORE

Size = tuple[int, int]
SEGFORMERS = (SegFormerOptions, SegFormerMMSegOptions)
SMP_MULTIPLE = 32
"""Images are padded to multiples of this side [px]: segmentation-models-pytorch refuses other sizes."""


class PerPixel(nn.Module):
    """A network whose output holds logits, as its users run it: resize and take the best, or the cross-entropy.

    Images are normalised by the recipe's mean and standard deviation and padded to multiples of `multiple` [px];
    `read` takes the logits from the network's output.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: Any, recipe: Recipe, *, multiple: int = 1, read: Callable[[Any], Any] = lambda found: found
    ) -> None:
        super().__init__()
        self.network, self.multiple, self.read = network, multiple, read
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(recipe.model, name)).reshape(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor, **targets: Any) -> Any:
        """The network's output for normalised, padded images; the targets, if any, go to the network."""
        bottom, right = padding_to_multiple(images.shape[-2], images.shape[-1], self.multiple)
        padded = pad_images((images - self.mean) / self.std, bottom, right)
        return self.read(self.network(padded, **targets))

    def scores(self, images: Tensor) -> Tensor:
        """The logits at the images' size: resized to the padded one, then cut."""
        height, width = images.shape[-2:]
        bottom, right = padding_to_multiple(height, width, self.multiple)
        return resize(self(images).float(), (height + bottom, width + right))[..., :height, :width]

    def labels(self, images: Tensor) -> Tensor:
        """The best class of every pixel."""
        return self.scores(images).argmax(dim=1).to(torch.uint8)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The mean cross-entropy at the images' size."""
        return F.cross_entropy(self.scores(images), labels.long(), ignore_index=IGNORE)


class EncoderAlone(PerPixel):
    """The bare encoder, without semantic layers and decoder: a lower bound of the cost over timm's models."""

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The mean of all levels, whose backward pass reaches every weight."""
        return torch.stack([level.float().mean() for level in self(images)]).sum()


class TransformersModel(PerPixel):
    """A model of transformers with its image processor, which makes the label maps, and its own loss."""

    def __init__(self, network: Any, processor: Any, recipe: Recipe) -> None:
        super().__init__(network, recipe)
        self.processor, self.of_masks = processor, isinstance(recipe.model.decoder, MaskFormerOptions)

    def labels(self, images: Tensor) -> Tensor:
        """The label maps of the image processor."""
        size = (images.shape[-2], images.shape[-1])
        maps = self.processor.post_process_semantic_segmentation(self(images), target_sizes=[size] * len(images))
        return torch.stack(maps).to(torch.uint8)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The network's own loss; masks are those of the classes in an image, unlabelled pixels have none."""
        targets: dict[str, Any] = {"labels": labels.long()}
        if self.of_masks:
            classes = [image[image != IGNORE].unique().long() for image in labels]
            masks = [(image == found[:, None, None]).float() for image, found in zip(labels, classes, strict=True)]
            targets = {"class_labels": classes, "mask_labels": masks}
        loss: Tensor = self(images, **targets).loss
        return loss.squeeze()


Peer = tuple[str, PerPixel] | None
"""The title of a model, and the model; None where a library has no counterpart."""


def smp(recipe: Recipe, size: Size) -> Peer:
    """SegFormer for ours, and an FPN over timm's backbone for Semantic FPN, both as wide as ours."""
    import segmentation_models_pytorch as library

    encoder, decoder = recipe.model.encoder, recipe.model.decoder
    given: dict[str, Any] = {"encoder_weights": None, "classes": recipe.model.num_classes}
    network: nn.Module
    if isinstance(decoder, SEGFORMERS) and isinstance(encoder, MixTransformerOptions):
        given["decoder_segmentation_channels"] = decoder.channels
        title, network = f"Segformer {encoder.name}", library.Segformer(encoder.name, **given)
    elif decoder.kind == "semantic_fpn" and not isinstance(encoder, MixTransformerOptions):
        bare = encoder.name.split(".", 1)[0]
        if isinstance(encoder, SwinOptions):
            bottom, right = padding_to_multiple(*size, SMP_MULTIPLE)
            given |= {"img_size": (size[0] + bottom, size[1] + right), **changes_of(encoder)}
        given |= dict.fromkeys(("decoder_pyramid_channels", "decoder_segmentation_channels"), decoder.channels)
        title, network = f"FPN {bare}", library.FPN(f"tu-{bare}", **given)
    else:
        return None
    return title, PerPixel(network, recipe, multiple=SMP_MULTIPLE)


def torchvision(recipe: Recipe, size: Size) -> Peer:
    """FCN for our FCN, DeepLabV3 for all else: over ResNet-101 for recipes that have one, else ResNet-50."""
    from torchvision.models import segmentation

    kind = "fcn" if recipe.model.decoder.kind == "fcn" else "deeplabv3"
    name = f"{kind}_resnet{101 if '101' in recipe.model.encoder.name else 50}"
    network = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=recipe.model.num_classes)
    return name, PerPixel(network, recipe, read=lambda found: found["out"])


def timm(recipe: Recipe, size: Size) -> Peer:
    """The feature network of the recipe's encoder; timm has no Mix Transformer."""
    import timm as library

    spec = recipe.model.encoder
    if isinstance(spec, MixTransformerOptions):
        return None
    rate, vit, name = getattr(spec, "drop_path", 0.0), spec.kind in ("vit", "pyramid_vit"), spec.name.split(".", 1)[0]
    options: dict[str, Any] = {"num_classes": 0} if vit else {"features_only": True}
    options |= {"drop_path_rate": rate} if rate else {}
    options |= {"img_size": size, **changes_of(spec)} if vit or isinstance(spec, SwinOptions) else {}
    return f"{name} (encoder alone)", EncoderAlone(library.create_model(name, **options), recipe)


def changes_of(spec: EncoderOptions) -> dict[str, Any]:
    """The recipe's changes to a network that timm has by name."""
    fields = ("embed_dim", "depths", "num_heads", "window_size", "patch_size")
    return {field: value for field in fields if (value := getattr(spec, field, None)) is not None}


def transformers(recipe: Recipe, size: Size) -> Peer:
    """SegFormer, Mask2Former or MaskFormer for ours, and UPerNet for Swin with UPerNet or Semantic FPN.

    SeMask's recipes are compared with the model without semantic layers, and FaPN with the library's pixel decoder.
    """
    import transformers as package

    from semask.checkpoints.transformers.config import CLASSES, PROCESSORS, model_config, swin_config
    from semask.checkpoints.transformers.config import PIXEL_DECODERS as SUPPORTED

    library: Any = package  # its types are partial
    library.logging.set_verbosity_error()
    encoder, decoder, classes = recipe.model.encoder, recipe.model.decoder, recipe.model.num_classes
    over_swin = isinstance(encoder, SwinOptions)
    plain = recipe.override({"model.encoder.semantic": None}) if over_swin else recipe
    if isinstance(decoder, SEGFORMERS) and isinstance(encoder, MixTransformerOptions):
        of_name = size_of(encoder.name)
        config = library.SegformerConfig(
            depths=list(of_name.depths),
            hidden_sizes=list(of_name.channels),
            num_attention_heads=list(HEADS),
            strides=list(STEPS),
            drop_path_rate=encoder.drop_path,
            decoder_hidden_size=decoder.channels,
            classifier_dropout_prob=decoder.dropout,
            num_labels=classes,
            semantic_loss_ignore_index=IGNORE,
        )
        title, network = f"SegFormer {encoder.name}", library.SegformerForSemanticSegmentation(config)
    elif decoder.kind in ("upernet", "semantic_fpn") and over_swin:
        # their UPerNet over our Swin's sizes
        backbone = swin_config(build_on_meta(plain), plain)
        config = library.UperNetConfig(
            backbone_config=backbone,
            num_labels=classes,
            use_auxiliary_head=getattr(decoder, "auxiliary", False),
            auxiliary_in_channels=4 * backbone["embed_dim"],
            loss_ignore_index=IGNORE,
        )
        title, network = "UPerNet Swin", library.UperNetForSemanticSegmentation(config)
    elif isinstance(decoder, MaskFormerOptions) and over_swin:  # Mask2Former too
        # their mask classifiers have one pixel decoder each
        supported = SUPPORTED[decoder.kind]
        if decoder.pixel_decoder.kind != supported:
            plain = plain.override({"model.decoder.pixel_decoder": PIXEL_DECODERS[supported]()})
        model = getattr(library, CLASSES[decoder.kind])
        title, network = f"{decoder.kind} Swin", model(model.config_class.from_dict(model_config(plain)))
    else:
        return None
    processor = getattr(library, PROCESSORS.get(decoder.kind, "SegformerImageProcessor"))()
    return title, TransformersModel(network, processor, recipe)


THIRD_PARTY: dict[str, tuple[str, Callable[[Recipe, Size], Peer], str]] = {
    "transformers": (
        "transformers",
        transformers,
        "SegFormer, and over Swin UPerNet, Semantic FPN and mask classifiers",
    ),
    "smp": ("segmentation_models_pytorch", smp, "SegFormer, and Semantic FPN over timm's backbones"),
    "torchvision": ("torchvision", torchvision, "all"),
    "timm": ("timm", timm, "timm's encoders; transformers and smp have Mix Transformers"),
}
"""Each library's package, the builder of its model for a recipe and a size (height, width) [px], and its models."""


def third_party(library: str, recipe: Recipe, size: Size) -> Candidate:
    """A library's model of a recipe's kind, for images of a size (height, width) [px].

    Raises:
        ValueError: the library is not installed, or has no counterpart of this recipe.
    """
    package, build, models = THIRD_PARTY[library]
    # tried before building, so that the message names the extra to install
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ValueError(
            f'--against {library} needs the package {package} ({error}); install it with `pip install "semask[peers]"`'
        ) from error
    if (found := build(recipe, size)) is None:
        parts = f"{recipe.model.decoder.kind} over {recipe.model.encoder.name!r}"
        raise ValueError(f"{library} has no counterpart of {recipe.name!r} ({parts}); --against compares {models}")
    title, module = f"{library} {found[0]}", found[1].eval()
    return Candidate(title, library, recipe, module, module, module.labels, module.loss)
