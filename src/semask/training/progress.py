"""Showing how a run goes: bars in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from semask.evaluation.summary import class_line, never_predicted
from semask.text import SILENCE, console, duration
from semask.training.module import SegmentationModule

REPORTS = 20
"""Lines per run outside a terminal, besides one per evaluation."""


class ProgressReport(Callback):
    """Count optimiser steps and evaluation passes, with the loss and the latest mIoU. Only rank 0 speaks."""

    def __init__(self, names: Sequence[str] = (), out: Console | None = None) -> None:
        self.names = names
        self.console = out or console()
        self.bars: Progress | None = None
        self.training = TaskID(0)
        self.evaluation = TaskID(0)
        self.loss = float("nan")
        self.miou = ""
        self.began = self.reported_at = 0.0
        self.since = self.scored = 0
        self.reported = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bars in a terminal."""
        self.began = self.reported_at = time.monotonic()
        self.since = trainer.global_step
        if not (trainer.is_global_zero and self.console.is_terminal):
            return
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
        )
        self.training = self.bars.add_task("train", total=trainer.max_steps, completed=trainer.global_step, note="")
        self.evaluation = self.bars.add_task("evaluate", visible=False, note="")
        self.bars.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the step; the loss is read at logging steps only, because reading waits for the GPU."""
        if not trainer.is_global_zero:
            return
        step, steps = trainer.global_step, trainer.max_steps
        if step % trainer.log_every_n_steps == 0 or step == steps:  # type: ignore[attr-defined]
            self.loss = float(trainer.callback_metrics["train/loss"])
        if self.bars is not None:
            self.bars.update(self.training, completed=step, note=f"loss {self.loss:.3f}{self.miou}")
        elif step != self.reported:
            now = time.monotonic()
            if step % max(1, steps // REPORTS) == 0 or now - self.reported_at >= SILENCE:
                self.reported, self.reported_at = step, now
                left = (now - self.began) / max(1, step - self.since) * (steps - step)
                loss = float(trainer.callback_metrics["train/loss"])
                self._say(f"step {step}/{steps}  loss {loss:.3f}  {duration(left)} left")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bar of the evaluation."""
        self.scored = 0
        if self.bars is not None:
            total = sum(trainer.num_val_batches)
            self.bars.reset(self.evaluation, total=total, visible=True, note="")

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Count the pass."""
        self.scored += 1
        if self.bars is not None:
            self.bars.advance(self.evaluation)
        elif trainer.is_global_zero and time.monotonic() - self.reported_at >= SILENCE:
            self.reported_at = time.monotonic()
            self._say(f"  evaluating: {self.scored} of {sum(trainer.num_val_batches)}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave a line with the scores."""
        assert isinstance(pl_module, SegmentationModule)
        if not trainer.is_global_zero or pl_module.confusion is None:
            return
        if self.bars is not None:
            self.bars.update(self.evaluation, visible=False)
        scores = pl_module.confusion.scores()
        self.miou = f"  mIoU {scores.miou:.1%}"
        self._say(
            f"step {trainer.global_step}/{trainer.max_steps}  mIoU {scores.miou:.2%}  mAcc {scores.macc:.2%}  "
            f"aAcc {scores.aacc:.2%}"
        )
        if self.names:
            self._say(f"  {class_line(scores, self.names)}")
            missing = [self.names[index] for index in never_predicted(pl_module.confusion.matrix)]
            if missing:
                self._say(f"  predicted nowhere: {', '.join(missing)}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the bars down."""
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._stop()

    def _stop(self) -> None:
        if self.bars is not None:
            self.bars.stop()
            self.bars = None

    def _say(self, line: str) -> None:
        self.console.print(line)
