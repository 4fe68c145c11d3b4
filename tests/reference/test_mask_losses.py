"""Set-prediction losses of SeMask-MaskFormer and -Mask2Former against the authors' code: terms, matching, gradients."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import Tensor

from semask.checkpoints.convert import load_published
from semask.checkpoints.rules.detectron2 import translate
from semask.losses.masks import DenseMaskLoss, MaskClassificationLoss, PointMaskLoss
from semask.losses.matching import find_targets, match
from semask.recipes import get_recipe
from tests.reference.synthetic_weights import FIXTURES, checkpoint, synthetic_image

RELATIVE = 1e-3
RELATIVE_GRADIENT = 1e-2


def block_labels() -> Tensor:
    blocks = np.random.RandomState(1).randint(0, 12, (8, 12))
    blocks[np.random.RandomState(2).random_sample(blocks.shape) < 0.1] = 255
    return torch.from_numpy(np.kron(blocks, np.ones((8, 8), dtype=np.int64)))[None]


@pytest.fixture(scope="module", params=["mask2former", "maskformer"])
def case(request: pytest.FixtureRequest, backbone: dict[str, Tensor]):
    """The record, the model's answer with its gradients at hand, the authors' loss, and labels."""
    name = f"semask_swin_l_{request.param}_150"
    record = json.loads((FIXTURES / f"loss_{name}.json").read_text())
    recipe = get_recipe(f"ade20k/semask-swin-l-{request.param}")
    tensors = checkpoint(f"{name}_64x96_spread", backbone)
    model = load_published(tensors, recipe)
    masks = dataclasses.replace(recipe.loss.masks, ignored="background")
    loss = MaskClassificationLoss(masks, recipe.loss.prior_weight, recipe.loss.normalize_by)
    image = synthetic_image(**{key: value for key, value in record["input"].items() if key != "fn"})
    out = model(image * model.std + model.mean)
    ours = {key: name for name, key in translate(tensors, recipe).names.items()}
    parameters = dict(model.named_parameters())
    gradients = {key: (parameters[ours[key]], norm) for key, norm in record["grad_norms"].items()}
    return record, out, loss, block_labels(), gradients


def test_terms(case) -> None:
    record, out, loss, labels, _ = case
    expected = record["unweighted_losses"]
    torch.manual_seed(0)
    with torch.no_grad():
        terms = loss.terms(out.main, labels)
    ends = ["", *(f"_{number}" for number in range(len(out.main.auxiliary)))]
    assert {f"loss_ce{end}" for end in ends} == {key for key in expected if key.startswith("loss_ce")}
    for name, values in (("loss_ce", terms.classes), ("loss_mask", terms.masks), ("loss_dice", terms.dice)):
        np.testing.assert_allclose(values, [expected[f"{name}{end}"] for end in ends], rtol=RELATIVE, err_msg=name)


def test_matching(case) -> None:
    record, out, loss, labels, _ = case
    predictions = (out.main, *out.main.auxiliary)
    targets = find_targets(labels, 150)
    assert targets.classes.tolist() == [record["classes"]]
    torch.manual_seed(0)
    comparison = (
        DenseMaskLoss(targets, loss.recipe)
        if loss.recipe.points is None
        else PointMaskLoss(targets, loss.recipe, loss.recipe.points, predictions=len(predictions), queries=100)
    )
    costs = [comparison.costs(number, prediction) for number, prediction in enumerate(predictions)]
    found = match(torch.stack(costs), targets)
    expected = record["matching (query idx, target idx) in call order: final output, then aux 0.."]
    for number, (queries, columns) in enumerate(expected):
        assert found.queries[number].tolist() == queries
        assert found.classes[number].tolist() == [record["classes"][column] for column in columns]


def test_total_and_gradients(case) -> None:
    record, out, loss, labels, gradients = case
    torch.manual_seed(0)
    terms = loss(out, labels)
    assert terms.total.item() == pytest.approx(record["total_weighted"], rel=RELATIVE)
    assert terms.prior.item() == pytest.approx(0.4 * record["unweighted_losses"]["loss_cate"], rel=RELATIVE)
    found = torch.autograd.grad(terms.total, [parameter for parameter, _ in gradients.values()])
    for (key, (_, norm)), gradient in zip(gradients.items(), found, strict=True):
        assert gradient.norm().item() == pytest.approx(norm, rel=RELATIVE_GRADIENT), key
