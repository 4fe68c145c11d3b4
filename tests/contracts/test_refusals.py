"""What does not fit together says so, with the way to mend it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from semask.build import build_loss, build_model
from semask.models.meta import weightless
from semask.recipes import DecoderRecipe, EncoderRecipe, LossRecipe, ModelRecipe, Recipe
from tests.contracts.test_models import PLAIN, PYRAMIDS, mask_head, tiny


@pytest.mark.parametrize("images", [torch.zeros(3, 8, 8), torch.zeros(1, 4, 8, 8), torch.zeros(1, 3, 8, 8).byte()])
def test_odd_images_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"images must be floats \(b, 3, H, W\)"):
        tiny("swin", "semantic_fpn", semantic=False)(images)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vit_relpos_small_patch16_224",
            "'vit_relpos_small_patch16_224'.*224×224 px alone.*Use a backbone that is one",
        ),
        ("levit_128s", "'levit_128s'.*family levit.*224×224 px alone.*Use a backbone that is one"),
        ("efficientvit_m0", "'efficientvit_m0'.*Use a backbone that is one, such as swin"),
        ("nest_tiny", "'nest_tiny'.*Use a backbone that is one, such as swin"),
        ("shvit_s1", "'shvit_s1' .family shvit. is no ordered chain of four stages.*Use a backbone that is one"),
        ("mvitv2_base_cls", "class token hands on more than maps; use one without, such as mvitv2_tiny"),
    ],
)
def test_backbones_without_a_pyramid_are_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message), weightless():
        build_model(Recipe(name="test/x", model=ModelRecipe(encoder=EncoderRecipe(name=name))))


def test_unknown_names_suggest_near_ones() -> None:
    with pytest.raises(ValueError, match=r"no model called 'swin_tny'.*swin_"):
        build_model(Recipe(name="test/x", model=ModelRecipe(encoder=EncoderRecipe(name="swin_tny"))))
    with pytest.raises(ValueError, match=r"no model called 'vit_base_dinov3'.*vit_base_patch16_dinov3"):
        build_model(Recipe(name="test/x", model=ModelRecipe(encoder=EncoderRecipe(name="vit_base_dinov3"))))
    with pytest.raises(ValueError, match=r"no decoder called 'fpn'; there are: semantic_fpn, segformer"):
        build_model(Recipe(name="test/x", model=ModelRecipe(decoder=DecoderRecipe(name="fpn"))))
    with pytest.raises(ValueError, match="can be set for Swin only"):
        build_model(Recipe(name="test/x", model=ModelRecipe(encoder=EncoderRecipe(name="resnet18", embed_dim=8))))


@pytest.mark.parametrize(
    ("encoder", "decoder", "message"),
    [
        (PLAIN["vit"], DecoderRecipe(), "semantic_fpn reads a pyramid.*--model.encoder.simple-pyramid true"),
        (
            PYRAMIDS["swin"],
            DecoderRecipe(name="segmenter_mask"),
            "read one map, and this encoder gives 4; say which with",
        ),
        (
            dataclasses.replace(PLAIN["vit"], semantic_layers=True),
            DecoderRecipe(name="segmenter_linear"),
            "plain ViT without stages.*--model.encoder.simple-pyramid true.*hierarchical backbone",
        ),
        (
            dataclasses.replace(PYRAMIDS["resnet"], norm_eps=1e-5),
            DecoderRecipe(),
            "norm_eps can be set for plain ViTs only.*--model.encoder.norm-eps None",
        ),
        (
            dataclasses.replace(PLAIN["vit"], window_size=7),
            DecoderRecipe(name="segmenter_linear"),
            "window_size can be set for Swin only",
        ),
        (
            dataclasses.replace(PLAIN["dinov2"], position_resize="bilinear"),
            DecoderRecipe(name="segmenter_linear"),
            "no position table with a row for every token.*--model.encoder.position-resize None",
        ),
        (
            dataclasses.replace(PLAIN["vit"], drop_path=1.5),
            DecoderRecipe(),
            r"model.encoder.drop_path .* in \[0, 1\), got 1.5",
        ),
        (PLAIN["vit"], DecoderRecipe(dropout=-0.1), r"model.decoder.dropout is a rate and lies in \[0, 1\), got -0.1"),
        (PLAIN["vit"], DecoderRecipe(name="segmenter_mask", layers=0), "at least 1 layer, got 0"),
        (PYRAMIDS["resnet"], DecoderRecipe(name="mask2former"), "needs a pixel decoder, got None.*start from a recipe"),
        (PLAIN["vit"], mask_head("mask2former", "fpn"), "mask2former reads a pyramid"),
        *(
            (
                PYRAMIDS["resnet"],
                dataclasses.replace(mask_head("mask2former", "msdeform"), **{name: 0}),
                f"{name} must be",
            )
            for name in ("queries", "layers", "heads", "feedforward", "pixel_layers", "pixel_feedforward")
        ),
        (
            PYRAMIDS["resnet"],
            dataclasses.replace(mask_head("maskformer", "fpn"), drop_path=0.1, feature_selection=True),
            "maskformer over fpn has no drop_path, feature_selection",
        ),
        (
            PYRAMIDS["resnet"],
            DecoderRecipe(name="ocr", auxiliary=True),
            "ocr has no auxiliary heads, which .*fcn.* have; leave --model.decoder.aux",
        ),
        (PYRAMIDS["resnet"], DecoderRecipe(name="fcn", neck=8), "fcn has no neck; leave --model.decoder.neck out"),
        (PYRAMIDS["resnet"], DecoderRecipe(neck=0), "at least 1 channel wide, got 0; model.decoder.neck None"),
        (PYRAMIDS["resnet"], DecoderRecipe(name="ccnet", window_size=7), "ccnet has no window_size"),
        (PYRAMIDS["resnet"], DecoderRecipe(name="psanet", window_size=0), "number of cells ≥ 1, got 0"),
        (PLAIN["vit"], DecoderRecipe(name="upernet"), "upernet reads a pyramid of maps"),
        (PYRAMIDS["resnet"], DecoderRecipe(pixel_decoder="fapn"), "semantic_fpn has no pixel_decoder"),
        (
            PYRAMIDS["resnet"],
            dataclasses.replace(mask_head("mask2former", "fpn"), channels=48),
            "32 groups of two channels or more cannot share 48 channels",
        ),
        (
            PYRAMIDS["resnet"],
            dataclasses.replace(mask_head("mask2former", "fpn"), heads=3),
            "3 heads cannot share a width of 64",
        ),
        (PLAIN["vit"], DecoderRecipe(name="segmenter_mask", channels=0), "at least 1 channel wide, got 0"),
        (PYRAMIDS["resnet"], DecoderRecipe(channels=0), "at least 1 channel wide, got 0"),
        (
            PLAIN["vit"],
            DecoderRecipe(name="segmenter_linear", single_scale="fused"),
            r"gives one map already.*--model.decoder.single-scale None",
        ),
        (
            dataclasses.replace(PLAIN["segmenter"], image_size=(64, 128)),
            DecoderRecipe(name="segmenter_linear"),
            "image_size makes one of 4×8 patches; give a square",
        ),
        (
            dataclasses.replace(PLAIN["vit"], image_size=(100, 100)),
            DecoderRecipe(name="segmenter_linear"),
            r"image_size \(100, 100\) is no multiple of .* patches of 16 px",
        ),
        (PLAIN["vit"], DecoderRecipe(name="segmenter_mask", channels=200), "3 heads cannot share a width of 200"),
    ],
)
def test_parts_that_do_not_fit_say_so(encoder: EncoderRecipe, decoder: DecoderRecipe, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(Recipe(name="test/x", model=ModelRecipe(encoder=encoder, decoder=decoder)))


def test_hardest_pixels_are_not_for_masks() -> None:
    recipe = Recipe(
        name="test/x", model=ModelRecipe(decoder=mask_head("mask2former", "fpn")), loss=LossRecipe(ohem_pixels=9)
    )
    with pytest.raises(ValueError, match="keeps no hardest pixels; say --loss"):
        build_loss(recipe)


@pytest.mark.parametrize("num_classes", [0, 1, -1, 256])
def test_class_counts_out_of_range(num_classes: int) -> None:
    with pytest.raises(ValueError, match="num_classes must lie in"):
        build_model(Recipe(name="test/x", model=ModelRecipe(num_classes=num_classes)))


def test_a_channel_is_not_divided_by_nothing() -> None:
    with pytest.raises(ValueError, match=r"model.std .* above 0, got 0.2 0 0.2; where a channel has one value"):
        build_model(Recipe(name="test/x", model=ModelRecipe(std=(0.2, 0.0, 0.2))))
