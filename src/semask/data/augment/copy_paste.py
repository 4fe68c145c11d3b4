"""Copy-paste: a region of one training image over another, for more of rare classes in more surroundings."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from scipy import ndimage
from torch import Tensor

from semask.data.classes import Classes
from semask.data.readers.raster import ImageTensor
from semask.ops.resize import to_float
from semask.recipes.recipe import DataRecipe
from semask.structures import IGNORE

View = tuple[ImageTensor, UInt8[Tensor, "h w"]]


class CopyPaste:
    """The recipe's pasting: of which classes, and either whole classes or connected regions.

    Source: Simple Copy-Paste (arXiv:2012.07177) §3 for objects, ClassMix (arXiv:2007.07936) §3.2 for whole classes.
    Differs: one region per image, edges not blended.
    """

    def __init__(self, data: DataRecipe, classes: Classes) -> None:
        self.share, self.whole = data.copy_paste, data.copy_paste_whole
        names = classes.names if data.copy_paste_classes is None else data.copy_paste_classes
        unknown = [name for name in names if name not in classes.names]
        if unknown or not names:
            raise ValueError(
                f"data.copy_paste_classes {unknown or 'is empty'}: name classes of the table, among them "
                f"{', '.join(classes.names[:8])}; None pastes any"
            )
        self.allowed = np.isin(np.arange(IGNORE), [classes.names.index(name) for name in names])

    def paste(self, onto: View, source: View, random: np.random.Generator) -> View:
        """Return `onto` with a region of `source` over it, at the same place; both are aligned at the upper left.

        Where only one of them has 8 bits, the result is in [0, 1].
        """
        height, width = (min(sides) for sides in zip(onto[1].shape, source[1].shape, strict=True))
        box = slice(height), slice(width)
        chosen = self.region(source[1][box], random)
        if chosen is None:
            return onto
        below, above = onto[0], source[0]
        if below.dtype != above.dtype:
            below, above = to_float(below), to_float(above)
        image, label = below.clone(), onto[1].clone()
        image[:, *box] = torch.where(chosen, above[:, *box], image[:, *box])
        label[box] = torch.where(chosen, source[1][box], label[box])
        return image, label

    def region(self, label: UInt8[Tensor, "h w"], random: np.random.Generator) -> Bool[Tensor, "h w"] | None:
        """Return the part of a label to be pasted, never ignored pixels; None where it shows no class to paste.

        Classes are equally likely; regions of a class are drawn by their area.
        """
        ids = label.numpy()
        present = np.flatnonzero((np.bincount(ids.ravel(), minlength=IGNORE + 1)[:IGNORE] > 0) & self.allowed)
        if not present.size:
            return None
        # a random class of the label
        mask = ids == present[int(random.integers(len(present)))]
        if not self.whole:
            regions, _ = ndimage.label(mask)
            # the region of a random pixel
            inside = regions[mask]
            mask = regions == inside[int(random.integers(len(inside)))]
        return torch.from_numpy(mask)
