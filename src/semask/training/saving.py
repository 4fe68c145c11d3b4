"""When a run is saved: after evaluations, before them, now and then, and when it is stopped."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from semask.checkpoints import store
from semask.data.classes import Classes
from semask.files import atomic_write
from semask.recipes import TrainRecipe
from semask.training.callbacks import MovingAverage
from semask.training.module import SegmentationModule
from semask.training.options import LAST_CHECKPOINT

logger = logging.getLogger(__name__)


class Checkpoints(Callback):
    """After every evaluation write last/, best/ if mIoU rose, and last.ckpt to resume from.

    last/ and best/ hold the weights that were evaluated: the moving average where there is one. last.ckpt is written
    too before an evaluation, every `checkpoint_every` minutes, and at the end of the step in which Ctrl-C or SIGTERM
    came. A second Ctrl-C ends the run at once.
    """

    def __init__(self, out: Path, classes: Classes | None, average: MovingAverage | None, train: TrainRecipe) -> None:
        self.out = out
        self.classes = classes
        self.average = average
        self.train = train
        self.best = -math.inf
        self.best_step = 0
        self.matrix: Tensor | None = None
        self.step = 0
        self.saved_step, self.saved_at = -1, 0.0
        self.stopping = 0
        self.handlers: dict[int, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen for Ctrl-C, which in the next moments Lightning would turn into an error of its own."""
        self.stopping = 0
        self._listen(signal.SIGINT)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count minutes, and listen for SIGTERM, for which Lightning has set its handler by now."""
        self.step, self.saved_at = trainer.global_step, time.monotonic()
        # Lightning passes SIGTERM on to all of several processes
        if trainer.world_size == 1:
            self._listen(signal.SIGTERM)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """End a stopped run, whose last step has been logged by now."""
        if self.stopping and self.saved_step == trainer.global_step:
            self._end()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save between two steps where that is due."""
        step = trainer.global_step
        if step == self.step:
            return  # more passes follow in this step
        self.step = step
        if step >= self.train.steps:
            trainer.should_stop = True  # has the last step evaluated, which Lightning does at its intervals alone
        if self._is_evaluated(step):
            return
        # A resumed run makes the step before an evaluation again, and comes to it by itself.
        due = self._is_evaluated(step + 1) or self.stopping > 0 or trainer.received_sigterm
        due = due or time.monotonic() - self.saved_at >= 60 * self.train.checkpoint_every
        if trainer.world_size > 1:
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if due:
            self._save(trainer)

    def on_validation_batch_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """End a stopped run, which was saved before the evaluation."""
        if self.stopping:
            self._end()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what the evaluation asks for."""
        assert isinstance(pl_module, SegmentationModule)
        assert pl_module.confusion is not None
        if not pl_module.confusion.matrix.any():
            raise ValueError(
                "no pixel of the validation split has a label; check --data.val-split and the class table's labels"
            )
        miou = pl_module.confusion.scores().miou
        better = miou > self.best or self.best_step == 0
        if better:
            self.best, self.best_step = miou, trainer.global_step
            self.matrix = pl_module.confusion.matrix.cpu()
        # Gathering sharded weights takes all ranks; writing takes one.
        weights = self.average.weights() if self.average else trainer.strategy.lightning_module_state_dict()
        if trainer.is_global_zero:
            prefix = "model."
            tensors = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
            model = pl_module.model
            for name in ("last", "best") if better else ("last",):
                store.save(
                    model, self.out / name, classes=self.classes, weights_only=model.recipe is None, tensors=tensors
                )
        self._save(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the signals as they were."""
        self._restore_signals()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the signals as they were."""
        self._restore_signals()

    def _listen(self, number: int) -> None:
        handler = signal.getsignal(number)
        if callable(handler) and threading.current_thread() is threading.main_thread():
            self.handlers[number] = handler
            signal.signal(number, self._stop)

    def _restore_signals(self) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self.handlers.items():
                signal.signal(number, handler)
        self.handlers = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the best mIoU and its step."""
        return {"best": self.best, "best_step": self.best_step, "matrix": self.matrix}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the best of the run so far, unless its weights are lost: the next evaluation is the best then."""
        if (self.out / "best").is_dir():
            self.best, self.best_step = state_dict["best"], state_dict["best_step"]
            self.matrix = state_dict["matrix"]

    def _is_evaluated(self, step: int) -> bool:
        return step > 0 and (step % self.train.eval_every == 0 or step >= self.train.steps)

    def _save(self, trainer: Trainer) -> None:
        path = self.out / LAST_CHECKPOINT
        with atomic_write(path) if trainer.is_global_zero else nullcontext(path) as part:
            trainer.save_checkpoint(part)
        trainer.strategy.barrier("checkpoint written")
        self.saved_step, self.saved_at = trainer.global_step, time.monotonic()

    def _stop(self, number: int, _: Any) -> None:
        self.stopping = number
        signal.signal(number, self.handlers[number])
        logger.warning("the run stops after this step; press Ctrl-C again to stop at once")

    def _end(self) -> None:
        if self.stopping == signal.SIGINT:
            raise KeyboardInterrupt
        raise SIGTERMException
