"""Examples in processes in which PyTorch and semask cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import semask
from semask.data.classes import Classes
from tests.facts import missing
from tests.unit.small_model import NAMES, exported

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/onnx_only.py"
ALONE = """
import runpy, sys
sys.modules["torch"] = sys.modules["semask"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not {"cv2", "onnx", "timm", "torchvision"} & {*sys.modules}
"""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ALONE, *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("example") / "exported")


def test_onnx_runtime_alone_gives_the_same_labels(file: Path, tmp_path: Path) -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 40
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (97, 131, 3), dtype=np.uint8)
    turned = Image.fromarray(pixels)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", quality=95, exif=exif)
    opacity = rng.choice(np.array([0, 85, 255], np.uint8), (97, 131), p=(0.3, 0.1, 0.6))
    Image.fromarray(np.dstack([pixels, opacity])).save(tmp_path / "transparent.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    for name in ("turned.jpg", "transparent.png", "grey.png"):
        done = run(EXAMPLE, file, tmp_path / name, tmp_path / "labels.png")
        assert done.returncode == 0, done.stderr
        expected = semask.load(file).predict(tmp_path / name)
        with Image.open(tmp_path / "labels.png") as found:
            assert np.array_equal(np.array(found), expected.numpy()), name
            palette = np.array(found.getpalette()).reshape(-1, 3)[: len(NAMES)]
        assert [tuple(map(int, colour)) for colour in palette] == [*Classes.from_dict({"classes": [*NAMES]}).colours]
        shares = np.bincount(expected.numpy().flatten()) / expected.numel()
        assert missing(done.stdout, *(f"{share:.1%}" for share in shares if share)) == [], name


def test_other_files_are_refused(file: Path, tmp_path: Path) -> None:

    model = onnx.load(file)
    for entry in model.metadata_props:
        entry.value = entry.value.replace('"size": null', '"size": [64, 64]')
    onnx.save(model, tmp_path / "fixed.onnx")
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    done = run(EXAMPLE, tmp_path / "fixed.onnx", tmp_path / "image.png", tmp_path / "labels.png")
    assert done.returncode == 1
    assert missing(done.stderr, "--output labels", "--input bytes", "--size") == []
    assert not (tmp_path / "labels.png").exists()
    assert run(EXAMPLE).returncode == 1
