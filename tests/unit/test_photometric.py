"""What the families' colour jitters differ in, and the distortion of bands that no eye sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from semask.data.augment.photometric import apply_steps, distort, distort_bands, turn_hue
from semask.data.augment.transforms import TrainTransform
from semask.recipes.recipe import DataRecipe
from tests.facts import facts

PLAIN = DataRecipe(crop=(16, 16), cat_max_ratio=1.0, flip=0.0, photometric=False)


class Coins:
    """Heads where it is said; of whole numbers the last one, and what lies at a share of the way of others."""

    def __init__(self, *coins: int, way: float = 0.0) -> None:
        self.coins, self.way = iter(coins), way
        self.asked: list[tuple[int, int]] = []

    def integers(self, low: int, high: int | None = None) -> int:
        if high is None:
            return next(self.coins)
        self.asked.append((low, high))
        return high - 1

    def uniform(self, low: float, high: float) -> float:
        return low + self.way * (high - low)


@pytest.mark.parametrize(("hue", "last"), [((-18, 17), 17), ((-18, 18), 18)])
def test_hue_takes_both_bounds(hue: tuple[int, int], last: int) -> None:
    random = np.random.default_rng(0)
    image = torch.from_numpy(random.integers(0, 256, (3, 6, 6), dtype=np.uint8))
    coins = Coins(0, 0, 0, 1, 0)
    assert torch.equal(distort(image, coins, hue=hue), apply_steps(image, [turn_hue(last)]))  # type: ignore[arg-type]
    assert coins.asked == [(hue[0], last + 1)]


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_bands_change_in_brightness_and_contrast_alone(channels: int) -> None:
    image = torch.rand(channels, 5, 6)
    same = distort_bands(image, Coins(0, 0))  # type: ignore[arg-type]
    assert torch.equal(same, image)
    brighter = distort_bands(image, Coins(1, 0, way=1.0))  # type: ignore[arg-type]
    torch.testing.assert_close(brighter, (image + 32 / 255).clamp(0, 1))
    duller = distort_bands(image, Coins(0, 1, way=0.0))  # type: ignore[arg-type]
    torch.testing.assert_close(duller, image * 0.5)


@pytest.mark.parametrize("kind", ["deep", "bands"])
def test_other_images_are_distorted_without_colours(kind: str) -> None:
    data = replace(PLAIN, photometric=True, channels=3 if kind == "deep" else 4)
    image = torch.rand(data.channels, 16, 16) * 0.5 + 0.25
    label = torch.zeros(16, 16, dtype=torch.uint8)
    changed = 0
    for seed in range(20):
        out, _ = TrainTransform(data, mean=(0.5,) * data.channels)(image, label, np.random.default_rng(seed))
        # One factor and one shift for all pixels and channels, where nothing was cut off.
        inside = (out > 0) & (out < 1)
        x, y = image[inside].double(), out[inside].double()
        factor = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
        torch.testing.assert_close(y, factor * (x - x.mean()) + y.mean(), atol=1e-5, rtol=0)
        changed += not torch.equal(out, image)
    assert changed > 10


def test_antialiasing_is_pillows() -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (61, 47, 3), dtype=np.uint8)
    image, label = torch.from_numpy(pixels).permute(2, 0, 1), torch.zeros(61, 47, dtype=torch.uint8)
    for height, width in ((30, 23), (19, 15), (91, 70)):
        data = replace(PLAIN, crop=(height, width), short_edges=(width,), antialias=True)
        out, _ = TrainTransform(data)(image, label, np.random.default_rng(0))
        pillow = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
        assert np.abs(out.mul(255).round().permute(1, 2, 0).numpy() - pillow.astype(float)).max() <= 1
        plain, _ = TrainTransform(replace(data, antialias=False))(image, label, np.random.default_rng(0))
        assert bool((out - plain).abs().max() > 0.1) == (width < 47), "only what is made smaller differs"


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"hue": (5, -5)}, ("data.hue", "5 -5")),
        ({"rare_crops": 1.5}, ("data.rare_crops", "[0, 1]", 1.5)),
        ({"copy_paste": -0.1}, ("data.copy_paste", "[0, 1]", -0.1)),
        ({"flip": 2.0}, ("data.flip", "[0, 1]", 2)),
        (
            {"copy_paste_classes": ("car",)},
            ("data.copy_paste_classes", "data.copy_paste", 0, "--data.copy-paste"),
        ),
        ({"channels": 0}, ("data.channels", 1, 0)),
        ({"channels": 4}, (4, "--model.mean", "--model.std", 3, "semask doctor", "--data.channels 4")),
        ({"value_range": (1.0, 0.0)}, ("data.value_range", "1 0")),
    ],
)
def test_fields_that_mean_nothing_are_refused(change: dict[str, object], wanted: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=facts(*wanted)):
        TrainTransform(replace(PLAIN, **change))
