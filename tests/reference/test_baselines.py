"""mmsegmentation's baselines against itself: features, logits of all heads, label maps."""

from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from semask import recipes
from semask.checkpoints.convert import convert
from tests.reference.synthetic_weights import FIXTURES, arrays, assert_close, checkpoint, layout, synthetic_image

FOLDER = "mmsegmentation"
CASES = {
    "fcn_r101_d8_150_64x96": "ade20k/fcn-r101",
    "ccnet_r101_d8_150_64x96": "ade20k/ccnet-r101",
    "psanet_r101_d8_150_64x96": "ade20k/psanet-r101",
    "deeplabv3plus_r101_d8_150_64x96": "ade20k/deeplabv3plus-r101",
    "deeplabv3plus_r101_d8_150_305x321": "ade20k/deeplabv3plus-r101",
    "ocrnet_hr48_150_64x96": "ade20k/ocrnet-hr48",
    "semfpn_r50_150_64x96": "ade20k/semfpn-r50",
    "upernet_swin_t_150_64x96": "ade20k/upernet-swin-t",
    "upernet_swin_t_150_97x131": "ade20k/upernet-swin-t",
}
# The only one that sees the dilations 24 and 36, which a test of the builder looks at too, and it takes 10 s.
LARGE = "deeplabv3plus_r101_d8_150_305x321"
OTHERS = ("segformer", "segmenter", "setr")
"""Fixtures of other tests."""
TOLERANCE = 1e-4
RESNET101: dict[str, Tensor] = {}
"""Its tensors, which five checkpoints share."""


@lru_cache(maxsize=1)
def converted(recipe: str):
    name = next(name for name, of in CASES.items() if of == recipe)
    return convert(checkpoint(f"{FOLDER}/{name}", RESNET101 if "_r101_" in name else None), recipe)


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow if name == LARGE else ()) for name in CASES]
)
def case(request: pytest.FixtureRequest) -> SimpleNamespace:
    """A fixture, our model of it, and what the model makes of the fixture's image."""
    name = f"{FOLDER}/{request.param}"
    spec, model = layout(name), converted(CASES[request.param]).model
    normalised = synthetic_image(**{key: value for key, value in spec["input"].items() if key != "fn"})
    image = normalised * model.std + model.mean
    with torch.inference_mode():
        features = model.encode(image)
        out = model.decode(features).main
    scores = out.scores(image.shape[-2:])
    return SimpleNamespace(
        spec=spec, stored=arrays(name), model=model, image=image, maps=features.maps, out=out, scores=scores
    )


def test_every_fixture_is_covered() -> None:
    stored = {path.name.removesuffix(".npz") for path in (FIXTURES / FOLDER).glob("*.npz")}
    assert {name for name in stored if not name.startswith(OTHERS)} == set(CASES)


def test_features(case: SimpleNamespace) -> None:
    for stage, feature in enumerate(case.maps):
        assert_close(case.stored, f"feat_stage{stage}", feature, TOLERANCE)
    neck = getattr(case.model.decoder, "neck", None)
    if neck is not None:
        with torch.inference_mode():
            levels = neck(case.maps)
        for stage, level in enumerate(levels):
            assert_close(case.stored, f"neck_stage{stage}", level, TOLERANCE)
    assert (neck is not None) == any(key.startswith("neck_") for key in case.stored)


def test_logits_of_every_head(case: SimpleNamespace) -> None:
    assert_close(case.stored, "main_logits", case.out.logits, TOLERANCE)
    heads = [name for name in ("aux_logits", "stage0_logits") if f"{name}/shape" in case.stored]
    assert len(heads) == len(case.out.auxiliary)
    for name, head in zip(heads, case.out.auxiliary, strict=True):
        assert_close(case.stored, name, head.logits, TOLERANCE)


def test_labels(case: SimpleNamespace) -> None:
    """Two scores nearer than the tolerance may change places."""
    assert_close(case.stored, "main_up", case.scores, TOLERANCE)
    first, second = case.scores.topk(2, dim=1).values.unbind(1)
    clear = (first - second > TOLERANCE).numpy()
    assert clear.size - clear.sum() <= 2 * case.spec["argmax_pixels_with_margin_below_1e-4"]
    labels = case.scores.argmax(1).numpy()
    np.testing.assert_array_equal(labels[clear], case.stored["main_up/argmax"][clear])


def test_parameters(case: SimpleNamespace) -> None:
    counted = {
        "backbone": sum(p.numel() for p in case.model.encoder.parameters()),
        "auxiliary_head": sum(p.numel() for name, p in case.model.named_parameters() if ".heads." in name),
        "total": sum(p.numel() for p in case.model.parameters()),
    }
    published = case.spec["parameters"]
    assert counted == {part: published.get(part, 0) for part in counted}


@pytest.mark.parametrize("name", ["upernet_swin_t_150_64x96"])
def test_scores_are_of_the_main_head_alone(name: str) -> None:
    conversion = converted(CASES[name])
    model = conversion.model
    calls: list[int] = []
    handle = model.decoder.heads[0].register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        scores = model.scores(torch.rand(1, 3, 64, 96))
    handle.remove()
    assert scores.shape == (1, 150, 64, 96)
    assert not calls
    assert conversion.layout == "mmsegmentation's upernet"
    assert conversion.recipe == recipes.get_recipe(CASES[name])
