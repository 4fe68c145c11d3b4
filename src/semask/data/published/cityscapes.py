"""Cityscapes, 19 classes. Its label files hold the 34 "label ids"; training and scoring count them as "train ids".

The coarse labels go where the fine ones are, as the split train_extra, so that `--data.train-split train_extra` trains
on them and validation stays with the fine ones.

Source: Cordts et al., The Cityscapes Dataset for Semantic Urban Scene Understanding, CVPR 2016.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import UInt8

from semask.data.classes import Classes
from semask.data.published.official import Official, by_folder, renumbered
from semask.data.readers.image import read_label
from semask.data.readers.source import Source
from semask.recipes.cityscapes import DATA
from semask.structures import IGNORE

LARGEST_ID = 33
TRAIN_IDS, LABEL_IDS = "_labelTrainIds.png", "_labelIds.png"
"""How label files end that hold train ids, and those that come with the dataset."""
HINT = (
    "there are files of label ids, as the dataset comes: `semask prepare cityscapes` makes those of train ids, or read "
    "them as they are by --data.label-suffix _gtFine_labelIds.png --data.classes cityscapes-labelids"
)


def read_label_ids(source: Source) -> UInt8[np.ndarray, "H W"]:
    """Return the train ids of a file of label ids; what is not scored is 255."""
    return renumbered(read_label(source).numpy(), Classes.load("cityscapes"), rest=IGNORE, largest=LARGEST_ID)


CITYSCAPES = Official(
    title="Cityscapes",
    downloads=("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip"),
    data=DATA,
    counts={"train": 2975, "val": 500, "test": 1525},
    gather=by_folder(
        r"leftImg8bit/(?P<split>train|val|test)/(?P<stem>[^/]+/[^/]+)_leftImg8bit\.png",
        # The labels of the test are not public; the files called so are empty.
        r"gtFine/(?P<split>train|val)/(?P<stem>[^/]+/[^/]+)_gtFine_labelIds\.png",
    ),
    read=read_label_ids,
    unlabelled=frozenset({"test"}),
)

CITYSCAPES_COARSE = Official(
    title="Cityscapes, coarse labels",
    downloads=("leftImg8bit_trainextra.zip", "gtCoarse.zip"),
    data=dataclasses.replace(DATA, train_split="train_extra"),
    counts={"train_extra": 19998},
    gather=by_folder(
        r"leftImg8bit/(?P<split>train_extra)/(?P<stem>[^/]+/[^/]+)_leftImg8bit\.png",
        r"gtCoarse/(?P<split>train_extra)/(?P<stem>[^/]+/[^/]+)_gtCoarse_labelIds\.png",
    ),
    read=read_label_ids,
)
