"""Sources of every kind go to other processes, and whatever is wrong with a storage is reported in its own words."""

from __future__ import annotations

import contextlib
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semask.data.pairs import find_pairs
from semask.data.published.download import open_download
from semask.data.readers.image import read_image, read_label
from semask.data.readers.source import Source
from semask.recipes.recipe import DataRecipe
from tests.facts import facts
from tests.unit.stored import FILES, SPLITS, encoded, make_tar, make_zip, random_image, sample, truth


def read_all(pairs: list[tuple[Source, Source]]) -> list[int]:
    return [int(read_image(image).sum()) + int(read_label(label).sum()) for image, label in pairs]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_sources_go_to_processes_that_read_at_once(tmp_path: Path, kind: str) -> None:
    if kind == "zip":
        data = DataRecipe(root=str(make_zip(tmp_path / "a.zip", FILES)))
    else:
        make_tar(tmp_path / "train-0.tar", {f"p{n}.{s}": c for n in SPLITS["train"] for s, c in sample(n).items()})
        data = DataRecipe(kind="shards", root=str(tmp_path), images="{split}-*.tar")
    pairs = [(pair.image, pair.label) for pair in find_pairs(data, "train")] * 20
    expected = [int(random_image(n).sum()) + int(truth(n).sum()) for n in (0, 1, 2)] * 20
    assert read_all(pickle.loads(pickle.dumps(pairs))) == expected
    with ProcessPoolExecutor(3, get_context("fork")) as pool:
        assert list(pool.map(read_all, [pairs] * 3)) == [expected] * 3


@given(st.sampled_from(["zip", "tar"]), st.integers(0, 2**32), st.integers(1, 5), st.floats(0.3, 1.5))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_broken_is_a_value_error(tmp_path: Path, kind: str, seed: int, bytes_hit: int, kept: float) -> None:
    files = {"a/0.png": encoded(truth(0)), "a/1.png": encoded(truth(1))}
    archive = (make_zip if kind == "zip" else make_tar)(tmp_path / f"a.{kind}", files)
    random, raw = np.random.default_rng(seed), bytearray(archive.read_bytes())
    for _ in range(bytes_hit):
        raw[random.integers(min(len(raw), 3000))] = random.integers(256)
    archive.write_bytes(raw[: int(kept * len(raw))])
    with contextlib.suppress(ValueError):
        for source in open_download(archive, scratch=tmp_path / "scratch").values():
            read_label(source)


def test_a_wrong_root_is_reported_in_the_storages_own_words(tmp_path: Path) -> None:
    for kind, wanted in (("shards", "train-000000.tar"), ("hugging_face", "DatasetDict.save_to_disk")):
        with pytest.raises(ValueError, match=facts("data.root", repr(str(tmp_path / "gone")))) as caught:
            find_pairs(DataRecipe(kind=kind, root=str(tmp_path / "gone")), "train")  # type: ignore[arg-type]
        assert wanted in str(caught.value)
        assert "images/train" not in str(caught.value)
    make_tar(tmp_path / "train-0.tar", {})
    with pytest.raises(ValueError, match=facts(repr(str(tmp_path / "train-0.tar")), "--data.kind shards")):
        find_pairs(DataRecipe(root=str(tmp_path / "train-0.tar")), "train")
    make_zip(tmp_path / "a.zip", FILES)
    with pytest.raises(ValueError, match=facts(tmp_path / "images/train", f"--data.root {tmp_path}/a.zip")):
        find_pairs(DataRecipe(root=str(tmp_path)), "train")
