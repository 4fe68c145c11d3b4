"""Files that somebody else wrote: what is read, what only on request, and what never."""

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from semask.weights import read_checkpoint, tensors_of

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
    with pytest.raises(ValueError, match=r"zoo.pkl holds numpy arrays, .* say --trust \(in Python trust=True\)"):
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
    with pytest.raises(ValueError, match=r"model.pth holds (Python objects|numpy arrays)"):
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
    with pytest.raises(ValueError, match=r"model_final.pth is no readable weights file \(truncated"):
        read_checkpoint(path, trust=True)


def test_objects_in_arrays_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model.pkl", {"model": {"a": np.array([Path()], dtype=object)}}, "4")
    with pytest.raises(ValueError, match=r"model.pkl holds Python objects besides tensors .*pathlib"):
        read_checkpoint(path, trust=True)
    text = write(tmp_path / "text.pkl", {"model": {"a": np.array(["b"])}}, "4")
    with pytest.raises(ValueError, match=r"no tensors in the checkpoint"):
        tensors_of(read_checkpoint(text, trust=True))
