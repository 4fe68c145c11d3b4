"""Figures: images with their predictions, the course of a training, classes side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Integer
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from semask.data.classes import Classes
from semask.evaluation.metrics import Scores
from semask.files import atomic_write
from semask.inference.colours import IGNORE_COLOUR, colourise

INK, FAINT, GRID = "#22272e", "#8b949e", "#e6e9ed"
MAIN, PRIOR = "#2f6fde", "#e0752d"
STAGES = ("#a9c4f5", "#6f9cea", "#3a73d9", "#173c86")
"""Colours of the stages, fine to coarse: pale to deep."""

STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "grid.color": GRID,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), FAINT),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
}

LOSSES, MIOU, GAIN, RATE = ("train/main", "train/prior"), "val/mIoU", "lambda/", "train/lr"
History = Mapping[str, Sequence[tuple[int, float]]]
"""(step, value) pairs by quantity, as a run's logs name them."""

CELL = 1.6
"""Width of one image in a grid [inches]."""


class Row(NamedTuple):
    """One line of images: image 3×H×W in [0, 1], the others class ids; no prior without semantic layers."""

    image: Float[Tensor, "3 H W"]
    truth: Integer[Tensor, "H W"]
    prediction: Integer[Tensor, "H W"]
    prior: Integer[Tensor, "H W"] | None = None


def figure_grid(path: str | Path, rows: Sequence[Row], classes: Classes) -> None:
    """Draw image | truth | prediction | semantic prior, two rows side by side, above a legend of their classes.

    Images may differ in size; the first one's aspect ratio sets the grid's.
    """
    if not rows:
        raise ValueError("a figure needs at least one row")
    titles = ["image", "truth", "prediction", "semantic prior"][: 3 if rows[0].prior is None else 4]
    legend = class_legend([labels for row in rows for labels in row[1:] if labels is not None], classes)
    # size of the figure [inches]
    blocks = min(2, len(rows))
    lines = -(-len(rows) // blocks)
    height, width = rows[0].image.shape[-2:]
    inches_wide = CELL * (len(titles) * blocks + 0.15 * (blocks - 1))
    legend_columns = max(1, int(inches_wide / 1.55))
    below = 0.2 + 0.22 * -(-len(legend) // legend_columns)
    inches_tall = CELL * height / width * lines + 0.3 + below
    with rc_context(STYLE):
        figure = Figure(figsize=(inches_wide, inches_tall), dpi=200)
        # a gap between the blocks
        ratios = ([1.0] * len(titles) + [0.15]) * blocks
        cells = figure.add_gridspec(
            lines,
            len(ratios) - 1,
            width_ratios=ratios[:-1],
            wspace=0.04,
            hspace=0.04,
            left=0.005,
            right=0.995,
            top=1 - 0.3 / inches_tall,
            bottom=below / inches_tall,
        )
        for index, row in enumerate(rows):
            line, block = divmod(index, blocks)
            for column, title in enumerate(titles):
                axes = figure.add_subplot(cells[line, block * (len(titles) + 1) + column])
                axes.set_axis_off()
                if (values := row[column]) is not None:
                    shown = values.clamp(0, 1) if column == 0 else colourise(values, classes)
                    interpolation = "nearest" if column else "antialiased"
                    axes.imshow(shown.permute(1, 2, 0).cpu().numpy(), interpolation=interpolation)
                if line == 0:
                    axes.set_title(title, loc="center", pad=5)
        figure.legend(
            handles=legend,
            loc="lower center",
            ncols=min(legend_columns, len(legend)),
            handlelength=1.0,
            handleheight=1.0,
            columnspacing=1.4,
            borderaxespad=0.3,
        )
        save_figure(figure, path)


def class_legend(maps: Sequence[Integer[Tensor, "H W"]], classes: Classes) -> list[Patch]:
    """Return a patch for every class in some label maps, in the classes' order, and one for unlabelled pixels."""
    ids = sorted({int(value) for labels in maps for value in np.unique(labels.cpu().numpy())})
    known = [index for index in ids if 0 <= index < len(classes)]
    entries = [(classes.names[index], classes.colours[index]) for index in known]
    entries += [("unlabelled", IGNORE_COLOUR)] if len(known) < len(ids) else []
    return [
        Patch(facecolor=[channel / 255 for channel in colour], edgecolor=FAINT, linewidth=0.4, label=name)
        for name, colour in entries
    ]


def training_curves(path: str | Path, history: History) -> None:
    """Draw losses, validation mIoU, λ of every stage and the learning rate over the steps of a run, as far as logged.

    Raises:
        ValueError: nothing of these was logged.
    """
    gains = sorted(key for key in history if key.startswith(GAIN))
    keys = {"loss": LOSSES, "validation mIoU [%]": (MIOU,), "λ of the semantic layers": gains, "learning rate": (RATE,)}
    panels = {title: logged for title in keys if (logged := [key for key in keys[title] if history.get(key)])}
    if not panels:
        raise ValueError(f"the history holds no loss, score, λ or learning rate to draw, only {sorted(history)}")
    # two panels in a line
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(4.6 * columns, 2.7 * lines), dpi=160, layout="constrained")
        places = np.ravel(figure.subplots(lines, columns, squeeze=False))
        for axes, (title, logged) in zip(places, panels.items(), strict=False):
            # curves of the panel
            for index, key in enumerate(logged):
                steps, values = zip(*history[key], strict=True)
                if key in LOSSES:
                    # noisy values, pale, under their running mean
                    colour = MAIN if key == LOSSES[0] else PRIOR
                    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
                    axes.plot(steps, _smooth(values), color=colour, linewidth=1.6, label=key.removeprefix("train/"))
                elif key == MIOU:
                    percent = [100 * value for value in values]
                    axes.plot(steps, percent, color=MAIN, linewidth=1.6, marker="o", markersize=4)
                    end, offset = (steps[-1], percent[-1]), {"xytext": (0, -14), "textcoords": "offset points"}
                    axes.annotate(f"{percent[-1]:.1f}", end, **offset, ha="center")
                elif key == RATE:
                    axes.plot(steps, values, color=INK, linewidth=1.4)
                    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
                else:
                    label = key.removeprefix(GAIN).replace("stage", "stage ").replace("/unit", ", unit ")
                    axes.plot(steps, values, color=STAGES[index % len(STAGES)], linewidth=1.6, label=label)
            axes.set_title(title)
            axes.set_xlabel("step")
            # λ may be negative, the others begin at 0
            if logged[0] not in gains:
                axes.set_ylim(0, 100 if logged == [MIOU] else None)
            if logged == [MIOU]:
                axes.set_xlim(left=0)
            elif logged != [RATE]:
                axes.legend(ncols=2 if logged[0] in gains else 1)
            axes.margins(x=0.02)
        for axes in places[len(panels) :]:
            axes.remove()
        save_figure(figure, path)


def class_bars(path: str | Path, scores: Scores, names: Sequence[str]) -> None:
    """Draw the IoU of every class as bars, best first, with the mean as a line; undefined classes are left out.

    Raises:
        ValueError: no class has a defined IoU.
    """
    rows = [(iou, name) for name, iou in zip(names, scores.iou.tolist(), strict=True) if not math.isnan(iou)]
    rows.sort(reverse=True)
    if not rows:
        raise ValueError("no class has a defined IoU; were there any labelled pixels?")
    with rc_context(STYLE):
        figure = Figure(figsize=(6.0, 0.7 + 0.24 * len(rows)), dpi=160, layout="constrained")
        axes = figure.subplots()
        places = range(len(rows))
        axes.barh(places, [100 * iou for iou, _ in rows], color=MAIN, height=0.68)
        for place, (iou, _) in zip(places, rows, strict=True):
            axes.text(100 * iou + 1, place, f"{100 * iou:.1f}", va="center", fontsize=8)
        # the mean as a line
        axes.axvline(100 * scores.miou, color=PRIOR, linewidth=1.2)
        axes.set_title(f"IoU per class [%], mean {100 * scores.miou:.1f}")
        axes.set_yticks(places, [name for _, name in rows], parse_math=False)  # names may hold $
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 105)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        save_figure(figure, path)


def _smooth(values: Sequence[float]) -> list[float]:
    """Return running means over a twentieth of the run, centred, so that curves do not lag."""
    reach = len(values) // 40
    return [float(np.mean(values[max(0, at - reach) : at + reach + 1])) for at in range(len(values))]


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure, whole or not at all; the suffix decides the format."""
    path = Path(path)
    with atomic_write(path) as part:
        figure.savefig(part, format=path.suffix.removeprefix(".") or "png")
