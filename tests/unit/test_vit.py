"""Plain ViTs: timm's own numerics where asked for none, Segmenter's position rule where asked for it."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch

from semask.models.build import build_encoder
from semask.models.encoders.kinds import encoder_options, kind_of
from semask.models.encoders.vit import ViTEncoder, resize_positions, timm_vit
from tests.facts import facts

OWN = {
    # name: (stride, tokens besides the patches)
    "vit_tiny_patch16_224": (16, 1),
    "vit_tiny_patch16_384.augreg_in21k_ft_in1k": (16, 1),
    "deit_tiny_distilled_patch16_224": (16, 2),
    "deit3_small_patch16_224": (16, 1),
    "vit_small_patch14_dinov2.lvd142m": (14, 1),
    "vit_small_patch14_reg4_dinov2.lvd142m": (14, 5),
    "vit_small_patch16_dinov3": (16, 5),
    "vit_base_patch16_siglip_224": (16, 0),
    "vit_base_patch16_224.mae": (16, 1),
    "vit_small_patch8_224": (8, 1),
}


@pytest.mark.parametrize("name", OWN)
def test_other_backbones_are_timms_to_the_bit(name: str) -> None:
    stride, extra = OWN[name]
    encoder = build_encoder(encoder_options(name), 3).eval()
    theirs = timm.create_model(name.split(".", maxsplit=1)[0], num_classes=0, dynamic_img_size=True).eval()
    theirs.load_state_dict(encoder.backbone.state_dict(), strict=False)
    images = torch.randn(2, 3, 3 * stride, 5 * stride)
    with torch.inference_mode():
        (found,) = encoder(images).maps
        expected = theirs.forward_features(images)[:, extra:]
    assert encoder.strides == (stride,)
    assert encoder.backbone.num_prefix_tokens == extra
    assert found.shape == (2, encoder.channels[0], 3, 5)
    assert torch.equal(found.flatten(2).transpose(1, 2), expected)


def test_other_backbones_match_timm_on_pictures_of_real_sizes() -> None:
    encoder = build_encoder(encoder_options("vit_small_patch14_dinov2"), 3).eval()
    images = torch.randn(1, 3, 14 * 26, 14 * 35)
    with torch.inference_mode():
        assert encoder(images).maps[0].shape == (1, 384, 26, 35)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("grid", [(3, 5), (8, 8), (4, 16), (11, 2)])
def test_positions_by_the_number_of_tokens(mode: str, grid: tuple[int, int]) -> None:
    """Against torchvision-free NumPy: separable interpolation matrices built weight by weight."""
    table = torch.randn(1, 2 + 36, 7)
    resized = resize_positions(table, grid, num_extra=2, mode=mode)
    assert torch.equal(resized[:, :2], table[:, :2])
    square = table[0, 2:].numpy().reshape(6, 6, 7)
    rows, columns = (weights(6, size, mode) for size in grid)
    expected = np.einsum("yi,xj,ijd->yxd", rows, columns, square).reshape(-1, 7)
    np.testing.assert_allclose(resized[0, 2:].numpy(), expected, rtol=0, atol=1e-5)


def weights(old: int, new: int, mode: str) -> np.ndarray:
    """Return the matrix of an interpolation without antialiasing, half-pixel centres, borders repeated."""

    def kernel(x: float) -> float:
        x = abs(x)
        if mode == "bilinear":
            return max(0.0, 1 - x)
        a = -0.75  # PyTorch's cubic
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    matrix = np.zeros((new, old))
    for target in range(new):
        centre = (target + 0.5) * old / new - 0.5
        if mode == "bilinear":
            centre = max(centre, 0.0)
        for source in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            matrix[target, min(max(source, 0), old - 1)] += kernel(centre - source)
    return matrix


def test_a_grid_of_as_many_tokens_keeps_the_table() -> None:
    """The authors compare token counts, not shapes: 2×8 patches take the table of 4×4 as it lies."""
    spec = encoder_options(
        "vit_tiny_patch16_224", image_size=(64, 64), norm_eps=1e-05, position_resize="bilinear", weights=None
    )
    encoder = build_encoder(spec, 3).eval()
    wide, square = torch.zeros(1, 3, 32, 128), torch.zeros(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(encoder.embed(wide), encoder.embed(square))
        assert encoder.embed(torch.zeros(1, 3, 32, 64)).shape == (1, 9, 192)


def test_no_square_no_table() -> None:
    with pytest.raises(ValueError, match=facts(12, 1)):
        resize_positions(torch.zeros(1, 12, 4), (3, 3), num_extra=1, mode="bilinear")


def test_eps_and_stochastic_depth_are_as_given() -> None:
    vit = timm_vit("vit_tiny_patch16_224", drop_path=0.1, norm_eps=1e-5)
    norms = [module for module in vit.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 25
    assert {norm.eps for norm in norms} == {1e-5}
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in vit.blocks]
    np.testing.assert_allclose(rates, np.linspace(0, 0.1, 12), atol=1e-7)
    assert timm_vit("vit_tiny_patch16_224").norm.eps == 1e-6


def test_families() -> None:
    assert {kind_of(name).kind for name in OWN} == {"vit"}
    assert kind_of("swin_tiny_patch4_window7_224").kind == "swin"
    assert kind_of("vit_relpos_small_patch16_224").kind == "stages"


def test_patches_that_are_no_squares() -> None:
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True, patch_size=(8, 16))
    with pytest.raises(ValueError, match=facts("8×16")):
        ViTEncoder(vit)
