"""Our checkpoint directory: what is saved comes back, what is broken is said."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import semask
from semask import recipes
from semask.checkpoints import store
from semask.checkpoints.record import FORMAT, write_record
from semask.data.classes import Classes
from semask.models.build import build
from semask.recipes import ModelRecipe, Recipe
from semask.recipes.decoders import FaPNOptions, MSFaPNOptions, decoder_options
from semask.recipes.encoders import SemanticLayers, SwinOptions
from tests.each import for_each
from tests.facts import facts

TINY = Recipe(
    name="test/tiny",
    model=ModelRecipe(
        encoder=SwinOptions(
            weights=None,
            embed_dim=16,
            depths=(1, 1, 1, 1),
            num_heads=(1, 1, 2, 2),
            window_size=4,
            semantic=SemanticLayers(),
        ),
        num_classes=2,
    ),
)
CLASSES = Classes.from_dict({"classes": ["cat", "dog"]})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return store.save(build(TINY), tmp_path / "best", classes=CLASSES)


@pytest.mark.parametrize("pixel_decoder", ["fapn", "msfapn"])
def test_shared_tensors_stay_shared(tmp_path: Path, pixel_decoder: str) -> None:
    """FaPN's levels use one norm at two places: trained on, both must move."""
    decoder = decoder_options(
        "mask2former",
        channels=64,
        layers=1,
        pixel_decoder=FaPNOptions() if pixel_decoder == "fapn" else MSFaPNOptions(layers=1),
    )
    encoder = dataclasses.replace(TINY.model.encoder, semantic=None)
    recipe = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, encoder=encoder, decoder=decoder))
    model = build(recipe)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    loaded = store.load(store.save(model, tmp_path / "best")).model
    expected = model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())
    levels = [loaded.decoder.pixel_decoder.finest] if pixel_decoder == "msfapn" else loaded.decoder.pixel_decoder.levels
    for level in levels:
        assert level.align.merge.norm.weight is level.output.norm.weight
        assert level.align.merge.norm.bias is level.output.norm.bias
    assert len(list(loaded.parameters())) == len(list(model.parameters()))


def test_round_trip(tmp_path: Path) -> None:
    model = build(TINY)
    directory = store.save(model, tmp_path / "best", classes=CLASSES)
    bundle = store.load(directory)
    images = torch.rand(1, 3, 40, 56)
    with torch.inference_mode():
        assert torch.equal(bundle.model.scores(images), model.scores(images))
        assert torch.equal(semask.load(str(directory)).labels(images), model.labels(images))
    assert bundle.recipe == TINY
    assert bundle.classes == CLASSES
    assert not bundle.model.training
    assert sorted(path.name for path in directory.iterdir()) == ["model.safetensors", "recipe.json"]


def test_without_classes(tmp_path: Path) -> None:
    assert store.load(store.save(build(TINY), tmp_path)).classes is None


@for_each(recipes.list_recipes())
def test_every_recipe_survives_json(name: str) -> None:
    recipe = recipes.get_recipe(name)
    assert recipes.from_dict(json.loads(json.dumps(recipes.to_dict(recipe)))) == recipe


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=facts(repr(str(tmp_path)), "recipe.json", "model.safetensors", "semask train", "semask convert"),
    ):
        store.load(tmp_path)


def test_broken_record(saved: Path) -> None:
    (saved / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match=facts(repr(str(saved / "recipe.json")), "JSON")):
        store.load(saved)
    (saved / "recipe.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match=facts(repr(str(saved / "recipe.json")), FORMAT)):
        store.load(saved)


def test_unknown_fields_are_named(saved: Path) -> None:
    record = json.loads((saved / "recipe.json").read_text())
    record["recipe"]["optim"]["impetus"] = 0.9
    (saved / "recipe.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=facts("recipe.optim", "impetus", "algorithm, lr, weight_decay")):
        store.load(saved)


def test_weights_of_another_run(saved: Path) -> None:
    other = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, num_classes=3))
    write_record(saved, other)
    with pytest.raises(ValueError, match=facts(repr(str(saved)), 18, "decoder.classify.bias")):
        store.load(saved)


def test_truncated_weights(saved: Path) -> None:
    content = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=facts(repr(str(saved / "model.safetensors")))):
        store.load(saved)


def test_the_public_api_is_lazy_and_complete() -> None:
    assert set(semask.__all__) <= set(dir(semask))
    assert 25 <= len([name for name in semask.__all__ if not isinstance(getattr(semask, name), ModuleType)]) <= 35
    for name in semask.__all__:
        assert getattr(semask, name) is not None
    assert semask.list_recipes() == recipes.list_recipes()
    with pytest.raises(AttributeError, match=facts("semask", "loads")):
        _ = semask.loads
    with pytest.raises(ValueError, match=facts("'ade20k/semask-swin-tt-fpn'", "ade20k/semask-swin-t-fpn")):
        semask.build("ade20k/semask-swin-tt-fpn")
    assert semask.build("scenes/semask-micro-fpn", num_classes=3).num_classes == 3


def test_the_record_is_read_without_torch(saved: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from semask.checkpoints.record import read_recipe; "
        "print(read_recipe(Path(sys.argv[1])).name, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [TINY.name, "False"]
