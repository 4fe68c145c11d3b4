"""Segmenter's decoders against loops and against the formulas, and one map out of a pyramid."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semask.models.decoders.segmenter import MaskTransformer, SegmenterLinear, SingleScale
from semask.models.layers.attention import Block, SelfAttention
from semask.structures import Features
from tests.facts import facts


def one_map(channels: int) -> SingleScale:
    return SingleScale((channels,), (16,), source=None)


def test_masks_are_normalised_cosines() -> None:
    decoder = MaskTransformer(one_map(128), num_classes=5, layers=1).eval()
    nn.init.normal_(decoder.mask_norm.weight)
    nn.init.normal_(decoder.mask_norm.bias)
    features = Features((torch.randn(2, 128, 3, 4),))
    with torch.no_grad():
        found = decoder(features).logits
        tokens = decoder.norm(decoder.blocks[0](decoder.tokens(features)[0]))
    for image in range(2):
        for y in range(3):
            for x in range(4):
                patch = tokens[image, 4 * y + x] @ decoder.patch_projection
                cosines = torch.stack(
                    [
                        F.cosine_similarity(patch, tokens[image, 12 + k] @ decoder.class_projection, dim=0)
                        for k in range(5)
                    ]
                )
                spread = ((cosines - cosines.mean()).square().mean() + 1e-5).sqrt()
                expected = (cosines - cosines.mean()) / spread * decoder.mask_norm.weight + decoder.mask_norm.bias
                torch.testing.assert_close(found[image, :, y, x], expected.detach(), rtol=1e-4, atol=1e-4)


def test_class_embeddings_follow_the_patches() -> None:
    decoder = MaskTransformer(one_map(64), num_classes=3).eval()
    tokens, grid = decoder.tokens(Features((torch.randn(2, 64, 2, 5),)))
    assert grid == (2, 5)
    assert tokens.shape == (2, 13, 64)
    assert torch.equal(tokens[1, 10:], decoder.class_embeddings)


def test_patches_have_no_positions() -> None:
    """Shuffled patches give shuffled masks: only the encoder knows where a patch is."""
    decoder = MaskTransformer(one_map(64), num_classes=4).eval()
    features = torch.randn(1, 64, 1, 9)
    order = torch.randperm(9)
    with torch.inference_mode():
        straight, shuffled = (decoder(Features((maps,))).logits for maps in (features, features[..., order]))
    torch.testing.assert_close(straight[..., order], shuffled, rtol=1e-4, atol=1e-5)


def test_linear_is_a_matrix_per_patch() -> None:
    decoder = SegmenterLinear(one_map(6), num_classes=4)
    features = torch.randn(2, 6, 3, 2)
    expected = torch.einsum("bchw,kc->bkhw", features, decoder.classify.weight[:, :, 0, 0])
    torch.testing.assert_close(decoder(Features((features,))).logits, expected)


def test_start_of_training() -> None:
    """Linear layers and class embeddings deviate by 0.02, the bare matrices by d^-½, dropout is where the code has it."""
    decoder = MaskTransformer(one_map(384), num_classes=150, dropout=0.1, drop_path=0.2)
    for name, parameter in decoder.named_parameters():
        if "norm" in name:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight"))))
        elif name.endswith("bias"):
            assert not parameter.any()
        else:
            expected = 384**-0.5 if name in {"patch_projection", "class_projection"} else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name
    assert [block.attn.dropout.p for block in decoder.blocks] == [0.1, 0.1]
    assert [block.mlp.dropout.p for block in decoder.blocks] == [0.1, 0.1]
    assert [block.drop_path.p for block in decoder.blocks] == pytest.approx([0.0, 0.2])


def test_attention_is_torchs_own() -> None:
    ours, theirs = SelfAttention(128, num_heads=2).eval(), nn.MultiheadAttention(128, 2, batch_first=True).eval()
    nn.init.normal_(ours.qkv.bias)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    tokens = torch.randn(2, 7, 128)
    expected, weights = theirs(tokens, tokens, tokens, average_attn_weights=False)
    torch.testing.assert_close(ours(tokens), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.weights(tokens), weights, rtol=1e-4, atol=1e-5)


def test_dropout_acts_in_training_only() -> None:
    block = Block(64, num_heads=1, dropout=0.5, drop_path=0.5)
    tokens = torch.randn(4, 5, 64)
    assert not torch.equal(block(tokens), block(tokens))
    block.eval()
    assert torch.equal(block(tokens), block(tokens))


@pytest.mark.parametrize("size", [(64, 96), (97, 131)])
def test_a_pyramid_is_brought_to_stride_16(size: tuple[int, int]) -> None:
    channels, strides = (4, 8, 12, 20), (4, 8, 16, 32)
    maps = [
        torch.randn(2, c, *(math.ceil(s / stride) for s in size)) for c, stride in zip(channels, strides, strict=True)
    ]
    grid = tuple(maps[2].shape[-2:])
    last = SingleScale(channels, strides, source="last")
    assert last.channels == 20
    expected = F.interpolate(maps[3], size=grid, mode="bilinear", align_corners=False)
    assert torch.equal(last(maps), expected)
    fused = SingleScale(channels, strides, source="fused", width=10)
    assert fused.channels == 10
    assert fused(maps).shape == (2, 10, *grid)
    # every stage takes part: a change of one alone changes the sum, in proportion
    for level, features in enumerate(maps):
        changed = [*maps[:level], features + 1.0, *maps[level + 1 :]]
        step = fused(changed) - fused(maps)
        weight = fused.projections[level].weight.sum(dim=(1, 2, 3))
        torch.testing.assert_close(step, weight[:, None, None].expand_as(step), rtol=1e-3, atol=1e-4)


def test_a_pyramid_without_stride_16() -> None:
    with pytest.raises(ValueError, match=facts(16, (8, 32))):
        SingleScale((4, 8), (8, 32), source="last")
