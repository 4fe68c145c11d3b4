from __future__ import annotations

from dataclasses import replace

import pytest

from semask.recipes import get_recipe
from semask.recipes import recipe as fields
from semask.recipes.protocols import PROTOCOLS, RATIOS, name_of, what_is_seen, with_protocol
from tests.facts import facts


@pytest.mark.parametrize(
    "name", ["ade20k/semask-swin-t-fpn", "cityscapes/seg-l-mask-16", "ade20k/semask-swin-l-mask2former"]
)
def test_the_recipes_are_tested_by_their_papers_protocol(name: str) -> None:
    recipe = get_recipe(name)
    paper = "segmenter" if "/seg" in name else "mask2former" if "mask2former" in name else "semask"
    assert name_of(recipe) == f"{paper}-ss"
    assert what_is_seen(*(with_protocol(recipe, f"{paper}-ss").data, recipe.test)) == what_is_seen(
        recipe.data, recipe.test
    )


def test_what_the_papers_say() -> None:
    ade = get_recipe("ade20k/seg-l-mask-16")
    windows = with_protocol(ade, "segmenter-ss").test
    assert (windows.window, windows.stride, windows.enlarge) == ((640, 640), (608, 608), True)
    several = with_protocol(ade, "segmenter-ms").test
    assert (several.scales, several.flip, several.mode) == ((0.5, 0.75, 1.0, 1.25, 1.5, 1.75), True, "sliding")
    masks = with_protocol(get_recipe("ade20k/semask-swin-l-mask2former"), "mask2former-ms")
    short = [int(min(masks.data.base_scale or ()) * ratio) for ratio in masks.test.scales]
    assert short == [320, 480, 640, 800, 960, 1120]
    assert max(masks.data.base_scale or ()) * max(RATIOS) == 4480
    assert masks.data.antialias
    city = with_protocol(get_recipe("cityscapes/semask-swin-l-mask2former"), "mask2former-ms")
    assert [int(min(city.data.base_scale or ()) * ratio) for ratio in city.test.scales] == [
        512,
        768,
        1024,
        1280,
        1536,
        1792,
    ]
    whole = with_protocol(ade, "semask-ms")
    assert (whole.test.mode, whole.test.flip, whole.data.antialias) == ("whole", True, False)


def test_names_are_found_again_and_speed_does_not_matter() -> None:
    recipe = get_recipe("ade20k/semask-swin-t-fpn")
    for name in PROTOCOLS:
        protocol = with_protocol(recipe, name)
        assert name_of(protocol) == name
        faster = replace(protocol.test, batch_size=7, memory_budget=2.0)
        assert name_of(replace(protocol, test=faster)) == name
    unused = replace(recipe, test=replace(recipe.test, window=(7, 7), blend="hann"))
    assert name_of(unused) == "semask-ss", "whole images have no windows"
    assert name_of(replace(recipe, test=fields.TestRecipe(scales=(0.9,)))) is None


def test_an_unknown_protocol_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=facts("'semask-sm'") + r".*'semask-[sm]s'"):
        with_protocol(get_recipe("ade20k/semask-swin-t-fpn"), "semask-sm")
    with pytest.raises(ValueError, match=facts("'x'", "semask-ss, semask-ms, segmenter-ss")):
        with_protocol(get_recipe("ade20k/semask-swin-t-fpn"), "x")
