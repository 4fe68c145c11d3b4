"""SeMask-FPN and Swin-FPN against the authors' code: features, priors, logits, label maps, losses, gradients."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from semask.checkpoints.convert import load_published
from semask.checkpoints.rules.semask_fpn import rename
from semask.losses.pixel import SegmentationLoss
from semask.models.model import SegmentationModel
from semask.ops.lazy_scores import materialize
from tests.reference.synthetic_weights import FIXTURES, arrays, assert_close, checkpoint, layout, synthetic_image

CASES = {
    "semask_swin_t_fpn_150_64x96": "ade20k/semask-swin-t-fpn",
    "semask_swin_t_fpn_150_97x131": "ade20k/semask-swin-t-fpn",
    "swin_t_fpn_150_64x96": "ade20k/swin-t-fpn",
    "semask_swin_b_fpn_19_64x96": "cityscapes/semask-swin-b-fpn",
}
TOLERANCE = 1e-4
SEMASK_SWIN_T: dict[str, Tensor] = {}
"""Its backbone's tensors, which most models here share."""


def load(name: str) -> SegmentationModel:
    made = SEMASK_SWIN_T if name.startswith("semask_swin_t") else None
    return load_published(checkpoint(name, made), CASES[name])


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest):
    name = request.param
    spec = layout(name)
    image = synthetic_image(**{k: v for k, v in spec["input"].items() if k != "fn"})
    return load(name), arrays(name), image


def test_every_fixture_is_covered() -> None:
    stored = {path.name.removesuffix(".npz") for path in FIXTURES.glob("*_fpn_*.npz")}
    assert stored == set(CASES)


def test_features_and_priors(case) -> None:
    model, stored, image = case
    with torch.inference_mode():
        features = model.encoder(image)
    for stage, feature in enumerate(features.maps):
        assert_close(stored, f"feat_stage{stage}", feature, TOLERANCE)
    assert len(features.priors) == sum(key.endswith("/shape") and key.startswith("sem_stage") for key in stored)
    for stage, prior in enumerate(features.priors):
        assert_close(stored, f"sem_stage{stage}", prior, TOLERANCE)


def test_logits_and_labels(case) -> None:
    model, stored, normalised = case
    image = normalised * model.std + model.mean
    with torch.inference_mode():
        out, scores, labels = model(image), model.scores(image), model.labels(image)
        bands = materialize(model.lazy_scores(image))
    assert_close(stored, "main_logits", out.main.logits, TOLERANCE)
    assert_close(stored, "main_up", scores, TOLERANCE)
    assert_close(stored, "main_up", bands, TOLERANCE)
    assert labels.dtype == torch.uint8
    np.testing.assert_array_equal(labels.numpy(), stored["main_up/argmax"])
    if out.prior is not None:
        assert_close(stored, "prior_logits", out.prior.logits, TOLERANCE)
        with torch.inference_mode():
            assert_close(stored, "prior_up", materialize(model.lazy_prior(image)), TOLERANCE)


@pytest.fixture(scope="module")
def training():
    record = json.loads((FIXTURES / "train_semask_swin_t_fpn_150.json").read_text())
    image = synthetic_image(64, 96, seed=0, batch=2)
    labels = np.random.RandomState(1).randint(0, 150, (2, 64, 96))
    labels[np.random.RandomState(2).random_sample((2, 64, 96)) < 0.1] = 255
    assert (labels == 255).sum() == record["ignored_pixels"]
    return record["runs"], image, torch.from_numpy(labels)


def fresh_model() -> SegmentationModel:
    return load("semask_swin_t_fpn_150_64x96")


def assert_losses_and_gradients(model: SegmentationModel, image, labels, run) -> None:
    terms = SegmentationLoss()(model(image * model.std + model.mean), labels)
    for name, value in (("decode.loss_ce", terms.main), ("decode.loss_cate", terms.prior), ("total", terms.total)):
        assert value.item() == pytest.approx(run[name], rel=1e-4), name
    terms.total.backward()
    ours = dict(model.named_parameters())
    for key, norm in run["grad_norms"].items():
        assert ours[rename(key)].grad.norm().item() == pytest.approx(norm, rel=1e-3), key


def test_losses_and_gradients_in_evaluation_mode(training) -> None:
    runs, image, labels = training
    assert_losses_and_gradients(fresh_model(), image, labels, runs["eval"])


def test_losses_and_gradients_in_training_mode(training) -> None:
    """In float64: BatchNorm over 12 numbers spreads rounding, and one ReLU that turns at zero moves gradients by 1e-2."""
    runs, image, labels = training
    model, image = fresh_model().train().double(), image.double()
    for module in model.modules():
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
        elif hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    run = runs["train_bn"]
    assert_losses_and_gradients(model, image, labels, run)
    bn = model.get_submodule("decoder.branches.0.0.bn")
    key = "(decode_head.scale_heads.0.0.bn)"
    assert bn.running_mean.norm().item() == pytest.approx(run[f"running_mean_after_norm{key}"], rel=1e-4)
    assert bn.running_var.norm().item() == pytest.approx(run["running_var_after_norm"], rel=1e-4)


def test_hardest_pixels(training) -> None:
    runs, image, labels = training
    model = fresh_model()
    run = runs["eval_ohem_min_kept_1000"]
    with torch.inference_mode():
        terms = SegmentationLoss(ohem_pixels=1000)(model(image * model.std + model.mean), labels)
    assert terms.main.item() == pytest.approx(run["decode.loss_ce"], rel=1e-4)
    assert terms.prior.item() == pytest.approx(run["decode.loss_cate"], rel=1e-4)


def test_a_wrong_extent_of_semantic_attention_is_seen() -> None:
    """The fixture can tell windowed from global attention, which the weights cannot."""
    name = "semask_swin_t_fpn_150_97x131"
    model, stored = load(name), arrays(name)
    model.encoder.semantic[2].window_size = 7
    with torch.inference_mode():
        features = model.encoder(synthetic_image(97, 131))
    with pytest.raises(AssertionError):
        assert_close(stored, "feat_stage2", features.maps[2], TOLERANCE)
