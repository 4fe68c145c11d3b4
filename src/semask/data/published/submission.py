"""Submissions to the servers of benchmarks: one PNG per image, at its size, of the dataset's own numbers."""

from __future__ import annotations

from collections.abc import Iterable
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
    """The format of a server.

    table: the class table. images: their number in the test. folder: the place of files in the archive to be sent.
    ending: a part of image names that names of files leave out. palette: the file holds the classes' colours.
    """

    table: str
    images: int
    folder: str = ""
    ending: str = ""
    palette: bool = False


FORMATS: dict[str, Format] = {
    "ade20k": Format(table="ade20k", images=3352),
    "cityscapes": Format(table="cityscapes", images=1525, ending="_leftImg8bit"),
    # comp6 allows training on other data than VOC's, such as pretrained weights
    "voc": Format(table="voc", images=1456, folder="results/VOC2012/Segmentation/comp6_test_cls", palette=True),
}
"""Formats by the names of their datasets."""


class Submission:
    """Writes the files of one submission below a folder.

    Raises:
        ValueError: the model's classes are not the dataset's.
    """

    def __init__(self, name: str, classes: Classes, folder: Path) -> None:
        self.name, self.format = name, FORMATS[name]
        self.table = Classes.load(self.format.table)
        self.folder = folder / self.format.folder
        # a model of the same classes in the same order
        known, wanted = ([n.strip().casefold() for n in table.names] for table in (classes, self.table))
        if known != wanted:
            raise ValueError(
                f"the model's {len(known)} classes ({', '.join(known[:3])} …) are not the {len(wanted)} of {name} "
                f"({', '.join(wanted[:3])} …); a submission needs a model of that dataset"
            )
        self._numbers = np.array(self.table.official_ids, np.uint8)

    def check_names(self, stems: Iterable[str]) -> None:
        """Check that all images of a submission have names of their own.

        Raises:
            ValueError: Two images would have one file.
        """
        seen: set[str] = set()
        for file in map(self._file, stems):
            if file in seen:
                raise ValueError(
                    f"two images are called {file!r}; the server identifies them by their names, so rename one"
                )
            seen.add(file)

    def _file(self, stem: str) -> str:
        return PurePosixPath(stem).name.removesuffix(self.format.ending)

    def write(self, stem: str, labels: Integer[Tensor, "H W"], *, size: tuple[int, int]) -> Path:
        """Write the class numbers of an image of size (height, width); `stem` is its name without suffix.

        Raises:
            ValueError: the sizes differ, or a pixel has no class.
        """
        if tuple(labels.shape) != tuple(size):
            raise ValueError(
                f"{stem}: labels of {tuple(labels.shape)} for an image of {tuple(size)}; they must be one size"
            )
        # servers accept neither void nor ignored pixels
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.table):
            raise ValueError(
                f"{stem}: labels from {int(labels.min())} to {int(labels.max())}; every pixel needs one of the "
                f"{len(self.table)} classes, 0 … {len(self.table) - 1}"
            )
        path = self.folder / f"{self._file(stem)}.png"
        image = Image.fromarray(self._numbers[labels.cpu().to(torch.int64).numpy()])
        if self.format.palette:
            image.putpalette([part for colour in self.table.colours for part in colour])
        with atomic_write(path) as part:
            image.save(part, "PNG")
        return path

    def summary(self) -> str:
        """Return the number of files as text, and whether they are the whole test."""
        # also those of earlier runs
        count, wanted = len([*self.folder.glob("*.png")]), self.format.images
        text = f"{count} files to submit in {self.folder}"
        return text if count == wanted else f"{text}; the test of {self.name} has {wanted}; its server takes all"
