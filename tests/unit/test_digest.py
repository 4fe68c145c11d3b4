"""The fingerprint of a split changes with every byte that scores depend on, and with nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from semask.data.checks.check import digest_split
from semask.data.dataset import classes_of
from semask.recipes.recipe import DataRecipe
from tests.unit.stored import CLASSES, FILES, make_tar, make_zip, sample, unpacked


def test_storage_and_place_do_not_matter(tmp_path: Path) -> None:
    """A label that is stored under another suffix is the same label; keys of shards are stems."""
    files = digest_split(unpacked(tmp_path / "one"), "val")
    assert digest_split(unpacked(tmp_path / "two"), "val") == files
    assert digest_split(DataRecipe(root=str(make_zip(tmp_path / "a.zip", FILES))), "val") == files
    make_tar(tmp_path / "val-0.tar", {f"p{n}.{suffix}": c for n in (3, 4) for suffix, c in sample(n).items()})
    (tmp_path / "classes.json").write_text(CLASSES)
    assert digest_split(DataRecipe(kind="shards", root=str(tmp_path), images="{split}-*.tar"), "val") == files
    assert digest_split(unpacked(tmp_path / "one"), "train") != files


@pytest.mark.parametrize("part", ["images/val/p3.png", "labels/val/p4.png", "classes.json", "name"])
def test_every_part_matters(tmp_path: Path, part: str) -> None:
    data = unpacked(tmp_path)
    before = digest_split(data, "val")
    if part == "name":
        for kind in ("images", "labels"):
            (tmp_path / kind / "val/p3.png").rename(tmp_path / kind / "val/p2.png")
    elif part == "classes.json":
        (tmp_path / part).write_text(json.dumps({**json.loads(CLASSES), "labels": {"0": 1, "1": 0}}))
    else:
        (tmp_path / part).write_bytes((tmp_path / part).read_bytes() + b"\0")
    assert digest_split(data, "val") != before


def test_renamed_classes_keep_the_digest(tmp_path: Path) -> None:
    data = unpacked(tmp_path)
    before = digest_split(data, "val")
    (tmp_path / "classes.json").write_text(CLASSES.replace('"a"', '"d"'))
    assert "d" in classes_of(data).names
    assert digest_split(data, "val") == before


def test_other_splits_and_roots_that_are_links_do_not_matter(tmp_path: Path) -> None:
    data = unpacked(tmp_path / "one")
    before = digest_split(data, "val")
    (tmp_path / "one/images/train/p0.png").write_bytes(b"another")
    (tmp_path / "link").symlink_to(tmp_path / "one")
    assert digest_split(replace(data, root=str(tmp_path / "link")), "val") == before


def test_scenes_are_reported_by_their_number_and_size() -> None:
    scenes = DataRecipe(kind="scenes", scene_count=3)
    assert digest_split(scenes, "val") == digest_split(replace(scenes), "val")
    assert digest_split(replace(scenes, scene_count=4), "val") != digest_split(scenes, "val")
    assert digest_split(replace(scenes, scene_size=(32, 40)), "val") != digest_split(scenes, "val")
