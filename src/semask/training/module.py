"""What happens in a training step and in an evaluation, for Lightning to call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Integer
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from semask.evaluation import count_pixels
from semask.evaluation.metrics import Confusion
from semask.inference import Predictor, build_predictor
from semask.models.model import SegmentationModel
from semask.recipes import Recipe
from semask.structures import Batch, EncodedBatch, Features, LossTerms, Sample, Segmentation
from semask.training.frozen import freeze
from semask.training.optim import build_optimizer, schedule

Loss = Callable[[Segmentation, Integer[Tensor, "b H W"]], LossTerms]


class SegmentationModule(LightningModule):
    """Train a model by its recipe and score it with the recipe's predictor.

    `confusion` holds the matrix of the last evaluation, summed over all processes; None before the first.
    """

    def __init__(self, model: SegmentationModel, loss: Loss, recipe: Recipe) -> None:
        super().__init__()
        # Convolutions run faster channels last; Swin's chain is so already.
        self.model = model if model.encoder.channels_last else model.to(memory_format=torch.channels_last)
        self.loss = loss
        self.recipe = recipe
        self.confusion: Confusion | None = None
        if recipe.train.freeze_encoder:
            freeze(self.model.encoder)
        self._counting = Confusion(recipe.model.num_classes)
        self.predictor()  # An impossible test is refused now, not at the first evaluation.

    def train(self, mode: bool = True) -> SegmentationModule:
        """Change the mode of what is trained: a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.recipe.train.freeze_encoder:
            self.model.encoder.eval()
        return self

    def training_step(self, batch: Batch | EncodedBatch, batch_idx: int) -> Float[Tensor, ""]:
        """Return the loss of one batch; a FloatingPointError names the step and the pictures when it is not finite."""
        if isinstance(batch, EncodedBatch):
            terms = self.loss(self.model.decode(Features(batch.maps)), batch.labels)
        else:
            terms = self.loss(self.model(batch.images), self.model.pad_labels(batch.labels))
        if not torch.isfinite(terms.total):
            total, main, prior, auxiliary = (term.item() for term in terms)
            raise FloatingPointError(
                f"the loss is {total} (main {main}, prior {prior}, auxiliary {auxiliary}) at step "
                f"{self.global_step}, pictures {', '.join(batch.names)}. Lower --optim.lr, set --train.clip-norm 1.0, "
                "or train with --train.precision float32."
            )
        self._log_step(terms, batch_size=len(batch.labels))
        return terms.total

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        self._counting = Confusion(self.recipe.model.num_classes, device=self.device)

    def validation_step(self, batch: list[Sample], batch_idx: int) -> None:
        """Count the pixels of some samples at the labels' own size; neighbours of one size are scored together."""
        count_pixels(self._counting, self.predictor(), batch)

    def predictor(self) -> Predictor:
        """Compose the predictor of evaluations during training, whose windows may lie further apart than the test's."""
        stride = self.recipe.train.eval_stride or self.recipe.test.stride
        return build_predictor(self.model, replace(self.recipe.test, stride=stride), self.recipe.data)

    def on_validation_epoch_end(self) -> None:
        """Sum over all processes and log mIoU, mAcc and aAcc, each in [0, 1]."""
        self.confusion = self._counting.reduce()
        scores = self.confusion.scores()
        values = {"val/mIoU": scores.miou, "val/mAcc": scores.macc, "val/aAcc": scores.aacc}
        # Every rank holds the same sums, so there is nothing left to reduce.
        self.log_dict(values, rank_zero_only=True)

    def configure_optimizers(self) -> Any:
        """Return the optimiser and its schedule, stepped once per optimiser step."""
        spec = self.recipe.optim
        optimizer = build_optimizer(self.model, spec)
        steps = self.recipe.train.steps
        factors = [schedule(spec, steps, group["lr"]) for group in optimizer.param_groups]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def gains(self) -> dict[str, Tensor]:
        """Return the learned λ of every semantic attention unit, by `stage1` … or, with several units, `stage1/unit2`.

        With FSDP it can be read inside a step only, where parameters are whole.
        """
        found: dict[str, Tensor] = {}
        for stage, layer in enumerate(self.model.encoder.semantic, start=1):  # type: ignore[arg-type]
            units = getattr(layer, "units", ())  # a probe has none
            for unit, attention in enumerate(units, start=1):
                if isinstance(attention.gain, nn.Parameter):
                    name = f"stage{stage}" if len(units) == 1 else f"stage{stage}/unit{unit}"
                    found[name] = attention.gain.detach().clone()
        return found

    def _log_step(self, terms: LossTerms, *, batch_size: int) -> None:
        log = partial(self.log_dict, batch_size=batch_size)
        log({"train/loss": terms.total.detach(), "train/main": terms.main.detach()})
        if self.model.encoder.semantic:
            log({"train/prior": terms.prior.detach(), **{f"lambda/{k}": v for k, v in self.gains().items()}})
        if self.model.has_auxiliary and not self.model.classifies_masks:
            log({"train/auxiliary": terms.auxiliary.detach()})
        # The rate that this step is made with; the last group is the decoder's, which no scale touches.
        log({"train/lr": self.optimizers().param_groups[-1]["lr"]})  # type: ignore[union-attr]
