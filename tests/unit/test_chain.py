"""timm backbones as chains: dilation, images of any size, and what is refused."""

from __future__ import annotations

import math

import pytest
import timm
import torch

from semask.build import build_encoder
from semask.models.meta import weightless
from semask.recipes import EncoderRecipe

DILATED = {8: (4, 8, 8, 8), 16: (4, 8, 16, 16), 32: (4, 8, 16, 32)}


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("resnet50c", 32),
        ("resnet50c", 16),
        ("resnet101c", 8),
        ("resnest101e", 8),
        ("resnest200e", 16),
        ("xception71", 8),
        ("xception71", 16),
    ],
)
def test_the_last_stages_can_be_dilated(name: str, stride: int) -> None:
    """Strides do not grow, and sides need not be multiples of anything."""
    with weightless():
        encoder = build_encoder(EncoderRecipe(name=name, output_stride=stride), 3)
        maps = encoder(torch.empty(2, 3, 97, 131)).maps
    assert encoder.strides == DILATED[stride]
    assert encoder.size_multiple == 1
    for step, channels, level in zip(encoder.strides, encoder.channels, maps, strict=True):
        assert level.shape == (2, channels, math.ceil(97 / step), math.ceil(131 / step))


@pytest.mark.parametrize("stride", [8, 32])
def test_xceptions_stages_run_as_timms_network(stride: int) -> None:
    """Its maps end before each block that halves, where timm's taps are inside the blocks: the last one is the same."""
    encoder = build_encoder(EncoderRecipe(name="xception41", output_stride=stride), 3).eval()
    theirs = timm.create_model("xception41", output_stride=stride).eval()
    blocks = {f"blocks_{place}": block for place, block in enumerate(theirs.blocks)}
    for name, module in encoder.chain.items():
        module.load_state_dict((theirs.stem if name == "stem" else blocks[name]).state_dict())
    images = torch.randn(1, 3, 33, 45)
    with torch.inference_mode():
        maps, expected = encoder(images).maps, theirs.forward_features(images)
    assert [level.shape[1] for level in maps] == [128, 256, 728, 2048] == list(encoder.channels)
    assert torch.equal(maps[-1], expected)


def test_what_a_backbone_does_not_have_is_refused() -> None:
    for spec, message in (
        (
            EncoderRecipe(name="convnext_atto", output_stride=8),
            "output_stride can be set for ResNets.*output-stride 32",
        ),
        (EncoderRecipe(name="resnet18", polarized_attention=True), "polarized_attention can be set for HRNets only"),
        (EncoderRecipe(name="resnet18", image_size=(64, 64)), "image_size can be set for plain ViTs and families of a"),
        (EncoderRecipe(name="resnet18", simple_pyramid=True), "simple_pyramid can be set for plain ViTs only"),
        (EncoderRecipe(name="inception_v3"), "family inception_v3. is no ordered chain of four stages"),
        (EncoderRecipe(name="selecsls42"), "family selecsls. is no ordered chain of four stages"),
        (
            EncoderRecipe(name="hrnet_w18_small", drop_path=0.1),
            "no stochastic depth, not 0.1; say --model.encoder.drop-path 0",
        ),
        (EncoderRecipe(name="hrnet_w18_small", window_size=7), "window_size can be set for Swin only"),
    ):
        with pytest.raises(ValueError, match=message), weightless():
            build_encoder(spec, 3)


def test_swinv2_large_of_the_papers_row() -> None:
    spec = EncoderRecipe(name="swinv2_large_window12to24_192to384.ms_in22k_ft_in1k", semantic_layers=True)
    with weightless():
        encoder = build_encoder(spec, 150, crop=(640, 640))
    backbone = sum(parameter.numel() for parameter in encoder.chain.parameters())
    theirs = timm.create_model("swinv2_large_window12to24_192to384", num_classes=0, device="meta")
    assert backbone == sum(p.numel() for name, p in theirs.named_parameters() if not name.startswith("norm."))
    assert encoder.channels == (192, 384, 768, 1536)
    assert [stage.blocks[0].window_size for stage in list(encoder.chain.values())[1:]] == [24, 24, 24, 20]
