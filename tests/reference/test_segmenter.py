"""Segmenter against the authors' code, and against mmsegmentation's port: tokens, masks, logits, losses, gradients."""

from __future__ import annotations

import dataclasses
import gzip
import json
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semask import recipes
from semask.checkpoints.convert import load_published
from semask.checkpoints.rules.segmenter import rename
from semask.losses.build import build_loss
from semask.recipes import Recipe
from semask.training.optim import build_optimizer, poly_schedule
from tests.reference.synthetic_weights import FIXTURES, arrays, assert_close, checkpoint, layout, synthetic_image

TOLERANCE = 1e-4
CASES = {
    "seg_t_mask_16": "ade20k/seg-t-mask-16",
    "seg_t_mask_16_512": "ade20k/seg-t-mask-16",
    "seg_s_linear_16": "ade20k/seg-s-16",
    "seg_b_deit_mask_16": "ade20k/seg-b-deit-mask-16",
    # These two are of no published row: their class count and position table are set below.
    "seg_b_mask_16": "ade20k/seg-b-mask-16",
    "seg_s_mask_32": "ade20k/seg-s-mask-32",
}
PORTS = {
    "segmenter_vit_t_mask_150_64x96": "ade20k/seg-t-mask-16",
    "segmenter_vit_t_mask_150_97x131": "ade20k/seg-t-mask-16",
    "segmenter_vit_t_linear_150_64x96": "ade20k/seg-t-16",
    "segmenter_vit_s_mask_150_64x96": "ade20k/seg-s-mask-16",
    "segmenter_vit_s_mask_patchbias_150_64x96": "ade20k/seg-s-mask-16",
}
TRAINING = "segmenter/seg_t_mask_16_train"
ELSEWHERE = {"seg_t_mask_16_sliding", "seg_t_mask_16_attn"}
"""Fixtures that other files of tests compare."""


def test_every_fixture_is_covered() -> None:
    stored = {path.name.split(".")[0] for path in (FIXTURES / "segmenter").iterdir()}
    assert stored - ELSEWHERE == {*CASES, TRAINING.removeprefix("segmenter/")}
    ports = {path.name.split(".")[0] for path in (FIXTURES / "mmsegmentation").glob("segmenter_*")}
    assert ports == set(PORTS)


def recipe_of(name: str, meta: dict[str, Any]) -> Recipe:
    recipe = recipes.get_recipe(CASES[name])
    side = meta["image_size"]
    encoder = dataclasses.replace(recipe.model.encoder, image_size=(side, side))
    model = dataclasses.replace(recipe.model, encoder=encoder, num_classes=meta["n_cls"])
    return dataclasses.replace(recipe, model=model)


Pass = tuple[dict[str, torch.Tensor], torch.Tensor, dict[str, np.ndarray], dict[str, Any]]


@pytest.fixture(scope="module", params=list(CASES))
def once(request: pytest.FixtureRequest) -> Pass:
    """Return what one pass shows inside the model, its scores, and the fixture."""
    name = request.param
    meta = json.loads((FIXTURES / "segmenter" / f"{name}.meta.json").read_text())
    model = load_published(checkpoint(f"segmenter/{name}"), recipe_of(name, meta))
    backbone = model.encoder.backbone
    seen: dict[str, torch.Tensor] = {}
    backbone.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.update(embed_tokens=inputs[0]))
    backbone.blocks[0].register_forward_hook(lambda _, __, tokens: seen.update(block0_tokens=tokens))
    backbone.norm.register_forward_hook(lambda _, __, tokens: seen.update(encoder_tokens=tokens))
    model.decoder.register_forward_hook(lambda _, __, out: seen.update(masks=out.logits))
    with torch.inference_mode():
        scores = model.scores(given(meta) * model.std + model.mean)
    return seen, scores, arrays(f"segmenter/{name}"), meta


def given(meta: dict[str, Any]) -> torch.Tensor:
    return synthetic_image(**{key: value for key, value in meta["input"].items() if key != "fn"})


def compare(ours: torch.Tensor, theirs: np.ndarray, what: str) -> None:
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=TOLERANCE, err_msg=what)


def test_tokens(once: Pass) -> None:
    seen, _, stored, meta = once
    assert seen["embed_tokens"].shape[1] == meta["tokens"]
    for key in ("embed_tokens", "block0_tokens", "encoder_tokens"):
        compare(seen[key][0, stored["token_idx"]], stored[key], key)


def test_masks_and_logits(once: Pass) -> None:
    seen, scores, stored, meta = once
    masks = seen["masks"]
    assert list(masks.shape) == meta["masks_shape"]
    assert list(scores.shape) == meta["out_shape"]
    if "masks_cells" in stored:
        compare(masks[0].flatten(1).T[stored["masks_cells"]], stored["masks"], "masks")
    else:
        compare(masks, stored["masks"], "masks")
    rows, columns = stored["points"].T
    compare(scores[0, :, rows, columns].T, stored["out_points"], "out_points")
    if "argmax" in stored:
        two = scores[0].topk(2, dim=0).values
        # Where two classes come this close, either may win.
        decided = (two[0] - two[1] > TOLERANCE).numpy()
        assert decided.mean() > 0.999
        labels = scores[0].argmax(dim=0).numpy()
        np.testing.assert_array_equal(labels[decided], stored["argmax"][decided])


@pytest.mark.parametrize(
    ("field", "value"), [("norm_eps", 1e-3), ("position_resize", "bicubic"), ("position_resize", None)]
)
def test_the_fixtures_see_other_numerics(field: str, value: object) -> None:
    name = "seg_t_mask_16"
    meta = json.loads((FIXTURES / "segmenter" / f"{name}.meta.json").read_text())
    recipe = recipe_of(name, meta)
    encoder = dataclasses.replace(recipe.model.encoder, **{field: value})
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, encoder=encoder))
    model, stored = load_published(checkpoint(f"segmenter/{name}"), recipe), arrays(f"segmenter/{name}")
    with torch.inference_mode():
        masks = model(given(meta) * model.std + model.mean).main.logits
    assert np.abs(masks.numpy() - stored["masks"]).max() > 10 * TOLERANCE


def test_losses_gradients_and_steps_of_sgd() -> None:
    record = json.loads(gzip.decompress((FIXTURES / f"{TRAINING}.json.gz").read_bytes()))
    recipe = recipes.get_recipe("ade20k/seg-t-mask-16")
    model = load_published(checkpoint(TRAINING), recipe)  # in evaluation mode, as theirs was: no dropout
    image = given(record) * model.std + model.mean
    size = (len(image), *image.shape[-2:])
    labels = np.random.RandomState(107).randint(0, 150, size=size).astype(np.int64)
    labels[np.random.RandomState(108).rand(*size) < 0.1] = 255
    assert (labels != 255).sum() == record["valid_pixels"]
    padded = model.pad_labels(torch.from_numpy(labels))
    loss_of, optim = build_loss(recipe), recipe.optim
    optimizer = build_optimizer(model, optim)
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    # Their record is of a schedule over ten steps.
    factor = partial(poly_schedule, steps=10, power=optim.power, floor=optim.min_lr / optim.lr)
    for step, (loss, lr) in enumerate(zip(record["losses"], record["lrs"], strict=True)):
        for group in optimizer.param_groups:
            group["lr"] = optim.lr * factor(step)
            assert group["lr"] == pytest.approx(lr, rel=1e-9)
        optimizer.zero_grad()
        total = loss_of(model(image), padded).total
        assert total.item() == pytest.approx(loss, abs=TOLERANCE / 10), step
        total.backward()
        if step == 0:
            check_gradients(parameters, record)
        optimizer.step()
    for key, norm in record["param_norms_after_steps"].items():
        assert parameters[ours(key)].norm().item() == pytest.approx(norm, rel=1e-6), key


def ours(key: str) -> str:
    name = rename(key)
    assert name is not None, key
    return name


def check_gradients(parameters: dict[str, torch.nn.Parameter], record: dict[str, Any]) -> None:
    gradients = {}
    for name, parameter in parameters.items():
        assert parameter.grad is not None, name
        gradients[name] = parameter.grad
    norms = {ours(key): norm for key, norm in record["all_grad_norms"].items()}
    assert norms.keys() == gradients.keys(), "every parameter is compared"
    for name, norm in norms.items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=1e-4), name
    total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm().item()
    assert total == pytest.approx(record["grad_norm_total"], rel=1e-5)
    for key, first in record["grad_first8"].items():
        gradient = gradients[ours(key)]
        scale = gradient.abs().max().item()
        np.testing.assert_allclose(gradient.flatten()[:8].numpy(), first, rtol=0, atol=1e-4 * scale, err_msg=key)


@pytest.mark.parametrize("name", PORTS)
def test_the_port_of_mmsegmentation(name: str) -> None:
    model, stored = load_published(checkpoint(f"mmsegmentation/{name}"), PORTS[name]), arrays(f"mmsegmentation/{name}")
    image = given(layout(f"mmsegmentation/{name}")) * model.std + model.mean
    with torch.inference_mode():
        features, out, scores = model.encode(image), model(image), model.scores(image)
    assert_close(stored, "feat_stage0", features.maps[0], TOLERANCE)
    assert_close(stored, "main_logits", out.main.logits, TOLERANCE)
    if image.shape[-2] % 16 == image.shape[-1] % 16 == 0:
        assert_close(stored, "main_up", scores, TOLERANCE)
    else:
        # They squeeze the padding into the image, we cut it off as the authors do.
        squeezed = F.interpolate(out.main.logits, size=image.shape[-2:], mode="bilinear", align_corners=False)
        assert_close(stored, "main_up", squeezed, TOLERANCE)
        with pytest.raises(AssertionError):
            assert_close(stored, "main_up", scores, TOLERANCE)
