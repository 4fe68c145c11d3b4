"""Backbones of one image size: where the size comes from, what is refused, and weights of another size."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed

from semask.checkpoints import pretrained
from semask.checkpoints.pretrained import load_encoder
from semask.inference import sliding
from semask.models.build import build, build_encoder
from semask.models.encoders.kinds import encoder_options
from semask.models.model import SegmentationModel
from semask.recipes import DataRecipe, ModelRecipe, Recipe
from semask.recipes.decoders import decoder_options
from tests.facts import facts

MAXVIT = "maxvit_rmlp_pico_rw_256"
FIXED = [MAXVIT, "coatnet_pico_rw_224", "gcvit_xxtiny", "hiera_tiny_224", "swinv2_cr_tiny_ns_224"]


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    spec = ModelRecipe(
        encoder=encoder_options(MAXVIT), decoder=decoder_options("semantic_fpn", channels=16), num_classes=3
    )
    return build(Recipe(name="test/fixed", model=spec, data=DataRecipe(crop=(64, 96))))


def test_the_size_is_the_crops_unless_the_recipe_says_another() -> None:
    assert build_encoder(encoder_options(MAXVIT), 3, crop=(64, 32)).fixed_size == (64, 32)
    assert build_encoder(encoder_options(MAXVIT, image_size=(32, 96)), 3, crop=(64, 64)).fixed_size == (32, 96)
    assert build_encoder(encoder_options("resnet18"), 3, crop=(64, 32)).fixed_size is None


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("crop", [(65, 96), (64, 100), (64, 16)])
def test_sizes_that_a_family_refuses(name: str, crop: tuple[int, int]) -> None:
    near = " ".join(str(max(32, round(side / 32) * 32)) for side in crop)
    with pytest.raises(ValueError, match=facts(repr(name), 32, *crop, f"--data.crop {near}")):
        build_encoder(encoder_options(name), 3, crop=crop)


def test_smaller_images_are_padded_up_to_it(model: SegmentationModel) -> None:
    images = torch.rand(1, 3, 33, 70)
    assert model.prepare(images).shape[-2:] == (64, 96)
    mean = model.mean.expand(1, 3, 64, 96).clone()
    mean[..., :33, :70] = images
    with torch.inference_mode():
        torch.testing.assert_close(model.scores(images), model.scores(mean)[..., :33, :70])
    assert model.pad_labels(torch.zeros(1, 33, 70, dtype=torch.long)).shape == (1, 64, 96)


@pytest.mark.parametrize("size", [(65, 96), (64, 97), (640, 960)])
def test_larger_images_are_sent_to_windows(model: SegmentationModel, size: tuple[int, int]) -> None:
    with pytest.raises(
        ValueError, match=facts("64×96", f"{size[0]}×{size[1]}", "--test.mode sliding --test.window 64 96")
    ):
        model.scores(torch.rand(1, 3, *size))


def test_windows_cover_larger_images(model: SegmentationModel) -> None:
    images = torch.rand(1, 3, 64, 130)
    with torch.inference_mode():
        scores = sliding(model, window=(64, 96), stride=(64, 34))(images)
        left, right = model.scores(images[..., :96]), model.scores(images[..., 34:])
    torch.testing.assert_close(scores[..., :34], left[..., :34])
    torch.testing.assert_close(scores[..., 96:], right[..., 62:])


def test_swinv2s_windows_are_no_larger_than_the_crops_maps() -> None:
    encoder = build_encoder(encoder_options("swinv2_tiny_window16_256"), 3, crop=(128, 128)).eval()
    assert encoder.fixed_size is None
    stages = [encoder.chain[f"layers_{stage}"].blocks[0] for stage in range(4)]
    assert [block.window_size for block in stages] == [16, 16, 8, 4]
    with torch.inference_mode():
        assert encoder(torch.rand(1, 3, 160, 96)).maps[3].shape == (1, 768, 5, 3)


def given(monkeypatch: pytest.MonkeyPatch, theirs: torch.nn.Module, name: str, size: tuple[int, int]) -> dict:
    """The tensors of an encoder of another size after loading timm's of their own."""
    monkeypatch.setattr(pretrained, "_hub_tensors", lambda _: dict(theirs.state_dict()))
    encoder = build_encoder(encoder_options(name), 3, crop=size)
    assert load_encoder(encoder, name, "timm").share == 1.0
    return encoder.chain.state_dict()


def test_positions_of_hiera_take_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = timm.create_model("hiera_tiny_224")
    found = given(monkeypatch, theirs, "hiera_tiny_224", (64, 96))["pos_embed"]
    assert torch.equal(found, resample_abs_pos_embed(theirs.pos_embed, [16, 24], num_prefix_tokens=0))


@pytest.mark.parametrize(
    ("name", "ours", "timms"),
    [
        ("maxvit_rmlp_pico_rw_256", None, None),
        ("coatnet_pico_rw_224", "stages_3.blocks.1.attn.rel_pos.", "stages.3.blocks.1.attn.rel_pos."),
        ("gcvit_xxtiny", "stages_0.blocks.0.attn.rel_pos.", "stages.0.blocks.0.attn.rel_pos."),
    ],
)
def test_tables_of_relative_positions_take_the_window(
    monkeypatch: pytest.MonkeyPatch, name: str, ours: str | None, timms: str | None
) -> None:
    """The first has none but a small network over offsets, which loads as it is."""
    theirs = timm.create_model(name)
    found = given(monkeypatch, theirs, name, (64, 96))
    if ours is None:
        return
    table = theirs.state_dict()[f"{timms}relative_position_bias_table"]
    old = round(len(table) ** 0.5)
    grid = table.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    # One window is the whole map: 2×3 tokens at stride 32 of CoAtNet; GCViT's first stage has the same share.
    expected = F.interpolate(grid, size=(3, 5), mode="bicubic", align_corners=False)
    torch.testing.assert_close(
        found[f"{ours}relative_position_bias_table"], expected.permute(0, 2, 3, 1).reshape(15, -1)
    )
