"""Stages made again in the backward pass: the same loss, gradients and statistics, and less that is kept."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from semask.build import build_model
from semask.models.encoders.recompute import recompute
from semask.models.model import SegmentationModel
from semask.recipes import DecoderRecipe, EncoderRecipe, ModelRecipe, Recipe, get
from semask.training.options import RunOptions
from semask.training.run import train
from tests.contracts.test_models import HEADS, NUM_CLASSES, tiny

PYRAMID = EncoderRecipe(
    name="vit_tiny_patch16_224", weights=None, simple_pyramid=True, image_size=(64, 64), drop_path=0.3
)


def model_of(encoder: str) -> SegmentationModel:
    if encoder == "vit_pyramid":
        model = ModelRecipe(encoder=PYRAMID, decoder=DecoderRecipe(channels=16), num_classes=NUM_CLASSES)
        return build_model(Recipe(name="test/pyramid", model=model))
    if encoder in {"swin", "resnet", "pvt"}:
        return tiny(encoder, "semantic_fpn", semantic=encoder != "pvt")
    return tiny(encoder, "segformer_mmseg" if encoder == "mit" else "segmenter_mask", semantic=encoder == "mit")


def step(model: SegmentationModel) -> tuple[Tensor, dict[str, Tensor], int]:
    """Return the loss, all gradients and buffers, and the bytes that were kept for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 64, 64, generator=generator)
    torch.manual_seed(2)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = model(images)
        loss = out.main.logits.square().mean()
        if out.prior is not None:
            loss = loss + out.prior.logits.square().mean()
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), found | dict(model.named_buffers()), sum(kept.values())


@pytest.mark.parametrize(
    ("encoder", "stages"),
    [("swin", (1, 2)), ("swin", (1, 2, 3, 4)), ("resnet", (2, 4)), ("mit", (1, 3)), ("segmenter", (1,)),
     ("dinov3", (1,)), ("vit_pyramid", (1,))],
    ids=str,
)  # fmt: skip
def test_the_same_step(encoder: str, stages: tuple[int, ...]) -> None:
    model = model_of(encoder).train()
    for layer in model.encoder.semantic:
        nn.init.ones_(layer.units[0].gain)
    other = copy.deepcopy(model)
    recompute(other.encoder, stages)
    loss, found, kept = step(model)
    loss_again, found_again, kept_again = step(other)
    assert torch.equal(loss, loss_again)
    assert found.keys() == found_again.keys()
    for name, value in found.items():
        torch.testing.assert_close(found_again[name], value, rtol=1e-6, atol=1e-7, msg=name)
    assert kept_again < 0.95 * kept
    recompute(other.encoder, ())
    assert step(other)[2] > 0.99 * kept


def test_stages_that_are_not_there() -> None:
    for stages in ((0,), (1, 5)):
        with pytest.raises(ValueError, match=r"are 1 … 4, finest first; got .*; say --train.recompute-stages 1 2 3 4"):
            recompute(model_of("swin").encoder, stages)
    with pytest.raises(ValueError, match=r"are 1 alone, all of a plain ViT; got 2; say --train.recompute-stages 1$"):
        recompute(model_of("segmenter").encoder, (2,))
    hrnet = ModelRecipe(encoder=EncoderRecipe(name="hrnet_w18_small", weights=None), decoder=HEADS["semantic_fpn"])
    with pytest.raises(ValueError, match="HRNetEncoder exchanges maps between its stages"):
        recompute(build_model(Recipe(name="test/hrnet", model=hrnet)).encoder, (1,))


def test_training_refuses_them_before_it_writes(tmp_path: Path) -> None:
    recipe = get("scenes/semask-micro-fpn")
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, recompute_stages=(7,)))
    with pytest.raises(ValueError, match="got 7"):
        train(recipe, RunOptions(out=tmp_path / "run", accelerator="cpu"))
    assert not (tmp_path / "run").exists()
