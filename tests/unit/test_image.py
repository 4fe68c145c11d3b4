"""Images are written here, by Pillow and by hand, and must come back as what they show."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semask.data.readers.image import SUFFIXES, probe_image, read_header, read_image, read_label
from tests.facts import facts


@pytest.fixture
def ramp() -> np.ndarray:
    """A image without symmetries, 6×9, RGB."""
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def shown(path: Path) -> np.ndarray:
    image = read_image(path)
    assert image.dtype == torch.uint8
    assert image.permute(1, 2, 0).is_contiguous(), "as it was decoded, for fast resizing"
    return image.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".webp"])
def test_lossless_formats_are_exact(suffix: str, ramp: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(ramp).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    assert suffix in SUFFIXES
    assert (shown(path) == ramp).all()
    assert probe_image(path) == (6, 9)


def test_jpeg_is_near(tmp_path: Path) -> None:
    flat = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    Image.fromarray(flat).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(shown(tmp_path / "a.jpg").astype(int) - flat).max() <= 3


def test_phone_jpegs_with_further_images_are_read_and_refused_as_labels(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (24, 16), (200, 100, 50)), Image.new("RGB", (24, 16))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert np.abs(shown(tmp_path / "a.jpg").astype(int) - (200, 100, 50)).max() <= 3
    assert probe_image(tmp_path / "a.jpg") == (16, 24)
    with pytest.raises(ValueError, match=facts(tmp_path / "a.jpg", "JPEG", "PNG")):
        read_label(tmp_path / "a.jpg")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_exif_orientation_is_undone(orientation: int, suffix: str, tmp_path: Path) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16] = (250, 250, 250)
    upright[:16, 32:] = (120, 120, 120)
    # How a camera stores an upright scene under each orientation: the inverse of what a viewer does.
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    assert np.abs(shown(path).astype(int) - upright).max() <= 12
    assert probe_image(path) == (32, 48)


def test_transparent_pixels_show_white(tmp_path: Path) -> None:
    pixels = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert shown(tmp_path / "a.png").tolist() == [[[255, 0, 0], [255, 255, 255], [127, 127, 127]]]


def test_grey_palette_bilevel_and_cmyk(ramp: np.ndarray, tmp_path: Path) -> None:
    grey = Image.fromarray(ramp[..., 0])
    grey.save(tmp_path / "l.png")
    assert (shown(tmp_path / "l.png") == ramp[..., :1]).all()
    Image.fromarray(np.dstack([ramp[..., 0], np.full((6, 9), 255, np.uint8)])).save(tmp_path / "la.png")
    assert (shown(tmp_path / "la.png") == ramp[..., :1]).all()
    grey.point(lambda value: 255 * (value > 127)).convert("1").save(tmp_path / "1.png")
    assert (shown(tmp_path / "1.png") == 255 * (ramp[..., :1] > 127)).all()
    indices = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    indices.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    indices.save(tmp_path / "p.png")
    assert shown(tmp_path / "p.png").tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    indices.save(tmp_path / "pt.png", transparency=1)
    assert shown(tmp_path / "pt.png")[0, 1].tolist() == [255, 255, 255]
    Image.fromarray(ramp).convert("CMYK").save(tmp_path / "c.tif")
    assert (shown(tmp_path / "c.tif") == ramp).all()


def test_sixteen_bit_is_divided_by_257(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert shown(tmp_path / name)[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_of_32_bits_are_refused_before_and_while_reading(dtype: type, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((2, 2), dtype)).save(tmp_path / "f.tif")
    for read in (read_image, probe_image):
        with pytest.raises(ValueError, match=facts(tmp_path / "f.tif", "32-bit", 8, 16)):
            read(tmp_path / "f.tif")


# --- bad files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_files_are_named(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"cut{suffix}"
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    for read in (read_image, probe_image, read_label):
        with pytest.raises(ValueError, match=facts(path)):
            read(path)


def test_corrupt_pixels_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    for read in (read_image, probe_image, read_label):
        with pytest.raises(ValueError, match=facts(path)):
            read(path)


@pytest.mark.parametrize("content", [b"", b"no image", b"%PDF-1.7", b"GIF89a" + bytes(20)])
def test_what_is_no_image_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=facts(path, "PNG, JPEG, WEBP, TIFF, BMP")):
        read_image(path)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=facts(tmp_path / "gone.png")):
        read_image(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=facts(tmp_path)):
        read_image(tmp_path)


def grey_png(size: tuple[int, int], bits: int, rows: bytes) -> bytes:
    """Return a PNG of grey (height, width) whose rows, a filter byte before each, are packed already."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], bits, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [20_000, 60_000])
def test_a_small_file_that_claims_to_be_huge_is_not_decoded(side: int, tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(grey_png((side, side), 8, bytes(100)))
    for read in (read_image, read_label, probe_image):
        with pytest.raises(ValueError, match=facts(path, side * side, 134217728, "max_pixels")):
            read(path)


def test_the_pixel_budget_is_an_argument(tmp_path: Path) -> None:
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", max_pixels=100).shape == (3, 10, 10)
    with pytest.raises(ValueError, match=facts(tmp_path / "a.png", "10×10", 99, "max_pixels")):
        read_image(tmp_path / "a.png", max_pixels=99)


# --- labels ------------------------------------------------------------------------------------------------------


def test_labels_give_the_stored_values(tmp_path: Path) -> None:
    ids = np.array([[0, 1, 200], [255, 7, 3]], np.uint8)
    Image.fromarray(ids).save(tmp_path / "l.png")
    palette = Image.fromarray(ids)
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    palette.save(tmp_path / "p.png")
    wide = np.array([[0, 300, 65535]], np.uint16)
    Image.fromarray(wide).save(tmp_path / "16.png")
    wider = np.array([[0, -5, 70000]], np.int32)
    Image.fromarray(wider).save(tmp_path / "32.tif")
    Image.fromarray(ids > 2).save(tmp_path / "1.png")
    assert torch.equal(read_label(tmp_path / "l.png"), torch.from_numpy(ids))
    assert torch.equal(read_label(tmp_path / "p.png"), torch.from_numpy(ids))
    assert read_label(tmp_path / "16.png").tolist() == wide.tolist()
    assert read_label(tmp_path / "32.tif").tolist() == wider.tolist()
    assert read_label(tmp_path / "1.png").tolist() == (ids > 2).astype(int).tolist()
    assert read_header(tmp_path / "p.png") == (1, True)
    assert read_header(tmp_path / "l.png") == (1, False)


def test_labels_turn_with_their_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    ids = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    Image.fromarray(ids).save(tmp_path / "l.png", exif=exif)
    assert read_label(tmp_path / "l.png").tolist() == [[4, 1], [5, 2], [6, 3]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "PA", "P"])
def test_colours_are_values_beyond_all_numbers(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[(0, 255, 0), (1, 2, 3)]], np.uint8))
    image.convert("P" if mode == "PA" else mode, palette=Image.Palette.ADAPTIVE).convert(mode).save(tmp_path / "a.tif")
    expected = np.array(Image.open(tmp_path / "a.tif").convert("RGB")).astype(int) @ [2**16, 2**8, 1] + 2**32
    assert read_label(tmp_path / "a.tif", by_colour=True).tolist() == expected.tolist()
    assert (read_label(tmp_path / "a.tif").tolist() == expected.tolist()) == (mode != "P")


def test_labels_of_other_colours_are_refused(ramp: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(ramp).convert("CMYK").save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=facts(tmp_path / "a.tif", "CMYK", "PNG")):
        read_label(tmp_path / "a.tif")


def test_jpeg_labels_are_refused_whatever_their_name(tmp_path: Path) -> None:
    Image.fromarray(np.ones((8, 8), np.uint8)).save(tmp_path / "a.png", format="JPEG")
    with pytest.raises(ValueError, match=facts(tmp_path / "a.png", "JPEG", "PNG", '"labels": {"0-127": 0')):
        read_label(tmp_path / "a.png")
    assert read_label(tmp_path / "a.png", lossy=True).tolist() == [[1] * 8] * 8


@pytest.mark.parametrize(("bits", "packed"), [(1, 0b10110000), (2, 0b11_01_00_10), (4, 0b1111_0101)])
def test_labels_of_few_bits_hold_what_was_written(bits: int, packed: int, tmp_path: Path) -> None:
    """Pillow spreads 2 and 4 bits over 0 … 255, which would turn class 3 into "ignore"."""
    count = 8 // bits
    expected = [packed >> (8 - bits * (i + 1)) & ((1 << bits) - 1) for i in range(count)]
    path = tmp_path / "label.png"
    path.write_bytes(grey_png((1, count), bits, bytes([0, packed])))
    assert read_label(path).tolist() == [expected]


def test_damaged_pixels_of_a_png_are_refused(tmp_path: Path) -> None:
    """Other bits may be valid codes for other pixels: only the checksum shows it."""
    coarse = np.random.default_rng(0).integers(0, 200, (6, 9, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((90, 60), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "a.png")
    smooth.convert("L").save(tmp_path / "label.png")
    silent = 0
    for name, read in (("a.png", read_image), ("label.png", read_label)):
        content = (tmp_path / name).read_bytes()
        for place in range(100, len(content) - 50, 200):
            path = tmp_path / f"{place}-{name}"
            path.write_bytes(content[:place] + bytes(len(content) - place))
            try:
                Image.open(path).load()
                silent += 1
            except (OSError, SyntaxError):
                pass
            with pytest.raises(ValueError, match=facts(path)):
                read(path)
    assert silent, "Pillow reads some of them"
