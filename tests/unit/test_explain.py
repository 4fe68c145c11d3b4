from __future__ import annotations

from itertools import product
from math import hypot

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from semask.models.build import build
from semask.models.encoders.kinds import encoder_options
from semask.models.encoders.vit import ViTEncoder, timm_vit
from semask.models.layers.attention import SelfAttention
from semask.models.model import SegmentationModel
from semask.recipes import ModelRecipe, Recipe
from semask.recipes.decoders import decoder_options
from semask.visualization.explain import (
    TokenOrder,
    attention_distances,
    attention_rows,
    class_embeddings,
    grid_distances,
    mean_distance,
    project_classes,
)
from tests.facts import facts

# name → (other tokens before the patches, side of a patch)
VITS = {
    "vit_tiny_patch16_224": (1, 16),
    "deit_tiny_distilled_patch16_224": (2, 16),
    "vit_small_patch14_reg4_dinov2": (5, 14),
    "vit_small_patch16_dinov3": (5, 16),
    "vit_small_patch16_rope_mixed_224": (1, 16),
}


def model_of(
    name: str = "vit_tiny_patch16_224", *, decoder: str = "segmenter_mask", num_classes: int = 3, **fields: object
) -> SegmentationModel:
    encoder = encoder_options(name, **{"image_size": (32, 48), **fields} if decoder != "semantic_fpn" else fields)
    spec = ModelRecipe(encoder=encoder, decoder=decoder_options(decoder, channels=None), num_classes=num_classes)
    return build(Recipe(name="tests/model", model=spec))


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    torch.manual_seed(0)
    return model_of()


@pytest.mark.parametrize("name", list(VITS))
def test_rows_of_every_kind_of_vit(name: str) -> None:
    others, patch = VITS[name]
    model = model_of(name, image_size=(2 * patch, 3 * patch))
    images = torch.rand(2, 3, 2 * patch - 3, 3 * patch)  # padded to 2 × 3 patches
    queries = [*range(others), (0, 0), (1, 2)]
    found = attention_rows(model, images, queries, part="encoder", layer=3)
    heads = model.encoder.channels[0] // 64
    assert found.rows.shape == (2, heads, len(queries), others + 6)
    assert found.maps.shape == (2, heads, len(queries), 2, 3)
    assert found.others.shape == (2, heads, len(queries), others)
    assert found.order == TokenOrder((2, 3), before=others, after=0)
    assert not found.rows.requires_grad
    torch.testing.assert_close(found.rows.sum(-1), torch.ones(2, heads, len(queries)))
    torch.testing.assert_close(found.maps.sum((-2, -1)) + found.others.sum(-1), torch.ones(2, heads, len(queries)))
    assert found.rows.std(dim=-1).min() > 0


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2"])  # fmt: skip
def test_rows_are_the_softmax_of_queries_and_keys(name: str) -> None:
    others, patch = VITS[name]
    model = model_of(name, image_size=(2 * patch, 3 * patch))
    images = torch.rand(1, 3, 2 * patch, 3 * patch)
    block = model.encoder.backbone.blocks[2]
    read: list[Tensor] = []
    hook = block.attn.qkv.register_forward_hook(lambda _, __, output: read.append(output))
    model(images)
    hook.remove()
    heads = block.attn.num_heads
    query, key, _ = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in read[0].chunk(3, dim=-1))
    expected = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
    found = attention_rows(model, images, [0, (1, 1)], part="encoder", layer=2)
    torch.testing.assert_close(found.rows, expected[:, :, [0, others + 4]], atol=1e-6, rtol=0)
    torch.testing.assert_close(found.maps[..., 1, 2], expected[:, :, [0, others + 4], others + 5], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["vit_small_patch16_18x2_224", "vit_dwee_patch16_reg1_gap_256", "vit_pwee_patch16_reg1_gap_256"])  # fmt: skip
def test_unusual_blocks_show_all_their_attention(name: str) -> None:
    backbone = timm_vit(name, image_size=(32, 32))
    heads = 12 if "18x2" in name else 2 * backbone.blocks[0].attn.num_heads if "dwee" in name else backbone.blocks[0].num_heads  # fmt: skip
    encoder = ViTEncoder(backbone.eval())
    (found,) = encoder.attention(torch.rand(1, 3, 32, 32), lambda attention: attention, layers=[1])
    tokens = 4 + encoder.num_extra
    assert found.shape == (1, heads, tokens, tokens)
    torch.testing.assert_close(found.sum(-1), torch.ones(1, heads, tokens))


def test_rotary_positions_take_part() -> None:
    """DINOv3 has no position table: equal patches differ by their rotation alone."""
    model = model_of("vit_small_patch16_dinov3", image_size=(32, 48))
    row = attention_rows(model, torch.full((1, 3, 32, 48), 0.3), [(0, 0)], part="encoder", layer=0).maps[0, :, 0]
    assert (row.flatten(1).std(dim=1) > 1e-6).any()


def test_decoder_rows_agree_with_torch(model: SegmentationModel) -> None:
    images = torch.rand(2, 3, 32, 48)
    ours = model.decoder.blocks[1].attn
    theirs = nn.MultiheadAttention(192, ours.num_heads, batch_first=True).eval()
    theirs.in_proj_weight, theirs.in_proj_bias = ours.qkv.weight, ours.qkv.bias
    read: list[Tensor] = []
    hook = ours.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    model(images)
    hook.remove()
    expected = theirs(*3 * read, need_weights=True, average_attn_weights=False)[1]
    found = attention_rows(model, images, [0, 2, (0, 0), (1, 2)], part="decoder", layer=1)
    torch.testing.assert_close(found.rows, expected[:, :, [6, 8, 0, 5]], atol=1e-6, rtol=0)
    torch.testing.assert_close(found.others, found.rows[..., 6:])
    torch.testing.assert_close(found.maps.flatten(-2), found.rows[..., :6])
    assert found.order == TokenOrder((2, 3), before=0, after=3)


def test_decoder_rows_over_a_pyramid() -> None:
    spec = ModelRecipe(
        encoder=encoder_options("test_resnet"),
        decoder=decoder_options("segmenter_mask", channels=None, single_scale="last"),
        num_classes=2,
    )
    model = build(Recipe(name="tests/model", model=spec))
    found = attention_rows(model, torch.rand(1, 3, 64, 96), [(3, 5), 1], part="decoder", layer=0)
    assert found.maps.shape[2:] == (2, 4, 6)
    with pytest.raises(ValueError, match=facts("HierarchicalEncoder", "ViT", "ade20k/seg-s-mask-16")):
        attention_rows(model, torch.rand(1, 3, 64, 96), [(0, 0)], part="encoder", layer=0)
    with pytest.raises(ValueError, match=facts("HierarchicalEncoder")):
        attention_distances(model, [torch.rand(1, 3, 64, 96)])


def test_the_model_is_left_as_it_was() -> None:
    model = model_of(drop_path=0.5).train()
    model.encoder.eval()
    model.encoder.backbone.blocks[3].train()
    modes = {name: module.training for name, module in model.named_modules()}
    attentions = [block.attn for block in model.encoder.backbone.blocks]
    attentions[2].fused_attn = False
    fused = [attention.fused_attn for attention in attentions]
    images = torch.rand(2, 3, 32, 48)

    def look() -> tuple[Tensor, ...]:
        rows = [attention_rows(model, images, [0], part=part, layer=1).rows for part in ("encoder", "decoder")]
        return (*rows, attention_distances(model, [images]))

    def boom(_: Tensor) -> Tensor:
        raise RuntimeError("boom")

    first, second = look(), look()
    with pytest.raises(RuntimeError, match="boom"):
        model.encoder.attention(images, boom, layers=[0, 2, 5])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), "dropout and drop path took part"
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert [attention.fused_attn for attention in attentions] == fused
    assert not any(attention.attn_drop._forward_pre_hooks for attention in attentions)
    with pytest.raises(ValueError, match=facts("(b, 3, H, W)", "torch.float32", (3, 32, 48))):
        attention_rows(model, images[0], [0], part="encoder", layer=1)
    assert {name: module.training for name, module in model.named_modules()} == modes
    model(images).main.logits.mean().backward()  # nothing is left that could not be trained


def test_distances_are_those_of_the_rows_image_by_image(model: SegmentationModel) -> None:
    images = torch.rand(3, 3, 32, 48)
    other = torch.rand(1, 3, 64, 32)
    found = attention_distances(model, [images[:2], other, images[2:]])
    singles = [attention_distances(model, [image[None]]) for image in images] + [attention_distances(model, [other])]
    torch.testing.assert_close(found, torch.stack(singles).mean(0), rtol=1e-6, atol=0)
    places = list(product(range(2), range(3)))
    rows = attention_rows(model, images[:1], places, part="encoder", layer=7).maps.double()
    expected = [
        sum(
            sum(float(row[y, x]) * hypot(16 * (y - i), 16 * (x - j)) for y, x in places) / float(row.sum()) / 6
            for (i, j), row in zip(places, head, strict=True)
        )
        for head in rows[0]
    ]
    assert singles[0][7].tolist() == pytest.approx(expected, rel=1e-6)
    assert found.shape == (12, 3)
    with pytest.raises(ValueError):  # noqa: PT011  nothing was given, so there is nothing to name
        attention_distances(model, [])


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([8, 14, 16]))
def test_grid_distances(height: int, width: int, patch: int) -> None:
    places = list(product(range(height), range(width)))
    expected = [[patch * hypot(y - i, x - j) for y, x in places] for i, j in places]
    torch.testing.assert_close(grid_distances((height, width), patch), torch.tensor(expected))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 4), st.integers(1, 6), st.floats(0.01, 1))
def test_distances_of_known_attention(height: int, width: int, share: float) -> None:
    count = height * width
    distances = grid_distances((height, width), 16)
    identity = torch.eye(count).expand(1, 2, -1, -1)
    assert mean_distance(identity * share, distances).tolist() == [[0.0, 0.0]]
    # A row of n patches under even attention: the mean of |i - j| is (n² - 1) / 3n.
    even = torch.full((1, 1, width, width), share)
    assert mean_distance(even, grid_distances((1, width), 16)).item() == pytest.approx(
        16 * (width**2 - 1) / (3 * width), rel=1e-6
    )
    noise = torch.rand(1, 1, count, count) + 0.01
    found = mean_distance(noise, distances)
    assert 0 <= found.item() <= distances.max()
    torch.testing.assert_close(mean_distance(noise * share, distances), found, rtol=1e-6, atol=1e-6)


def test_distances_of_half_precision() -> None:
    attention = torch.rand(1, 2, 12, 12).softmax(-1).bfloat16()
    distances = grid_distances((3, 4), 16)
    torch.testing.assert_close(
        mean_distance(attention, distances), mean_distance(attention.double(), distances.double()), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("centred", [False, True])
def test_projection_is_the_best_plane(centred: bool) -> None:
    points = torch.randn(20, 6) * torch.tensor([5.0, 3, 1, 0.5, 0.2, 0.1]) + 1
    found = project_classes(points, centred=centred)
    inner = points.double() - (points.double().mean(0) if centred else 0)
    eigenvalues, vectors = torch.linalg.eigh(inner.T @ inner)
    torch.testing.assert_close(found.singular_values, eigenvalues.flip(0).sqrt())
    torch.testing.assert_close(found.explained, eigenvalues.flip(0)[:2] / inner.square().sum())
    expected = inner @ vectors.flip(1)[:, :2]
    torch.testing.assert_close(found.coordinates.abs(), expected.abs())
    assert (found.coordinates.amax(0) >= found.coordinates.abs().amax(0)).all()
    flipped = project_classes(-points, centred=centred)
    torch.testing.assert_close(flipped.coordinates, found.coordinates, msg="signs are a matter of the rule alone")


def test_class_embeddings_come_from_a_mask_transformer(model: SegmentationModel) -> None:
    assert torch.equal(class_embeddings(model), model.decoder.class_embeddings)
    assert not class_embeddings(model).requires_grad
    assert project_classes(class_embeddings(model), centred=True).coordinates.shape == (3, 2)
    with pytest.raises(ValueError, match=facts("SegmenterLinear", "segmenter_mask", "ade20k/seg-s-mask-16")):
        class_embeddings(model_of(decoder="segmenter_linear"))
    with pytest.raises(ValueError, match=facts(2, (1, 8))):
        project_classes(torch.rand(1, 8), centred=True)
    with pytest.raises(ValueError):  # noqa: PT011  which numbers would be too many to name
        project_classes(torch.full((3, 8), torch.nan), centred=False)


@pytest.mark.parametrize(
    ("part", "layer", "query", "wanted"),
    [
        ("encoder", 12, 0, ("encoder", 12, "0 … 11")),
        ("encoder", -1, 0, ("encoder", -1, "0 … 11")),
        ("decoder", 2, 0, ("decoder", 2, "0 … 1")),
        ("neck", 0, 0, ("'neck'", "encoder", "decoder")),
        ("encoder", 0, (2, 0), (2, 0, "2×3", "0 … 1", "0 … 2")),
        ("encoder", 0, (0, 3), (3, 0, "2×3", "0 … 1", "0 … 2")),
        ("decoder", 0, (0, -1), (-1, 0, "2×3", "0 … 1", "0 … 2")),
        ("encoder", 0, 1, (1, "0 … 0")),
        ("decoder", 0, 3, (3, "0 … 2")),
        ("decoder", 0, -1, (-1, "0 … 2")),
    ],
)
def test_bad_questions(model: SegmentationModel, part, layer: int, query, wanted: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=facts(*wanted)):
        attention_rows(model, torch.rand(1, 3, 32, 48), [query], part=part, layer=layer)


def test_parts_without_attention_or_other_tokens() -> None:
    linear = model_of(decoder="segmenter_linear")
    with pytest.raises(ValueError, match=facts("SegmenterLinear", "segmenter_mask")):
        attention_rows(linear, torch.rand(1, 3, 32, 48), [0], part="decoder", layer=0)
    with pytest.raises(ValueError, match=facts(0)):
        TokenOrder((2, 3), before=0, after=0).token(0)


def test_weights_are_what_forward_mixes_with() -> None:
    attention = SelfAttention(128, num_heads=2).eval()
    tokens = torch.rand(2, 7, 128)
    value = attention.qkv(tokens)[..., 256:].unflatten(-1, (2, 64)).transpose(1, 2)
    mixed = (attention.weights(tokens) @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(tokens), attention.proj(mixed), atol=1e-5, rtol=0)


@pytest.mark.parametrize("query", ["cls", (1,), (1, 2, 3), [1, 2]])
def test_what_is_no_query_is_refused(query: object) -> None:
    with pytest.raises(ValueError, match=facts(repr(query))):
        TokenOrder((4, 6), before=1, after=0).token(query)
