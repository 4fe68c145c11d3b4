"""The proof that a file is the same model: labels and probabilities on images of many sizes, mIoU, speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from semask.evaluation import Measures, evaluate_model
from semask.evaluation.loop import Samples
from semask.evaluation.metrics.bootstrap import ImageCounts, intervals
from semask.evaluation.metrics.bootstrap import statistics as score_statistics
from semask.exports.metadata import Form
from semask.exports.runtime import ExportedModel, Refusal
from semask.inference import Pipeline, build_predictor, predictor_of
from semask.models.model import SegmentationModel
from semask.ops.lazy_scores import Crop, LazyScores, materialize
from semask.recipes import DataRecipe, TestRecipe
from semask.recipes.export import needs_scores

LEAST_AGREEMENT = 0.9999
"""Share of pixels whose labels agree, of a float32 file."""
LARGEST_DIFFERENCE = 1e-5
"""Of a probability, or of a mask classifier's score, in a float32 file."""
ODD = ((97, 131), (65, 33), (1, 1))
"""Sizes (height, width) [px] that divide by nothing: files for any size go wrong there first."""
BATCH = 3
ROUNDS = 7


class Case(NamedTuple):
    """Agreement on a batch: pixels, those whose labels differ, and the largest difference of a probability.

    refused: the runtime's reason not to take images of one pixel, which some pooling layers are too large for.
    """

    size: tuple[int, int]
    batch: int
    pixels: int
    differ: int
    largest: float | None
    refused: str | None = None


class Padded:
    """A model on images that are padded up to one size, as a file of that size does."""

    def __init__(self, model: SegmentationModel, form: Form) -> None:
        assert form.size is not None
        self.model, self.fixed_size, self.size_multiple = model, form.size, 1
        self.padding = model.mean.new_tensor(form.padding).reshape(1, -1, 1, 1)
        self.scores_are_logits = model.scores_are_logits

    def lazy_scores(self, images: Float[Tensor, "b c H W"]) -> LazyScores:
        """Return the scores at the images' size."""
        height, width = images.shape[-2:]
        canvas = self.padding.expand(len(images), -1, *self.fixed_size).clone()
        canvas[..., :height, :width] = images
        return Crop(self.model.lazy_scores(canvas), (height, width))


def predictors(
    model: SegmentationModel, exported: ExportedModel, data: DataRecipe, test: TestRecipe
) -> tuple[Pipeline, Pipeline]:
    """The pipelines that are compared: the recipe's where the file has scores for it, else the networks alone."""
    form = exported.metadata.form
    source: Any = model if form.size is None else Padded(model, form)
    # windows of a fixed size overlap, too
    if form.output in ("raw", "scores") or (form.size is None and not needs_scores(data, test)):
        return build_predictor(source, test, data), build_predictor(exported, test, data)
    return predictor_of(source), predictor_of(exported)


def batches(images: Sequence[Float[Tensor, "c H W"]], form: Form) -> Iterator[Float[Tensor, "b c H W"]]:
    """Images at their own size, their corners in odd sizes, and three at once."""
    most = form.size or (2**15, 2**15)
    for image in images:
        # larger ones go through windows, which need scores
        yield (image if form.output in ("raw", "scores") else image[:, : most[0], : most[1]])[None]
    for size in ODD:
        tall, wide = (min(pair) for pair in zip(size, most, strict=True))
        # smaller images are repeated until they have the size
        cut = [_at_least(image, tall, wide)[:, :tall, :wide] for image in images[:BATCH]]
        yield torch.stack([*cut, *cut[:1] * (BATCH - len(cut))])


def compare(model: SegmentationModel, exported: ExportedModel, images: Sequence[Tensor]) -> list[Case]:
    """Agreement of a file with its model on images c H W in [0, 1], through the recipe's predictor where it can be."""
    recipe, form = exported.recipe, exported.metadata.form
    ours, theirs = predictors(model, exported, recipe.data, recipe.test)
    cases = []
    with torch.inference_mode():
        for batch in batches(images, form):
            labels, size = ours.labels(batch), (batch.shape[2], batch.shape[3])
            try:
                found = theirs.labels(batch)
            except Refusal as error:
                if size != ODD[-1]:
                    raise
                cases.append(Case(size, len(batch), labels.numel(), 0, None, str(error)))
                continue
            largest = None
            if form.output == "confidence":
                largest = float((theirs.labelled(batch).confidence - ours.labelled(batch).confidence).abs().max())
            elif form.output != "labels":
                largest = float((shares(theirs, batch, form) - shares(ours, batch, form)).abs().max())
            differ = int((labels != found).sum())
            cases.append(Case(size, len(batch), labels.numel(), differ, largest))
    return cases


def check(cases: Sequence[Case]) -> None:
    """Refuse a float32 file that is another model.

    Raises:
        ValueError: Labels or probabilities differ by more than rounding.
    """
    pixels, differ = sum(case.pixels for case in cases), sum(case.differ for case in cases)
    largest = max((case.largest for case in cases if case.largest is not None), default=0.0)
    worst = max(cases, key=lambda case: (case.differ / case.pixels, case.largest or 0.0))
    # NaN is no agreement either
    if differ > (1 - LEAST_AGREEMENT) * pixels or not largest <= LARGEST_DIFFERENCE:
        height, width = worst.size
        raise ValueError(
            f"the exported file is not the model: labels differ at {differ} of {pixels} pixels (allowed "
            f"{1 - LEAST_AGREEMENT:.2%}) and probabilities by up to {largest:.1e} (allowed {LARGEST_DIFFERENCE:.0e}), "
            f"most on {worst.batch} images of {height}×{width} px; nothing is written"
        )


def score(predictor: Pipeline, samples: Samples, num_classes: int) -> ImageCounts:
    """Counts of every image, by label."""
    measures = Measures(boundary=False, areas=(), bins=0)
    return evaluate_model(predictor, samples, num_classes=num_classes, measures=measures).image_counts()


def paired(ours: ImageCounts, theirs: ImageCounts, names: Sequence[str], *, resamples: int = 1000) -> dict[str, Any]:
    """The mIoU of model and file over the same images and their difference, by class; the interval of the difference.

    A difference is [value, low, high]; null is undefined.
    """
    one = np.ones((1, len(ours.labelled)))
    before, after = score_statistics(ours, one), score_statistics(theirs, one)
    ends = intervals(theirs, ours, resamples=resamples)

    def difference(name: str, *index: int) -> list[float | None]:
        values = ((after[name][0] - before[name][0])[index], *(end[index] for end in ends[name]))
        return [float(value) if np.isfinite(value) else None for value in values]

    return {
        "images": len(ours.labelled),
        "model": float(before["miou"][0]),
        "file": float(after["miou"][0]),
        "difference": difference("miou"),
        "classes": [
            {"name": name, "difference": difference("iou", index)}
            for index, name in enumerate(names)
            if np.isfinite(before["iou"][0, index])
        ],
    }


def check_promise(found: dict[str, Any], *, max_drop: float, max_class_drop: float) -> str | None:
    """What of a promise does not hold: drops of the mIoU and of a class's IoU [points]; None: it holds."""
    drop = -100 * found["difference"][0]
    if not drop <= max_drop:
        return f"mIoU falls by {drop:.2f} points (--max-drop {max_drop:g})"
    lost = [(-100 * row["difference"][0], row["name"]) for row in found["classes"] if row["difference"][0] is not None]
    worst, name = max(lost, default=(0.0, ""))
    if not worst <= max_class_drop:
        return f"the IoU of {name} falls by {worst:.2f} points (--max-class-drop {max_class_drop:g})"
    return None


def speed(model: SegmentationModel, exported: ExportedModel, size: tuple[int, int]) -> dict[str, Any]:
    """Times of label maps of one image [ms] by the network alone, model and file in turn, and the median ratio."""
    image = (torch.rand(1, len(model.mean), *size) * 255).round() / 255
    times: list[tuple[float, float]] = []
    for _ in range(1 + ROUNDS):
        pair = []
        for each in (model, exported):
            started = time.perf_counter()
            with torch.inference_mode():
                each.labels(image)
            pair.append(1000 * (time.perf_counter() - started))
        times.append((pair[0], pair[1]))
    # the first run of each is not counted
    ours, theirs = zip(*times[1:], strict=True)
    return {
        "size": [*size],
        "threads": torch.get_num_threads(),
        "model_ms": statistics.median(ours),
        "file_ms": statistics.median(theirs),
        "ratio": statistics.median(file / eager for eager, file in times[1:]),
    }


def shares(predictor: Pipeline, batch: Tensor, form: Form) -> Tensor:
    """Probabilities, or a mask classifier's scores: their share of the sum is ill-conditioned where no mask is."""
    if form.output == "probabilities" or form.scores_are_logits:
        strips = predictor.strips(batch, batch.shape[-2], measures=["probabilities"])
        return torch.cat([strip.probabilities for strip in strips if strip.probabilities is not None], dim=2)
    return materialize(predictor.lazy_scores(batch))


def _at_least(image: Float[Tensor, "c H W"], tall: int, wide: int) -> Float[Tensor, "c h w"]:
    height, width = image.shape[-2:]
    times = -(-tall // height), -(-wide // width)
    return image.repeat(1, *times)
