"""Other libraries' models beside ours: of the recipe's sizes, of its task, and never from the network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semask import recipes
from semask.benchmark.candidate import Candidate, label_maps, work_of
from semask.benchmark.options import Options
from semask.benchmark.third_party import THIRD_PARTY, PerPixel, third_party
from semask.models.build import build_on_meta
from semask.models.encoders.kinds import encoder_options
from semask.models.flops import cost_of, parameters
from semask.recipes import Recipe, get_recipe
from semask.recipes.decoders import MSDeformOptions
from semask.structures import IGNORE
from tests.facts import facts

SIZE = (64, 96)
CPU = torch.device("cpu")
TINY = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 4}


def tiny(name: str, num_classes: int = 5, **decoder: Any) -> Recipe:
    """Return a recipe over a Swin of a few thousand weights."""
    recipe = get_recipe(name)
    encoder = encoder_options(recipe.model.encoder.name, **TINY)
    spec = replace(recipe.model.decoder, **decoder)
    return replace(recipe, model=replace(recipe.model, encoder=encoder, decoder=spec, num_classes=num_classes))


def tiny_masks() -> Recipe:
    small = {"channels": 64, "heads": 2, "queries": 6, "layers": 1, "feedforward": 16}
    return tiny("ade20k/swin-t-mask2former", **small, pixel_decoder=MSDeformOptions(layers=1, feedforward=16))


def segformer(width: int = 256) -> Recipe:
    recipe = get_recipe("ade20k/segformer-b0")
    decoder = replace(recipe.model.decoder, channels=width)
    return replace(recipe, model=replace(recipe.model, num_classes=5, decoder=decoder))


CASES = {
    "smp FPN": ("smp", lambda: tiny("ade20k/semask-swin-t-fpn")),
    "transformers UPerNet": ("transformers", lambda: tiny("ade20k/semask-swin-t-fpn")),
    "transformers mask2former": ("transformers", tiny_masks),
    "transformers SegFormer": ("transformers", segformer),
    "smp Segformer": ("smp", segformer),
}


@pytest.mark.parametrize("case", CASES)
def test_peers_do_the_same_task(case: str) -> None:
    """From bytes of an odd size to labels of that size, and a training step with pixels that have no label."""
    library, make = CASES[case]
    size = (61, 90) if library == "smp" else SIZE
    found = third_party(library, make(), size)
    assert found.title.startswith(case)
    labels = work_of(found, Options(what="predict", size=size), CPU, 1)()
    assert labels.shape == (1, *size)  # type: ignore[attr-defined]
    assert labels.dtype == torch.uint8  # type: ignore[attr-defined]
    assert int(labels.max()) < 5  # type: ignore[attr-defined]
    loss = found.loss(torch.rand(2, 3, *size), label_maps(5, size, 2))
    assert loss.ndim == 0
    assert torch.isfinite(loss)
    assert loss.requires_grad


def test_segformers_are_of_equal_size() -> None:
    """Theirs, smp's and ours have the same weights but for what each adds to its head, which is wider from B2 on."""
    recipe = segformer(width=384)
    ours = parameters(build_on_meta(recipe))
    for library in ("transformers", "smp"):
        theirs = cost_of(third_party(library, recipe, SIZE).module, SIZE)
        assert theirs.parameters == pytest.approx(ours, rel=0.01)
        assert theirs.all_multiply_adds > 0


def test_mask2formers_are_of_equal_size() -> None:
    recipe = tiny_masks()
    assert parameters(third_party("transformers", recipe, SIZE).module) == pytest.approx(
        parameters(build_on_meta(recipe)), rel=0.01
    )


@pytest.mark.parametrize(
    ("recipe", "title"),
    [
        ("ade20k/fcn-r101", "torchvision fcn_resnet101"),
        ("ade20k/seg-t-mask-16", "torchvision deeplabv3_resnet50"),
    ],
)
def test_torchvision_is_a_yardstick_for_all(recipe: str, title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[tuple[str, dict[str, Any]]] = []
    for name in ("fcn_resnet101", "deeplabv3_resnet50"):

        def build(name: str = name, **given: Any) -> torch.nn.Module:
            built.append((name, given))
            return torch.nn.Identity()

        monkeypatch.setattr(f"torchvision.models.segmentation.{name}", build)
    assert third_party("torchvision", get_recipe(recipe), SIZE).title == title
    assert built == [(title.split()[1], {"weights": None, "weights_backbone": None, "num_classes": 150})]


def test_the_encoder_alone_is_timms() -> None:
    recipe = tiny("ade20k/semask-swin-t-fpn")
    found = third_party("timm", recipe, SIZE)
    maps = found.forward(torch.rand(1, 3, *SIZE))
    assert [tuple(each.shape) for each in maps] == [  # type: ignore[attr-defined]
        (1, 64 // stride, 96 // stride, 16 * stride // 4) for stride in (4, 8, 16, 32)
    ]
    assert found.loss(torch.rand(1, 3, *SIZE), torch.zeros(1, *SIZE)).requires_grad


def test_the_encoder_alone_of_a_vit_and_of_a_resnet() -> None:
    encoder = encoder_options("vit_tiny_patch16_224", patch_size=32)
    vit = third_party("timm", get_recipe("ade20k/seg-t-mask-16").override({"model.encoder": encoder}), (64, 64))
    assert vit.forward(torch.rand(1, 3, 64, 64)).shape == (1, 192)  # type: ignore[attr-defined]
    resnet = third_party("timm", get_recipe("ade20k/fcn-r101"), (64, 64))
    assert len(resnet.forward(torch.rand(1, 3, 64, 64))) == 5  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("library", "recipe", "told"),
    [
        ("transformers", "ade20k/seg-b-mask-16", ("'ade20k/seg-b-mask-16'", "segmenter_mask", "UPerNet")),
        (
            "smp",
            "ade20k/swin-t-mask2former",
            ("'ade20k/swin-t-mask2former'", "mask2former", "SegFormer", "Semantic FPN"),
        ),
        ("timm", "ade20k/segformer-b0", ("timm", "'mit_b0'", "transformers", "smp")),
    ],
)
def test_recipes_without_an_equal(library: str, recipe: str, told: tuple[str, ...]) -> None:
    assert recipe in recipes.list_recipes()
    with pytest.raises(ValueError, match=facts(*told)):
        third_party(library, get_recipe(recipe), SIZE)


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(THIRD_PARTY, "smp", ("segmentation_models_that_are_not_there", *THIRD_PARTY["smp"][1:]))
    with pytest.raises(
        ValueError,
        match=facts("--against smp", "segmentation_models_that_are_not_there", 'pip install "semask[peers]"'),
    ):
        third_party("smp", segformer(), SIZE)


class Constant(torch.nn.Module):
    """Logits of 3 classes at stride 4 that do not depend on the picture."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(len(images), 3, images.shape[2] // 4, images.shape[3] // 4, generator=generator)


def test_per_pixel_peers_are_padded_resized_and_cut() -> None:
    recipe = tiny("ade20k/swin-t-fpn", num_classes=3)
    found = PerPixel(Constant(), recipe, multiple=32)
    images, labels = torch.rand(2, 3, 30, 50), label_maps(3, (30, 50), 2)
    logits = F.interpolate(Constant()(torch.zeros(2, 3, 32, 64)), (32, 64), mode="bilinear")[..., :30, :50]
    np.testing.assert_array_equal(found.labels(images), logits.argmax(1))
    kept = labels != IGNORE
    chosen = logits.log_softmax(1).movedim(1, -1)[kept].gather(1, labels[kept].long()[:, None])
    torch.testing.assert_close(found.loss(images, labels), -chosen.mean())


def test_logits_that_have_the_images_size_are_not_resized_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """smp and torchvision resize them within; a second time would be our doing, and be measured as theirs."""
    found = PerPixel(torch.nn.Identity(), tiny("ade20k/swin-t-fpn", num_classes=3), multiple=32)
    monkeypatch.setattr(F, "interpolate", lambda *_, **__: pytest.fail("resized"))
    assert found.labels(torch.rand(2, 3, 30, 50)).shape == (2, 30, 50)


def test_peers_and_options_name_the_same_libraries() -> None:
    from typing import get_args, get_type_hints

    (inner, _) = get_args(get_type_hints(Options)["against"])
    assert {"reference", *THIRD_PARTY} == set(get_args(inner))
    assert Candidate._fields[0] == "title"
