"""What is measured of files, against Pillow and NumPy; and that it is kept by content and never wrongly."""

import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semask.data.checks.cache import FILE, StatsCache, cache_folder
from semask.data.checks.file_stats import ImageStats, LabelStats, PairStats, ReadFailure, measure_pixels, signature
from semask.data.checks.scan import scan
from semask.data.label_values import COLOUR
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


def stats_of(pair: Pair, *, thorough: bool = False, data: DataRecipe = DATA) -> PairStats:
    return scan([pair], data, thorough=thorough)[0]


def age(pair: Pair) -> None:
    """Make the files look as if they had been written a minute ago."""
    for source in (pair.image, pair.label):
        then = time.time() - 60
        os.utime(str(source), (then, then))


# --- what is measured --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [1, 3, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_moments_of_images(bands: int, dtype: type) -> None:
    stored = random.integers(0, 256, (bands, 9, 7)).astype(dtype) / (1 if dtype is np.uint8 else 255)
    stats = measure_pixels(torch.from_numpy(stored.astype(dtype)))
    unit = stored.astype(np.float64) / (255 if dtype is np.uint8 else 1)
    np.testing.assert_allclose(stats.mean, unit.mean((1, 2)), rtol=1e-6)
    np.testing.assert_allclose(stats.square, (unit**2).mean((1, 2)), rtol=1e-6)


def test_signatures_are_kept_by_size_format_and_light_and_tell_scenes_apart() -> None:
    def image(seed: int) -> np.ndarray:
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 7), dtype=np.uint8)
        return np.array(Image.fromarray(coarse).resize((280, 240), Image.Resampling.BICUBIC))

    def bits(grey: np.ndarray) -> int:
        found = signature(torch.from_numpy(np.array(grey, np.float32) / 255))
        assert found is not None
        return found

    one = image(0)
    smaller = np.array(Image.fromarray(one).resize((100, 90), Image.Resampling.BOX))
    for like in (smaller, one // 2 + 20):
        assert (bits(one) ^ bits(like)).bit_count() <= 3
    assert all((bits(one) ^ bits(image(seed))).bit_count() > 10 for seed in range(1, 20))
    assert bits(one) != bits(one[:, ::-1])


def test_signatures_against_a_loop() -> None:
    grey = random.random((16, 18)).astype(np.float32)
    cells = grey.reshape(8, 2, 9, 2).mean((1, 3))
    expected = 0
    for row in range(8):
        for column in range(8):
            expected = expected * 2 + int(cells[row, column + 1] > cells[row, column])
    assert signature(torch.from_numpy(grey)) == expected


def test_a_flat_image_has_no_signature() -> None:
    assert signature(torch.full((20, 30), 0.5)) is None
    assert signature(torch.full((2, 3), 0.5)) is None


def test_a_pair(tmp_path: Path) -> None:
    label = random.integers(0, 5, (12, 16), dtype=np.uint8)
    pair = put(tmp_path, label=label)
    quick, thorough = stats_of(pair), stats_of(pair, thorough=True)
    assert quick.image == ImageStats(12, 16, 1)
    assert isinstance(thorough.image, ImageStats)
    assert thorough.image.pixels is not None
    assert len(thorough.image.pixels.mean) == 3
    values, counts = np.unique(label, return_counts=True)
    expected = tuple(zip(values.tolist(), counts.tolist(), strict=True))
    assert quick.label == thorough.label == LabelStats(12, 16, 1, (), expected)


def test_labels_of_sixteen_bits_palettes_and_turned_files(tmp_path: Path) -> None:
    deep = put(tmp_path, "deep", label=np.repeat(np.uint16([[7, 40_000]]), 6, axis=0))
    assert stats_of(deep).label == LabelStats(6, 2, 1, (), ((7, 6), (40_000, 6)))
    coloured = Image.fromarray(np.full((12, 16), 3, np.uint8))
    coloured.putpalette(list(range(30)))
    pair = put(tmp_path, "palette")
    coloured.save(str(pair.label))
    assert stats_of(pair).label == LabelStats(12, 16, 1, (COLOUR + 0x090A0B,), ((3, 192),))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = put(tmp_path, "turned", exif=exif)
    assert stats_of(turned).image == ImageStats(16, 12, 6)


def test_a_label_of_endless_values_is_no_label(tmp_path: Path) -> None:
    pair = put(tmp_path, label=np.arange(80 * 80, dtype=np.uint16).reshape(80, 80))
    found = stats_of(pair).label
    assert isinstance(found, ReadFailure)
    assert missing(found.message, 6400, "0 … 6399") == []


def test_what_cannot_be_read_is_a_fact(tmp_path: Path) -> None:
    pair = put(tmp_path)
    Path(str(pair.image)).write_bytes(b"no image")
    Path(str(pair.label)).unlink()
    stats = stats_of(pair)
    assert isinstance(stats.image, ReadFailure)
    assert "PNG" in stats.image.message
    assert str(pair.image) not in stats.image.message, "it is reported elsewhere"
    assert isinstance(stats.label, ReadFailure)
    assert stats.label_digest == ""


# --- what is kept ------------------------------------------------------------------------------------------------


def forbid(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("read again")

    for name in names:
        monkeypatch.setattr(f"semask.data.checks.scan.{name}", fail)


def test_known_content_is_not_measured_again_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = put(tmp_path)
    first = stats_of(pair, thorough=True)
    moved = Pair(
        "b", Path(str(pair.image)).rename(tmp_path / "b.png"), Path(str(pair.label)).rename(tmp_path / "b_.png")
    )
    forbid(monkeypatch, "measure_image", "measure_label")
    assert stats_of(moved, thorough=True) == first
    assert stats_of(moved, thorough=False) == first, "what was looked at closely serves a quick look"


def test_what_could_not_be_read_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec may have been installed since."""
    pair = put(tmp_path)
    age(pair)

    def fail(*arguments: object, **options: object) -> None:
        raise ValueError(f"{pair.image}: a compression that is not known here")

    with monkeypatch.context() as patch:
        patch.setattr("semask.data.checks.scan.measure_image", fail)
        assert stats_of(pair).image == ReadFailure("a compression that is not known here")
    assert stats_of(pair).image == ImageStats(12, 16, 1)


def test_a_quick_look_does_not_serve_a_thorough_one_nor_other_bands(tmp_path: Path) -> None:
    pair = put(tmp_path)
    stats_of(pair)
    found = stats_of(pair, thorough=True).image
    assert isinstance(found, ImageStats)
    assert found.pixels is not None
    wide = stats_of(pair, thorough=True, data=DataRecipe(value_range=(0.0, 510.0))).image
    assert isinstance(wide, ImageStats)
    assert wide.pixels is not None
    np.testing.assert_allclose(np.array(wide.pixels.mean) * 2, found.pixels.mean, rtol=1e-6)


def test_a_settled_file_is_not_even_opened_by_a_quick_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = put(tmp_path)
    age(pair)
    first = stats_of(pair)

    own_open = Path.open

    def fail(path: Path, *arguments: object, **options: object) -> object:
        if path.suffix == ".png":
            raise AssertionError("opened")
        return own_open(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        assert stats_of(pair) == first
        with pytest.raises(AssertionError, match="opened"):
            stats_of(pair, thorough=True)


def test_changed_files_are_read_again(tmp_path: Path) -> None:
    pair = put(tmp_path)
    age(pair)
    stats_of(pair)
    Image.fromarray(np.full((12, 16), 9, np.uint8)).save(str(pair.label))
    assert stats_of(pair).label == LabelStats(12, 16, 1, (), ((9, 192),))


def test_a_file_that_has_just_changed_has_no_stamp(tmp_path: Path) -> None:
    pair = put(tmp_path)
    Image.fromarray(np.full((12, 16), 3, np.uint8)).save(str(pair.label), format="BMP")
    before = Path(str(pair.label)).stat()
    assert stats_of(pair).label == LabelStats(12, 16, 1, (), ((3, 192),))
    Image.fromarray(np.full((12, 16), 4, np.uint8)).save(str(pair.label), format="BMP")
    assert Path(str(pair.label)).stat().st_size == before.st_size, "size and time will not show the change"
    os.utime(str(pair.label), ns=(before.st_atime_ns, before.st_mtime_ns))
    assert stats_of(pair).label == LabelStats(12, 16, 1, (), ((4, 192),))


def records() -> list[list[str]]:
    """Return key, day and record of every line."""
    return [
        line.split("\t") for line in (cache_folder() / FILE).read_bytes().decode(errors="replace").split("\n") if line
    ]


@pytest.mark.parametrize(
    "content", [b"", b"no records at all" * 100, b"key\tday\t{}\n", b"\xff\0\n\t\t\n", b"cut\t20000\t[1"]
)
def test_a_broken_cache_is_repaired(tmp_path: Path, content: bytes) -> None:
    cache_folder().mkdir()
    (cache_folder() / FILE).write_bytes(content)
    pair = put(tmp_path)
    first = stats_of(pair)
    assert first == stats_of(pair)
    kinds = [key.split()[0] for key, _, _ in (line for line in records() if len(line) == 3) if " " in key]
    assert sorted(kinds) == ["label", "probe"]


@pytest.mark.parametrize(
    "record", ["", "{}", "[]", '["ImageStats"]', '["LabelStats", 1, 2, 3, true, [[1]]]', "[1, 2]", '["x", 1]', "[1, "]
)
def test_broken_records_are_as_good_as_none(tmp_path: Path, record: str) -> None:
    pair = put(tmp_path)
    first = stats_of(pair)
    broken = "".join(f"{key}\t{day}\t{record}\n" for key, day, _ in records())
    (cache_folder() / FILE).write_text(broken)
    assert stats_of(pair) == first


def test_writers_in_many_processes_lose_nothing(tmp_path: Path) -> None:
    """Each opens the cache, and closes it when all others have opened it, too."""
    with ProcessPoolExecutor(4, get_context("fork")) as pool:
        list(pool.map(write_many, range(4)))
    with StatsCache() as cache:
        for writer in range(4):
            for number in range(600):
                assert cache.get("label", f"{writer}-{number}") == LabelStats(number, writer, 1, (), ((0, number),))


def write_many(writer: int) -> None:
    with StatsCache() as cache:
        for number in range(600):
            cache.put("label", f"{writer}-{number}", LabelStats(number, writer, 1, (), ((0, number),)))


def test_the_last_record_of_a_key_wins_and_superseded_ones_go(tmp_path: Path) -> None:
    for height in range(5):
        with StatsCache() as cache:
            cache.put("label", "a", LabelStats(height, 1, 1, (), ()))
    with StatsCache() as cache:
        assert cache.get("label", "a") == LabelStats(4, 1, 1, (), ())
    assert len(records()) == 1


def test_without_a_place_to_keep_them_facts_are_found_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SEMASK_CACHE", str(tmp_path / "file" / "cache"))
    assert stats_of(put(tmp_path)).image == ImageStats(12, 16, 1)


def test_old_records_go(tmp_path: Path) -> None:
    stats_of(put(tmp_path))
    aged = "".join(f"{key}\t{int(day) - 200}\t{record}\n" for key, day, record in records())
    (cache_folder() / FILE).write_text(aged)
    with StatsCache():
        pass
    assert records() == []


def test_the_cache_folder_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder().name == "cache"
    monkeypatch.delenv("SEMASK_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/semask")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "semask"
