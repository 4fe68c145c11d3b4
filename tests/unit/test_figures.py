from __future__ import annotations

from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
import torch
from PIL import Image

from semask.data.classes import Classes
from semask.evaluation.metrics import Confusion
from semask.visualization import figures
from semask.visualization.figures import Row, class_bars, figure_grid, training_curves
from tests.facts import facts, missing

CLASSES = Classes(("sky", "road", "car"), ((10, 20, 250), (200, 100, 0), (0, 200, 0)), {0: 0, 1: 1, 2: 2})


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[matplotlib.figure.Figure]:
    """The figures that are saved, to look into."""
    kept: list[matplotlib.figure.Figure] = []
    save = figures.save_figure
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: (kept.append(figure), save(figure, path))[1])
    return kept


def row(truth: int, prediction: int, prior: int | None) -> Row:
    def fill(value: int) -> torch.Tensor:
        return torch.full((24, 32), value)

    return Row(torch.rand(3, 24, 32), fill(truth), fill(prediction), None if prior is None else fill(prior))


def colours(path: Path) -> set[tuple[int, int, int]]:
    pixels = np.array(Image.open(path).convert("RGB")).reshape(-1, 3)
    found, counts = np.unique(pixels, axis=0, return_counts=True)
    return {tuple(int(v) for v in colour) for colour, count in zip(found, counts, strict=True) if count > 2000}


def test_grid_shows_every_map_and_names_the_classes_seen(tmp_path: Path, drawn: list[matplotlib.figure.Figure]) -> None:
    figure_grid(tmp_path / "a.png", [row(0, 0, 0), row(0, 2, 0), row(255, 0, 0)], CLASSES)
    titles = [axes.get_title() for axes in drawn[0].axes]
    assert titles[:4] == titles[4:8]
    assert len({*titles[:4]} - {""}) == 4
    assert titles[8:] == [""] * 4, "only the first line has titles"
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["sky", "car", "unlabelled"]
    assert {(10, 20, 250), (0, 200, 0), (0, 0, 0)} <= colours(tmp_path / "a.png")
    assert (200, 100, 0) not in colours(tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_grid_without_a_prior_has_three_columns(tmp_path: Path, drawn: list[matplotlib.figure.Figure]) -> None:
    figure_grid(tmp_path / "a.png", [row(0, 1, None)], CLASSES)
    assert len({axes.get_title() for axes in drawn[0].axes} - {""}) == len(drawn[0].axes) == 3
    with pytest.raises(ValueError):  # noqa: PT011  nothing was given, so there is nothing to name
        figure_grid(tmp_path / "b.png", [], CLASSES)


def test_curves_draw_what_was_logged(tmp_path: Path, drawn: list[matplotlib.figure.Figure]) -> None:
    history = {
        "train/main": [(step, 2.0 / (step + 1)) for step in range(50)],
        "train/prior": [(step, 1.0 / (step + 1)) for step in range(50)],
        "train/lr": [(0, 0.1), (50, 0.0)],
        "val/mIoU": [(25, 0.25), (50, 0.5)],
        **{f"lambda/stage{i}": [(0, 0.0), (50, 0.1 * i)] for i in (1, 2, 3, 4)},
    }
    training_curves(tmp_path / "a.png", history)
    losses, scores, scalars, rates = drawn[0].axes
    assert missing(scores.get_title(loc="left"), "mIoU", "[%]") == []
    assert scores.lines[0].get_ydata().tolist() == [25.0, 50.0]
    assert "λ" in scalars.get_title(loc="left")
    assert [str(line.get_label())[-2:] for line in scalars.lines] == [f" {i}" for i in (1, 2, 3, 4)]
    assert losses.lines[0].get_ydata().tolist() == [value for _, value in history["train/main"]]
    assert rates.lines[0].get_ydata().tolist() == [0.1, 0.0]
    assert (tmp_path / "a.png").stat().st_size > 10_000

    training_curves(tmp_path / "b.png", {"train/main": [(0, 1.0)], "train/lr": [(0, 0.1)], "epoch": [(0, 0.0)]})
    titles = [axes.get_title(loc="left") for axes in (losses, rates)]
    assert [axes.get_title(loc="left") for axes in drawn[1].axes] == titles
    with pytest.raises(ValueError, match=facts(["epoch"])):
        training_curves(tmp_path / "c.png", {"epoch": [(0, 0.0)]})


def test_smoothing_keeps_constants_and_lies_within_the_values() -> None:
    assert figures._smooth([3.0] * 100) == [3.0] * 100
    values = torch.rand(200).tolist()
    smooth = figures._smooth(values)
    assert len(smooth) == 200
    assert max(values) > max(smooth) > min(smooth) > min(values)
    assert figures._smooth([1.0, 5.0]) == [1.0, 5.0]


def test_bars_are_sorted_and_leave_undefined_classes_out(tmp_path: Path, drawn: list[matplotlib.figure.Figure]) -> None:
    confusion = Confusion(3)
    confusion.update(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 1]))
    class_bars(tmp_path / "a.png", confusion.scores(), CLASSES.names)
    axes = drawn[0].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["road", "sky"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([200 / 3, 50.0])
    class_bars(tmp_path / "c.png", confusion.scores(), (r"$\frac$", "b_{$ and $", "c"))
    assert [label.get_text() for label in drawn[1].axes[0].get_yticklabels()] == ["b_{$ and $", r"$\frac$"]
    with pytest.raises(ValueError, match=facts("IoU")):
        class_bars(tmp_path / "b.png", Confusion(3).scores(), CLASSES.names)
