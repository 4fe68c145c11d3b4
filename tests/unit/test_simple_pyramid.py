"""A plain ViT's pyramid against ViTDet's arithmetic, written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask.models.build import build, build_encoder
from semask.models.encoders.kinds import encoder_options
from semask.recipes import ModelRecipe, Recipe
from semask.recipes.decoders import decoder_options
from semask.recipes.encoders import SemanticLayers, StageProbe
from semask.training.frozen import check_frozen
from tests.contracts.test_models import mask_head
from tests.facts import facts

VIT = encoder_options("vit_tiny_patch16_224", pyramid=True, image_size=(64, 64))


def channel_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """LayerNorm at every place, by its definition."""
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    normalised = (x - mean) / (variance + 1e-6).sqrt()
    return normalised * norm.weight[:, None, None] + norm.bias[:, None, None]


def test_levels_are_vitdets() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(VIT, 3).eval()
    for parameter in encoder.levels.parameters():
        nn.init.normal_(parameter, std=0.1)
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        found = encoder(images).maps
        (last,) = encoder.plain(images).maps
        for level, maps in zip(encoder.levels, found, strict=True):
            doublings = [(step.weight, step.bias) for step in level.resize]
            x = last
            if level is encoder.levels[0]:
                x = F.gelu(channel_norm(F.conv_transpose2d(x, *doublings[0], stride=2), level.between_norm))
                x = F.conv_transpose2d(x, *doublings[1], stride=2)
            elif level is encoder.levels[1]:
                x = F.conv_transpose2d(x, *doublings[0], stride=2)
            elif level is encoder.levels[3]:
                x = x.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).amax((-3, -1))
            x = channel_norm(F.conv2d(x, level.reduce.weight), level.reduce_norm)
            x = channel_norm(F.conv2d(x, level.smooth.weight, padding=1), level.smooth_norm)
            torch.testing.assert_close(maps, x, rtol=1e-4, atol=1e-4)
    assert [tuple(level.shape[1:]) for level in found] == [(256, 16, 24), (256, 8, 12), (256, 4, 6), (256, 2, 3)]


@pytest.mark.parametrize(
    ("patch", "strides"), [(8, (2, 4, 8, 16)), (14, (3.5, 7, 14, 28)), (16, (4, 8, 16, 32)), (10, (2.5, 5, 10, 20))]
)
def test_strides_are_fractions_where_they_must_be(patch: int, strides: tuple[float, ...]) -> None:
    spec = encoder_options(VIT.name, pyramid=True, patch_size=patch, image_size=(4 * patch, 4 * patch))
    encoder = build_encoder(spec, 3)
    assert encoder.strides == strides
    assert encoder.size_multiple == 2 * patch


@pytest.mark.parametrize("decoder", ["fpn", "msdeform"])
def test_mask_classifiers_get_a_prior_that_aligns_the_corners_of_the_padded_image(decoder: str) -> None:
    """Patches of 14 px: the finest map has a stride of 3.5."""
    spec = encoder_options(VIT.name, pyramid=True, patch_size=14, image_size=(56, 56), semantic=SemanticLayers())
    model = ModelRecipe(encoder=spec, decoder=mask_head("mask2former", decoder), num_classes=3)
    built = build(Recipe(name="test/x", model=model))
    images = torch.rand(1, 3, 40, 50)
    with torch.inference_mode():
        prior = built(images).prior
        assert built.prepare(images).shape[-2:] == (224, 224)
        assert prior.align_corners
        assert prior.logits.shape[-2:] == (64, 64)


def test_segmenters_encoder_is_the_same_within() -> None:
    pyramid = build_encoder(VIT, 3).eval()
    plain = build_encoder(encoder_options(VIT.name, image_size=(64, 64)), 3).eval()
    plain.load_state_dict(pyramid.plain.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(plain(images).maps[0], pyramid.plain(images).maps[0])


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(ValueError, match=facts("pyramid_vit", "out_layers")):
        encoder_options(VIT.name, pyramid=True, out_layers=(2, 4))
    with pytest.raises(ValueError, match=facts("vit", "semantic")):
        encoder_options(VIT.name, semantic=StageProbe(reads="features"))
    recipe = Recipe(name="test/x", model=ModelRecipe(encoder=VIT, decoder=decoder_options("semantic_fpn")))
    frozen = Recipe(**{**vars(recipe), "train": type(recipe.train)(freeze_encoder=True)})
    with pytest.raises(ValueError, match=facts("--train.freeze-encoder false", "--decoder segmenter_linear")):
        check_frozen(frozen, 1)
