"""The public API: names on one screen, runnable examples, and parts of one's own wherever a recipe may."""

from __future__ import annotations

import contextlib
import doctest
import io
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import semask
from semask.structures import IGNORE
from semask.training import SegmentationModule, collate
from tests.facts import facts

CLASSES = 4
SIZE = (48, 64)


class Stripes(Dataset[semask.Sample]):
    """Images of four bands of colour in a random order, whose labels are the colours."""

    def __init__(self, count: int, size: tuple[int, int] = SIZE) -> None:
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> semask.Sample:
        random = torch.Generator().manual_seed(index)
        bands = torch.randperm(CLASSES, generator=random).repeat_interleave(self.size[1] // CLASSES)
        label = bands.expand(self.size[0], -1).clone()
        label[:2] = IGNORE
        image = (bands / CLASSES).expand(3, *self.size) * torch.tensor([1.0, 0.5, 0.25])[:, None, None]
        return semask.Sample(image + 0.05 * torch.rand(3, *self.size, generator=random), label, f"stripes {index}")


class DiceAndCrossEntropy(nn.Module):
    """Cross-entropy plus one minus the dice coefficient."""

    def forward(self, prediction: semask.Segmentation, labels: Tensor) -> Tensor:
        scores = prediction.main.scores(labels.shape[-2:])
        valid = labels != IGNORE
        one_hot = F.one_hot(labels.long() * valid, CLASSES).movedim(-1, 1) * valid[:, None]
        share = scores.softmax(1) * valid[:, None]
        dice = 2 * (share * one_hot).sum() / (share + one_hot).sum()
        return F.cross_entropy(scores, labels.long(), ignore_index=IGNORE) + 1 - dice


class Patches(nn.Module):
    """An encoder with nothing but what the protocol requires: two maps, at strides 4 and 8."""

    def __init__(self) -> None:
        super().__init__()
        self.channels, self.strides = (8, 16), (4, 8)
        self.fine, self.coarse = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 16, 2, stride=2)

    def forward(self, images: Tensor) -> semask.Features:
        fine = self.fine(images).relu()
        return semask.Features((fine, self.coarse(fine)))


class Classifier(nn.Module):
    """A decoder with nothing but what the protocol requires."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Conv2d(16, CLASSES, 1)

    def forward(self, features: semask.Features) -> semask.PixelLogits:
        return semask.PixelLogits(self.classify(features.maps[-1]))


def tiny_swin() -> semask.SegmentationModel:
    return semask.build("scenes/semask-micro-fpn", num_classes=CLASSES)


def test_the_script_of_the_readme(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = semask.create_model(
        encoder="convnextv2_atto.fcmae_ft_in1k",
        decoder="semantic_fpn",
        num_classes=CLASSES,
        semantic_layers=True,
        pretrained=False,
    )
    stopping = EarlyStopping("val/mIoU", mode="max", patience=50)
    result = semask.fit(
        model,
        train=Stripes(8),
        val=Stripes(3),
        loss=DiceAndCrossEntropy(),
        optim=semask.OptimRecipe(lr=2e-3, warmup_steps=1),
        steps=12,
        batch_size=4,
        eval_every=6,
        callbacks=[stopping],
        logger=CSVLogger(tmp_path / "own-log"),
        out=tmp_path / "defects",
    )
    assert stopping.best_score.item() == pytest.approx(result.scores.miou)
    assert result.scores.iou.shape == (CLASSES,)
    assert [*(tmp_path / "own-log").rglob("metrics.csv")]
    loaded = semask.load(tmp_path / "defects/best")
    image = Image.fromarray((255 * Stripes(1)[0].image.movedim(0, -1)).byte().numpy())
    mask = loaded.predict(image)
    assert (mask.shape, mask.dtype) == (SIZE, torch.uint8)
    recipe = semask.get_recipe("ade20k/semask-swin-t-fpn").override({"optim.lr": 2e-4, "model.num_classes": 7})
    assert (recipe.optim.lr, recipe.model.num_classes) == (2e-4, 7)
    assert semask.build(recipe).num_classes == 7


def test_foreign_parts_are_trained_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = semask.create_model(Patches(), Classifier(), num_classes=CLASSES)
    assert isinstance(model.encoder, semask.Encoder)
    assert isinstance(model.decoder, semask.Decoder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = semask.fit(
        model,
        Stripes(16),
        Stripes(3, size=(41, 64)),
        loss=DiceAndCrossEntropy(),
        optim=semask.OptimRecipe(lr=2e-2, warmup_steps=1),
        steps=60,
        batch_size=8,
        ema=0.5,
        out=tmp_path,
    )
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert result.scores.miou > 0.5
    with pytest.raises(ValueError, match=facts("Patches", "Classifier", "weights_only=True")):
        semask.save(model, tmp_path / "again")
    assert not (tmp_path / "again").exists()
    with pytest.raises(ValueError, match=facts("Patches", "Classifier", "model=model")):
        semask.load(result.last)
    fresh = semask.create_model(Patches(), Classifier(), num_classes=CLASSES)
    image = Stripes(1)[0].image
    loaded = semask.load(result.best, model=fresh)
    assert loaded is fresh
    assert torch.equal(loaded.predict(image), semask.load(result.best, model=model).predict(image))


def test_a_foreign_encoder_takes_named_decoders_and_the_other_way_round() -> None:
    images = torch.rand(2, 3, 37, 50)
    linear = semask.recipes.decoders.SegFormerOptions(channels=8)
    for encoder, decoder in ((Patches(), linear), ("resnet18", Deepest())):
        model = semask.create_model(encoder, decoder, num_classes=CLASSES)
        assert model.scores(images).shape == (2, CLASSES, 37, 50)
        assert model.predict(images).shape == (2, 37, 50)


class Deepest(nn.Module):
    """A decoder over ResNet's last map."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Conv2d(512, CLASSES, 1)

    def forward(self, features: semask.Features) -> semask.PixelLogits:
        return semask.PixelLogits(self.classify(features.maps[-1]))


def test_a_trainer_of_ones_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = SegmentationModule(tiny_swin(), DiceAndCrossEntropy())
    trainer = Trainer(
        max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, log_every_n_steps=1,
    )  # fmt: skip
    with semask.training.run.quiet():
        trainer.fit(
            module,
            DataLoader(Stripes(6), batch_size=2, collate_fn=collate),
            DataLoader(Stripes(2), batch_size=2, collate_fn=list),
        )
    assert trainer.global_step == 3
    assert 0 <= trainer.callback_metrics["val/mIoU"] <= 1


def test_predict_takes_what_people_have(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tiny_swin()
    pixels = torch.randint(0, 256, (3, 41, 70), dtype=torch.uint8)
    array = pixels.movedim(0, -1).numpy()
    expected = model.labels(pixels[None].float() / 255)[0]
    images = (pixels, pixels.float() / 255, array, array.astype(np.float32) / 255, Image.fromarray(array))
    for image in images:
        assert torch.equal(model.predict(image), expected), type(image)
    assert torch.equal(model.predict(pixels[None].expand(2, -1, -1, -1)), expected.expand(2, -1, -1))
    sixteen = torch.from_numpy(array.astype(np.uint16) * 257).movedim(-1, 0)
    assert torch.equal(model.predict(sixteen), expected)
    grey = Image.fromarray(array[..., 0])
    assert torch.equal(model.predict(grey), model.predict(grey.convert("RGB")))
    turned = Image.fromarray(array)
    exif = turned.getexif()
    exif[0x0112] = 6  # shown a quarter turn to the right
    turned.save(tmp_path / "turned.png", exif=exif)
    assert torch.equal(model.predict(Image.open(tmp_path / "turned.png")), model.predict(np.rot90(array, -1)))
    windows = semask.sliding(model, window=(32, 32), stride=(16, 16)).labels(pixels[None].float() / 255)[0]
    assert torch.equal(model.predict(pixels, window=(32, 32), stride=(16, 16)), windows)
    flipped = semask.tta(model, flip=True, ratios=(1.0,)).labels(pixels[None].float() / 255)[0]
    assert torch.equal(model.predict(pixels, flip=True), flipped)
    assert model.train().predict(pixels).shape == (41, 70)
    assert model.training


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (torch.full((3, 8, 8), 255.0), (255,)),
        (torch.full((3, 8, 8), -1.0), (-1,)),
        (torch.full((3, 8, 8), torch.nan), ("nan",)),
        (torch.zeros(3, 8, 8, dtype=torch.int64), ("torch.int64",)),
        (torch.zeros(4, 8, 8), ((4, 8, 8), 3)),
        (np.zeros((3, 8, 8), np.uint8), ((8, 3, 8), 3)),
        (torch.zeros(3, 0, 8), ((3, 0, 8),)),
        ("photo.jpg", ("photo.jpg",)),
    ],
    ids=["255", "-1", "nan", "int64", "4 channels", "channels first", "empty", "path"],
)
def test_odd_images_are_refused(image: object, told: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=facts(*told)):
        tiny_swin().predict(image)


class Broken(Stripes):
    def __init__(self, change: object) -> None:
        super().__init__(4)
        self.change = change

    def __getitem__(self, index: int) -> semask.Sample:
        return self.change(super().__getitem__(index)) if index == 2 else super().__getitem__(index)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: (s.image, s.label), ("sample 2", "tuple", "semask.Sample")),
        (lambda s: s._replace(label=s.label + 1), ("stripes 2", 4, "0 … 3", 255)),
        (lambda s: s._replace(image=s.image[:, 1:]), ("stripes 2", (3, 47, 64), (48, 64))),
        (lambda s: s._replace(image=s.image * torch.nan), ("stripes 2",)),
    ],
    ids=["tuple", "label", "size", "nan"],
)
def test_odd_samples_are_refused_by_name(tmp_path: Path, change: object, told: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=facts(*told)):
        semask.fit(tiny_swin(), Broken(change), Stripes(1), steps=2, batch_size=4, out=tmp_path)


def test_augment_makes_samples_of_one_size(tmp_path: Path) -> None:
    sizes = [Stripes(1, size)[0] for size in ((40, 64), (64, 40), (70, 80))]
    augment = semask.DataRecipe(crop=(32, 32), scale_range=(0.5, 1.0))
    result = semask.fit(tiny_swin(), sizes, sizes, augment=augment, steps=2, batch_size=3, out=tmp_path)
    assert result.step == 2
    with pytest.raises(ValueError, match=facts("40×64", "64×40")):
        semask.fit(tiny_swin(), sizes, sizes, steps=2, batch_size=3, out=tmp_path / "without")


def test_paths_of_overrides_are_checked() -> None:
    recipe = semask.get_recipe("scenes/semask-micro-fpn")
    assert recipe.override({"model.encoder.semantic.units": (2, 1, 1, 1)}).model.encoder.semantic.units[0] == 2
    for path in ("optim.rate", "model.encoder.neck", "optim.lr.low", "optimizer.lr"):
        with pytest.raises(ValueError, match=facts(repr(path))):
            recipe.override({path: 1})


def test_examples_run() -> None:
    """Every public name has a docstring; those of functions have an example, which doctest runs."""
    runner, finder = doctest.DocTestRunner(verbose=False), doctest.DocTestFinder(recurse=True, exclude_empty=False)
    problems = []
    for name in semask.__all__:
        value = getattr(semask, name)
        if isinstance(value, ModuleType) or name == "__version__":
            continue
        if not (value.__doc__ or "").strip():
            problems.append(f"{name} has no docstring")
        if callable(value) and not isinstance(value, type) and ">>>" not in (value.__doc__ or ""):
            problems.append(f"{name} has no example")
        for test in finder.find(value, name, globs={}):
            said = io.StringIO()
            # What a run prints is part of no example.
            with contextlib.redirect_stdout(io.StringIO()):
                failed = runner.run(test, out=said.write).failed
            if failed:
                problems.append(said.getvalue())
    assert problems == []


def test_packages_resolve_whatever_was_imported_before() -> None:
    """Each in a process of its own, forked from one that has imported libraries and nothing of semask."""
    code = """
import os, sys
import timm, torch, torchvision
assert "semask" not in sys.modules
for first in ("semask.inference", "semask.data", "semask.training", "semask.recipes", "semask.models"):
    if os.fork() == 0:
        exec(f"import semask; {first}; import {first}")
        assert semask.build.__name__ == "build"
        assert callable(semask.build) and semask.build("scenes/micro-fpn")
        print(first, len(semask.list_recipes("voc/*")), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, first
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["3"] * 5, done.stderr
