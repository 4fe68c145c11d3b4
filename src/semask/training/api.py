"""`semask.fit`: training with a model, data, loss, callbacks and logger of one's own."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.loggers import Logger
from torch.utils.data import Dataset

from semask.data.augment.transforms import TrainTransform
from semask.data.classes import Classes
from semask.data.sampling import AUGMENT, ImageOrder, stream
from semask.models.model import SegmentationModel
from semask.ops.resize import to_float
from semask.recipes import DataRecipe, LossRecipe, OptimRecipe, Recipe, TrainRecipe
from semask.structures import IGNORE, Loss, Sample
from semask.training.datamodule import SegmentationData
from semask.training.module import SegmentationModule
from semask.training.options import RunOptions, folder_of
from semask.training.prepare import locked, warn_of_warm_up
from semask.training.run import Run, TrainResult, quiet


def fit(  # noqa: PLR0913 - everything may be one's own
    model: SegmentationModel,
    train: Dataset[Sample],
    val: Dataset[Sample],
    *,
    loss: Loss | LossRecipe | None = None,
    optim: OptimRecipe | None = None,
    steps: int = 4000,
    batch_size: int = 8,
    eval_every: int | None = None,
    augment: DataRecipe | None = None,
    classes: Sequence[str] | Classes | None = None,
    callbacks: Sequence[Callback] = (),
    logger: Logger | Sequence[Logger] | None = None,
    out: str | Path = "runs/fit",
    options: RunOptions | None = None,
    **train_options: Any,
) -> TrainResult:
    """Train a model on data sets of one's own and return its best evaluation.

    Args:
        model: A model of `semask.create_model`, `build` or `load`; it is trained in place.
        train: Map-style data set of `semask.Sample`s. Every epoch has a new order, a function of the seed alone, so
            that a resumed run goes on exactly. Without `augment` all samples must have one size.
        val: Data set of samples of any size, evaluated at their own size.
        loss: Any callable (prediction, labels) → scalar or `LossTerms`, or options of the recipe's loss; None: the
            loss that fits the decoder.
        optim: Optimiser and schedule. Default: AdamW at 2e-4, and a warm-up of a twentieth of the steps.
        steps: Optimiser steps.
        batch_size: Images per step, over all devices.
        eval_every: Steps from one evaluation to the next; default: a tenth of all.
        augment: Resize, crop, flip and colour options for training samples; None takes them as they are.
        classes: Names of the classes for the checkpoint.
        callbacks: Lightning callbacks, such as `EarlyStopping("val/mIoU", mode="max")`.
        logger: Lightning loggers; default: CSV and TensorBoard below `out`.
        out: Folder of the run, with `best/`, `last/` and `last.ckpt`.
        options: Devices, resuming and overwriting.
        **train_options: Further fields of `semask.TrainRecipe`: `seed`, `ema`, `clip_norm`, `precision`, ….

    Returns:
        The folders, and the scores of the best evaluation, each in [0, 1].

    Raises:
        ValueError: Options, data or the folder are wrong.
        FloatingPointError: The loss is NaN or infinite.

    >>> import semask, tempfile, torch
    >>> data = [semask.Sample(torch.rand(3, 32, 32), torch.randint(0, 4, (32, 32))) for _ in range(4)]
    >>> model = semask.build("scenes/semask-micro-fpn", num_classes=4)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     result = semask.fit(model, data, data, steps=2, batch_size=2, out=folder)  # doctest: +ELLIPSIS
    scenes/semask-micro-fpn: ...
    >>> result.scores.iou.shape
    torch.Size([4])
    """
    # the record of the run: the model's recipe with these options
    known = model.recipe or Recipe(name=f"{type(model.encoder).__name__}-{type(model.decoder).__name__}")
    every = eval_every or max(1, steps // 10)
    recipe = replace(
        known,
        loss=loss if isinstance(loss, LossRecipe) else known.loss,
        optim=optim or OptimRecipe(lr=2e-4, weight_decay=0.01, warmup_steps=steps // 20, warmup_ratio=1e-2),
        data=replace(augment, channels=known.data.channels) if augment else known.data,
        train=TrainRecipe(steps=steps, batch_size=batch_size, eval_every=every, **train_options),
    )
    options = replace(options or RunOptions(workers=0), out=Path(out))
    if classes is not None and not isinstance(classes, Classes):
        classes = Classes.from_dict({"classes": list(classes)})
    if classes is not None and len(classes) != model.num_classes:
        raise ValueError(f"classes names {len(classes)} classes, the model has {model.num_classes}")
    # the run, which holds its folder
    with quiet(), locked(folder_of(recipe, options)):
        run = Run(recipe, options, classes, callbacks=callbacks)
        if run.first:
            warn_of_warm_up(recipe)
        seed_everything(recipe.train.seed, workers=True, verbose=False)
        if model.recipe is not None:
            model.recipe = recipe
        module = SegmentationModule(model.train(), None if isinstance(loss, LossRecipe) else loss, recipe)
        mean = tuple(model.mean.flatten().tolist())
        draws = _Draws(train, recipe.train.seed, model, TrainTransform(augment, mean=mean) if augment else None)
        data = SegmentationData(draws, _Checked(val, model), recipe, workers=options.workers)
        loggers = [logger] if isinstance(logger, Logger) else logger
        result = run.fit(module, data, loggers)
    model.eval()
    return result


class _Checked(Dataset[Sample]):
    """Samples of a foreign data set, with floats for bytes; what no training could use is refused by name."""

    def __init__(self, samples: Dataset[Sample], model: SegmentationModel) -> None:
        if not hasattr(samples, "__len__") or not len(cast(Sized, samples)):
            raise ValueError(f"{type(samples).__name__} is no data set of known length with at least one sample")
        self.samples, self.channels, self.num_classes = samples, len(model.mean), model.num_classes

    def __len__(self) -> int:
        return len(cast(Sized, self.samples))

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        if not isinstance(sample, Sample):
            raise ValueError(f"sample {index} is a {type(sample).__name__}; data sets give semask.Sample(image, label)")
        image, label = sample.image, sample.label
        if image.ndim != 3 or len(image) != self.channels or image.shape[1:] != label.shape:
            raise ValueError(
                f"sample {index} {sample.name}: image {tuple(image.shape)} and label {tuple(label.shape)}; a model of "
                f"{self.channels} channels reads c×H×W with labels H×W"
            )
        known = label[label != IGNORE]
        if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < self.num_classes:
            raise ValueError(
                f"sample {index} {sample.name}: labels {int(known.min())} … {int(known.max())}; a model of "
                f"{self.num_classes} classes takes 0 … {self.num_classes - 1}, and {IGNORE} for no label"
            )
        image = to_float(image)
        if not torch.isfinite(image).all():
            raise ValueError(f"sample {index} {sample.name}: the image has NaN or infinite values")
        return Sample(image, label.to(torch.uint8), sample.name or f"sample {index}")


class _Draws(_Checked):
    """The samples in a new order every epoch, by draw number."""

    def __init__(
        self, samples: Dataset[Sample], seed: int, model: SegmentationModel, transform: TrainTransform | None
    ) -> None:
        super().__init__(samples, model)
        self.seed, self.transform = seed, transform
        self.order = ImageOrder(len(self), seed=seed)

    def __getitem__(self, draw: int) -> Sample:
        sample = super().__getitem__(self.order.index(draw))
        if self.transform is None:
            return sample
        image, label = self.transform(sample.image, sample.label, stream(AUGMENT, self.seed, draw))
        return Sample(image, label, sample.name)
