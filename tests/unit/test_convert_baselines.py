"""mmsegmentation's baselines: what their files' names and shapes become, and what is said of those that do not fit."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import PatchMerging

from semask import recipes
from semask.checkpoints.convert import load_published
from semask.checkpoints.rules import mmsegmentation
from semask.checkpoints.rules.mmsegmentation import merged_as_originally
from semask.models.build import build_on_meta
from tests.facts import facts
from tests.reference.synthetic_weights import hollow_checkpoint

ROWS = {
    "fcn_r101_d8": "ade20k/fcn-r101",
    "ccnet_r101_d8": "ade20k/ccnet-r101",
    "psanet_r101_d8": "ade20k/psanet-r101",
    "deeplabv3plus_r101_d8": "ade20k/deeplabv3plus-r101",
    "ocrnet_hr48": "ade20k/ocrnet-hr48",
    "semfpn_r50": "ade20k/semfpn-r50",
    "upernet_swin_t": "ade20k/upernet-swin-t",
}


def file_of(name: str) -> dict[str, torch.Tensor]:
    return hollow_checkpoint(f"mmsegmentation/{name}_150_64x96")


def test_patches_are_merged_in_the_original_order() -> None:
    """Theirs unfolds: (channel, row, column); ours lays channels of one neighbour after the other's."""
    merging = PatchMerging(6, 12)
    norm = torch.randn(24), torch.randn(24)
    weight = torch.randn(12, 24)
    x = torch.randn(2, 8, 10, 6)
    unfolded = F.unfold(x.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)
    expected = F.layer_norm(unfolded, (24,), *norm) @ weight.T
    state = {"norm.weight": norm[0], "norm.bias": norm[1], "reduction.weight": weight}
    merging.load_state_dict(
        {key: merged_as_originally(f"backbone.stages.0.downsample.{key}", value) for key, value in state.items()}
    )
    with torch.inference_mode():
        torch.testing.assert_close(merging(x).flatten(1, 2), expected)
    other = torch.randn(24)
    assert merged_as_originally("backbone.stages.0.blocks.0.norm1.weight", other) is other


@pytest.mark.parametrize("name", ROWS)
def test_every_tensor_finds_its_place(name: str) -> None:
    tensors, recipe = file_of(name), recipes.get_recipe(ROWS[name])
    wanted = {key: value.shape for key, value in build_on_meta(recipe).state_dict().items()}
    translation = mmsegmentation.translate(tensors, recipe)
    assert {key: value.shape for key, value in translation.tensors.items()} == wanted
    of_classes = {key for key in wanted if mmsegmentation.CLASS_TENSORS.fullmatch(key)}
    assert of_classes == {key for key, shape in wanted.items() if shape[:1] == (150,)}


def test_files_of_the_authors_of_swin_are_read_too() -> None:
    """Their UPerNet is mmsegmentation's, their names of the backbone are those that SeMask took over."""
    backbone = {key: value for key, value in hollow_checkpoint("swin_t_fpn_150_64x96").items() if "backbone" in key}
    heads = {key: value for key, value in file_of("upernet_swin_t").items() if "backbone" not in key}
    recipe = recipes.get_recipe("ade20k/upernet-swin-t")
    found = mmsegmentation.translate(backbone | heads, recipe).tensors
    assert {key: value.shape for key, value in found.items()} == {
        key: value.shape for key, value in build_on_meta(recipe).state_dict().items()
    }


@pytest.mark.parametrize("name", ["fcn_r101_d8", "upernet_swin_t"])
def test_a_recipe_without_an_auxiliary_head_leaves_it_out(name: str) -> None:
    recipe = recipes.get_recipe(ROWS[name])
    decoder = dataclasses.replace(recipe.model.decoder, auxiliary=False)
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, decoder=decoder))
    found = mmsegmentation.translate(file_of(name), recipe).tensors
    assert set(found) == set(build_on_meta(recipe).state_dict())


@pytest.mark.slow
def test_the_message_names_the_recipe_that_fits() -> None:
    """Seconds, for it builds the encoders of all rows before that."""
    with pytest.raises(ValueError, match=facts(7, "'ade20k/ccnet-r101'") + r".*decode_head\.cca"):
        load_published(file_of("ccnet_r101_d8"), "ade20k/fcn-r101")


def test_another_class_count_is_said() -> None:
    tensors = file_of("semfpn_r50")
    recipe = recipes.get_recipe("ade20k/semfpn-r50")
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, num_classes=9))
    with pytest.raises(ValueError, match=facts(150, 9, "num_classes=9")):
        load_published(tensors, recipe)


def test_unknown_tensors_keep_their_name() -> None:
    recipe = recipes.get_recipe("ade20k/fcn-r101")
    file = file_of("fcn_r101_d8") | {"ema.decay": torch.zeros(1)}
    with pytest.raises(ValueError, match=facts("'ade20k/fcn-r101'", 1, "ema.decay")):
        load_published(file, recipe)
