"""CamVid, 11 classes: in the form of SegNet's tutorial, or as Cambridge published it, by 32 colours.

Source: Brostow, Fauqueur, Cipolla, Semantic Object Classes in Video, PRL 2009; the splits, and the grouping of the 32
classes, are those used with SegNet (Badrinarayanan et al., PAMI 2017).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer

from semask.data.classes import Classes
from semask.data.published.official import Files, Official, SplitFiles, by_folder, by_stem, select
from semask.data.readers.image import read_image, read_label
from semask.data.readers.source import Source
from semask.recipes.camvid import FULL

VOID = 11
PAINTED = "_L.png"
"""The ending of Cambridge's label files."""
COLOURS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "Sky": ((128, 128, 128),),
    # building, wall, bridge, tunnel, archway
    "Building": ((128, 0, 0), (64, 192, 0), (0, 128, 64), (64, 0, 64), (192, 0, 128)),
    # column or pole, traffic cone
    "Pole": ((192, 192, 128), (0, 0, 64)),
    # road, lane markings to drive on and not to
    "Road": ((128, 64, 128), (128, 0, 192), (192, 0, 64)),
    # sidewalk, parking block, road shoulder
    "Pavement": ((0, 0, 192), (64, 192, 128), (128, 128, 192)),
    # tree, other vegetation
    "Tree": ((128, 128, 0), (192, 192, 0)),
    # sign, other text, traffic light
    "SignSymbol": ((192, 128, 128), (128, 128, 64), (0, 64, 64)),
    "Fence": ((64, 64, 128),),
    # car, SUV or pickup, truck or bus, train, other moving things
    "Car": ((64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)),
    # pedestrian, child, cart or pram, animal
    "Pedestrian": ((64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)),
    # bicyclist, motorcycle or scooter
    "Bicyclist": ((0, 128, 192), (192, 0, 192)),
}
"""Cambridge's colours by our classes; void is black."""


def split_of(stem: str) -> str:
    """Return the split of a frame, such as 0016E5_07959: splits are whole drives and stretches of them."""
    drive, _, frame = stem.partition("_")
    if drive == "0016E5" and "07959" <= frame <= "08159":
        return "val"
    return "test" if drive == "Seq05VD" or (drive == "0001TP" and frame > "008520") else "train"


def gather_camvid(files: Files) -> dict[str, SplitFiles]:
    """Find either layout, whichever is there."""
    found = by_folder(
        r"(?P<split>train|val|test)/(?P<stem>[^/]+)\.png", r"(?P<split>train|val|test)annot/(?P<stem>[^/]+)\.png"
    )(files)
    if found:
        return found
    images, labels = by_stem(files, r"(?P<stem>[^/]+(?<!_L))\.png"), by_stem(files, rf"(?P<stem>[^/]+){PAINTED}")
    names: dict[str, list[str]] = {}
    for stem in sorted(images.keys() | labels.keys()):
        names.setdefault(split_of(stem), []).append(stem)
    return {split: select(listed, images, labels) for split, listed in names.items()}


def read_camvid(source: Source) -> Integer[np.ndarray, "H W"]:
    """Return the values of a label file of either layout, 0 … 10 and 11 for void.

    Raises:
        ValueError: a colour is none of the 32.
    """
    if not source.name.endswith(PAINTED):
        stored: np.ndarray = read_label(source).numpy()
        return stored
    # colours as numbers, and their classes
    names = Classes.load("camvid").names
    table = {(red << 16) + (green << 8) + blue: names.index(name)
             for name, colours in COLOURS.items() for red, green, blue in colours} | {0: VOID}  # fmt: skip
    red, green, blue = read_image(source).numpy().astype(np.int32)
    codes, where = np.unique((red << 16) + (green << 8) + blue, return_inverse=True)
    if unknown := [code for code in codes.tolist() if code not in table]:
        first = (unknown[0] >> 16, unknown[0] >> 8 & 255, unknown[0] & 255)
        raise ValueError(f"{source}: {len(unknown)} colours are none of CamVid's 32, such as {first}; fetch it again")
    values: np.ndarray = np.array([table[code] for code in codes.tolist()], np.uint8)[where.reshape(red.shape)]
    return values


CAMVID = Official(
    title="CamVid",
    downloads=("CamVid.zip of SegNet's tutorial, or 701_StillsRaw_full.zip and LabeledApproved_full.zip of Cambridge",),
    data=FULL,
    counts={"train": 367, "val": 101, "test": 233},
    gather=gather_camvid,
    read=read_camvid,
)
