from __future__ import annotations

from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from semask.data.classes import Classes
from semask.visualization import explain_figures
from semask.visualization.explain import ClassProjection, project_classes
from semask.visualization.explain_figures import attention_maps, class_scatter, distance_plot
from semask.visualization.point_names import GAPS, free_place, name_points, overlap
from tests.facts import facts


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[matplotlib.figure.Figure]:
    """The figures that are saved, to look into."""
    kept: list[matplotlib.figure.Figure] = []
    save = explain_figures.save_figure
    monkeypatch.setattr(explain_figures, "save_figure", lambda figure, path: (kept.append(figure), save(figure, path)))
    return kept


def test_maps_show_every_head_on_its_own_scale(tmp_path: Path, drawn: list[matplotlib.figure.Figure]) -> None:
    maps = torch.rand(3, 2, 3) * torch.tensor([0.1, 0.01, 1.0])[:, None, None]
    attention_maps(tmp_path / "a.png", torch.rand(3, 30, 48), maps, patch_size=16, query=(1, 2), title="layer 5")
    panels = drawn[0].axes
    assert [axes.get_title(loc="left") for axes in panels] == [
        "",
        *(f"head {head}  ≤ {100 * maps[head].max():.2g} %" for head in range(3)),
    ]
    assert drawn[0].get_suptitle() == "layer 5"
    for head, axes in enumerate(panels[1:]):
        shown = axes.images[1]
        values = maps[head].numpy()
        np.testing.assert_allclose(shown.get_array(), (values - values.min()) / np.ptp(values), rtol=1e-6)
        assert shown.get_interpolation() == "nearest"
        assert list(shown.get_extent()) == [0, 48, 32, 0], "the map reaches beyond an image that was padded"
        assert list(axes.images[0].get_extent()) == [0, 48, 30, 0]
    for axes in panels:
        assert axes.patches[-1].get_bbox().bounds == (32, 16, 16, 16)
        assert (axes.get_xlim(), axes.get_ylim()) == ((0, 48), (32, 0))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_bright_patch_is_where_attention_is(tmp_path: Path) -> None:
    """Seen in the pixels: over a black image the one patch attended to shines, at its place."""
    maps = torch.zeros(1, 2, 4)
    maps[0, 1, 3] = 0.5
    attention_maps(tmp_path / "a.png", torch.zeros(3, 32, 64), maps, patch_size=16)
    grey = np.array(Image.open(tmp_path / "a.png").convert("L")).astype(int)
    right = grey[:, grey.shape[1] // 2 :]
    rows, columns = np.nonzero((right > 200) & (right < 254))
    black_rows, black_columns = np.nonzero(right < 20)
    middle = ((black_rows.min() + black_rows.max()) / 2, np.quantile(np.unique(black_columns), 0.5))
    assert np.median(rows) > middle[0]
    assert np.median(columns) > middle[1]


@pytest.mark.parametrize(("heads", "grid"), [(1, (1, 1)), (3, (1, 4)), (12, (1, 5)), (16, (1, 6))])
def test_maps_of_any_number_of_heads(tmp_path: Path, drawn: list[matplotlib.figure.Figure], heads: int, grid) -> None:
    height, width = grid
    attention_maps(tmp_path / "a.png", torch.rand(3, 16, 16 * width), torch.full((heads, height, width), 0.1), patch_size=16)  # fmt: skip
    assert sum(axes.get_title(loc="left").startswith("head") for axes in drawn[0].axes) == heads
    assert len(drawn[0].axes) - heads - 1 < 5, "few places stay empty"


def test_maps_refuse_what_does_not_fit(tmp_path: Path) -> None:
    image, maps = torch.rand(3, 32, 48), torch.rand(2, 2, 3)
    with pytest.raises(ValueError, match=facts("2×3", 14, "28×42", "32×48")):
        attention_maps(tmp_path / "a.png", image, maps, patch_size=14)
    with pytest.raises(ValueError, match=facts((2, 0), "2×3")):
        attention_maps(tmp_path / "a.png", image, maps, patch_size=16, query=(2, 0))
    assert list(tmp_path.iterdir()) == []


def test_distances_are_dots(tmp_path: Path, drawn: list[matplotlib.figure.Figure]) -> None:
    distances = torch.rand(12, 3, dtype=torch.float64) * 100
    distance_plot(tmp_path / "a.png", distances)
    axes = drawn[0].axes[0]
    dots = np.asarray(axes.collections[0].get_offsets())
    assert dots.tolist() == [[layer, float(value)] for layer, row in enumerate(distances) for value in row]
    assert axes.lines[0].get_ydata().tolist() == pytest.approx(distances.mean(1).tolist())
    assert axes.get_xlabel()
    assert axes.get_ylabel().endswith("[px]")
    assert axes.get_ylim()[0] == 0


@pytest.mark.parametrize("spread", [1.0, 0.3])
def test_150_names_do_not_cover_each_other(
    tmp_path: Path, drawn: list[matplotlib.figure.Figure], spread: float
) -> None:
    classes = Classes.load("ade20k")
    centres = torch.randn(12, 64).repeat_interleave(13, 0)[:150]
    projection = project_classes(centres + spread * torch.randn(150, 64), centred=True)
    class_scatter(tmp_path / "a.png", projection, classes)
    axes = drawn[0].axes[0]
    renderer = FigureCanvasAgg(drawn[0]).get_renderer()
    assert sorted(text.get_text() for text in axes.texts) == sorted(classes.names)
    boxes = np.stack([text.get_window_extent(renderer).extents for text in axes.texts])
    shared = overlap(boxes, boxes) & ~np.eye(150, dtype=bool)
    assert shared.sum() == 0
    frame = axes.get_window_extent(renderer).extents
    assert (boxes[:, :2] >= frame[:2] - 1).all()
    assert (boxes[:, 2:] <= frame[2:] + 1).all()
    dots = dict(zip(classes.names, axes.transData.transform(projection.coordinates.numpy()), strict=True))
    gaps = [
        np.linalg.norm(np.clip(dots[text.get_text()], box[:2], box[2:]) - dots[text.get_text()])
        for text, box in zip(axes.texts, boxes, strict=True)
    ]
    assert np.median(gaps) < 0.15 * 160, "most names stand beside their dots"
    widths = np.diff(axes.transData.transform([(0, 0), (1, 1)]), axis=0)[0]
    assert widths[0] == pytest.approx(widths[1]), "both axes have one scale"


def test_scatter_says_how_much_it_shows(tmp_path: Path, drawn: list[matplotlib.figure.Figure]) -> None:
    projection = ClassProjection(torch.tensor([[1.0, 0], [0, 2]]), torch.tensor([2.0, 1]), torch.tensor([0.8, 0.15]))
    classes = Classes.from_dict({"classes": ["a", "b"]})
    class_scatter(tmp_path / "a.png", projection, classes)
    axes = drawn[0].axes[0]
    assert "80.0 %" in axes.get_xlabel()
    assert "15.0 %" in axes.get_ylabel()
    with pytest.raises(ValueError, match=facts(2, 11)):
        class_scatter(tmp_path / "b.png", projection, Classes.load("camvid"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(("near", "expected"), [((50.0, 50.0), 0), ((99.0, 50.0), 0), ((0.0, 0.0), 1)])
def test_a_place_is_free_inside_and_near(near: tuple[float, float], expected: int) -> None:
    frame = np.array([0.0, 0, 100, 100])
    taken = np.array([[near[0] - 3, near[1] - 3, near[0] + 3, near[1] + 3]])
    box, gap = free_place(np.array(near), (20, 8), taken, frame, 4.0)
    assert gap == GAPS[expected]
    assert not overlap(box[None], taken).any()
    assert (box >= 0).all()
    assert (box <= 100).all()
    assert (box[2:] - box[:2]).tolist() == pytest.approx([20, 8])


def test_boxes_that_touch_do_not_overlap() -> None:
    boxes = np.array([[0.0, 0, 2, 2], [2, 0, 4, 2], [1, 1, 3, 3]])
    assert overlap(boxes, boxes).tolist() == [
        [True, False, True],
        [False, True, True],
        [True, True, True],
    ]


def test_names_leave_the_legend_free() -> None:
    """A dot just left of the legend, whose name would lie to the right, away from the middle of the frame."""
    figure = matplotlib.figure.Figure(figsize=(4, 4), dpi=100)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], "o", label="a long line of the legend")
    axes.legend(loc="upper right")
    legend = axes.get_legend().get_window_extent(FigureCanvasAgg(figure).get_renderer())
    x, y = axes.transData.inverted().transform((legend.x0 - 5, (legend.y0 + legend.y1) / 2))
    name_points(axes, np.array([[x, y]]), ["a name"])
    (box,) = (text.get_window_extent().extents for text in axes.texts)
    assert not overlap(box[None], legend.extents[None]).any()
