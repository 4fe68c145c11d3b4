"""CamVid, 11 classes: as the tutorial of SegNet has it, or as Cambridge published it, by 32 colours.

Source: Brostow, Fauqueur, Cipolla, Semantic Object Classes in Video, PRL 2009; the splits, and the classes that the 32
belong to, are those used with SegNet (Badrinarayanan et al., PAMI 2017).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Integer, UInt8

from semask.data.classes import Classes
from semask.data.published.official import Files, Found, Official, by_folder, chosen, stems
from semask.data.readers.image import read_image, read_label
from semask.data.readers.source import Source
from semask.recipes.camvid import FULL

VOID = 11
PAINTED = "_L.png"
"""How Cambridge's label files end."""
COLOURS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "Sky": ((128, 128, 128),),
    # Building, wall, bridge, tunnel, archway.
    "Building": ((128, 0, 0), (64, 192, 0), (0, 128, 64), (64, 0, 64), (192, 0, 128)),
    # Column or pole, traffic cone.
    "Pole": ((192, 192, 128), (0, 0, 64)),
    # Road, lane markings to drive on and not to.
    "Road": ((128, 64, 128), (128, 0, 192), (192, 0, 64)),
    # Sidewalk, parking block, road shoulder.
    "Pavement": ((0, 0, 192), (64, 192, 128), (128, 128, 192)),
    # Tree, other vegetation.
    "Tree": ((128, 128, 0), (192, 192, 0)),
    # Sign, other text, traffic light.
    "SignSymbol": ((192, 128, 128), (128, 128, 64), (0, 64, 64)),
    "Fence": ((64, 64, 128),),
    # Car, SUV or pickup, truck or bus, train, other moving things.
    "Car": ((64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)),
    # Pedestrian, child, cart or pram, animal.
    "Pedestrian": ((64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)),
    # Bicyclist, motorcycle or scooter.
    "Bicyclist": ((0, 128, 192), (192, 0, 192)),
}
"""Cambridge's colours by our classes; void is black."""


def split_of(stem: str) -> str:
    """Return the split of a frame, such as 0016E5_07959: whole drives and stretches of them."""
    drive, _, frame = stem.partition("_")
    if drive == "0016E5" and "07959" <= frame <= "08159":
        return "val"
    test = drive == "Seq05VD" or (drive == "0001TP" and frame > "008520")
    return "test" if test else "train"


def gather_camvid(files: Files) -> dict[str, Found]:
    """Find either layout, whichever is there."""
    found = by_folder(
        r"(?P<split>train|val|test)/(?P<stem>[^/]+)\.png", r"(?P<split>train|val|test)annot/(?P<stem>[^/]+)\.png"
    )(files)
    if found:
        return found
    images, labels = stems(files, r"(?P<stem>[^/]+(?<!_L))\.png"), stems(files, rf"(?P<stem>[^/]+){PAINTED}")
    names: dict[str, list[str]] = {}
    for stem in sorted(images.keys() | labels.keys()):
        names.setdefault(split_of(stem), []).append(stem)
    return {split: chosen(listed, images, labels) for split, listed in names.items()}


def read_camvid(source: Source) -> Integer[np.ndarray, "H W"]:
    """Return the values of a label file of either layout, 0 … 10 and 11 for void."""
    if source.name.endswith(PAINTED):
        return read_colours(source)
    values: np.ndarray = read_label(source).numpy()
    return values


def read_colours(source: Source) -> UInt8[np.ndarray, "H W"]:
    """Return the values that the colours of a picture stand for; a ValueError tells a colour that is none of the 32."""
    red, green, blue = read_image(source).numpy().astype(np.int32)
    codes, where = np.unique((red << 16) + (green << 8) + blue, return_inverse=True)
    table = _codes()
    if unknown := [code for code in codes.tolist() if code not in table]:
        told = (unknown[0] >> 16, unknown[0] >> 8 & 255, unknown[0] & 255)
        raise ValueError(f"{source}: {len(unknown)} colours are none of CamVid's 32, such as {told}; fetch it again")
    values: np.ndarray = np.array([table[code] for code in codes.tolist()], np.uint8)[where.reshape(red.shape)]
    return values


@cache
def _codes() -> dict[int, int]:
    names = Classes.load("camvid").names
    codes = {
        (red << 16) + (green << 8) + blue: names.index(name)
        for name, colours in COLOURS.items()
        for red, green, blue in colours
    }
    return {**codes, 0: VOID}


CAMVID = Official(
    title="CamVid",
    downloads=("CamVid.zip of SegNet's tutorial, or 701_StillsRaw_full.zip and LabeledApproved_full.zip of Cambridge",),
    data=FULL,
    counts={"train": 367, "val": 101, "test": 233},
    gather=gather_camvid,
    read=read_camvid,
)
