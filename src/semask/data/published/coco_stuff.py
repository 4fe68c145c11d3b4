"""COCO-Stuff, 171 classes: 80 things and 91 kinds of stuff. Official ids go to 182 and leave out 11.

Of the 10k pictures the labels are .mat files, 0 for what is unlabelled; of the 164k ones they are PNG files of the id
less 1, 255 for what is unlabelled, which are read as they are.

Source: Caesar et al., COCO-Stuff: Thing and Stuff Classes in Context, CVPR 2018.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from semask.data.classes import Classes
from semask.data.published.official import Official, by_folder, by_list, renumbered
from semask.data.readers.mat_file import read_mat
from semask.data.readers.source import Source
from semask.recipes import coco_stuff

LARGEST_ID = 182


def read_regions(source: Source) -> UInt8[np.ndarray, "H W"]:
    """Return the labels of a .mat file, counted from 1 without gaps; 0 is unlabelled."""
    return renumbered(read_mat(source, "S"), Classes.load("coco-stuff10k"), rest=0, largest=LARGEST_ID)


COCO_STUFF_10K = Official(
    title="COCO-Stuff 10k",
    downloads=("cocostuff-10k-v1.1.zip",),
    data=coco_stuff.DATA_10K,
    counts={"train2014": 9000, "test2014": 1000},
    gather=by_list(
        r"images/(?P<stem>[^/]+)\.jpg",
        r"annotations/(?P<stem>[^/]+)\.mat",
        {"train2014": "imageLists/train.txt", "test2014": "imageLists/test.txt"},
    ),
    read=read_regions,
)

COCO_STUFF_164K = Official(
    title="COCO-Stuff 164k",
    downloads=("train2017.zip", "val2017.zip", "stuffthingmaps_trainval2017.zip"),
    data=coco_stuff.DATA_164K,
    counts={"train2017": 118287, "val2017": 5000},
    gather=by_folder(
        r"(?P<split>train2017|val2017)/(?P<stem>[^/]+)\.jpg",
        r"(?P<split>train2017|val2017)/(?P<stem>[^/]+)\.png",
    ),
)
