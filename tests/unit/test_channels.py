"""More or fewer channels than three, from the encoders' first layer to a trained and used checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import timm
import torch
from PIL import Image
from timm.models._manipulate import adapt_input_conv
from torch import nn

from semask.checkpoints import store
from semask.checkpoints.predict import predict
from semask.checkpoints.pretrained import check_normalisation, inflate, load_encoder
from semask.checkpoints.transformers.config import require_expressible
from semask.cli.evaluate import EvaluateOptions, evaluate
from semask.cli.train import train
from semask.data.readers.image import probe_image, read_label
from semask.models.build import build, build_encoder
from semask.models.encoders.kinds import encoder_options
from semask.models.flops import measure
from semask.recipes import (
    DataRecipe,
    ModelRecipe,
    OptimRecipe,
    Recipe,
    TrainRecipe,
    get_recipe,
)
from semask.recipes.decoders import decoder_options
from semask.recipes.encoders import SemanticLayers
from semask.training.options import RunOptions
from tests.contracts.test_families import CROP, FAMILIES
from tests.facts import facts

SWIN = encoder_options('swin_tiny_patch4_window7_224', weights=None, embed_dim=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))  # fmt: skip
ENCODERS = {
    "swin": SWIN,
    "mit": encoder_options("mit_b0"),
    "vit": encoder_options("vit_tiny_patch16_224", image_size=(32, 32)),
    "convnext": encoder_options("convnext_atto"),
    **{family: FAMILIES[family] for family in ("hrnet", "twins", "hiera", "edgenext", "vit_pyramid")},
}


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("channels", [1, 5])
def test_every_kind_of_encoder_reads_other_channels(family: str, channels: int) -> None:
    encoder = build_encoder(ENCODERS[family], 3, crop=CROP, channels=channels).eval()
    images = torch.rand(1, channels, *CROP)
    with torch.no_grad():
        maps, changed = encoder(images).maps, encoder(images.flip(1)).maps
    assert len(maps) == len(encoder.strides)
    if channels > 1:
        assert not torch.equal(maps[0], changed[0]), "channels are told apart"
    assert not any(
        isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1 for module in encoder.modules()
    )


def test_a_backbone_of_colours_alone_is_refused() -> None:
    with pytest.raises(ValueError, match=facts("'csatv2'", "RGB", 4, "--data.channels 3")):
        build_encoder(encoder_options("csatv2"), 3, channels=4)


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 13])
def test_inflation_is_timms(channels: int) -> None:
    weight = torch.randn(8, 3, 4, 4)
    got = inflate(weight, channels)
    torch.testing.assert_close(got, adapt_input_conv(channels, weight))
    if channels in (1, 6):
        grey = torch.rand(2, 1, 16, 16)
        alike = nn.functional.conv2d(grey.expand(-1, channels, -1, -1), got)
        torch.testing.assert_close(alike, nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weight))


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("swin_tiny_patch4_window7_224", "patch_embed.proj.weight"),
        ("vit_tiny_patch16_224", "patch_embed.proj.weight"),
        ("resnet18", "conv1.weight"),
        ("hrnet_w18_small", "conv1.weight"),
    ],
)
def test_weights_over_colours_fill_an_encoder_of_bands(name: str, stem: str, tmp_path: Path) -> None:
    source = timm.create_model(name, num_classes=0).state_dict()
    torch.save(source, tmp_path / "weights.pth")
    encoder = build_encoder(encoder_options(name), 3, channels=5)
    report = load_encoder(encoder, name, str(tmp_path / "weights.pth"))
    assert report.share > 0.98
    assert not [key for key in report.missing if key == stem]
    filled = [value for key, value in encoder.state_dict().items() if key.endswith(stem) and value.shape[1] == 5]
    torch.testing.assert_close(filled[0], adapt_input_conv(5, source[stem]))


def test_statistics_of_weights_say_nothing_of_bands() -> None:
    check_normalisation("resnet18.a1_in1k", (0.1,) * 5, (0.2,) * 5)
    with pytest.raises(
        ValueError,
        match=facts(
            "'resnet18.a1_in1k'", "0.1 0.1 0.1", "--model.mean 0.485 0.456 0.406 --model.std 0.229 0.224 0.225"
        ),
    ):
        check_normalisation("resnet18.a1_in1k", (0.1,) * 3, (0.2,) * 3)


def test_a_model_needs_statistics_of_every_channel() -> None:
    recipe = Recipe(name="x", model=ModelRecipe(encoder=SWIN), data=DataRecipe(channels=4))
    with pytest.raises(ValueError, match=facts(4, "--model.mean", "--model.std", 3)):
        build(recipe)


@pytest.fixture
def bands(tmp_path: Path) -> DataRecipe:
    """Five bands of 16 bits; what the label says is in the fourth alone."""
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for index in range(count):
            image, label = tmp_path / f"images/{split}/p{index}.tif", tmp_path / f"labels/{split}/p{index}.png"
            for path in (image, label):
                path.parent.mkdir(parents=True, exist_ok=True)
            ids = np.zeros((40, 48), np.uint8)
            ids[:, int(random.integers(12, 36)) :] = 1
            stored = random.integers(20000, 40000, (5, 40, 48), dtype=np.uint16)
            stored[3] = np.where(ids == 1, 60000, 3000)
            tifffile.imwrite(image, stored, photometric="minisblack", planarconfig="separate", compression="deflate")
            Image.fromarray(ids).save(label)
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["left", "right"]}))
    return DataRecipe(root=str(tmp_path), crop=(32, 32), channels=5, image_suffix=".tif")


def test_bands_train_evaluate_and_predict(bands: DataRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMASK_CACHE", str(tmp_path / "cache"))
    statistics = {"mean": (0.45, 0.45, 0.45, 0.5, 0.45), "std": (0.1, 0.1, 0.1, 0.4, 0.1)}
    recipe = Recipe(
        name="bands",
        model=ModelRecipe(
            encoder=replace(SWIN, semantic=SemanticLayers()),
            decoder=decoder_options("semantic_fpn", channels=16),
            num_classes=2,
            **statistics,
        ),
        data=replace(bands, copy_paste=0.5, rare_crops=0.5),
        optim=OptimRecipe(lr=1e-2, warmup_steps=0),
        train=TrainRecipe(steps=30, batch_size=4, eval_every=30, precision="float32"),
    )
    out = tmp_path / "run"
    result = train(recipe, RunOptions(out=out, accelerator="cpu", workers=0, logger="csv"))
    assert result.scores.miou > 0.75
    bundle = store.load(result.best)
    assert bundle.recipe.model.mean == statistics["mean"]
    scores = evaluate(result.best, bundle, EvaluateOptions(device="cpu", workers=0))
    assert scores.miou == pytest.approx(result.scores.miou, abs=1e-6)
    predict(result.best, tmp_path / "images/val", tmp_path / "seen", device="cpu")
    seen, truth = (read_label(tmp_path / folder / "p0.png") for folder in ("seen/predictions", "labels/val"))
    assert (seen == truth).float().mean() > 0.8
    assert probe_image(tmp_path / "seen/overlays/p0.jpg") == (40, 48)
    assert measure(bundle.model, 32, 32).multiply_adds > 0


def test_transformers_take_colours_alone() -> None:
    recipe = get_recipe("ade20k/swin-t-mask2former")
    bands = replace(recipe, data=replace(recipe.data, channels=4))
    with pytest.raises(ValueError, match=facts("transformers", repr(bands.name), 3, 4)):
        require_expressible(bands)
    require_expressible(recipe)
