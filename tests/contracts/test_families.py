"""What every family of backbones must do with semantic layers between its stages, each at its smallest size."""

from __future__ import annotations

import dataclasses
import math

import pytest
import timm
import torch
from torch import nn

from semask.checkpoints import pretrained
from semask.checkpoints.pretrained import load_encoder
from semask.losses.build import build_loss
from semask.models.build import build
from semask.models.encoders.kinds import encoder_options
from semask.models.encoders.simple_pyramid import SimplePyramidEncoder
from semask.models.model import SegmentationModel
from semask.recipes import DataRecipe, ModelRecipe, Recipe
from semask.recipes.decoders import decoder_options
from semask.recipes.encoders import PyramidViTOptions, SemanticLayers

NUM_CLASSES = 5
CROP = (64, 96)
FAMILIES = {
    "swinv2": encoder_options("swinv2_tiny_window8_256"),
    "swinv2_cr": encoder_options("swinv2_cr_tiny_ns_224"),
    "twins": encoder_options("twins_svt_small"),
    "convnextv2": encoder_options("convnextv2_atto"),
    "davit": encoder_options("davit_tiny"),
    "nextvit": encoder_options("nextvit_small"),
    "focalnet": encoder_options("focalnet_tiny_srf"),
    "efficientvit": encoder_options("efficientvit_b0"),
    "hiera": encoder_options("hiera_tiny_224"),
    "hiera_sam2": encoder_options("sam2_hiera_tiny"),
    "mvitv2": encoder_options("mvitv2_tiny"),
    "maxvit": encoder_options("maxvit_rmlp_pico_rw_256"),
    "coatnet": encoder_options("coatnet_pico_rw_224"),
    "gcvit": encoder_options("gcvit_xxtiny"),
    "caformer": encoder_options("caformer_s18"),
    "poolformerv2": encoder_options("poolformerv2_s12"),
    "edgenext": encoder_options("edgenext_xx_small"),
    "inception_next": encoder_options("inception_next_atto"),
    "fastvit": encoder_options("fastvit_t8"),
    "mambaout": encoder_options("mambaout_femto"),
    "tiny_vit": encoder_options("tiny_vit_5m_224"),
    "mobilevit": encoder_options("mobilevit_xxs"),
    "hrnet": encoder_options("hrnet_w18_small"),
    "hrnet_polarized": encoder_options("hrnet_w18_small", polarized_attention=True),
    "resnet_dilated": encoder_options("resnet18", output_stride=8),
    "vit_pyramid": encoder_options("vit_tiny_patch16_224", pyramid=True),
    "vit_pyramid_of_14": encoder_options("vit_tiny_patch16_224", pyramid=True, patch_size=14, image_size=(56, 56)),
}
"""Beside those of test_models.py: Swin, MiT, PVT, ConvNeXt, ResNet, EfficientNet and MobileNetV3."""
FIXED = {"swinv2_cr", "hiera", "maxvit", "coatnet", "gcvit"}
STRIDES = {"resnet_dilated": (4, 8, 8, 8), "vit_pyramid_of_14": (3.5, 7, 14, 28)}
OPTIONS = {
    "swinv2": {"img_size": 96, "dynamic_img_size": True},
    "hrnet": {"head": ""},
    "resnet_dilated": {"output_stride": 8},
    "vit_pyramid_of_14": {"patch_size": 14},
}
"""What timm must be told to build the same network."""


def recipe_of(family: str) -> Recipe:
    semantic = SemanticLayers(windows=(4, 4, None, None))
    encoder = dataclasses.replace(FAMILIES[family], weights=None, semantic=semantic)
    model = ModelRecipe(encoder=encoder, decoder=decoder_options("semantic_fpn", channels=16), num_classes=NUM_CLASSES)
    return Recipe(name="test/family", model=model, data=DataRecipe(crop=CROP))


@pytest.fixture(scope="module", params=FAMILIES)
def case(request: pytest.FixtureRequest) -> tuple[str, SegmentationModel]:
    torch.manual_seed(0)
    return request.param, build(recipe_of(request.param))


@pytest.fixture
def model(case: tuple[str, SegmentationModel]) -> SegmentationModel:
    return case[1]


def wake(network: nn.Module) -> None:
    """Move parameters that start at 0, since such a factor hides what it is multiplied with."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)


def test_images_of_any_size(case: tuple[str, SegmentationModel]) -> None:
    family, model = case
    sizes = [(1, 1), (40, 57)] if family in FIXED else [(1, 1), (72, 101)]
    assert (model.fixed_size == CROP) == (family in FIXED)
    for size in sizes:
        with torch.inference_mode():
            scores = model.scores(torch.rand(1, 3, *size))
        assert scores.shape == (1, NUM_CLASSES, *size)
        assert torch.isfinite(scores).all()


def test_maps_and_priors_lie_on_the_padded_image(case: tuple[str, SegmentationModel]) -> None:
    family, model = case
    assert model.encoder.strides == STRIDES.get(family, (4, 8, 16, 32))
    images = torch.rand(1, 3, 40, 57)
    height, width = model.prepare(images).shape[-2:]
    with torch.inference_mode():
        features = model.encode(images)
    assert len(features.maps) == len(features.priors) == 4
    for stride, channels, level, prior in zip(
        model.encoder.strides, model.encoder.channels, features.maps, features.priors, strict=True
    ):
        size = (math.ceil(height / stride), math.ceil(width / stride))
        assert level.shape == (1, channels, *size)
        assert prior.shape == (1, NUM_CLASSES, *size)


def test_without_semantic_layers_maps_are_timms(
    monkeypatch: pytest.MonkeyPatch, case: tuple[str, SegmentationModel]
) -> None:
    """timm's way to intermediate maps is another one than ours: the whole classifier, with its own weights.

    Swin V2 is the same where no map is padded after it was shifted, as at 64 px.
    """
    family, model = case
    spec = FAMILIES[family]
    options = {"img_size": CROP} if family in FIXED else OPTIONS.get(family, {})
    theirs = timm.create_model(spec.name, **options).eval()
    wake(theirs)
    monkeypatch.setattr(pretrained, "_hub_tensors", lambda _: dict(theirs.state_dict()))
    assert load_encoder(model.encoder, spec.name, "timm").share == 1.0
    if isinstance(spec, PyramidViTOptions) or getattr(spec, "polarized_attention", False):
        return
    model.train().eval()  # TinyViT keeps what it made of its tables until then
    for module in theirs.modules():
        if family == "hrnet" and isinstance(module, nn.Upsample):
            module.mode, module.align_corners = "bilinear", False
    images = torch.randn(1, 3, *((64, 64) if family == "swinv2" else CROP))
    with torch.inference_mode(), monkeypatch.context() as patch:
        patch.setitem(model.encoder._modules, "semantic", nn.ModuleList())
        expected = theirs.forward_intermediates(images, intermediates_only=True)[-4:]
        for ours, timms in zip(model.encoder(images).maps, expected, strict=True):
            torch.testing.assert_close(ours, timms, rtol=1e-4, atol=1e-4)


def test_images_of_a_batch_do_not_see_each_other(model: SegmentationModel) -> None:
    images = torch.rand(2, 3, 40, 57)
    with torch.inference_mode():
        together = model.scores(images)
        alone = model.scores(images[1:])
    torch.testing.assert_close(together[1:], alone, rtol=1e-4, atol=1e-5)


def test_what_a_semantic_layer_returns_flows_on(model: SegmentationModel) -> None:
    """Of all but a plain ViT's pyramid, whose levels are no stages: there it stays at its level."""
    images = torch.rand(1, 3, 32, 48)
    bias = model.encoder.semantic[0].norm.bias
    with torch.inference_mode():
        before = model.encode(images)
        bias += torch.randn_like(bias)
        after = model.encode(images)
    changed = [not torch.equal(a, b) for a, b in zip(before.maps, after.maps, strict=True)]
    assert changed == [True, *[not isinstance(model.encoder, SimplePyramidEncoder)] * 3]


def test_every_parameter_gets_a_gradient(case: tuple[str, SegmentationModel]) -> None:
    family, model = case
    model.train()
    for module in model.modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    wake(model)
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(0, NUM_CLASSES, (2, 64, 64))
    build_loss(recipe_of(family))(model(images), model.pad_labels(labels)).total.backward()
    alive = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    # A softmax does not see what all keys share: the gradient of such a bias is 0 but for rounding.
    shared = (".key.bias", ".rel_pos.mlp.fc2.bias")
    assert alive >= {name for name, _ in model.named_parameters() if not name.endswith(shared)}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["swinv2", "hiera", "mvitv2", "hrnet", "maxvit", "vit_pyramid_of_14"])
def test_export_equals_eager(family: str) -> None:
    model = build(recipe_of(family))
    wake(model)
    shapes = ({0: torch.export.Dim("batch", min=1, max=16)},)
    program = torch.export.export(model, (torch.rand(2, 3, *CROP),), dynamic_shapes=shapes)
    images = torch.rand(3, 3, *CROP)
    with torch.inference_mode():
        exported, eager = program.module()(images), model(images)
    torch.testing.assert_close(exported.main.logits, eager.main.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(exported.prior.logits, eager.prior.logits, rtol=1e-4, atol=1e-4)
