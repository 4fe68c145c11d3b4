"""Training and evaluation steps, for Lightning to call."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from semask.evaluation import count_pixels
from semask.evaluation.metrics import Confusion
from semask.inference import Pipeline, build_predictor
from semask.losses.build import build_loss
from semask.models.model import SegmentationModel
from semask.recipes import Recipe
from semask.structures import Batch, EncodedBatch, Features, Loss, LossTerms, Sample
from semask.training.frozen import freeze, freeze_matching
from semask.training.optim import build_optimizer, schedule


class SegmentationModule(LightningModule):
    """A model in training, scored with its recipe's predictor; it runs under any `lightning.Trainer`.

    Training loaders give `Batch`es (`collate_fn=semask.training.collate`), validation loaders lists of `Sample`s
    (`collate_fn=list`). `confusion` is the matrix of the last evaluation, summed over all processes; None before.

    >>> import semask
    >>> from semask.training import SegmentationModule
    >>> module = SegmentationModule(semask.build("scenes/semask-micro-fpn"))
    >>> type(module.loss).__name__
    'SegmentationLoss'
    """

    def __init__(self, model: SegmentationModel, loss: Loss | None = None, recipe: Recipe | None = None) -> None:
        """`loss` None is the recipe's; `recipe` None is the model's own, and the length of training is the trainer's.

        Of the recipe, `optim`, `train`, `test` and `data.base_scale` are read.
        """
        super().__init__()
        # Convolutions run faster channels last; encoders that exchange b h w c have that layout already.
        self.model = model if model.channels_last else model.to(memory_format=torch.channels_last)
        self.steps = recipe.train.steps if recipe is not None else None
        self.recipe = recipe or model.recipe or Recipe(name="own")
        self.loss = loss if loss is not None else build_loss(self.recipe)
        self.confusion: Confusion | None = None
        if self.recipe.train.freeze_encoder:
            freeze(self.model.encoder)
        freeze_matching(self.model, self.recipe.train.freeze)
        self._counting = Confusion(model.num_classes)
        self.predictor()  # An impossible test is refused now, not at the first evaluation.

    def train(self, mode: bool = True) -> SegmentationModule:
        """Change the mode of the trained parts: a frozen encoder, and frozen BatchNorms, stay in evaluation mode."""
        super().train(mode)
        if self.recipe.train.freeze_encoder:
            self.model.encoder.eval()
        if self.recipe.train.freeze:
            for layer in self.model.modules():
                if isinstance(layer, _BatchNorm) and not any(each.requires_grad for each in layer.parameters()):
                    layer.eval()
        return self

    def training_step(self, batch: Batch | EncodedBatch, batch_idx: int) -> Float[Tensor, ""]:
        """Loss of one batch.

        Raises:
            FloatingPointError: The loss is NaN or infinite; the message names the step and the images.
        """
        if isinstance(batch, EncodedBatch):
            found = self.loss(self.model.decode(Features(batch.maps)), batch.labels)
        else:
            found = self.loss(self.model(batch.images), self.model.pad_labels(batch.labels))
        if isinstance(found, Tensor):
            if found.ndim:
                raise ValueError(f"a loss returns one number or semask's LossTerms, got shape {tuple(found.shape)}")
            found = LossTerms(found, found, torch.zeros_like(found), torch.zeros_like(found))
        if not torch.isfinite(found.total):
            total, main, prior, auxiliary = (term.item() for term in found)
            raise FloatingPointError(
                f"the loss is {total} (main {main}, prior {prior}, auxiliary {auxiliary}) at step {self.global_step}, "
                f"images {', '.join(batch.names)}. Begin again (--overwrite) with a lower --optim.lr, with "
                "--train.clip-norm 1.0, or with --train.precision float32."
            )
        self._log_step(found, batch_size=len(batch.labels))
        return found.total

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        self._counting = Confusion(self.model.num_classes, device=self.device)

    def validation_step(self, batch: list[Sample], batch_idx: int) -> None:
        """Count the pixels of some samples at the labels' own size; successive ones of one size are scored together."""
        count_pixels(self._counting, self.predictor(), batch)

    def predictor(self) -> Pipeline:
        """Predictor of evaluations during training, whose windows may lie further apart than the test's."""
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
        """Optimiser and schedule, stepped once per optimiser step."""
        spec = self.recipe.optim
        steps = self.steps if self.steps is not None else int(self.trainer.estimated_stepping_batches)
        optimizer = build_optimizer(self.model, spec)
        factors = [schedule(spec, steps, group["lr"]) for group in optimizer.param_groups]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def gains(self) -> dict[str, Tensor]:
        """Learned λ of every semantic attention unit, by `stage1` … or, with several units, `stage1/unit2`.

        With FSDP it can be read inside a step only, where parameters are whole.
        """
        found: dict[str, Tensor] = {}
        for stage, layer in enumerate(self.model.semantic_layers, start=1):
            units = getattr(layer, "units", ())  # a probe has none
            for unit, attention in enumerate(units, start=1):
                if isinstance(attention.gain, nn.Parameter):
                    name = f"stage{stage}" if len(units) == 1 else f"stage{stage}/unit{unit}"
                    found[name] = attention.gain.detach().clone()
        return found

    def _log_step(self, terms: LossTerms, *, batch_size: int) -> None:
        log = partial(self.log_dict, batch_size=batch_size)
        log({"train/loss": terms.total.detach(), "train/main": terms.main.detach()})
        if self.model.semantic_layers:
            log({"train/prior": terms.prior.detach(), **{f"lambda/{k}": v for k, v in self.gains().items()}})
        if self.model.has_auxiliary and not self.model.classifies_masks:
            log({"train/auxiliary": terms.auxiliary.detach()})
        # The rate of this step; the last group is the decoder's, which no scale touches.
        log({"train/lr": self.optimizers().param_groups[-1]["lr"]})  # type: ignore[union-attr]
