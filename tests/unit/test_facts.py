"""What is measured of files, against Pillow and NumPy; and that it is kept by content and never wrongly."""

import os
import sqlite3
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semask.data.checks.cache import FILE, StatsCache, cache_folder
from semask.data.checks.file_stats import ImageStats, LabelStats, PairStats, ReadFailure, measure_pixels, signature
from semask.data.checks.scan import scan
from semask.data.pairs import Pair
from semask.recipes.recipe import DataRecipe
from tests.facts import missing

DATA = DataRecipe()
random = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMASK_CACHE", str(tmp_path / "cache"))


def put(folder: Path, name: str = "a", *, label: np.ndarray | None = None, **options: object) -> Pair:
    image, path = folder / f"{name}.png", folder / f"{name}_label.png"
    Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(image, **options)
    Image.fromarray(np.zeros((12, 16), np.uint8) if label is None else label).save(path)
    return Pair(name, image, path)


def facts_of(pair: Pair, *, thorough: bool = False, data: DataRecipe = DATA) -> PairStats:
    return scan([pair], data, thorough=thorough)[0]


def age(pair: Pair) -> None:
    """Make the files look as if they had been written a minute ago."""
    for source in (pair.image, pair.label):
        then = time.time() - 60
        os.utime(str(source), (then, then))


# --- what is measured --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [1, 3, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_moments_of_pictures(bands: int, dtype: type) -> None:
    stored = random.integers(0, 256, (bands, 9, 7)).astype(dtype) / (1 if dtype is np.uint8 else 255)
    facts = measure_pixels(torch.from_numpy(stored.astype(dtype)))
    unit = stored.astype(np.float64) / (255 if dtype is np.uint8 else 1)
    np.testing.assert_allclose(facts.mean, unit.mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(facts.square, (unit**2).mean((1, 2)), rtol=1e-6)


def test_signatures_are_kept_by_size_format_and_light_and_tell_scenes_apart() -> None:
    def picture(seed: int) -> np.ndarray:
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 7), dtype=np.uint8)
        return np.array(Image.fromarray(coarse).resize((280, 240), Image.Resampling.BICUBIC))

    def bits(grey: np.ndarray) -> int:
        found = signature(torch.from_numpy(np.array(grey, np.float32) / 255))
        assert found is not None
        return found

    one = picture(0)
    smaller = np.array(Image.fromarray(one).resize((100, 90), Image.Resampling.BOX))
    for like in (smaller, one // 2 + 20):
        assert (bits(one) ^ bits(like)).bit_count() <= 3
    assert all((bits(one) ^ bits(picture(seed))).bit_count() > 10 for seed in range(1, 20))
    assert bits(one) != bits(one[:, ::-1])


def test_signatures_against_a_loop() -> None:
    grey = random.random((16, 18)).astype(np.float32)
    cells = grey.reshape(8, 2, 9, 2).mean((1, 3))
    expected = 0
    for row in range(8):
        for column in range(8):
            expected = expected * 2 + int(cells[row, column + 1] > cells[row, column])
    assert signature(torch.from_numpy(grey)) == expected


def test_a_flat_picture_has_no_signature() -> None:
    assert signature(torch.full((20, 30), 0.5)) is None
    assert signature(torch.full((2, 3), 0.5)) is None


def test_a_pair(tmp_path: Path) -> None:
    label = random.integers(0, 5, (12, 16), dtype=np.uint8)
    pair = put(tmp_path, label=label)
    quick, thorough = facts_of(pair), facts_of(pair, thorough=True)
    assert quick.image == ImageStats(12, 16, 1)
    assert isinstance(thorough.image, ImageStats)
    assert thorough.image.picture is not None
    assert len(thorough.image.picture.mean) == 3
    values, counts = np.unique(label, return_counts=True)
    expected = tuple(zip(values.tolist(), counts.tolist(), strict=True))
    assert quick.label == thorough.label == LabelStats(12, 16, 1, False, expected)


def test_labels_of_sixteen_bits_palettes_and_turned_files(tmp_path: Path) -> None:
    deep = put(tmp_path, "deep", label=np.repeat(np.uint16([[7, 40_000]]), 6, axis=0))
    assert facts_of(deep).label == LabelStats(6, 2, 1, False, ((7, 6), (40_000, 6)))
    coloured = Image.fromarray(np.full((12, 16), 3, np.uint8))
    coloured.putpalette(list(range(30)))
    pair = put(tmp_path, "palette")
    coloured.save(str(pair.label))
    assert facts_of(pair).label == LabelStats(12, 16, 1, True, ((3, 192),))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = put(tmp_path, "turned", exif=exif)
    assert facts_of(turned).image == ImageStats(16, 12, 6)


def test_a_label_of_endless_values_is_no_label(tmp_path: Path) -> None:
    pair = put(tmp_path, label=np.arange(80 * 80, dtype=np.uint16).reshape(80, 80))
    found = facts_of(pair).label
    assert isinstance(found, ReadFailure)
    assert missing(found.message, 6400, "0 … 6399") == []


def test_what_cannot_be_read_is_a_fact(tmp_path: Path) -> None:
    pair = put(tmp_path)
    Path(str(pair.image)).write_bytes(b"no image")
    Path(str(pair.label)).unlink()
    facts = facts_of(pair)
    assert isinstance(facts.image, ReadFailure)
    assert "PNG" in facts.image.message
    assert str(pair.image) not in facts.image.message, "it is told elsewhere"
    assert isinstance(facts.label, ReadFailure)
    assert facts.label_digest == ""


# --- what is kept ------------------------------------------------------------------------------------------------


def forbid(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("read again")

    for name in names:
        monkeypatch.setattr(f"semask.data.checks.scan.{name}", fail)


def test_known_content_is_not_measured_again_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = put(tmp_path)
    first = facts_of(pair, thorough=True)
    moved = Pair(
        "b", Path(str(pair.image)).rename(tmp_path / "b.png"), Path(str(pair.label)).rename(tmp_path / "b_.png")
    )
    forbid(monkeypatch, "measure_image", "measure_label")
    assert facts_of(moved, thorough=True) == first
    assert facts_of(moved, thorough=False) == first, "what was looked at closely serves a quick look"


def test_what_could_not_be_read_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec may have been installed since."""
    pair = put(tmp_path)
    age(pair)

    def fail(*arguments: object, **options: object) -> None:
        raise ValueError(f"{pair.image}: a compression that is not known here")

    with monkeypatch.context() as patch:
        patch.setattr("semask.data.checks.scan.measure_image", fail)
        assert facts_of(pair).image == ReadFailure("a compression that is not known here")
    assert facts_of(pair).image == ImageStats(12, 16, 1)


def test_a_quick_look_does_not_serve_a_thorough_one_nor_other_bands(tmp_path: Path) -> None:
    pair = put(tmp_path)
    facts_of(pair)
    found = facts_of(pair, thorough=True).image
    assert isinstance(found, ImageStats)
    assert found.picture is not None
    wide = facts_of(pair, thorough=True, data=DataRecipe(value_range=(0.0, 510.0))).image
    assert isinstance(wide, ImageStats)
    assert wide.picture is not None
    np.testing.assert_allclose(np.array(wide.picture.mean) * 2, found.picture.mean, rtol=1e-6)


def test_a_settled_file_is_not_even_opened_by_a_quick_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = put(tmp_path)
    age(pair)
    first = facts_of(pair)

    def fail(*arguments: object) -> None:
        raise AssertionError("opened")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        assert facts_of(pair) == first
        with pytest.raises(AssertionError, match="opened"):
            facts_of(pair, thorough=True)


def test_changed_files_are_read_again(tmp_path: Path) -> None:
    pair = put(tmp_path)
    age(pair)
    facts_of(pair)
    Image.fromarray(np.full((12, 16), 9, np.uint8)).save(str(pair.label))
    assert facts_of(pair).label == LabelStats(12, 16, 1, False, ((9, 192),))


def test_a_file_that_has_just_changed_has_no_stamp(tmp_path: Path) -> None:
    pair = put(tmp_path)
    Image.fromarray(np.full((12, 16), 3, np.uint8)).save(str(pair.label), format="BMP")
    before = Path(str(pair.label)).stat()
    assert facts_of(pair).label == LabelStats(12, 16, 1, False, ((3, 192),))
    Image.fromarray(np.full((12, 16), 4, np.uint8)).save(str(pair.label), format="BMP")
    assert Path(str(pair.label)).stat().st_size == before.st_size, "size and time will not show the change"
    os.utime(str(pair.label), ns=(before.st_atime_ns, before.st_mtime_ns))
    assert facts_of(pair).label == LabelStats(12, 16, 1, False, ((4, 192),))


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100, b"SQLite format 3\0" + b"\0" * 50])
def test_a_broken_store_is_made_anew(tmp_path: Path, content: bytes) -> None:
    cache_folder().mkdir()
    (cache_folder() / FILE).write_bytes(content)
    pair = put(tmp_path)
    first = facts_of(pair)
    assert first == facts_of(pair)
    with sqlite3.connect(cache_folder() / FILE) as database:
        assert database.execute("SELECT count(*) FROM facts").fetchone() == (2,)
    database.close()


@pytest.mark.parametrize(
    "record", ["", "{}", "[]", '["ImageStats"]', '["LabelStats", 1, 2, 3, true, [[1]]]', "[1, 2]", '["x", 1]']
)
def test_broken_records_are_as_good_as_none(tmp_path: Path, record: str) -> None:
    pair = put(tmp_path)
    first = facts_of(pair)
    database = sqlite3.connect(cache_folder() / FILE)
    with database:
        database.execute("UPDATE facts SET record = ?", (record,))
    database.close()
    assert facts_of(pair) == first


def test_without_a_place_to_keep_them_facts_are_found_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SEMASK_CACHE", str(tmp_path / "file" / "cache"))
    assert facts_of(put(tmp_path)).image == ImageStats(12, 16, 1)


def test_old_records_go(tmp_path: Path) -> None:
    facts_of(put(tmp_path))
    database = sqlite3.connect(cache_folder() / FILE)
    with database:
        database.execute("UPDATE facts SET day = day - 200")
    database.close()
    with StatsCache():
        pass
    database = sqlite3.connect(cache_folder() / FILE)
    assert database.execute("SELECT count(*) FROM facts").fetchone() == (0,)
    database.close()


def test_the_cache_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder().name == "cache"
    monkeypatch.delenv("SEMASK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/semask")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "semask"
