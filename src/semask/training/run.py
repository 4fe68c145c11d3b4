"""A training run from its recipe to the best checkpoint."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console

from semask.build import build_loss, build_model
from semask.data.checks.check import check_pairs
from semask.evaluation.metrics import Confusion
from semask.files import check_writable
from semask.models.encoders.recompute import recompute
from semask.models.flops import parameters
from semask.recipes import Recipe, TrainRecipe
from semask.training.callbacks import Checkpoints, MovingAverage, RandomStates, StillLambda
from semask.training.datamodule import SegmentationData, micro_batch
from semask.training.frozen import check_frozen
from semask.training.history import FOLDER, open_loggers
from semask.training.module import SegmentationModule
from semask.training.options import RunOptions
from semask.training.prepare import find_checkpoint, fit_classes, load_pretrained, open_folder, warn_of_warm_up
from semask.training.progress import ProgressReport

TERMINATED = 143
"""Exit status of a run that was ended by SIGTERM."""


class TrainResult(NamedTuple):
    """Where a run's results are, and its best evaluation.

    best, last: checkpoint directories for `semask.load`. miou, step: of the best evaluation. confusion: the matrix of
    this session's last evaluation, None when the run had been finished before.
    """

    out: Path
    best: Path
    last: Path
    miou: float
    step: int
    confusion: Confusion | None


def train(recipe: Recipe, options: RunOptions | None = None) -> TrainResult:
    """Train by a recipe; a ValueError says what is wrong with it, the data or the folder before any step is made."""
    options = options or RunOptions()
    out = options.out or Path("runs") / recipe.name.replace("/", "-")
    check_writable(out)
    recipe, classes = fit_classes(recipe)
    with quiet():
        average = MovingAverage(decay=recipe.train.ema) if recipe.train.ema is not None else None
        checkpoints = Checkpoints(out, recipe, classes, average)
        watchers = [ProgressReport(), RandomStates(recipe.train.seed), checkpoints, StillLambda()]
        trainer = build_trainer(recipe.train, options, callbacks=[*watchers, *([average] if average else [])])
        first = trainer.is_global_zero
        console = Console(quiet=not first)
        size = micro_batch(recipe.train, trainer.world_size)
        check_frozen(recipe, trainer.world_size)
        resume = find_checkpoint(out, recipe, options, first=first)
        if first and recipe.data.kind != "scenes" and not options.skip_check:
            check_pairs(recipe.data)
        if first:
            warn_of_warm_up(recipe)
        seed_everything(recipe.train.seed, workers=True, verbose=False)
        model = build_model(recipe).train()
        recompute(model.encoder, recipe.train.recompute_stages)
        if resume is None:
            load_pretrained(model, recipe, console=console, from_scratch=options.from_scratch)
        if first:
            open_folder(out, recipe, classes, resume=resume)
        trainer.loggers = open_loggers(out, options.logger)
        module = SegmentationModule(model, build_loss(recipe), recipe)
        data = SegmentationData(recipe, workers=options.workers)
        console.print(_summary(recipe, module, trainer, size), highlight=False)
        if recipe.data.kind != "scenes":
            console.print(classes.told(), highlight=False, markup=False, emoji=False, soft_wrap=True)
        _fit(trainer, module, data, resume)
    result = TrainResult(out, out / "best", out / "last", checkpoints.best, checkpoints.best_step, module.confusion)
    console.print(
        f"best mIoU {result.miou:.2%} at step {result.step}; weights in {result.best}, curves in {out / FOLDER}",
        highlight=False,
        soft_wrap=True,
    )
    return result


def _fit(trainer: Trainer, module: SegmentationModule, data: SegmentationData, resume: Path | None) -> None:
    """Fit; what ended the run from outside keeps its meaning, which Lightning's exit statuses 0 and 1 do not tell."""
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    except SIGTERMException as ending:
        raise SystemExit(TERMINATED) from ending
    except SystemExit as leaving:
        if trainer.interrupted:
            raise KeyboardInterrupt from leaving
        raise


def build_trainer(recipe: TrainRecipe, options: RunOptions, *, callbacks: Sequence[Callback]) -> Trainer:
    """Return a trainer that runs for `recipe.steps` optimiser steps and evaluates every `eval_every` and at the end."""
    if recipe.ema is not None and options.strategy == "fsdp":
        raise ValueError(
            "a moving average needs whole weights, fsdp shards them; say --train.ema None or --strategy ddp"
        )
    devices, nodes = _places(options)
    return Trainer(
        accelerator=options.accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=options.strategy,
        precision=_precision(recipe, options),
        max_steps=recipe.steps,
        max_epochs=-1,
        val_check_interval=recipe.eval_every * recipe.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=max(1, min(50, recipe.steps // 100)),
        accumulate_grad_batches=recipe.accumulate,
        gradient_clip_val=recipe.clip_norm,
        # torch has no synchronised BatchNorm for processors
        sync_batchnorm=_on_gpu(options),
        # SegmentationData shares pictures out itself
        use_distributed_sampler=False,
        # tensors cached during an evaluation must be fit for training afterwards
        inference_mode=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        callbacks=list(callbacks),
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what Lightning says that is wrong or of no use here."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # the number of workers is the user's choice; on few cores few are best
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # SegmentationData begins at the draw that comes next, which Lightning cannot know
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
        # a frozen encoder is in evaluation mode on purpose
        warnings.filterwarnings("ignore", message=r".*module\(s\) in eval mode at the start of training.*")
        # Lightning's own use of torch.utils._pytree, of no interest to whoever trains
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
        try:
            yield
        finally:
            logger.setLevel(level)


def _on_gpu(options: RunOptions) -> bool:
    return options.accelerator in {"auto", "gpu"} and torch.cuda.is_available()


def _precision(recipe: TrainRecipe, options: RunOptions) -> Any:
    if recipe.precision == "auto":
        return "bf16-mixed" if _on_gpu(options) and torch.cuda.is_bf16_supported() else "32-true"
    return {"bfloat16": "bf16-mixed", "float32": "32-true"}[recipe.precision]


def _places(options: RunOptions) -> tuple[int | str, int]:
    """Return devices per node and nodes; what torchrun has started counts where nothing was said."""
    here, everywhere = (int(os.environ.get(name, "0")) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if options.devices is None and here:
        return here, max(1, everywhere // here)
    return options.devices or "auto", options.nodes


def _summary(recipe: Recipe, module: SegmentationModule, trainer: Trainer, size: int) -> str:
    spec = recipe.train
    device = f"{trainer.world_size} × {type(trainer.accelerator).__name__.removesuffix('Accelerator')}"
    return (
        f"{recipe.name}: {parameters(module) / 1e6:.2f} M parameters, {recipe.model.num_classes} classes\n"
        f"{spec.steps} steps of {spec.batch_size} pictures ({trainer.world_size} × {spec.accumulate} × {size}) at "
        f"{recipe.data.crop[0]}×{recipe.data.crop[1]}, evaluated every {spec.eval_every}\n"
        f"on {device}, precision {trainer.precision}"
    )
