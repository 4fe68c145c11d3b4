"""Labels stored as one mask per class, as Label Studio exports them: `{class}` in the paths of labels is its name.

A pixel belongs to the last class of the table whose mask covers it. Pixels of no mask belong to the class "background"
where it has no mask itself, and are ignored otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from jaxtyping import Bool
from PIL import Image

from semask.data.label_values import COLOUR, name_of
from semask.data.readers.image import is_lossy, open_image, read_label
from semask.data.readers.source import MAX_PIXELS, Source, Unreadable
from semask.recipes.recipe import DataRecipe
from semask.structures import IGNORE

CLASS, STEM = "{class}", "{stem}"
BACKGROUND = "background"
USUAL = ("{stem}_{class}", "{stem}-{class}", "{stem}/{class}", "{class}/{stem}")
"""Templates that are looked for where images have no label."""
MAX_NAMES = 255
NEAR, SHOWN = 32, 5
KEPT = 16
"""Composed labels that are kept, as a reader opens a source several times."""


@dataclass(frozen=True, slots=True)
class ClassMasks:
    """The masks of an image by class, None where there is none; as a source, the PNG of their class numbers."""

    names: tuple[str, ...]
    masks: tuple[Source | None, ...]

    @property
    def present(self) -> list[Source]:
        """The masks that exist."""
        return [mask for mask in self.masks if mask is not None]

    @property
    def name(self) -> str:
        """The file name of the first mask."""
        return self.present[0].name

    def __str__(self) -> str:
        more = len(self.present) - 1
        return f"{self.present[0]}{f' and {more} more' if more else ''}"

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Return the bytes of a PNG of class numbers.

        Raises:
            Unreadable: a mask cannot be read, its values do not show what it covers, or the masks differ in size.
        """
        try:
            return BytesIO(_compose(self, tuple(m.stat().st_mtime_ns for m in self.present if isinstance(m, Path))))
        except (OSError, ValueError) as error:
            raise Unreadable(str(error)) from error


@lru_cache(maxsize=KEPT)
def _compose(label: ClassMasks, times: tuple[int, ...]) -> bytes:
    """Return the PNG of class numbers; the times of change are part of the key, so that edited masks are read again."""
    ids: np.ndarray | None = None
    for index, mask in enumerate(label.masks):
        if mask is None:
            continue
        covered = _read_mask(mask)
        if ids is None:
            free = [i for i, name in enumerate(label.names) if name.casefold() == BACKGROUND and label.masks[i] is None]
            ids = np.full(covered.shape, free[0] if free else IGNORE, np.uint8)
        if covered.shape != ids.shape:
            (h, w), (height, width) = covered.shape, ids.shape
            raise ValueError(f"{mask}: a mask of {h}×{w} pixels beside one of {height}×{width}; make them one size")
        ids[covered] = index
    content = BytesIO()
    Image.fromarray(np.zeros((0, 0), np.uint8) if ids is None else ids).save(content, "PNG", compress_level=1)
    return content.getvalue()


def _read_mask(mask: Source) -> Bool[np.ndarray, "H W"]:
    """Return the pixels that a mask covers: those of its one value beside 0, or of 128 … 255 if edges lie between.

    Raises:
        ValueError: the file cannot be read, or its values do not show what it covers.
    """
    values: np.ndarray = read_label(mask, lossy=True).numpy()
    if values.max() >= COLOUR:
        _refuse_alpha(mask, values)
        # of colours, the brightest channel
        values = np.max([values & 0xFF, values >> 8 & 0xFF, values >> 16 & 0xFF], axis=0)
    found = np.unique(values)
    if is_lossy(mask):
        # JPEG stores an empty mask as any level near 0
        if len(found) == 1 and found[0] < NEAR:
            return np.zeros(values.shape, bool)
    elif np.count_nonzero(found) <= 1:
        return values.astype(bool)
    if not 127 < found[-1] <= 255:
        shown = ", ".join(
            [*map(str, found[:SHOWN]), *(["…"] if len(found) > SHOWN + 1 else []), *map(str, found[SHOWN:][-1:])]
        )
        raise ValueError(
            f"{mask}: a mask of the values {shown}; masks have 0 and one other value, or 0 … 255 with soft edges, of "
            "which 128 … 255 are covered; save it as 0 and 255"
        )
    covered: np.ndarray = values > 127
    return covered


def _refuse_alpha(mask: Source, values: np.ndarray) -> None:
    """Refuse a mask of one colour whose transparency varies, since its shape is in what labels leave out."""
    if values.min() < values.max():
        return
    with open_image(mask, MAX_PIXELS) as image:
        alpha = np.array(image.getchannel("A") if "A" in image.getbands() else 255)
    low, high = alpha.min(), alpha.max()
    if low < high:
        raise ValueError(
            f"{mask}: a mask of the one colour {name_of(int(values.max()))} with transparency of {low} … {high}; "
            "transparency is left out; save the mask in grey, as 0 and 255"
        )


def has_mask_per_class(data: DataRecipe) -> bool:
    """Whether labels are one mask per class."""
    return CLASS in data.labels + data.label_suffix


def mask_pattern(data: DataRecipe, split: str) -> tuple[str, str]:
    """Return the pattern of the folder of masks, and the template of paths below it."""
    folder, name, rest = data.labels.partition(CLASS)
    if not name:
        return data.labels, STEM + data.label_suffix
    folder, _, start = folder.rpartition("/")
    return folder, f"{start}{CLASS}{rest.replace('{split}', split)}/{STEM}{data.label_suffix}"


def names_of_masks(paths: Iterable[str], stems: Iterable[str], template: str) -> set[str]:
    """Return the names of classes in the paths of masks of those images."""
    known, found = set(stems), set()
    before, between, after = (re.escape(part) for part in re.split(r"\{class\}|\{stem\}", template))
    stem_first = template.index(STEM) < template.index(CLASS)
    for path in paths:
        if not stem_first:
            match = re.fullmatch(f"{before}([^/]+){between}(.+){after}", path, re.IGNORECASE)
            found |= {match[1]} if match and match[2] in known else set()
        elif (match := re.fullmatch(f"{before}(.+){after}", path, re.IGNORECASE)) is not None:
            # the longest stem: a_b_road.png belongs to the image a_b if there is one
            for gap in reversed([*re.finditer(between, match[1])]):
                if match[1][: gap.start()] in known:
                    found.add(match[1][gap.end() :])
                    break
    return found - {""}


def find_masks(
    files: Mapping[str, Source], stems: Iterable[str], template: str, names: Sequence[str]
) -> dict[str, ClassMasks]:
    """Return the masks of the images that have any, by their stems."""
    by_path = {path.casefold(): file for path, file in files.items()}
    found = {}
    for stem in stems:
        of_image = template.replace(STEM, stem)
        masks = tuple(by_path.get(of_image.replace(CLASS, name).casefold()) for name in names)
        if any(mask is not None for mask in masks):
            found[stem] = ClassMasks(tuple(names), masks)
    return found


def usual_masks(paths: Sequence[str], stems: Collection[str]) -> tuple[str, str] | None:
    """Return the template by which images have one mask per class, and the path of such a mask."""
    files, best, most = {path: Path(path) for path in paths}, None, (len(stems) / 2, -MAX_NAMES)
    for template in (usual + ending for usual in USUAL for ending in (".png", ".jpg")):
        names = sorted(names_of_masks(paths, stems, template))
        # of several classes, one is in half of the images: endings that differ by image name no class
        common = max((len(find_masks(files, stems, template, [name])) for name in names), default=0)
        if len(names) > 1 and (common, -len(names)) > most:
            example = next(iter(find_masks(files, stems, template, names).values())).present[0]
            best, most = (template, str(example)), (common, -len(names))
    return best
