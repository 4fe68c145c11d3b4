"""Figures of explanations: attention, how far heads look, classes in a plane, masks of queries."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from semask.data.classes import Classes
from semask.visualization.explain import ClassProjection, QueryMasks
from semask.visualization.figures import FAINT, INK, MAIN, PRIOR, STYLE, save_figure
from semask.visualization.point_names import name_points

PANEL = 2.1
"""Width of one panel [inches]."""
COLOURS = "magma"
OPACITY = 0.92
"""Opacity of the highest attention over the image; the lowest is transparent, with the square root between."""
DIMMED = 0.55
"""Brightness of the image under attention."""


def attention_maps(
    path: str | Path,
    image: Float[Tensor, "3 H W"],
    maps: Float[Tensor, "heads h w"],
    *,
    patch_size: int,
    query: tuple[int, int] | None = None,
    title: str = "",
) -> None:
    """Draw an image and, over it, the attention of every head: patches as squares, brighter where it is higher.

    `patch_size` is the side of a patch [px]; maps of padded images reach beyond the image. Every head has its own
    scale, from its least to its largest value, which is printed above it in percent of the query's attention. The patch
    `query` (row, column) is framed.

    Raises:
        ValueError: the maps do not cover the image, or there is no such patch.
    """
    heads, rows, columns = maps.shape
    height, width = rows * patch_size, columns * patch_size
    if image.shape[-2] > height or image.shape[-1] > width:
        raise ValueError(
            f"maps of {rows}×{columns} patches of {patch_size} px cover {height}×{width}, the image is "
            f"{image.shape[-2]}×{image.shape[-1]}; give the image that the attention was computed for"
        )
    if query is not None and not (0 <= query[0] < rows and 0 <= query[1] < columns):
        raise ValueError(f"the query patch {query} lies outside the grid of {rows}×{columns} patches")
    with rc_context(STYLE):
        figure, places = _panels(heads + 1, (rows, columns), title=title)
        for axes, head in zip(places, range(-1, heads), strict=False):
            _show_image(axes, image, grey=head >= 0)
            if head >= 0:
                # attention scaled to [0, 1], as opaque as it is high
                values = maps[head].detach().cpu().float().numpy()
                scaled = (values - values.min()) / ((values.max() - values.min()) or 1)
                look = {"cmap": COLOURS, "vmin": 0, "vmax": 1, "alpha": OPACITY * np.sqrt(scaled)}
                # Black behind the padding beyond the image, so that colours mean the same there.
                axes.add_patch(Rectangle((0, 0), width, height, facecolor="black", zorder=-1))
                axes.imshow(scaled, extent=(0, width, height, 0), interpolation="nearest", **look)
                axes.set_title(f"head {head}  ≤ {100 * float(maps[head].max()):.2g} %", fontsize=8, pad=3)
            # red frame of the query with a white edge
            for colour, line in (("white", 2.2), ("#e5133a", 1.1)):
                if query is None:
                    break
                corner = (query[1] * patch_size, query[0] * patch_size)
                axes.add_patch(Rectangle(corner, patch_size, patch_size, fill=False, edgecolor=colour, linewidth=line))
            axes.set_xlim(0, width)
            axes.set_ylim(height, 0)
        save_figure(figure, path)


def query_figure(
    path: str | Path,
    image: Float[Tensor, "3 H W"],
    found: QueryMasks,
    classes: Classes,
    *,
    index: int = 0,
    count: int = 11,
    title: str = "",
) -> None:
    """Draw an image and the masks of the queries that paint most of it, in the colours of their classes.

    `index` is the image's among those of `found`; at most `count` queries are drawn, and none that paints nothing.
    The title of each is its likeliest class with its probability, its number and the share of pixels that it paints.

    Raises:
        ValueError: `found` holds no such image, or it and the image or the classes do not belong together.
    """
    size = height, width = image.shape[-2], image.shape[-1]
    masks, highest = tuple(found.masks.shape[-2:]), int(found.classes.max())
    if not 0 <= index < len(found.classes):
        raise ValueError(f"there is no image {index}; the queries belong to {len(found.classes)}, from 0")
    if size != masks:
        raise ValueError(
            f"masks of {masks[0]}×{masks[1]} do not fit an image of {height}×{width}; give the image of the queries"
        )
    if highest >= len(classes):
        raise ValueError(f"a query is of class {highest} and there are {len(classes)} classes, from 0: use its model's")
    # queries by the share of pixels that they paint
    shares = found.shares[index]
    strongest = [query for query in shares.argsort(descending=True).tolist()[:count] if shares[query] > 0]
    with rc_context(STYLE):
        figure, places = _panels(len(strongest) + 1, size, title=title, heading=0.36)
        _show_image(places[0], image, grey=False)
        for axes, query in zip(places[1:], strongest, strict=False):
            kind = int(found.classes[index, query])
            _show_image(axes, image, grey=True)
            # the class's colour, as opaque as the mask is likely
            layer = np.empty((*size, 4), dtype=np.float32)
            layer[..., :3] = np.asarray(classes.colours[kind]) / 255
            layer[..., 3] = OPACITY * found.masks[index, query].detach().cpu().float().numpy()
            axes.imshow(layer, extent=(0, width, height, 0), interpolation="antialiased")
            likely = 100 * float(found.probabilities[index, query])
            caption = f"{classes.names[kind]} {likely:.0f} %\nquery {query} paints {100 * float(shares[query]):.2g} %"
            axes.set_title(caption, fontsize=8, pad=3)
        save_figure(figure, path)


def distance_plot(path: str | Path, distances: Float[Tensor, "layers heads"]) -> None:
    """Draw the mean attention distance [px] of every head, one dot each, over the layers, with the heads' mean.

    Source: Segmenter (arXiv:2105.05633) Fig. 7.
    """
    # one dot per head, and the mean of each layer
    values = distances.cpu().double().numpy()
    layers, heads = values.shape
    with rc_context(STYLE):
        figure = Figure(figsize=(max(3.6, 1.2 + 0.34 * layers), 3.4), dpi=200, layout="constrained")
        axes = figure.subplots()
        axes.plot(range(layers), values.mean(axis=1), color=PRIOR, linewidth=1.2, label="mean of the heads", zorder=1)
        axes.scatter(
            np.repeat(np.arange(layers), heads), values.ravel(), s=16, color=MAIN, alpha=0.7, linewidths=0, label="head"
        )
        axes.set_xlabel("layer")
        axes.set_ylabel("mean attention distance [px]")
        axes.set_xticks(range(0, layers, 1 if layers <= 16 else 2))
        axes.set_ylim(bottom=0)
        axes.margins(x=0.03)
        axes.grid(axis="x", visible=False)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, handlelength=1.2, borderaxespad=0.2)
        save_figure(figure, path)


def class_scatter(path: str | Path, projection: ClassProjection, classes: Classes) -> None:
    """Draw class embeddings in the plane, each with its name beside it, without overlaps of names.

    Both axes have one scale, so that distances are those of the embeddings, as far as two axes hold them.

    Source: Segmenter (arXiv:2105.05633) Fig. 8.

    Raises:
        ValueError: the numbers of embeddings and classes differ.
    """
    # dots in the classes' colours
    points = projection.coordinates.cpu().double().numpy()
    if len(points) != len(classes):
        raise ValueError(f"{len(points)} class embeddings and {len(classes)} classes: these belong to different models")
    side = min(11.0, 4.0 + 0.06 * len(points))
    with rc_context(STYLE):
        figure = Figure(figsize=(side, side), dpi=160, layout="constrained")
        axes = figure.subplots()
        axes.axhline(0, color=FAINT, linewidth=0.5)
        axes.axvline(0, color=FAINT, linewidth=0.5)
        colours = np.asarray(classes.colours) / 255
        axes.scatter(points[:, 0], points[:, 1], s=26, c=colours, edgecolors=INK, linewidths=0.5, zorder=3)
        axes.set_aspect("equal", adjustable="datalim")
        axes.margins(0.12)
        first, second = (f"{100 * share:.1f} %" for share in projection.explained.tolist())
        axes.set_xlabel(f"first axis, {first} of the sum of squares")
        axes.set_ylabel(f"second axis, {second}")
        name_points(axes, points, classes.names, size=7.5 if len(points) <= 60 else 6)
        save_figure(figure, path)


def _panels(count: int, shape: tuple[int, int], *, title: str, heading: float = 0.2) -> tuple[Figure, list[Axes]]:
    """Return a figure with at least `count` panels for images (height, width), `heading` inches above each."""
    height, width = shape
    columns = min(count, max(4, math.ceil(math.sqrt(1.6 * count))))
    lines = -(-count // columns)
    above = 0.3 if title else 0.05
    tall = (PANEL * height / width + heading) * lines + above
    figure = Figure(figsize=(PANEL * columns, tall), dpi=200)
    figure.suptitle(title, x=0.01, y=1 - 0.06 / tall, ha="left", va="top", fontsize=10)
    places = figure.subplots(
        lines,
        columns,
        squeeze=False,
        gridspec_kw={
            "left": 0.008,
            "right": 0.992,
            "bottom": 0.03 / tall,
            "top": 1 - (above + heading) / tall,
            "wspace": 0.04,
            "hspace": heading * lines / (tall - above - heading * lines),
        },
    ).ravel()
    for axes in places:
        axes.set_axis_off()
    return figure, list(places)


def _show_image(axes: Axes, image: Tensor, *, grey: bool) -> None:
    pixels = image.detach().cpu().float().clamp(0, 1).permute(1, 2, 0).numpy()
    shown = DIMMED * pixels.mean(axis=2, keepdims=True).repeat(3, axis=2) if grey else pixels
    axes.imshow(shown, extent=(0, image.shape[-1], image.shape[-2], 0), interpolation="antialiased")
