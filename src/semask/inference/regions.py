"""Images that are read by region: what predictors take in place of a tensor when an image is too large for memory."""

from __future__ import annotations

import copy
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from semask.data.readers.raster import scale_samples
from semask.data.readers.regions import Raster, Region
from semask.data.readers.source import UnsupportedFile
from semask.data.readers.tiff import refuse_count
from semask.ops.bilinear import bilinear_taps
from semask.ops.resize import to_float
from semask.recipes.recipe import DataRecipe

Slices = tuple[int, slice, slice, slice]


class RegionImage:
    """A raster as a batch of one image, 1 c H W, whose parts are read when they are indexed.

    It can be flipped and resized as tensors are, lazily too; `sliding` asks it which windows hold no data. Pixels
    without data are 0 for the model.

    shape: (1, c, H, W). device: where its parts go.
    """

    def __init__(self, raster: Raster, data: DataRecipe, *, device: torch.device | str = "cpu") -> None:
        """Read `raster` as `data` says: number of channels, value range.

        Raises:
            ValueError: The raster has another number of channels.
        """
        try:
            refuse_count(raster.channels, data.channels)
        except UnsupportedFile as error:
            raise ValueError(f"{raster.name}: {error}") from None
        self.raster, self.data, self.device = raster, data, torch.device(device)
        self.shape = torch.Size((1, data.channels, raster.height, raster.width))
        self.flipped = False
        # windows are looked at twice, for data and for the model
        self._region = lru_cache(maxsize=4)(raster.read)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, place: Slices) -> UInt8[Tensor, "c h w"] | Float[Tensor, "c h w"]:
        _, _, rows, columns = place
        height, width = self.shape[-2:]
        (top, bottom, _), (left, right, _) = rows.indices(height), columns.indices(width)
        if self.flipped:
            left, right = width - right, width - left
        values = self._read(top, left, bottom, right)
        return (values.flip(-1) if self.flipped else values).to(self.device)

    def flip(self, axis: int) -> RegionImage:
        """Mirror the columns, axis −1."""
        assert axis == -1
        mirrored = copy.copy(self)
        mirrored.flipped = not self.flipped
        return mirrored

    def resized(self, size: tuple[int, int]) -> RegionImage:
        """The image at another size (height, width), bilinearly, each part from the region under it."""
        resized = copy.copy(self)
        resized.shape = torch.Size((*self.shape[:2], *size))
        return resized

    def is_empty(self, top: int, left: int, tall: int, wide: int) -> bool:
        """Whether a window holds no pixel with data."""
        bottom, right = top + tall, left + wide
        if self.flipped:
            left, right = self.shape[-1] - right, self.shape[-1] - left
        valid = self._source_region(top, left, bottom, right)[0].valid
        return valid is not None and not valid.any()

    def valid(self, first: int, last: int) -> Bool[np.ndarray, "r W"] | None:
        """Which pixels of the raster's own rows first … last - 1 have data; None: all."""
        return self.raster.read(first, 0, last, self.raster.width).valid

    def _source_region(self, top: int, left: int, bottom: int, right: int) -> tuple[Region, tuple[int, int]]:
        """The region of the raster under a part, and its upper left corner."""
        down = bilinear_taps(self.raster.height, self.shape[-2], top, bottom)
        across = bilinear_taps(self.raster.width, self.shape[-1], left, right)
        return self._region(down.top, across.top, down.bottom, across.bottom), (down.top, across.top)

    def _read(self, top: int, left: int, bottom: int, right: int) -> Tensor:
        own = (self.raster.height, self.raster.width)
        if tuple(self.shape[-2:]) == own:
            return self._scaled(self._region(top, left, bottom, right))
        region, corner = self._source_region(top, left, bottom, right)
        values = to_float(self._scaled(region))
        # both axes of the bilinear interpolation, from the cells of the region
        for axis, (cells, places, first, last) in enumerate(
            ((own[0], self.shape[-2], top, bottom), (own[1], self.shape[-1], left, right)), start=1
        ):
            taps = bilinear_taps(cells, places, first, last)
            before, after = (
                values.index_select(axis, index.long() - corner[axis - 1]) for index in taps.cells.unbind(1)
            )
            share = taps.weight[:, 1].reshape(-1, *[1] * (2 - axis))
            values = before.lerp(after, share)
        return values

    def _scaled(self, region: Region) -> Tensor:
        samples, valid = region
        if valid is not None:
            samples = np.where(valid, samples, np.array(self._black, samples.dtype))
        samples = samples.repeat(self.shape[1] // len(samples), axis=0)
        try:
            return scale_samples(samples, self.data.value_range)
        except UnsupportedFile as error:
            raise ValueError(f"{self.raster.name}: {error}") from None

    @property
    def _black(self) -> float:
        return 0 if self.data.value_range is None else self.data.value_range[0]


def whole(images: Tensor | RegionImage) -> Tensor:
    """A batch in memory: an image that is read by region is read at once."""
    return images[0, :, :, :][None] if isinstance(images, RegionImage) else images
