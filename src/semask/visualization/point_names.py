"""Names of the points of a plot, each beside its dot, without overlaps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from semask.visualization.figures import FAINT

GAPS = (0.8, 1.5, 3.0, 5.0, 8.0, 12.0, 17.0, 23.0)
"""Distances of a name from its dot, tried in this order [multiples of 4 points]."""
DIRECTIONS = 16


def name_points(axes: Axes, points: Float[np.ndarray, "k 2"], names: Sequence[str], *, size: float = 7.5) -> None:
    """Write each name as near to its dot as the legend, other names and dots allow; far ones get a line to their dot.

    Names of crowded dots come first, since they have the fewest positions.
    """
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()  # computes the layout, which the positions depend on
    axes.autoscale(False)
    renderer, point = canvas.get_renderer(), axes.figure.dpi / 72
    frame = np.asarray(axes.get_window_extent(renderer).extents)
    to_data = axes.transData.inverted().transform
    dots = axes.transData.transform(points)
    # crowded dots first, by the distances of their nearest
    apart = np.linalg.norm(dots[:, None] - dots[None], axis=-1)
    crowd = np.sort(apart, axis=1)[:, :6].sum(axis=1)
    taken = np.concatenate((dots - 3 * point, dots + 3 * point), axis=1)
    if (legend := axes.get_legend()) is not None:
        taken = np.concatenate((taken, [legend.get_window_extent(renderer).extents]))
    for index in np.argsort(crowd):
        x, y = points[index]
        note = axes.text(x, y, names[index], fontsize=size, ha="center", va="center", zorder=4)
        extent = note.get_window_extent(renderer)
        box, gap = free_place(dots[index], (extent.width, extent.height), taken, frame, 4 * point)
        note.set_position(tuple(to_data((box[:2] + box[2:]) / 2)))
        if gap > GAPS[0]:
            line = to_data([dots[index], np.clip(dots[index], box[:2], box[2:])])
            axes.plot(line[:, 0], line[:, 1], color=FAINT, linewidth=0.5, zorder=2)
        taken = np.concatenate((taken, [box]))


def free_place(
    dot: Float[np.ndarray, " 2"],
    size: tuple[float, float],
    taken: Float[np.ndarray, "m 4"],
    frame: Float[np.ndarray, " 4"],
    unit: float,
) -> tuple[Float[np.ndarray, " 4"], float]:
    """Return the nearest free box (left, bottom, right, top) [px] beside a dot, or that of least overlap, and its gap.

    At one gap, directions away from the middle of the frame come first.
    """
    # candidate boxes: all directions, outward first, at every gap
    angles = np.arange(DIRECTIONS) * (2 * np.pi / DIRECTIONS)
    outward = np.arctan2(*(dot - (frame[:2] + frame[2:]) / 2)[::-1])
    angles = angles[np.argsort(-np.cos(angles - outward), kind="stable")]
    directions = np.stack((np.cos(angles), np.sin(angles)), axis=1)
    half = np.asarray(size) / 2
    gaps = np.repeat(GAPS, DIRECTIONS)
    centres = dot + np.tile(directions, (len(GAPS), 1)) * (half + gaps[:, None] * unit)
    boxes = np.concatenate((centres - half, centres + half), axis=1)
    # fewest overlaps, inside the frame
    outside = (boxes[:, :2] < frame[:2]).any(axis=1) | (boxes[:, 2:] > frame[2:]).any(axis=1)
    overlaps = overlap(boxes, taken).sum(axis=1)
    best = int(np.argmin(overlaps + len(taken) * outside))
    return boxes[best], float(gaps[best])


def overlap(boxes: Float[np.ndarray, "n 4"], others: Float[np.ndarray, "m 4"]) -> Bool[np.ndarray, "n m"]:
    """Return which boxes (left, bottom, right, top) share area with which others."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared: Bool[np.ndarray, "n m"] = (high > low).all(axis=-1)
    return shared
