"""What does not fit together says so, with the way to mend it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from semask.losses.build import build_loss
from semask.models.build import build
from semask.models.encoders.kinds import encoder_options
from semask.models.meta import on_meta_device
from semask.recipes import LossRecipe, ModelRecipe, Recipe
from semask.recipes.decoders import DecoderOptions, MSDeformOptions, decoder_options
from semask.recipes.encoders import EncoderOptions, SemanticLayers, SwinOptions
from tests.contracts.test_models import PLAIN, PYRAMIDS, mask_head, tiny
from tests.facts import facts


@pytest.mark.parametrize("images", [torch.zeros(3, 8, 8), torch.zeros(1, 4, 8, 8), torch.zeros(1, 3, 8, 8).byte()])
def test_odd_images_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=facts("(b, 3, H, W)", images.dtype, tuple(images.shape))):
        tiny("swin", "semantic_fpn", semantic=False)(images)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("vit_relpos_small_patch16_224", ("'vit_relpos_small_patch16_224'", "224×224", "swin", "convnext")),
        ("levit_128s", ("'levit_128s'", "levit", "224×224", "swin", "convnext")),
        ("efficientvit_m0", ("'efficientvit_m0'", "efficientvit_msra", "swin")),
        ("nest_tiny", ("'nest_tiny'", "nest", "swin")),
        ("shvit_s1", ("'shvit_s1'", "shvit", "timm", "swin")),
        ("mvitv2_base_cls", ("MViTv2", "mvitv2_tiny")),
    ],
)
def test_backbones_without_a_pyramid_are_refused(name: str, told: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=facts(*told)), on_meta_device():
        build(Recipe(name="test/x", model=ModelRecipe(encoder=encoder_options(name))))


def test_unknown_names_suggest_near_ones() -> None:
    with pytest.raises(ValueError, match=facts("'swin_tny'", "swin_s3_tiny_224")):
        build(Recipe(name="test/x", model=ModelRecipe(encoder=encoder_options("swin_tny"))))
    with pytest.raises(ValueError, match=facts("'vit_base_dinov3'", "vit_base_patch16_dinov3")):
        build(Recipe(name="test/x", model=ModelRecipe(encoder=encoder_options("vit_base_dinov3"))))
    with pytest.raises(ValueError, match=facts("'fpn'", "semantic_fpn, segformer")):
        build(Recipe(name="test/x", model=ModelRecipe(decoder=decoder_options("fpn"))))
    with pytest.raises(ValueError, match=facts("'resnest18'", "resnest14d")):
        encoder_options("resnest18")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (lambda: encoder_options("resnet18", embed_dim=8), ("dilatable", "embed_dim")),
        (lambda: encoder_options("resnet18", norm_eps=1e-5), ("dilatable", "norm_eps")),
        (lambda: encoder_options("vit_tiny_patch16_224", window_size=7), ("vit", "window_size")),
        (lambda: encoder_options("vit_tiny_patch16_224", semantic=SemanticLayers()), ("vit", "semantic")),
        (lambda: encoder_options("hrnet_w18_small", drop_path=0.1), ("hrnet", "drop_path")),
        (lambda: decoder_options("maskformer", drop_path=0.1), ("maskformer", "drop_path")),
        (lambda: decoder_options("ocr", auxiliary=True), ("ocr", "auxiliary")),
        (lambda: decoder_options("ccnet", window_size=7), ("ccnet", "window_size")),
        (lambda: decoder_options("semantic_fpn", pixel_decoder=None), ("semantic_fpn", "pixel_decoder")),
    ],
)
def test_options_of_another_kind_do_not_exist(options: Callable[[], object], told: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=facts(*told)):
        options()


def test_options_of_another_kind_than_the_name_are_refused() -> None:
    with pytest.raises(ValueError, match=facts("'resnet18'", "dilatable", "swin", "--encoder resnet18")):
        build(Recipe(name="test/x", model=ModelRecipe(encoder=SwinOptions(name="resnet18"))))


@pytest.mark.parametrize(
    ("encoder", "decoder", "told"),
    [
        (PLAIN["vit"], decoder_options("semantic_fpn"), ("semantic_fpn", 16, "--encoder", "--decoder segmenter_mask")),
        (
            PYRAMIDS["swin"],
            decoder_options("segmenter_mask"),
            ("Segmenter", 4, "--model.decoder.single-scale last"),
        ),
        (
            dataclasses.replace(PLAIN["dinov2"], position_resize="bilinear"),
            decoder_options("segmenter_linear"),
            ("position_resize", "'bilinear'", "VisionTransformer", "--model.encoder.position-resize None"),
        ),
        (
            dataclasses.replace(PLAIN["vit"], drop_path=1.5),
            decoder_options("semantic_fpn"),
            ("model.encoder.drop_path", "[0, 1)", 1.5),
        ),
        (PLAIN["vit"], decoder_options("semantic_fpn", dropout=-0.1), ("model.decoder.dropout", "[0, 1)", -0.1)),
        (PLAIN["vit"], decoder_options("segmenter_mask", layers=0), ("model.decoder.layers", 1, 0)),
        (PLAIN["vit"], mask_head("mask2former", "fpn"), ("mask2former", 16, "--encoder")),
        *(
            (
                PYRAMIDS["resnet"],
                dataclasses.replace(mask_head("mask2former", "msdeform"), **{name: 0}),
                (f"model.decoder.{name}", 1, 0),
            )
            for name in ("queries", "layers", "heads", "feedforward")
        ),
        *(
            (
                PYRAMIDS["resnet"],
                decoder_options("mask2former", pixel_decoder=MSDeformOptions(**{name: 0})),
                (f"model.decoder.pixel_decoder.{name}", 1, 0),
            )
            for name in ("layers", "feedforward")
        ),
        (PYRAMIDS["resnet"], decoder_options("semantic_fpn", neck=0), ("model.decoder.neck", 1, 0)),
        (PYRAMIDS["resnet"], decoder_options("psanet", window_size=0), ("window_size", 1, 0)),
        (PLAIN["vit"], decoder_options("upernet"), ("upernet", 16, "--encoder")),
        (
            PYRAMIDS["resnet"],
            dataclasses.replace(mask_head("mask2former", "fpn"), channels=48),
            (32, 48, 64),
        ),
        (
            PYRAMIDS["resnet"],
            dataclasses.replace(mask_head("mask2former", "fpn"), heads=3),
            (3, 64),
        ),
        (PLAIN["vit"], decoder_options("segmenter_mask", channels=0), ("model.decoder.channels", 1, 0)),
        (PYRAMIDS["resnet"], decoder_options("semantic_fpn", channels=0), ("model.decoder.channels", 1, 0)),
        (
            PLAIN["vit"],
            decoder_options("segmenter_linear", single_scale="fused"),
            ("single_scale", "'fused'", "--model.decoder.single-scale None"),
        ),
        (
            dataclasses.replace(PLAIN["segmenter"], image_size=(64, 128)),
            decoder_options("segmenter_linear"),
            ("position_resize", "image_size", "4×8"),
        ),
        (
            dataclasses.replace(PLAIN["vit"], image_size=(100, 100)),
            decoder_options("segmenter_linear"),
            ("image_size", (100, 100), "'vit_tiny_patch16_224'", 16),
        ),
        (PLAIN["vit"], decoder_options("segmenter_mask", channels=200), (3, 200)),
    ],
)
def test_parts_that_do_not_fit_say_so(
    encoder: EncoderOptions, decoder: DecoderOptions, told: tuple[object, ...]
) -> None:
    with pytest.raises(ValueError, match=facts(*told)):
        build(Recipe(name="test/x", model=ModelRecipe(encoder=encoder, decoder=decoder)))


def test_hardest_pixels_are_not_for_masks() -> None:
    recipe = Recipe(
        name="test/x", model=ModelRecipe(decoder=mask_head("mask2former", "fpn")), loss=LossRecipe(ohem_pixels=9)
    )
    with pytest.raises(ValueError, match=facts("mask2former", "--loss.ohem-pixels None")):
        build_loss(recipe)


@pytest.mark.parametrize("num_classes", [0, 1, -1, 256])
def test_class_counts_out_of_range(num_classes: int) -> None:
    with pytest.raises(ValueError, match=facts("num_classes", "2 … 255", num_classes)):
        build(Recipe(name="test/x", model=ModelRecipe(num_classes=num_classes)))


def test_a_channel_is_not_divided_by_nothing() -> None:
    with pytest.raises(ValueError, match=facts("model.std", 0, "--model.std")):
        build(Recipe(name="test/x", model=ModelRecipe(std=(0.2, 0.0, 0.2))))
