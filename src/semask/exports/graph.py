"""A model as one graph of plain operations: images in; labels, probabilities or scores out."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from semask.models.model import SegmentationModel
from semask.ops.resize import resize, size_of
from semask.recipes.export import Input, Output
from semask.structures import MaskLogits, PixelLogits


class ExportedGraph(nn.Module):
    """Normalise, pad, encode, decode, resize to the image, and what `output` asks for.

    read: "bytes" takes uint8 images b H W c as decoders of files return them, "floats" images b c H W in [0, 1].
    output: labels (uint8 b H W); confidence: these and the probability of each, float b H W; probabilities or scores
    (float b k H W); raw, the decoder's prediction at its own grid: logits, or class and mask logits.

    translated: the last steps are operations of their own, for a translator that knows them.
    classes_last: scores are b H W k where the best is looked for, else b k H W: runtimes differ in what is fast.

    Scale, windows and flips are left out: they are the predictor's, and travel beside the graph.
    """

    def __init__(
        self,
        model: SegmentationModel,
        *,
        read: Input = "floats",
        output: Output = "labels",
        translated: bool = True,
        classes_last: bool = True,
    ) -> None:
        super().__init__()
        self.model, self.read, self.output, self.classes_last = model, read, output, classes_last
        self.resize = resize_classes_last if translated else _resize_classes_last
        self.best_class = best_class if translated else _best_class

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the outputs."""
        if self.output == "raw":
            return ("class_logits", "mask_logits") if self.model.classifies_masks else ("logits",)
        return ("labels", "confidence") if self.output == "confidence" else (self.output,)

    def forward(self, images: UInt8[Tensor, "b H W c"] | Float[Tensor, "b c H W"]) -> tuple[Tensor, ...]:
        """Return the outputs in the order of their names."""
        if self.read == "bytes":
            images = images.permute(0, 3, 1, 2).float() / 255
        if self.output == "raw":
            main = self.model.decode_main(images)
            return (main.logits,) if isinstance(main, PixelLogits) else (main.class_logits, main.mask_logits)
        if self.output in ("scores", "probabilities"):
            scores = self.model.scores(images)
            if self.output == "scores":
                return (scores,)
            return (scores.softmax(dim=1) if self.model.scores_are_logits else _share(scores, scores, dim=1),)
        height, width = size_of(images)
        size, classes = self.model.padded_size(height, width), -1 if self.classes_last else 1
        main = self.model.decode_main(images)
        scores = self._classes_last(main, size) if self.classes_last else main.scores(size)
        found = [self.best_class(scores, classes)]
        if self.output == "confidence":
            best = scores.amax(dim=classes, keepdim=True)
            if not self.model.scores_are_logits:
                found.append(_share(best, scores, dim=classes).squeeze(classes))
            elif self.classes_last:
                found.append(scores.softmax(dim=classes).amax(dim=classes))
            else:  # a softmax across planes would be slow
                found.append((scores - best).exp().sum(dim=classes).reciprocal())
        # padding goes last: to cut it from the scores would copy them
        return tuple(each.narrow(1, 0, height).narrow(2, 0, width) for each in found)

    def _classes_last(self, main: PixelLogits | MaskLogits, size: tuple[int, int]) -> Float[Tensor, "b H W k"]:
        """Scores at a size with the classes of a pixel side by side."""
        scores: Tensor
        if isinstance(main, PixelLogits):
            scores = self.resize(main.logits, *size, main.align_corners)
        else:
            # Σ_q p(class k | q)·p(pixel in mask q)
            masks = self.resize(main.mask_logits, *size, False).sigmoid()
            scores = (masks.flatten(1, 2) @ main.class_probabilities()).unflatten(1, size)
        return scores


def _resize_classes_last(maps: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    """Maps b k h w at another size, as b H W k."""
    return resize(maps, (height, width), align_corners=align_corners).permute(0, 2, 3, 1).contiguous()


def _best_class(scores: Tensor, classes: int) -> Tensor:
    """The class of the highest of the scores along the axis of the classes, the first of equal ones, uint8 b H W."""
    return scores.argmax(dim=classes).to(torch.uint8)


def _share(part: Tensor, scores: Tensor, *, dim: int) -> Tensor:
    """Part of the sum of a mask classifier's scores; where no query has a mask, all classes are as likely."""
    total = scores.sum(dim=dim, keepdim=True)
    return torch.where(total == 0, 1 / scores.shape[dim], part / total)


# operations of one node each, which every runtime gets in its fastest form
resize_classes_last = torch.library.custom_op("semask::resize_classes_last", _resize_classes_last, mutates_args=())
best_class = torch.library.custom_op("semask::best_class", _best_class, mutates_args=())


@resize_classes_last.register_fake
def _(maps: Tensor, height: int, width: int, align_corners: bool) -> Tensor:
    return maps.new_empty(maps.shape[0], height, width, maps.shape[1])


@best_class.register_fake
def _(scores: Tensor, classes: int) -> Tensor:
    return scores.new_empty(scores.select(classes, 0).shape, dtype=torch.uint8)
