"""What happens around the steps: averaging weights, remembering random states, writing checkpoints, watching λ."""

from __future__ import annotations

import math
import random
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from semask.checkpoints import store
from semask.data.classes import Classes
from semask.files import atomic_write
from semask.training.module import SegmentationModule

LAST_CHECKPOINT = "last.ckpt"


class MovingAverage(WeightAveraging):
    """Keep an exponential moving average of weights and BatchNorm statistics; evaluations use the average.

    Lightning's own would also average index tables and constants: indices are cut off to whole numbers then, and
    constants drift by rounding.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(avg_fn=partial(follow, decay=decay))

    def weights(self) -> dict[str, Tensor]:
        """Return the averaged tensors by the training module's names."""
        assert self._average_model is not None  # it exists from the beginning of fit
        tensors: dict[str, Tensor] = self._average_model.module.state_dict()
        return tensors


def follow(average: Tensor, value: Tensor, count: Tensor, *, decay: float) -> Tensor:
    """Return average + (1 - decay)·(value - average), which keeps constants; whole numbers are taken over."""
    return torch.lerp(average, value, 1 - decay) if average.is_floating_point() else value


class RandomStates(Callback):
    """Seed every rank differently at the start, and carry all ranks' random states through checkpoints."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.restored: list[dict[str, Any]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take up the states of the checkpoint, or begin with seed + rank.

        A checkpoint of another number of ranks cannot be continued exactly; the ranks begin anew then.
        """
        rank = trainer.global_rank
        if len(self.restored) == trainer.world_size:
            set_random_state(self.restored[rank])
        else:
            torch.manual_seed(self.seed + rank)
            random.seed(self.seed + rank)
            np.random.seed((self.seed + rank) % 2**32)  # noqa: NPY002 — libraries draw from the global generator

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all ranks; every rank must call it."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return {"ranks": [random_state()]}
        ranks: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(ranks, random_state())
        return {"ranks": ranks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training starts, since setting up draws from them."""
        self.restored = state_dict["ranks"]


def random_state() -> dict[str, Any]:
    """Return the states of the global generators as plain values, which load with `weights_only=True`."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (kind, [int(key) for key in keys], position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Undo `random_state`."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    # A checkpoint read onto a GPU brings its tensors there; generators want theirs on the CPU.
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


class Checkpoints(Callback):
    """After every evaluation write last/, best/ if mIoU rose, and last.ckpt to resume from.

    last/ and best/ hold the weights that were evaluated: the moving average where there is one.
    """

    def __init__(self, out: Path, classes: Classes | None, average: MovingAverage | None) -> None:
        self.out = out
        self.classes = classes
        self.average = average
        self.best = -math.inf
        self.best_step = 0
        self.matrix: Tensor | None = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Have the last step evaluated too: between its intervals Lightning evaluates only when told to stop."""
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what the evaluation asks for."""
        assert isinstance(pl_module, SegmentationModule)
        assert pl_module.confusion is not None
        miou = pl_module.confusion.scores().miou
        # Without any labelled pixel mIoU is nan, which no comparison finds better.
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
        path = self.out / LAST_CHECKPOINT
        with atomic_write(path) if trainer.is_global_zero else nullcontext(path) as part:
            trainer.save_checkpoint(part)
        trainer.strategy.barrier("checkpoint written")

    def state_dict(self) -> dict[str, Any]:
        """Return the best mIoU and its step."""
        return {"best": self.best, "best_step": self.best_step, "matrix": self.matrix}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the best of the run so far, unless its weights are lost: the next evaluation is the best then."""
        if (self.out / "best").is_dir():
            self.best, self.best_step = state_dict["best"], state_dict["best_step"]
            self.matrix = state_dict["matrix"]


class WarnUnusedSemanticAttention(Callback):
    """Warn at the end when a semantic layer's λ never moved: its attention then took no part."""

    def __init__(self) -> None:
        self.first: dict[str, float] = {}
        self.moved: set[str] = set()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare the λ logged at this step with the first, at the steps that are logged anyway."""
        step = trainer.global_step
        if self.first and step % trainer.log_every_n_steps and step < trainer.max_steps:  # type: ignore[attr-defined]
            return
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("lambda/")}
        self.first = self.first or values
        self.moved |= {name for name, value in values.items() if value != self.first[name]}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if there was time to move."""
        still = sorted(set(self.first) - self.moved)
        if still and trainer.global_step > 2:
            rank_zero_warn(
                f"{', '.join(still)} did not move during this run, so these semantic layers only normalise. The "
                "projections may have started at zero, a dead end together with λ at zero (use "
                "--model.encoder.semantic.dead-init false), or be frozen."
            )
