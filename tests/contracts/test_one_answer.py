"""Every way to segment an image gives the same label map, to the pixel: Python, the command line, evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import semask
from semask.checkpoints.store import save
from semask.cli import evaluate, predict
from semask.data.classes import Classes
from semask.data.readers.raster import read_raster
from semask.recipes import get_recipe

READINGS = {
    "own size": {},
    "box": {"data.base_scale": (96, 64)},
    "ratio": {"data.base_scale": None, "data.base_ratio": 0.6, "data.antialias": True},
    "windows": {"test.mode": "sliding", "test.window": (48, 48), "test.stride": (32, 32)},
    "scales and flips": {"test.scales": (0.75, 1.0), "test.flip": True},
    "range": {"data.value_range": (20.0, 200.0)},
    "12 bits": {"data.value_range": (0.0, 4095.0)},
}


def photographs(folder: Path) -> list[Path]:
    """Files of every kind that three channels are read from."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    rgb = np.asarray(
        Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((110, 70), Image.Resampling.BICUBIC)
    )
    grey = rgb[..., 0]
    fading = np.linspace(0, 255, 110).astype(np.uint8)
    alpha = np.broadcast_to(np.where(fading > 40, 255, 0).astype(np.uint8), (70, 110))
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(rgb).save(folder / "turned.jpg", exif=turned, quality=95)
    Image.fromarray(rgb).save(folder / "plain.png")
    Image.fromarray(grey).save(folder / "grey.png")
    Image.fromarray(np.dstack([rgb, alpha])).save(folder / "transparent.png")
    Image.fromarray(np.dstack([rgb, alpha * 0 + 255])).save(folder / "opaque.png")
    Image.fromarray(np.dstack([grey, alpha * 0 + 255])).save(folder / "opaque grey.png")
    Image.fromarray(grey > 127).save(folder / "bits.png")
    Image.fromarray(rgb).quantize(16).save(folder / "palette.png")
    Image.fromarray(rgb).save(folder / "plain.webp", lossless=True)
    return sorted(folder.iterdir())


@pytest.mark.parametrize("reading", READINGS)
def test_all_entry_points_agree(reading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMASK_CACHE", str(tmp_path / "cache"))
    files = photographs(tmp_path / "set/images")
    if reading == "12 bits":
        for path in files:
            path.unlink()
        values = np.random.default_rng(1).integers(0, 4096, (9, 14)).astype(np.uint16).repeat(8, 0).repeat(8, 1)
        files = [tmp_path / "set/images/deep.png"]
        Image.fromarray(values).save(files[0])
    if reading == "range":
        # refused as a fourth channel
        (tmp_path / "set/images/transparent.png").unlink()
        files = [path for path in files if path.exists()]
    recipe = get_recipe("folder/semask-micro-fpn").override(
        {"model.num_classes": 5, "data.base_scale": None, **READINGS[reading]}
    )
    torch.manual_seed(0)
    model = semask.build(recipe)
    # random weights prefer one class; spread the scores
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    classes = Classes.from_dict({"classes": ["a", "b", "c", "d", "e"]})
    save(model, tmp_path / "model", classes=classes)

    # the command line
    predict.main([str(tmp_path / "model"), str(tmp_path / "set/images"), "--out", str(tmp_path / "out")])
    loaded = semask.load(tmp_path / "model")
    (tmp_path / "set/labels").mkdir()
    seen = set()
    for path in files:
        name = path.stem if path.stem != "plain" else path.name
        found = np.asarray(Image.open(tmp_path / f"out/predictions/{name}.png"))
        seen |= {*found.ravel().tolist()}
        # Python: a path, an open image, its pixels, a tensor as files are read
        pixels = read_raster(str(path), recipe.data)
        forms = [path, str(path), Image.open(path), pixels]
        if path.stem in ("plain", "grey", "deep"):
            stored = np.array(Image.open(path))
            forms += [
                stored,
                torch.from_numpy(np.atleast_3d(stored).repeat(1 if stored.ndim == 3 else 3, 2)).movedim(-1, 0),
            ]
        for form in forms:
            assert np.array_equal(loaded.predict(form).numpy(), found), (path.name, type(form))
        Image.fromarray(found).save(tmp_path / "set/labels" / f"{name}.png")
    assert len(seen) > 1

    # evaluation against these maps finds no error
    for path in files:
        if path.stem == "plain":
            path.rename(path.with_name(path.name + path.suffix))
    (tmp_path / "set/classes.json").write_text('{"classes": ["a", "b", "c", "d", "e"]}')
    listed = "".join(f"{path.stem}\n" for path in (tmp_path / "set/labels").iterdir())
    for split in ("train", "val"):
        (tmp_path / f"set/{split}.txt").write_text(listed)
    monkeypatch.chdir(tmp_path)
    evaluate.main(["model", "--data.root", "set", "--workers", "0", "--resamples", "0", "--gallery", "0"])
    record = (tmp_path / "model/metrics.json").read_text()
    assert '"miou": 1.0' in record
    assert '"aacc": 1.0' in record
