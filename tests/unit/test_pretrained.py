"""Pretrained weights of encoders: what is matched is said, and too little is refused."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from semask import recipes
from semask.build import build_encoder
from semask.encoders.pretrained import check_normalisation, load_encoder
from semask.recipes import EncoderRecipe
from semask.recipes.recipe import IMAGENET_MEAN, IMAGENET_STD

SWIN = EncoderRecipe(weights=None, embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), semantic_layers=True)
LITE = EncoderRecipe(name="tf_efficientnet_lite0.in1k", weights=None, semantic_layers=True, semantic_residual="input")


def small_swin() -> timm.models.SwinTransformer:
    return timm.create_model("swin_tiny_patch4_window7_224", embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4))


def test_timms_own_layout(tmp_path: Path) -> None:
    theirs = small_swin().eval()
    save_file(theirs.state_dict(), tmp_path / "swin.safetensors")
    encoder = build_encoder(SWIN, 3)
    report = load_encoder(encoder, SWIN.name, str(tmp_path / "swin.safetensors"))
    assert report.share == 1.0
    assert "encoder tensors matched (100.0%)" in str(report)
    torch.testing.assert_close(
        encoder.chain["layers_2"].downsample.norm.weight, theirs.layers[2].downsample.norm.weight
    )
    assert encoder.semantic[0].units[0].gain == 0


def test_the_official_layout(tmp_path: Path) -> None:
    """Microsoft's files merge patches at the end of a stage, wrap tensors in 'model' and store derived buffers."""
    theirs = small_swin().state_dict()
    official = {}
    for key, value in theirs.items():
        parts = key.split(".")
        if parts[0] == "layers" and parts[2] == "downsample":
            parts[1] = str(int(parts[1]) - 1)
        official[".".join(parts)] = value.half()
    official["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    torch.save({"model": {f"module.{key}": value for key, value in official.items()}}, tmp_path / "swin.pth")
    encoder = build_encoder(SWIN, 3)
    assert load_encoder(encoder, SWIN.name, str(tmp_path / "swin.pth")).share == 1.0
    expected = theirs["layers.3.downsample.reduction.weight"].half().float()
    assert torch.equal(encoder.chain["layers_3"].downsample.reduction.weight, expected)


def test_another_window_resizes_the_tables(tmp_path: Path) -> None:
    save_file(small_swin().state_dict(), tmp_path / "swin.safetensors")
    wide = build_encoder(EncoderRecipe(**{**vars(SWIN), "window_size": 12}), 3)
    assert load_encoder(wide, SWIN.name, str(tmp_path / "swin.safetensors")).share == 1.0
    assert wide.chain["layers_0"].blocks[0].attn.relative_position_bias_table.shape == (23**2, 1)


def test_real_weights_give_timms_features(lite0_weights: Path) -> None:
    encoder = build_encoder(LITE, 3).eval()
    assert load_encoder(encoder, LITE.name, str(lite0_weights)).share == 1.0
    theirs = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
    state = encoder.chain.state_dict()
    theirs.load_state_dict({key: state[key.replace("blocks.", "blocks_", 1)] for key in theirs.state_dict()})
    images = torch.randn(1, 3, 96, 128)
    with torch.inference_mode():
        for ours, expected in zip(encoder(images).maps, theirs(images)[1:], strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_image_statistics_of_the_weights() -> None:
    check_normalisation("swin_tiny_patch4_window7_224.ms_in1k", IMAGENET_MEAN, IMAGENET_STD)
    check_normalisation("tf_efficientnet_lite0.in1k", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match=r"Say --model.mean 0.485 0.456 0.406 --model.std 0.229 0.224 0.225"):
        check_normalisation("convnext_tiny.fb_in22k", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_every_recipe_normalises_as_its_weights_want() -> None:
    for name in recipes.names():
        model = recipes.get(name).model
        if model.encoder.weights is not None:
            check_normalisation(model.encoder.name, model.mean, model.std)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "resnet.safetensors")
    encoder = build_encoder(SWIN, 3)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"0 of \d+ encoder tensors matched .* at least 95% are needed.*Are these weights of"
    ):
        load_encoder(encoder, SWIN.name, str(tmp_path / "resnet.safetensors"))
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_unreadable_files(tmp_path: Path) -> None:
    encoder = build_encoder(SWIN, 3)
    with pytest.raises(ValueError, match="no weights file at"):
        load_encoder(encoder, SWIN.name, str(tmp_path / "absent.pth"))
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(ValueError, match="no readable weights file"):
        load_encoder(encoder, SWIN.name, str(tmp_path / "cut.safetensors"))
    torch.save({"model": {"x": Path("/")}}, tmp_path / "objects.pth")
    with pytest.raises(ValueError, match=r"holds Python objects besides tensors and is not opened"):
        load_encoder(encoder, SWIN.name, str(tmp_path / "objects.pth"))
