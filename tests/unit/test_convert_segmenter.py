"""Segmenter's files that do not fit, and what is said of them. That fitting ones compute the same: tests/reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from semask.checkpoints.convert import convert, load_published
from semask.checkpoints.rules.segmenter import CLASS_TENSORS, rename, translate
from semask.recipes import get_recipe
from tests.facts import facts, missing
from tests.reference.synthetic_weights import checkpoint, hollow_checkpoint

RECIPE = "ade20k/seg-t-mask-16"


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return checkpoint("segmenter/seg_t_mask_16")


@pytest.fixture(scope="module")
def hollow() -> dict[str, Tensor]:
    return hollow_checkpoint("segmenter/seg_t_mask_16")


def problem(tensors: dict[str, Tensor], recipe: str) -> str:
    with pytest.raises(ValueError, match=facts(repr(recipe))) as error:
        load_published(tensors, recipe)
    return str(error.value)


def table(rows: int) -> Tensor:
    return torch.zeros(1, rows, 192)


def test_the_unused_heads_are_dropped(published: dict[str, Tensor]) -> None:
    assert rename("encoder.head.weight") is None
    assert rename("encoder.head_dist.bias") is None
    assert rename("decoder.head.weight") == "decoder.classify.weight"
    conversion = convert(published, RECIPE)
    assert conversion.loaded == len(conversion.model.state_dict()) == len(published) - 2
    assert conversion.beside is None, "a dict has no folder to look into"


def test_matrices_are_turned_where_they_are_a_linear_layer() -> None:
    weight = torch.arange(9.0).reshape(3, 3)
    theirs = translate(
        {"backbone.cls_token": torch.zeros(1), "decode_head.patch_proj.weight": weight}, get_recipe(RECIPE)
    )
    authors = translate({"decoder.proj_patch": weight}, get_recipe(RECIPE))
    assert torch.equal(theirs.tensors["decoder.patch_projection"], weight.T)
    assert torch.equal(authors.tensors["decoder.patch_projection"], weight)
    assert authors.recipe == get_recipe(RECIPE)


def test_a_missing_bias_of_patches_is_zero() -> None:
    tensors = checkpoint("mmsegmentation/segmenter_vit_t_mask_150_64x96")
    assert "backbone.patch_embed.projection.bias" not in tensors
    assert not load_published(tensors, RECIPE).encoder.backbone.patch_embed.proj.bias.any()
    tensors["backbone.patch_embed.projection.bias"] = torch.full((192,), 0.5)
    assert (load_published(tensors, RECIPE).encoder.backbone.patch_embed.proj.bias == 0.5).all()


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (901, ("480×480", "512×512")),
        (1601, ("640×640", "512×512")),
        (1000, ()),
    ],
)
def test_tables_for_other_images(hollow: dict[str, Tensor], rows: int, told: tuple[str, ...]) -> None:
    message = problem(hollow | {"encoder.pos_embed": table(rows)}, RECIPE)
    assert missing(message, 1, "encoder.pos_embed", (1, rows, 192), (1, 1025, 192)) == []
    assert missing(message.splitlines()[-1], rows, 1025, *told) == []
    assert message.count("ade20k/") == 1, "none fits"


@pytest.mark.parametrize(
    "malformed",
    [
        {"encoder.pos_embed": torch.zeros(5)},
        {"encoder.pos_embed": torch.zeros(1025, 192)},
        {"encoder.pos_embed": torch.zeros(())},
        {"encoder.pos_embed": table(901), "encoder.patch_embed.proj.weight": torch.zeros(())},
        {"decoder.cls_emb": torch.zeros(()), "decoder.proj_patch": torch.zeros(3)},
    ],
)
def test_tensors_of_another_rank(hollow: dict[str, Tensor], malformed: dict[str, Tensor]) -> None:
    message = problem(hollow | malformed, RECIPE)
    _, misshapen = message.splitlines()  # no other remark
    assert missing(misshapen, len(malformed)) == []
    for key, value in malformed.items():
        assert missing(misshapen, key, tuple(value.shape)) == []


def test_tensors_of_another_rank_in_the_port() -> None:
    port = hollow_checkpoint("mmsegmentation/segmenter_vit_t_mask_150_64x96")
    port |= {"backbone.patch_embed.projection.weight": torch.zeros(()), "decode_head.patch_proj.weight": torch.zeros(3)}
    message = problem(port, RECIPE)
    _, absent, misshapen = message.splitlines()
    assert missing(absent, 1, "encoder.backbone.patch_embed.proj.bias") == []
    assert missing(misshapen, 2, "backbone.patch_embed.projection.weight", (), (192, 3, 16, 16)) == []
    assert missing(misshapen, "decode_head.patch_proj.weight", (3,), (192, 192)) == []


def test_other_class_counts(published: dict[str, Tensor], hollow: dict[str, Tensor]) -> None:
    other = {
        key: value[:, :19] if key == "decoder.cls_emb" else value[:19] if "mask_norm" in key else value
        for key, value in hollow.items()
    }
    message = problem(other, RECIPE)
    assert missing(message, "decoder.cls_emb", (1, 19, 192), (19, 192), (150, 192)) == []
    assert missing(message.splitlines()[2], 19, 150, "num_classes=150", "num_classes=19") == []
    linear = hollow_checkpoint("segmenter/seg_s_linear_16")
    linear |= {key: linear[key][:60] for key in ("decoder.head.weight", "decoder.head.bias")}
    assert missing(problem(linear, "ade20k/seg-s-16").splitlines()[2], 60, 150, "num_classes=150") == []
    conversion = convert(published, RECIPE, num_classes=7)
    assert sorted(conversion.fresh) == [
        "decoder.class_embeddings",
        "decoder.mask_norm.bias",
        "decoder.mask_norm.weight",
    ]
    assert all(CLASS_TENSORS.fullmatch(key) for key in conversion.fresh)
    assert conversion.model.num_classes == 7
    assert conversion.classes is None


def test_the_recipe_that_fits_is_named(hollow: dict[str, Tensor]) -> None:
    message = problem(hollow, "ade20k/seg-t-16")
    assert "decoder.cls_emb, decoder.proj_patch" in message
    assert missing(message.splitlines()[-1], "'ade20k/seg-t-mask-16'") == []
    assert missing(problem(hollow, "pascal-context/seg-l-mask-16").splitlines()[-1], "'ade20k/seg-t-mask-16'") == []
    port = hollow_checkpoint("mmsegmentation/segmenter_vit_t_linear_150_64x96")
    assert missing(problem(port, RECIPE).splitlines()[-1], "'ade20k/seg-t-16'") == []


def test_a_file_of_another_family() -> None:
    tensors = hollow_checkpoint("swin_t_fpn_150_64x96")
    message = problem(tensors, RECIPE)
    assert "backbone.patch_embed.norm.weight" in message
    assert missing(message.splitlines()[-1], "'ade20k/swin-t-fpn'") == []


def test_the_variant_is_compared_before_the_tensors(published: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model": published}, tmp_path / "checkpoint.pth")
    (tmp_path / "variant.yml").write_text("net_kwargs: {backbone: vit_tiny_patch16_384, n_cls: 150}")
    with pytest.raises(
        ValueError, match=facts("net_kwargs.backbone", "'vit_tiny_patch16_384'", "'vit_small_patch16_384'")
    ):
        convert(tmp_path / "checkpoint.pth", "ade20k/seg-s-mask-16")
    with pytest.raises(ValueError, match=facts("net_kwargs.n_cls", 150, 60)):
        convert(tmp_path / "checkpoint.pth", "pascal-context/seg-l-mask-16")
    conversion = convert(tmp_path / "checkpoint.pth", RECIPE, num_classes=60)
    assert missing(conversion.beside, "variant.yml") == []
