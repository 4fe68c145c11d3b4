"""A training run: from parts or a recipe to the best checkpoint."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException

from semask.checkpoints.warm_start import start_from
from semask.data.checks.check import check_pairs
from semask.data.classes import Classes
from semask.data.dataset import TrainingFiles, training_set, validation_set
from semask.evaluation.metrics import Confusion
from semask.evaluation.metrics.confusion import Scores
from semask.evaluation.summary import advice
from semask.inference.from_recipe import scale_note
from semask.losses.build import build_loss
from semask.models.build import build
from semask.models.flops import parameters
from semask.ops.memory import checkpoint_stages
from semask.recipes import Recipe, TrainRecipe
from semask.recipes.bounds import check_flags, check_numbers
from semask.text import console
from semask.training import automatic
from semask.training.callbacks import EarlyStop, MovingAverage, RandomStates, WarnUnusedSemanticAttention
from semask.training.datamodule import SegmentationData, micro_batch
from semask.training.frozen import check_frozen
from semask.training.history import FOLDER, open_loggers
from semask.training.module import SegmentationModule
from semask.training.optim import check_rates
from semask.training.options import RunOptions, folder_of
from semask.training.prepare import (
    check_batch_norms,
    find_checkpoint,
    fit_classes,
    load_pretrained,
    locked,
    open_folder,
    warn_of_warm_up,
)
from semask.training.progress import ProgressReport
from semask.training.saving import Checkpoints

logger = logging.getLogger(__name__)
TERMINATED = 143
"""Exit status of a run that was ended by SIGTERM."""


class TrainResult(NamedTuple):
    """Folders of a run and its best evaluation.

    best, last: checkpoint directories for `semask.load`. scores, step: of the best evaluation. confusion: the matrix of
    this session's last evaluation, None when the run had been finished before.
    """

    out: Path
    best: Path
    last: Path
    scores: Scores
    step: int
    confusion: Confusion | None


class Run:
    """A run's folder, trainer and checkpoint to go on from; made before the model, which depends on the seed."""

    def __init__(
        self,
        recipe: Recipe,
        options: RunOptions,
        classes: Classes | None,
        *,
        callbacks: Sequence[Callback] = (),
        choice: automatic.Choice | None = None,
    ) -> None:
        """Check the folder and set up the trainer, before any step is made; `choice` is printed and kept."""
        check_numbers(recipe)
        check_flags(options)
        check_rates(recipe.optim)
        self.recipe, self.options, self.classes, self.choice = recipe, options, classes, choice
        self.out = folder_of(recipe, options)
        average = MovingAverage(decay=recipe.train.ema) if recipe.train.ema is not None else None
        self.checkpoints = Checkpoints(self.out, classes, average, recipe.train)
        # what moves the weights comes before what saves them
        names = classes.names if classes is not None else ()
        own = [*([average] if average else []), ProgressReport(names), RandomStates(recipe.train.seed)]
        if recipe.train.early_stop is not None:
            own.append(EarlyStop(recipe.train.early_stop))
        own += [WarnUnusedSemanticAttention(), self.checkpoints]
        try:
            self.trainer = build_trainer(recipe.train, options, callbacks=[*own, *callbacks])
        except (MisconfigurationException, RuntimeError) as error:  # Lightning's words for what the machine lacks
            raise ValueError(
                f"{error} (--accelerator {options.accelerator}, --devices {options.devices}, --strategy "
                f"{options.strategy})"
            ) from error
        self.first = self.trainer.is_global_zero
        self.console = console(quiet=not self.first)
        self.micro_batch = micro_batch(recipe.train, self.trainer.world_size)
        self.resume = find_checkpoint(self.out, recipe, options, first=self.first)

    def fit(self, module: SegmentationModule, data: SegmentationData, loggers: Sequence[Logger] | None) -> TrainResult:
        """Train, and return the best evaluation."""
        check_frozen(self.recipe, self.trainer.world_size)
        views = self.recipe.train.cached_views
        if views is not None and not isinstance(data.draws, TrainingFiles):
            raise ValueError(
                f"train.cached_views {views} is for images from files, not for {type(data.draws).__name__}"
            )
        # BatchNorm is synchronised where processes train on GPUs, whatever else the machine has
        synchronised = self.trainer.world_size > 1 and self.trainer.strategy.root_device.type == "cuda"
        if self.micro_batch == 1 and not synchronised:
            check_batch_norms(module.model, self.recipe.data.crop)
        checkpoint_stages(module.model.encoder, self.recipe.train.checkpoint_stages)
        # all refusals come before an earlier run is removed
        if self.first:
            open_folder(self.out, module.model.recipe, self.classes, resume=self.resume)
            if self.choice is not None:
                self.choice.write(self.out)
        self.trainer.loggers = [*loggers] if loggers is not None else open_loggers(self.out, self.options.logger)
        self.console.print(self._summary(module, data))
        try:
            self.trainer.fit(module, datamodule=data, ckpt_path=self.resume, weights_only=True)
        # What ended the run from outside keeps its meaning, which Lightning's exit statuses 0 and 1 do not have.
        except SIGTERMException as ending:
            raise SystemExit(TERMINATED) from ending
        except SystemExit as leaving:
            if self.trainer.interrupted:
                raise KeyboardInterrupt from leaving
            raise
        except RuntimeError as error:
            raise self._cause(error)  # noqa: B904
        matrix = self.checkpoints.matrix
        if matrix is None:
            raise ValueError(
                f"the weights in {str(self.out / 'best')!r} are lost, and the run has ended; train it again with "
                "--overwrite"
            )
        best = Confusion(len(matrix))
        best.matrix += matrix
        result = TrainResult(
            self.out,
            self.out / "best",
            self.out / "last",
            best.scores(),
            self.checkpoints.best_step,
            module.confusion,
        )
        self.console.print(
            f"best mIoU {result.scores.miou:.2%} at step {result.step}; weights in {result.best}, curves in "
            f"{self.out / FOLDER}",
        )
        names = self.classes.names if self.classes else [f"class {index}" for index in range(len(matrix))]
        if self.first and (warning := advice(matrix, names, self.recipe)):
            logger.warning(warning)
        return result

    def _cause(self, error: RuntimeError) -> BaseException:
        """The end of a run of which a loading process, or Lightning in its own ending, makes another error."""
        if self.checkpoints.stopping == signal.SIGINT:
            return KeyboardInterrupt()
        if self.checkpoints.stopping or self.trainer.received_sigterm:
            return SystemExit(TERMINATED)
        hidden = error.__context__ if "combined_loader" in str(error) else None
        return hidden or error

    def _summary(self, module: SegmentationModule, data: SegmentationData) -> str:
        spec, trainer = self.recipe.train, self.trainer
        device = f"{trainer.world_size} × {type(trainer.accelerator).__name__.removesuffix('Accelerator')}"
        crop = "×".join(map(str, self.recipe.data.crop))
        lines = [
            f"{self.recipe.name}: {parameters(module) / 1e6:.2f} M parameters, {module.model.num_classes} classes",
            f"{spec.steps} steps of {spec.batch_size} images ({trainer.world_size} × {spec.accumulate} × "
            f"{self.micro_batch}) at {crop}, evaluated every {spec.eval_every}",
            f"on {device}, precision {trainer.precision}",
        ]
        if self.classes is not None and self.recipe.data.kind != "scenes":
            lines.append(self.classes.describe())
        # the scale of the images: chosen, or the recipe's
        if self.choice is not None and self.choice.reasons:
            lines += [f"chosen: {reason}" for reason in self.choice.reasons]
            lines.append("every flag keeps its value, and --auto false keeps the recipe's")
        elif note := scale_note(self.recipe.data, *data.val[0].label.shape):
            lines.append(note)
        return "\n".join(lines)


def train(recipe: Recipe, options: RunOptions | None = None, *, keep: Collection[str] | None = None) -> TrainResult:
    """Train by a recipe.

    With `keep`, the recipe is fitted to its data and this machine; fields whose paths are in `keep` stay.

    Raises:
        ValueError: The recipe, the data or the folder is wrong; before any step is made.
    """
    options = options or RunOptions()
    recipe, classes = fit_classes(recipe)
    with quiet(), locked(folder_of(recipe, options)):
        choice = None
        if keep is not None and recipe.data.kind != "scenes":
            choice = automatic.choose(recipe, classes, options, folder_of(recipe, options), keep=keep)
            recipe = choice.recipe
        run = Run(recipe, options, classes, choice=choice)
        if run.first and recipe.data.kind != "scenes" and not options.skip_check:
            check_pairs(recipe.data)
        if run.first:
            warn_of_warm_up(recipe)
        seed_everything(recipe.train.seed, workers=True, verbose=False)
        model = build(recipe).train()
        if run.resume is None and options.init is not None:
            run.console.print(str(start_from(model, options.init, classes.names)))
        elif run.resume is None:
            load_pretrained(model, recipe, console=run.console, from_scratch=options.from_scratch)
        module = SegmentationModule(model, build_loss(recipe), recipe)
        draws = training_set(recipe.data, seed=recipe.train.seed, mean=recipe.model.mean)
        if isinstance(draws, TrainingFiles):
            draws.keep_decoded(options.decoded)
        data = SegmentationData(draws, validation_set(recipe.data), recipe, workers=options.workers)
        return run.fit(module, data, None)


def build_trainer(recipe: TrainRecipe, options: RunOptions, *, callbacks: Sequence[Callback]) -> Trainer:
    """A trainer that runs for `recipe.steps` optimiser steps and evaluates every `eval_every` and at the end."""
    if recipe.ema is not None and options.strategy == "fsdp":
        raise ValueError(
            "a moving average needs whole weights, fsdp shards them; use --train.ema None or --strategy ddp"
        )
    on_gpu = options.accelerator in {"auto", "gpu"} and torch.cuda.is_available()
    # bfloat16 where a GPU computes in it
    mixed = recipe.precision == "bfloat16"
    if recipe.precision == "auto":
        mixed = on_gpu and torch.cuda.is_bf16_supported()
    # processes that torchrun has started count where no option names others
    devices: int | str = options.devices or "auto"
    nodes = options.nodes
    here, everywhere = (int(os.environ.get(name, "0")) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if options.devices is None and here:
        devices, nodes = here, max(1, everywhere // here)
    return Trainer(
        accelerator=options.accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=options.strategy,
        precision="bf16-mixed" if mixed else "32-true",
        max_steps=recipe.steps,
        max_epochs=-1,
        val_check_interval=recipe.eval_every * recipe.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=max(1, min(50, recipe.steps // 100)),
        accumulate_grad_batches=recipe.accumulate,
        gradient_clip_val=recipe.clip_norm,
        # torch has no synchronised BatchNorm for CPUs
        sync_batchnorm=on_gpu,
        # SegmentationData shares images out itself
        use_distributed_sampler=False,
        # tensors cached during an evaluation must be fit for training afterwards
        inference_mode=False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        callbacks=list(callbacks),
        plugins=[DirectCheckpointIO()],
    )


class DirectCheckpointIO(TorchCheckpointIO):
    """Checkpoints written to their place; Lightning's own writing passes through the folder for temporary files."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint; a full disk, of which torch makes a RuntimeError, is an OSError."""
        try:
            torch.save(checkpoint, path)
        except RuntimeError as error:
            if "inline_container" not in str(error) and "StreamWriter" not in str(error):
                raise
            raise OSError(f"{str(path)!r} could not be written whole ({str(error).splitlines()[0]})") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings of Lightning that are wrong or of no use here."""
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
        # Lightning's own use of torch.utils._pytree
        warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
        try:
            yield
        finally:
            logger.setLevel(level)
