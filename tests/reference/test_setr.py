"""SETR against mmsegmentation's fixtures: the maps of four layers, main and auxiliary logits."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from semask import recipes
from semask.checkpoints.convert import load_published
from semask.checkpoints.rules import setr
from semask.models.build import build, build_encoder
from semask.models.meta import on_meta_device
from semask.structures import PixelLogits
from tests.reference.synthetic_weights import (
    FIXTURES,
    arrays,
    assert_close,
    checkpoint,
    layout,
    synthetic_image,
    synthetic_tensor,
    tensors_named,
)

TOLERANCE = 1e-4
NAIVE, NAIVE_ODD, PUP = "setr_naive_vit_l_150_64x96", "setr_naive_vit_l_150_97x131", "setr_pup_vit_l_150_64x96"
RECIPES = {
    NAIVE: "ade20k/setr-naive-vit-l",
    NAIVE_ODD: "ade20k/setr-naive-vit-l",
    PUP: "ade20k/setr-pup-vit-l",
}


def test_every_fixture_is_covered() -> None:
    assert {path.name.split(".")[0] for path in (FIXTURES / "mmsegmentation").glob("setr_*")} == set(RECIPES)


@pytest.fixture(scope="module")
def made() -> dict[str, Tensor]:
    """The tensors of ten layers, the same in all fixtures."""
    return {}


@pytest.fixture(scope="module")
def backbone() -> dict[str, Tensor]:
    """The tensors of all layers."""
    return {}


def image_of(name: str) -> Tensor:
    spec = layout(f"mmsegmentation/{name}")["input"]
    return synthetic_image(spec["height"], spec["width"])


def assert_prediction(name: str, maps: tuple[Tensor, ...], out: PixelLogits) -> None:
    stored = arrays(f"mmsegmentation/{name}")
    for stage, level in enumerate(maps):
        assert_close(stored, f"feat_stage{stage}", level, TOLERANCE)
    assert_close(stored, "main_logits", out.logits, TOLERANCE)
    assert len(out.auxiliary) == 3
    for level, auxiliary in enumerate(out.auxiliary):
        assert_close(stored, f"aux{level}_logits", auxiliary.logits, TOLERANCE)


@pytest.mark.parametrize("name", RECIPES)
def test_ten_layers_and_the_head_above_them(made: dict[str, Tensor], name: str) -> None:
    """What the whole models below need half a minute for is 300 million random numbers."""
    for key, spec in tensors_named(f"mmsegmentation/{name}").items():
        layer = re.match(r"backbone\.layers\.(\d+)\.", key)
        if key not in made and "_head" not in key and (layer is None or int(layer[1]) < 10):
            made[key] = synthetic_tensor(key, tuple(spec["shape"]))
    recipe = recipes.get_recipe(RECIPES[name])
    heads = {
        key: synthetic_tensor(key, tuple(spec["shape"]), spec["dtype"])
        for key, spec in tensors_named(f"mmsegmentation/{name}").items()
        if key.startswith("auxiliary_head.0.")
    }
    found = setr.translate(made | heads, recipe).tensors
    with on_meta_device():
        encoder = build_encoder(dataclasses.replace(recipe.model.encoder, out_layers=(10,)), recipe.model.num_classes)
        head = build(recipe).decoder.heads[0].eval()
    encoder.load_state_dict(
        {key.removeprefix("encoder."): value for key, value in found.items() if key.startswith("encoder.")}, assign=True
    )
    head.load_state_dict(
        {key.removeprefix("decoder.heads.0."): value for key, value in found.items() if key.startswith("decoder.")},
        assign=True,
    )
    image = image_of(name)
    padded = F.pad(image, (0, -image.shape[-1] % 16, 0, -image.shape[-2] % 16))
    stored = arrays(f"mmsegmentation/{name}")
    with torch.inference_mode():
        (level,) = encoder(padded).maps
        assert_close(stored, "feat_stage0", level, TOLERANCE)
        assert_close(stored, "aux0_logits", head(level), TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", [NAIVE, NAIVE_ODD, PUP])
def test_whole_models(name: str, backbone: dict[str, Tensor]) -> None:
    model = load_published(checkpoint(f"mmsegmentation/{name}", backbone), RECIPES[name])
    image = image_of(name) * model.std + model.mean
    with torch.inference_mode():
        features, out, scores = model.encode(image), model(image).main, model.scores(image)
    assert isinstance(out, PixelLogits)
    assert_prediction(name, features.maps, out)
    stored = arrays(f"mmsegmentation/{name}")
    if image.shape[-2] % 16 == image.shape[-1] % 16 == 0:
        assert_close(stored, "main_up", scores, TOLERANCE)
    else:
        # They squeeze the padding into the image, we cut it off.
        squeezed = F.interpolate(out.logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
        assert_close(stored, "main_up", squeezed, TOLERANCE)
        with pytest.raises(AssertionError):
            assert_close(stored, "main_up", scores, TOLERANCE)
