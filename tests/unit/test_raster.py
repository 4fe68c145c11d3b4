"""Images of any channels and depth, against the numbers that were written."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from semask.data.readers.image import NOTED, probe_image, read_header, read_image
from semask.data.readers.png import PASSES, SIGNATURE
from semask.data.readers.raster import as_rgb, probe_raster, read_raster
from semask.ops.resize import to_float
from semask.recipes.recipe import DataRecipe
from tests.facts import facts, missing
from tests.fuzz import mutate

RGB = DataRecipe()


def samples(channels: int, kind: type[np.generic], size: tuple[int, int] = (9, 11)) -> np.ndarray:
    random = np.random.default_rng(channels)
    return random.integers(0, np.iinfo(kind).max, (channels, *size), dtype=kind, endpoint=True)


def write_tiff(path: Path, stored: np.ndarray, layout: str, **options: object) -> None:
    """Write c H W as interleaved samples, as planes, or as pages."""
    if layout == "interleaved":
        tifffile.imwrite(path, np.moveaxis(stored, 0, -1), photometric="minisblack", planarconfig="contig", **options)
    elif layout == "planes":
        tifffile.imwrite(path, stored, photometric="minisblack", planarconfig="separate", **options)
    else:
        tifffile.imwrite(path, stored, photometric="minisblack", **options)


@pytest.mark.parametrize("layout", ["interleaved", "planes", "pages"])
@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize(("kind", "full"), [(np.uint8, 255), (np.uint16, 65535)])
def test_bands_of_a_tiff_lose_nothing(
    tmp_path: Path, layout: str, compression: str | None, kind: type[np.generic], full: int
) -> None:
    stored = samples(5, kind)
    write_tiff(tmp_path / "a.tif", stored, layout, compression=compression)
    data = DataRecipe(channels=5)
    read = read_raster(tmp_path / "a.tif", data)
    assert read.dtype == (torch.uint8 if full == 255 else torch.float32)
    unit = to_float(read).numpy().astype(np.float64)
    assert (np.round(unit * full) == stored).all(), "every stored number can be reported from its neighbours"
    assert np.abs(unit - stored / full).max() < 1e-7
    assert probe_raster(tmp_path / "a.tif", data) == (9, 11)


def test_colours_of_sixteen_bits(tmp_path: Path) -> None:
    stored = samples(3, np.uint16)
    tifffile.imwrite(tmp_path / "a.tiff", np.moveaxis(stored, 0, -1), photometric="rgb")
    assert (np.round(read_raster(tmp_path / "a.tiff", RGB).numpy() * 65535.0) == stored).all()
    eight = samples(3, np.uint8)
    tifffile.imwrite(tmp_path / "b.tif", np.moveaxis(eight, 0, -1), photometric="rgb")
    assert torch.equal(read_raster(tmp_path / "b.tif", RGB), torch.from_numpy(eight))


def test_grey_is_repeated_for_colour_and_kept_alone(tmp_path: Path) -> None:
    stored = samples(1, np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stored[0])
    Image.fromarray(stored[0]).save(tmp_path / "a.png")
    alone = read_raster(tmp_path / "a.tif", DataRecipe(channels=1))
    assert alone.shape == (1, 9, 11)
    assert torch.equal(read_raster(tmp_path / "a.tif", RGB), alone.expand(3, -1, -1))
    assert torch.equal(read_raster(tmp_path / "a.png", DataRecipe(channels=1)), alone)
    Image.fromarray((stored[0] >> 8).astype(np.uint8)).save(tmp_path / "a.jpg", quality=95)
    assert read_raster(tmp_path / "a.jpg", DataRecipe(channels=1)).shape == (1, 9, 11)


def test_alpha_is_a_fourth_channel_where_four_are_wanted(tmp_path: Path) -> None:
    stored = samples(4, np.uint8)
    for name in ("a.png", "a.webp", "a.tif"):
        Image.fromarray(np.ascontiguousarray(np.moveaxis(stored, 0, -1)), "RGBA").save(tmp_path / name, lossless=True)
    four = DataRecipe(channels=4)
    assert torch.equal(read_raster(tmp_path / "a.png", four), torch.from_numpy(stored))
    assert torch.equal(read_raster(tmp_path / "a.tif", four), torch.from_numpy(stored))
    # A lossless WebP forgets the colours of what cannot be seen.
    seen = torch.from_numpy(stored[3] > 0)
    assert torch.equal(read_raster(tmp_path / "a.webp", four)[:, seen], torch.from_numpy(stored)[:, seen])


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_an_alpha_that_varies_like_data_is_not_mixed_into_colours(tmp_path: Path, suffix: str) -> None:
    """RGB and near infrared in four bands, marked as transparency by most tools."""
    path = tmp_path / f"a.{suffix}"
    colours = np.moveaxis(samples(4, np.uint8, size=(40, 40)), 0, -1).copy()
    Image.fromarray(colours, "RGBA").save(path, lossless=True)
    for read in (read_image, probe_image):
        with pytest.raises(ValueError, match=facts(path, "--data.channels 4")):
            read(path)
    # cut out by an outline, softened at its edge
    colours[..., 3] = 255
    colours[:5, :, 3] = 0
    colours[5, :, 3] = np.arange(40) * 6
    Image.fromarray(colours, "RGBA").save(path, lossless=True)
    shown = read_image(path).numpy()
    assert (shown[:, :5] == 255).all()
    assert np.array_equal(shown[:, 6:], np.moveaxis(colours[6:, :, :3], -1, 0))
    assert probe_image(path) == (40, 40)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("interlaced", [False, True])
def test_png_of_16_bits_keeps_every_level(tmp_path: Path, channels: int, interlaced: bool) -> None:
    """Grey, grey with alpha, RGB and RGBA, beside a TIFF of the same values; 12-bit data keep their levels."""
    values = samples(channels, np.uint16, size=(37, 70)) >> 4
    path = tmp_path / "a.png"
    path.write_bytes(deep_png(values, interlaced=interlaced))
    assert torch.equal(read_raster(path, DataRecipe(channels=channels)), torch.from_numpy(values / np.float32(65535)))
    scaled = read_raster(path, DataRecipe(channels=channels, value_range=(0.0, 4095.0)))
    assert torch.equal(scaled, torch.from_numpy(values / np.float32(4095)))
    assert probe_raster(path, DataRecipe(channels=channels)) == (37, 70)
    if channels in (1, 3):
        write_tiff(tmp_path / "a.tif", values if channels > 1 else values[0], "planes" if channels > 1 else "grey")
        assert torch.equal(read_raster(path, RGB), read_raster(tmp_path / "a.tif", RGB))
        assert len(read_raster(path, RGB).unique()) == len(np.unique(values))
    else:
        with pytest.raises(ValueError, match=facts(path, channels, f"--data.channels {channels}")):
            read_raster(path, RGB)
        values[-1] = 65535
        path.write_bytes(deep_png(values, interlaced=interlaced))
        opaque = torch.from_numpy(values[:-1] / np.float32(65535))
        assert torch.equal(read_raster(path, RGB), opaque.expand(3, -1, -1))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_white_is_the_largest_value(tmp_path: Path, kind: type) -> None:
    values = samples(1, kind)[0]
    tifffile.imwrite(tmp_path / "a.tif", np.iinfo(kind).max - values, photometric="miniswhite")
    tifffile.imwrite(tmp_path / "b.tif", values, photometric="minisblack")
    for data in (RGB, DataRecipe(channels=1)):
        assert torch.equal(read_raster(tmp_path / "a.tif", data), read_raster(tmp_path / "b.tif", data))


def deep_png(values: np.ndarray, *, interlaced: bool) -> bytes:
    """A PNG of 16 bits, c H W, with every filter, written by hand: Pillow has none."""
    channels, height, width = values.shape
    pixels = np.moveaxis(values, 0, -1).astype(">u2")
    rows = b""
    for x, y, dx, dy in PASSES if interlaced else ((0, 0, 1, 1),):
        part = pixels[y::dy, x::dx]
        before = np.zeros(part.shape[1] * channels * 2, np.uint8)
        for number, row in enumerate(part if part.shape[1] else ()):
            line = np.frombuffer(row.tobytes(), np.uint8)
            left = np.concatenate([np.zeros(2 * channels, np.uint8), line[: -2 * channels]])
            forecast = {0: 0, 1: left, 2: before, 3: ((left.astype(int) + before) // 2).astype(np.uint8)}[number % 4]
            rows += bytes([number % 4]) + (line - forecast).astype(np.uint8).tobytes()
            before = line
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, interlaced)
    parts = ((b"IHDR", header), (b"tEXt", b"a\0b"), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return SIGNATURE + b"".join(mutate.chunk(name, part) for name, part in parts)


def test_colour_is_what_read_image_gives(tmp_path: Path) -> None:
    stored = np.moveaxis(samples(3, np.uint8), 0, -1)
    for name in ("a.png", "a.jpg", "a.bmp", "a.tif"):
        Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / name)
        assert torch.equal(read_raster(str(tmp_path / name), RGB), read_image(tmp_path / name))
        assert probe_raster(tmp_path / name, RGB) == (9, 11)
        assert to_float(read_raster(tmp_path / name, RGB)).is_contiguous()


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.float32, np.float64])
def test_a_range_says_what_becomes_0_and_1(tmp_path: Path, kind: type[np.generic]) -> None:
    stored = np.linspace(-50 if np.dtype(kind).kind != "u" else 0, 250, 2 * 8 * 8).reshape(2, 8, 8)
    write_tiff(tmp_path / "a.tif", stored.astype(kind), "planes")
    got = read_raster(tmp_path / "a.tif", DataRecipe(channels=2, value_range=(10.0, 210.0))).numpy()
    assert np.allclose(got, np.clip((stored.astype(kind).astype(float) - 10) / 200, 0, 1), atol=1e-6)
    assert got.dtype == np.float32
    assert got.min() == 0
    assert got.max() == 1


def test_a_range_holds_for_colour_too(tmp_path: Path) -> None:
    stored = samples(3, np.uint8)
    Image.fromarray(np.ascontiguousarray(np.moveaxis(stored, 0, -1))).save(tmp_path / "a.png")
    got = read_raster(tmp_path / "a.png", DataRecipe(value_range=(0.0, 100.0)))
    assert torch.allclose(got, (torch.from_numpy(stored) / 100).clamp(0, 1))


@pytest.mark.parametrize("kind", [np.float32, np.int16, np.uint32])
def test_an_unknown_range_is_refused(tmp_path: Path, kind: type[np.generic]) -> None:
    write_tiff(tmp_path / "a.tif", np.arange(2 * 16).reshape(2, 4, 4).astype(kind), "planes")
    with pytest.raises(ValueError, match=facts(tmp_path / "a.tif", kind.__name__, "0 … 31", "--data.value-range")):
        read_raster(tmp_path / "a.tif", DataRecipe(channels=2))


def test_what_is_no_number_is_refused(tmp_path: Path) -> None:
    stored = np.zeros((2, 4, 4), np.float32)
    stored[1, 2, :2] = np.nan
    write_tiff(tmp_path / "a.tif", stored, "planes")
    with pytest.raises(ValueError, match=facts(tmp_path / "a.tif", 2)):
        read_raster(tmp_path / "a.tif", DataRecipe(channels=2, value_range=(0.0, 1.0)))


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_other_counts_of_channels_are_reported(tmp_path: Path, name: str) -> None:
    stored = np.ascontiguousarray(np.moveaxis(samples(4, np.uint8), 0, -1))
    Image.fromarray(stored, "RGBA").save(tmp_path / name)
    with pytest.raises(ValueError, match=facts(tmp_path / name, 4, "data.channels", 6, "--data.channels 4")):
        read_raster(tmp_path / name, DataRecipe(channels=6))


def test_broken_and_missing_files_are_named(tmp_path: Path) -> None:
    data = DataRecipe(channels=5)
    with pytest.raises(ValueError, match=facts(tmp_path / "gone.tif")):
        read_raster(tmp_path / "gone.tif", data)
    with pytest.raises(ValueError, match=facts(tmp_path / "gone.png")):
        read_raster(tmp_path / "gone.png", data)
    write_tiff(tmp_path / "a.tif", samples(5, np.uint16), "planes", compression="deflate")
    whole = (tmp_path / "a.tif").read_bytes()
    for end in (0, 3, 8, 60, len(whole) // 2, len(whole) - 20):
        (tmp_path / "b.tif").write_bytes(whole[:end])
        with pytest.raises(ValueError, match=facts(tmp_path / "b.tif")):
            read_raster(tmp_path / "b.tif", data)
    Image.fromarray(samples(1, np.uint16)[0]).save(tmp_path / "c.png")
    (tmp_path / "c.png").write_bytes((tmp_path / "c.png").read_bytes()[:-40])
    with pytest.raises(ValueError, match=facts(tmp_path / "c.png")):
        read_raster(tmp_path / "c.png", DataRecipe(channels=1))


def test_bytes_flipped_at_random_never_end_in_another_error(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", samples(5, np.uint16), "planes", compression="deflate")
    whole = bytearray((tmp_path / "a.tif").read_bytes())
    random = np.random.default_rng(0)
    outcomes = set()
    for _ in range(150):
        broken = bytearray(whole)
        for place in random.integers(0, len(broken), 3):
            broken[place] = random.integers(256)
        (tmp_path / "b.tif").write_bytes(broken)
        try:
            assert read_raster(tmp_path / "b.tif", DataRecipe(channels=5)).shape == (5, 9, 11)
            outcomes.add("read")
        except ValueError as error:
            outcomes.add("refused by name" if "b.tif" in str(error) else str(error))
    assert outcomes == {"read", "refused by name"}


def test_size_layout_and_orientation_are_looked_at_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiff(tmp_path / "large.tif", samples(2, np.uint8), "planes")
    monkeypatch.setattr("semask.data.readers.tiff.MAX_PIXELS", 98)
    with pytest.raises(ValueError, match=facts(tmp_path / "large.tif", "11×9", 98)):
        read_raster(tmp_path / "large.tif", DataRecipe(channels=2))
    monkeypatch.undo()
    tifffile.imwrite(tmp_path / "volume.tif", np.zeros((2, 3, 4, 5), np.uint8), photometric="minisblack")
    with pytest.raises(ValueError, match=facts(tmp_path / "volume.tif", "TIFF", "2×3×4×5")):
        read_raster(tmp_path / "volume.tif", DataRecipe(channels=2))
    write_tiff(tmp_path / "turned.tif", samples(2, np.uint8), "planes", extratags=[(274, "H", 1, 6, True)])
    with pytest.raises(ValueError, match=facts(tmp_path / "turned.tif", 6)):
        read_raster(tmp_path / "turned.tif", DataRecipe(channels=2))


def test_what_is_shown_of_bands() -> None:
    bands = torch.rand(5, 30, 40)
    low, high = np.percentile(bands[:3].numpy(), (2, 98))
    torch.testing.assert_close(as_rgb(bands), ((bands[:3] - low) / (high - low)).clamp(0, 1))
    grey = as_rgb(bands[:2])
    assert torch.equal(grey[0], grey[1])
    assert torch.equal(grey[0], grey[2])
    assert torch.equal(grey[0].flatten().argsort()[40:-40], bands[0].flatten().argsort()[40:-40])


def test_colours_of_eight_bits_are_shown_as_they_are() -> None:
    image = torch.randint(20, 60, (3, 30, 40), dtype=torch.uint8)
    assert torch.equal(as_rgb(image), image)
    assert torch.equal(as_rgb(image / 255), image / 255)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_that_use_little_of_their_range_are_neither_black_nor_white(channels: int) -> None:
    image = torch.from_numpy(np.random.default_rng(0).integers(30000, 33277, (channels, 50, 60)) / 65535).float()
    shown = as_rgb(image)
    assert 0.4 < float(shown.mean()) < 0.6
    assert float(shown.std()) > 0.2
    assert (float(shown.min()), float(shown.max())) == (0, 1)
    assert torch.equal(as_rgb(torch.full((1, 4, 4), 0.3)), torch.full((3, 4, 4), 0.3))


def test_a_few_bright_spots_on_one_level_are_seen() -> None:
    image = torch.full((1, 50, 60), 0.01)
    image[0, 7, 7:17] = 0.03
    assert as_rgb(image)[:, 7, 7:17].min() == 1
    assert as_rgb(image)[:, 8:].max() == 0


@pytest.mark.parametrize("kind", ["sizes", "stack"])
def test_pages_are_not_all_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path, made = str(tmp_path / "a.tif"), []
    with tifffile.TiffWriter(path) as file:
        for number in range(300):
            file.write(np.zeros((8 + (kind == "sizes") * number, 8), np.uint16), metadata=None)
    init = tifffile.TiffPage.__init__
    monkeypatch.setattr(tifffile.TiffPage, "__init__", lambda *given, **named: made.append(1) or init(*given, **named))
    for data in (DataRecipe(channels=1), DataRecipe(), DataRecipe(channels=4)):
        with pytest.raises(ValueError, match=facts(path, 64)):
            read_raster(path, data)
    assert read_header(path) == (1, False)
    assert len(made) < 20
    if kind == "stack":
        assert read_raster(path, DataRecipe(channels=300)).shape == (300, 8, 8)


def test_further_pages_are_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    NOTED.clear()
    for name in "ab":
        pages = np.arange(2 * 5 * 4 * 3, dtype=np.uint8).reshape(2, 5, 4, 3)
        tifffile.imwrite(tmp_path / f"{name}.tif", pages, photometric="rgb")
        assert read_image(str(tmp_path / f"{name}.tif")).permute(1, 2, 0).tolist() == pages[0].tolist()
    assert [missing(record.getMessage(), tmp_path / "a.tif") for record in caplog.records] == [[]]
