from __future__ import annotations

from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from semask.data.classes import Classes
from semask.inference.colours import numbered_classes
from semask.models.build import build
from semask.models.decoders.maskformer import MaskClassifier
from semask.models.model import SegmentationModel
from semask.structures import Features, MaskLogits
from semask.visualization import explain_figures
from semask.visualization.explain import QueryMasks, query_masks
from semask.visualization.explain_figures import query_figure
from tests.facts import facts
from tests.unit.toy_predictors import Patches


class Fixed(nn.Module):
    """Predictions that are known beforehand, on the grid of the padded image."""

    def forward(self, features: Features, pixels: Tensor, *, auxiliary: bool) -> MaskLogits:
        assert not auxiliary
        height, width = features.maps[0].shape[-2:]
        batch = len(features.maps[0])
        likely = torch.tensor([[0.9, 0.05, 0.05], [0.1, 0.6, 0.3], [0.02, 0.08, 0.9]])
        left, right = torch.full((height, width), -20.0), torch.full((height, width), -20.0)
        left[:, : width // 4] = 20.0
        right[:, width // 4 :] = 20.0
        masks = torch.stack([left, right, torch.full((height, width), 20.0)])
        return MaskLogits(likely.log().expand(batch, -1, -1), masks.expand(batch, -1, -1, -1))


@pytest.fixture
def painted() -> SegmentationModel:
    decoder = MaskClassifier(nn.Identity(), Fixed())
    return SegmentationModel(Patches(), decoder, num_classes=2, mean=(0.0,) * 3, std=(1.0,) * 3)


def test_known_queries_paint_their_halves(painted: SegmentationModel) -> None:
    """An image of 32×64 px: the first quarter of its columns is query 0's, the rest query 1's; query 2 is no object."""
    found = query_masks(painted, torch.rand(2, 3, 30, 64))
    assert found.classes.tolist() == [[0, 1, 1]] * 2
    torch.testing.assert_close(found.probabilities, torch.tensor([[0.9, 0.6, 0.08]] * 2))
    assert found.masks.shape == (2, 3, 30, 64)
    assert found.painters.shape == (2, 30, 64)
    torch.testing.assert_close(found.shares, torch.tensor([[0.25, 0.75, 0.0]] * 2))
    assert (found.masks[:, 0, :, :12] > 0.99).all()
    assert (found.masks[:, 0, :, 20:] < 0.01).all()
    assert (found.painters[:, :, :16] == 0).all()


@pytest.mark.parametrize("name", ["scenes/semask-micro-mask2former", "scenes/micro-mask2former"])
def test_painters_by_hand(name: str) -> None:
    """Every pixel once more, in loops: the class of the largest sum, and the query with the largest part of it."""
    model = build(name)
    with torch.no_grad():
        model.decoder.predictor.head.classify.weight.mul_(30)
    images = torch.rand(2, 3, 9, 37)
    model.train()
    found = query_masks(model, images)
    assert model.training
    assert not found.masks.requires_grad
    model.eval()
    with torch.inference_mode():
        out = model.decoder(model.encode(images), auxiliary=False)
        labels = model.labels(images)
    likely = out.class_logits.double().softmax(-1)[..., :-1].numpy()
    masks = found.masks.double().numpy()
    np.testing.assert_allclose(found.probabilities, likely.max(-1), rtol=1e-5)
    assert np.array_equal(found.classes, likely.argmax(-1))
    for image, row, column in [(i, y, x) for i in range(2) for y in range(0, 9, 2) for x in range(0, 37, 3)]:
        parts = likely[image] * masks[image, :, row, column, None]
        winner = int(labels[image, row, column])
        assert parts.sum(0)[winner] == pytest.approx(parts.sum(0).max(), rel=1e-5)
        painter = int(found.painters[image, row, column])
        assert parts[painter, winner] == pytest.approx(parts[:, winner].max(), rel=1e-5)
    torch.testing.assert_close(found.shares.sum(1), torch.ones(2))


def test_per_pixel_models_have_no_queries() -> None:
    with pytest.raises(ValueError, match=facts("SemanticFPN", "maskformer", "mask2former")):
        query_masks(build("scenes/micro-fpn"), torch.rand(1, 3, 32, 32))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[matplotlib.figure.Figure]:
    kept: list[matplotlib.figure.Figure] = []
    save = explain_figures.save_figure
    monkeypatch.setattr(explain_figures, "save_figure", lambda figure, path: (kept.append(figure), save(figure, path)))
    return kept


def test_the_strongest_queries_come_first(
    tmp_path: Path, drawn: list[matplotlib.figure.Figure], painted: SegmentationModel
) -> None:
    image = torch.zeros(3, 32, 64)
    found = query_masks(painted, image[None])
    classes = Classes.from_dict({"classes": ["sky", "road"]})
    query_figure(tmp_path / "a.png", image, found, classes, title="a street")
    panels = [axes for axes in drawn[0].axes if axes.images]
    assert [axes.get_title(loc="left") for axes in panels] == [
        "",
        "road 60 %\nquery 1 paints 75 %",
        "sky 90 %\nquery 0 paints 25 %",
    ]
    assert drawn[0].get_suptitle() == "a street"
    for axes, query, kind in zip(panels[1:], (1, 0), (1, 0), strict=True):
        layer = axes.images[1].get_array()
        np.testing.assert_allclose(layer[..., :3], np.broadcast_to(np.array(classes.colours[kind]) / 255, (32, 64, 3)))
        np.testing.assert_allclose(layer[..., 3], explain_figures.OPACITY * found.masks[0, query], rtol=1e-6)
    query_figure(tmp_path / "b.png", image, found, classes, count=1)
    assert sum(bool(axes.images) for axes in drawn[1].axes) == 2
    assert np.array(Image.open(tmp_path / "a.png")).std() > 10


def test_figures_of_queries_refuse_what_does_not_fit(tmp_path: Path, painted: SegmentationModel) -> None:
    found: QueryMasks = query_masks(painted, torch.rand(1, 3, 32, 64))
    image, classes = torch.rand(3, 32, 64), numbered_classes(2)
    with pytest.raises(ValueError, match=facts("32×64", "30×64")):
        query_figure(tmp_path / "a.png", image[:, :30], found, classes)
    with pytest.raises(ValueError, match=facts(1, 0)):
        query_figure(tmp_path / "a.png", image, found, classes, index=1)
    with pytest.raises(ValueError, match=facts(1, 0)):
        query_figure(tmp_path / "a.png", image, found, numbered_classes(1))
    assert list(tmp_path.iterdir()) == []
