from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from semask import recipes
from semask.evaluation.metrics import Confusion
from semask.inference import build_predictor
from semask.losses.build import build_loss
from semask.models.build import build
from semask.ops.lazy_scores import LazyScores
from semask.structures import IGNORE, Batch, LossTerms, Sample, Segmentation
from semask.training.module import SegmentationModule
from tests.facts import facts

RECIPE = recipes.get_recipe("scenes/semask-micro-fpn")


def module() -> SegmentationModule:
    return SegmentationModule(build(RECIPE.name), build_loss(RECIPE), RECIPE)


def test_a_loss_that_is_not_finite_names_step_and_pictures() -> None:
    def broken(out: Segmentation, labels: torch.Tensor) -> LossTerms:
        value = out.main.logits.mean()
        return LossTerms(value / 0, value, value / 0, value)

    subject = SegmentationModule(build(RECIPE.name), broken, RECIPE)
    batch = Batch(torch.rand(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.uint8), ("left.png", "right.png"))
    with pytest.raises(FloatingPointError, match=facts(0, "left.png, right.png", "--optim.lr")):
        subject.training_step(batch, 0)


def test_evaluation_counts_every_picture_at_its_own_size() -> None:
    subject = module()
    labels = [torch.randint(0, 12, size, dtype=torch.uint8) for size in ((32, 32), (32, 32), (40, 24))]
    labels[0][:5] = IGNORE
    samples = [Sample(torch.rand(3, *label.shape), label, str(i)) for i, label in enumerate(labels)]
    subject.on_validation_epoch_start()
    with torch.no_grad():
        subject.validation_step(samples, 0)
        expected = Confusion(12)
        predict = build_predictor(subject.model, RECIPE.test, RECIPE.data)
        for sample in samples:
            expected.update(predict(sample.image[None]).argmax(1)[0], sample.label)
    assert torch.equal(subject._counting.matrix, expected.matrix)
    assert int(expected.matrix.sum()) == 2 * 32 * 32 + 40 * 24 - 5 * 32


def test_gains_are_named_by_stage_and_unit() -> None:
    encoder = replace(RECIPE.model.encoder, semantic=replace(RECIPE.model.encoder.semantic, units=(1, 2, 1, 1)))
    recipe = replace(RECIPE, model=replace(RECIPE.model, encoder=encoder))
    from semask.models.build import build

    subject = SegmentationModule(build(recipe), build_loss(recipe), recipe)
    with torch.no_grad():
        subject.model.encoder.semantic[1].units[1].gain.fill_(0.25)
    gains = {name: float(value) for name, value in subject.gains().items()}
    assert gains == {"stage1": 0.0, "stage2/unit1": 0.0, "stage2/unit2": 0.25, "stage3": 0.0, "stage4": 0.0}


def test_the_schedule_starts_at_the_warm_up_ratio() -> None:
    subject = module()
    made = subject.configure_optimizers()
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    spec = RECIPE.optim
    assert optimizer.param_groups[0]["lr"] == pytest.approx(spec.lr * spec.warmup_ratio)
    optimizer.step()
    scheduler.step()
    first = 1 / RECIPE.train.steps, 1 / spec.warmup_steps
    expected = spec.lr * (1 - first[0]) * (1 - (1 - first[1]) * (1 - spec.warmup_ratio))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)
    assert made["lr_scheduler"]["interval"] == "step"


def test_training_has_its_own_stride_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 × 2 windows of 32 px every 32 px, 1 × 3 every 16 px."""
    image = Sample(torch.rand(3, 32, 64), torch.zeros(32, 64, dtype=torch.uint8), "picture")
    test = replace(RECIPE.test, mode="sliding", window=(32, 32), stride=(16, 16), batch_size=99)
    seen = []
    for stride in (None, (32, 32)):
        recipe = replace(RECIPE, test=test, train=replace(RECIPE.train, eval_stride=stride))
        subject = SegmentationModule(build(RECIPE.name), build_loss(RECIPE), recipe)
        bands = subject.model.lazy_scores

        def watch(images: torch.Tensor, bands=bands) -> LazyScores:
            seen.append(tuple(images.shape))
            return bands(images)

        monkeypatch.setattr(subject.model, "lazy_scores", watch)
        subject.on_validation_epoch_start()
        with torch.no_grad():
            subject.validation_step([image], 0)
    assert seen == [(3, 3, 32, 32), (2, 3, 32, 32)]


def test_an_impossible_evaluation_is_refused_before_training() -> None:
    test = replace(RECIPE.test, mode="sliding", window=(32, 32), stride=(16, 16))
    recipe = replace(RECIPE, test=test, train=replace(RECIPE.train, eval_stride=(33, 32)))
    with pytest.raises(ValueError, match=facts((33, 32), (32, 32), "--test.window", "--test.stride")):
        SegmentationModule(build(RECIPE.name), build_loss(RECIPE), recipe)
