"""Where scores of whole images are made, on fake tensors: they know devices and sizes that this machine lacks."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from semask.inference import Pipeline, build_predictor, build_prior, rescaled, sliding, tta
from semask.ops import lazy_scores
from semask.ops.lazy_scores import InMemory, LazyScores, Resized
from semask.recipes import recipe
from semask.recipes.recipe import DataRecipe
from tests.facts import facts
from tests.unit.toy_predictors import gradient

GIB = 2**30
PHOTO = (1, 3, 600, 800)
PHOTO_SCORES = 150 * 600 * 800 * 4 / GIB
"""0.27 GiB: four-byte scores of 150 classes at the photograph's own size."""
BUDGET = 0.2
"""[GiB] Less than that, and enough for some bands of 12 MiB each."""


class Peak(TorchDispatchMode):
    """The most memory [GiB] that tensors made in this context held at once on the accelerator."""

    def __init__(self) -> None:
        super().__init__()
        self.gib = 0.0
        self._made: list[weakref.ref[Tensor]] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self._made += [weakref.ref(leaf) for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.is_cuda]
        self._made = [made for made in self._made if made() is not None]
        alive = [tensor for made in self._made if (tensor := made()) is not None]
        storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in alive}
        self.gib = max(self.gib, sum(storages.values()) / GIB)
        return out


class Classes:
    """A model of 150 classes that holds nothing but its scores at stride 4, and a prior of as many."""

    size_multiple = 1
    scores_are_logits = True

    def lazy_scores(self, images: Tensor) -> LazyScores:
        height, width = images.shape[-2:]
        coarse = F.interpolate(images[:, :1], (-(-height // 4), -(-width // 4))).repeat(1, 150, 1, 1)
        return Resized(InMemory(coarse), (height, width))

    lazy_prior = lazy_scores


class FullClasses(Classes):
    """The same at the images' own size."""

    def lazy_scores(self, images: Tensor) -> LazyScores:
        return InMemory(images[:, :1].repeat(1, 150, 1, 1))


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(lazy_scores, "NUMBERS_ON_GPU", 3 * 2**20)  # small ones, for a small budget
    with FakeTensorMode(), torch.inference_mode():
        yield


def photo() -> Tensor:
    return torch.empty(PHOTO, device="cuda")


def peak(predict: Callable[[Tensor], Tensor]) -> tuple[float, str]:
    images = photo()
    with Peak() as memory:
        place = predict(images).device.type
    return memory.gib, place


WINDOWS: dict[str, Any] = {"mode": "sliding", "window": (128, 128), "stride": (128, 128)}
LARGE: dict[str, Any] = {"window": (400, 400), "stride": (400, 400)}
TESTS = {
    "whole": recipe.TestRecipe(memory_budget=BUDGET),
    "windows": recipe.TestRecipe(memory_budget=BUDGET, **WINDOWS),
    "hann": recipe.TestRecipe(memory_budget=BUDGET, blend="hann", batch_size=4, **WINDOWS),
    "whole, tta": recipe.TestRecipe(memory_budget=BUDGET, scales=(0.5, 1.75), flip=True),
    "windows, tta": recipe.TestRecipe(memory_budget=BUDGET, scales=(0.5, 1.75), flip=True, **WINDOWS),
    "enlarged": recipe.TestRecipe(memory_budget=BUDGET, scales=(0.5,), enlarge=True, **WINDOWS),
}
SMALL = DataRecipe(base_scale=(512, 128))


LONG = {"windows, tta"}


@pytest.mark.parametrize(
    "test", [pytest.param(test, id=name, marks=[pytest.mark.slow] * (name in LONG)) for name, test in TESTS.items()]
)
def test_a_photograph_larger_than_its_box_is_scored_within_the_budget(test: recipe.TestRecipe) -> None:
    gib, place = peak(build_predictor(Classes(), test, SMALL))
    assert (gib < BUDGET, place) == (True, "cpu")


def test_a_photograph_of_its_own_size_is_scored_in_windows_within_the_budget() -> None:
    """A row of windows fits: they stay on the device, and whole scores are put together elsewhere."""
    test = recipe.TestRecipe(mode="sliding", memory_budget=BUDGET, **LARGE)
    gib, place = peak(build_predictor(Classes(), test, DataRecipe()))
    assert (gib < BUDGET, place) == (True, "cpu")


def test_a_prior_is_scored_within_the_budget() -> None:
    gib, place = peak(build_prior(Classes(), recipe.TestRecipe(memory_budget=BUDGET), SMALL))
    assert (gib < BUDGET, place) == (True, "cpu")
    gib, place = peak(build_prior(Classes(), recipe.TestRecipe(), SMALL))
    assert (gib > PHOTO_SCORES, place) == (True, "cuda")


def test_bands_are_larger_where_every_call_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    counts = [
        len(list(lazy_scores.iter_row_blocks(InMemory(torch.empty(1, 19, 2048, 1024, device=place)))))
        for place in ("cpu", "cuda")
    ]
    assert counts == [20, 3]


def test_scores_that_a_model_gives_are_not_counted() -> None:
    """A whole photograph at its own size: its scores are the model's."""
    gib, place = peak(build_predictor(FullClasses(), recipe.TestRecipe(memory_budget=BUDGET), DataRecipe()))
    assert (gib > PHOTO_SCORES, place) == (True, "cpu")


CALLS = [
    rescaled(Classes(), box=(160, 120)),
    sliding(Classes(), **LARGE),
    rescaled(sliding(Classes(), **LARGE), ratio=0.9999),
    pytest.param(tta(Classes(), box=(160, 120), ratios=(1.0, 0.5), flip=True), marks=pytest.mark.slow),
    pytest.param(tta(sliding(Classes(), **LARGE), ratios=(0.9999,), flip=True), marks=pytest.mark.slow),
]
BESIDE = 0.25
"""[GiB] Bands of 12 MiB and copies of them, scores at stride 4 of four versions, and the photograph mirrored."""


@pytest.mark.parametrize("predict", CALLS)
def test_one_tensor_of_whole_scores_is_held_and_none_for_labels(predict: Pipeline) -> None:
    gib, place = peak(predict)
    assert place == "cuda"
    assert PHOTO_SCORES * 0.999 < gib < PHOTO_SCORES + BESIDE
    gib, place = peak(lambda images: predict.labelled(images).confidence)
    assert place == "cuda"
    assert gib < BESIDE


@pytest.mark.parametrize(("budget", "place"), [(None, "cuda"), (1.0, "cuda"), (1e-6, "cpu")])
@pytest.mark.parametrize("flip", [False, True])
def test_scores_over_the_budget_are_made_by_the_processor(budget: float | None, place: str, flip: bool) -> None:
    images = torch.empty(1, 3, 20, 30, device="cuda")
    windows = sliding(gradient, window=(8, 8), stride=(4, 4), memory_budget=budget)
    for predict in (
        windows,
        rescaled(windows, ratio=2.0),
        tta(windows, ratios=(0.5, 1.0), flip=flip),
        rescaled(gradient, ratio=0.5, memory_budget=budget),
        tta(gradient, ratios=(1.0,), flip=flip, memory_budget=budget),
    ):
        assert predict(images).device.type == place


def test_the_budget_counts_four_bytes_a_score_at_the_images_own_size() -> None:
    """Whole scores: windows of a row need less, and are summed where the model is."""
    needed = 2 * 6 * 20 * 30 * 4 / GIB
    images = torch.empty(2, 3, 20, 30, device="cuda")
    for budget, place in ((needed, "cuda"), (math.nextafter(needed, 0), "cpu")):
        for predict in (
            sliding(gradient, window=(8, 8), stride=(8, 8), memory_budget=budget),
            rescaled(gradient, memory_budget=budget),
            rescaled(gradient, ratio=0.5, memory_budget=budget),
            rescaled(gradient, ratio=2.0, memory_budget=budget),
            tta(gradient, ratios=(0.5, 2.0), memory_budget=budget),
        ):
            assert predict(images).device.type == place


@pytest.mark.parametrize("budget", [0.0, -1.0, math.nan])
def test_no_budget_at_all_is_refused(budget: float) -> None:
    for make in (
        lambda: sliding(gradient, window=(8, 8), stride=(8, 8), memory_budget=budget),
        lambda: rescaled(gradient, memory_budget=budget),
        lambda: tta(gradient, ratios=(1.0,), memory_budget=budget),
    ):
        with pytest.raises(ValueError, match=facts("memory_budget", 0, budget)):
            make()
