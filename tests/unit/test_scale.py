from __future__ import annotations

from dataclasses import replace

import pytest

from semask import recipes
from semask.inference.from_recipe import scale_warning, window_warning
from semask.recipes import recipe
from semask.recipes.recipe import DataRecipe
from tests.each import for_each
from tests.facts import missing

BOX = DataRecipe(base_scale=(2048, 512), crop=(512, 512))
OWN = DataRecipe(base_ratio=0.5, crop=(160, 160))


@for_each(recipes.list_recipes())
def test_no_recipe_warns_as_it_is(name: str) -> None:
    spec = recipes.get_recipe(name)
    assert scale_warning(spec.data, spec.data, spec.test) is None


@pytest.mark.parametrize(
    ("trained", "data", "test"),
    [
        (BOX, BOX, recipe.TestRecipe(scales=(0.5, 1.0, 1.75), flip=True)),
        (BOX, replace(BOX, base_scale=(512, 2048)), recipe.TestRecipe()),
        (BOX, replace(BOX, base_scale=(1024, 256)), recipe.TestRecipe(scales=(2.0,))),
        (BOX, BOX, recipe.TestRecipe(mode="sliding")),
        (BOX, BOX, recipe.TestRecipe(mode="whole", window=(64, 64))),
        (OWN, replace(OWN, base_ratio=1.0), recipe.TestRecipe(scales=(0.5,))),
        (OWN, replace(OWN, root="elsewhere", crop=(32, 32)), recipe.TestRecipe()),
    ],
)
def test_the_same_scale_needs_no_warning(trained: DataRecipe, data: DataRecipe, test: recipe.TestRecipe) -> None:
    assert scale_warning(trained, data, test) is None


@pytest.mark.parametrize(
    ("trained", "data", "test", "told"),
    [
        (BOX, BOX, recipe.TestRecipe(scales=(0.5,)), ["2048×512", "1024×256"]),
        (BOX, replace(BOX, base_scale=(2048, 1024)), recipe.TestRecipe(), ["2048×512", "2048×1024"]),
        (BOX, replace(BOX, base_scale=None), recipe.TestRecipe(), ["2048×512"]),
        (BOX, BOX, recipe.TestRecipe(scales=(0.5, 0.75)), ["1024×256", "1536×384"]),
        (
            OWN,
            replace(OWN, base_ratio=1.0),
            recipe.TestRecipe(),
            ["0.5"],
        ),
        (OWN, OWN, recipe.TestRecipe(mode="sliding", window=(160, 96)), ["160×96", "160×160"]),
        (
            OWN,
            replace(OWN, base_ratio=0.25),
            recipe.TestRecipe(mode="sliding", window=(64, 64)),
            ["0.5", "0.25", "64×64"],
        ),
    ],
)
def test_another_scale_is_told(trained: DataRecipe, data: DataRecipe, test: recipe.TestRecipe, told: list[str]) -> None:
    warning = scale_warning(trained, data, test)
    assert warning is not None
    assert missing(warning, *told) == []
    assert "\n" not in warning


SMALL_BOX = DataRecipe(base_scale=(768, 192))
WINDOWS = recipe.TestRecipe(mode="sliding", window=(512, 512))


def test_a_photograph_that_one_window_holds_is_told() -> None:
    """A large one that is made small first: whoever asks for windows wants to see it in full."""
    warning = window_warning(SMALL_BOX, WINDOWS, 2051, 2731)
    assert warning is not None
    assert missing(warning, "2051×2731", "192×256", "--test.scales 11") == []
    assert window_warning(SMALL_BOX, replace(WINDOWS, scales=(11.0,)), 2051, 2731) is None
    warning = window_warning(OWN, WINDOWS, 600, 600)
    assert warning is not None
    assert missing(warning, 0.5, "600×600", "300×300", "--test.scales 2.0") == []


@pytest.mark.parametrize(
    ("data", "test", "size"),
    [
        (SMALL_BOX, recipe.TestRecipe(), (2051, 2731)),
        (SMALL_BOX, WINDOWS, (500, 512)),
        (SMALL_BOX, WINDOWS, (300, 2731)),
        (BOX, WINDOWS, (2051, 2731)),
        (OWN, WINDOWS, (1100, 600)),
        (SMALL_BOX, replace(WINDOWS, enlarge=True), (600, 800)),
    ],
)
def test_windows_that_do_something_need_no_warning(
    data: DataRecipe, test: recipe.TestRecipe, size: tuple[int, int]
) -> None:
    assert window_warning(data, test, *size) is None
