"""Stages made again in the backward pass: the same loss, gradients and statistics, and less that is kept."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from semask.models.build import build
from semask.models.encoders.kinds import encoder_options
from semask.models.model import SegmentationModel
from semask.ops.memory import checkpoint_stages
from semask.recipes import ModelRecipe, Recipe, get_recipe
from semask.recipes.decoders import decoder_options
from semask.training.options import RunOptions
from semask.training.run import train
from tests.contracts.test_models import HEADS, NUM_CLASSES, tiny
from tests.facts import facts

PYRAMID = encoder_options("vit_tiny_patch16_224", pyramid=True, weights=None, image_size=(64, 64), drop_path=0.3)


def model_of(encoder: str) -> SegmentationModel:
    if encoder == "vit_pyramid":
        model = ModelRecipe(
            encoder=PYRAMID, decoder=decoder_options("semantic_fpn", channels=16), num_classes=NUM_CLASSES
        )
        return build(Recipe(name="test/pyramid", model=model))
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
    checkpoint_stages(other.encoder, stages)
    loss, found, kept = step(model)
    loss_again, found_again, kept_again = step(other)
    assert torch.equal(loss, loss_again)
    assert found.keys() == found_again.keys()
    for name, value in found.items():
        torch.testing.assert_close(found_again[name], value, rtol=1e-6, atol=1e-7, msg=name)
    assert kept_again < 0.95 * kept
    checkpoint_stages(other.encoder, ())
    assert step(other)[2] > 0.99 * kept


def test_stages_that_are_not_there() -> None:
    for stages in ((0,), (1, 5)):
        with pytest.raises(
            ValueError,
            match=facts(
                "1 … 4", *(stage for stage in stages if not 1 <= stage <= 4), "--train.checkpoint-stages 1 2 3 4"
            ),
        ):
            checkpoint_stages(model_of("swin").encoder, stages)
    with pytest.raises(ValueError, match=r"\b2\b.*--train\.checkpoint-stages 1$"):
        checkpoint_stages(model_of("segmenter").encoder, (2,))
    hrnet = ModelRecipe(encoder=encoder_options("hrnet_w18_small", weights=None), decoder=HEADS["semantic_fpn"])
    with pytest.raises(ValueError, match=facts("HRNetEncoder", "--train.checkpoint-stages")):
        checkpoint_stages(build(Recipe(name="test/hrnet", model=hrnet)).encoder, (1,))


def test_training_refuses_them_before_it_writes(tmp_path: Path) -> None:
    recipe = get_recipe("scenes/semask-micro-fpn")
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, checkpoint_stages=(7,)))
    with pytest.raises(ValueError, match=facts("1 … 4", 7)):
        train(recipe, RunOptions(out=tmp_path / "run", accelerator="cpu"))
    assert not (tmp_path / "run").exists()
