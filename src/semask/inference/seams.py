"""Seams: where overlapping windows disagree, and how far from their borders windows know what they see."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int16
from torch import Tensor

CELL = 32
"""Side [px] of a cell in the map of a meter."""
STEP = 8
"""Width [px] of a bin of the distance to the nearest border."""
CALM = 1.25
"""How many times the disagreement in the middle of windows is no border's."""


class SeamMeter:
    """Disagreement of overlapping windows about the best class, counted while they are blended.

    Pixels count where at least two windows cover them and the best classes follow without resizing scores, which is so
    inside regions and not along their outlines. Rows count once. A meter serves one image.

    Without an overlap there are only the `jump`s of the best class from window to window.

    taken: an image is being measured.
    """

    def __init__(self, *, has_map: bool = True) -> None:
        """`has_map`: the cells of `map` are counted, whose number grows with the image."""
        self.taken, self._has_map = False, has_map
        self._below = 0
        self._cells: dict[int, np.ndarray] = {}
        self._distances = np.zeros((2, 0), np.int64)
        self._pairs = np.zeros((2, 2), np.int64)
        self._row = np.zeros(0, np.int16)

    def add(
        self,
        first: int,
        best: Int16[Tensor, "r W"],
        borders: tuple[Sequence[int], Sequence[int]],
        shared: Bool[Tensor, "r W"],
        differing: Bool[Tensor, "r W"],
        distance: Int[Tensor, "r W"],
    ) -> None:
        """Count the pixels of rows from `first` on.

        Args:
            first: The first row.
            best: The best class by one of the windows over each pixel, negative where it is unknown.
            borders: Rows and columns at which windows begin.
            shared: Whether several windows cover a pixel.
            differing: Whether these disagree.
            distance: How far the nearest border is [px].
        """
        skipped, self._below = max(0, self._below - first), max(self._below, first + len(shared))
        # neighbours down, also of the row above, and across
        classes = best.numpy()[skipped:]
        above = np.concatenate([self._row[None], classes]) if len(self._row) else classes
        top = first + skipped - (len(above) - len(classes))
        self._count_pairs(above[:-1], above[1:], np.isin(np.arange(top + 1, top + len(above)), borders[0])[:, None])
        self._count_pairs(classes[:, :-1], classes[:, 1:], np.isin(np.arange(1, classes.shape[1]), borders[1]))
        self._row = classes[-1] if len(classes) else self._row
        pixels = np.stack([shared.numpy(), differing.numpy()])[:, skipped:]
        starts = np.arange(0, pixels.shape[2], CELL)
        for row, line in enumerate(pixels.swapaxes(0, 1) if self._has_map else (), start=first + skipped):
            counts = np.add.reduceat(line, starts, axis=1, dtype=np.int64)
            self._cells[row // CELL] = self._cells.get(row // CELL, 0) + counts
        # the same counts by distance
        bins = (distance[skipped:] // STEP).numpy()
        found = [np.bincount(bins[mask], minlength=self._distances.shape[1]) for mask in pixels]
        length = max(map(len, found), default=0)
        grown = np.zeros((2, length), np.int64)
        grown[:, : self._distances.shape[1]] = self._distances
        for counts, mine in zip(grown, found, strict=True):
            counts[: len(mine)] += mine
        self._distances = grown

    def _count_pairs(self, one: np.ndarray, other: np.ndarray, border: np.ndarray) -> None:
        known, differ = (one >= 0) & (other >= 0), one != other
        for index, here in enumerate((border, ~border)):
            self._pairs[index] += int((known & here).sum()), int((known & differ & here).sum())

    def state(self) -> dict[str, Any]:
        """The counts as plain values, for a run that goes on later."""
        arrays = {name: getattr(self, f"_{name}").tolist() for name in ("distances", "pairs", "row")}
        # cells of a large raster are many, and mostly 0
        rows = sorted(self._cells)
        counts = np.array([self._cells[row] for row in rows], np.int32)
        packed = base64.b64encode(zlib.compress(counts.tobytes(), 1)).decode("ascii")
        return {"below": self._below, "rows": rows, "cells": packed, **arrays}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Go on from the counts of an earlier run; None has none."""
        if state is not None:
            self._below = state["below"]
            counts = np.frombuffer(zlib.decompress(base64.b64decode(state["cells"])), np.int32).astype(np.int64)
            rows = state["rows"]
            self._cells = dict(zip(rows, counts.reshape(len(rows), 2, -1), strict=True)) if rows else {}
            self._distances = np.array(state["distances"], np.int64).reshape(2, -1)
            self._pairs, self._row = np.array(state["pairs"], np.int64), np.array(state["row"], np.int16)

    @property
    def share(self) -> float | None:
        """Share of the pixels in several windows on which these differ; None without any."""
        shared, differing = self._distances.sum(axis=1)
        return float(differing / shared) if shared else None

    @property
    def jump(self) -> float | None:
        """How much oftener the best class changes where a window begins than elsewhere, as a share of neighbours."""
        (border, changes), (inner, others) = self._pairs
        return float(changes / border - others / inner) if border and inner else None

    def map(self) -> np.ndarray:
        """Share of differing pixels in every cell of `CELL` px, float32, NaN where no windows overlap."""
        rows = [self._cells[row] for row in sorted(self._cells)]
        shared, differing = np.stack(rows, axis=1) if rows else np.zeros((2, 0, 0))
        found = np.full(shared.shape, np.nan, np.float32)
        return np.divide(differing, shared, out=found, where=shared > 0)

    def overlap(self) -> int | None:
        """Least overlap [px] at which every pixel lies where some window is not disturbed by its border.

        Windows know what lies farther from their border than the last bin whose disagreement exceeds that of the
        farthest quarter of the bins by `CALM`. None: too few pixels, or the border disturbs as far as was measured.
        """
        shared, differing = self._distances
        measured = len(shared) - len(shared) // 4
        if measured < 2 or not shared[measured:].sum():
            return None
        inner = differing[measured:].sum() / shared[measured:].sum()
        rates = differing / np.maximum(shared, 1)
        disturbed = np.flatnonzero(rates > CALM * inner + 1e-3)
        if len(disturbed) and disturbed[-1] >= measured:
            return None
        return 2 * STEP * (int(disturbed[-1]) + 1 if len(disturbed) else 0)
