import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semask.data.dataset import TrainingScenes, training_set, validation_set
from semask.data.scenes.canvas import GRAIN, Canvas, Material, noise
from semask.data.scenes.scene import CAR, GRASS, POLE, ROAD, ROOF, SCENE_CLASSES, SIGN, SKY, TREE, WATER, draw_scene
from semask.recipes.recipe import DataRecipe
from tests.facts import facts

COUNT = 80


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, np.ndarray]]:
    return [draw_scene(seed) for seed in range(COUNT)]


def test_shapes_types_and_that_seeds_decide(scenes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    image, label = scenes[3]
    assert image.shape == (128, 128, 3)
    assert label.shape == (128, 128)
    assert image.dtype == label.dtype == np.uint8
    again, label_again = draw_scene(3)
    assert (again == image).all()
    assert (label_again == label).all()
    assert len({scene.tobytes() for scene, _ in scenes}) == COUNT


def test_every_class_is_drawn_often_enough(scenes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    present = np.array([np.bincount(label.ravel(), minlength=12) > 0 for _, label in scenes])
    assert len(SCENE_CLASSES) == 12
    assert present.shape[1] == 12, "no label beyond the table"
    assert present.mean(0).min() > 0.25


def test_things_are_small_and_thin(scenes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    runs = []
    for _, label in scenes:
        row = np.diff(np.pad(label == POLE, ((0, 0), (1, 1))).astype(int), axis=1)
        runs += (np.nonzero(row == -1)[1] - np.nonzero(row == 1)[1]).tolist()
    assert np.median(runs) <= 2, "poles are one or two pixels wide"
    signs = [int((label == SIGN).sum()) for _, label in scenes if (label == SIGN).any()]
    assert 0 < np.median(signs) < 0.02 * 128 * 128


@pytest.mark.parametrize(("one", "other"), [(SKY, WATER), (ROAD, ROOF), (TREE, GRASS)])
def test_colour_does_not_tell_these_apart_but_others(
    scenes: list[tuple[np.ndarray, np.ndarray]], one: int, other: int
) -> None:
    def means(index: int) -> np.ndarray:
        return np.array([i[m].mean(0) for i, label in scenes if (m := label == index).sum() > 40])

    # The best threshold on any channel of a region's mean colour, over all scenes, is right for how many?
    def best_guess(first: np.ndarray, second: np.ndarray) -> float:
        values, truth = np.concatenate([first, second]), np.repeat([0, 1], [len(first), len(second)])
        weight = np.where(truth == 0, 0.5 / len(first), 0.5 / len(second))
        scores = [(weight * ((values[:, c] > t) == truth)).sum() for c in range(3) for t in np.linspace(0, 255, 64)]
        return max(*scores, 1 - min(scores))

    assert best_guess(means(one), means(other)) < 0.8
    assert best_guess(means(SKY), means(GRASS)) > 0.85


def test_place_tells_sky_from_water(scenes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for _, label in scenes:
        rows = np.arange(128)[:, None]
        if (label == WATER).any():
            assert np.broadcast_to(rows, label.shape)[label == WATER].min() >= (
                np.broadcast_to(rows, label.shape)[label == SKY].max() - 1
            ), "the sky ends where the water begins"


@given(st.integers(32, 150), st.integers(32, 150), st.integers(0, 2**63))
@settings(max_examples=40, deadline=None)
def test_any_size_and_seed(height: int, width: int, seed: int) -> None:
    image, label = draw_scene(seed, (height, width))
    assert image.shape == (height, width, 3)
    assert label.shape == (height, width)
    assert label.max() < 12
    assert image.std() > 1


def test_impossible_scenes_are_refused() -> None:
    with pytest.raises(ValueError, match=facts("31×64", 32)):
        draw_scene(0, (31, 64))
    with pytest.raises(ValueError, match=facts(-1, 0)):
        draw_scene(-1)


def test_training_and_validation_never_share_a_scene() -> None:
    data = DataRecipe(kind="scenes", scene_size=(32, 32), crop=(32, 32), scene_count=50)
    training = training_set(data, seed=0)
    assert isinstance(training, TrainingScenes)
    drawn = {training[i].name for i in range(50)}
    held_out = {validation_set(data)[i].name for i in range(50)}
    assert len(drawn) == len(held_out) == 50
    assert {int(name.split()[1]) % 2 for name in drawn} == {1}
    assert {int(name.split()[1]) % 2 for name in held_out} == {0}


# --- the canvas --------------------------------------------------------------------------------------------------

PAINT = Material((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), GRAIN)


def test_shapes_cover_the_pixels_whose_centres_they_hold() -> None:
    canvas = Canvas((40, 30), horizon=10)
    rows, columns = np.mgrid[:40, :30] + 0.5
    canvas.rectangle((3.2, 11.7), (4.6, 20.4), ROAD, PAINT)
    expected = (rows >= 3.2) & (rows < 11.7) & (columns >= 4.6) & (columns < 20.4)
    assert ((canvas.label == ROAD) == expected).all()
    canvas.ellipse((25.3, 14.8), (8.0, 5.5), CAR, PAINT)
    assert ((canvas.label == CAR) == (((rows - 25.3) / 8) ** 2 + ((columns - 14.8) / 5.5) ** 2 < 1)).all()
    canvas = Canvas((40, 30), horizon=10)
    canvas.trapezoid((5.0, 35.0), (14.0, 16.0), (2.0, 28.0), ROOF, PAINT)
    way = (rows - 5) / 30
    expected = (rows > 5) & (rows < 35) & (columns >= 14 - 12 * way) & (columns < 16 + 12 * way)
    assert ((canvas.label == ROOF) == expected).all()


def test_shapes_are_clipped_and_never_thinner_than_a_pixel() -> None:
    canvas = Canvas((32, 32), horizon=10)
    for rows, columns in [((-9, -2), (3, 5)), ((40, 50), (3, 5)), ((3, 5), (-9, -1)), ((3, 5), (33, 50))]:
        canvas.rectangle(rows, columns, CAR, PAINT)
        canvas.trapezoid(rows, columns, columns, CAR, PAINT)
        canvas.ellipse((rows[0], columns[0]), (1, 1), CAR, PAINT)
    assert (canvas.label == CAR).sum() == 0
    canvas = Canvas((32, 32), horizon=10)
    canvas.rectangle((0, 32), (7.6, 7.7), POLE, PAINT)
    assert (canvas.label == POLE).sum() == 32


def test_noise_passes_through_its_nodes() -> None:
    field = noise(np.random.default_rng(0), (80, 60), (4, 3))
    assert field.shape == (80, 60)
    steps = np.abs(np.diff(field, axis=0)).max()
    assert steps < 0.5, "smooth between nodes"
    assert field.std() > 0.2
