"""What every encoder under every decoder must do, with and without semantic layers. A line in a menu gains them all."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch
from torch import nn

from semask.losses.build import build_loss
from semask.models.build import BASELINES, DECODERS, build
from semask.models.decoders.maskformer import MaskClassifier, MaskFormerPredictor
from semask.models.encoders.kinds import encoder_options
from semask.models.model import SegmentationModel
from semask.recipes import LossRecipe, MaskLossRecipe, ModelRecipe, Recipe
from semask.recipes.decoders import KINDS, PIXEL_DECODERS, DecoderOptions, MSDeformOptions, decoder_options
from semask.recipes.encoders import SemanticLayers, SwinOptions
from semask.structures import LossTerms, Segmentation
from tests.contracts.unasked import Unasked

NUM_CLASSES = 5
PYRAMIDS = {
    "swin": SwinOptions(
        weights=None, embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=4, drop_path=0.1
    ),
    "efficientnet": encoder_options("tf_efficientnet_lite0", weights=None),
    "mobilenetv3": encoder_options("mobilenetv3_small_050", weights=None),
    "resnet": encoder_options("resnet18", weights=None),
    "convnext": encoder_options("convnext_atto", weights=None),
    "pvt": encoder_options("pvt_v2_b0", weights=None),
    "mit": encoder_options("mit_b0", weights=None, drop_path=0.1),
}
PLAIN = {
    "vit": encoder_options("vit_tiny_patch16_224", weights=None, image_size=(64, 64), drop_path=0.1),
    "segmenter": encoder_options(
        "deit_tiny_distilled_patch16_224", weights=None, image_size=(64, 64), norm_eps=1e-05, position_resize="bilinear"
    ),
    "dinov2": encoder_options("vit_small_patch14_reg4_dinov2", weights=None, image_size=(56, 56)),
    "dinov3": encoder_options("vit_small_patch16_dinov3", weights=None),
}
LEVELS = {
    "vit_layers": encoder_options(
        "vit_tiny_patch16_224", weights=None, image_size=(64, 64), position_resize="bilinear", out_layers=(1, 2)
    ),
}
"""Plain encoders that give several maps of one stride."""
DILATED = {"resnet_8": encoder_options("resnet18", weights=None, output_stride=8)}
"""Pyramids whose last maps are of one stride."""
ENCODERS = PYRAMIDS | PLAIN | LEVELS | DILATED


def mask_head(decoder: str, pixel_decoder: str, **options: Any) -> DecoderOptions:
    kind = PIXEL_DECODERS[pixel_decoder]
    small = {"layers": 1, "feedforward": 32} if issubclass(kind, MSDeformOptions) else {}
    return decoder_options(
        decoder,
        channels=64,
        queries=7,
        layers=4,
        heads=4,
        feedforward=32,
        pixel_decoder=kind(**small, **options),
    )


HEADS = {
    "semantic_fpn": decoder_options("semantic_fpn", channels=16),
    "segformer": decoder_options("segformer", channels=16),
    "segformer_mmseg": decoder_options("segformer_mmseg", channels=16),
    **{
        f"setr_{form}": decoder_options(f"setr_{form}", channels=16, auxiliary=True) for form in ("naive", "pup", "mla")
    },
    **{name: decoder_options(name, channels=16, auxiliary=True) for name in BASELINES if name != "psanet"},
    "psanet": decoder_options("psanet", channels=16, auxiliary=True, window_size=9),
    "ocr": decoder_options("ocr", channels=16, dropout=0.1),
    "segmenter_linear": decoder_options("segmenter_linear", channels=16),
    "segmenter_mask": decoder_options("segmenter_mask", channels=16, drop_path=0.1),
    "maskformer": mask_head("maskformer", "fpn"),
    "mask2former": mask_head("mask2former", "msdeform"),
    "fapn": mask_head("mask2former", "fapn"),
    "msfapn": mask_head("mask2former", "msfapn", feature_selection=True),
}
SINGLE_SCALE = {name for name in HEADS if name.startswith("segmenter")}
"""Decoders that read one map; a plain encoder has no other."""
ONE_STRIDE = {name for name in HEADS if name.startswith("setr")}
"""Decoders that read several maps of one stride."""
OF_MIT = {("mit", False, "segformer"), ("mit", True, "segformer_mmseg")}
OF_RESNET = {*BASELINES, "ocr"} - {"upernet"}
SAMPLED = (
    OF_MIT
    | {("swin", True, decoder) for decoder in HEADS if decoder not in ONE_STRIDE | OF_RESNET | {d for *_, d in OF_MIT}}
    | {("pvt", False, decoder) for decoder in (*SINGLE_SCALE, "mask2former")}
)
# Plain encoders under the decoders for them, all pyramids under the first decoder, and every other over one or two.
CASES = [
    (encoder, decoder, semantic)
    for encoder in ENCODERS
    for decoder in HEADS
    for semantic in (True, False)
    if (
        (
            decoder in (ONE_STRIDE if encoder in LEVELS else OF_RESNET if encoder in DILATED else SINGLE_SCALE)
            and not semantic
        )
        if encoder not in PYRAMIDS
        else ((decoder == "semantic_fpn" and encoder != "mit") or (encoder, semantic, decoder) in SAMPLED)
    )
]


def first_of_a_kind() -> set[tuple[str, str, bool]]:
    """The first case of every encoder, of every decoder, and of Swin without semantic layers; the others are slow."""
    encoders: set[str] = set()
    decoders: set[str] = set()
    found = {("swin", "semantic_fpn", False)}
    for encoder, decoder, semantic in CASES:
        if encoder not in encoders or decoder not in decoders:
            found.add((encoder, decoder, semantic))
        encoders.add(encoder)
        decoders.add(decoder)
    return found


QUICK = first_of_a_kind() - {("swin", "fapn", True)}  # MSFaPN has its levels too


def tiny(encoder: str, decoder: str, *, semantic: bool) -> SegmentationModel:
    torch.manual_seed(0)
    spec, head = ENCODERS[encoder], HEADS[decoder]
    if semantic:
        spec = dataclasses.replace(spec, semantic=SemanticLayers(windows=(4, 4, None, None)))
    if decoder in SINGLE_SCALE and encoder in PYRAMIDS:
        head = dataclasses.replace(head, single_scale="fused" if encoder == "swin" else "last")
    model = ModelRecipe(encoder=spec, decoder=head, num_classes=NUM_CLASSES)
    return build(Recipe(name="test/tiny", model=model))


def test_every_decoder_is_covered() -> None:
    assert {head.kind for head in HEADS.values()} == set(DECODERS) == set(KINDS)
    pixel_decoders = {head.pixel_decoder.kind for head in HEADS.values() if hasattr(head, "pixel_decoder")}
    assert pixel_decoders == set(PIXEL_DECODERS)
    assert {HEADS[decoder].kind for _, decoder, _ in QUICK} == set(DECODERS)
    assert {encoder for encoder, *_ in QUICK} == set(ENCODERS)


def name_of(case: tuple[str, str, bool]) -> str:
    return f"{case[0]}-{case[1]}{'-semantic' if case[2] else ''}"


@pytest.fixture(
    scope="module",
    params=[pytest.param(case, marks=[] if case in QUICK else [pytest.mark.slow]) for case in CASES],
    ids=name_of,
)
def model(request: pytest.FixtureRequest) -> SegmentationModel:
    encoder, decoder, semantic = request.param
    return tiny(encoder, decoder, semantic=semantic)


@pytest.mark.parametrize("size", [(1, 1), (17, 33), (97, 131)], ids=str)
def test_any_size(model: SegmentationModel, size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size)
    with torch.inference_mode():
        scores, labels, out = model.scores(images), model.labels(images), model(images)
    assert scores.shape == (2, NUM_CLASSES, *size)
    assert torch.isfinite(scores).all()
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.long(), scores.argmax(1))
    assert (out.prior is not None) == bool(model.encoder.semantic)
    if out.prior is not None:
        assert out.prior.logits.shape[:2] == (2, NUM_CLASSES)


def test_maps_lie_on_the_padded_image(model: SegmentationModel) -> None:
    features = model.encode(torch.rand(1, 3, 64, 96))
    strides = model.encoder.strides
    assert strides in {(4, 8, 16, 32), (4, 8, 8, 8)} or len({*strides}) == 1
    for stride, channels, level in zip(strides, model.encoder.channels, features.maps, strict=True):
        assert level.shape == (1, channels, math.ceil(64 / stride), math.ceil(96 / stride))
    for level, prior in zip(features.maps, features.priors, strict=False):
        assert prior.shape == (1, NUM_CLASSES, *level.shape[-2:])


def test_joined_layers_give_the_same_scores(model: SegmentationModel) -> None:
    """To rounding, which is compared with float32's own: masks of attention may turn where a probability is ½."""
    generator, model = torch.Generator().manual_seed(0), copy.deepcopy(model)
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.add_(torch.rand(buffer.shape, generator=generator))
    images = torch.rand(2, 3, 41, 67, generator=generator)
    with torch.inference_mode():
        expected = model.scores(images)
        found = model.fuse().scores(images)
    assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


def test_images_of_a_batch_do_not_see_each_other(model: SegmentationModel) -> None:
    images = torch.rand(3, 3, 40, 56)
    with torch.inference_mode():
        together = model.scores(images)
        alone = torch.cat([model.scores(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient(model: SegmentationModel) -> None:
    """Within two steps: λ starts at 0, so what stands behind it moves only after λ has."""
    model = copy.deepcopy(model).train()
    for module in model.modules():
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    loss = loss_of(model)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(0, NUM_CLASSES, (2, 64, 64))
    alive: set[str] = set()
    for _ in range(2):
        optimiser.zero_grad()
        loss(model(images), model.pad_labels(labels)).total.backward()
        optimiser.step()
        alive |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    # A softmax over keys does not see their bias: its gradient is 0 but for rounding.
    expected = {name for name, _ in model.named_parameters() if not name.endswith(".key.bias")}
    # MaskFormer's queries start at zero, so that its first self-attention moves all of them alike.
    first = "decoder.predictor.layers.0.self_attention."
    if isinstance(model.decoder, MaskClassifier) and isinstance(model.decoder.predictor, MaskFormerPredictor):
        expected -= {f"{first}{part}" for part in ("query.weight", "query.bias", "key.weight", "value.weight")}
    assert alive >= expected


def loss_of(model: SegmentationModel) -> Callable[..., LossTerms]:
    head = HEADS["mask2former" if model.classifies_masks else "semantic_fpn"]
    loss = LossRecipe(masks=MaskLossRecipe(points=256))
    return build_loss(Recipe(name="test/tiny", model=ModelRecipe(decoder=head), loss=loss))


def test_bfloat16(model: SegmentationModel) -> None:
    """Autocast costs up to 3.1 times what rounding the weights alone costs; four times is allowed."""
    model = copy.deepcopy(model)
    for layer in model.encoder.semantic:
        for unit in layer.units:
            nn.init.ones_(unit.gain)  # at 0, as at the start, its attention would not be looked at
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        exact = model.scores(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model.scores(images)
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16().float())
        rounded = model.scores(images)
    assert not torch.equal(rough, exact), "computed in float32 after all"
    assert (rough - exact).square().mean().sqrt() < 4 * (rounded - exact).square().mean().sqrt()


def test_a_step_never_waits_for_the_device(model: SegmentationModel) -> None:
    """Neither forward nor backward, nor a prediction; on the meta device, where models run as they do on a GPU."""
    model = copy.deepcopy(model).to("meta").train()
    images = torch.rand(2, 3, 64, 64, device="meta")
    with Unasked():
        square_sum(model(images)).backward()
        with torch.inference_mode():
            model.eval().decode_main(images)


@pytest.mark.parametrize(
    ("encoder", "decoder", "semantic"),
    [("swin", "semantic_fpn", True), ("mit", "segformer", False), ("vit", "segmenter_mask", False)],
)
def test_a_step_under_autocast(encoder: str, decoder: str, semantic: bool) -> None:
    """Of one model of each kind: processors take seconds for a convolution's gradient in bfloat16."""
    model = tiny(encoder, decoder, semantic=semantic).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(torch.rand(2, 3, 64, 64))
    square_sum(out).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def square_sum(out: Segmentation) -> torch.Tensor:
    """A loss that depends on everything a model returns."""
    return torch.stack([leaf.float().square().mean() for leaf in tensors(out)]).sum()


def test_the_mode_notices_who_waits() -> None:
    with Unasked():
        for ask in (
            lambda x: x.sum().item(),
            lambda x: bool(x.any()),
            lambda x: x[x > 0],
            lambda x: torch.tensor([1.0], device=x.device),
        ):
            with pytest.raises(AssertionError, match=r"_local_scalar_dense|is_nonzero|index|torch\.tensor"):
                ask(torch.ones(3))


TRACED_FOR_ANY_SIZE = {"semantic_fpn", "segformer", "pspnet", "maskformer"}
"""Decoders of test_export_takes_any_size."""


def exported_here() -> list[tuple[str, str, bool]]:
    """The first case of every encoder, and all other decoders over another than Swin, which takes ten seconds to trace."""
    found: dict[str, tuple[str, str, bool]] = {}
    for case in CASES:
        found.setdefault(case[0], case)
    # MSFaPN has FaPN's levels too
    for decoder in set(HEADS) - TRACED_FOR_ANY_SIZE - {"fapn"} - {decoder for _, decoder, _ in found.values()}:
        over = next((encoder for encoder, head, _ in CASES if head == decoder and encoder not in PYRAMIDS), "resnet")
        found[decoder] = (over, decoder, False)
    return sorted(found.values())


EXPORTED = exported_here()


@pytest.mark.parametrize(
    "case",
    [*EXPORTED, *(pytest.param(case, marks=pytest.mark.slow) for case in CASES if case not in EXPORTED)],
    ids=name_of,
)
def test_export_equals_eager(case: tuple[str, str, bool]) -> None:
    encoder, decoder, semantic = case
    model = tiny(encoder, decoder, semantic=semantic)
    if encoder in PLAIN:  # of its twelve blocks alike
        model.encoder.backbone.blocks = model.encoder.backbone.blocks[:2]
    images = torch.rand(2, 3, 64, 96)
    batch = {0: torch.export.Dim("batch", min=1, max=16)}
    program = torch.export.export(model, (images,), dynamic_shapes=({**batch},))
    other = torch.rand(3, 3, 64, 96)
    with torch.inference_mode():
        exported, eager = program.module()(other), model(other)
    for ours, theirs in zip(tensors(exported), tensors(eager), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 if model.classifies_masks else 1e-5)


@pytest.mark.parametrize(
    ("decoder", "semantic"),
    [
        ("semantic_fpn", False),
        ("segformer", False),
        ("pspnet", False),
        pytest.param("deeplabv3plus", False, marks=pytest.mark.slow),
        pytest.param("upernet", False, marks=pytest.mark.slow),
        pytest.param("ocr", False, marks=pytest.mark.slow),
        pytest.param("fcn", False, marks=pytest.mark.slow),
        pytest.param("ccnet", False, marks=pytest.mark.slow),
        pytest.param("psanet", False, marks=pytest.mark.slow),
        ("maskformer", False),
        # tracing these for any size takes most of a minute
        pytest.param("mask2former", False, marks=pytest.mark.slow),
        pytest.param("fapn", False, marks=pytest.mark.slow),
        pytest.param("msfapn", False, marks=pytest.mark.slow),
        pytest.param("mask2former", True, marks=pytest.mark.slow),
    ],
)
def test_export_takes_any_size(monkeypatch: pytest.MonkeyPatch, decoder: str, semantic: bool) -> None:
    """Sides are multiples of what images are padded to, at least twice that: export treats a count of 1 apart."""
    # PSANet treats maps of odd sides otherwise; at stride 8 there are none.
    model = tiny("resnet_8" if decoder == "psanet" else "resnet", decoder, semantic=semantic)
    tall, wide = (torch.export.Dim(name, min=2, max=16) for name in ("tall", "wide"))
    shapes = ({0: torch.export.Dim("batch", min=1, max=16), 2: 32 * tall, 3: 32 * wide},)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a symbolic size is no int to it
    program = torch.export.export(model, (torch.rand(2, 3, 128, 96),), dynamic_shapes=shapes)
    for size in ((1, 3, 96, 64), (3, 3, 64, 160)):
        images = torch.rand(*size)
        with torch.inference_mode():
            exported, eager = program.module()(images), model(images)
        for ours, theirs in zip(tensors(exported), tensors(eager), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def tensors(out: Segmentation) -> list[torch.Tensor]:
    """Everything a model returns."""
    leaves = torch.utils._pytree.tree_leaves(out)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


def test_normalisation_is_the_models(model: SegmentationModel) -> None:
    side = math.lcm(32, model.encoder.size_multiple)
    images = torch.rand(1, 3, side, side)
    with torch.inference_mode():
        inside = model.encode(images).maps
        outside = model.encoder((images - model.mean) / model.std).maps
    for ours, theirs in zip(inside, outside, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_batchnorm_of_the_head_is_called_bn() -> None:
    """The published no-decay rule goes by names: `norm` is not decayed, the head's `bn` is."""
    model = tiny("swin", "semantic_fpn", semantic=True)
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            assert "norm" in name
        if isinstance(module, nn.BatchNorm2d):
            assert "norm" not in name
