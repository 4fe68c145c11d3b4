"""SETR: heads and MLA written out a second time, the layers of a ViT as maps, published costs and training, files."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semask import recipes
from semask.checkpoints.convert import convert, load_published
from semask.models.build import build, build_encoder, build_on_meta
from semask.models.decoders.setr import SETRMLA, SETRHead
from semask.models.encoders.kinds import encoder_options
from semask.models.encoders.vit import ViTEncoder
from semask.models.flops import all_multiply_adds, parameters
from semask.models.model import SegmentationModel
from semask.recipes import ModelRecipe, Recipe
from semask.recipes.decoders import DecoderOptions, decoder_options
from semask.recipes.recipe import IMAGENET_MEAN
from semask.structures import Features
from tests.facts import facts

# Parameters, and 10⁹ multiply-adds without auxiliary heads, measured on mmsegmentation's code, whose patch convolution
# has no bias; stride of the logits, and of the auxiliary ones.
MEASURED = {
    "naive": (305_557_592, 362.8828, 4, 1),
    "pup": (317_290_072, 425.2018, 1, 1),
    "mla": (309_569_262, 368.1425, 4, 16),
}
PATCH_BIAS = 1024
TINY = encoder_options(
    "vit_tiny_patch16_224",
    weights=None,
    image_size=(64, 64),
    norm_eps=1e-06,
    position_resize="bilinear",
    out_layers=(2, 3),
)


def encoder_of(**changes: Any) -> ViTEncoder:
    torch.manual_seed(0)
    encoder = build_encoder(dataclasses.replace(TINY, **changes), 3, crop=(64, 64)).eval()
    assert isinstance(encoder, ViTEncoder)
    return encoder


def shaken(module: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if "running" in name else tensor.normal_(std=0.3)
    return module.eval()


def map_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    mean, variance = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    return (x - mean) / (variance + 1e-6).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]


def normed_conv(x: Tensor, unit: nn.Module) -> Tensor:
    """A convolution without bias by shifted products, BatchNorm of evaluation, and ReLU."""
    weight, side = unit.conv.weight, unit.conv.weight.shape[-1]
    padded, (height, width) = F.pad(x, [side // 2] * 4), x.shape[-2:]
    out = sum(
        torch.einsum("bihw,oi->bohw", padded[..., i : i + height, j : j + width], weight[..., i, j])
        for i in range(side)
        for j in range(side)
    )
    bn = unit.bn
    scale = bn.weight / (bn.running_var + 1e-5).sqrt()
    return ((out - bn.running_mean[:, None, None]) * scale[:, None, None] + bn.bias[:, None, None]).clamp(min=0)


def enlarged(x: Tensor, factor: int) -> Tensor:
    size = (factor * x.shape[-2], factor * x.shape[-1])
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def classified(x: Tensor, conv: nn.Conv2d) -> Tensor:
    return torch.einsum("bihw,ki->bkhw", x, conv.weight[:, :, 0, 0]) + conv.bias[:, None, None]


@torch.inference_mode()
@pytest.mark.parametrize(("kernel_size", "steps", "factor"), [(1, 1, 4), (1, 2, 4), (3, 4, 2), (3, 2, 4)])
def test_heads_by_hand(kernel_size: int, steps: int, factor: int) -> None:
    head = shaken(SETRHead(5, num_classes=3, kernel_size=kernel_size, steps=steps, factor=factor, channels=4))
    x = torch.randn(2, 5, 3, 4)
    expected = map_norm(x, head.norm)
    for step in range(steps):
        expected = enlarged(normed_conv(expected, head.steps[step][0]), factor)
    torch.testing.assert_close(head(x), classified(expected, head.classify), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_aggregation_by_hand() -> None:
    """No fixture holds it: sums from the deepest map up, outputs deepest first."""
    decoder = shaken(SETRMLA((5, 5, 5), num_classes=3, channels=4))
    maps = tuple(torch.randn(2, 5, 3, 4) for _ in range(3))
    projected = [normed_conv(map_norm(m, unit[0]), unit[1]) for m, unit in zip(maps, decoder.laterals, strict=True)]
    sums = [projected[2], projected[2] + projected[1], projected[2] + projected[1] + projected[0]]
    refined = [normed_conv(total, unit) for total, unit in zip(sums, decoder.refine, strict=True)]
    branches = [
        enlarged(normed_conv(normed_conv(level, unit[0]), unit[1]), 4)
        for level, unit in zip(refined, decoder.branches, strict=True)
    ]
    out = decoder(Features(maps))
    torch.testing.assert_close(out.logits, classified(torch.cat(branches, 1), decoder.classify), rtol=1e-4, atol=1e-4)
    for found, level, conv in zip(out.auxiliary, refined, decoder.heads, strict=True):
        torch.testing.assert_close(found.logits, classified(level, conv), rtol=1e-4, atol=1e-4)
    assert decoder(Features(maps), auxiliary=False).auxiliary == ()


@torch.inference_mode()
@pytest.mark.parametrize("position_resize", [None, "bilinear"])
def test_layers_of_a_vit(position_resize: str | None) -> None:
    """Against hooks on the blocks of timm's own model; layers behind the last and the final norm are gone."""
    encoder = encoder_of(position_resize=position_resize)
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=64, norm_layer=nn.LayerNorm).eval()
    for module in theirs.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    missing, unexpected = theirs.load_state_dict(encoder.backbone.state_dict(), strict=False)
    assert not unexpected
    assert {re.sub(r"\d+.*", "", key) for key in missing} == {"blocks.", "norm.weight", "norm.bias"}
    seen: list[Tensor] = []
    for block in theirs.blocks[1:3]:
        block.register_forward_hook(lambda _, __, tokens: seen.append(tokens[:, 1:]))
    images = torch.randn(2, 3, 64, 64)
    theirs(images)
    maps = encoder(images).maps
    assert (encoder.channels, encoder.strides, encoder.depth) == ((192, 192), (16, 16), 3)
    for found, tokens in zip(maps, seen, strict=True):
        torch.testing.assert_close(found.flatten(2).transpose(1, 2), tokens)


@torch.inference_mode()
def test_without_the_class_token() -> None:
    """It is there and has its row, but no layer sees it: other values of both change nothing."""
    encoder, full = encoder_of(class_token=False), encoder_of()
    assert encoder.state_dict().keys() == full.state_dict().keys()
    images = torch.randn(1, 3, 48, 80)
    maps = encoder(images).maps
    assert [m.shape for m in maps] == [(1, 192, 3, 5)] * 2
    assert encoder.tokens(images).shape[1] == 15
    with torch.no_grad():
        encoder.backbone.cls_token.add_(1)
        encoder.backbone.pos_embed[:, 0].add_(1)
    for again, once in zip(encoder(images).maps, maps, strict=True):
        assert torch.equal(again, once)
    assert (full(images).maps[1] - maps[1]).abs().max() > 1e-4


@pytest.mark.parametrize("form", MEASURED)
def test_published_costs_and_grids(form: str) -> None:
    recipe = recipes.get_recipe(f"ade20k/setr-{form}-vit-l")
    total, billion, stride, auxiliary = MEASURED[form]
    model = build_on_meta(recipe)
    assert parameters(model) == total + PATCH_BIAS
    assert recipe.published.parameters == pytest.approx(total / 1e6, rel=0.01)
    assert all_multiply_adds(model, 512, 512) / 1e9 == pytest.approx(billion, rel=1e-4)
    for block in model.encoder.backbone.blocks[1:]:
        block.forward = lambda tokens: tokens  # of the same shapes as the first
    with torch.inference_mode():
        out = model(torch.zeros(1, 3, 512, 512, device="meta")).main
    assert out.logits.shape == (1, 150, 512 // stride, 512 // stride)
    assert [a.logits.shape[-1] for a in out.auxiliary] == [512 // auxiliary] * (4 if form == "mla" else 3)


@pytest.mark.parametrize("form", MEASURED)
def test_published_training(form: str) -> None:
    recipe = recipes.get_recipe(f"ade20k/setr-{form}-vit-l")
    optim, encoder, test = recipe.optim, recipe.model.encoder, recipe.test
    assert (optim.algorithm, optim.momentum, optim.nesterov, optim.weight_decay) == ("sgd", 0.9, False, 0.0)
    base = 0.01 if form == "naive" else 0.001
    assert (optim.lr * optim.encoder_lr_scale, optim.lr) == pytest.approx((base, 10 * base))
    assert (optim.power, optim.min_lr, optim.warmup_steps) == (0.9, 1e-4, 0)
    assert (recipe.train.steps, recipe.train.batch_size, recipe.data.crop) == (160_000, 16, (512, 512))
    assert (test.mode, test.window, test.stride) == ("sliding", (512, 512), (341, 341))
    layers = (6, 12, 18, 24) if form == "mla" else (10, 15, 20, 24)
    assert (encoder.out_layers, encoder.class_token) == (layers, form != "mla")
    assert (encoder.norm_eps, encoder.position_resize, encoder.image_size) == (1e-6, "bilinear", (512, 512))
    assert recipe.loss.auxiliary_weight == 0.4


def recipe_of(form: str) -> Recipe:
    head = decoder_options(f"setr_{form}", channels=8, auxiliary=True)
    return Recipe(name=f"test/{form}", model=ModelRecipe(encoder=TINY, decoder=head, num_classes=4))


THEIRS = {
    "naive": (
        (r"decoder\.main\.head\.steps\.", "decode_head.up_convs."),
        (r"decoder\.main\.head\.classify", "decode_head.conv_seg"),
        (r"decoder\.main\.head\.", "decode_head."),
        (r"decoder\.heads\.(\d)\.steps\.", r"auxiliary_head.\1.up_convs."),
        (r"decoder\.heads\.(\d)\.classify", r"auxiliary_head.\1.conv_seg"),
        (r"decoder\.heads\.", "auxiliary_head."),
    ),
    "mla": (
        (r"decoder\.laterals\.(\d)\.0", r"neck.norm.\1"),
        (r"decoder\.laterals\.(\d)\.1", r"neck.mla.channel_proj.\1"),
        (r"decoder\.refine", "neck.mla.feat_extract"),
        (r"decoder\.branches", "decode_head.up_convs"),
        (r"decoder\.classify", "decode_head.conv_seg"),
        (r"decoder\.heads\.(\d)", r"auxiliary_head.\1.conv_seg"),
    ),
}
OF_VIT = (
    (r"encoder\.backbone\.patch_embed\.proj", "backbone.patch_embed.projection"),
    (r"encoder\.backbone\.blocks\.(\d+)\.norm(\d)", r"backbone.layers.\1.ln\2"),
    (r"encoder\.backbone\.blocks\.(\d+)\.attn\.qkv\.", r"backbone.layers.\1.attn.attn.in_proj_"),
    (r"encoder\.backbone\.blocks\.(\d+)\.attn\.proj", r"backbone.layers.\1.attn.attn.out_proj"),
    (r"encoder\.backbone\.blocks\.(\d+)\.mlp\.fc1", r"backbone.layers.\1.ffn.layers.0.0"),
    (r"encoder\.backbone\.blocks\.(\d+)\.mlp\.fc2", r"backbone.layers.\1.ffn.layers.1"),
    (r"encoder\.backbone\.", "backbone."),
)


def as_theirs(model: SegmentationModel, form: str) -> dict[str, Tensor]:
    found = {}
    for key, value in model.state_dict().items():
        names = (re.subn(f"^{ours}", theirs, key) for ours, theirs in (*OF_VIT, *THEIRS[form]))
        found[next(name for name, count in names if count)] = value
    return found


@pytest.mark.parametrize("form", THEIRS)
def test_files_of_mmsegmentation(form: str) -> None:
    recipe = recipe_of(form)
    model = build(recipe)
    theirs = as_theirs(model, form)
    assert not any(key.startswith(("encoder.", "decoder.")) for key in theirs)
    conversion = convert(theirs, recipe)
    for key, value in conversion.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    assert conversion.recipe.model.mean == IMAGENET_MEAN
    bias = theirs.pop("backbone.patch_embed.projection.bias")
    without = load_published(theirs, recipe).encoder.backbone.patch_embed.proj.bias
    assert torch.equal(without, torch.zeros_like(bias))
    fresh = set(convert(theirs, recipe, num_classes=7).fresh)
    assert {name.rsplit(".", 1)[0] for name in fresh} == {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and name.startswith("decoder.") and module.out_channels == 4
    }


@pytest.mark.parametrize(
    ("changes", "decoder", "told"),
    [
        (
            {"out_layers": None},
            decoder_options("setr_pup"),
            ("setr_pup", (16,), "--model.encoder.out-layers 6 12 18 24"),
        ),
        (
            {"out_layers": (3, 2)},
            decoder_options("setr_pup"),
            ("out_layers", "1 … 12", (3, 2), "--model.encoder.out-layers 6 12"),
        ),
        ({"out_layers": (0, 2)}, decoder_options("setr_pup"), ("out_layers", "1 … 12", (0, 2))),
        ({"out_layers": (2, 13)}, decoder_options("setr_pup"), ("out_layers", "1 … 12", (2, 13))),
        (
            {"class_token": False, "position_resize": None},
            decoder_options("setr_mla"),
            ("position_resize", "--model.encoder.position-resize bilinear", "--model.encoder.class-token true"),
        ),
        ({}, decoder_options("semantic_fpn"), ("semantic_fpn", 16, "--encoder")),
    ],
)
def test_what_does_not_fit_is_refused(
    changes: dict[str, Any], decoder: DecoderOptions, told: tuple[object, ...]
) -> None:
    model = ModelRecipe(encoder=dataclasses.replace(TINY, **changes), decoder=decoder)
    with pytest.raises(ValueError, match=facts(*told)):
        build(Recipe(name="test/x", model=model))


def test_a_pyramid_under_setr_is_refused() -> None:
    model = ModelRecipe(encoder=encoder_options("resnet18"), decoder=decoder_options("setr_naive"))
    with pytest.raises(
        ValueError, match=facts("setr_naive", (4, 8, 16, 32), "ViT", "--model.encoder.out-layers 6 12 18 24")
    ):
        build(Recipe(name="test/x", model=model))
