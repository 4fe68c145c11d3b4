"""Recipes with a part of another kind."""

from __future__ import annotations

import pytest

from semask.models.build import build_on_meta
from semask.models.encoders.kinds import with_encoder
from semask.recipes import get_recipe
from semask.recipes.decoders import MSDeformOptions, UPerNetOptions
from semask.recipes.encoders import SemanticLayers, StageProbe
from semask.recipes.kinds import with_decoder, with_pixel_decoder, with_semantic
from tests.facts import facts

FPN, MASKS, PLAIN = "scenes/semask-micro-fpn", "scenes/semask-micro-mask2former", "scenes/micro-seg"


def test_a_kind_brings_its_own_defaults() -> None:
    assert with_decoder(get_recipe(FPN), "upernet").model.decoder == UPerNetOptions()
    masks = with_pixel_decoder(get_recipe(MASKS), "msdeform")
    assert masks.model.decoder.pixel_decoder == MSDeformOptions()
    assert with_encoder(get_recipe(FPN), "resnet18").model.encoder.name == "resnet18"
    build_on_meta(with_encoder(with_decoder(get_recipe(FPN), "upernet"), "resnet18"))


@pytest.mark.parametrize(("choice", "kind"), [("layers", SemanticLayers), ("probe", StageProbe), ("none", type(None))])
def test_what_follows_the_stages(choice: str, kind: type) -> None:
    recipe = get_recipe(FPN)
    changed = with_semantic(recipe, choice)
    assert type(changed.model.encoder.semantic) is kind
    if choice == "layers":
        assert changed == recipe  # its own layers stay as they are


def test_what_does_not_fit_is_refused() -> None:
    for call, told in (
        (lambda: with_decoder(get_recipe(FPN), "upernett"), ("'upernett'", "'upernet'")),
        (lambda: with_pixel_decoder(get_recipe(FPN), "fpn"), ("--pixel-decoder fpn", "semantic_fpn", "--decoder")),
        (lambda: with_pixel_decoder(get_recipe(MASKS), "fpnn"), ("'fpnn'", "'fpn'")),
        (lambda: with_semantic(get_recipe(FPN), "layer"), ("--semantic layer", "probe")),
        (lambda: with_semantic(get_recipe(PLAIN), "layers"), ("--semantic layers", "--encoder", "--decoder")),
        (lambda: with_encoder(get_recipe(FPN), "resnet1888"), ("resnet1888",)),
    ):
        with pytest.raises(ValueError, match=facts(*told)):
            call()
