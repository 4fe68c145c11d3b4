"""COCO-Stuff-10k, 171 classes: the FPN rows of SeMask's appendix.

Source: training numbers from the authors' configurations. Their backbone was configured for 150 classes while labels
reach 170; here it has 171.
"""

from __future__ import annotations

import dataclasses

from semask.recipes.ade20k import OHEM_PIXELS, SCALES
from semask.recipes.recipe import DataRecipe, LossRecipe, ModelRecipe, Recipe
from semask.recipes.swin import semask_swin_fpn, swin_fpn

NUM_CLASSES = 171


DATA = DataRecipe(
    classes="coco-stuff10k",
    images="images/{split}",
    labels="annotations/{split}",
    image_suffix=".jpg",
    label_suffix="_labelTrainIds.png",
    train_split="train2014",
    val_split="test2014",
)


def _row(name: str, model: ModelRecipe, *, side: int = 512) -> Recipe:
    semask = name.startswith("semask")
    data = dataclasses.replace(
        DATA,
        base_scale=(4 * side, side),
        scale_choices=SCALES if semask else None,
        scale_range=None if semask else (0.5, 2.0),
        crop=(side, side),
        category_cap=1.0 if semask else 0.75,
    )
    return Recipe(name=f"coco-stuff10k/{name}", model=model, loss=LossRecipe(ohem_pixels=OHEM_PIXELS), data=data)


def swin_t_fpn() -> Recipe:
    """Swin-T FPN."""
    return _row("swin-t-fpn", swin_fpn("t", NUM_CLASSES))


def semask_swin_t_fpn() -> Recipe:
    """SeMask-T FPN."""
    return _row("semask-swin-t-fpn", semask_swin_fpn("t", NUM_CLASSES, global_from=2))


def swin_s_fpn() -> Recipe:
    """Swin-S FPN."""
    return _row("swin-s-fpn", swin_fpn("s", NUM_CLASSES))


def semask_swin_s_fpn() -> Recipe:
    """SeMask-S FPN."""
    return _row("semask-swin-s-fpn", semask_swin_fpn("s", NUM_CLASSES, global_from=2))


def swin_b_fpn() -> Recipe:
    """Swin-B FPN, ImageNet-22k."""
    return _row("swin-b-fpn", swin_fpn("b", NUM_CLASSES))


def semask_swin_b_fpn() -> Recipe:
    """SeMask-B FPN, ImageNet-22k."""
    return _row("semask-swin-b-fpn", semask_swin_fpn("b", NUM_CLASSES, global_from=4))


def swin_l_fpn() -> Recipe:
    """Swin-L FPN, ImageNet-22k, crops of 640²."""
    return _row("swin-l-fpn", swin_fpn("l", NUM_CLASSES), side=640)


def semask_swin_l_fpn() -> Recipe:
    """SeMask-L FPN, ImageNet-22k, crops of 640²."""
    return _row("semask-swin-l-fpn", semask_swin_fpn("l", NUM_CLASSES, global_from=2), side=640)


RECIPES = (
    swin_t_fpn,
    semask_swin_t_fpn,
    swin_s_fpn,
    semask_swin_s_fpn,
    swin_b_fpn,
    semask_swin_b_fpn,
    swin_l_fpn,
    semask_swin_l_fpn,
)
