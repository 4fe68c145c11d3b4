"""Mask2Former and MaskFormer of the library transformers: their checkpoints here, ours there, the same numbers."""

import dataclasses
import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from semask import recipes
from semask.checkpoints import store
from semask.checkpoints.convert import convert, load_published
from semask.checkpoints.transformers.export import write_transformers
from semask.checkpoints.transformers.keys import untranslate
from semask.cli import main as cli
from semask.data.classes import Classes
from semask.models.build import build, build_on_meta
from semask.recipes import DataRecipe, ModelRecipe, Recipe
from semask.recipes.decoders import (
    Mask2FormerOptions,
    MaskFormerOptions,
    MSDeformOptions,
)
from semask.recipes.encoders import SwinOptions
from semask.structures import MaskLogits
from tests.facts import facts, missing

NAMES = ("mask2former", "maskformer")
TOLERANCE = 1e-4
STAGES = ["stage1", "stage2", "stage3", "stage4"]
CLASSES = Classes.from_dict(
    {
        "classes": ["sky", "road", "tree", "car", "sign", "wall", "grass"],
        "labels": {"0": "ignore"} | {str(value): value - 1 for value in range(1, 8)},
    }
)
WIDTHS = {"channels": 64, "queries": 10, "heads": 4, "feedforward": 64}
DECODERS = {
    "mask2former": Mask2FormerOptions(**WIDTHS, layers=4, pixel_decoder=MSDeformOptions(layers=2, feedforward=48)),
    "maskformer": MaskFormerOptions(**WIDTHS, layers=3),
}


def recipe_of(name: str) -> Recipe:
    encoder = SwinOptions(
        weights=None, embed_dim=32, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8), window_size=4, drop_path=0.3
    )
    return Recipe(
        name=f"test/{name}",
        model=ModelRecipe(encoder=encoder, decoder=DECODERS[name], num_classes=7),
        data=DataRecipe(base_scale=(96, 64)),
    )


@pytest.fixture(scope="module")
def library() -> SimpleNamespace:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers
        from transformers.models.maskformer.configuration_maskformer import MaskFormerDetrConfig
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    classes = {
        "mask2former": transformers.Mask2FormerForUniversalSegmentation,
        "maskformer": transformers.MaskFormerForInstanceSegmentation,
    }
    return SimpleNamespace(all=transformers, classes=classes, detr=MaskFormerDetrConfig)


def their_model(library: SimpleNamespace, name: str) -> torch.nn.Module:
    """Build a tiny model whose every parameter tells, by configurations of theirs alone."""
    swin = library.all.SwinConfig(
        embed_dim=32, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], window_size=4, out_features=STAGES
    )
    sizes = {"mask_feature_size": 64, "num_labels": 7, "backbone_config": swin}
    if name == "mask2former":
        config = library.all.Mask2FormerConfig(
            feature_size=64,
            hidden_dim=64,
            encoder_feedforward_dim=48,
            encoder_layers=2,
            decoder_layers=5,
            num_attention_heads=4,
            dim_feedforward=64,
            num_queries=10,
            **sizes,
        )
    else:
        detr = library.detr(d_model=64, decoder_layers=3, decoder_ffn_dim=64, decoder_attention_heads=4, num_queries=10)
        config = library.all.MaskFormerConfig(fpn_feature_size=64, decoder_config=detr, **sizes)
    torch.manual_seed(3)
    model = library.classes[name](config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim == 1 else 0.08))
    return model


@pytest.fixture(scope="module", params=NAMES)
def published(request: pytest.FixtureRequest, library: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory):
    """Their model, the folder it is saved in, and ours of that folder."""
    model, recipe = their_model(library, request.param), recipe_of(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    ours = load_published(folder, recipe)
    return SimpleNamespace(name=request.param, model=model, folder=folder, recipe=recipe, ours=ours)


def their_predictions(name: str, model: torch.nn.Module, pixels: torch.Tensor) -> MaskLogits:
    """All predictions of their model for normalised images."""
    if name == "mask2former":
        out = model(pixels, output_auxiliary_logits=True)
        earlier = [(one["class_queries_logits"], one["masks_queries_logits"]) for one in out.auxiliary_logits]
    else:
        # Theirs leaves the last norm out of what it predicts from earlier layers; MaskFormer has it.
        out = model(pixels, output_hidden_states=True)
        norm = model.model.transformer_module.decoder.layernorm
        earlier = []
        for queries in map(norm, out.transformer_decoder_hidden_states[1:-1]):
            masks = torch.einsum("bqc,bchw->bqhw", model.mask_embedder(queries), out.pixel_decoder_last_hidden_state)
            earlier.append((model.class_predictor(queries), masks))
    auxiliary = tuple(MaskLogits(*pair) for pair in earlier)
    return MaskLogits(out.class_queries_logits, out.masks_queries_logits, auxiliary)


def assert_same(ours: MaskLogits, theirs: MaskLogits) -> None:
    assert len(ours.auxiliary) == len(theirs.auxiliary)
    for mine, other in zip((*ours.auxiliary, ours), (*theirs.auxiliary, theirs), strict=True):
        assert other.class_logits.std() > 0.1, "nothing would be seen in logits that are all alike"
        assert other.mask_logits.std() > 0.1
        torch.testing.assert_close(mine.class_logits, other.class_logits, rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(mine.mask_logits, other.mask_logits, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("size", [(64, 96), (70, 90)])
def test_their_checkpoint_computes_the_same_here(published: SimpleNamespace, size: tuple[int, int]) -> None:
    ours = published.ours
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        theirs = their_predictions(published.name, published.model, ours.prepare(images))
        assert_same(ours(images).main, theirs)
        height, width = (-(-side // 32) * 32 for side in size)
        masks = torch.nn.functional.interpolate(theirs.mask_logits, (height, width), mode="bilinear")
        scores = torch.einsum("bqk,bqhw->bkhw", theirs.class_logits.softmax(-1)[..., :-1], masks.sigmoid())
        torch.testing.assert_close(ours.scores(images), scores[..., : size[0], : size[1]], rtol=0, atol=TOLERANCE)


def test_sides_that_are_no_multiples_of_the_stride(published: SimpleNamespace) -> None:
    """As their library takes them, without padding: odd maps, whose windows, merges and levels are padded inside."""
    ours = published.ours
    pixels = torch.randn(1, 3, 71, 90, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        assert_same(ours.decoder(ours.encoder(pixels)), their_predictions(published.name, published.model, pixels))


def test_names_in_memory_and_of_files_are_one(published: SimpleNamespace, tmp_path: Path) -> None:
    torch.save(published.model.state_dict(), tmp_path / "pytorch_model.bin")
    found = load_published(tmp_path, published.recipe).state_dict()
    assert all(torch.equal(found[key], value) for key, value in published.ours.state_dict().items())


def test_what_lies_beside_is_compared(published: SimpleNamespace, tmp_path: Path) -> None:
    conversion = convert(published.folder, published.recipe)
    agreed = conversion.beside
    assert missing(agreed, "config.json") == []
    assert missing(conversion.layout, "transformers") == []
    assert conversion.classes is None, "LABEL_6 is no name"
    (tmp_path / "model.safetensors").hardlink_to(published.folder / "model.safetensors")
    conversion = convert(tmp_path / "model.safetensors", published.recipe)
    assert missing(conversion.beside, "config.json") == []
    assert conversion.beside != agreed
    assert conversion.classes is None


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        (None, "num_attention_heads", 8),
        (None, "num_attention_heads", None),
        (None, "pre_norm", True),
        ("backbone_config", "layer_norm_eps", 1e-6),
        ("backbone_config", "hidden_act", "relu"),
    ],
)
def test_a_config_of_another_model_is_refused(tmp_path: Path, section: str | None, field: str, value: object) -> None:
    """No tensor's shape tells these; a field that is absent means what it means there."""
    recipe = recipe_of("mask2former")
    write_transformers(tmp_path, build(recipe), recipe)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    place = config[section] if section else config
    if value is None:
        del place[field]
    else:
        place[field] = value
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=facts("config.json", "'test/mask2former'") + rf".*\b{field}\b"):
        load_published(tmp_path, recipe)


def test_another_normalisation_is_refused(tmp_path: Path) -> None:
    recipe = recipe_of("maskformer")
    write_transformers(tmp_path, build(recipe), recipe)
    path = tmp_path / "preprocessor_config.json"
    assert load_published(tmp_path, recipe)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_mean": [0.5, 0.5, 0.5]}))
    with pytest.raises(
        ValueError, match=facts("preprocessor_config.json", "image_mean", [0.5, 0.5, 0.5], (0.485, 0.456, 0.406))
    ):
        load_published(tmp_path, recipe)
    path.write_text(f'{{"image_mean": [{"9" * 400}, 0, 0]}}')
    with pytest.raises(ValueError, match=r"image_mean\b.* \[9{70,80}\b.*\(0\.485, 0\.456, 0\.406\)"):
        load_published(tmp_path, recipe)
    path.write_text("{" + " " * 1_000_000 + "}")
    with pytest.raises(ValueError, match=facts(repr(str(path)), 1000000)):
        load_published(tmp_path, recipe)
    path.write_text("{")
    with pytest.raises(ValueError, match=facts(repr(str(path)))):
        load_published(tmp_path, recipe)


def test_another_class_count(published: SimpleNamespace) -> None:
    conversion = convert(published.folder, published.recipe, num_classes=3)
    assert set(conversion.fresh) == {f"decoder.predictor.head.classify.{kind}" for kind in ("weight", "bias")}
    assert conversion.classes is None
    with pytest.raises(ValueError, match=facts(7, 150, "num_classes=150")):
        load_published(published.model.state_dict(), f"ade20k/swin-t-{published.name}")


def test_the_decoder_of_the_other_recipe(published: SimpleNamespace) -> None:
    other = next(name for name in NAMES if name != published.name)
    with pytest.raises(ValueError, match=facts(f"'test/{other}'")) as error:
        load_published(published.folder, recipe_of(other))
    assert "model.pixel_level_module.decoder." in str(error.value), "in the file's own names"


def test_a_file_of_full_size_finds_its_recipe() -> None:
    recipe = recipes.get_recipe("cityscapes/swin-t-mask2former")
    hollow = {key: torch.empty_like(value, device="meta") for key, value in build_on_meta(recipe).state_dict().items()}
    with pytest.raises(ValueError, match=facts("'ade20k/swin-t-maskformer'", "'cityscapes/swin-t-mask2former'")):
        load_published(untranslate(hollow, recipe), "ade20k/swin-t-maskformer")


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=facts(repr(str(tmp_path)), "model.safetensors", "pytorch_model.bin")):
        load_published(tmp_path, recipe_of("maskformer"))
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match=facts(repr(str(tmp_path)), "model.safetensors.index.json", "max_shard_size")):
        load_published(tmp_path, recipe_of("maskformer"))


@pytest.mark.parametrize("name", NAMES)
def test_our_checkpoint_computes_the_same_there(library: SimpleNamespace, name: str, tmp_path: Path) -> None:
    recipe = recipe_of(name)
    torch.manual_seed(4)
    ours = build(recipe)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.2 if parameter.ndim == 1 else 0.08))
    folder = write_transformers(tmp_path / "hub", ours, recipe, CLASSES)
    theirs, report = library.classes[name].from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    assert not theirs.training
    assert theirs.config.id2label == dict(enumerate(CLASSES.names))
    assert theirs.config.label2id["grass"] == 6
    assert theirs.config.backbone_config.drop_path_rate == 0.3
    images = torch.rand(2, 3, 70, 90)
    with torch.inference_mode():
        assert_same(ours(images).main, their_predictions(name, theirs, ours.prepare(images)))
    back = convert(folder, recipe)
    assert back.classes is not None
    assert back.classes.names == CLASSES.names
    assert back.beside is not None
    assert missing(back.beside, "config.json", "preprocessor_config.json") == []
    found = back.model.state_dict()
    assert all(torch.equal(found[key], value) for key, value in ours.state_dict().items())
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_their_processor_prepares_images_as_we_do(library: SimpleNamespace, name: str, tmp_path: Path) -> None:
    recipe = recipe_of(name)
    model = build(recipe)
    write_transformers(tmp_path, model, recipe, CLASSES)
    processor = library.all.AutoImageProcessor.from_pretrained(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    label = np.full((64, 96), 3, np.uint8)
    label[:16] = 0
    inputs = processor(image, label, return_tensors="pt")
    ours = model.prepare(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
    torch.testing.assert_close(inputs["pixel_values"], ours, rtol=0, atol=1e-5)
    assert inputs["class_labels"][0].tolist() == [2], "files count from 1, and 0 is ignored"
    assert inputs["mask_labels"][0].sum() == 48 * 96
    large = processor(np.zeros((320, 480, 3), np.uint8), return_tensors="pt")["pixel_values"]
    assert large.shape[-2:] == (64, 96)


REFUSED = {
    "ade20k/semask-swin-l-mask2former": (),
    "ade20k/swin-t-fapn-mask2former": ("'msdeform'", "'fapn'"),
    "ade20k/swin-t-msfapn-mask2former": ("'msdeform'", "'msfapn'"),
    "ade20k/resnet50-maskformer": ("'resnet50.tv_in1k'",),
    "ade20k/swin-t-fpn": ("'semantic_fpn'",),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_be_written(name: str, tmp_path: Path) -> None:
    model = build(recipe_of("maskformer"))
    with pytest.raises(
        ValueError, match=facts("transformers", repr(name), *REFUSED[name], "ade20k/swin-t-mask2former")
    ):
        write_transformers(tmp_path / "out", model, recipes.get_recipe(name))
    assert not (tmp_path / "out").exists()


def test_widths_that_leave_no_projection(tmp_path: Path) -> None:
    recipe = recipe_of("maskformer")
    decoder = dataclasses.replace(recipe.model.decoder, channels=256)
    recipe = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, decoder=decoder))
    with pytest.raises(ValueError, match=facts("MaskFormer", 256)):
        write_transformers(tmp_path, build(recipe), recipe)


def test_files_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensors, path, metadata) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("no space left")

    recipe = recipe_of("maskformer")
    monkeypatch.setattr("semask.checkpoints.transformers.export.save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        write_transformers(tmp_path / "out", build(recipe), recipe)
    assert list((tmp_path / "out").iterdir()) == []


def test_the_command_writes_a_checkpoint_for_the_library(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_of("mask2former")
    model = build(recipe)
    source, out = store.save(model, tmp_path / "best", classes=CLASSES), tmp_path / "hub"
    arguments = ["convert", str(source), "transformers", str(out)]
    assert cli.main(arguments) == 0
    assert f"Mask2FormerForUniversalSegmentation.from_pretrained('{out}')" in capsys.readouterr().out
    again = load_published(out, recipe).state_dict()
    assert all(torch.equal(again[key], value) for key, value in model.state_dict().items())
    assert cli.main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert cli.main([*arguments, "--overwrite"]) == 0
    assert cli.main(["convert", str(source), "transformers", str(tmp_path / "b"), "--num-classes", "3"]) == 2
    assert missing(capsys.readouterr().err, "--num-classes", "--trust", "'transformers'") == []
    assert cli.main(["convert", str(tmp_path / "none"), "transformers", str(tmp_path / "b")]) == 2
    assert missing(capsys.readouterr().err, repr(str(tmp_path / "none"))) == []
    (tmp_path / "none").mkdir()
    assert cli.main(["convert", str(tmp_path / "none"), "transformers", str(tmp_path / "b")]) == 2
    assert missing(capsys.readouterr().err, repr(str(tmp_path / "none")), "recipe.json", "model.safetensors") == []
