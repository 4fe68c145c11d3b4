"""Other libraries' models beside ours: random weights, the recipe's classes, no downloads."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask.benchmark.candidate import Candidate
from semask.models.build import build_on_meta
from semask.models.encoders.chain import family_of
from semask.models.encoders.mix_transformer import HEADS, STEPS, size_of
from semask.ops.resize import padding_to_multiple, resize
from semask.recipes import Recipe
from semask.recipes.decoders import PIXEL_DECODERS, MaskFormerOptions, SegFormerMMSegOptions, SegFormerOptions
from semask.recipes.encoders import EncoderOptions, MixTransformerOptions, SwinOptions
from semask.structures import IGNORE

Size = tuple[int, int]
SEGFORMERS = (SegFormerOptions, SegFormerMMSegOptions)
SMP_MULTIPLE = 32
"""Images are padded to multiples of this side [px]: segmentation-models-pytorch refuses other sizes."""


class Normalized(nn.Module):
    """A network of another library, with the recipe's mean and standard deviation inside."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Any, recipe: Recipe) -> None:
        super().__init__()
        self.network = network
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(recipe.model, name)).reshape(-1, 1, 1), persistent=False)

    def normalize(self, images: Tensor) -> Tensor:
        """The images in the network's range of values."""
        return (images - self.mean) / self.std


class PerPixel(Normalized):
    """A network whose output holds logits, as its users run it: resize and take the best, or the cross-entropy.

    Images are padded to multiples of `multiple` [px]; `read` takes the logits from the network's output.
    """

    def __init__(
        self, network: nn.Module, recipe: Recipe, *, multiple: int = 1, read: Callable[[Any], Any] = lambda found: found
    ) -> None:
        super().__init__(network, recipe)
        self.multiple, self.read = multiple, read

    def forward(self, images: Tensor) -> Tensor:
        """The logits of padded images at the network's grid."""
        bottom, right = padding_to_multiple(images.shape[-2], images.shape[-1], self.multiple)
        logits: Tensor = self.read(self.network(F.pad(self.normalize(images), (0, right, 0, bottom))))
        return logits

    def labels(self, images: Tensor) -> Tensor:
        """The best class of every pixel."""
        return self._at_image(images).argmax(dim=1).to(torch.uint8)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The mean cross-entropy at the images' size."""
        return F.cross_entropy(self._at_image(images), labels.long(), ignore_index=IGNORE)

    def _at_image(self, images: Tensor) -> Tensor:
        # resize to the padded size, then cut the padding off
        height, width = images.shape[-2:]
        bottom, right = padding_to_multiple(height, width, self.multiple)
        return resize(self(images).float(), (height + bottom, width + right))[..., :height, :width]


class TransformersModel(Normalized):
    """A model of transformers with its image processor, which makes the label maps, and the targets of its loss."""

    def __init__(self, network: Any, processor: Any, targets: Callable[[Tensor], Any], recipe: Recipe) -> None:
        super().__init__(network, recipe)
        self.processor, self.targets = processor, targets

    def forward(self, images: Tensor, **targets: Any) -> Any:
        """The network's output; with targets, its loss too."""
        return self.network(pixel_values=self.normalize(images), **targets)

    def labels(self, images: Tensor) -> Tensor:
        """The label maps of the image processor."""
        size = (images.shape[-2], images.shape[-1])
        maps = self.processor.post_process_semantic_segmentation(self(images), target_sizes=[size] * len(images))
        return torch.stack(maps).to(torch.uint8)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The network's own loss."""
        loss: Tensor = self(images, **self.targets(labels)).loss
        return loss.squeeze()


def _candidate(title: str, recipe: Recipe, module: PerPixel | TransformersModel) -> Candidate:
    return Candidate(title, title.partition(" ")[0], recipe, module.eval(), module, module.labels, module.loss)


def smp(recipe: Recipe, size: Size) -> Candidate:
    """SegFormer for ours, and an FPN over timm's backbone for Semantic FPN."""
    import segmentation_models_pytorch as library

    encoder, decoder = recipe.model.encoder, recipe.model.decoder
    given: dict[str, Any] = {"encoder_weights": None, "classes": recipe.model.num_classes}
    network: nn.Module
    if isinstance(decoder, SEGFORMERS) and isinstance(encoder, MixTransformerOptions):
        given["decoder_segmentation_channels"] = decoder.channels
        title, network = f"smp Segformer {encoder.name}", library.Segformer(encoder.name, **given)
    elif decoder.kind == "semantic_fpn" and not isinstance(encoder, MixTransformerOptions):
        bare = encoder.name.split(".", 1)[0]
        if isinstance(encoder, SwinOptions):
            bottom, right = padding_to_multiple(*size, SMP_MULTIPLE)
            given["img_size"] = (size[0] + bottom, size[1] + right)
            # the recipe's changes to the named Swin
            for field in ("embed_dim", "depths", "num_heads", "window_size"):
                given |= {} if getattr(encoder, field) is None else {field: getattr(encoder, field)}
        title, network = f"smp FPN {bare}", library.FPN(f"tu-{bare}", **given)
    else:
        raise _no_counterpart(
            "segmentation-models-pytorch", recipe, "SegFormer, and Semantic FPN over timm's backbones"
        )
    return _candidate(title, recipe, PerPixel(network, recipe, multiple=SMP_MULTIPLE))


def torchvision(recipe: Recipe, size: Size) -> Candidate:
    """FCN for our FCN, DeepLabV3 for all else: over ResNet-101 for recipes that have one, else ResNet-50."""
    from torchvision.models import segmentation

    kind = "fcn" if recipe.model.decoder.kind == "fcn" else "deeplabv3"
    name = f"{kind}_resnet{101 if '101' in recipe.model.encoder.name else 50}"
    network = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=recipe.model.num_classes)
    return _candidate(f"torchvision {name}", recipe, PerPixel(network, recipe, read=lambda found: found["out"]))


def bare_encoder(spec: EncoderOptions, size: Size) -> nn.Module:
    """The feature network of timm for an encoder's options, with random weights.

    Raises:
        ValueError: The encoder is not timm's.
    """
    import timm as library

    if isinstance(spec, MixTransformerOptions):
        raise ValueError(f"timm has no {spec.name!r}; transformers and smp have Mix Transformers to compare with")
    family_of(spec.name)  # suggests near names for unknown ones
    rate, vit = getattr(spec, "drop_path", 0.0), spec.kind in ("vit", "pyramid_vit")
    options: dict[str, Any] = {"drop_path_rate": rate} if rate else {}
    options |= {"num_classes": 0} if vit else {"features_only": True}
    if vit or isinstance(spec, SwinOptions):
        # the recipe's changes to the named network
        fields = ("embed_dim", "depths", "num_heads", "window_size", "patch_size")
        options |= {field: getattr(spec, field) for field in fields if getattr(spec, field, None) is not None}
        options["img_size"] = size
    return library.create_model(spec.name.split(".", 1)[0], **options)  # type: ignore[no-any-return]


def timm(recipe: Recipe, size: Size) -> Candidate:
    """The bare encoder, without semantic layers and decoder: a lower bound of the cost over timm's models."""
    network = PerPixel(bare_encoder(recipe.model.encoder, size), recipe)
    # no head: no label maps, and as loss the mean of all levels, whose backward pass reaches every weight

    def labels(images: Tensor) -> Tensor:
        raise ValueError("timm's encoder alone makes no label maps; measure it with --what forward or train")

    def loss(images: Tensor, _: Tensor) -> Tensor:
        maps: Sequence[Tensor] = network(images)
        return torch.stack([level.float().mean() for level in maps]).sum()

    title = f"timm {recipe.model.encoder.name.split('.', 1)[0]} (encoder alone)"
    return Candidate(title, "timm", recipe, network.eval(), network, labels, loss)


def transformers(recipe: Recipe, size: Size) -> Candidate:
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
    processor = "SegformerImageProcessor"
    targets: Callable[[Tensor], Any] = lambda labels: {"labels": labels.long()}  # noqa: E731
    if isinstance(decoder, SEGFORMERS) and isinstance(encoder, MixTransformerOptions):
        of_name = size_of(encoder.name)
        # SegFormer of the recipe's Mix Transformer
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
        processor, targets = PROCESSORS[decoder.kind], _mask_targets
    else:
        known = "SegFormer, and over Swin UPerNet, Semantic FPN, MaskFormer and Mask2Former"
        raise _no_counterpart("transformers", recipe, known)
    module = TransformersModel(network.eval(), getattr(library, processor)(), targets, recipe)
    return _candidate(f"transformers {title}", recipe, module)


def _mask_targets(labels: Tensor) -> dict[str, Any]:
    """The classes of every image and their masks."""
    # classes that occur in an image have a mask each, unlabelled pixels none
    classes = [image[image != IGNORE].unique().long() for image in labels]
    masks = [(image == found[:, None, None]).float() for image, found in zip(labels, classes, strict=True)]
    return {"class_labels": classes, "mask_labels": masks}


def _no_counterpart(library: str, recipe: Recipe, known: str) -> ValueError:
    parts = f"{recipe.model.decoder.kind} over {recipe.model.encoder.name}"
    return ValueError(f"{library} has no counterpart of {recipe.name!r} ({parts}); --against compares {known}")


THIRD_PARTY: dict[str, tuple[str, Callable[[Recipe, Size], Candidate]]] = {
    "transformers": ("transformers", transformers),
    "smp": ("segmentation_models_pytorch", smp),
    "torchvision": ("torchvision", torchvision),
    "timm": ("timm", timm),
}
"""Each library's module and the function that builds its model for a recipe and a size (height, width) [px]."""


def third_party(library: str, recipe: Recipe, size: Size) -> Candidate:
    """A library's model of a recipe's kind, for images of a size (height, width) [px].

    Raises:
        ValueError: the library is not installed, or has no counterpart of this recipe.
    """
    module, build = THIRD_PARTY[library]
    # tried before building, so that the message names the extra to install
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f'--against {library} needs the package {module} ({error}); install it with `pip install "semask[peers]"`'
        ) from error
    return build(recipe, size)
