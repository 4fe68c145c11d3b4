"""Seeds, threads, and the folders of real data that tests use when they are at hand."""

import os
from pathlib import Path
from typing import Any

import pytest

# Tiny models gain nothing from more threads, and threads that spin on shared cores lose much. PyTorch is not imported
# here: who only hands tests out to workers does without.
os.environ["OMP_NUM_THREADS"] = "1"

SHARED = Path(os.environ.get("SEMASK_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def _present(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"real data not at hand: {path.name}")
    return path


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what tests find about files out of the user's cache."""
    os.environ["SEMASK_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _no_stack_traces() -> None:
    """Keep no Python stack at every node of exported programs: a tenth of the time of an export."""
    import torch.fx

    torch.fx.config.do_not_emit_stack_traces = True


@pytest.fixture(autouse=True)
def _seed() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture(scope="module")
def model() -> Any:
    """A micro model of 12 classes: random heads vote for one class everywhere, larger weights for many."""
    import torch

    import semask

    torch.manual_seed(1)
    model = semask.build("scenes/semask-micro-fpn").eval()
    torch.nn.init.normal_(model.decoder.classify.weight, std=3.0)
    return model


@pytest.fixture(scope="module")
def checkpoint(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of `model`."""
    from semask.checkpoints import store

    return store.save(model, tmp_path_factory.mktemp("varied") / "checkpoint")


@pytest.fixture
def camvid() -> Path:
    """367 + 101 street photographs with labels, 480×360."""
    return _present(SHARED / "data" / "camvid")


@pytest.fixture
def cells() -> Path:
    """30 microscopy images with masks of 0 and 255, without a class table."""
    return _present(SHARED / "data" / "cells")


@pytest.fixture
def roads() -> Path:
    """40 aerial images with masks of soft edges, without a class table."""
    return _present(SHARED / "data" / "roads")


@pytest.fixture
def ade20k_mini() -> Path:
    return _present(SHARED / "data" / "ade20k_mini")


@pytest.fixture
def lite0_weights() -> Path:
    """ImageNet weights of tf_efficientnet_lite0, timm's layout."""
    return _present(SHARED / "weights" / "efficientnet_lite0" / "model.safetensors")


@pytest.fixture
def dinov2_weights() -> Path:
    """DINOv2-derived weights of vit_small_patch14_dinov2, timm's layout."""
    return _present(SHARED / "weights" / "dinov2_vits14" / "model.safetensors")
