"""What happens around the steps: averaging weights, remembering random states, watching λ."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor


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


class EarlyStop(EarlyStopping):
    """End after so many evaluations in a row without a better mIoU; a resumed run may have another patience."""

    def __init__(self, patience: int) -> None:
        super().__init__("val/mIoU", mode="max", patience=patience, check_finite=False)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting, with the patience of this run."""
        super().load_state_dict({**state_dict, "patience": self.patience})


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


class WarnUnusedSemanticAttention(Callback):
    """Warn at the end when a semantic layer's λ never moved: its attention then took no part."""

    def __init__(self) -> None:
        self.first: dict[str, float] = {}
        self.moved: set[str] = set()
        self.since = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the step that the run begins or goes on with."""
        self.since = trainer.global_step

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
        if still and trainer.global_step - self.since > 2:
            rank_zero_warn(
                f"{', '.join(still)} did not move during this run, so these semantic layers only normalise. The "
                "projections may have started at zero, a dead end together with λ at zero (use "
                "--model.encoder.semantic.dead-init false), or be frozen."
            )
