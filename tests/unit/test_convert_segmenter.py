"""Segmenter's files that do not fit, and what is said of them. That fitting ones compute the same: tests/reference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from semask.checkpoints.convert import convert, load_published
from semask.checkpoints.rules.segmenter import CLASS_TENSORS, rename, translate
from semask.recipes import get
from tests.reference.synthetic_weights import checkpoint, hollow_checkpoint

RECIPE = "ade20k/seg-t-mask-16"


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    return checkpoint("segmenter/seg_t_mask_16")


@pytest.fixture(scope="module")
def hollow() -> dict[str, Tensor]:
    return hollow_checkpoint("segmenter/seg_t_mask_16")


def problem(tensors: dict[str, Tensor], recipe: str) -> str:
    with pytest.raises(ValueError, match="does not fit the recipe") as error:
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
    theirs = translate({"backbone.cls_token": torch.zeros(1), "decode_head.patch_proj.weight": weight}, get(RECIPE))
    authors = translate({"decoder.proj_patch": weight}, get(RECIPE))
    assert torch.equal(theirs.tensors["decoder.patch_projection"], weight.T)
    assert torch.equal(authors.tensors["decoder.patch_projection"], weight)
    assert authors.recipe == get(RECIPE)


def test_a_missing_bias_of_patches_is_zero() -> None:
    tensors = checkpoint("mmsegmentation/segmenter_vit_t_mask_150_64x96")
    assert "backbone.patch_embed.projection.bias" not in tensors
    assert not load_published(tensors, RECIPE).encoder.backbone.patch_embed.proj.bias.any()
    tensors["backbone.patch_embed.projection.bias"] = torch.full((192,), 0.5)
    assert (load_published(tensors, RECIPE).encoder.backbone.patch_embed.proj.bias == 0.5).all()


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (901, "has 901 rows, for images of 480×480; the recipe's has 1025, for image_size 512×512"),
        (1601, "has 1601 rows, for images of 640×640; the recipe's has 1025"),
        (1000, "has 1000 rows, for no square image; the recipe's has 1025"),
    ],
)
def test_tables_for_other_images(hollow: dict[str, Tensor], rows: int, told: str) -> None:
    message = problem(hollow | {"encoder.pos_embed": table(rows)}, RECIPE)
    assert f"1 of another shape: encoder.pos_embed: file (1, {rows}, 192), recipe (1, 1025, 192)" in message
    assert told in message
    assert "It fits" not in message


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
    assert f"{len(malformed)} of another shape: " in message
    for key, value in malformed.items():
        assert f"{key}: file {tuple(value.shape)}, recipe (" in message
    assert "position table" not in message


def test_tensors_of_another_rank_in_the_port() -> None:
    port = hollow_checkpoint("mmsegmentation/segmenter_vit_t_mask_150_64x96")
    port |= {"backbone.patch_embed.projection.weight": torch.zeros(()), "decode_head.patch_proj.weight": torch.zeros(3)}
    message = problem(port, RECIPE)
    assert "  1 missing: encoder.backbone.patch_embed.proj.bias\n" in message
    assert "backbone.patch_embed.projection.weight: file (), recipe (192, 3, 16, 16)" in message
    assert "decode_head.patch_proj.weight: file (3,), recipe (192, 192)" in message


def test_other_class_counts(published: dict[str, Tensor], hollow: dict[str, Tensor]) -> None:
    other = {
        key: value[:, :19] if key == "decoder.cls_emb" else value[:19] if "mask_norm" in key else value
        for key, value in hollow.items()
    }
    message = problem(other, RECIPE)
    assert "decoder.cls_emb: file (1, 19, 192), read as (19, 192), recipe (150, 192)" in message
    assert "The file has 19 classes, the recipe 150: " in message
    assert "num_classes=150 to keep all tensors but those that depend on the class count" in message
    linear = hollow_checkpoint("segmenter/seg_s_linear_16")
    linear |= {key: linear[key][:60] for key in ("decoder.head.weight", "decoder.head.bias")}
    assert "The file has 60 classes, the recipe 150: " in problem(linear, "ade20k/seg-s-16")
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
    assert "unexpected: decoder.cls_emb, decoder.proj_patch" in message
    assert message.endswith("It fits the recipe 'ade20k/seg-t-mask-16'.")
    assert problem(hollow, "pascal-context/seg-l-mask-16").endswith("It fits the recipe 'ade20k/seg-t-mask-16'.")
    port = hollow_checkpoint("mmsegmentation/segmenter_vit_t_linear_150_64x96")
    assert problem(port, RECIPE).endswith("It fits the recipe 'ade20k/seg-t-16'.")


def test_a_file_of_another_family() -> None:
    tensors = hollow_checkpoint("swin_t_fpn_150_64x96")
    message = problem(tensors, RECIPE)
    assert " unexpected: backbone.patch_embed.norm.weight" in message
    assert message.endswith("It fits the recipe 'ade20k/swin-t-fpn'.")


def test_the_variant_is_compared_before_the_tensors(published: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model": published}, tmp_path / "checkpoint.pth")
    (tmp_path / "variant.yml").write_text("net_kwargs: {backbone: vit_tiny_patch16_384, n_cls: 150}")
    with pytest.raises(
        ValueError, match=r"net_kwargs\.backbone is 'vit_tiny_patch16_384', the recipe's 'vit_small_patch16"
    ):
        convert(tmp_path / "checkpoint.pth", "ade20k/seg-s-mask-16")
    with pytest.raises(ValueError, match=r"net_kwargs\.n_cls is 150, the recipe's 60"):
        convert(tmp_path / "checkpoint.pth", "pascal-context/seg-l-mask-16")
    conversion = convert(tmp_path / "checkpoint.pth", RECIPE, num_classes=60)
    assert (
        conversion.beside
        == "The variant.yml beside it agrees on backbone, image size, normalisation, decoder and classes."
    )
