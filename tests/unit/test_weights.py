"""Files that somebody else wrote: what is read, what only on request, and what never."""

import pickle
import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from semask.checkpoints.safe_load import read_checkpoint, tensors_of
from tests.facts import facts

ARRAYS = {
    "stem.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "stem.half": np.ones(2, np.float16),
    "stem.count": np.array([3], np.int64),
    "stem.scalar": np.float64(0.5),
}
ZOO = {"model": OrderedDict(ARRAYS), "__author__": "third_party", "matching_heuristics": True}
"""As detectron2's model zoo and its converted ImageNet weights are."""


class Harmful:
    """Would leave a trace if anything of it ran."""

    ran = False

    def __reduce__(self):
        return setattr, (Harmful, "ran", True)


def write(path: Path, content: object, how: str) -> Path:
    if how == "torch":
        torch.save(content, path)
    elif how == "old torch":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(content, protocol=int(how)))
    return path


KINDS = ("torch", "old torch", "2", "4")


@pytest.mark.parametrize("how", KINDS)
def test_arrays_are_read_on_request_only(tmp_path: Path, how: str) -> None:
    path = write(tmp_path / "zoo.pkl", ZOO, how)
    with pytest.raises(ValueError, match=facts("zoo.pkl", "numpy", "--trust", "trust=True")):
        read_checkpoint(path)
    content = read_checkpoint(path, trust=True)
    assert content["matching_heuristics"] is True
    tensors = tensors_of(content)
    assert set(tensors) == {"stem.weight", "stem.half", "stem.count"}
    assert torch.equal(tensors["stem.weight"], torch.arange(6.0).reshape(2, 3))
    assert tensors["stem.half"].dtype == torch.float32
    assert tensors["stem.count"].tolist() == [3]


@pytest.mark.parametrize("core", ["core", "_core"])
def test_pickles_of_python_2_and_of_either_numpy(tmp_path: Path, core: str) -> None:
    """Python 2 wrote the bytes of an array as text, which is latin-1."""
    array = np.array([1.0, -2.5, 1e10], "<f4")
    text = "".join(f"\\x{byte:02x}" for byte in array.tobytes())
    lines = f"cnumpy.{core}.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I3\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'{text}'\ntb"
    (tmp_path / "old.pkl").write_bytes(b"\x80\x02}S'model'\n}S'a'\n" + lines.encode() + b"ss.")
    tensors = tensors_of(read_checkpoint(tmp_path / "old.pkl", trust=True))
    assert torch.equal(tensors["a"], torch.from_numpy(array))


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("how", KINDS)
def test_nothing_runs_even_when_trusted(tmp_path: Path, how: str, trust: bool) -> None:
    path = write(
        tmp_path / "model.pth",
        {"model": {"a": torch.zeros(1) if "torch" in how else ARRAYS["stem.weight"]}, "x": Harmful()},
        how,
    )
    with pytest.raises(ValueError, match=r"\bmodel\.pth\b.*\b(Python|numpy)\b"):
        read_checkpoint(path, trust=trust)
    assert not Harmful.ran


def test_the_danger_is_real(tmp_path: Path) -> None:
    """So that the test above would see code that runs."""
    path = write(tmp_path / "model.pkl", Harmful(), "4")
    with path.open("rb") as file:
        pickle.load(file)
    assert Harmful.ran
    Harmful.ran = False


@pytest.mark.parametrize("how", KINDS)
def test_truncated_files(tmp_path: Path, how: str) -> None:
    path = write(tmp_path / "model_final.pth", ZOO if how in "24" else {"model": {"a": torch.zeros(500)}}, how)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ValueError, match=facts("model_final.pth")):
        read_checkpoint(path, trust=True)


HONEST = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(24, dtype=np.float64).reshape(2, 3, 4)),
    "permuted": np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(1, 0, 2),
    "every other": np.arange(10, dtype=np.int32)[::2],
    "big endian": np.array([[1.5, -2.0], [1e30, 0.1]], ">f4"),
    "big endian integers": np.array([1, -(2**40)], ">i8"),
    "no axes": np.array(2.5, np.float32),
    "boolean": np.array([True, False, True]),
    "float16": np.array([0.5, -65504.0], np.float16),
    "uint8": np.arange(250, 256, dtype=np.uint8),
    "int16": np.array([-(2**15)], np.int16),
    "empty": np.zeros((0, 3), np.float32),
}


def by_numpy_1(pickled: bytes) -> bytes:
    """Name numpy's insides as they were named before version 2; names of protocol 4 begin with their length."""
    if pickled[2:3] == pickle.FRAME:
        pickled = pickled[:2] + pickled[11:]
    pickled = re.sub(
        rb"\x8c(.)numpy\._core\.",
        lambda found: b"\x8c" + bytes([found[1][0] - 1]) + b"numpy.core.",
        pickled,
        flags=re.DOTALL,
    )
    return pickled.replace(b"cnumpy._core.", b"cnumpy.core.")


@pytest.mark.parametrize("numpy", [1, 2])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_as_numpy_writes_them(tmp_path: Path, protocol: int, numpy: int) -> None:
    pickled = pickle.dumps(HONEST, protocol=protocol)
    assert b"numpy._core." in pickled
    if numpy == 1:
        pickled = by_numpy_1(pickled)
        assert b"numpy._core." not in pickled
    (tmp_path / "honest.pkl").write_bytes(pickled)
    assert_honest(read_checkpoint(tmp_path / "honest.pkl", trust=True))


def test_arrays_in_a_file_of_pytorch(tmp_path: Path) -> None:
    torch.save(HONEST, tmp_path / "honest.pth")
    assert_honest(read_checkpoint(tmp_path / "honest.pth", trust=True))


def assert_honest(content: dict[str, object]) -> None:
    assert set(content) == set(HONEST)
    for key, array in HONEST.items():
        found = content[key]
        assert isinstance(found, np.ndarray), key
        assert found.dtype == array.dtype.newbyteorder("="), key
        np.testing.assert_array_equal(found, array, strict=array.dtype.isnative)
    tensors = tensors_of(content)
    assert tensors["no axes"].shape == ()
    assert tensors["boolean"].dtype == torch.bool
    assert tensors["big endian integers"].tolist() == [1, -(2**40)]
    assert torch.equal(tensors["permuted"], torch.arange(24.0).reshape(2, 3, 4).permute(1, 0, 2))


class Call:
    """Is pickled as a call of anything with anything, followed by a state."""

    def __init__(self, *reduced: object) -> None:
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


RECONSTRUCT = np.zeros(0).__reduce__()[0]


def forged(shape: object = (2,), dtype: object = None, raw: object = b"A" * 8) -> Call:
    """An array whose state says what it likes."""
    dtype = np.dtype("f4") if dtype is None else dtype
    return Call(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1, shape, dtype, False, raw))


OBJECTS = (3, "|", None, ("a", "b"), {"a": (np.dtype("O"), 0), "b": (np.dtype("O"), 8)}, 16, 1, 0)
DISGUISED = Call(np.dtype, ("V16", False, True), OBJECTS)
"""Sixteen bytes that numpy takes for the addresses of two objects."""
FORGED = {
    "objects by their bytes": (Call(OrderedDict, (forged((1,), DISGUISED, b"A" * 16),)), "'V16'"),
    "objects": (np.array([Path()], dtype=object), "'O8'"),
    "a state of objects": (Call(OrderedDict, (forged((1,), Call(np.dtype, ("f8",), OBJECTS)),)), None),
    "huge": (forged((2**62, 2**62)), str(2**62)),
    "huge and empty": (forged((2**62, 2**62, 0), raw=b""), ""),
    "beyond machine integers": (forged((10**400,)), "ValueError"),
    "negative": (forged((-1, -2)), "ValueError"),
    "too many axes": (forged((1,) * 100, raw=b"A" * 4), "ValueError"),
    "too few bytes": (forged((3,)), "(3,)"),
    "no bytes": (forged(raw=[b"A" * 8]), "ValueError"),
    "no kind": (forged(dtype="f4"), "ValueError"),
    "no state": (Call(RECONSTRUCT, (np.ndarray, (0,), b"b"), (1,)), ""),
    "made of a shape": (Call(np.ndarray, ((2**40,),)), None),
    "text": (np.array(["b"]), "'U1'"),
    "dates": (np.array(["2020-01-01"], "datetime64[D]"), "'M8'"),
}


@pytest.fixture(scope="module")
def read_forged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What comes of each forged file, read in a process of their own, which they might end."""
    folder = tmp_path_factory.mktemp("forged")
    for name, (content, _) in FORGED.items():
        for how in ("2", "5", "torch"):
            write(folder / f"{name}.{how}", {"model": {"a": content}}, how)
    program = """if True:
        import pathlib, sys
        from semask.checkpoints.safe_load import read_checkpoint, tensors_of
        for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
            try:
                said = "read", tensors_of(read_checkpoint(path, trust=True))
            except ValueError as error:
                said = "refused", str(error).replace("\\n", " ")
            print(path.name, *said, sep="|", flush=True)
    """
    result = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-500:] + result.stderr[-2000:]
    return dict(line.split("|", 1) for line in result.stdout.splitlines())


@pytest.mark.parametrize("how", ["2", "5", "torch"])
@pytest.mark.parametrize("name", FORGED)
def test_forged_arrays_are_refused(read_forged: dict[str, str], name: str, how: str) -> None:
    said = read_forged[f"{name}.{how}"]
    assert said.startswith("refused|"), said
    assert (FORGED[name][1] or "") in said


def test_containers_are_plain(tmp_path: Path) -> None:
    array = np.ones(2, np.float32)
    pairs = [("a", array), ("b", [array, (array, "text")])]
    state = Call(OrderedDict, (pairs,), {"items": "no method"})
    path = write(tmp_path / "model.pkl", {"model": state}, "2")
    found = read_checkpoint(path, trust=True)["model"]
    assert type(found) is dict
    assert found["b"][1][0] is found["a"]
    assert found["b"][1][1] == "text"
    endless: dict[str, object] = {}
    endless["model"] = endless
    with pytest.raises(ValueError, match=facts("endless.pkl", "RecursionError")):
        read_checkpoint(write(tmp_path / "endless.pkl", endless, "2"), trust=True)
    mapping = write(tmp_path / "mapping.pkl", {"a": Call(OrderedDict, ({"a": array},))}, "2")
    with pytest.raises(ValueError, match=facts("mapping.pkl", "collections.OrderedDict")):
        read_checkpoint(mapping, trust=True)
