"""A Ray cluster of two machines writes what one process writes; shards are read by WebDataset."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import semask
from tests.facts import facts


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(20):
        (folder / "ab"[number % 2]).mkdir(exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
        coarse.resize((90, 60), Image.Resampling.BICUBIC).save(folder / "ab"[number % 2] / f"{number:02d}.png")
    (folder / "broken.png").write_bytes((folder / "a/00.png").read_bytes()[:200])
    return folder


def contents(out: Path) -> dict[str, bytes]:
    files = [path for path in out.rglob("*") if path.is_file() and path.parent != out]
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_writes_the_bytes_of_one_process(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    alone = semask.predict(checkpoint, images, tmp_path / "alone", confidence=True, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 2**27})
        cluster.add_node(num_cpus=1, object_store_memory=2**27)
        try:
            ray.init(address=cluster.address, log_to_driver=False)
            assert len(ray.nodes()) == 2
            shared = semask.predict(
                checkpoint, images, tmp_path / "shared", confidence=True, device="cpu", engine="ray", actors=2
            )
            again = semask.predict(
                checkpoint, images, tmp_path / "shared", confidence=True, device="cpu", engine="ray", actors=2
            )
        finally:
            ray.shutdown()
            cluster.shutdown()
    assert (shared.done, [*shared.failed]) == (alone.done, [*alone.failed]) == (20, [str(images / "broken.png")])
    assert (again.done, again.earlier) == (0, 20)
    assert contents(tmp_path / "shared") == contents(tmp_path / "alone")
    summaries = [(tmp_path / name / "summary.csv").read_bytes() for name in ("alone", "shared")]
    assert summaries[0] == summaries[1]


def test_no_cluster_at_an_address(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=facts("--address", "'127.0.0.1:1'")):
            semask.predict(checkpoint, images, tmp_path / "out", engine="ray", address="127.0.0.1:1", device="cpu")


@pytest.mark.filterwarnings("ignore")  # WebDataset leaves files to the garbage collector
def test_shards_are_read_by_webdataset(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    import webdataset

    semask.predict(checkpoint, images, tmp_path / "out", pack=8, device="cpu")
    shards = sorted((tmp_path / "out/shards").iterdir())
    assert [path.name for path in shards] == ["000000.tar", "000001.tar", "000002.tar"]
    before = [path.read_bytes() for path in shards]
    samples = [*webdataset.WebDataset([str(path) for path in shards], shardshuffle=False)]
    assert len(samples) == 20
    for sample in samples:
        label = np.array(Image.open(io.BytesIO(sample["predictions.png"])))
        assert np.array_equal(label, np.array(Image.open(tmp_path / f"out/predictions/{sample['__key__']}.png")))
        assert sample["overlays.jpg"][:3] == b"\xff\xd8\xff"
    # the same bytes from a run of its own
    semask.predict(checkpoint, images, tmp_path / "again", pack=8, device="cpu")
    assert [path.read_bytes() for path in sorted((tmp_path / "again/shards").iterdir())] == before
