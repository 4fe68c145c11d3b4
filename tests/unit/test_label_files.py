"""Values of label files as they are stored: TIFFs of every sample type, beside tifffile's own reading."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
from PIL import Image

from semask.data.checks.file_stats import measure_label
from semask.data.readers.image import read_label
from semask.data.readers.raster import read_raster
from semask.recipes.recipe import DataRecipe
from tests.facts import facts

VALUES = np.random.default_rng(0).integers(0, 2, (7, 10))


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("kind", ["bool", "u1", "u2", "u4", "i1", "i2", "i4", "i8", "f2", "f4", "f8"])
def test_every_sample_type_gives_what_is_stored(tmp_path: Path, kind: str, photometric: str) -> None:
    largest = (
        1
        if kind == "bool"
        else 2047
        if kind == "f2"
        else 2**24 - 1
        if kind == "f4"
        else min(int(_largest(kind)), 2**32 - 1)
    )
    values = np.where(VALUES == 1, largest, 3 if kind != "bool" else 0)
    if kind[0] in "if":
        values[0, :2] = -9 if kind == "i1" else -999, -1
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values.astype(kind), photometric=photometric)
    assert np.array_equal(read_label(path).numpy(), values)
    assert {value for value, _ in measure_label(path).values} == {*values.ravel().tolist()}


def _largest(kind: str) -> float:
    return float(np.finfo(kind).max if kind[0] == "f" else np.iinfo(kind).max)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("inverted", [False, True])
def test_few_bits_are_neither_spread_nor_inverted(tmp_path: Path, bits: int, inverted: bool) -> None:
    """Packed by hand, 8 pixels a row."""
    values = np.random.default_rng(bits).integers(0, 2**bits, (6, 8))
    packed = np.zeros((6, bits), np.uint8)
    for column in range(8):
        place = column * bits
        packed[:, place // 8] |= (values[:, column] << (8 - bits - place % 8)).astype(np.uint8)
    tags = [(256, 3, 1, 8), (257, 3, 1, 6), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, 0 if inverted else 1)]
    tags += [(273, 4, 1, 200), (277, 3, 1, 1), (278, 3, 1, 6), (279, 4, 1, packed.size)]
    content = b"II*\0" + (8).to_bytes(4, "little") + len(tags).to_bytes(2, "little")
    for tag, kind, count, value in tags:
        content += b"".join(
            number.to_bytes(size, "little") for number, size in ((tag, 2), (kind, 2), (count, 4), (value, 4))
        )
    path = tmp_path / "a.tif"
    path.write_bytes((content + bytes(4)).ljust(200, b"\0") + packed.tobytes())
    assert np.array_equal(read_label(path).numpy(), values)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_are_upright_whatever_reads_them(tmp_path: Path, orientation: int) -> None:
    values = np.arange(70, dtype=np.uint8).reshape(7, 10)
    for name, kind in (("a.tif", np.uint8), ("b.tif", np.int16)):
        tifffile.imwrite(tmp_path / name, values.astype(kind), extratags=[(274, "H", 1, orientation, True)])
    assert np.array_equal(read_label(tmp_path / "a.tif").numpy(), read_label(tmp_path / "b.tif").numpy())


@pytest.mark.parametrize("odd", [0.5, np.nan, np.inf, -1.25])
def test_fractions_are_no_ids(tmp_path: Path, odd: float) -> None:
    values = VALUES.astype(np.float32)
    values[2, 3] = odd
    tifffile.imwrite(tmp_path / "a.tif", values)
    with pytest.raises(ValueError, match=facts(tmp_path / "a.tif", "float32", f"{odd:g}")):
        read_label(tmp_path / "a.tif")


def test_samples_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", VALUES.astype(np.complex64))
    with pytest.raises(ValueError, match=facts(tmp_path / "a.tif", "complex64")):
        read_label(tmp_path / "a.tif")


def test_a_palette_gives_its_indices(tmp_path: Path) -> None:
    image = Image.fromarray(VALUES.astype(np.uint8), "P")
    image.putpalette([200, 10, 10, 0, 255, 0])
    image.save(tmp_path / "a.tif")
    assert np.array_equal(read_label(tmp_path / "a.tif").numpy(), VALUES)
    assert measure_label(tmp_path / "a.tif").palette


class Bytes(NamedTuple):
    """A source whose name says nothing, such as a cell of a table."""

    content: bytes
    name: str = "000000.label"

    def open(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self.content)


@pytest.mark.parametrize("name", ["000000.label", "a.png", "a.jpg", "a"])
def test_the_content_shows_the_format_not_the_name(tmp_path: Path, name: str) -> None:
    values = np.array([[0, 1, 2], [-1, 4, 5]])
    tifffile.imwrite(tmp_path / "a.tif", values.astype(np.int16))
    assert np.array_equal(read_label(Bytes((tmp_path / "a.tif").read_bytes(), name)).numpy(), values)
    tifffile.imwrite(tmp_path / "b.tif", np.abs(values).astype(np.uint8), photometric="miniswhite")
    assert np.array_equal(read_label(Bytes((tmp_path / "b.tif").read_bytes(), name)).numpy(), np.abs(values))
    deep = (np.abs(values) * 1000).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "c.png")
    read = read_raster(Bytes((tmp_path / "c.png").read_bytes(), name), DataRecipe())
    assert np.array_equal(read.numpy(), np.broadcast_to(deep / np.float32(65535), (3, 2, 3)))
    tifffile.imwrite(tmp_path / "d.tif", deep)
    read = read_raster(Bytes((tmp_path / "d.tif").read_bytes(), name), DataRecipe())
    assert np.array_equal(read.numpy(), np.broadcast_to(deep / np.float32(65535), (3, 2, 3)))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_deep_png_is_not_read_sideways(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.arange(6, dtype=np.uint16).reshape(2, 3)).save(tmp_path / "a.png", exif=exif)
    with pytest.raises(ValueError, match=facts(tmp_path / "a.png", orientation)):
        read_raster(tmp_path / "a.png", DataRecipe())
