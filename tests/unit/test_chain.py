"""timm backbones as chains: dilation, images of any size, and what is refused."""

from __future__ import annotations

import math

import pytest
import timm
import torch

from semask.models.build import build_encoder
from semask.models.encoders.kinds import encoder_options
from semask.models.meta import on_meta_device
from semask.recipes.encoders import SemanticLayers
from tests.facts import facts

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
    with on_meta_device():
        encoder = build_encoder(encoder_options(name, output_stride=stride), 3)
        maps = encoder(torch.empty(2, 3, 97, 131)).maps
    assert encoder.strides == DILATED[stride]
    assert encoder.size_multiple == 1
    for step, channels, level in zip(encoder.strides, encoder.channels, maps, strict=True):
        assert level.shape == (2, channels, math.ceil(97 / step), math.ceil(131 / step))


@pytest.mark.parametrize("stride", [8, 32])
def test_xceptions_stages_run_as_timms_network(stride: int) -> None:
    """Its maps end before each block that halves, where timm's taps are inside the blocks: the last one is the same."""
    encoder = build_encoder(encoder_options("xception41", output_stride=stride), 3).eval()
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
    for name, told in (
        ("inception_v3", ("'inception_v3'", "swin")),
        ("selecsls42", ("'selecsls42'", "selecsls", "swin")),
    ):
        with pytest.raises(ValueError, match=facts(*told)), on_meta_device():
            build_encoder(encoder_options(name), 3)
    for name, field in (
        ("convnext_atto", "output_stride"),
        ("resnet18", "polarized_attention"),
        ("resnet18", "image_size"),
        ("hrnet_w18_small", "window_size"),
    ):
        with pytest.raises(ValueError, match=facts(field)):
            encoder_options(name, **{field: 8})


def test_swinv2_large_of_the_papers_row() -> None:
    spec = encoder_options("swinv2_large_window12to24_192to384.ms_in22k_ft_in1k", semantic=SemanticLayers())
    with on_meta_device():
        encoder = build_encoder(spec, 150, crop=(640, 640))
    backbone = sum(parameter.numel() for parameter in encoder.chain.parameters())
    theirs = timm.create_model("swinv2_large_window12to24_192to384", num_classes=0, device="meta")
    assert backbone == sum(p.numel() for name, p in theirs.named_parameters() if not name.startswith("norm."))
    assert encoder.channels == (192, 384, 768, 1536)
    assert [stage.blocks[0].window_size for stage in list(encoder.chain.values())[1:]] == [24, 24, 24, 20]
