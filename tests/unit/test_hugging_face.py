"""Datasets of Hugging Face that were saved to disk are as good as files."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from semask.data.pairs import find_pairs
from semask.data.readers.hugging_face import Cell
from semask.data.readers.image import read_image, read_label
from semask.recipes.recipe import DataRecipe
from tests.facts import facts
from tests.unit.stored import CLASSES, SPLITS, assert_same_samples, encoded, random_image, truth, unpacked


@pytest.mark.parametrize("columns", [("image", "label"), ("photo", "annotation")])
def test_a_saved_dataset_is_as_good_as_files(tmp_path: Path, columns: tuple[str, str]) -> None:
    import datasets

    image, label = columns
    features = datasets.Features({"number": datasets.Value("int64"), image: datasets.Image(), label: datasets.Image()})
    datasets.DatasetDict(
        {
            split: datasets.Dataset.from_dict(
                {
                    "number": list(ns),
                    image: [Image.fromarray(random_image(n)) for n in ns],
                    label: [Image.fromarray(truth(n)) for n in ns],
                },
                features=features,
            )
            for split, ns in SPLITS.items()
        }
    ).save_to_disk(tmp_path / "hf")
    (tmp_path / "hf/classes.json").write_text(CLASSES)
    data = DataRecipe(kind="hugging_face", root=str(tmp_path / "hf"))
    pairs = find_pairs(data, "train")
    assert [pair.stem for pair in pairs] == ["000000", "000001", "000002"]
    assert str(pairs[1].label).endswith(f"hf/train, row 1, column {label!r}")
    assert_same_samples(data, unpacked(tmp_path / "folder"))
    assert find_pairs(replace(data, image_column=label, label_column=image), "val")[0].image == pickle.loads(
        pickle.dumps(Cell(tmp_path / "hf/val", label, 0))
    )
    with pytest.raises(
        ValueError, match=facts(tmp_path / "hf/train", "'number'", f"{image}, {label}", "--data.image-column")
    ):
        find_pairs(replace(data, image_column="number"), "train")
    with pytest.raises(ValueError, match=facts(tmp_path / "hf/test", "train/state.json")):
        find_pairs(data, "test")


def test_bytes_paths_and_neither_in_a_table(tmp_path: Path) -> None:
    import datasets

    (tmp_path / "p.png").write_bytes(encoded(random_image(0)))
    table = {"image": [str(tmp_path / "p.png"), "gone.png", None], "mask": [encoded(truth(0)), b"broken", None]}
    kinds = datasets.Features({"image": datasets.Value("string"), "mask": datasets.Value("binary")})
    datasets.Dataset.from_dict(table, features=kinds).save_to_disk(tmp_path / "hf/train")
    first, second, third = find_pairs(DataRecipe(kind="hugging_face", root=str(tmp_path / "hf")), "train")
    assert read_image(first.image).permute(1, 2, 0).numpy().tolist() == random_image(0).tolist()
    assert read_label(first.label).tolist() == truth(0).tolist()
    with pytest.raises(ValueError, match=facts(1, "'image'", "'gone.png'")):
        read_image(second.image)
    with pytest.raises(ValueError, match=facts(1, "'mask'", "PNG")):
        read_label(second.label)
    with pytest.raises(ValueError, match=facts(2, "'image'")):
        read_image(third.image)


def test_without_datasets_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train/state.json").write_text("{}")
    data = DataRecipe(kind="hugging_face", root=str(tmp_path))
    with pytest.raises(ValueError, match=facts(tmp_path / "train", "save_to_disk")):
        find_pairs(data, "train")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ValueError, match=facts("datasets", "pip install 'semask[hf]'")):
        find_pairs(data, "train")


@pytest.mark.parametrize("kind", ["paths", "images"])
def test_rows_of_hidden_files_are_no_data(tmp_path: Path, kind: str) -> None:
    import datasets

    names = ["a.png", "._b.png", "x/.ipynb_checkpoints/c.png" if kind == "paths" else ".c.png", "d.png"]
    cells = names if kind == "paths" else [{"bytes": encoded(truth(0)), "path": name} for name in names]
    column = datasets.Value("string") if kind == "paths" else datasets.Image()
    features = datasets.Features({"image": column, "mask": datasets.Value("binary")})
    table = datasets.Dataset.from_dict({"image": cells, "mask": [encoded(truth(0))] * 4}, features=features)
    table.save_to_disk(tmp_path / "train")
    table.select([1, 2]).save_to_disk(tmp_path / "val")
    data = DataRecipe(kind="hugging_face", root=str(tmp_path))
    assert [pair.stem for pair in find_pairs(data, "train")] == ["000000", "000003"]
    with pytest.raises(ValueError, match=facts("'val'", tmp_path / "val", 2)):
        find_pairs(data, "val")
