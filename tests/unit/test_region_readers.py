"""Rasters by region beside rasterio, tifffile and zarr, which read them whole."""

from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import tifffile
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from semask.data.readers import regions, zarr_store
from semask.data.readers.gdal_raster import GdalRaster
from semask.data.readers.image import is_image
from semask.data.readers.regions import Raster, TiffRaster, open_raster
from tests.facts import facts

HEIGHT, WIDTH = 117, 203


@pytest.fixture(autouse=True)
def plain_files() -> None:
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


def pixels(kind: str, bands: int = 3, seed: int = 0) -> np.ndarray:
    """Smooth values with noise, over the type's range."""
    random = np.random.default_rng(seed)
    values = random.random((bands, HEIGHT, WIDTH)) * 0.3 + np.linspace(0, 0.7, WIDTH)
    if kind.startswith("float"):
        return (values * 1000 - 300).astype(kind)
    limits = np.iinfo(kind)
    return (values * (float(limits.max) - float(limits.min)) + float(limits.min)).astype(kind)


def write(path: Path, values: np.ndarray, **options: Any) -> Path:
    bands, height, width = values.shape
    profile = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": values.dtype.name}
    with rasterio.open(path, "w", **(profile | options)) as file:
        file.write(values)
    return path


def check_regions(raster: Raster, wanted: np.ndarray, valid: np.ndarray | None = None, seed: int = 0) -> None:
    """Random regions, the whole and single pixels are those of an array c H W, and so is what has data."""
    random = np.random.default_rng(seed)
    assert (raster.channels, raster.height, raster.width) == wanted.shape
    valid = np.ones(wanted.shape[1:], bool) if valid is None else valid
    height, width = wanted.shape[1:]
    boxes = [(0, 0, height, width), (height - 1, width - 1, height, width)]
    for _ in range(12):
        (top, bottom), (left, right) = (sorted(random.choice(side + 1, 2, replace=False)) for side in (height, width))
        boxes.append((int(top), int(left), int(bottom), int(right)))
    for top, left, bottom, right in boxes:
        samples, there = raster.read(top, left, bottom, right)
        box = slice(top, bottom), slice(left, right)
        there = np.ones((bottom - top, right - left), bool) if there is None else there
        np.testing.assert_array_equal(there, valid[box])
        assert samples.dtype == wanted.dtype
        np.testing.assert_array_equal(samples[:, there], wanted[:, *box][:, valid[box]])
    raster.close()


TYPES = ("uint8", "uint16", "int16", "int32", "uint32", "float32", "float64")
LAYOUTS: tuple[dict[str, Any], ...] = (
    {"tiled": True, "blockxsize": 64, "blockysize": 32},
    {"tiled": True, "blockxsize": 256, "blockysize": 256},  # larger than the image
    {"blockysize": 1},
    {"blockysize": 50},
    {"blockysize": HEIGHT},
)


def test_random_regions_of_tiffs_of_every_layout_and_type(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    makes = [*itertools.product(TYPES, LAYOUTS, ("pixel", "band"))]
    for number, (kind, layout, interleave) in enumerate(makes):
        # the other choices at random, so that each meets each
        compress = str(random.choice(["none", "deflate", "packbits", "zstd", "lzw"]))
        options = {
            **layout,
            "interleave": interleave,
            "compress": compress,
            "endianness": random.choice(["BIG", "LITTLE"]),
        }
        if compress in ("deflate", "zstd", "lzw"):
            options["predictor"] = int(random.choice([1, 2, 3] if kind.startswith("float") else [1, 2]))
        options["bigtiff"] = random.choice(["YES", "NO"])
        values = pixels(kind, bands := int(random.choice([1, 2, 3, 5])), seed=number)
        path = write(tmp_path / f"{number}.tif", values, **options, photometric="minisblack", alpha="no")
        raster = open_raster(path, channels=bands, least=0)
        assert raster is not None
        # LZW and predictor 3 need imagecodecs or rasterio
        assert isinstance(raster, GdalRaster) or not {compress, str(options.get("predictor"))} & {"lzw", "3"}
        check_regions(raster, values, seed=number)
        check_regions(GdalRaster(path, bands), values, seed=number)


def test_what_tifffile_writes(tmp_path: Path) -> None:
    values = pixels("uint16")
    last = np.moveaxis(values, 0, -1)
    writes: dict[str, Callable[[tifffile.TiffWriter], Any]] = {
        "ome": lambda file: file.write(values, metadata={"axes": "CYX"}, photometric="minisblack"),
        "ome tiles": lambda file: file.write(
            values, metadata={"axes": "CYX"}, photometric="minisblack", tile=(64, 64), compression="zlib"
        ),
        "planar": lambda file: file.write(values, photometric="rgb", planarconfig="separate", rowsperstrip=17),
        "rgb": lambda file: file.write(last, photometric="rgb", rowsperstrip=9, compression="zlib", predictor=True),
        "series": lambda file: [
            file.write(last, photometric="rgb"),
            file.write(last[:7, :9, 0], photometric="minisblack"),
        ],
    }
    for name, action in writes.items():
        for order in "<>":
            path = tmp_path / f"{name}{order}.tif"
            with tifffile.TiffWriter(path, ome=name.startswith("ome"), byteorder=order) as file:  # type: ignore[arg-type]
                action(file)
            check_regions(TiffRaster(path, 3), values)
    # a pyramid in SubIFDs
    path = tmp_path / "pyramid.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(values, subifds=2, metadata={"axes": "CYX"}, photometric="minisblack", tile=(32, 32))
        for step in (2, 4):
            file.write(values[:, ::step, ::step], subfiletype=1, photometric="minisblack", tile=(32, 32))
    check_regions(TiffRaster(path, 3), values)


@pytest.mark.parametrize(
    ("kind", "nodata"), [("uint8", 0), ("uint8", 255), ("float32", np.nan), ("int16", -999), ("float32", 0.1)]
)
def test_nodata_is_in_no_channel(tmp_path: Path, kind: str, nodata: float) -> None:
    values = pixels(kind, 2)
    random = np.random.default_rng(0)
    values[:, random.random((HEIGHT, WIDTH)) < 0.2] = nodata
    values[0, random.random((HEIGHT, WIDTH)) < 0.2] = nodata  # in one of the channels: data
    path = write(tmp_path / "a.tif", values, nodata=nodata, compress="deflate")
    with rasterio.open(path) as file:
        valid = file.dataset_mask() > 0
    assert 0.1 < 1 - valid.mean() < 0.5
    check_regions(TiffRaster(path, 2), values, valid)
    check_regions(GdalRaster(path, 2), values, valid)


def test_nodata_outside_the_type_marks_nothing(tmp_path: Path) -> None:
    values = pixels("uint8")
    for text in ("-9999", "nan", "1e400", "none"):
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, values[0], extratags=[(regions.NODATA_TAG, "s", 0, text, True)])
        check_regions(TiffRaster(path, 1), values[:1])


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
@pytest.mark.parametrize("bands", [1, 3])
def test_alpha_marks_pixels_without_data_unless_it_is_a_band(tmp_path: Path, bands: int, kind: str) -> None:
    values = pixels(kind, bands + 1)
    values[-1] = np.where(np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.3, 0, np.iinfo(kind).max)
    for interleave in ("pixel", "band"):
        photometric = "rgb" if bands == 3 else "minisblack"
        path = write(
            tmp_path / f"{interleave}.tif", values, alpha="yes", interleave=interleave, photometric=photometric
        )
        for reader in (TiffRaster, GdalRaster):
            check_regions(reader(path, 3), values[:-1], values[-1] > 0)
            check_regions(reader(path, bands + 1), values)
    # a fourth band that is declared as data
    path = write(tmp_path / "bands.tif", values, photometric="rgb" if bands == 3 else "minisblack", alpha="no")
    for reader in (TiffRaster, GdalRaster):
        check_regions(reader(path, 3), values)


def test_palette_white_zero_masks_and_sparse_tiles(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    colours = random.integers(0, 256, (256, 3), dtype=np.uint8)
    values = pixels("uint8", 1)
    path = tmp_path / "palette.tif"
    with rasterio.open(path, "w", driver="GTiff", count=1, height=HEIGHT, width=WIDTH, dtype="uint8", nodata=9) as file:
        file.write_colormap(1, {number: tuple(colour) for number, colour in enumerate(colours.tolist())})
        file.write(values)
    for reader in (TiffRaster, GdalRaster):
        check_regions(reader(path, 3), np.moveaxis(colours[values[0]], -1, 0), values[0] != 9)
    path = tmp_path / "white.tif"
    tifffile.imwrite(path, values[0], photometric="miniswhite")
    check_regions(TiffRaster(path, 1), ~values)
    # a mask in a page of its own
    path = tmp_path / "mask.tif"
    mask = random.random((HEIGHT, WIDTH)) < 0.5
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", driver="GTiff", count=3, height=HEIGHT, width=WIDTH, dtype="uint8") as file,
    ):
        file.write(values.repeat(3, axis=0))
        file.write_mask(mask)
    raster = open_raster(path, channels=3, least=0)
    assert isinstance(raster, GdalRaster)
    check_regions(raster, values.repeat(3, axis=0), mask)
    # tiles that the file leaves out
    path = tmp_path / "sparse.tif"
    whole = np.zeros((1, 200, 300), np.uint8)
    whole[:, 64:128, 64:192] = 7
    options = {"tiled": True, "blockxsize": 64, "blockysize": 64, "sparse_ok": True, "compress": "deflate"}
    write(path, whole, **options)
    check_regions(TiffRaster(path, 1), whole, whole[0] > 0)


def test_other_compressions_and_formats_by_rasterio(tmp_path: Path) -> None:
    values = pixels("uint8")
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    makes: dict[str, dict[str, Any]] = {
        "jpeg.tif": {**tiles, "compress": "jpeg", "photometric": "ycbcr"},
        "webp.tif": {**tiles, "compress": "webp"},
        "lossless.jp2": {"driver": "JP2OpenJPEG", "reversible": "YES", "quality": 100},
        "imagine.img": {"driver": "HFA"},
    }
    for name, options in makes.items():
        path = write(tmp_path / name, values, **options)
        raster = open_raster(path, channels=3, least=0)
        assert isinstance(raster, GdalRaster)
        assert is_image(path)
        with rasterio.open(path) as file:
            check_regions(raster, file.read())
    # alpha of JPEG 2000
    path = tmp_path / "alpha.jp2"
    four = np.concatenate([values, np.where(values[:1] > 99, 255, 0).astype(np.uint8)])
    with rasterio.open(tmp_path / "four.tif", "w", **_profile(four)) as file:
        file.write(four)
        file.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    rasterio.shutil.copy(tmp_path / "four.tif", path, driver="JP2OpenJPEG", reversible="YES", quality="100")
    check_regions(GdalRaster(path, 3), values, four[-1] > 0)


def _profile(values: np.ndarray) -> dict[str, Any]:
    bands, height, width = values.shape
    return {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": values.dtype.name}


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "lzw.tif", pixels("uint8"), compress="lzw")
    image = write(tmp_path / "a.jp2", pixels("uint8"), driver="JP2OpenJPEG")
    (tmp_path / "a.zarr").mkdir()
    monkeypatch.setitem(sys.modules, "semask.data.readers.gdal_raster", None)
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ValueError, match=facts("semask[geo]", "semask[tiff]", "lzw.tif")):
        open_raster(path, channels=3, least=0)
    with pytest.raises(ValueError, match=facts("semask[geo]", "a.jp2")):
        open_raster(image, channels=3, least=10**9)
    with pytest.raises(ValueError, match=facts("semask[zarr]")):
        open_raster(tmp_path / "a.zarr", channels=3, least=0)
    # small ones are Pillow's
    assert open_raster(path, channels=3, least=10**9) is None


def test_files_that_cannot_be_read_by_region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = pixels("uint8")
    last = np.moveaxis(values, 0, -1)

    def refused(path: Path, *wanted: object) -> None:
        with pytest.raises(ValueError, match=facts(path.name, *wanted)):
            open_raster(path, channels=3, least=0)
        if path.suffix == ".tif":
            assert open_raster(path, channels=3, least=HEIGHT * WIDTH) is None

    vrt = tmp_path / "a.vrt"
    vrt.write_text('<VRTDataset rasterXSize="1" rasterYSize="1"></VRTDataset>')
    refused(vrt, "gdal_translate")
    assert is_image(vrt)
    path = tmp_path / "turned.tif"
    tifffile.imwrite(path, last, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    with pytest.raises(ValueError, match=facts(6)):
        TiffRaster(path, 3)
    # one compressed strip
    monkeypatch.setattr(regions, "MAX_PIECE", values.size - 1)
    monkeypatch.setattr("semask.data.readers.gdal_raster.MAX_PIECE", values.size - 1)
    refused(write(tmp_path / "strip.tif", values, blockysize=HEIGHT, compress="deflate"), f"{HEIGHT}×{WIDTH}")
    path = write(tmp_path / "plain.tif", values, blockysize=HEIGHT)
    check_regions(TiffRaster(path, 3), values)
    # cut short
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    raster = TiffRaster(path, 3)
    assert raster.read(0, 0, 5, 5).valid is None
    with pytest.raises(ValueError, match=facts("plain.tif")):
        raster.read(HEIGHT - 5, 0, HEIGHT, 5)
    raster.close()
    path = write(tmp_path / "broken.tif", values, tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    with tifffile.TiffFile(path) as file, path.open("r+b") as raw:
        raw.seek(file.pages.first.dataoffsets[0])
        raw.write(b"nonsense")
    broken = open_raster(path, channels=3, least=0)
    assert broken is not None
    with pytest.raises(ValueError, match=facts("broken.tif")):
        broken.read(0, 0, 5, 5)
    broken.close()


def test_an_ome_header_opens_no_other_file(tmp_path: Path) -> None:
    secret, path = tmp_path / "secret.tif", tmp_path / "a.ome.tif"
    values = pixels("uint8")
    with tifffile.TiffWriter(secret, ome=True) as file:
        file.write(values[:1], photometric="minisblack", metadata={"axes": "CYX", "UUID": "urn:uuid:2"})
    plane = '<TiffData FirstC="{0}" IFD="0" PlaneCount="1"><UUID FileName="{1}">urn:uuid:{0}</UUID></TiffData>'
    planes = plane.format(0, path.name) + plane.format(1, secret.name)
    header = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0"><Image ID="Image:0">'
        f'<Pixels DimensionOrder="XYZCT" ID="Pixels:0" Type="uint8" SizeX="{WIDTH}" SizeY="{HEIGHT}" SizeC="2" SizeZ="1" '
        f'SizeT="1">{planes}</Pixels></Image></OME>'
    )
    tifffile.imwrite(path, values[1], description=header, metadata=None, photometric="minisblack")
    with tifffile.TiffFile(path) as file:
        assert file.series[0].shape == (2, HEIGHT, WIDTH)  # tifffile follows it
    check_regions(TiffRaster(path, 1), values[1:2])


def stores(folder: Path, values: np.ndarray) -> dict[str, Path]:
    """OME-Zarr of both versions and plain arrays, of one image."""
    import zarr

    axes = [{"name": name, "type": "channel" if name == "c" else "space"} for name in "tczyx"]
    scales = [{"axes": axes, "datasets": [{"path": "full"}, {"path": "half"}]}]
    found = {}
    for version in (2, 3):
        path = folder / f"ome{version}.zarr"
        group = zarr.create_group(path, zarr_format=version)
        group.attrs.update(
            {"multiscales": scales} if version == 2 else {"ome": {"version": "0.5", "multiscales": scales}}
        )
        for name, array in (("full", values), ("half", values[:, ::2, ::2])):
            shape = (1, 1, 1, 50, 64)
            sharding = {"shards": (1, 1, 1, 100, 128)} if version == 3 else {}
            group.create_array(name, data=array[None, :, None], chunks=shape, **sharding)
        found[f"ome{version}"] = path
    for name, array in {"cyx": values, "yxc": np.moveaxis(values, 0, -1), "yx": values[0]}.items():
        found[name] = folder / f"{name}.zarr"
        zarr.create_array(found[name], data=array, chunks=(37,) * array.ndim)
    found["named"] = folder / "named.zarr"
    zarr.create_array(found["named"], data=values.T, dimension_names=["x", "y", "c"], chunks=(64, 64, 1))
    return found


def test_zarr_stores(tmp_path: Path) -> None:
    values = pixels("uint16")
    for name, path in stores(tmp_path, values).items():
        raster = open_raster(path, channels=3, least=10**9)
        assert raster is not None
        check_regions(raster, values[:1] if name == "yx" else values)
        assert is_image(path)


def test_zarr_stores_that_are_no_images_or_may_run_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    import zarr

    values = pixels("uint8")

    def refused(path: Path, *wanted: object) -> None:
        with pytest.raises(ValueError, match=facts(path.name, *wanted)):
            open_raster(path, channels=3, least=0)

    zarr.create_group(tmp_path / "empty.zarr")
    refused(tmp_path / "empty.zarr", "multiscales")
    zarr.create_array(tmp_path / "times.zarr", data=np.stack([values, values]), dimension_names=["t", "c", "y", "x"])
    refused(tmp_path / "times.zarr", 2)
    zarr.create_array(tmp_path / "one.zarr", data=values[0, 0])
    refused(tmp_path / "one.zarr", (WIDTH,))
    (tmp_path / "no.zarr").mkdir()
    refused(tmp_path / "no.zarr")
    path = tmp_path / "pickle.zarr"
    zarr.create_array(path, data=values, zarr_format=2, filters=None, compressors=None)
    header = json.loads((path / ".zarray").read_text())
    (path / ".zarray").write_text(json.dumps(header | {"filters": [{"id": "pickle", "protocol": 5}]}))
    refused(path, "pickle")
    # a chunk is missing half of its bytes
    path = tmp_path / "cut.zarr"
    zarr.create_array(path, data=values, chunks=(3, HEIGHT, WIDTH))
    chunk = path / "c/0/0/0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    raster = open_raster(path, channels=3, least=0)
    assert raster is not None
    with pytest.raises(ValueError, match=facts("cut.zarr")):
        raster.read(0, 0, 5, 5)
    monkeypatch.setattr(zarr_store, "MAX_PIECE", values.size - 1)
    refused(path, values.size, values.size - 1)
