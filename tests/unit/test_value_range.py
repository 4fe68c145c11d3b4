"""The range of stored values that images show, and its way into doctor, training and the checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from semask.checkpoints.store import load
from semask.cli.train import main
from semask.data.checks.doctor import diagnose
from semask.data.checks.file_stats import StoredRange
from semask.data.checks.fingerprint import fingerprint
from semask.data.checks.value_range import find_value_range, range_of
from semask.data.classes import Classes
from semask.data.pairs import find_pairs
from semask.data.readers.raster import read_raster
from semask.recipes.recipe import DataRecipe
from tests.facts import missing
from tests.unit.doctored import NAMES, SIZE, messages_of, put, scene


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMASK_CACHE", str(tmp_path / "cache"))


def put_deep(root: Path, highest: float, dtype: str = "uint16", lowest: float = 0) -> DataRecipe:
    """Three training images and one for validation, of one channel; the last alone holds the highest value."""
    random = np.random.default_rng(0)
    for index, split in enumerate(("train", "train", "train", "val")):
        image, _ = put(root, f"{split}/{index}", *scene(index), suffix=".png")
        stored = random.uniform(lowest, lowest + (highest - lowest) * 0.9, SIZE).astype(dtype)
        stored[0, 0] = lowest
        if split == "val":
            stored[0, 1] = highest
        if dtype == "uint16":
            Image.fromarray(stored).save(image)
        else:
            image.unlink()
            tifffile.imwrite(image.with_suffix(".tif"), stored)
    (root / "classes.json").write_text(json.dumps({"classes": [*NAMES]}))
    return DataRecipe(root=str(root), classes_from_data=True)


def found_in(data: DataRecipe) -> tuple[float, float] | None:
    found = find_value_range([*find_pairs(data, "train"), *find_pairs(data, "val")], data)
    return None if found is None else found[:2]


# --- the rule ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ([("uint16", 0, 1023)], (0, 1023)),
        ([("uint16", 0, 1024)], (0, 4095)),
        ([("uint16", 5, 300), ("uint16", 0, 9000)], (0, 16383)),
        ([("uint16", 0, 16384)], None),
        ([("uint16", 0, 0)], None),
        ([("uint8", 0, 255)], None),
        ([("uint8", 0, 255), ("uint16", 0, 4000)], None),
        ([], None),
        ([("int16", 0, 4000)], (0, 4095)),
        ([("int16", -1024, 3071)], (-1024, 3071)),
        ([("uint32", 0, 70000)], (0, 70000)),
        ([("float32", 0.1, 0.9)], (0, 1)),
        ([("float32", 0.1, 1.5)], (0.1, 1.5)),
        ([("float32", -3, 40), ("float32", 0, 50)], (-3, 50)),
        ([("float32", -9999, 40)], None),
    ],
)
def test_the_range_follows_from_type_and_ends(
    ranges: list[tuple[str, float, float]], expected: tuple[float, float] | None
) -> None:
    found = range_of([StoredRange(*each) for each in ranges])
    assert (None if found is None else found[:2]) == expected


@given(st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 65535)), min_size=1))
def test_a_range_of_bits_holds_all_values_and_half_of_it_does_not(ends: list[tuple[int, int]]) -> None:
    found = range_of([StoredRange("uint16", float(min(pair)), float(max(pair))) for pair in ends])
    highest = max(map(max, ends))
    if found is None:
        assert highest >= 2**14 or min(map(min, ends)) == highest
    else:
        assert (found.low, found.high in (255, 1023, 4095, 16383)) == (0, True)
        assert highest <= found.high
        assert highest > found.high / 4 - 1 or found.high == 255


# --- files -------------------------------------------------------------------------------------------------------


def test_files_are_measured_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = put_deep(tmp_path / "a", 3999)
    assert found_in(deep) == (0, 4095)
    monkeypatch.setattr("semask.data.checks.value_range.read_stored", None)
    assert found_in(deep) == (0, 4095), "from the cache"
    monkeypatch.undo()
    assert found_in(put_deep(tmp_path / "b", 40_000)) is None
    assert found_in(put_deep(tmp_path / "c", 40, "float32", -3)) == (-3, 40)
    assert found_in(replace(deep, value_range=(0.0, 9.0))) is None, "the recipe's own"
    # one image of 8 bits leaves it open
    put(tmp_path / "a", "train/plain", *scene(9))
    assert found_in(deep) is None


def test_a_broken_image_is_left_to_the_check(tmp_path: Path) -> None:
    data = put_deep(tmp_path, 3999)
    path = tmp_path / "images/train/0.png"
    path.write_bytes(path.read_bytes()[:200])
    assert found_in(data) == (0, 4095)


def test_floats_have_a_fingerprint(tmp_path: Path) -> None:
    found = fingerprint(put_deep(tmp_path, 40, "float32", -3), Classes.load(tmp_path / "classes.json"))
    assert found.value_range is not None
    assert (found.value_range[:2], found.images, found.height, found.width) == ((-3, 40), 3, *SIZE)


# --- doctor, training, checkpoint --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("highest", "dtype", "lowest", "wanted"),
    [(3999, "uint16", 0, (3999, "uint16", "--data.value-range 0 4095")),
     (40, "float32", -3, (-3, 40, "float32", "--data.value-range -3 40"))],
)  # fmt: skip
def test_doctor_reads_own_data_as_training_does(
    tmp_path: Path, highest: float, dtype: str, lowest: float, wanted: tuple[object, ...]
) -> None:
    data = put_deep(tmp_path, highest, dtype, lowest)
    diagnosis = diagnose(data)
    assert diagnosis.errors == ()
    [message] = messages_of(diagnosis.warnings, "bands")
    assert missing(message, "semask train", *wanted) == []
    # statistics of the values that training sees
    ends = diagnosis.data.value_range
    assert ends is not None
    stored = [np.array(Image.open(p.image)) if dtype == "uint16" else tifffile.imread(p.image)
              for p in find_pairs(data, "train")]  # fmt: skip
    mean = ((np.stack(stored).astype(float) - ends[0]) / (ends[1] - ends[0])).mean()
    assert diagnosis.statistics is not None
    assert diagnosis.statistics.mean == pytest.approx([mean] * 3, rel=1e-4)


def test_a_run_chooses_records_and_keeps_the_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = put_deep(tmp_path / "set", 3999)
    flags = ["folder/semask-micro-fpn", "--data.root", str(data.root), "--workers", "0", "--train.steps", "1"]

    def train(name: str, *more: str) -> tuple[float, float] | None:
        capsys.readouterr()
        main([*flags, "--train.batch-size", "2", "--out", str(tmp_path / name), *more])
        return load(tmp_path / name / "best").recipe.data.value_range

    assert train("own") == (0.0, 4095.0)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("chosen: ")]
    assert len(lines) == 3
    assert missing(lines[0], 3999, "uint16", "0 … 4095", "0 … 1") == []
    assert json.loads((tmp_path / "own/automatic.json").read_text())["changes"]["data.value_range"] == [0, 4095]
    # what evaluate and predict read by
    recipe = load(tmp_path / "own/best").recipe.data
    pair = find_pairs(data, "val")[0]
    stored = np.array(Image.open(str(pair.image))).astype(np.float32)
    np.testing.assert_allclose(read_raster(pair.image, recipe)[0], stored / 4095, rtol=1e-6)
    # flags win
    assert train("flag", "--data.value-range", "0", "9999") == (0.0, 9999.0)
    assert train("none", "--data.value-range", "None") is None
    assert train("recipe", "--auto", "false") is None
    # a run that goes on has the range of its beginning
    main([*flags[:-1], "2", "--train.batch-size", "2", "--out", str(tmp_path / "own"), "--resume"])
    assert load(tmp_path / "own/best").recipe.data.value_range == (0.0, 4095.0)
