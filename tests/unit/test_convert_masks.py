"""detectron2's files of mask classification, as they are written: wrapped, of an older layout, of another class count."""

import dataclasses
import re
from collections import OrderedDict, defaultdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from semask import recipes
from semask.checkpoints.convert import convert, load_published
from semask.checkpoints.rules.detectron2 import CLASS_TENSORS, translate
from semask.models.build import build
from semask.recipes import Recipe
from semask.recipes.decoders import PixelDecoderOptions
from tests.facts import facts
from tests.reference.synthetic_weights import hollow_checkpoint

NAMES = ("maskformer", "mask2former", "fapn-mask2former", "msfapn-mask2former")
PIXEL_DECODER = "sem_seg_head.pixel_decoder."


def fixture_of(name: str) -> str:
    return f"semask_swin_l_{name.replace('-', '_')}_150_64x96"


def small_levels(options: PixelDecoderOptions) -> PixelDecoderOptions:
    """The same pixel decoder with two narrow layers, where it has layers."""
    return dataclasses.replace(options, layers=2, feedforward=16) if hasattr(options, "layers") else options


def slim(name: str) -> Recipe:
    """The published recipe at a fraction of its depths and widths."""
    recipe = recipes.get_recipe(f"ade20k/semask-swin-l-{name}")
    encoder = dataclasses.replace(
        recipe.model.encoder, embed_dim=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), window_size=4
    )
    decoder = dataclasses.replace(
        recipe.model.decoder,
        layers=2,
        channels=64,
        queries=5,
        feedforward=16,
        pixel_decoder=small_levels(recipe.model.decoder.pixel_decoder),
    )
    model = dataclasses.replace(recipe.model, encoder=encoder, decoder=decoder, num_classes=7)
    return dataclasses.replace(recipe, model=model)


def as_published(model: torch.nn.Module, name: str, recipe: Recipe) -> dict[str, Tensor]:
    """The model's tensors under the names of a published file, with what such a file holds besides."""
    hollow, ours = hollow_checkpoint(fixture_of(name)), model.state_dict()
    names = translate(hollow, recipe).names
    assert set(ours) < set(names)
    parts: dict[str, list[Tensor]] = defaultdict(list)
    for mine, theirs in names.items():
        if mine in ours:
            parts[theirs].append(ours[mine])
    rest = {key: torch.zeros(3) for key in set(hollow) - set(names.values())}
    assert {"criterion.empty_weight"} < set(rest)
    return {key: torch.cat(value) if len(value) > 1 else value[0] for key, value in parts.items()} | rest


@pytest.fixture(scope="module", params=NAMES)
def published(request: pytest.FixtureRequest) -> tuple[str, Recipe, torch.nn.Module, dict[str, Tensor]]:
    recipe = slim(request.param)
    torch.manual_seed(0)
    model = build(recipe)
    return request.param, recipe, model, as_published(model, request.param, recipe)


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    other = b.state_dict()
    return all(torch.equal(value, other[key]) for key, value in a.state_dict().items())


def test_as_detectron2_saves_it(published, tmp_path: Path) -> None:
    name, recipe, model, tensors = published
    state = OrderedDict(tensors)
    state._metadata = OrderedDict({"": {"version": 1}, "sem_seg_head": {"version": 2}})
    optimizer = torch.optim.AdamW(model.decoder.predictor.parameters()).state_dict()
    scheduler = {"base_lrs": [1e-4], "last_epoch": 159999, "_last_lr": [0.0]}
    whole = {"model": state, "optimizer": optimizer, "scheduler": scheduler, "iteration": 159999}
    torch.save(whole, tmp_path / "model_final.pth")
    conversion = convert(tmp_path / "model_final.pth", recipe)
    assert conversion.loaded == len(model.state_dict())
    assert equal(conversion.model, model)
    assert conversion.classes is None, "the packaged table has another number of classes"
    if "fapn" in name:
        level = conversion.model.decoder.pixel_decoder
        level = level.finest if name.startswith("ms") else level.levels[0]
        assert level.align.merge.norm is level.output.norm


def test_of_the_older_layout(published) -> None:
    """Without the pixel decoder's part in the names, and without PyTorch's metadata."""
    name, recipe, model, tensors = published
    older = {
        key.replace(PIXEL_DECODER, "sem_seg_head.").replace(".query_feat.", ".static_query."): value
        for key, value in tensors.items()
    }
    assert ("sem_seg_head.predictor.static_query.weight" in older) == (name != "maskformer")
    assert any(key.startswith(("sem_seg_head.adapter_1", "sem_seg_head.align_1")) for key in older)
    assert equal(load_published({"model": older}, recipe), model)


def test_arrays_on_request(published, tmp_path: Path) -> None:
    _, recipe, model, tensors = published
    arrays = {key: value.numpy() for key, value in tensors.items()}
    torch.save({"model": arrays, "__author__": "third_party", "matching_heuristics": True}, tmp_path / "model.pkl")
    with pytest.raises(ValueError, match=facts("model.pkl", "numpy", "--trust")):
        load_published(tmp_path / "model.pkl", recipe)
    assert equal(load_published(tmp_path / "model.pkl", recipe, trust=True), model)


def test_another_class_count(published) -> None:
    """The classes are the last layer's rows but one, and the semantic layers' queries and keys."""
    _, recipe, model, tensors = published
    conversion = convert(tensors, recipe, num_classes=4)
    assert len(conversion.fresh) == 4 * 4 + 2
    state = conversion.model.state_dict()
    assert state["decoder.predictor.head.classify.weight"].shape == (5, 64)
    for key, value in model.state_dict().items():
        assert (key in conversion.fresh) == bool(CLASS_TENSORS.fullmatch(key))
        assert key in conversion.fresh or torch.equal(state[key], value), key
    larger = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, num_classes=19))
    with pytest.raises(ValueError, match=facts(7, 19, "num_classes=7")):
        load_published(tensors, larger)


@pytest.mark.parametrize("published", [name for name in NAMES if "fapn" in name], indirect=True)
def test_copies_of_a_shared_norm_that_differ(published) -> None:
    _, recipe, _, tensors = published
    changed = dict(tensors)
    key = next(key for key in tensors if re.search(r"align_1\.offset\.norm\.weight$", key))
    changed[key] = tensors[key] + 1
    with pytest.raises(
        ValueError, match=facts("sem_seg_head.pixel_decoder.layer_1.norm.weight", key, repr(recipe.name))
    ):
        load_published(changed, recipe)


@pytest.mark.parametrize("name", ["maskformer", "msfapn-mask2former"])
def test_a_recipe_that_fits_is_named(name: str) -> None:
    wrong = "cityscapes/swin-t-mask2former"
    with pytest.raises(ValueError, match=facts(repr(wrong), f"'ade20k/semask-swin-l-{name}'", 150, 19)):
        load_published(hollow_checkpoint(fixture_of(name)), wrong)


def test_only_encoders_that_fit_are_built_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are over a hundred recipes, and building one takes up to seconds."""
    from semask.checkpoints import convert as module

    built = []
    original = module._tensors_of
    monkeypatch.setattr(module, "_tensors_of", lambda recipe: built.append(recipe.name) or original(recipe))
    tensors = hollow_checkpoint(fixture_of("msfapn-mask2former"))
    assert (
        module.fitting_recipe(tensors, recipes.get_recipe("ade20k/swin-t-fpn"))
        == "ade20k/semask-swin-l-msfapn-mask2former"
    )
    assert set(built) <= {f"ade20k/semask-swin-l-{name}" for name in (*NAMES, "fpn")}
    built.clear()
    assert (
        module.fitting_recipe({**tensors, "backbone.odd": torch.zeros(1)}, recipes.get_recipe("ade20k/swin-t-fpn"))
        is None
    )


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "model_final.pth"
    torch.save({"model": {"sem_seg_head.predictor.query_embed.weight": torch.zeros(100, 256)}}, path)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(ValueError, match=facts("model_final.pth", "RuntimeError")):
        load_published(path, "ade20k/semask-swin-l-maskformer")
