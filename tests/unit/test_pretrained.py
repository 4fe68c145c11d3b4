"""Pretrained weights of encoders: what is matched is said, and too little is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from semask import recipes
from semask.checkpoints import pretrained
from semask.checkpoints.pretrained import check_normalisation, load_encoder
from semask.models.build import build_encoder
from semask.models.encoders.hrnet import HRNetEncoder
from semask.models.encoders.kinds import encoder_options
from semask.models.meta import on_meta_device
from semask.recipes.encoders import SemanticLayers, SwinOptions
from semask.recipes.recipe import IMAGENET_MEAN, IMAGENET_STD
from tests.facts import facts, missing

SWIN = SwinOptions(weights=None, embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), semantic=SemanticLayers())
LITE = encoder_options("tf_efficientnet_lite0.in1k", weights=None, semantic=SemanticLayers(residual="input"))


def small_swin() -> timm.models.SwinTransformer:
    return timm.create_model("swin_tiny_patch4_window7_224", embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4))


def test_timms_own_layout(tmp_path: Path) -> None:
    theirs = small_swin().eval()
    save_file(theirs.state_dict(), tmp_path / "swin.safetensors")
    encoder = build_encoder(SWIN, 3)
    report = load_encoder(encoder, SWIN.name, str(tmp_path / "swin.safetensors"))
    assert report.share == 1.0
    assert missing(str(report), "100.0%") == []
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
    wide = build_encoder(SwinOptions(**{**vars(SWIN), "window_size": 12}), 3)
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


@pytest.mark.parametrize(
    "name",
    ["efficientvit_b0", "hrnet_w18_small", "mvitv2_tiny", "maxvit_rmlp_pico_rw_256", "tiny_vit_5m_224", "gcvit_xxtiny"],
)
def test_files_of_other_families(tmp_path: Path, name: str) -> None:
    """With a classifier's head, which is left out; of a chain, of branches, of one piece and of a fixed size."""
    with on_meta_device():
        model = timm.create_model(name)
    tensors = {key: torch.rand(value.shape).to(value.dtype) for key, value in model.state_dict().items()}
    save_file(tensors, tmp_path / "weights.safetensors")
    crop = timm.get_pretrained_cfg(name).input_size[1:]
    encoder = build_encoder(encoder_options(name, semantic=SemanticLayers()), 3, crop=crop)
    assert load_encoder(encoder, name, str(tmp_path / "weights.safetensors")).share == 1.0
    backbone = encoder.backbone if isinstance(encoder, HRNetEncoder) else encoder.chain
    # Every name is timm's but for the dots of the names of a chain's children.
    timms = {key.replace(".", "_"): value for key, value in tensors.items()}
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, timms[key.replace(".", "_")]), key


def test_without_network_the_hub_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    encoder, asked = build_encoder(LITE, 3), []
    request = pretrained.get_hf_file_metadata
    monkeypatch.setattr(pretrained, "get_hf_file_metadata", lambda *a, **k: asked.append(a) or request(*a, **k))
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("a download was tried"))
    with pytest.raises(ValueError, match=facts(repr(LITE.name), "--model.encoder.weights", "--from-scratch")):
        load_encoder(encoder, LITE.name, "timm")
    assert (len(asked), caplog.messages) == (1, [])


def test_image_statistics_of_the_weights() -> None:
    check_normalisation("swin_tiny_patch4_window7_224.ms_in1k", IMAGENET_MEAN, IMAGENET_STD)
    check_normalisation("tf_efficientnet_lite0.in1k", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(
        ValueError,
        match=facts("'convnext_tiny.fb_in22k'", "--model.mean 0.485 0.456 0.406 --model.std 0.229 0.224 0.225"),
    ):
        check_normalisation("convnext_tiny.fb_in22k", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_every_recipe_normalises_as_its_weights_want() -> None:
    for name in recipes.list_recipes():
        model = recipes.get_recipe(name).model
        if model.encoder.weights is not None:
            check_normalisation(model.encoder.name, model.mean, model.std)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "resnet.safetensors")
    encoder = build_encoder(SWIN, 3)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(
        ValueError, match=facts(tmp_path / "resnet.safetensors", 0, "0.0%", "95%", "patch_embed.proj.weight")
    ):
        load_encoder(encoder, SWIN.name, str(tmp_path / "resnet.safetensors"))
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_unreadable_files(tmp_path: Path) -> None:
    encoder = build_encoder(SWIN, 3)
    with pytest.raises(ValueError, match=facts(repr(str(tmp_path / "absent.pth")))):
        load_encoder(encoder, SWIN.name, str(tmp_path / "absent.pth"))
    (tmp_path / "variant.yml").write_text("net_kwargs:\n  n_cls: 150\n")
    with pytest.raises(ValueError, match=facts("variant.yml")):
        load_encoder(encoder, SWIN.name, str(tmp_path / "variant.yml"))
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(ValueError, match=facts("cut.safetensors", "SafetensorError")):
        load_encoder(encoder, SWIN.name, str(tmp_path / "cut.safetensors"))
    torch.save({"model": {"x": Path("/")}}, tmp_path / "objects.pth")
    with pytest.raises(ValueError, match=facts("objects.pth", "Python", "weights_only")):
        load_encoder(encoder, SWIN.name, str(tmp_path / "objects.pth"))


VIT = encoder_options(
    "vit_tiny_patch16_384.augreg_in21k_ft_in1k", image_size=(64, 64), norm_eps=1e-05, position_resize="bilinear"
)


def test_vit_tables_take_the_image_size(tmp_path: Path) -> None:
    """Bilinear without antialiasing for the published rows, timm's own way for others; heads are left out."""
    theirs = timm.create_model("vit_tiny_patch16_384")
    save_file(theirs.state_dict(), tmp_path / "vit.safetensors")
    ours, timms = build_encoder(VIT, 3), build_encoder(replace(VIT, norm_eps=None, position_resize=None), 3)
    reports = [load_encoder(encoder, VIT.name, str(tmp_path / "vit.safetensors")) for encoder in (ours, timms)]
    assert [report.share for report in reports] == [1.0, 1.0]
    square = theirs.pos_embed[:, 1:].reshape(1, 24, 24, 192).permute(0, 3, 1, 2)
    for encoder, options in ((ours, {"mode": "bilinear"}), (timms, {"mode": "bicubic", "antialias": True})):
        table = encoder.backbone.pos_embed
        expected = F.interpolate(square, size=(4, 4), align_corners=False, **options).flatten(2).transpose(1, 2)
        torch.testing.assert_close(table[:, 1:], expected)
        assert torch.equal(table[:, :1], theirs.pos_embed[:, :1])
    assert torch.equal(ours.backbone.blocks[3].mlp.fc1.weight, theirs.blocks[3].mlp.fc1.weight)


def test_real_dinov2(dinov2_weights: Path) -> None:
    encoder = build_encoder(encoder_options("vit_small_patch14_dinov2.lvd142m"), 3).eval()
    report = load_encoder(encoder, "vit_small_patch14_dinov2.lvd142m", str(dinov2_weights))
    assert (report.matched, report.total) == (174, 174)
    theirs = timm.create_model("vit_small_patch14_dinov2", num_classes=0, dynamic_img_size=True).eval()
    theirs.load_state_dict({key: value.float() for key, value in load_file(dinov2_weights).items()})
    images = torch.randn(1, 3, 70, 98)
    with torch.inference_mode():
        expected = theirs.forward_features(images)[:, 1:].transpose(1, 2).reshape(1, 384, 5, 7)
        assert torch.equal(encoder(images).maps[0], expected)
