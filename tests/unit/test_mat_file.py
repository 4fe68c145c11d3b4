"""Label maps out of MATLAB's files, written by SciPy, and broken ones, which end SciPy's own reader."""

from __future__ import annotations

import contextlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from semask.data.readers.mat_file import read_mat
from tests.facts import facts

LABELS = np.random.default_rng(0).integers(0, 120, (6, 7))


def mat(*, packed: bool = False, **variables: object) -> bytes:
    file = io.BytesIO()
    savemat(file, variables, do_compression=packed)
    return file.getvalue()


def written(folder: Path, content: bytes) -> Path:
    path = folder / "1.mat"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"])
def test_numbers_of_every_kind(tmp_path: Path, kind: str, packed: bool) -> None:
    """Beside variables of other kinds, before and after."""
    others = {"A": np.eye(3), "B": "text", "C": np.array(["y", "x"], object), "Z": np.ones((2, 3, 4))}
    path = written(tmp_path, mat(packed=packed, **others, S=LABELS.astype(kind), T=LABELS))
    found = read_mat(path, "S")
    assert found.dtype == np.dtype(kind)
    assert found.tolist() == LABELS.tolist()


@pytest.mark.parametrize("packed", [False, True])
def test_a_field_of_a_struct(tmp_path: Path, packed: bool) -> None:
    """As SBD has it, with fields of other kinds, and with so few numbers that they lie in their tag."""
    cell = np.array([[np.eye(2)], [np.zeros((0, 0))]], object)
    struct_of = {"Boundaries": cell, "CategoriesPresent": np.array([5.0]), "Segmentation": LABELS.astype(np.uint8)}
    path = written(tmp_path, mat(packed=packed, GTcls=struct_of, S=np.array([[1, 2], [3, 4]], np.uint8)))
    assert read_mat(path, "GTcls", "Segmentation").tolist() == LABELS.tolist()
    assert read_mat(path, "S").tolist() == [[1, 2], [3, 4]]
    for keys, wanted in (
        (("GTcls", "Gone"), ("'GTcls'", "'Gone'")),
        (("S", "Segmentation"), ("'S'",)),
        (("GTcls",), ()),
        (("GTcls", "Boundaries"), ()),
    ):
        with pytest.raises(ValueError, match=facts(path, ".".join(keys), *wanted)):
            read_mat(path, *keys)


def test_the_other_order_of_bytes(tmp_path: Path) -> None:
    """By hand after the description: flags, sides, a short name, and 16-bit numbers down the columns."""
    inside = struct.pack(">IIII", 6, 8, 11, 0) + struct.pack(">IIii", 5, 8, 2, 3) + struct.pack(">HH4s", 1, 1, b"S")
    inside += struct.pack(">II6H4x", 4, 12, 1, 2, 3, 4, 5, 600)
    content = b"MATLAB 5.0".ljust(124) + b"\1\0MI" + struct.pack(">II", 14, len(inside)) + inside
    assert read_mat(written(tmp_path, content), "S").tolist() == [[1, 3, 5], [2, 4, 600]]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"broken", ("MATLAB", 5, 7)),
        (mat(T=LABELS), ("'S'",)),
        (mat(S=LABELS.astype(np.uint8))[:-20], ("S",)),
        (mat(S=LABELS + 1j), ("S",)),
        (mat(S=LABELS / 2), ("S", "float64", (6, 7))),
        (mat(S=np.ones((2, 2, 2), np.uint8)), ("S", "uint8", (2, 2, 2))),
        (mat(S=np.ones((0, 2), np.uint8)), ("S", "uint8", (0, 2))),
    ],
)
def test_what_is_no_label_map_is_reported(tmp_path: Path, content: bytes, wanted: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=facts("1.mat", *wanted)):
        read_mat(written(tmp_path, content), "S")


def test_a_kind_that_does_not_exist_is_reported(tmp_path: Path) -> None:
    """One byte, by which SciPy 1.17 looked beyond its table and ended Python."""
    whole = mat(S=LABELS.astype(np.uint16))
    place = whole.index(struct.pack("<II", 4, 84))
    for kind in {*range(256)} - {4, 3}:
        broken = whole[:place] + bytes([kind]) + whole[place + 1 :]
        with pytest.raises(ValueError, match=facts("1.mat", "S")):
            read_mat(written(tmp_path, broken), "S")


@given(st.integers(0, 2**63), st.booleans(), st.integers(1, 6), st.floats(0.4, 1.2))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_is_broken_is_a_value_error(tmp_path: Path, seed: int, packed: bool, hit: int, kept: float) -> None:
    random = np.random.default_rng(seed)
    raw = bytearray(mat(packed=packed, GTcls={"Segmentation": LABELS.astype(np.uint8), "x": np.ones(3)}))
    for _ in range(hit):
        raw[random.integers(100, len(raw))] = random.integers(256)
    path = written(tmp_path, bytes(raw[: int(kept * len(raw))]))
    with contextlib.suppress(ValueError):
        assert read_mat(path, "GTcls", "Segmentation").ndim == 2
