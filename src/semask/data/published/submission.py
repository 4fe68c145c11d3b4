"""Files that the servers of benchmarks take: one PNG per picture, at its size, of the dataset's own numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Integer
from PIL import Image
from torch import Tensor

from semask.data.classes import Classes
from semask.files import atomic_write


@dataclass(frozen=True, kw_only=True)
class Format:
    """What a server wants.

    table: the class table. folder: where files are in the archive to be sent. ending: of picture names, left out of
    those of files. pictures: how many the test has. palette: the classes' colours are in the file.
    """

    table: str
    pictures: int
    folder: str = ""
    ending: str = ""
    palette: bool = False


FORMATS: dict[str, Format] = {
    "ade20k": Format(table="ade20k", pictures=3352),
    "cityscapes": Format(table="cityscapes", pictures=1525, ending="_leftImg8bit"),
    # comp6: other data than VOC's may be trained on, as pretrained weights are.
    "voc": Format(table="voc", pictures=1456, folder="results/VOC2012/Segmentation/comp6_test_cls", palette=True),
}
"""Servers by the names of their datasets."""


class Submission:
    """Writes the files of one submission below a folder.

    Raises:
        ValueError: the model's classes are not the dataset's.
    """

    def __init__(self, name: str, classes: Classes, folder: Path) -> None:
        self.name, self.format = name, FORMATS[name]
        self.table = Classes.load(self.format.table)
        self.folder = folder / self.format.folder
        self.written: set[str] = set()
        known, wanted = ([n.strip().casefold() for n in table.names] for table in (classes, self.table))
        if known != wanted:
            raise ValueError(
                f"the model's {len(known)} classes ({', '.join(known[:3])} …) are not the {len(wanted)} of {name} "
                f"({', '.join(wanted[:3])} …); a submission needs a model of that dataset"
            )
        self._numbers = np.array(self.table.official_ids, np.uint8)

    def write(self, stem: str, labels: Integer[Tensor, "H W"], *, size: tuple[int, int]) -> Path:
        """Write the class numbers of a picture, whose name without suffix is `stem` and whose size (height, width).

        Raises:
            ValueError: the sizes differ, a pixel has no class, or a file of that name was written before.
        """
        file = PurePosixPath(stem).name.removesuffix(self.format.ending)
        if tuple(labels.shape) != tuple(size):
            raise ValueError(
                f"{stem}: labels of {tuple(labels.shape)} for a picture of {tuple(size)}; they must be one size"
            )
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.table):
            raise ValueError(
                f"{stem}: labels from {int(labels.min())} to {int(labels.max())}; every pixel needs one of the "
                f"{len(self.table)} classes, 0 … {len(self.table) - 1}"
            )
        if file in self.written:
            raise ValueError(f"two pictures are called {file!r}; the server tells them by their names, so rename one")
        self.written.add(file)
        path = self.folder / f"{file}.png"
        picture = Image.fromarray(self._numbers[labels.cpu().to(torch.int64).numpy()])
        if self.format.palette:
            picture.putpalette([part for colour in self.table.colours for part in colour])
        with atomic_write(path) as part:
            picture.save(part, "PNG")
        return path

    def summary(self) -> str:
        """Say how many files there are, and whether they are those of the whole test."""
        count, wanted = len(self.written), self.format.pictures
        lacking = (
            "" if count == wanted else f"; the test of {self.name} has {wanted}, and its server takes no part of it"
        )
        return f"{count} files to submit in {self.folder}{lacking}"
