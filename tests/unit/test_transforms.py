"""Augmentation against recorded runs of mmsegmentation 1.2.2 and against plain loops."""

import colorsys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semask.data.augment.photometric import apply_steps, distort, hsv_to_rgb, rgb_to_hsv, saturate, turn_hue
from semask.data.augment.transforms import TrainTransform, is_varied
from semask.inference import build_predictor
from semask.ops.lazy_scores import InMemory
from semask.ops.resize import fit_size
from semask.recipes import recipe as fields
from semask.recipes.recipe import IMAGENET_MEAN, DataRecipe
from tests.facts import facts

PLAIN = DataRecipe(crop=(64, 64), cat_max_ratio=1.0, flip=0.0, photometric=False)


class Replay:
    """numpy's global generator of old behind the new names: the recorded runs drew from it, in our order."""

    def __init__(self, seed: int) -> None:
        self.state = np.random.RandomState(seed)

    def random(self) -> float:
        return self.state.random_sample()

    def uniform(self, low: float, high: float) -> float:
        return self.state.uniform(low, high)

    def integers(self, low: int, high: int | None = None) -> int:
        return self.state.randint(low, high)


def random_image(height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    image = torch.from_numpy(random.integers(0, 256, (3, height, width), dtype=np.uint8))
    return image, torch.from_numpy(random.integers(0, 7, (height, width), dtype=np.uint8))


# --- photometric -------------------------------------------------------------------------------------------------

PIXELS_BGR = [(0, 0, 0), (255, 255, 255), (10, 100, 200), (128, 128, 128), (250, 5, 130), (33, 34, 35)]
RECORDED = {
    0: [(0, 0, 0), (255, 255, 255), (3, 137, 255), (172, 172, 172), (255, 0, 179), (44, 45, 47)],
    1: [(31, 31, 31), (255, 255, 255), (112, 156, 231), (159, 159, 159), (255, 118, 182), (65, 65, 66)],
    2: [(0, 0, 0), (255, 255, 255), (30, 150, 255), (183, 183, 183), (255, 24, 193), (47, 48, 50)],
    3: [(0, 0, 0), (255, 255, 255), (0, 93, 200), (128, 128, 128), (250, 0, 125), (32, 34, 35)],
    4: [(0, 0, 0), (255, 255, 255), (80, 146, 221), (141, 141, 141), (255, 94, 186), (37, 37, 38)],
}


def rgb_tensor(pixels_bgr: list[tuple[int, int, int]]) -> torch.Tensor:
    return torch.tensor(pixels_bgr, dtype=torch.uint8).flip(1).T.reshape(3, 2, 3).contiguous()


@pytest.mark.parametrize("seed", RECORDED)
def test_distortion_matches_the_recorded_runs(seed: int) -> None:
    got = distort(rgb_tensor(PIXELS_BGR), Replay(seed))
    assert torch.equal(got, rgb_tensor(RECORDED[seed]))


def test_hsv_of_the_recorded_pixel() -> None:
    pixel = torch.tensor([200, 100, 10], dtype=torch.uint8).reshape(3, 1, 1)
    hsv = apply_steps(pixel, [rgb_to_hsv])
    assert hsv.flatten().tolist() == [14, 242, 200]
    assert apply_steps(hsv, [hsv_to_rgb]).flatten().tolist() == [200, 99, 10]


@given(st.tuples(*[st.integers(0, 255)] * 3))
@settings(max_examples=300, deadline=None)
def test_hsv_agrees_with_colorsys(rgb: tuple[int, int, int]) -> None:
    pixel = torch.tensor(rgb, dtype=torch.uint8).reshape(3, 1, 1)
    hue, saturation, value = apply_steps(pixel, [rgb_to_hsv]).flatten().tolist()
    expected = colorsys.rgb_to_hsv(*(part / 255 for part in rgb))
    assert value == max(rgb)
    assert abs(saturation - expected[1] * 255) <= 0.5001
    turn = abs(hue - expected[0] * 180)
    assert min(turn, 180 - turn) <= 0.5001
    turned = torch.tensor([hue, saturation, value], dtype=torch.uint8).reshape(3, 1, 1)
    back = apply_steps(turned, [hsv_to_rgb]).flatten().tolist()
    expected = colorsys.hsv_to_rgb(hue / 180, saturation / 255, value / 255)
    assert all(abs(got - want * 255) <= 0.5001 for got, want in zip(back, expected, strict=True))


def test_hue_turns_round_and_saturation_zero_is_grey() -> None:
    image, _ = random_image(8, 8)
    assert torch.equal(apply_steps(image, [turn_hue(180)]), apply_steps(image, [turn_hue(0)]))
    assert torch.equal(apply_steps(image, [turn_hue(-18)]), apply_steps(image, [turn_hue(162)]))
    grey = apply_steps(image, [saturate(0.0)])
    assert torch.equal(grey, image.amax(0, keepdim=True).expand(3, -1, -1))


@pytest.mark.parametrize(("value", "factor", "shift", "expected"), [(100, 1, 31.9, 131), (255, 1, -31.9, 223)])
def test_brightness_is_truncated(value: int, factor: float, shift: float, expected: int) -> None:
    class Fixed(Replay):
        """Brightness alone, by a fixed shift."""

        coins = iter((1, 0, 0, 0, 0))

        def integers(self, low: int, high: int | None = None) -> int:
            return next(Fixed.coins)

        def uniform(self, low: float, high: float) -> float:
            assert (low, high) == (-32.0, 32.0)
            return shift

    Fixed.coins = iter((1, 0, 0, 0, 0))
    grey = torch.full((3, 1, 1), value, dtype=torch.uint8)
    assert distort(grey, Fixed(0)).flatten().tolist() == [expected] * 3


# --- sizes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "ratio", "size"),
    [
        (683, 512, 1.0, (683, 512)),
        (256, 341, 1.0, (512, 682)),
        (480, 640, 1.0, (512, 683)),
        (300, 2000, 1.0, (307, 2048)),
        (501, 333, 1.0, (770, 512)),
        (683, 512, 0.5488135039273248 * 1.5 + 0.5, (903, 677)),
        (256, 341, 0.417022004702574 * 1.5 + 0.5, (576, 767)),
        (300, 2000, 0.9670298390136767 * 1.5 + 0.5, (599, 3994)),
    ],
)
def test_base_scale_gives_the_recorded_sizes(height: int, width: int, ratio: float, size: tuple[int, int]) -> None:
    assert fit_size(height, width, (2048, 512), ratio) == size
    data = replace(PLAIN, base_scale=(2048, 512), scale_choices=(ratio,), crop=(4096, 4096))
    image, label = torch.zeros(3, height, width, dtype=torch.uint8), torch.zeros(height, width, dtype=torch.uint8)
    _, out = TrainTransform(data)(image, label, np.random.default_rng(0))
    inside = out == 0
    assert (int(inside.any(1).sum()), int(inside.any(0).sum())) == size


@pytest.mark.parametrize(
    ("height", "width", "ratio", "size"),
    [
        (683, 512, 0.5, (341, 256)),  # the box is truncated to (341, 256) before the fit
        (683, 512, 0.75, (512, 384)),
        (341, 256, 1.25, (426, 320)),
        (511, 767, 1.75, (894, 1342)),
    ],
)
def test_without_base_scale_the_own_size_is_scaled(
    height: int, width: int, ratio: float, size: tuple[int, int]
) -> None:
    data = replace(PLAIN, base_ratio=ratio / 2, scale_choices=(2.0,), crop=(1400, 1400))
    image, label = torch.zeros(3, height, width, dtype=torch.uint8), torch.zeros(height, width, dtype=torch.uint8)
    _, out = TrainTransform(data)(image, label, np.random.default_rng(0))
    inside = out == 0
    assert (int(inside.any(1).sum()), int(inside.any(0).sum())) == size


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([0.5, 0.75, 1.0]),
    st.floats(0.5, 2.0),
    st.sampled_from([None, (120, 40), (50, 50)]),
)
@settings(max_examples=60, deadline=None)
def test_training_and_test_see_a_image_at_one_size(
    height: int, width: int, base_ratio: float, scale: float, base_scale: tuple[int, int] | None
) -> None:
    data = replace(PLAIN, base_scale=base_scale, base_ratio=base_ratio, scale_choices=(scale,), crop=(400, 400))
    blank, label = torch.zeros(3, height, width, dtype=torch.uint8), torch.zeros(height, width, dtype=torch.uint8)
    _, out = TrainTransform(data)(blank, label, np.random.default_rng(0))
    trained = int((out == 0).any(1).sum()), int((out == 0).any(0).sum())

    class Watched:
        """Keeps the size that the predictor hands to its model."""

        size = (0, 0)
        size_multiple = 1
        scores_are_logits = True

        def lazy_scores(self, images: torch.Tensor) -> InMemory:
            self.size = (images.shape[-2], images.shape[-1])
            return InMemory(images)

        lazy_prior = lazy_scores

    model = Watched()
    build_predictor(model, fields.TestRecipe(scales=(scale,)), data)(torch.zeros(1, 3, height, width))
    assert model.size == trained


def test_a_image_may_shrink_to_one_pixel() -> None:
    image = torch.full((3, 2, 2), 7, dtype=torch.uint8)
    out, ids = TrainTransform(replace(PLAIN, scale_choices=(0.5,), crop=(1, 1)))(
        image, torch.full((2, 2), 3, dtype=torch.uint8), np.random.default_rng(0)
    )
    torch.testing.assert_close(out, torch.full((3, 1, 1), 7 / 255))
    assert ids.tolist() == [[3]]


@pytest.mark.parametrize(
    ("old", "new", "picked"),
    [(5, 3, [0, 1, 3]), (3, 7, [0, 0, 0, 1, 1, 2, 2]), (10, 4, [0, 2, 5, 7])],
)
def test_labels_are_picked_as_recorded(old: int, new: int, picked: list[int]) -> None:
    data = replace(PLAIN, scale_choices=(new / old,), crop=(new, new))
    label = torch.arange(old, dtype=torch.uint8)[None].repeat(old, 1)
    _, out = TrainTransform(data)(torch.zeros(3, old, old, dtype=torch.uint8), label, np.random.default_rng(0))
    assert out[0].tolist() == picked


def test_images_are_interpolated_without_antialiasing() -> None:
    image, label = random_image(40, 60)
    data = replace(PLAIN, scale_choices=(0.5,), crop=(20, 30))
    out, _ = TrainTransform(data)(image, label, np.random.default_rng(0))
    # Half size with half-pixel centres: each pixel is the mean of its 2×2 block.
    expected = image.float().reshape(3, 20, 2, 30, 2).mean((2, 4))
    assert (out * 255 - expected).abs().max() <= 1.0


# --- ratio -------------------------------------------------------------------------------------------------------


def test_choices_and_range_exclude_each_other() -> None:
    with pytest.raises(
        ValueError, match=facts("scale_choices", (1.0,), "scale_range", (0.5, 2.0), "--data.scale-choices None")
    ):
        TrainTransform(replace(PLAIN, scale_choices=(1.0,), scale_range=(0.5, 2.0)))


@pytest.mark.parametrize(
    "change", [{"scale_choices": ()}, {"scale_range": (0.0, 1.0)}, {"base_ratio": 0.0}, {"crop": (0, 5)}]
)
def test_ratios_and_crop_must_be_positive(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=facts(*change)):
        TrainTransform(replace(PLAIN, **change))


def test_every_choice_is_drawn_and_the_range_is_filled() -> None:
    image, label = torch.zeros(3, 20, 20, dtype=torch.uint8), torch.zeros(20, 20, dtype=torch.uint8)

    def sides(**change: object) -> list[int]:
        transform = TrainTransform(replace(PLAIN, crop=(40, 40), **change))
        return [int((transform(image, label, np.random.default_rng(s))[1][0] == 0).sum()) for s in range(200)]

    assert set(sides(scale_choices=(0.5, 0.75, 1.25))) == {10, 15, 25}
    drawn = sides(scale_range=(0.5, 2.0))
    assert min(drawn) >= 10
    assert max(drawn) <= 40
    assert 23 < np.mean(drawn) < 27
    assert set(sides()) == {20}


# --- crop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "size", "corner", "result"),
    [
        (0, (700, 900), (172, 47), (512, 512)),
        (1, (400, 900), (0, 37), (400, 512)),
        (2, (512, 512), (0, 0), (512, 512)),
        (4, (300, 200), (0, 0), (300, 200)),
    ],
)
def test_crops_match_the_recorded_runs(
    seed: int, size: tuple[int, int], corner: tuple[int, int], result: tuple[int, int]
) -> None:
    label = torch.from_numpy(np.random.default_rng(0).integers(0, 7, size, dtype=np.uint8))
    transform = TrainTransform(replace(PLAIN, crop=(512, 512), cat_max_ratio=0.75))
    rows, columns = transform._draw_crop(label, Replay(seed))
    assert (rows.start, columns.start) == corner
    assert label[rows, columns].shape == result


@pytest.mark.parametrize(("seed", "corner"), [(0, (25, 72)), (1, (87, 241)), (2, (4, 51))])
def test_after_ten_redraws_the_last_crop_is_taken(seed: int, corner: tuple[int, int]) -> None:
    label = torch.zeros(600, 800, dtype=torch.uint8)
    label[:40, :300] = 1
    label[500:] = 255
    label[:, 600:] = 255
    transform = TrainTransform(replace(PLAIN, crop=(512, 512), cat_max_ratio=0.75))
    rows, columns = transform._draw_crop(label, Replay(seed))
    assert (rows.start, columns.start) == corner


def test_the_cap_prefers_varied_crops_and_one_switches_it_off() -> None:
    label = torch.zeros(100, 100, dtype=torch.uint8)
    label[:, 60:] = 3
    image = torch.zeros(3, 100, 100, dtype=torch.uint8)

    def uniform_crops(cap: float) -> int:
        transform = TrainTransform(replace(PLAIN, crop=(30, 30), cat_max_ratio=cap))
        outs = [transform(image, label, np.random.default_rng(s))[1] for s in range(100)]
        shares = [max(float((o == 0).float().mean()), float((o == 3).float().mean())) for o in outs]
        return sum(share >= 0.75 for share in shares)

    assert uniform_crops(0.75) < 10
    assert uniform_crops(1.0) > 60


def test_unlabelled_pixels_do_not_count_towards_the_cap() -> None:
    label = torch.full((4, 4), 255, dtype=torch.uint8)
    assert not is_varied(label, 0.75)
    label[0, :2] = torch.tensor([1, 2], dtype=torch.uint8)
    assert is_varied(label, 0.75)
    label[0, 2:] = 1
    assert not is_varied(label, 0.75), "3 of 4 labelled pixels is not below 0.75"


def test_crop_positions_cover_the_image() -> None:
    transform = TrainTransform(replace(PLAIN, crop=(6, 5)))
    label = torch.zeros(8, 8, dtype=torch.uint8)
    starts = {
        (w[0].start, w[1].start) for w in (transform._draw_crop(label, np.random.default_rng(s)) for s in range(300))
    }
    assert starts == {(row, column) for row in range(3) for column in range(4)}


# --- flip, padding, the whole --------------------------------------------------------------------------------------


def test_flip_turns_image_and_label_together() -> None:
    image, label = random_image(64, 64)
    out, ids = TrainTransform(replace(PLAIN, flip=1.0))(image, label, np.random.default_rng(0))
    assert torch.equal(ids, label.flip(1))
    torch.testing.assert_close(out, image.flip(2).float() / 255)
    flipped = [
        torch.equal(TrainTransform(replace(PLAIN, flip=0.5))(image, label, np.random.default_rng(s))[1], ids)
        for s in range(200)
    ]
    assert 70 < sum(flipped) < 130


def test_padding_is_the_mean_and_ignored() -> None:
    image, label = random_image(40, 50)
    mean = (0.1, 0.2, 0.3)
    out, ids = TrainTransform(PLAIN, mean=mean)(image, label, np.random.default_rng(0))
    assert out.shape == (3, 64, 64)
    torch.testing.assert_close(out[:, :40, :50], image.float() / 255)
    assert torch.equal(ids[:40, :50], label)
    for channel, value in enumerate(mean):
        assert (out[channel, 40:] == torch.tensor(value)).all()
        assert (out[channel, :, 50:] == torch.tensor(value)).all()
    assert (ids[40:] == 255).all()
    assert (ids[:, 50:] == 255).all()
    assert TrainTransform(PLAIN).mean == IMAGENET_MEAN


def test_padding_may_be_a_value_of_the_raw_image() -> None:
    image, label = random_image(40, 80)
    data = replace(PLAIN, photometric=True, padding=128 / 255)
    out, ids = TrainTransform(data, mean=(0.1, 0.2, 0.3))(image, label, np.random.default_rng(0))
    beside, same = TrainTransform(replace(data, padding=None))(image, label, np.random.default_rng(0))
    assert (out[:, 40:] * 255 == 128).all()
    assert torch.equal(out[:, :40], beside[:, :40]), "no chance is spent on the padding"
    assert torch.equal(ids, same)
    assert (TrainTransform(replace(PLAIN, padding=0.0))(image, label, np.random.default_rng(0))[0][:, 40:] == 0).all()


@pytest.mark.parametrize("value", [128.0, -0.1])
def test_padding_is_not_of_8_bit(value: float) -> None:
    with pytest.raises(ValueError, match=facts("padding", "[0, 1]", f"{value:g}", 255)):
        TrainTransform(replace(PLAIN, padding=value))


@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_any_image_becomes_a_crop(height: int, width: int, seed: int) -> None:
    data = DataRecipe(crop=(48, 32), scale_range=(0.5, 2.0))
    image, label = random_image(height, width)
    before = torch.get_rng_state()
    legacy = np.random.get_state()[1].copy()  # noqa: NPY002
    out, ids = TrainTransform(data)(image, label, np.random.default_rng(seed))
    again, _ = TrainTransform(data)(image, label, np.random.default_rng(seed))
    assert torch.equal(out, again)
    assert out.shape == (3, 48, 32)
    assert ids.shape == (48, 32)
    assert out.dtype == torch.float32
    assert ids.dtype == torch.uint8
    assert float(out.min()) >= 0
    assert float(out.max()) <= 1
    assert set(ids.unique().tolist()) <= {*range(7), 255}
    assert torch.equal(torch.get_rng_state(), before), "the global generator is not touched"
    assert (np.random.get_state()[1] == legacy).all()  # noqa: NPY002
